/* SPDX-License-Identifier: Apache-2.0 */
/*
 * same - a copy that idles gives back pages that it stored to and that are as
 * they were (guest/freeze.h), a quarter to a half of them; others are kept
 * small until somebody looks (guest/stash.h), where the engine asks for pages.
 * With them goes what the engine made of the guest's code, and what disks have
 * read of their tables; all of which is made anew, and read again. Some at a
 * time, while it stands still: soon after it began, ever more rarely, and when
 * the guest did something and idles again.
 */
#include <malloc.h>

#include "base/log.h"
#include "guest/freeze.h"
#include "guest/stash.h"
#include "machine/state/state.h"
#include "machine/steal.h"
#include "storage/block.h"

enum {
	LOOK_S = 2,
	/* From one round to the next... */
	FIRST_S = 4,
	MOST_S = 240,
	/* ...but that soon if so many pages came back. */
	SOON_S = 8,
	MANY = 64,
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

static bool is_worth(struct machine *m)
{
	u64 rested_ns = loop_now_ns() - m->same.round_ns;
	struct memory_stash_figures f;

	if (rested_ns >= m->same.wait_s * NSEC_PER_SEC)
		return true;
	memory_stash_figures(m->memory, &f);
	return rested_ns >= SOON_S * NSEC_PER_SEC &&
	       f.asked >= m->same.asked + MANY;
}

static void disks_let_go(struct machine *m)
{
	for (unsigned i = 0; i < m->config.disk_count; i++)
		block_let_go(m->blocks[i]);
}

static s64 put_away(struct machine *m, u64 until_ns)
{
	/* Pages may come when they are asked for. */
	if (!m->engine_type->memory_on_demand)
		return memory_drop_same(m->memory, &m->same.page, until_ns);
	m->engine_type->let_go(m->engine);
	return memory_stash(m->memory, &m->same.page, until_ns);
}

/* true: all has been looked at. */
static bool step(struct machine *m)
{
	s64 rc;

	machine_hold(m);
	state_quiesce(m);
	disks_let_go(m);
	rc = put_away(m, loop_now_ns() + STEP_MS * NSEC_PER_MSEC);
	machine_release(m);
	if (rc > 0)
		m->same.dropped += (u64)rc;
	return rc < 0 || m->same.page == memory_pages(m->memory);
}

static void round_ends(struct machine *m)
{
	struct memory_stash_figures f;

	memory_stash_figures(m->memory, &f);
	log_debug("machine",
	          "pages as before: %" PRIu64 ", kept small: %" PRIu64
	          " in %" PRIu64 " bytes",
	          m->same.dropped, f.pages, f.bytes);
	m->same.page = 0;
	m->same.wait_s = MIN(2 * m->same.wait_s, (u64)MOST_S);
	m->same.round_ns = loop_now_ns();
	m->same.asked = f.asked;
	/* Of what came back, of the packer, of what the disks had. */
	malloc_trim(0);
}

static void due(void *ctx)
{
	struct machine *m = ctx;

	if (m->ended)
		return;
	if (m->moment || (m->same.page == 0 && !(was_idle(m) && is_worth(m)))) {
		arm(m, LOOK_S * NSEC_PER_SEC);
	} else if (!step(m)) {
		arm(m, REST_MS * NSEC_PER_MSEC);
	} else {
		round_ends(m);
		arm(m, LOOK_S * NSEC_PER_SEC);
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
	m->same.round_ns = loop_now_ns();
	arm(m, LOOK_S * NSEC_PER_SEC);
}
