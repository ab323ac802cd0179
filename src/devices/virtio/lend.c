/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lend.c - who waits for a flush.
 *
 * A guest that waits for a flush has mostly nothing else to do: its processor
 * sleeps, another thread of ours is woken for the flush, and that wakes the
 * processor's. Both run on processors of the host that sleep by then, and take
 * some 30 us each to come back. So the flush is kept until a processor
 * halts, and its thread does it.
 *
 * Two things can be wrong with that, and both are found out by trying. The
 * guest has something else to do, so that nobody sleeps: after two
 * milliseconds the flush goes to other threads, and for some time flushes go
 * there at once. Or the disk takes long: a processor that waits for it hears no
 * interrupt. So long ones may take one fiftieth of the time, 20 ms of it at
 * once; then none is lent for a while.
 */
#include "devices/virtio/lend.h"

enum {
	LENT_NS_MAX = 2000 * 1000,
	LONG_NS = 1000 * 1000,
	LONG_TIMES = 50,
	SAVED_NS = 1000 * 1000 * 1000, /* the most that is saved up for those */
	PATIENCE_TIMES = 4,
	PATIENCE_MAX = 1024,
};

static u64 now_ns(const struct lend *l)
{
	return clock_now_ns(l->dev->host->clock);
}

bool lend_is_wise(struct lend *l)
{
	if (l->over || !idle_is_heard(l->dev->host->idle) ||
	    l->paid_until_ns > now_ns(l) + SAVED_NS)
		return false;
	if (!l->skip)
		return true;
	l->skip--;
	return false;
}

static void taken(struct idle_loan *loan)
{
	struct lent *t = container_of(loan, struct lent, loan);

	t->taken_ns = now_ns(t->lend);
	t->lend->go(t, true);
}

void lend_begin(struct lend *l, struct lent *t)
{
	*t = (struct lent){ .loan = { .fn = taken },
		            .lend = l,
		            .prev = l->tail,
		            .since_ns = now_ns(l) };
	*l->tail = t;
	l->tail = &t->next;
	if (!l->bound_armed)
		clock_timer_arm(&l->bound, t->since_ns + LENT_NS_MAX);
	l->bound_armed = l->in_use = true;
	idle_lend(l->dev->host->idle, &t->loan);
}

void lend_end(struct lend *l, struct lent *t)
{
	u64 now = now_ns(l), took;

	*t->prev = t->next;
	if (t->next)
		t->next->prev = t->prev;
	else
		l->tail = t->prev;
	t->lend = NULL;
	if (!t->taken_ns)
		return;
	l->patience = 1;
	took = now - t->taken_ns;
	if (took > LONG_NS)
		l->paid_until_ns =
		    MAX(l->paid_until_ns, now) + took * LONG_TIMES;
}

void lend_recall(struct lend *l)
{
	for (struct lent *t = l->all, *next; t; t = next) {
		next = t->next;
		if (idle_take_back(l->dev->host->idle, &t->loan))
			l->go(t, false);
	}
}

/* Those in the list are in the order of time. While there are more to come, the
 * timer goes on: to set it takes a processor longer than all else here. */
void lend_bound(struct lend *l)
{
	u64 now = now_ns(l);
	struct lent *t, *next;

	for (t = l->all; t && t->since_ns + LENT_NS_MAX <= now; t = next) {
		next = t->next;
		if (!idle_take_back(l->dev->host->idle, &t->loan))
			continue;
		l->patience =
		    MIN(l->patience * PATIENCE_TIMES, (unsigned)PATIENCE_MAX);
		l->skip = l->patience;
		l->go(t, false);
	}
	l->bound_armed = l->in_use;
	l->in_use = t != NULL;
	if (l->bound_armed)
		clock_timer_arm(&l->bound,
		                (t ? t->since_ns : now) + LENT_NS_MAX);
}

void lend_init(struct lend *l, struct device *dev, lent_fn *go,
               void (*bound_reached)(void *dev))
{
	*l = (struct lend){ .dev = dev, .go = go, .patience = 1 };
	l->tail = &l->all;
	device_timer_init(dev, &l->bound, bound_reached);
}

void lend_fini(struct lend *l)
{
	device_lock(l->dev);
	l->over = true;
	device_unlock(l->dev);
	clock_timer_fini(&l->bound);
}
