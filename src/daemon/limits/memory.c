/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory - under pressure idle guests give, and when they have nothing more to
 * give the others, nobody more than an eighth of its size at a time, nor below
 * its reservation or what it says it uses. When the pressure is well over they
 * get it back in the same steps, the busy ones first. In between nothing moves,
 * so that it does not swing.
 */
#include "daemon/limits/limits.h"

enum { SOME_HIGH = 1000, SOME_LOW = 100 }; /* 10 %, 1 % */
enum { STEPS = 8 };
#define FLOOR (64 * MIB)
#define PAGE_MASK_DOWN (~(u64)4095)

static u64 most_of(const struct memory_guest *g)
{
	return MAX(MIN(g->limit, g->size), MIN(g->reservation, g->size));
}

/* A tenth above what it uses, for what it is about to do. */
static u64 least_of(const struct memory_guest *g)
{
	u64 least = MAX(g->used + g->used / 10, FLOOR);

	least = MAX(least, g->reservation);
	return MIN(least, most_of(g));
}

static u64 take_from(struct memory_guest *g, u64 wanted)
{
	u64 least = least_of(g), step = g->size / STEPS, give;

	if (g->target <= least)
		return 0;
	give = MIN(MIN(g->target - least, step), wanted) & PAGE_MASK_DOWN;
	g->target -= give;
	return give;
}

/* What they gave together. */
static u64 take_from_all(struct memory_guest *guests, size_t count, bool idle,
                         u64 wanted)
{
	u64 given = 0;

	for (size_t i = 0; i < count && given < wanted; i++)
		if (guests[i].balloon && guests[i].idle == idle)
			given += take_from(&guests[i], wanted - given);
	return given;
}

static u64 give_to(struct memory_guest *g, u64 spare)
{
	u64 most = most_of(g), step = g->size / STEPS, more;

	if (g->target >= most)
		return 0;
	more = MIN(MIN(most - g->target, step), spare) & PAGE_MASK_DOWN;
	g->target += more;
	return more;
}

void memory_plan(const struct memory_host *h, struct memory_guest *guests,
                 size_t count)
{
	bool pressed = h->some >= SOME_HIGH || h->available < h->headroom;
	bool calm = h->some < SOME_LOW && h->available / 2 > h->headroom;
	u64 wanted, spare;

	for (size_t i = 0; i < count; i++)
		guests[i].target = MIN(guests[i].now, most_of(&guests[i]));
	if (pressed) {
		/* Enough for calm; something where memory is there and PSI
		 * says that it does not help. */
		wanted = h->headroom * 2 > h->available
		             ? h->headroom * 2 - h->available
		             : h->total / 32;
		if (!take_from_all(guests, count, true, wanted))
			take_from_all(guests, count, false, wanted);
		return;
	}
	if (!calm)
		return;
	spare = h->available / 2 - h->headroom;
	for (int idle = 0; idle <= 1; idle++)
		for (size_t i = 0; i < count && spare; i++)
			if (guests[i].balloon && guests[i].idle == (idle == 1))
				spare -= give_to(&guests[i], spare);
}
