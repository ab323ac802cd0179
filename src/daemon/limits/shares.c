/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shares - Linux knows weights, not reservations. A machine whose weight would
 * give it less than its reservation when all are busy gets exactly that; the
 * others divide what is left by their weights; and again, until nobody is
 * short. At most one round a machine.
 */
#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "daemon/limits/limits.h"

enum { WEIGHT_MAX = 10000 };

/* Gives those that are short their reservation; true if any was. */
static bool fix_one_round(struct share *s, size_t n, double *fixed,
                          double capacity)
{
	double weights = 0, left = capacity;
	bool any = false;

	for (size_t i = 0; i < n; i++)
		if (fixed[i] > 0)
			left -= fixed[i];
		else
			weights += (double)s[i].weight;
	for (size_t i = 0; i < n; i++) {
		double share;

		if (fixed[i] > 0 || s[i].reservation == 0)
			continue;
		share = left > 0 ? left * (double)s[i].weight / weights : 0;
		if (share < (double)s[i].reservation) {
			fixed[i] = (double)s[i].reservation;
			any = true;
		}
	}
	return any;
}

static double biggest_of(const double *share, size_t n)
{
	double most = 0;

	for (size_t i = 0; i < n; i++)
		most = MAX(most, share[i]);
	return most;
}

void shares_settle(struct share *s, size_t n, unsigned processors)
{
	double capacity = 100.0 * processors, left = capacity, weights = 0;
	double *share = try_alloc(n + 1, sizeof(*share)), most;

	if (!share) {
		for (size_t i = 0; i < n; i++)
			s[i].effective = s[i].weight;
		return;
	}
	while (fix_one_round(s, n, share, capacity))
		;
	for (size_t i = 0; i < n; i++)
		if (share[i] > 0)
			left -= share[i];
		else
			weights += (double)s[i].weight;
	for (size_t i = 0; i < n; i++)
		if (share[i] <= 0)
			share[i] =
			    MAX(left, 1.0) * (double)s[i].weight / weights;
	most = biggest_of(share, n);
	for (size_t i = 0; i < n; i++)
		s[i].effective =
		    MAX((u64)1, (u64)llround(share[i] / most * WEIGHT_MAX));
	free(share);
}
