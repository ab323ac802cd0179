/* SPDX-License-Identifier: Apache-2.0 */
/*
 * throttle.h - a disk that is only so fast.
 *
 * A filter in front of any disk. Each limit is a bucket that fills at its
 * rate and holds a burst: a disk that was idle may go faster for that much.
 * Requests over the limit wait, in order; flushes never do.
 */
#pragma once

#include "storage/block.h"

/* 0: no limit. Bursts of 0 are a tenth of a second's worth. */
struct throttle_limits {
	u64 iops, iops_burst;   /* requests */
	u64 bytes, bytes_burst; /* bytes, both ways */
};

/* Takes over b: closing the throttle closes it. */
struct block *throttle_open(struct block *b,
                            const struct throttle_limits *limits);
/* Other limits, while in use. b is what throttle_open() gave. Any thread. */
void throttle_set(struct block *b, const struct throttle_limits *limits);
/* The disk below has got another size. */
void throttle_resized(struct block *b);
