/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settle - memory that was frozen for somebody becomes the machine's alone
 * again: some pages at a time, so that the guest hardly notices.
 */
#include "guest/freeze.h"
#include "machine/state/state.h"

enum { STEP_PAGES = 4096, REST_MS = 20 };

static void arm(struct machine *m)
{
	loop_timer_arm(&m->settle, loop_now_ns() + REST_MS * NSEC_PER_MSEC);
}

static void step(void *ctx)
{
	struct machine *m = ctx;
	bool done;

	if (m->ended || m->moment)
		return;
	machine_hold(m);
	state_quiesce(m);
	done = memory_settle(m->memory, STEP_PAGES);
	machine_release(m);
	if (!done)
		arm(m);
}

void settle_init(struct machine *m)
{
	loop_timer_init(&m->settle, m->loop, step, m);
}

void settle_fini(struct machine *m)
{
	loop_timer_fini(&m->settle);
}

void settle_soon(struct machine *m)
{
	arm(m);
}
