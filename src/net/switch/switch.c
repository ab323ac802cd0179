/* SPDX-License-Identifier: Apache-2.0 */
/*
 * switch.c - who gets a frame.
 *
 * A frame of a machine passes its guard first; then it is for the switch's
 * own address, or for one card, or for all. One for a card that nobody knows
 * goes to those behind which there may be such: the uplink and trusted
 * machines; a guarded one is known from the start.
 */
#include "net/switch/switch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "net/switch/dhcp.h"
#include "net/switch/internal.h"

enum { SOCKET_BUFFER = 4 << 20 };

int switch_create(struct switch_ **out, const struct switch_config *config,
                  struct error *err)
{
	struct switch_ *sw = xalloc(sizeof(*sw));
	int rc = 0;

	sw->config = *config;
	sw->now_ns = loop_now_ns();
	if (config->uplink != UPLINK_BRIDGE) {
		rc = leases_init(&sw->leases, config->cidr, err);
		sw->has_service = true;
		service_init(sw);
	}
	sw->table = table_create();
	sw->slots = try_alloc(PORT_BATCH, PORT_SLOT);
	if (rc == 0 && !sw->slots)
		rc = error_set(err, -ENOMEM, "no memory for a switch");
	if (rc < 0) {
		switch_destroy(sw);
		return rc;
	}
	if (sw->has_service)
		table_pin(sw->table, sw->service.mac, SWITCH_PORTS_MAX - 1);
	*out = sw;
	return 0;
}

void switch_destroy(struct switch_ *sw)
{
	if (!sw)
		return;
	for (unsigned i = 0; i < sw->port_count; i++)
		port_destroy(sw->ports[i]);
	for (size_t i = 0; i < SWITCH_CAPTURES_MAX; i++)
		if (sw->captures[i])
			capture_end(sw, sw->captures[i]);
	table_destroy(sw->table);
	leases_fini(&sw->leases);
	free(sw->slots);
	free(sw);
}

/* ---- frames ---- */

static void send_to(struct switch_ *sw, struct port *to, const u8 *data,
                    size_t len)
{
	capture_frame(sw, to, true, data + LINK_HDR, len - LINK_HDR);
	port_send(to, data, len);
}

static void send_all(struct switch_ *sw, const struct port *from, bool unknown,
                     const u8 *data, size_t len)
{
	for (unsigned i = 0; i < sw->port_count; i++) {
		struct port *to = sw->ports[i];

		if (!to || to == from)
			continue;
		if (unknown && to->kind == PORT_MACHINE && !to->trusted)
			continue;
		send_to(sw, to, data, len);
	}
}

static bool others_have_ip6(void *ctx, const u8 *ip6)
{
	struct switch_ *sw = ctx;

	for (unsigned i = 0; i < sw->port_count; i++)
		if (sw->ports[i] && guard_has_ip6(&sw->ports[i]->guard, ip6))
			return true;
	return false;
}

static enum verdict check(struct switch_ *sw, struct port *from,
                          struct frame *f, const u8 *frame, size_t len)
{
	if (frame_parse(f, frame, len) < 0 || mac_group(f->from))
		return VERDICT_MALFORMED;
	if (from->kind != PORT_MACHINE || from->trusted)
		return VERDICT_OK;
	return guard_check(&from->guard, f, others_have_ip6, sw);
}

/* On a bridged network others give out the addresses: what they told a card
 * is what it may use from then on. */
static void watch_dhcp(struct switch_ *sw, const struct frame *f)
{
	struct dhcp_message m;

	if (!f->udp || f->kind != FRAME_IP4 || f->to_port != DHCP_CLIENT_PORT ||
	    dhcp_parse(&m, f->payload, f->payload_len, true) < 0 ||
	    m.type != DHCP_ACK || !m.yours)
		return;
	for (unsigned i = 0; i < sw->port_count; i++) {
		struct port *p = sw->ports[i];

		if (!p || p->kind != PORT_MACHINE ||
		    memcmp(p->guard.mac, m.mac, MAC_SIZE))
			continue;
		p->guard.ip = m.yours;
		ip4_format(m.yours, p->address);
	}
}

void switch_frame(struct switch_ *sw, struct port *from, u8 *data, size_t len)
{
	struct frame f;
	enum verdict v = check(sw, from, &f, data + LINK_HDR, len - LINK_HDR);
	int index;

	if (v != VERDICT_OK) {
		from->counters.refused[v]++;
		return;
	}
	capture_frame(sw, from, false, f.data, f.len);
	if (from->kind != PORT_MACHINE || from->trusted)
		table_learn(sw->table, f.from, from->index, sw->now_ns);
	if (sw->has_service && service_frame(sw, from, &f))
		return;
	if (from->kind == PORT_TAP)
		watch_dhcp(sw, &f);
	if (mac_group(f.to)) {
		send_all(sw, from, false, data, len);
		return;
	}
	index = table_find(sw->table, f.to, sw->now_ns);
	if (index < 0) {
		sw->flooded++;
		send_all(sw, from, true, data, len);
	} else if (sw->ports[index] && sw->ports[index] != from) {
		send_to(sw, sw->ports[index], data, len);
	}
}

void switch_flush(struct switch_ *sw)
{
	for (unsigned i = 0; i < sw->port_count; i++)
		if (sw->ports[i] && sw->ports[i]->batched)
			port_flush(sw->ports[i]);
	sw->service.used = 0;
}

/* ---- ports ---- */

/* The last one is the switch's own, and no port. */
static int free_index(const struct switch_ *sw)
{
	for (int i = 0; i < SWITCH_PORTS_MAX - 1; i++)
		if (!sw->ports[i])
			return i;
	return -1;
}

static int add_port(struct switch_ *sw, struct port **out, enum port_kind kind,
                    int fd, struct error *err)
{
	int index = free_index(sw), room = SOCKET_BUFFER;

	if (index < 0) {
		close(fd);
		return error_set(err, -ENOSPC,
		                 "all ports of the network are "
		                 "in use");
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	/* As much of it as the host allows. */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	*out = port_create(sw, kind, fd);
	(*out)->index = (unsigned)index;
	sw->ports[index] = *out;
	sw->port_count = MAX(sw->port_count, (unsigned)index + 1);
	return 0;
}

static void remove_port(struct switch_ *sw, struct port *port)
{
	table_forget_port(sw->table, port->index);
	service_port_gone(sw, port);
	if (port->kind == PORT_MACHINE && sw->has_service)
		lease_release(&sw->leases, port->guard.mac);
	sw->ports[port->index] = NULL;
	if (sw->uplink == port)
		sw->uplink = NULL;
	port_destroy(port);
	if (sw->leases.changed && sw->config.leases_changed)
		sw->config.leases_changed(sw->config.ctx);
}

void switch_port_gone(struct switch_ *sw, struct port *port)
{
	if (port == sw->uplink) {
		remove_port(sw, port);
		if (sw->config.uplink_lost)
			sw->config.uplink_lost(sw->config.ctx);
		return;
	}
	if (sw->config.unplugged)
		sw->config.unplugged(sw->config.ctx, port);
	remove_port(sw, port);
}

void switch_unplug(struct switch_ *sw, struct port *port)
{
	remove_port(sw, port);
}

static int check_socket(int fd, struct error *err)
{
	int kind = 0;
	socklen_t len = sizeof(kind);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len) < 0 ||
	    kind != SOCK_SEQPACKET)
		return error_set(err, -EINVAL,
		                 "a cable is not a SOCK_SEQPACKET socket");
	return 0;
}

/* Who has the card now; a machine that was started again is faster than the
 * end of its former cable. */
static void remove_card(struct switch_ *sw, const u8 *mac)
{
	for (unsigned i = 0; i < sw->port_count; i++) {
		struct port *p = sw->ports[i];

		if (p && p->kind == PORT_MACHINE &&
		    memcmp(p->guard.mac, mac, MAC_SIZE) == 0)
			switch_port_gone(sw, p);
	}
}

static int find_address(struct switch_ *sw, const struct plug *plug,
                        const u8 *mac, u32 *ip, struct error *err)
{
	struct lease *e;

	*ip = 0;
	if (plug->address && ip4_parse(plug->address, ip) < 0)
		return error_set(err, -EINVAL, "%s is not an address",
		                 plug->address);
	if (!sw->has_service)
		return 0;
	e = lease_get(&sw->leases, mac, *ip, plug->machine, err);
	if (!e)
		return err ? err->code : -ENOSPC;
	*ip = e->ip;
	return 0;
}

int switch_plug(struct switch_ *sw, struct port **out, const struct plug *plug,
                int fd, struct error *err)
{
	u8 mac[MAC_SIZE];
	struct port *p;
	u32 ip;
	int rc = check_socket(fd, err);

	if (rc == 0 && mac_parse(plug->mac, mac) < 0)
		rc = error_set(err, -EINVAL, "%s is not a card's address",
		               plug->mac);
	if (rc == 0) {
		remove_card(sw, mac);
		rc = find_address(sw, plug, mac, &ip, err);
	}
	if (rc < 0) {
		close(fd);
		return rc;
	}
	rc = add_port(sw, &p, PORT_MACHINE, fd, err);
	if (rc < 0)
		return rc;
	snprintf(p->machine, sizeof(p->machine), "%s", plug->machine);
	p->nic = plug->nic;
	p->trusted = plug->trusted;
	memcpy(p->guard.mac, mac, MAC_SIZE);
	p->guard.ip = ip;
	if (ip)
		ip4_format(ip, p->address);
	sw->now_ns = loop_now_ns();
	bucket_init(&p->send_bytes, plug->send_bytes_per_s, sw->now_ns);
	bucket_init(&p->send_frames, plug->send_frames_per_s, sw->now_ns);
	bucket_init(&p->receive_bytes, plug->receive_bytes_per_s, sw->now_ns);
	table_pin(sw->table, mac, p->index);
	if (sw->leases.changed && sw->config.leases_changed)
		sw->config.leases_changed(sw->config.ctx);
	*out = p;
	return 0;
}

const char *port_address(const struct port *port)
{
	return port->address;
}

int switch_set_uplink(struct switch_ *sw, int fd, struct error *err)
{
	bool tap = sw->config.uplink == UPLINK_BRIDGE;
	int rc = tap ? 0 : check_socket(fd, err);

	if (rc < 0) {
		close(fd);
		return rc;
	}
	if (sw->uplink)
		remove_port(sw, sw->uplink);
	rc = add_port(sw, &sw->uplink, tap ? PORT_TAP : PORT_STACK, fd, err);
	if (rc == 0)
		snprintf(sw->uplink->machine, SWITCH_NAME_MAX, "uplink");
	return rc;
}
