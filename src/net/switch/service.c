/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service.c - the switch as a host of its own network: it gives out addresses
 * and answers for names. It has no sockets: what it asks of the world goes as
 * frames to the uplink's resolver.
 */
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "net/csum.h"
#include "net/switch/dhcp.h"
#include "net/switch/dns.h"
#include "net/switch/internal.h"
#include "net/vnet.h"

/* Hosts of ours in the network's first addresses; the stack puts the address
 * behind 52:55 to make a card's, and so do we. */
enum { ROUTER = 1, SERVICE = 2, RESOLVER = 3 };
enum { LEASE_S = 3600, FORWARD_S = 10, PORT_LOW = 20000, PORT_SPAN = 40000 };
enum { ICMP_ECHO = 8, ICMP_ECHO_REPLY = 0 };

static void card_of(u32 ip, u8 *mac)
{
	mac[0] = 0x52;
	mac[1] = 0x55;
	put_be32(mac + 2, ip);
}

void service_init(struct switch_ *sw)
{
	struct service *s = &sw->service;
	u32 network = sw->leases.network;

	s->ip = network + SERVICE;
	card_of(s->ip, s->mac);
	if (sw->config.uplink == UPLINK_STACK) {
		s->router = network + ROUTER;
		s->resolver = network + RESOLVER;
	}
	snprintf(s->domain, sizeof(s->domain), "%s.internal", sw->config.name);
}

/* Room for a frame that goes out with this batch; NULL: none left. */
static u8 *reply_room(struct switch_ *sw)
{
	struct service *s = &sw->service;
	u8 *room;

	if (s->used == PORT_BATCH)
		return NULL;
	room = s->replies[s->used++];
	memset(room, 0, LINK_HDR);
	return room;
}

static void send_reply(struct port *to, u8 *room, size_t frame)
{
	capture_frame(to->sw, to, true, room + LINK_HDR, frame);
	port_send(to, room, LINK_HDR + frame);
}

/* ---- ARP, echo ---- */

static void answer_arp(struct switch_ *sw, struct port *from,
                       const struct frame *f)
{
	static const u8 kind[] = { 0, 1, 8, 0, 6, 4, 0, ARP_REPLY };
	u8 *room = reply_room(sw), *p;

	if (!room)
		return;
	p = room + LINK_HDR;
	memcpy(p, f->arp_mac, MAC_SIZE);
	memcpy(p + 6, sw->service.mac, MAC_SIZE);
	vnet_put_be16(p + 12, ETH_ARP);
	p += ETHERNET_HEADER;
	memcpy(p, kind, sizeof(kind));
	memcpy(p + 8, sw->service.mac, MAC_SIZE);
	put_be32(p + 14, sw->service.ip);
	memcpy(p + 18, f->arp_mac, MAC_SIZE);
	put_be32(p + 24, f->arp_from);
	send_reply(from, room, ETHERNET_HEADER + 28);
}

static void answer_echo(struct switch_ *sw, struct port *from,
                        const struct frame *f)
{
	size_t at = (size_t)(f->payload - f->data);
	size_t len = at + f->payload_len;
	u8 *room, *p;
	u16 sum;

	if (f->payload_len < 8 || f->payload[0] != ICMP_ECHO ||
	    len > SERVICE_REPLY - LINK_HDR)
		return;
	room = reply_room(sw);
	if (!room)
		return;
	p = room + LINK_HDR;
	memcpy(p, f->data, len);
	memcpy(p, f->from, MAC_SIZE);
	memcpy(p + 6, sw->service.mac, MAC_SIZE);
	/* Swapping addresses leaves the header's sum as it is. */
	put_be32(p + ETHERNET_HEADER + 12, f->ip_to);
	put_be32(p + ETHERNET_HEADER + 16, f->ip_from);
	p[at] = ICMP_ECHO_REPLY;
	memset(p + at + 2, 0, 2);
	sum = csum_fold(csum_add(0, p + at, f->payload_len));
	memcpy(p + at + 2, &sum, 2);
	send_reply(from, room, len);
}

/* ---- DHCP ---- */

/* Which one is this card's; NULL: none is to be had. */
static struct lease *lease_for(struct switch_ *sw, struct port *from,
                               const struct dhcp_message *m)
{
	bool own = memcmp(m->mac, from->guard.mac, MAC_SIZE) == 0;
	struct lease *e;

	if (!own && !from->trusted)
		return NULL;
	e = own ? lease_of_mac(&sw->leases, m->mac) : NULL;
	if (e)
		return e;
	e = lease_get(&sw->leases, m->mac, 0, NULL, NULL);
	/* Cards behind another come and go unseen. */
	if (e)
		e->live = own;
	return e;
}

static u8 dhcp_decide(const struct dhcp_message *m, u32 server, u32 ip)
{
	u32 asked = m->requested ? m->requested : m->client;

	switch (m->type) {
	case DHCP_DISCOVER:
		return DHCP_OFFER;
	case DHCP_REQUEST:
		if (m->server && m->server != server)
			return 0;
		return asked == ip ? DHCP_ACK : DHCP_NAK;
	case DHCP_INFORM:
		return DHCP_ACK;
	default:
		return 0; /* a card keeps its address, wanted or not */
	}
}

static void answer_dhcp(struct switch_ *sw, struct port *from,
                        const struct frame *f)
{
	static const u8 all[MAC_SIZE] = { 255, 255, 255, 255, 255, 255 };
	struct service *s = &sw->service;
	struct dhcp_answer a = {
		.server = s->ip,
		.mask = sw->leases.mask,
		.router = s->router,
		.resolver = s->ip,
		.mtu = sw->config.mtu,
		.domain = s->domain,
	};
	struct udp_head head = { .from = s->mac, .ip_from = s->ip };
	struct dhcp_message m;
	struct lease *e;
	u8 *room;

	if (dhcp_parse(&m, f->payload, f->payload_len, false) < 0)
		return;
	e = lease_for(sw, from, &m);
	a.type = e ? dhcp_decide(&m, s->ip, e->ip) : 0;
	room = a.type ? reply_room(sw) : NULL;
	if (!room)
		return;
	s->dhcp++;
	if (m.type != DHCP_INFORM) {
		a.yours = e->ip;
		a.lease_s = LEASE_S;
	}
	a.host = e->name;
	e->seen = time(NULL);
	head.to = m.broadcast || a.type == DHCP_NAK ? all : m.mac;
	head.ip_to = m.client && a.type != DHCP_NAK ? m.client : ~(u32)0;
	head.to_port = DHCP_CLIENT_PORT;
	head.from_port = DHCP_SERVER_PORT;
	send_reply(
	    from, room,
	    frame_make_udp(room + LINK_HDR, &head,
	                   dhcp_write(room + LINK_HDR + UDP_HEADERS, &m, &a)));
	if (sw->leases.changed && sw->config.leases_changed)
		sw->config.leases_changed(sw->config.ctx);
}

/* ---- names ---- */

static u32 address_of(void *ctx, const char *name)
{
	struct lease *e = lease_of_name(&((struct switch_ *)ctx)->leases, name);

	return e ? e->ip : 0;
}

static const char *name_at(void *ctx, u32 ip)
{
	struct lease *e = lease_of_ip(&((struct switch_ *)ctx)->leases, ip);

	return e && e->name[0] ? e->name : NULL;
}

static bool holds(void *ctx, u32 ip)
{
	return leases_holds(&((struct switch_ *)ctx)->leases, ip);
}

static void forward_done(struct forward *fw)
{
	fw->until_ns = 0;
	if (fw->port)
		fw->port->forwards--;
	fw->port = NULL;
}

static struct forward *new_forward(struct switch_ *sw, struct port *from)
{
	struct forward *free_one = NULL;

	for (struct forward *fw = sw->service.forwards;
	     fw < sw->service.forwards + FORWARDS_MAX; fw++) {
		if (fw->until_ns && fw->until_ns < sw->now_ns)
			forward_done(fw);
		if (!fw->until_ns && !free_one)
			free_one = fw;
	}
	return from->forwards < FORWARDS_PORT ? free_one : NULL;
}

/* Its answer is known by a number and a port that a stranger would have to
 * guess. */
static int forward(struct switch_ *sw, struct port *from, const struct frame *f)
{
	struct service *s = &sw->service;
	struct forward *fw = sw->uplink ? new_forward(sw, from) : NULL;
	u8 *room = fw ? reply_room(sw) : NULL, card[MAC_SIZE];
	struct udp_head head = { .from = s->mac,
		                 .ip_from = s->ip,
		                 .ip_to = s->resolver,
		                 .to = card,
		                 .to_port = DNS_PORT };
	u16 random[2];

	if (!room || f->payload_len > SERVICE_REPLY - LINK_HDR - UDP_HEADERS ||
	    getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return -1;
	fw->until_ns = sw->now_ns + FORWARD_S * NSEC_PER_SEC;
	fw->port = from;
	fw->id = random[0];
	fw->port_here = (u16)(PORT_LOW + random[1] % PORT_SPAN);
	memcpy(fw->mac, f->from, MAC_SIZE);
	fw->ip = f->ip_from;
	fw->their_port = f->from_port;
	fw->their_id = vnet_be16(f->payload);
	from->forwards++;
	card_of(s->resolver, card);
	head.from_port = fw->port_here;
	memcpy(room + LINK_HDR + UDP_HEADERS, f->payload, f->payload_len);
	vnet_put_be16(room + LINK_HDR + UDP_HEADERS, fw->id);
	s->forwarded++;
	send_reply(sw->uplink, room,
	           frame_make_udp(room + LINK_HDR, &head, f->payload_len));
	return 0;
}

static void send_answer(struct switch_ *sw, struct port *to, const u8 *mac,
                        u32 ip, u16 port, u8 *room, size_t size)
{
	struct udp_head head = { .to = mac,
		                 .from = sw->service.mac,
		                 .ip_to = ip,
		                 .ip_from = sw->service.ip,
		                 .to_port = port,
		                 .from_port = DNS_PORT };

	send_reply(to, room, frame_make_udp(room + LINK_HDR, &head, size));
}

static void answer_question(struct switch_ *sw, struct port *from,
                            const struct frame *f)
{
	const struct dns_names names = {
		.network = sw->config.name,
		.address = address_of,
		.name = name_at,
		.holds = holds,
		.ctx = sw,
		.uplink = sw->config.uplink == UPLINK_STACK,
	};
	u8 answer[DNS_ANSWER_MAX], *room;
	int size = dns_answer(&names, f->payload, f->payload_len, answer);

	sw->service.questions++;
	if (size == DNS_FORWARD) {
		forward(sw, from, f);
		return;
	}
	room = size > 0 ? reply_room(sw) : NULL;
	if (!room)
		return;
	memcpy(room + LINK_HDR + UDP_HEADERS, answer, (size_t)size);
	send_answer(sw, from, f->from, f->ip_from, f->from_port, room,
	            (size_t)size);
}

/* From the uplink's resolver. */
static void pass_back(struct switch_ *sw, const struct frame *f)
{
	struct service *s = &sw->service;
	u16 id;
	u8 *room;

	if (f->ip_from != s->resolver || f->from_port != DNS_PORT ||
	    f->payload_len < 2 ||
	    f->payload_len > SERVICE_REPLY - LINK_HDR - UDP_HEADERS)
		return;
	id = vnet_be16(f->payload);
	for (struct forward *fw = s->forwards; fw < s->forwards + FORWARDS_MAX;
	     fw++) {
		if (!fw->until_ns || fw->id != id ||
		    fw->port_here != f->to_port)
			continue;
		room = reply_room(sw);
		if (room) {
			u8 *p = room + LINK_HDR + UDP_HEADERS;

			memcpy(p, f->payload, f->payload_len);
			vnet_put_be16(p, fw->their_id);
			send_answer(sw, fw->port, fw->mac, fw->ip,
			            fw->their_port, room, f->payload_len);
		}
		forward_done(fw);
		return;
	}
}

/* ---- the door ---- */

static void for_us(struct switch_ *sw, struct port *from, const struct frame *f)
{
	if (f->kind != FRAME_IP4 || f->ip_to != sw->service.ip)
		return;
	if (f->udp && from == sw->uplink)
		pass_back(sw, f);
	else if (f->udp && f->to_port == DNS_PORT)
		answer_question(sw, from, f);
	else if (f->protocol == PROTO_ICMP)
		answer_echo(sw, from, f);
}

bool service_frame(struct switch_ *sw, struct port *from, const struct frame *f)
{
	struct service *s = &sw->service;

	if (f->kind == FRAME_ARP && f->arp_op == ARP_REQUEST &&
	    f->arp_target == s->ip) {
		answer_arp(sw, from, f);
		return true;
	}
	/* Nobody else on this network gives out addresses. */
	if (f->udp && f->kind == FRAME_IP4 && f->to_port == DHCP_SERVER_PORT) {
		if (from != sw->uplink)
			answer_dhcp(sw, from, f);
		return true;
	}
	if (memcmp(f->to, s->mac, MAC_SIZE))
		return false;
	for_us(sw, from, f);
	return true;
}

void service_port_gone(struct switch_ *sw, struct port *port)
{
	for (struct forward *fw = sw->service.forwards;
	     fw < sw->service.forwards + FORWARDS_MAX; fw++)
		if (fw->until_ns && fw->port == port)
			forward_done(fw);
}
