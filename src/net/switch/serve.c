/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/control.h"
#include "net/apart.h"
#include "net/confine.h"
#include "net/switch/switch.h"

enum { PEERS_MAX = SWITCH_PORTS_MAX + 64, PEER_WAIT_S = 2, SAVE_MS = 20 };
enum { LEASES_SIZE_MAX = 4 << 20, EXIT_NOT_SET_UP = 1 };

struct peer {
	struct serve *serve;
	int fd; /* -1: free */
	struct loop_fd *watch;
	struct port *port; /* NULL: it has plugged nothing in */
	json_t *publish;   /* what is published for it */
};

struct serve {
	struct loop *loop;
	struct switch_ *sw;
	int control, listener, folder;
	struct loop_fd *control_watch, *listen_watch;
	int stack; /* the uplink's control socket; -1: none */
	struct loop_timer save;
	json_t *network;
	s64 last_id;
	time_t since; /* it serves */
	struct peer peers[PEERS_MAX];
};

static const char *text_of(json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static u64 number_of(json_t *o, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(o, key));

	return n > 0 ? (u64)n : 0;
}

static void set_patience(int fd)
{
	struct timeval wait = { PEER_WAIT_S, 0 };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
}

/* ---- addresses, on the disk ---- */

static json_t *read_leases(int folder)
{
	int fd = openat(folder, "leases.json", O_RDONLY | O_CLOEXEC);
	json_t *list;

	if (fd < 0)
		return NULL;
	list = lseek(fd, 0, SEEK_END) <= LEASES_SIZE_MAX &&
	               lseek(fd, 0, SEEK_SET) == 0
	           ? json_loadfd(fd, 0, NULL)
	           : NULL;
	close(fd);
	return list;
}

/* Written beside and renamed: there is all of it or what was before. */
static void write_leases(void *ctx)
{
	struct serve *s = ctx;
	json_t *list = switch_leases(s->sw);
	char *text = json_dumps(list, JSON_COMPACT);
	size_t size = text ? strlen(text) : 0;
	int fd = openat(s->folder, "leases.tmp",
	                O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, size) != (ssize_t)size ||
	    renameat(s->folder, "leases.tmp", s->folder, "leases.json") < 0)
		log_warn("net", "leases.json: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	free(text);
	json_decref(list);
}

static void leases_changed(void *ctx)
{
	struct serve *s = ctx;

	if (!s->save.index)
		loop_timer_arm(&s->save,
		               loop_now_ns() + SAVE_MS * NSEC_PER_MSEC);
}

/* ---- published ports: the stack opens them ---- */

static json_t *stack_message(struct serve *s, const char *op, const char *spec,
                             const char *address)
{
	return json_pack("{s:s, s:I, s:s, s:s}", "op", op, "id",
	                 (json_int_t)++s->last_id, "spec", spec, "to", address);
}

/* Its answer; older ones, that nobody waited for, are passed over. */
static int stack_answer(struct serve *s, struct error *err)
{
	int fds[CONTROL_FDS_MAX], rc = 1;
	json_t *reply;
	size_t count;

	while (rc > 0) {
		rc = control_receive(s->stack, &reply, fds, CONTROL_FDS_MAX,
		                     &count, err);
		if (rc < 0)
			return rc;
		while (count)
			close(fds[--count]);
		rc = json_integer_value(json_object_get(reply, "id")) !=
		     s->last_id;
		if (!rc && !json_is_true(json_object_get(reply, "ok"))) {
			const char *words = text_of(reply, "words");
			const char *hint = text_of(reply, "hint");

			rc = error_set(err, -EADDRINUSE, "%s",
			               words ? words : "it was refused");
			error_hint(err, "%s", hint ? hint : "");
		}
		json_decref(reply);
	}
	return rc;
}

static int publish_one(struct serve *s, const char *op, const char *spec,
                       const char *address, struct error *err)
{
	json_t *message;
	int rc;

	if (s->stack < 0)
		return error_set(err, -EINVAL,
		                 "the network has no uplink: there is nothing "
		                 "to publish %s on",
		                 spec);
	message = stack_message(s, op, spec, address);
	rc = control_send(s->stack, message, NULL, 0, err);
	json_decref(message);
	return rc < 0 ? rc : stack_answer(s, err);
}

static void unpublish(struct serve *s, json_t *list, size_t count)
{
	struct error err;

	for (size_t i = 0; i < count; i++)
		if (s->stack >= 0 &&
		    publish_one(s, "unpublish",
		                json_string_value(json_array_get(list, i)), "",
		                &err) < 0)
			log_warn("net", "%s", err.text);
}

static int publish(struct serve *s, json_t *list, const char *address,
                   struct error *err)
{
	const char *spec;
	int rc = 0;
	size_t i;

	for (i = 0; i < json_array_size(list) && rc == 0; i++) {
		spec = json_string_value(json_array_get(list, i));
		rc = spec && i < SWITCH_PUBLISH_MAX
		         ? publish_one(s, "publish", spec, address, err)
		         : error_set(err, -EINVAL,
		                     "publish is no list of at most %d ports",
		                     SWITCH_PUBLISH_MAX);
	}
	if (rc < 0)
		unpublish(s, list, i - 1);
	return rc;
}

/* ---- those that ask ---- */

static void peer_drop(struct peer *p)
{
	if (p->publish)
		unpublish(p->serve, p->publish, json_array_size(p->publish));
	json_decref(p->publish);
	p->publish = NULL;
	if (p->port)
		switch_unplug(p->serve->sw, p->port);
	p->port = NULL;
	loop_fd_remove(p->watch);
	close(p->fd);
	p->watch = NULL;
	p->fd = -1;
}

static void unplugged(void *ctx, struct port *port)
{
	struct serve *s = ctx;

	for (struct peer *p = s->peers; p < s->peers + PEERS_MAX; p++)
		if (p->fd >= 0 && p->port == port) {
			p->port = NULL; /* its owner removes it */
			peer_drop(p);
		}
}

static json_t *refusal(const struct error *err)
{
	return json_pack("{s:b, s:s, s:s}", "ok", 0, "words", err->text, "hint",
	                 err->hint);
}

static json_t *do_plug(struct peer *p, json_t *message, int *fd)
{
	json_t *list = json_object_get(message, "publish");
	const char *machine = text_of(message, "machine");
	const char *mac = text_of(message, "mac");
	const struct plug plug = {
		.machine = machine ? machine : "",
		.nic = (unsigned)number_of(message, "nic"),
		.mac = mac ? mac : "",
		.address = text_of(message, "address"),
		.trusted = json_is_true(json_object_get(message, "trusted")),
		.send_bytes_per_s = number_of(message, "send_bytes_per_s"),
		.receive_bytes_per_s =
		    number_of(message, "receive_bytes_per_s"),
		.send_frames_per_s = number_of(message, "send_frames_per_s"),
	};
	struct serve *s = p->serve;
	struct error err = { 0 };
	struct port *port;
	int rc;

	if (p->port || *fd < 0)
		return json_pack("{s:b, s:s}", "ok", 0, "words",
		                 p->port ? "it has plugged in already"
		                         : "there is no cable");
	rc = switch_plug(s->sw, &port, &plug, *fd, &err);
	*fd = -1;
	if (rc < 0)
		return refusal(&err);
	rc = publish(s, list, port_address(port), &err);
	if (rc < 0) {
		switch_unplug(s->sw, port);
		return refusal(&err);
	}
	p->port = port;
	p->publish = json_incref(list);
	return json_pack("{s:b, s:s}", "ok", 1, "address", port_address(port));
}

static json_t *do_capture(struct serve *s, json_t *message, int *fd)
{
	const char *machine = text_of(message, "machine");
	struct error err = { 0 };
	int rc, own = *fd;

	if (own < 0)
		return json_pack("{s:b, s:s}", "ok", 0, "words",
		                 "there is nowhere to write to");
	*fd = -1;
	rc = switch_capture(s->sw, machine ? machine : "",
	                    number_of(message, "frames"), own, &err);
	return rc < 0 ? refusal(&err) : json_pack("{s:b}", "ok", 1);
}

static json_t *do_status(struct serve *s)
{
	json_t *o = switch_status(s->sw);

	json_object_set_new(o, "ok", json_true());
	return o;
}

static json_t *do_op(struct peer *p, const char *op, json_t *message, int *fd)
{
	if (strcmp(op, "plug") == 0)
		return do_plug(p, message, fd);
	if (strcmp(op, "capture") == 0)
		return do_capture(p->serve, message, fd);
	if (strcmp(op, "status") == 0)
		return do_status(p->serve);
	if (strcmp(op, "hello") == 0)
		return json_pack("{s:b, s:i, s:I}", "ok", 1, "pid",
		                 (int)getpid(), "since",
		                 (json_int_t)p->serve->since);
	if (strcmp(op, "quit") == 0) {
		loop_quit(p->serve->loop, 0);
		return json_pack("{s:b}", "ok", 1);
	}
	return json_pack("{s:b, s:s}", "ok", 0, "words", "no such request");
}

/* The first descriptor of a message; others are closed. */
static int first_fd(int *fds, size_t count)
{
	while (count > 1)
		close(fds[--count]);
	return count ? fds[0] : -1;
}

static void peer_ready(void *ctx, unsigned events)
{
	struct peer *p = ctx;
	int fds[CONTROL_FDS_MAX], fd;
	struct error err = { 0 };
	json_t *message, *reply;
	const char *op;
	size_t count;

	(void)events;
	if (control_receive(p->fd, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		peer_drop(p);
		return;
	}
	fd = first_fd(fds, count);
	op = text_of(message, "op");
	reply = do_op(p, op ? op : "", message, &fd);
	if (fd >= 0)
		close(fd);
	if (json_object_get(message, "id"))
		json_object_set(reply, "id", json_object_get(message, "id"));
	if (control_send(p->fd, reply, NULL, 0, &err) < 0)
		peer_drop(p);
	json_decref(reply);
	json_decref(message);
}

static void listener_ready(void *ctx, unsigned events)
{
	struct serve *s = ctx;
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	struct peer *p = s->peers;

	(void)events;
	if (fd < 0)
		return;
	while (p < s->peers + PEERS_MAX && p->fd >= 0)
		p++;
	if (p == s->peers + PEERS_MAX) {
		close(fd);
		return;
	}
	set_patience(fd);
	p->serve = s;
	p->fd = fd;
	p->watch = loop_fd_add(s->loop, fd, LOOP_READ, peer_ready, p);
}

/* ---- the keeper ---- */

/* Takes the descriptor that the message names out of fds. */
static int take_fd(json_t *message, const char *key, int *fds, size_t count)
{
	json_t *index = json_object_get(message, key);
	json_int_t i = json_integer_value(index);
	int fd;

	if (!json_is_integer(index) || i < 0 || (size_t)i >= count)
		return -1;
	fd = fds[i];
	fds[i] = -1;
	return fd;
}

/* Those who publish something get it again on a new stack. */
static void publish_again(struct serve *s)
{
	struct error err;

	for (struct peer *p = s->peers; p < s->peers + PEERS_MAX; p++)
		if (p->fd >= 0 && p->port && p->publish &&
		    publish(s, p->publish, port_address(p->port), &err) < 0)
			log_warn("net", "%s", err.text);
}

static int set_uplink(struct serve *s, json_t *message, int *fds, size_t count,
                      struct error *err)
{
	int fd = take_fd(message, "uplink", fds, count);

	if (s->stack >= 0)
		close(s->stack);
	s->stack = take_fd(message, "stack", fds, count);
	if (s->stack >= 0)
		set_patience(s->stack);
	if (fd < 0)
		return 0;
	return switch_set_uplink(s->sw, fd, err);
}

static void control_ready(void *ctx, unsigned events)
{
	struct serve *s = ctx;
	int fds[CONTROL_FDS_MAX];
	struct error err = { 0 };
	json_t *message;
	size_t count;

	(void)events;
	if (control_receive(s->control, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		loop_quit(s->loop, EXIT_NOT_SET_UP);
		return;
	}
	if (set_uplink(s, message, fds, count, &err) < 0)
		log_warn("net", "%s", err.text);
	publish_again(s);
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	json_decref(message);
}

static int open_switch(struct serve *s, json_t *message, struct error *err)
{
	const char *uplink;
	struct switch_config config = {
		.loop = s->loop,
		.leases_changed = leases_changed,
		.unplugged = unplugged,
		.ctx = s,
	};
	json_t *leases;
	int rc;

	s->network = json_incref(json_object_get(message, "network"));
	config.name = text_of(s->network, "name");
	config.cidr = text_of(s->network, "cidr");
	config.mtu = (u16)number_of(s->network, "mtu");
	uplink = text_of(s->network, "uplink");
	if (!config.name || !uplink)
		return error_set(err, -EPROTO, "the network has no name");
	if (!config.cidr)
		config.cidr = "";
	if (strcmp(uplink, "nat") == 0)
		config.uplink = UPLINK_STACK;
	else if (strcmp(uplink, "bridge") == 0)
		config.uplink = UPLINK_BRIDGE;
	rc = switch_create(&s->sw, &config, err);
	if (rc < 0)
		return rc;
	leases = read_leases(s->folder);
	switch_load_leases(s->sw, leases);
	json_decref(leases);
	return 0;
}

static int begin(struct serve *s, struct error *err)
{
	int fds[CONTROL_FDS_MAX];
	json_t *message;
	size_t count;
	int rc = control_receive(s->control, &message, fds, CONTROL_FDS_MAX,
	                         &count, err);

	if (rc < 0)
		return rc;
	s->listener = take_fd(message, "listener", fds, count);
	s->folder = take_fd(message, "folder", fds, count);
	if (s->listener < 0 || s->folder < 0)
		rc = error_set(err, -EPROTO, "there is no socket or folder");
	if (rc == 0)
		rc = loop_create(&s->loop, err);
	if (rc == 0) {
		loop_timer_init(&s->save, s->loop, write_leases, s);
		rc = open_switch(s, message, err);
	}
	if (rc == 0)
		rc = set_uplink(s, message, fds, count, err);
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	json_decref(message);
	if (rc < 0)
		return rc;
	apart_switch();
	return confine_switch(s->folder, err);
}

static void serve_fini(struct serve *s)
{
	/* What it owns goes with the process. */
	if (s->sw && s->save.index)
		write_leases(s);
	for (struct peer *p = s->peers; p < s->peers + PEERS_MAX; p++)
		if (p->fd >= 0) {
			loop_fd_remove(p->watch);
			close(p->fd);
			json_decref(p->publish);
		}
	loop_fd_remove(s->listen_watch);
	loop_fd_remove(s->control_watch);
	switch_destroy(s->sw);
	if (s->loop)
		loop_timer_fini(&s->save);
	loop_destroy(s->loop);
	json_decref(s->network);
	free(s);
}

static void say(int control, json_t *message)
{
	struct error err;

	if (control_send(control, message, NULL, 0, &err) < 0)
		log_debug("net", "%s", err.text);
	json_decref(message);
}

int switch_serve(int control_fd)
{
	struct serve *s = xalloc(sizeof(*s));
	struct error err = { 0 };
	int code;

	s->control = control_fd;
	s->since = time(NULL);
	s->last_id = (s64)loop_now_ns(); /* no answer is an older one's */
	s->stack = s->listener = s->folder = -1;
	for (size_t i = 0; i < PEERS_MAX; i++)
		s->peers[i].fd = -1;
	if (begin(s, &err) < 0) {
		say(control_fd, json_pack("{s:s, s:s, s:s}", "event", "failed",
		                          "words", err.text, "hint", err.hint));
		serve_fini(s);
		return EXIT_NOT_SET_UP;
	}
	s->control_watch =
	    loop_fd_add(s->loop, s->control, LOOP_READ, control_ready, s);
	s->listen_watch =
	    loop_fd_add(s->loop, s->listener, LOOP_READ, listener_ready, s);
	say(control_fd, json_pack("{s:s}", "event", "ready"));
	code = loop_run(s->loop);
	serve_fini(s);
	return code;
}
