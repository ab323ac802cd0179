/* SPDX-License-Identifier: Apache-2.0 */
#include "jobs_model.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "model.h"
#include "recorder.h"
#include "storage/core/chain.h"
#include "storage/qcow2/qcow2.h"
#include "support.h"

#define SIZE (2 * MIB + 192 * KIB + 512)
enum { SECTOR = 512, SECTORS = SIZE / SECTOR, BATCH = 6, BATCHES = 200 };

/* Recorders, by the names that images use. */
enum { BASE, MIDDLE, TOP, OVER, COPY, BACKUP, DISKS };
static const char *const names[] = { "base", "middle", "top",
	                             "over", "copy",   "backup" };

struct event {
	u32 sector, stamp;
};

struct model {
	const struct jobs_options *o;
	struct jobs_figures *figures;
	u32 random, cut_random, next_stamp; /* cut_random: the job's thread's */
	struct recorder *disk[DISKS];
	bool raw[DISKS];
	int current; /* what a restart would open: as a manager records it */
	struct block *live;
	struct job *job;
	u32 now[SECTORS], stable[SECTORS], point[SECTORS];
	struct event *log; /* since the last flush */
	size_t log_count, log_room;
};

static u32 pick(struct model *m, u32 n)
{
	return random_next(&m->random) % n;
}

static struct error last_error;

static void must(struct model *m, int rc, const char *what)
{
	if (rc < 0)
		fail_msg("work %d, seed %u: %s: %s (%s)", m->o->work,
		         m->o->seed, what, strerror(-rc), last_error.text);
}

/* ---- images ---- */

static void make_image(struct model *m, int which, const char *backing,
                       const char *format)
{
	const struct image_create how = { .size = SIZE,
		                          .cluster_bytes = 4096u << pick(m, 5),
		                          .backing = backing,
		                          .backing_format = format,
		                          .lazy_refcounts = pick(m, 4) == 0 };
	struct block *file = recorder_open(m->disk[which]);

	must(m, qcow2_create_on(file, &how, &last_error), "create");
	block_close(file);
}

static int open_image(struct model *m, int which, bool writable,
                      struct block **out)
{
	const struct block_open how = {
		.path = names[which],
		.cache_bytes = 64 * KIB,
		.flags =
		    IMAGE_OPEN_NO_BACKING | (writable ? 0 : BLOCK_OPEN_READONLY)
	};
	struct block *file = recorder_open(m->disk[which]);

	if (!m->raw[which])
		return qcow2_open_on(out, file, &how, 0, &last_error);
	file->unbounded = false;
	file->info.readonly = !writable;
	*out = file;
	return 0;
}

static int by_name(const char *name)
{
	for (int i = 0; i < DISKS; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	fail_msg("no image is called %s", name);
	return -1;
}

/* An image and all below it, as the headers say. */
static struct block *open_chain(struct model *m, int which, bool writable)
{
	struct image_details d;
	struct block *b;

	must(m, open_image(m, which, writable, &b), names[which]);
	image_details(b, &d);
	if (!m->raw[which] && d.backing)
		(void)chain_swap_backing(
		    b, open_chain(m, by_name(d.backing), false));
	image_details_free(&d);
	return b;
}

/* ---- the guest ---- */

struct request {
	struct block_request req;
	struct iovec iov;
	u8 *data;
	u32 stamp;
	int result;
	sem_t *done;
};

static void request_done(struct block_request *req, int result)
{
	struct request *r = req->ctx;

	r->result = result;
	sem_post(r->done);
}

static bool sector_is(const u8 *data, u64 sector, u32 stamp)
{
	static const u8 zero[SECTOR];

	return stamp ? pattern_holds(data, sector * SECTOR, SECTOR, stamp)
	             : memcmp(data, zero, SECTOR) == 0;
}

static void note(struct model *m, u64 sector, u32 stamp)
{
	if (m->log_count == m->log_room) {
		m->log_room = m->log_room ? m->log_room * 2 : 4096;
		m->log = xrealloc(m->log, m->log_room * sizeof(*m->log));
	}
	m->log[m->log_count++] = (struct event){ (u32)sector, stamp };
}

static bool overlaps(const struct request *r, int n, u64 offset, u64 length)
{
	for (int i = 0; i < n; i++)
		if (offset < r[i].req.offset + r[i].req.length &&
		    r[i].req.offset < offset + length)
			return true;
	return false;
}

static void prepare(struct model *m, struct request *r, u64 offset, u64 length,
                    sem_t *done)
{
	u32 kind = pick(m, 8);

	*r = (struct request){ .data = xalloc(length), .done = done };
	r->iov = (struct iovec){ r->data, length };
	r->req = (struct block_request){
		.op = kind < 2    ? BLOCK_READ
		      : kind == 2 ? BLOCK_WRITE_ZEROES
		                  : BLOCK_WRITE,
		.flags = pick(m, 2) ? BLOCK_REQ_INLINE : 0,
		.offset = offset,
		.length = length,
		.iov = &r->iov,
		.iov_count = 1,
		.done = request_done,
		.ctx = r,
	};
	if (r->req.op == BLOCK_WRITE) {
		r->stamp = m->next_stamp++;
		pattern_fill(r->data, offset, length, r->stamp);
	}
	for (u64 s = offset / SECTOR;
	     r->req.op != BLOCK_READ && s < (offset + length) / SECTOR; s++)
		note(m, s, r->stamp);
}

static bool was_cut(const struct model *m)
{
	for (int i = 0; i < DISKS; i++)
		if (recorder_was_cut(m->disk[i]))
			return true;
	return false;
}

static void account(struct model *m, struct request *r)
{
	u64 first = r->req.offset / SECTOR;

	if (r->result < 0 && !was_cut(m))
		must(m, r->result, "a request");
	for (u64 i = 0; r->result == 0 && i < r->req.length / SECTOR; i++) {
		if (r->req.op != BLOCK_READ)
			m->now[first + i] = r->stamp;
		else if (!sector_is(r->data + i * SECTOR, first + i,
		                    m->now[first + i]))
			fail_msg("work %d, seed %u: sector %llu is not what "
			         "write %u left",
			         m->o->work, m->o->seed,
			         (unsigned long long)(first + i),
			         m->now[first + i]);
	}
	free(r->data);
}

/* False: the power is gone. */
static bool batch(struct model *m)
{
	struct request r[BATCH];
	bool all = true;
	sem_t done;
	int n = 0;

	sem_init(&done, 0, 0);
	for (int i = 0; i < BATCH; i++) {
		u64 start = pick(m, SECTORS - 1);
		u64 length = 1 + pick(m, pick(m, 4) ? 16 : 300);

		length = MIN(length, SECTORS - start) * SECTOR;
		if (overlaps(r, n, start * SECTOR, length))
			continue;
		prepare(m, &r[n++], start * SECTOR, length, &done);
	}
	for (int i = 0; i < n; i++)
		block_submit(m->live, &r[i].req);
	for (int i = 0; i < n; i++)
		sem_wait(&done);
	block_drain(m->live);
	for (int i = 0; i < n; i++) {
		all &= r[i].result == 0;
		account(m, &r[i]);
	}
	sem_destroy(&done);
	m->figures->requests += (u64)n;
	if (all && pick(m, 5) == 0) {
		int rc = block_sync(m->live, BLOCK_FLUSH, 0, NULL, 0);

		if (rc == 0) {
			memcpy(m->stable, m->now, sizeof(m->now));
			m->log_count = 0;
		} else if (!was_cut(m)) {
			must(m, rc, "flush");
		}
		all = rc == 0;
	}
	return all && !was_cut(m);
}

/* ---- comparing ---- */

static void holds(struct model *m, struct block *b, const u32 *want,
                  bool or_log, const char *what)
{
	u8 *data = xalloc(SIZE);

	must(m, block_sync(b, BLOCK_READ, 0, data, SIZE), what);
	for (u64 s = 0; s < SECTORS; s++) {
		const u8 *p = data + s * SECTOR;
		bool ok = sector_is(p, s, want[s]);

		for (size_t k = 0; or_log && !ok && k < m->log_count; k++)
			ok = m->log[k].sector == s &&
			     sector_is(p, s, m->log[k].stamp);
		if (ok)
			continue;
		for (u32 w = 0; w < m->next_stamp; w++)
			if (sector_is(p, s, w))
				print_message("it holds %u\n", w);
		fail_msg("work %d, seed %u: %s: sector %llu is not what write "
		         "%u left",
		         m->o->work, m->o->seed, what, (unsigned long long)s,
		         want[s]);
	}
	free(data);
}

/* An image with lazy refcounts that was not closed says so, and is repaired
 * when it is next opened for writing. */
static void repair(struct model *m, int which)
{
	struct block *b;

	must(m, open_image(m, which, true, &b), "repair");
	block_close(b);
}

static void judge(struct model *m, int which)
{
	struct image_check found = { 0 };
	struct block_open how = { .path = names[which],
		                  .flags = IMAGE_OPEN_NO_BACKING |
		                           IMAGE_OPEN_AS_IS };
	struct block *b;

	if (m->raw[which])
		return;
	repair(m, which);
	must(m,
	     qcow2_open_on(&b, recorder_open(m->disk[which]), &how, 0,
	                   &last_error),
	     "check");
	must(m, image_check(b, 0, &found, &last_error), "check");
	if (found.corruptions)
		fail_msg("work %d, seed %u: %s is corrupt", m->o->work,
		         m->o->seed, names[which]);
	block_close(b);
}

/* ---- the work ---- */

static void cut_soon(struct model *m)
{
	for (int d = 0; d < DISKS; d++)
		recorder_cut_after(m->disk[d],
		                   1 + random_next(&m->cut_random) % 30);
}

/* Half of the cuts come just when one image takes another's place. */
static bool cut_at_change(const struct model *m)
{
	return m->o->cut && m->o->seed & 2 && m->o->work < WORK_REBASE_LAYER;
}

/* What a job that follows the guest writes to. */
static int target(const struct model *m)
{
	return m->o->work == WORK_COMMIT_TOP   ? MIDDLE
	       : m->o->work == WORK_COMMIT_ALL ? BASE
	                                       : COPY;
}

static void changed(void *ctx)
{
	struct model *m = ctx;

	if (cut_at_change(m) && m->o->work == WORK_COMMIT_BELOW)
		cut_soon(m);
}

static int record(void *ctx)
{
	struct model *m = ctx;

	if (cut_at_change(m))
		cut_soon(m);
	/* The disk is to work when it is the guest's. */
	if (m->o->fail)
		recorder_fail_writes(m->disk[target(m)], 0, 0);
	m->current = m->o->work == WORK_SNAPSHOT     ? OVER
	             : m->o->work == WORK_MIRROR     ? COPY
	             : m->o->work == WORK_COMMIT_TOP ? MIDDLE
	             : m->o->work == WORK_COMMIT_ALL ? BASE
	                                             : m->current;
	return 0;
}

static int open_base(void *ctx, struct block **out, struct error *err)
{
	struct model *m = ctx;
	int which = m->o->work == WORK_COMMIT_TOP ? MIDDLE : BASE;
	int rc = open_image(m, which, true, out);

	if (rc < 0)
		*err = last_error;
	return rc;
}

static int scratch(void)
{
	char *path = scratch_path(".scratch");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	unlink(path);
	free(path);
	return fd;
}

static struct block *new_target(struct model *m, int which)
{
	struct block *b;

	make_image(m, which, NULL, NULL);
	must(m, open_image(m, which, true, &b), "target");
	return b;
}

/* A first, full backup; then the guest goes on, and a bitmap records. */
static struct block *earlier_backup(struct model *m)
{
	struct block *target = new_target(m, COPY);
	struct job *job;

	must(m,
	     image_bitmap_create(live_image(m->live), "b", 4096, &last_error),
	     "bitmap");
	must(m,
	     job_backup(&job, m->live, target, true, NULL, scratch(), NULL,
	                &last_error),
	     "backup");
	while (job_wait(job, 0) < JOB_DONE)
		batch(m);
	assert_int_equal(job_wait(job, 0), JOB_DONE);
	job_destroy(job);
	make_image(m, BACKUP, names[COPY], "qcow2");
	return open_chain(m, BACKUP, true);
}

/* Of another size, and it holds nothing that the disk does. */
static struct block *other_base(struct model *m)
{
	struct block *b;
	u8 *data = xalloc(MIB);

	make_image(m, COPY, NULL, NULL);
	must(m, open_image(m, COPY, true, &b), "another");
	must(m, block_resize(b, SIZE - 256 * KIB, &last_error), "another");
	pattern_fill(data, 0, MIB, UINT32_MAX);
	must(m, block_sync(b, BLOCK_WRITE, 512 * KIB, data, MIB), "another");
	block_close(b);
	free(data);
	must(m, open_image(m, COPY, false, &b), "another");
	return b;
}

static int rebase(struct model *m, const struct job_options *options)
{
	struct job_rebase how = { .name = names[COPY], .format = "qcow2" };
	int rc;

	if (m->o->work == WORK_REBASE_LAYER) {
		how.layer = 2;
		how.name = names[BASE];
		how.format = m->raw[BASE] ? "raw" : "qcow2";
	} else if (m->o->work == WORK_REBASE_OTHER) {
		how.backing = other_base(m);
	}
	rc = job_rebase(&m->job, m->live, &how, options, &last_error);
	if (rc < 0)
		block_close(how.backing);
	return rc;
}

static int start(struct model *m)
{
	const struct job_options options = {
		.rate = m->o->busy   ? 20 * MIB
		        : pick(m, 3) ? 0
		                     : 8 * MIB,
		.record = { record, m },
		.changed = changed,
		.ctx = m,
	};
	struct job_base base = { .open = open_base,
		                 .ctx = m,
		                 .name = names[BASE],
		                 .format = m->raw[BASE] ? "raw" : "qcow2" };
	struct block *target = NULL;
	int rc = 0;

	memcpy(m->point, m->now, sizeof(m->now));
	if (m->o->work != WORK_INCREMENTAL)
		must(m,
		     image_bitmap_create(live_image(m->live), "b", 4096,
		                         &last_error),
		     "bitmap");
	switch (m->o->work) {
	case WORK_SNAPSHOT:
		make_image(m, OVER, names[TOP], "qcow2");
		must(m, open_image(m, OVER, true, &target), "overlay");
		return live_snapshot(m->live, target, &options.record,
		                     &last_error);
	case WORK_COMMIT_BELOW:
		return job_commit(&m->job, m->live, 1, 1, &base, &options,
		                  &last_error);
	case WORK_COMMIT_TOP:
		return job_commit(&m->job, m->live, 0, 1, &base, &options,
		                  &last_error);
	case WORK_COMMIT_ALL:
		return job_commit(&m->job, m->live, 0, 2, &base, &options,
		                  &last_error);
	case WORK_REBASE_LAYER:
	case WORK_REBASE_OTHER:
	case WORK_REBASE_ALONE:
		return rebase(m, &options);
	case WORK_MIRROR:
		target = new_target(m, COPY);
		rc = job_mirror(&m->job, m->live, target, true, &options,
		                &last_error);
		break;
	case WORK_BACKUP:
		target = new_target(m, BACKUP);
		rc = job_backup(&m->job, m->live, target, true, NULL, scratch(),
		                &options, &last_error);
		break;
	default:
		target = earlier_backup(m);
		memcpy(m->point, m->now, sizeof(m->now));
		rc = job_backup(&m->job, m->live, target, false, "b", scratch(),
		                &options, &last_error);
		break;
	}
	if (rc < 0)
		block_close(target);
	return rc;
}

static void check_backup(struct model *m)
{
	struct block *b = open_chain(m, BACKUP, false);

	holds(m, b, m->point, false, "the backup");
	block_close(b);
	judge(m, BACKUP);
}

/* The header names what it was to lie on, and so does what is open. */
static void check_rebased(struct model *m)
{
	const char *want = m->o->work == WORK_REBASE_LAYER   ? names[BASE]
	                   : m->o->work == WORK_REBASE_OTHER ? names[COPY]
	                                                     : NULL;
	struct block *b = live_image(m->live), *below = chain_backing(b);
	struct image_details d;

	image_details(b, &d);
	if (want ? !d.backing || strcmp(d.backing, want) || !below ||
	               chain_backing(below)
	         : d.backing || below)
		fail_msg("work %d, seed %u: it lies on %s", m->o->work,
		         m->o->seed, d.backing ? d.backing : "nothing");
	image_details_free(&d);
}

static void end_job(struct model *m)
{
	enum job_state state;
	struct job_status s;

	if (!m->job)
		return;
	if (!was_cut(m) && !m->o->cancel)
		state = job_wait_end(m->job, 60000);
	else
		state = job_wait(m->job, 0);
	job_status(m->job, &s);
	if (state == JOB_FAILED && !was_cut(m) && !m->o->fail)
		fail_msg("work %d, seed %u: the job failed: %s", m->o->work,
		         m->o->seed, s.words);
	m->figures->done += state == JOB_DONE;
	m->figures->cancelled += state == JOB_CANCELLED;
	m->figures->failed += state == JOB_FAILED;
	job_destroy(m->job);
	m->job = NULL;
	if (state == JOB_DONE && !was_cut(m) &&
	    (m->o->work == WORK_BACKUP || m->o->work == WORK_INCREMENTAL))
		check_backup(m);
	if (state == JOB_DONE && !was_cut(m) && m->o->work >= WORK_REBASE_LAYER)
		check_rebased(m);
}

/* A guest that the job does not catch up with. */
static void busy_work(struct model *m)
{
	bool asked = false, late = false, before_ready = m->o->seed & 4;
	u64 patience = loop_now_ns() + 100 * NSEC_PER_SEC;
	struct job_status s;

	do {
		if (!batch(m))
			break;
		job_status(m->job, &s);
		if (!late && s.both && (before_ready || s.state == JOB_READY)) {
			late = true;
			m->figures->both++;
			if (m->o->cut && !cut_at_change(m))
				cut_soon(m);
			if (m->o->cancel)
				job_cancel(m->job);
			if (m->o->fail)
				recorder_fail_writes(m->disk[target(m)],
				                     1 + pick(m, 20), -EIO);
			continue;
		}
		if (!asked && s.state == JOB_READY)
			asked = job_complete(m->job, true) == 0;
		if (loop_now_ns() > patience)
			fail_msg("work %d, seed %u: it does not end",
			         m->o->work, m->o->seed);
	} while (s.state < JOB_DONE);
	end_job(m);
	recorder_fail_writes(m->disk[target(m)], 0, 0);
	/* After a cancel or a failure it is a disk as any other. */
	for (int i = 0; i < 5 && !was_cut(m); i++)
		batch(m);
}

/* The guest and the job, side by side. */
static void work(struct model *m)
{
	u32 cut_at = !m->o->cut         ? UINT32_MAX
	             : cut_at_change(m) ? 150
	                                : pick(m, 40);
	u32 cancel_at = m->o->cancel ? pick(m, 20) : UINT32_MAX;
	bool asked = false;

	for (u32 i = 0; i < BATCHES; i++) {
		if (i == cut_at)
			cut_soon(m);
		if (i == cancel_at && m->job)
			job_cancel(m->job);
		if (!batch(m))
			break;
		if (m->job && !asked && job_wait(m->job, 0) == JOB_READY)
			asked = job_complete(m->job, true) == 0;
		if (m->job ? job_wait(m->job, 0) >= JOB_DONE : i > 20)
			if (cut_at >= i && !m->o->cut)
				break;
	}
	if (m->job && !asked && !was_cut(m) && !m->o->cancel &&
	    job_wait(m->job, 60000) == JOB_READY)
		job_complete(m->job, true);
	end_job(m);
}

/* Whatever image it is in now, the bitmap has all that was written since. */
static void check_bitmap(struct model *m)
{
	struct block *b = live_image(m->live);
	struct image_details d;
	u64 n;

	image_details(b, &d);
	if (!d.version || m->o->work == WORK_INCREMENTAL) {
		image_details_free(&d);
		return;
	}
	image_details_free(&d);
	for (u64 at = 0; at < SIZE; at += n) {
		bool dirty;

		must(m, image_bitmap_next(b, "b", at, &dirty, &n, &last_error),
		     "bitmap");
		for (u64 s = at / SECTOR; !dirty && s < (at + n) / SECTOR; s++)
			if (m->now[s] != m->point[s])
				fail_msg("work %d, seed %u: sector %llu was "
				         "written, and is not in the bitmap",
				         m->o->work, m->o->seed,
				         (unsigned long long)s);
	}
}

/* ---- the whole ---- */

static void begin(struct model *m)
{
	struct block *b;

	for (int i = 0; i < DISKS; i++)
		m->disk[i] = recorder_create(m->o->seed * 8 + (u32)i);
	m->raw[BASE] = m->o->raw_base;
	m->current = TOP;
	if (m->raw[BASE]) {
		b = recorder_open(m->disk[BASE]);
		must(m, block_sync(b, BLOCK_WRITE_ZEROES, 0, NULL, SIZE),
		     "base");
		block_close(b);
	} else {
		make_image(m, BASE, NULL, NULL);
	}
	/* Each image gets some of the writes: built from below. */
	for (int i = BASE; i <= TOP; i++) {
		if (i > BASE)
			make_image(m, i, names[i - 1],
			           m->raw[i - 1] ? "raw" : "qcow2");
		m->live = live_open(open_chain(m, i, true));
		for (int k = 0; k < 4; k++)
			batch(m);
		if (i == TOP)
			return;
		block_close(m->live);
	}
}

static void reopen_and_judge(struct model *m, bool after_cut)
{
	struct block *b;

	if (after_cut)
		for (int i = 0; i < DISKS; i++)
			recorder_power_up(m->disk[i]);
	b = open_chain(m, m->current, true);
	holds(m, b, after_cut ? m->stable : m->now, after_cut,
	      after_cut ? "after a cut" : "reopened");
	block_close(b);
	for (int i = BASE; i <= TOP; i++)
		judge(m, i);
	judge(m, m->current);
}

void jobs_model_run(const struct jobs_options *options,
                    struct jobs_figures *figures)
{
	struct model *m = xalloc(sizeof(*m));
	bool after_cut;

	m->o = options;
	m->figures = figures;
	m->random = (options->seed * 2654435761u + (u32)options->work) | 1;
	m->cut_random = options->seed * 31 | 1;
	m->next_stamp = 1;
	begin(m);
	must(m, start(m), "start");
	if (options->busy)
		busy_work(m);
	else
		work(m);
	after_cut = was_cut(m);
	if (!after_cut) {
		holds(m, m->live, m->now, false, "the disk");
		check_bitmap(m);
	}
	block_close(m->live);
	after_cut |= was_cut(m);
	figures->cuts += after_cut;
	reopen_and_judge(m, after_cut);
	for (int i = 0; i < DISKS; i++)
		recorder_destroy(m->disk[i]);
	free(m->log);
	free(m);
}
