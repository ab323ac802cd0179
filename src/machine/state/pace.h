/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pace.h - how many pages to do in one short standstill: hosts differ by a
 * hundred times in what a page takes them.
 */
#pragma once

#include "base/types.h"

enum { PACE_LEAST = 256, PACE_MOST = 8192 };

struct pace {
	u64 pages; /* to do next time */
	u64 each_ns;
};

static inline void pace_begin(struct pace *p, u64 each_ns)
{
	*p = (struct pace){ .pages = PACE_LEAST, .each_ns = each_ns };
}

/* That many were done, in that time. */
static inline void pace_took(struct pace *p, u64 pages, u64 ns)
{
	u64 next = pages * p->each_ns / MAX(ns, (u64)1);

	/* Few pages say little about many. */
	if (pages < p->pages / 2)
		return;
	next = MIN(next, p->pages * 2);
	p->pages = MAX((u64)PACE_LEAST, MIN(next, (u64)PACE_MOST));
}
