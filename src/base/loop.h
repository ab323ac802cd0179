/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - the event loop: descriptors, timers, and calls from other threads.
 *
 * One thread runs a loop. Everything here is called on that thread, except
 * loop_post(), loop_quit(), and the timer calls, which any thread may make.
 * Callbacks run on the loop's thread and may add or remove anything,
 * themselves included.
 */
#pragma once

#include "base/types.h"

struct error;
struct loop;
struct loop_fd;

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 };

typedef void loop_fn(void *ctx);
typedef void loop_fd_fn(void *ctx, unsigned events);

int loop_create(struct loop **out, struct error *err) MUST_CHECK;
void loop_destroy(struct loop *loop); /* NULL is legal; not from inside */

/* Until loop_quit(). Returns the code given to it. */
int loop_run(struct loop *loop);
void loop_quit(struct loop *loop, int code);

/* Watch fd (borrowed) for events. Level-triggered; 0 events is a pause. */
struct loop_fd *loop_fd_add(struct loop *loop, int fd, unsigned events,
                            loop_fd_fn *fn, void *ctx);
void loop_fd_set(struct loop_fd *watch, unsigned events);
void loop_fd_remove(struct loop_fd *watch); /* NULL is legal */

/* Run fn on the loop's thread, in the order posted. */
void loop_post(struct loop *loop, loop_fn *fn, void *ctx);

/*
 * A timer on CLOCK_MONOTONIC, embedded in its owner. Any thread may arm or
 * cancel. loop_timer_cancel() does not wait for a callback already running on
 * the loop's thread; loop_timer_fini() does, unless called on that thread.
 */
struct loop_timer {
	struct loop *loop; /* borrowed */
	loop_fn *fn;
	void *ctx;
	u64 when_ns;  /* absolute; valid while armed */
	size_t index; /* in the heap, 1-based; 0: not armed */
};

void loop_timer_init(struct loop_timer *timer, struct loop *loop, loop_fn *fn,
                     void *ctx);
void loop_timer_arm(struct loop_timer *timer, u64 when_ns);
void loop_timer_cancel(struct loop_timer *timer);
void loop_timer_fini(struct loop_timer *timer);

u64 loop_now_ns(void); /* CLOCK_MONOTONIC */
