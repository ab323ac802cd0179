/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/guard.h"

#include <string.h>

enum { DHCP_SERVER = 67, DHCP_CLIENT = 68, DHCP6_SERVER = 547 };
enum {
	ND_ROUTER = 134,
	ND_NEIGHBOUR = 135,
	ND_ADVERT = 136,
	ND_REDIRECT = 137
};
enum { ND_HEADER = 24, ND_SOURCE_CARD = 1, ND_TARGET_CARD = 2 };

const char *verdict_name(enum verdict verdict)
{
	static const char *const names[] = { "ok",     "malformed", "mac",
		                             "arp",    "ip",        "ip6",
		                             "server", "tagged" };

	return names[verdict];
}

bool guard_has_ip6(const struct guard *g, const u8 *ip6)
{
	for (unsigned i = 0; i < g->ip6_count; i++)
		if (memcmp(g->ip6[i], ip6, IP6_SIZE) == 0)
			return true;
	return false;
}

static enum verdict check_arp(const struct guard *g, const struct frame *f)
{
	if (memcmp(f->arp_mac, g->mac, MAC_SIZE))
		return VERDICT_ARP;
	/* RFC 5227: a probe comes from no address. */
	if (g->ip && f->arp_from && f->arp_from != g->ip)
		return VERDICT_ARP;
	return VERDICT_OK;
}

static enum verdict check_ip4(const struct guard *g, const struct frame *f)
{
	if (f->udp && f->from_port == DHCP_SERVER)
		return VERDICT_SERVER;
	if (!f->ip_from)
		return f->udp && f->from_port == DHCP_CLIENT &&
		               f->to_port == DHCP_SERVER
		           ? VERDICT_OK
		           : VERDICT_IP;
	return g->ip && f->ip_from != g->ip ? VERDICT_IP : VERDICT_OK;
}

/* RFC 4861 section 4.6.1: whose card its options name. */
static bool names_own_card(const struct guard *g, const struct frame *f)
{
	const u8 *p = f->payload;
	size_t at = ND_HEADER, size;

	while (at + 2 <= f->payload_len) {
		size = (size_t)p[at + 1] * 8;
		if (size == 0 || at + size > f->payload_len)
			return false;
		if ((p[at] == ND_SOURCE_CARD || p[at] == ND_TARGET_CARD) &&
		    memcmp(p + at + 2, g->mac, MAC_SIZE))
			return false;
		at += size;
	}
	return true;
}

static enum verdict check_icmp6(const struct guard *g, const struct frame *f)
{
	const u8 *p = f->payload;
	u8 type;

	/* RFC 6980: it is never in pieces. */
	if (f->fragment || f->payload_len < 4)
		return VERDICT_IP6;
	type = p[0];
	if (type == ND_ROUTER || type == ND_REDIRECT)
		return VERDICT_SERVER;
	if (type != ND_NEIGHBOUR && type != ND_ADVERT)
		return VERDICT_OK;
	if (f->payload_len < ND_HEADER || !names_own_card(g, f))
		return VERDICT_IP6;
	/* What it says of itself is what it may be. */
	if (type == ND_ADVERT && !guard_has_ip6(g, p + 8))
		return VERDICT_IP6;
	return VERDICT_OK;
}

static bool unspecified(const u8 *ip6)
{
	static const u8 none[IP6_SIZE];

	return memcmp(ip6, none, IP6_SIZE) == 0;
}

static enum verdict check_ip6(struct guard *g, const struct frame *f,
                              bool (*others)(void *, const u8 *), void *ctx)
{
	const u8 *from = f->ip6_from;

	if (f->udp && f->from_port == DHCP6_SERVER)
		return VERDICT_SERVER;
	if (!unspecified(from) && !guard_has_ip6(g, from)) {
		if (from[0] != 0xfe || (from[1] & 0xc0) != 0x80 ||
		    g->ip6_count == GUARD_IP6_MAX || others(ctx, from))
			return VERDICT_IP6;
		memcpy(g->ip6[g->ip6_count++], from, IP6_SIZE);
	}
	return f->protocol == PROTO_ICMP6 ? check_icmp6(g, f) : VERDICT_OK;
}

enum verdict guard_check(struct guard *g, const struct frame *f,
                         bool (*others)(void *ctx, const u8 *ip6), void *ctx)
{
	if (memcmp(f->from, g->mac, MAC_SIZE))
		return VERDICT_MAC;
	switch (f->kind) {
	case FRAME_ARP:
		return check_arp(g, f);
	case FRAME_IP4:
		return check_ip4(g, f);
	case FRAME_IP6:
		return check_ip6(g, f, others, ctx);
	case FRAME_TAGGED:
		return VERDICT_TAGGED;
	default:
		return VERDICT_OK;
	}
}
