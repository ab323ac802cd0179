/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rest.h - when a vCPU that hardly runs hands back what it made of the guest's
 * code. Only decides: code.c does it.
 *
 * What was handed back is made again when the guest goes on, so two things are
 * asked for first. A rest: one in proportion to what it took to make, so that
 * who thinks for a moment between two commands loses nothing, and so that
 * nothing is kept for ever, however large. And credit: a small part of the time
 * that passes, with some to begin with. What is made again and again, for a
 * timer or for an agent that is asked every few seconds, uses that up and stays
 * from then on, but for as often as that part of a processor allows.
 */
#pragma once

#include "base/types.h"

struct rest {
	u64 seen_ns, seen_cpu_ns, decoded; /* as was looked last */
	u64 rested_ns; /* since there was something, less what it ran */
	u64 credit_ns; /* of a processor, to make things again */
};

/* What there is to look at. Bytes are of what was made since there was none. */
struct rest_now {
	u64 ns, cpu_ns; /* the clock, and what the vCPU's thread has run */
	u64 decoded;    /* of operations, those included that are gone */
	u64 ops;        /* of operations */
	u64 blocks;     /* of blocks and pages */
	u64 host;       /* of host code */
};

enum rest_verdict {
	REST_KEEP,
	REST_OPS, /* operations go, that are many and hardly grow */
	REST_ALL,
};

void rest_begin(struct rest *r, const struct rest_now *now);
/* Once a second; of now, the clock alone. */
bool rest_is_due(const struct rest *r, const struct rest_now *now);
/* When it is due. Who is told that something goes lets it go. */
enum rest_verdict rest_look(struct rest *r, const struct rest_now *now);
/* If it sleeps from now on: when to look again, from now. 0: never. */
u64 rest_until_ns(const struct rest *r, const struct rest_now *now);
