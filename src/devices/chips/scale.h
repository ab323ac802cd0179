/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scale.h - v * mul / div without overflow in the middle: clock ticks.
 */
#pragma once

#include "base/types.h"

/* Rounds down; saturates. */
static inline u64 scale(u64 v, u64 mul, u64 div)
{
	unsigned __int128 r = (unsigned __int128)v * mul / div;

	return r > UINT64_MAX ? UINT64_MAX : (u64)r;
}

/* Rounds up: the first moment at which a count has been reached. */
static inline u64 scale_up(u64 v, u64 mul, u64 div)
{
	unsigned __int128 r = ((unsigned __int128)v * mul + div - 1) / div;

	return r > UINT64_MAX ? UINT64_MAX : (u64)r;
}

static inline u64 add_saturating(u64 a, u64 b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}
