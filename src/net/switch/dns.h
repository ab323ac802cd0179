/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dns.h - names of machines, answered (RFC 1035); what else is asked for is
 * somebody else's.
 *
 * A machine is NAME, NAME.NETWORK and NAME.NETWORK.internal.
 */
#pragma once

#include "base/types.h"

enum { DNS_PORT = 53, DNS_ANSWER_MAX = 512, DNS_NAME_MAX = 256 };

struct dns_names {
	const char *network; /* its name */
	/* The address of a machine by its name; 0: there is none. */
	u32 (*address)(void *ctx, const char *name);
	/* The name of a machine by its address; NULL: there is none. */
	const char *(*name)(void *ctx, u32 ip);
	bool (*holds)(void *ctx, u32 ip); /* an address of this network */
	void *ctx;
	bool uplink; /* others' names can be asked for */
};

enum { DNS_DROP = 0, DNS_FORWARD = -1 };

/* The size of the answer in out (DNS_ANSWER_MAX bytes), DNS_FORWARD or
 * DNS_DROP: it is no question. */
int dns_answer(const struct dns_names *names, const u8 *query, size_t len,
               u8 *out);
