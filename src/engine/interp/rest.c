/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rest - an account of rest and of work to be done again.
 *
 * Prices are of what a processor of today takes: a MiB of operations some 10
 * ms; a MiB of host code 20 ms of translation, and as much and more in which
 * that code ran without being translated.
 */
#include "engine/interp/rest.h"

#include "base/units.h"

enum {
	LOOK_MS = 1000,
	/* Less than this is not worth it. */
	LITTLE = MIB,
	/* Of operations alone: who adds less in a second is not busy with new
	 * code. */
	OPS_RATE = MIB / 4,
	OPS_MS = 10,     /* for a MiB */
	HOST_MS = 50,    /* likewise */
	BUSY_PART = 20,  /* of a processor: who has that does not rest */
	REST_TIMES = 20, /* what it took to make */
	CREDIT_PART = 1000,
	CREDIT_MS = 2000, /* at most, and at first */
	COST_MS = 1000,   /* at most: or there would never be credit for it */
};

static u64 price(u64 bytes, u64 ms)
{
	return bytes * (ms * NSEC_PER_MSEC / 1024) / (MIB / 1024);
}

static u64 cost(const struct rest_now *now)
{
	return MIN(price(now->ops, OPS_MS) + price(now->host, HOST_MS),
	           COST_MS * NSEC_PER_MSEC);
}

static u64 rest_needed(const struct rest_now *now)
{
	return MAX(REST_TIMES * cost(now), LOOK_MS * NSEC_PER_MSEC);
}

static bool is_little(const struct rest_now *now)
{
	return now->ops + now->blocks + now->host <= LITTLE;
}

void rest_begin(struct rest *r, const struct rest_now *now)
{
	*r = (struct rest){ .seen_ns = now->ns,
		            .seen_cpu_ns = now->cpu_ns,
		            .credit_ns = CREDIT_MS * NSEC_PER_MSEC };
}

static bool spend(struct rest *r, u64 ns)
{
	if (r->credit_ns < ns)
		return false;
	r->credit_ns -= ns;
	return true;
}

/* Who runs for its part of the time does not rest at all. */
static void count_rest(struct rest *r, const struct rest_now *now, u64 took_ns,
                       u64 ran_ns)
{
	u64 rested = r->rested_ns + took_ns;
	u64 worked = ran_ns * BUSY_PART;

	rested = rested > worked ? rested - worked : 0;
	r->rested_ns = is_little(now) ? 0 : MIN(rested, rest_needed(now));
}

bool rest_is_due(const struct rest *r, const struct rest_now *now)
{
	return now->ns - r->seen_ns >= LOOK_MS * NSEC_PER_MSEC;
}

enum rest_verdict rest_look(struct rest *r, const struct rest_now *now)
{
	u64 took_ns = now->ns - r->seen_ns, more;

	count_rest(r, now, took_ns, now->cpu_ns - r->seen_cpu_ns);
	r->credit_ns = MIN(r->credit_ns + took_ns / CREDIT_PART,
	                   CREDIT_MS * NSEC_PER_MSEC);
	/* There were none in between. */
	more = now->decoded - (now->decoded < r->decoded ? 0 : r->decoded);
	r->seen_ns = now->ns;
	r->seen_cpu_ns = now->cpu_ns;
	r->decoded = now->decoded;
	if (!is_little(now) && r->rested_ns == rest_needed(now) &&
	    spend(r, cost(now))) {
		r->rested_ns = 0;
		return REST_ALL;
	}
	if (now->ops > LITTLE && more < took_ns / NSEC_PER_SEC * OPS_RATE &&
	    spend(r, price(now->ops, OPS_MS)))
		return REST_OPS;
	return REST_KEEP;
}

u64 rest_until_ns(const struct rest *r, const struct rest_now *now)
{
	u64 needed = rest_needed(now), want = cost(now), wait = 0;

	if (is_little(now))
		return 0;
	if (r->rested_ns < needed)
		wait = needed - r->rested_ns;
	if (r->credit_ns < want)
		wait = MAX(wait, (want - r->credit_ns) * CREDIT_PART);
	return MAX(wait, LOOK_MS * NSEC_PER_MSEC);
}
