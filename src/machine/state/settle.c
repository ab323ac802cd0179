/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settle - memory that was frozen for somebody becomes the machine's alone
 * again: some pages at a time, so that the guest hardly notices. What was moved
 * aside is taken down by a thread.
 */
#include "base/thread.h"
#include "guest/freeze.h"
#include "machine/state/state.h"

enum { STEP_MS = 5, REST_MS = 20, ASIDE_PAGES = 1024 };

static void arm(struct machine *m)
{
	loop_timer_arm(&m->settle, loop_now_ns() + REST_MS * NSEC_PER_MSEC);
}

static void dropped(void *ctx)
{
	struct machine *m = ctx;

	if (!m->dropping)
		return;
	pthread_join(m->dropper, NULL);
	m->dropping = false;
	arm(m);
}

static void *drop_all(void *ctx)
{
	struct machine *m = ctx;

	while (!memory_drop_aside(m->memory, ASIDE_PAGES))
		;
	loop_post(m->loop, dropped, m);
	return NULL;
}

static void step(void *ctx)
{
	struct machine *m = ctx;
	u64 pages = m->settle_pace.pages, since_ns;
	bool done;

	if (m->ended || m->moment || m->dropping)
		return;
	if (memory_has_aside(m->memory)) {
		m->dropping = thread_start(&m->dropper, 0, drop_all, m) == 0;
		if (!m->dropping)
			arm(m);
		return;
	}
	since_ns = loop_now_ns();
	machine_hold(m);
	state_quiesce(m);
	done = memory_settle(m->memory, pages);
	machine_release(m);
	pace_took(&m->settle_pace, pages, loop_now_ns() - since_ns);
	if (!done || memory_has_aside(m->memory))
		arm(m);
}

void settle_init(struct machine *m)
{
	loop_timer_init(&m->settle, m->loop, step, m);
	pace_begin(&m->settle_pace, STEP_MS * NSEC_PER_MSEC);
}

void settle_fini(struct machine *m)
{
	loop_timer_fini(&m->settle);
	if (m->dropping)
		pthread_join(m->dropper, NULL);
	m->dropping = false;
}

void settle_soon(struct machine *m)
{
	arm(m);
}
