/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.h - what a machine may say about who it is.
 *
 * Its frames come from its own card, its ARP and IPv4 packets from the address
 * it was given, and from 0.0.0.0 only to ask for one. In IPv6, which the
 * network does not route, it may use a few link-local addresses, none that
 * another machine has, and is no router. It never answers as a DHCP server,
 * and tags no frames.
 */
#pragma once

#include "net/switch/frame.h"

enum { GUARD_IP6_MAX = 4 };

enum verdict {
	VERDICT_OK,
	VERDICT_MALFORMED,
	VERDICT_MAC,
	VERDICT_ARP,
	VERDICT_IP,
	VERDICT_IP6,
	VERDICT_SERVER, /* it plays the DHCP server or the router */
	VERDICT_TAGGED,
	VERDICTS,
};

struct guard {
	u8 mac[MAC_SIZE];
	u32 ip; /* 0: not known, and not checked */
	u8 ip6[GUARD_IP6_MAX][IP6_SIZE];
	unsigned ip6_count;
};

const char *verdict_name(enum verdict verdict);

/* others: whether somebody else has that address; asked when the machine
 * begins to use one. */
enum verdict guard_check(struct guard *g, const struct frame *f,
                         bool (*others)(void *ctx, const u8 *ip6), void *ctx);
bool guard_has_ip6(const struct guard *g, const u8 *ip6);
