/* SPDX-License-Identifier: Apache-2.0 */
/*
 * same - a copy that idles gives back pages that it stored to and that are as
 * they were (guest/freeze.h), a quarter to a half of them; others are kept
 * small until somebody looks (guest/stash.h), where the engine asks for pages.
 * Some at a time, while it stands still; soon after it began, and ever more
 * rarely: the engine makes anew what it made of the guest's code.
 */
#include "base/log.h"
#include "guest/freeze.h"
#include "guest/stash.h"
#include "machine/state/state.h"
#include "machine/steal.h"

enum {
	FIRST_S = 4,
	MOST_S = 60,
	/* Fewer that came back are left, but for every so many times. */
	MANY = 128,
	TIMES = 4,
	STEP_MS = 2,
	REST_MS = 20,
	BUSY_PART = 20, /* of a processor: who has that is not idle */
};

static void arm(struct machine *m, u64 ns)
{
	loop_timer_arm(&m->same.timer, loop_now_ns() + ns);
}

static bool was_idle(struct machine *m)
{
	u64 now_ns = loop_now_ns(), ran_ns = 0, before = m->same.ran_ns;
	u64 took_ns = now_ns - m->same.looked_ns;

	for (unsigned i = 0; i < m->present; i++) {
		struct cpu_times t;

		steal_times(&m->cpus[i], &t);
		ran_ns += t.run_ns;
	}
	m->same.looked_ns = now_ns;
	m->same.ran_ns = ran_ns;
	return ran_ns - before < took_ns / BUSY_PART;
}

/* Once there are rounds all the time, they are for what came back. */
static bool is_worth(struct machine *m)
{
	struct memory_stash_figures f;

	memory_stash_figures(m->memory, &f);
	if (m->same.wait_s == MOST_S && f.asked < m->same.asked + MANY &&
	    ++m->same.left < TIMES)
		return false;
	m->same.asked = f.asked;
	m->same.left = 0;
	return true;
}

/* Pages may come when they are asked for. */
static bool let_go(struct machine *m)
{
	const struct engine_type *type = m->engine_type;

	if (!type->memory_on_demand)
		return false;
	for (unsigned i = 0; i < m->config.cpus; i++)
		type->vcpu_let_go(m->cpus[i].vcpu);
	return true;
}

/* true: all has been looked at. */
static bool step(struct machine *m)
{
	u64 until_ns;
	s64 rc;

	machine_hold(m);
	state_quiesce(m);
	until_ns = loop_now_ns() + STEP_MS * NSEC_PER_MSEC;
	if (let_go(m))
		rc = memory_stash(m->memory, &m->same.page, until_ns);
	else
		rc = memory_drop_same(m->memory, &m->same.page, until_ns);
	machine_release(m);
	if (rc > 0)
		m->same.dropped += (u64)rc;
	return rc < 0 || m->same.page == memory_pages(m->memory);
}

static void due(void *ctx)
{
	struct machine *m = ctx;

	if (m->ended)
		return;
	if (m->moment || (m->same.page == 0 && !(was_idle(m) && is_worth(m)))) {
		arm(m, m->same.wait_s * NSEC_PER_SEC);
	} else if (!step(m)) {
		arm(m, REST_MS * NSEC_PER_MSEC);
	} else {
		log_debug("machine", "pages as before: %" PRIu64,
		          m->same.dropped);
		m->same.page = 0;
		m->same.wait_s = MIN(2 * m->same.wait_s, (u64)MOST_S);
		arm(m, m->same.wait_s * NSEC_PER_SEC);
	}
}

void same_init(struct machine *m)
{
	loop_timer_init(&m->same.timer, m->loop, due, m);
	m->same.wait_s = FIRST_S;
}

void same_fini(struct machine *m)
{
	loop_timer_fini(&m->same.timer);
}

void same_begin(struct machine *m)
{
	/* Of others nobody has what lies below. */
	if (!m->config.restore_layer_count || memory_merges(m->memory))
		return;
	(void)was_idle(m);
	arm(m, m->same.wait_s * NSEC_PER_SEC);
}
