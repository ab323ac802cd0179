/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lease.h - which machine has which address.
 *
 * A card keeps its address for good, whether its machine runs or not, also
 * over restarts of the switch. When all are given away the one that was unused
 * the longest goes to somebody else.
 */
#pragma once

#include <jansson.h>

#include "net/switch/frame.h"
#include "net/switch/limits.h"

struct error;

struct lease {
	u8 mac[MAC_SIZE];
	u32 ip;
	bool live; /* its card is on the network */
	s64 seen;  /* seconds since 1970 */
	char name[SWITCH_NAME_MAX];
};

struct leases {
	u32 network, mask; /* host order */
	u32 first, last;   /* to be given away */
	struct lease *all;
	size_t count, room;
	bool changed; /* since they were last written */
};

/* "10.77.0.0/24": 16 to 28 bits. */
int leases_init(struct leases *l, const char *cidr,
                struct error *err) MUST_CHECK;
void leases_fini(struct leases *l);

/*
 * The lease of a card, made if it has none; wanted (0: any) is what it is to
 * be. NULL with words: that is another's, not of this network, or all are in
 * use.
 */
struct lease *lease_get(struct leases *l, const u8 *mac, u32 wanted,
                        const char *name, struct error *err);
struct lease *lease_of_mac(struct leases *l, const u8 *mac);
struct lease *lease_of_ip(struct leases *l, u32 ip);
/* The live one of a name before others; letters of either case. */
struct lease *lease_of_name(struct leases *l, const char *name);
void lease_release(struct leases *l, const u8 *mac); /* not live any more */

static inline bool leases_holds(const struct leases *l, u32 ip)
{
	return (ip & l->mask) == l->network;
}

json_t *leases_json(const struct leases *l);
/* What does not fit this network is passed over. */
void leases_load(struct leases *l, json_t *list);
