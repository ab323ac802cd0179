/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bucket.h - a rate: what may pass is saved up, at most a tenth of a second's
 * worth, and may be overdrawn by one frame.
 */
#pragma once

#include "base/types.h"

struct bucket {
	u64 per_s; /* 0: no limit */
	s64 has;
	u64 at_ns;
};

static inline void bucket_init(struct bucket *b, u64 per_s, u64 now_ns)
{
	*b = (struct bucket){ per_s, (s64)(per_s / 10), now_ns };
}

static inline void bucket_fill(struct bucket *b, u64 now_ns)
{
	double past_ns = (double)(now_ns - b->at_ns);
	double units = (double)b->per_s * past_ns / 1e9;

	if (!b->per_s || units < 1)
		return;
	/* More than there is room for makes no difference. */
	units = MIN(units, 2 * (double)b->per_s + 1);
	b->has = MIN(b->has + (s64)units, (s64)(b->per_s / 10 + 1));
	b->at_ns = now_ns;
}

static inline bool bucket_empty(const struct bucket *b)
{
	return b->per_s && b->has <= 0;
}

static inline void bucket_take(struct bucket *b, u64 amount)
{
	if (b->per_s)
		b->has -= (s64)amount;
}

/* Until there is something again. */
static inline u64 bucket_wait_ns(const struct bucket *b)
{
	if (!bucket_empty(b))
		return 0;
	return (u64)((double)(1 - b->has) * 1e9 / (double)b->per_s) +
	       NSEC_PER_USEC;
}
