/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lend.h - a request that waits for the host and nothing else, as a flush does,
 * is done by the thread of a processor that would sleep.
 *
 * All under the device's lock, but for lent_fn with wait.
 */
#pragma once

#include "devices/device.h"
#include "guest/idle.h"

struct lend;

/* Embedded in the request. */
struct lent {
	struct idle_loan loan;
	struct lend *lend; /* borrowed; NULL: not lent */
	struct lent *next, **prev;
	u64 since_ns;
	u64 taken_ns; /* by a processor; 0: by none */
};

/* Do it: wait, here and now, without the device's lock; or by other threads. */
typedef void lent_fn(struct lent *t, bool wait);

/* Embedded in the device. */
struct lend {
	struct device *dev; /* borrowed */
	lent_fn *go;
	struct lent *all, **tail; /* those that are not over */
	unsigned patience, skip;  /* of these many, none is lent */
	u64 paid_until_ns;        /* by what took long; see lend.c */
	bool over;                /* none any more */
	struct clock_timer bound;
	bool bound_armed, in_use; /* since it was armed */
};

void lend_init(struct lend *l, struct device *dev, lent_fn *go,
               void (*bound_reached)(void *dev));
/* What is lent comes back by lend_recall(). Before virtio_fini(), not under the
 * lock. */
void lend_fini(struct lend *l);

/* Is it likely that a processor is about to sleep, and will not wait long? */
bool lend_is_wise(struct lend *l);
void lend_begin(struct lend *l, struct lent *t);
/* It is over. */
void lend_end(struct lend *l, struct lent *t);
/* What no processor has taken goes to other threads. */
void lend_recall(struct lend *l);
/* For bound_reached: the same with what has waited long. */
void lend_bound(struct lend *l);
