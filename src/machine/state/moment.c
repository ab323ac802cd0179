/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moment - a running machine as it is at one moment, saved or shared while it
 * goes on.
 *
 * The machine stands still while work under way comes back, vCPUs and devices
 * are written down, disks begin a copy of their contents of now, and memory is
 * frozen (guest/freeze.h). Then it runs again, unless somebody else has it
 * stand still. What was frozen is written by a thread; or it is given to
 * others, who map it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/thread.h"
#include "guest/freeze.h"
#include "guest/stash.h"
#include "machine/state/pages.h"
#include "machine/state/state.h"
#include "storage/jobs.h"

/*
 * Pages that the machine stored to since an earlier moment are moved ahead in
 * short standstills, over and over, as it goes on storing: with ever less time
 * of its own in between, and with longer ones if they do not get fewer, until
 * those that are left take little. What was moved is not moved again, so that
 * comes to an end however fast it stores; but where equal pages are shared
 * (memory_merge_equal()) it may be.
 */
enum {
	AHEAD_MS = 8, /* one of them */
	AHEAD_MOST_MS = 32,
	LAST_MS = 20, /* what may be left */
	REST_MS = 1,  /* in between, at least */
	LOOK_MS = 5,  /* between looks whether all of memory is there */
	ROUNDS_MAX = 64,
	FEW_PAGES = 4096,     /* take less than LAST_MS */
	LOOK_PAGES = 1 << 17, /* are looked at in less, too */
	ASIDE_PAGES = 1024,   /* unmapped at once: others wait as long */
};

struct ahead {
	bool known, much; /* whether there is anything to do ahead */
	u64 page;         /* where to go on */
	u64 found;
	u64 each_ns;
	u64 took_ns, took_before_ns; /* this round, and the last one */
	unsigned round;
};

struct machine_moment {
	struct machine *machine;
	struct machine_moment_config config; /* what is open is ours */
	struct loop_timer timer;
	struct ahead ahead;
	struct state_writer chunks;
	struct memory_view view;
	struct pages_work work;
	bool frozen, threaded;
	struct job *jobs[MACHINE_DISKS_MAX];
	u64 disk_bytes[MACHINE_DISKS_MAX];
	pthread_t thread;
	int rc;
	struct error err;
	struct machine_moment_result result;
};

static void close_disk(struct machine_moment_disk *d)
{
	block_close(d->target);
	if (d->scratch >= 0)
		close(d->scratch);
	d->target = NULL;
	d->scratch = -1;
}

static void moment_free(struct machine_moment *mo)
{
	struct machine *m = mo->machine;

	for (unsigned i = 0; i < mo->config.disk_count; i++) {
		job_destroy(mo->jobs[i]);
		close_disk(&mo->config.disks[i]);
	}
	if (mo->frozen) {
		memory_view_fini(&mo->view);
		memory_unview(m->memory);
	}
	settle_soon(m);
	state_writer_fini(&mo->chunks);
	loop_timer_fini(&mo->timer);
	close(mo->config.fd);
	m->moment = NULL;
	free(mo);
}

static void tell(struct machine_moment *mo)
{
	struct machine_moment_result *r = &mo->result;

	r->rc = mo->rc;
	r->err = &mo->err;
	if (mo->threaded)
		pthread_join(mo->thread, NULL);
	mo->threaded = false;
	if (mo->config.share && mo->rc == 0) {
		r->layers = mo->view.fd;
		r->layer_count = mo->view.layers;
		mo->frozen = false;
		mo->config.done(mo->config.ctx, r);
		memory_view_fini(&mo->view);
	} else {
		mo->config.done(mo->config.ctx, r);
	}
	moment_free(mo);
}

/* ---- while it runs again ---- */

static int write_memory(struct machine_moment *mo, struct state_file *f)
{
	struct pages_figures pages = { 0 };
	int rc =
	    pages_save(f, &mo->view,
	               mo->config.form == MACHINE_MEMORY_PLAIN ? PAGES_PLAIN
	                                                       : PAGES_PACKED,
	               &mo->work, &pages, &mo->err);

	mo->result.saved = (struct machine_saved){
		.pages = pages.pages,
		.zero = pages.zero,
		.duplicate = pages.duplicate,
		.stored_bytes = pages.stored_bytes,
	};
	return rc;
}

static int wait_for_disk(struct machine_moment *mo, unsigned i)
{
	struct job_status status;

	if (mo->rc < 0)
		job_cancel(mo->jobs[i]);
	if (job_wait_end(mo->jobs[i], -1) == JOB_DONE)
		return 0;
	job_status(mo->jobs[i], &status);
	if (status.state == JOB_CANCELLED)
		return error_set(&mo->err, -ECANCELED,
		                 "the saving was cancelled");
	return error_set(&mo->err, status.result ? status.result : -EIO,
	                 "cannot copy a disk: %s", status.words);
}

static int write_state(struct machine_moment *mo)
{
	struct state_file f;
	int rc =
	    state_begin(mo->machine, &f, mo->config.fd, &mo->chunks, &mo->err);

	if (rc == 0 && mo->config.share)
		rc = pages_share(&f, &mo->view, &mo->err);
	else if (rc == 0)
		rc = write_memory(mo, &f);
	return rc == 0 ? state_file_finish(&f, mo->config.sync, &mo->err) : rc;
}

static void written(void *ctx)
{
	struct machine *m = ctx;

	/* Unless the machine's end has waited for it. */
	if (m->moment)
		tell(m->moment);
}

static void *write_all(void *ctx)
{
	struct machine_moment *mo = ctx;

	while (!memory_drop_aside(mo->machine->memory, ASIDE_PAGES))
		;
	mo->rc = write_state(mo);
	for (unsigned i = 0; i < mo->config.disk_count; i++) {
		struct error first = mo->err;
		int rc = wait_for_disk(mo, i);

		if (mo->rc == 0)
			mo->rc = rc;
		else
			mo->err = first;
	}
	loop_post(mo->machine->loop, written, mo->machine);
	return NULL;
}

/* ---- the standstill ---- */

static void stand_still(struct machine_moment *mo, u64 *since_ns)
{
	*since_ns = loop_now_ns();
	machine_hold(mo->machine);
	state_quiesce(mo->machine);
}

static void go_on(struct machine_moment *mo, u64 since_ns)
{
	u64 ns;

	machine_release(mo->machine);
	ns = loop_now_ns() - since_ns;
	mo->result.pause_ns = MAX(mo->result.pause_ns, ns);
}

static int begin_disk(struct machine_moment *mo, unsigned i)
{
	static const struct job_options options = { 0 };
	struct machine_moment_disk *d = &mo->config.disks[i];
	struct block *live = machine_disk(mo->machine, d->disk);
	struct block_info info;
	int rc, scratch = d->scratch;

	if (!live)
		return error_set(&mo->err, -EINVAL, "there is no disk %u",
		                 d->disk);
	d->scratch = -1;
	block_info(d->target, &info);
	mo->disk_bytes[i] = info.size;
	rc = job_backup(&mo->jobs[i], live, d->target, true, NULL, scratch,
	                &options, &mo->err);
	if (rc == 0)
		d->target = NULL;
	return rc;
}

static int take(struct machine_moment *mo)
{
	struct machine *m = mo->machine;
	int rc = mo->config.still ? state_flush_disks(m, &mo->err) : 0;

	for (unsigned i = 0; rc == 0 && i < mo->config.disk_count; i++)
		rc = begin_disk(mo, i);
	if (rc == 0 && mo->config.disks_now)
		rc = mo->config.disks_now(mo->config.ctx, &mo->err);
	if (rc < 0)
		return rc;
	rc = state_collect(m, &mo->chunks, &mo->err);
	if (rc == 0) {
		rc = memory_freeze(m->memory, &mo->view, &mo->err);
		mo->frozen = rc == 0;
	}
	return rc;
}

/* While it stands still. */
static void take_moment(struct machine_moment *mo, u64 since_ns)
{
	u64 pages;

	if (mo->machine->ended)
		mo->rc =
		    error_set(&mo->err, -ESHUTDOWN, "the machine has ended");
	else if (atomic_load(&mo->work.stop))
		mo->rc =
		    error_set(&mo->err, -ECANCELED, "the saving was cancelled");
	else
		mo->rc = take(mo);
	go_on(mo, since_ns);
	if (mo->rc == 0) {
		atomic_store(&mo->machine->handed_back, false);
		machine_resident(mo->machine, &pages, &mo->machine->moment_own);
	}
	if (mo->rc == 0 && mo->config.share) {
		mo->rc = write_state(mo);
		tell(mo);
		return;
	}
	if (mo->rc == 0)
		mo->rc = thread_start(&mo->thread, 0, write_all, mo);
	if (mo->rc < 0)
		tell(mo);
	else
		mo->threaded = true;
}

/* Without a look at each page, which takes as long as in the standstill. */
static bool is_little(const struct machine *m)
{
	u64 pages, own;

	machine_resident(m, &pages, &own);
	return pages && m->moment_own && !atomic_load(&m->handed_back) &&
	       pages < LOOK_PAGES && own < m->moment_own + FEW_PAGES / 2;
}

/* While the machine runs: is there more than little to do? true: that is known.
 */
static bool count(struct machine_moment *mo)
{
	struct memory *mem = mo->machine->memory;
	struct ahead *a = &mo->ahead;
	u64 since_ns = thread_cpu_ns();
	u64 most = is_little(mo->machine) ? 0 : FEW_PAGES + 1 - a->found;
	s64 n = memory_freeze_count(mem, &a->page, most);

	a->took_ns += thread_cpu_ns() - since_ns;
	a->found += n < 0 ? FEW_PAGES + 1 : (u64)n;
	a->much =
	    a->found > FEW_PAGES || a->took_ns > LAST_MS / 2 * NSEC_PER_MSEC;
	a->known = a->much || a->page >= memory_pages(mem);
	if (a->known)
		a->page = a->took_ns = 0;
	return a->known;
}

/* All of memory was looked at: whether what is left is little. */
static bool round_done(struct ahead *a)
{
	if (a->took_ns <= LAST_MS * NSEC_PER_MSEC || ++a->round == ROUNDS_MAX)
		return true;
	if (a->round > 1 && a->took_ns > a->took_before_ns / 2)
		a->each_ns = MIN(a->each_ns * 2, AHEAD_MOST_MS * NSEC_PER_MSEC);
	a->took_before_ns = a->took_ns;
	a->took_ns = 0;
	a->page = 0;
	return false;
}

/* Whether to stand still for the rest of it, now. What can't be done ahead is
 * then done, or said to be impossible. */
static bool ahead_done(struct machine_moment *mo)
{
	struct memory *mem = mo->machine->memory;
	struct ahead *a = &mo->ahead;
	u64 since_ns = loop_now_ns();

	if (memory_freeze_ahead(mem, &a->page, since_ns + a->each_ns) < 0)
		return true;
	a->took_ns += loop_now_ns() - since_ns;
	return a->page >= memory_pages(mem) && round_done(a);
}

/* Before the last of it. */
static void soon(struct machine_moment *mo)
{
	if (mo->ahead.round > 0 && mo->ahead.page == 0 && mo->config.soon)
		mo->config.soon(mo->config.ctx);
}

static void step(void *ctx)
{
	struct machine_moment *mo = ctx;
	const bool over = mo->machine->ended || atomic_load(&mo->work.stop);
	const bool now = over || mo->config.still;
	u64 since_ns, rest_ns;

	/* A machine that has just gone on from another moment. */
	if (!over && !pages_source_done(mo->machine->source)) {
		loop_timer_arm(&mo->timer,
		               loop_now_ns() + LOOK_MS * NSEC_PER_MSEC);
		return;
	}
	if (!now && !mo->ahead.known && !count(mo)) {
		loop_timer_arm(&mo->timer, loop_now_ns());
		return;
	}
	stand_still(mo, &since_ns);
	if (now || !mo->ahead.much || ahead_done(mo)) {
		take_moment(mo, since_ns);
		return;
	}
	go_on(mo, since_ns);
	rest_ns = MAX((loop_now_ns() - since_ns) >> MIN(mo->ahead.round, 16u),
	              REST_MS * NSEC_PER_MSEC);
	soon(mo);
	loop_timer_arm(&mo->timer, loop_now_ns() + rest_ns);
}

int machine_moment(struct machine *m,
                   const struct machine_moment_config *config,
                   struct error *err)
{
	struct machine_moment *mo;
	int rc = state_may_save(m, err);

	if (rc == 0 && m->moment)
		rc = error_set(err, -EBUSY,
		               "the machine is being saved "
		               "already");
	if (rc < 0)
		return rc;
	memory_unstash(m->memory);
	mo = xalloc(sizeof(*mo));
	mo->machine = m;
	mo->config = *config;
	loop_timer_init(&mo->timer, m->loop, step, mo);
	mo->ahead.each_ns = AHEAD_MS * NSEC_PER_MSEC;
	m->moment = mo;
	step(mo);
	return 0;
}

void machine_moment_progress(struct machine *m, u64 *done, u64 *total)
{
	struct machine_moment *mo = m->moment;
	struct job_status s;

	*done = *total = 0;
	if (!mo)
		return;
	*done = atomic_load(&mo->work.done);
	*total = MAX(atomic_load(&mo->work.total), *done);
	for (unsigned i = 0; i < mo->config.disk_count; i++) {
		if (!mo->jobs[i])
			continue;
		job_status(mo->jobs[i], &s);
		*done += s.done;
		/* One whose thread has not begun knows no total. */
		*total += MAX(s.total ? s.total : mo->disk_bytes[i], s.done);
	}
}

void machine_moment_cancel(struct machine *m)
{
	struct machine_moment *mo = m->moment;

	if (!mo)
		return;
	atomic_store(&mo->work.stop, true);
	for (unsigned i = 0; i < mo->config.disk_count; i++)
		if (mo->jobs[i])
			job_cancel(mo->jobs[i]);
}

void moment_finish(struct machine *m)
{
	struct machine_moment *mo = m->moment;

	if (!mo)
		return;
	if (!mo->threaded)
		mo->rc =
		    error_set(&mo->err, -ESHUTDOWN, "the machine has ended");
	tell(mo);
}

void machine_unshare(struct machine *m)
{
	memory_unview(m->memory);
	settle_soon(m);
}
