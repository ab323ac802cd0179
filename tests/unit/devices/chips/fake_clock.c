/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_clock - guest/clock.h on time that moves when a test says so.
 */
#include "fake_clock.h"

#include <stdlib.h>

#include "base/alloc.h"

struct clock {
	u64 now_ns;
	struct clock_timer *timers;
};

int clock_create(struct clock **out, struct loop *loop)
{
	(void)loop;
	*out = xalloc(sizeof(**out));
	return 0;
}

void clock_destroy(struct clock *clock)
{
	free(clock);
}

u64 clock_now_ns(const struct clock *clock)
{
	return clock->now_ns;
}

void clock_start(struct clock *clock)
{
	(void)clock;
}

void clock_stop(struct clock *clock)
{
	(void)clock;
}

void clock_set_ns(struct clock *clock, u64 now_ns)
{
	clock->now_ns = now_ns;
}

void clock_timer_init(struct clock_timer *t, struct clock *clock,
                      pthread_mutex_t *lock, void (*fn)(void *), void *ctx)
{
	*t = (struct clock_timer){
		.clock = clock,
		.lock = lock,
		.fn = fn,
		.ctx = ctx,
		.next = clock->timers,
		.prev = &clock->timers,
	};
	if (t->next)
		t->next->prev = &t->next;
	clock->timers = t;
}

void clock_timer_arm(struct clock_timer *t, u64 when_ns)
{
	t->armed = true;
	t->when_ns = when_ns;
}

void clock_timer_cancel(struct clock_timer *t)
{
	t->armed = false;
}

void clock_timer_fini(struct clock_timer *t)
{
	*t->prev = t->next;
	if (t->next)
		t->next->prev = t->prev;
}

static struct clock_timer *first_due(struct clock *clock, u64 until_ns)
{
	struct clock_timer *first = NULL;

	for (struct clock_timer *t = clock->timers; t; t = t->next)
		if (t->armed && t->when_ns <= until_ns &&
		    (!first || t->when_ns < first->when_ns))
			first = t;
	return first;
}

unsigned fake_clock_advance(struct clock *clock, u64 ns)
{
	u64 until_ns = clock->now_ns + ns;
	struct clock_timer *t;
	unsigned fired = 0;

	while ((t = first_due(clock, until_ns)) != NULL) {
		clock->now_ns = MAX(clock->now_ns, t->when_ns);
		t->armed = false;
		if (t->lock)
			pthread_mutex_lock(t->lock);
		t->fn(t->ctx);
		if (t->lock)
			pthread_mutex_unlock(t->lock);
		fired++;
	}
	clock->now_ns = until_ns;
	return fired;
}

unsigned fake_clock_armed(const struct clock *clock)
{
	unsigned armed = 0;

	for (const struct clock_timer *t = clock->timers; t; t = t->next)
		armed += t->armed;
	return armed;
}
