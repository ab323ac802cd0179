/* SPDX-License-Identifier: Apache-2.0 */
#include "net/user/stack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/units.h"
#include "control/control.h"
#include "net/user/wire.h"

struct stack {
	Slirp *slirp;
	struct wire *wire;
	bool gone; /* the machine closed its end */

	int control; /* -1: none */
	u32 guest;   /* whom ports lead to, unless it is said */

	struct pollfd *polls; /* [0] is the cable, [1] control */
	size_t count, room;
};

/* ---- what libslirp asks of us ---- */

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
	struct stack *s = opaque;

	wire_queue(s->wire, buf, len);
	return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque)
{
	(void)opaque;
	log_guest("net", "%s", msg);
}

static int64_t clock_get_ns(void *opaque)
{
	(void)opaque;
	return (int64_t)loop_now_ns();
}

/* Timers serve IPv6 router advertisements only, and IPv6 is off. */
static void *timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
	(void)cb;
	(void)cb_opaque;
	return opaque;
}

static void timer_free(void *timer, void *opaque)
{
	(void)timer;
	(void)opaque;
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	(void)timer;
	(void)expire_ms;
	(void)opaque;
}

/* The descriptors are asked for in each round. */
static void register_poll_fd(int fd, void *opaque)
{
	(void)fd;
	(void)opaque;
}

static void notify(void *opaque)
{
	(void)opaque;
}

static const SlirpCb callbacks = {
	.send_packet = send_packet,
	.guest_error = guest_error,
	.clock_get_ns = clock_get_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = register_poll_fd,
	.unregister_poll_fd = register_poll_fd,
	.notify = notify,
};

/* ---- making it ---- */

static struct in_addr address(u32 host_order)
{
	return (struct in_addr){ htonl(host_order) };
}

/* As a switch divides it: switch/service.c. */
static int of_network(SlirpConfig *cfg, const char *cidr, struct error *err)
{
	const char *slash = strchr(cidr, '/');
	struct in_addr base;
	char text[16] = "";
	u32 network;
	u64 bits;

	if (slash && (size_t)(slash - cidr) < sizeof(text))
		memcpy(text, cidr, (size_t)(slash - cidr));
	if (inet_pton(AF_INET, text, &base) != 1 ||
	    parse_u64(slash + 1, 8, 28, &bits, NULL) < 0)
		return error_set(err, -EINVAL,
		                 "--network %s is not of the form "
		                 "10.77.0.0/24",
		                 cidr);
	network = ntohl(base.s_addr);
	cfg->vnetwork = base;
	cfg->vnetmask = address(~(u32)0 << (32 - bits));
	cfg->vhost = address(network + 1);
	cfg->vnameserver = address(network + 3);
	cfg->vdhcp_start = address(network + 4);
	cfg->disable_dhcp = true;
	cfg->disable_host_loopback = true;
	return 0;
}

int stack_create(struct stack **out, const struct stack_config *config,
                 struct error *err)
{
	struct stack *s = xalloc(sizeof(*s));
	SlirpConfig cfg = {
		.version = 4,
		.restricted = config->restricted,
		.in_enabled = true,
		.vnetwork = address(0x0a000200),
		.vnetmask = address(0xffffff00),
		.vhost = address(0x0a000202),
		.vnameserver = address(0x0a000203),
		.vdhcp_start = address(0x0a00020f),
		.vhostname = config->hostname,
		.if_mtu = config->mtu,
		.if_mru = config->mtu,
	};
	int rc = config->network ? of_network(&cfg, config->network, err) : 0;

	s->wire = wire_create(config->fd);
	s->control = config->control;
	s->guest = ntohl(cfg.vdhcp_start.s_addr);
	s->room = 64;
	s->polls = xalloc(s->room * sizeof(*s->polls));
	s->polls[0].fd = config->fd;
	s->polls[1].fd = config->control;
	s->polls[1].events = POLLIN;
	if (rc == 0) {
		s->slirp = slirp_new(&cfg, &callbacks, s);
		if (!s->slirp)
			rc = error_set(err, -EINVAL,
			               "the user-mode network refused to "
			               "start");
	}
	if (rc < 0)
		stack_destroy(s);
	else
		*out = s;
	return rc;
}

void stack_destroy(struct stack *s)
{
	if (!s)
		return;
	if (s->slirp)
		slirp_cleanup(s->slirp);
	wire_destroy(s->wire);
	free(s->polls);
	free(s);
}

/* ---- published ports ---- */

struct forward {
	bool udp;
	struct in_addr address;
	u64 host_port, guest_port;
};

/* Cuts text at its last sep; NULL if there is none. */
static char *cut_last(char *text, char sep)
{
	char *at = strrchr(text, sep);

	if (at)
		*at++ = '\0';
	return at;
}

static int parse_forward(struct forward *f, char *text)
{
	char *protocol = cut_last(text, '/');
	char *guest = cut_last(text, ':');
	char *host = guest ? cut_last(text, ':') : NULL;
	const char *where = host ? text : "127.0.0.1";

	if (protocol && strcmp(protocol, "tcp") && strcmp(protocol, "udp"))
		return -EINVAL;
	f->udp = protocol && strcmp(protocol, "udp") == 0;
	if (!guest || parse_u64(guest, 1, 65535, &f->guest_port, NULL) < 0)
		return -EINVAL;
	if (parse_u64(host ? host : text, 1, 65535, &f->host_port, NULL) < 0)
		return -EINVAL;
	if (strcmp(where, "localhost") == 0)
		where = "127.0.0.1";
	if (strcmp(where, "*") == 0)
		where = "0.0.0.0";
	return inet_pton(AF_INET, where, &f->address) == 1 ? 0 : -EINVAL;
}

static int read_forward(struct forward *f, const char *spec, struct error *err)
{
	char *text = xstrdup(spec);
	int rc = parse_forward(f, text);

	free(text);
	if (rc == 0)
		return 0;
	error_set(err, rc, "--publish %s: not [ADDRESS:]PORT:PORT", spec);
	return error_hint(err, "write it as 127.0.0.1:2222:22 or 5353:53/udp");
}

static int publish_to(struct stack *s, const char *spec, u32 guest,
                      struct error *err)
{
	struct forward f = { 0 };
	int rc = read_forward(&f, spec, err);

	if (rc < 0)
		return rc;
	errno = 0;
	if (slirp_add_hostfwd(s->slirp, f.udp, f.address, (int)f.host_port,
	                      address(guest), (int)f.guest_port) == 0)
		return 0;
	rc = errno ? -errno : -EADDRINUSE;
	error_set(err, rc, "--publish %s: cannot listen there: %s", spec,
	          strerror(-rc));
	return rc == -EADDRINUSE
	           ? error_hint(err, "another program has this port")
	           : rc;
}

int stack_publish(struct stack *s, const char *spec, struct error *err)
{
	return publish_to(s, spec, s->guest, err);
}

/* ---- what a switch asks ---- */

static int do_request(struct stack *s, json_t *message, struct error *err)
{
	const char *op = json_string_value(json_object_get(message, "op"));
	const char *spec = json_string_value(json_object_get(message, "spec"));
	const char *to = json_string_value(json_object_get(message, "to"));
	struct forward f = { 0 };
	struct in_addr guest;
	int rc;

	if (!op || !spec)
		return error_set(err, -EPROTO, "no such request");
	if (strcmp(op, "unpublish") == 0) {
		rc = read_forward(&f, spec, err);
		if (rc == 0)
			slirp_remove_hostfwd(s->slirp, f.udp, f.address,
			                     (int)f.host_port);
		return rc;
	}
	if (!to || inet_pton(AF_INET, to, &guest) != 1)
		return error_set(err, -EPROTO, "no address to publish for");
	return publish_to(s, spec, ntohl(guest.s_addr), err);
}

static void take_request(struct stack *s)
{
	int fds[CONTROL_FDS_MAX], rc;
	struct error err = { 0 };
	json_t *message, *reply;
	size_t count;

	if (control_receive(s->control, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		s->gone = true;
		return;
	}
	while (count)
		close(fds[--count]);
	rc = do_request(s, message, &err);
	reply =
	    json_pack("{s:b, s:s, s:s, s:O?}", "ok", rc == 0, "words", err.text,
	              "hint", err.hint, "id", json_object_get(message, "id"));
	if (control_send(s->control, reply, NULL, 0, &err) < 0)
		s->gone = true;
	json_decref(reply);
	json_decref(message);
}

/* ---- the round ---- */

static void add_poll(struct stack *s, int fd, short events)
{
	if (s->count == s->room) {
		s->room *= 2;
		s->polls = xrealloc(s->polls, s->room * sizeof(*s->polls));
	}
	s->polls[s->count++] = (struct pollfd){ .fd = fd, .events = events };
}

static int slirp_add(int fd, int events, void *opaque)
{
	struct stack *s = opaque;
	short wanted = 0;

	/* While the machine takes no frames, nothing is read for it. */
	if (wire_congested(s->wire))
		return -1;
	if (events & SLIRP_POLL_IN)
		wanted |= POLLIN;
	if (events & SLIRP_POLL_OUT)
		wanted |= POLLOUT;
	if (events & SLIRP_POLL_PRI)
		wanted |= POLLPRI;
	add_poll(s, fd, wanted);
	return (int)s->count - 1;
}

static int slirp_revents(int index, void *opaque)
{
	struct stack *s = opaque;
	int got, events = 0;

	if (index < 2 || (size_t)index >= s->count)
		return 0;
	got = s->polls[index].revents;
	if (got & POLLIN)
		events |= SLIRP_POLL_IN;
	if (got & POLLOUT)
		events |= SLIRP_POLL_OUT;
	if (got & POLLPRI)
		events |= SLIRP_POLL_PRI;
	if (got & POLLERR)
		events |= SLIRP_POLL_ERR;
	if (got & POLLHUP)
		events |= SLIRP_POLL_HUP;
	return events;
}

static void take_frame(void *ctx, const u8 *frame, size_t len)
{
	struct stack *s = ctx;

	slirp_input(s->slirp, frame, (int)len);
}

static void stack_round(struct stack *s)
{
	u32 timeout_ms = UINT32_MAX;
	int n;

	s->count = 2;
	s->polls[0].events = POLLIN;
	if (wire_waiting(s->wire))
		s->polls[0].events |= POLLOUT;
	slirp_pollfds_fill(s->slirp, &timeout_ms, slirp_add, s);
	n = poll(s->polls, s->count,
	         timeout_ms > INT32_MAX ? -1 : (int)timeout_ms);
	if (n < 0 && errno != EINTR) {
		s->gone = true;
		return;
	}
	if (n > 0 && s->polls[0].revents & (POLLIN | POLLHUP | POLLERR) &&
	    wire_receive(s->wire, take_frame, s) < 0)
		s->gone = true;
	if (n > 0 && s->polls[1].revents)
		take_request(s);
	slirp_pollfds_poll(s->slirp, n < 0, slirp_revents, s);
	if (wire_flush(s->wire) < 0)
		s->gone = true;
}

void stack_run(struct stack *s)
{
	while (!s->gone)
		stack_round(s);
}
