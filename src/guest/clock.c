/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.c - machine time is host time less an offset that changes whenever
 * the clock stops and starts.
 *
 * Lock order: the device's lock, then the clock's. A timer that fires takes
 * the device's lock first and looks again whether it is armed and due: one
 * cancelled or moved in between does nothing.
 */
#include "guest/clock.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"

struct clock {
	struct loop *loop;
	_Atomic bool running;
	_Atomic u64 offset_ns; /* running: host time at machine time 0 */
	_Atomic u64 stopped_ns;
	pthread_mutex_t lock; /* the list, and armed and when_ns of each */
	struct clock_timer *timers;
};

int clock_create(struct clock **out, struct loop *loop)
{
	struct clock *clock = xalloc(sizeof(*clock));

	clock->loop = loop;
	pthread_mutex_init(&clock->lock, NULL);
	*out = clock;
	return 0;
}

void clock_destroy(struct clock *clock)
{
	if (!clock)
		return;
	ASSERT(!clock->timers);
	pthread_mutex_destroy(&clock->lock);
	free(clock);
}

u64 clock_now_ns(const struct clock *clock)
{
	if (!clock->running)
		return clock->stopped_ns;
	return loop_now_ns() - clock->offset_ns;
}

void clock_start(struct clock *clock)
{
	pthread_mutex_lock(&clock->lock);
	if (!clock->running) {
		clock->offset_ns = loop_now_ns() - clock->stopped_ns;
		clock->running = true;
		for (struct clock_timer *t = clock->timers; t; t = t->next)
			if (t->armed)
				loop_timer_arm(&t->host,
				               t->when_ns + clock->offset_ns);
	}
	pthread_mutex_unlock(&clock->lock);
}

void clock_stop(struct clock *clock)
{
	pthread_mutex_lock(&clock->lock);
	if (clock->running) {
		clock->stopped_ns = loop_now_ns() - clock->offset_ns;
		clock->running = false;
		for (struct clock_timer *t = clock->timers; t; t = t->next)
			loop_timer_cancel(&t->host);
	}
	pthread_mutex_unlock(&clock->lock);
}

void clock_set_ns(struct clock *clock, u64 now_ns)
{
	pthread_mutex_lock(&clock->lock);
	ASSERT(!clock->running);
	clock->stopped_ns = now_ns;
	pthread_mutex_unlock(&clock->lock);
}

static void host_fired(void *ctx)
{
	struct clock_timer *t = ctx;
	struct clock *clock = t->clock;
	bool due;

	if (t->lock)
		pthread_mutex_lock(t->lock);
	pthread_mutex_lock(&clock->lock);
	due = t->armed && clock->running && t->when_ns <= clock_now_ns(clock);
	if (due)
		t->armed = false;
	pthread_mutex_unlock(&clock->lock);
	if (due)
		t->fn(t->ctx);
	if (t->lock)
		pthread_mutex_unlock(t->lock);
}

void clock_timer_init(struct clock_timer *t, struct clock *clock,
                      pthread_mutex_t *lock, void (*fn)(void *), void *ctx)
{
	*t = (struct clock_timer){
		.clock = clock, .lock = lock, .fn = fn, .ctx = ctx
	};
	loop_timer_init(&t->host, clock->loop, host_fired, t);
	pthread_mutex_lock(&clock->lock);
	t->next = clock->timers;
	t->prev = &clock->timers;
	if (t->next)
		t->next->prev = &t->next;
	clock->timers = t;
	pthread_mutex_unlock(&clock->lock);
}

void clock_timer_arm(struct clock_timer *t, u64 when_ns)
{
	struct clock *clock = t->clock;

	pthread_mutex_lock(&clock->lock);
	t->armed = true;
	/* Kept clear of overflow: the far future is never reached. */
	t->when_ns = MIN(when_ns, (u64)INT64_MAX / 2);
	if (clock->running)
		loop_timer_arm(&t->host, t->when_ns + clock->offset_ns);
	pthread_mutex_unlock(&clock->lock);
}

void clock_timer_cancel(struct clock_timer *t)
{
	if (!t->clock)
		return;
	pthread_mutex_lock(&t->clock->lock);
	t->armed = false;
	loop_timer_cancel(&t->host);
	pthread_mutex_unlock(&t->clock->lock);
}

void clock_timer_fini(struct clock_timer *t)
{
	if (!t->clock)
		return;
	pthread_mutex_lock(&t->clock->lock);
	t->armed = false;
	*t->prev = t->next;
	if (t->next)
		t->next->prev = t->prev;
	pthread_mutex_unlock(&t->clock->lock);
	loop_timer_fini(&t->host);
	t->clock = NULL;
}
