/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.h - the machine's own time, and timers on it.
 *
 * Nanoseconds since the machine first ran; it stands still while the machine
 * is paused and goes on from the saved value after a restore. Any thread may
 * read it, arm or cancel. Callbacks run on the loop's thread with the timer's
 * lock (its device's) held.
 */
#pragma once

#include <pthread.h>

#include "base/loop.h"
#include "base/types.h"

struct clock;

int clock_create(struct clock **out, struct loop *loop) MUST_CHECK;
void clock_destroy(struct clock *clock);

u64 clock_now_ns(const struct clock *clock);
/* Starts stopped at 0. Stopping holds every timer; starting re-arms them. */
void clock_start(struct clock *clock);
void clock_stop(struct clock *clock);
void clock_set_ns(struct clock *clock, u64 now_ns); /* while stopped */

struct clock_timer {
	struct clock *clock;   /* borrowed */
	pthread_mutex_t *lock; /* borrowed; may be NULL */
	void (*fn)(void *ctx);
	void *ctx;
	bool armed;
	u64 when_ns; /* machine time */
	struct loop_timer host;
	struct clock_timer *next, **prev; /* in the clock's list */
};

void clock_timer_init(struct clock_timer *timer, struct clock *clock,
                      pthread_mutex_t *lock, void (*fn)(void *), void *ctx);
void clock_timer_arm(struct clock_timer *timer, u64 when_ns);
/* Both do nothing to one that is not made, or not any more. */
void clock_timer_cancel(struct clock_timer *timer);
void clock_timer_fini(struct clock_timer *timer);
