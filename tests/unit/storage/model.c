/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "recorder.h"
#include "storage/qcow2/qcow2.h"
#include "support.h"

enum {
	SECTOR = 512,
	BATCH = 8,
	SNAPSHOTS = 4,
	BACKING = 0x40000000, /* write number of what the backing file has */
};

struct event {
	u32 sector, stamp;
};

struct saved {
	char name[16];
	u32 *stamps;
	u64 sectors;
	bool certain; /* false: the power was cut while it was made or gone */
};

struct model {
	const struct model_options *o;
	struct model_figures *figures;
	struct recorder *recorder;
	struct block *b;
	char *backing; /* path, or NULL */
	u32 random, next_stamp;
	u64 sectors, room;
	u32 *now, *stable;
	bool *marked; /* since the bitmap was made or cleared */
	bool has_bitmap, bitmap_good;
	struct event *log; /* since the last flush */
	size_t log_count, log_room;
	struct saved saved[SNAPSHOTS];
	bool unsure; /* an operation failed half way: reopen and look */
};

static u32 pick(struct model *m, u32 n)
{
	return random_next(&m->random) % n;
}

static bool sector_is(const u8 *data, u64 sector, u32 stamp)
{
	static const u8 zero[SECTOR];

	if (stamp == 0)
		return memcmp(data, zero, SECTOR) == 0;
	return pattern_holds(data, sector * SECTOR, SECTOR, stamp);
}

static void note(struct model *m, u64 sector, u32 stamp)
{
	if (m->log_count == m->log_room) {
		m->log_room = m->log_room ? m->log_room * 2 : 4096;
		m->log = xrealloc(m->log, m->log_room * sizeof(*m->log));
	}
	m->log[m->log_count++] = (struct event){ (u32)sector, stamp };
}

static void all_stable(struct model *m)
{
	memcpy(m->stable, m->now, m->sectors * sizeof(*m->now));
	m->log_count = 0;
}

static struct error last_error;

static int open_image(struct model *m)
{
	struct block_open how = { .path = "model",
		                  .fd = -1,
		                  .opener = &block_opener_paths,
		                  /* Small: the cache has to give up tables. */
		                  .cache_bytes = 64 * KIB };
	struct block *file = recorder_open(m->recorder);

	m->b = NULL;
	return qcow2_open_on(&m->b, file, &how, 0, &last_error);
}

struct job {
	struct block_request req;
	struct iovec iov[3];
	u8 *data;
	u32 stamp;
	int result;
	sem_t *done;
};

static void job_done(struct block_request *req, int result)
{
	struct job *j = req->ctx;

	j->result = result;
	sem_post(j->done);
}

static bool overlaps(const struct job *jobs, int n, u64 offset, u64 length)
{
	for (int i = 0; i < n; i++)
		if (offset < jobs[i].req.offset + jobs[i].req.length &&
		    jobs[i].req.offset < offset + length)
			return true;
	return false;
}

/* Lengths from a sector to several clusters, often at the same places. */
static void pick_range(struct model *m, u64 *offset, u64 *length)
{
	u64 most = pick(m, 4) ? 24 : 400, start;

	if (pick(m, 3) == 0) /* whole clusters */
		most = 2048;
	start = pick(m, 4) ? pick(m, (u32)MIN(m->sectors, 1024u))
	                   : pick(m, (u32)m->sectors);
	*length = 1 + pick(m, (u32)most);
	if (pick(m, 3) == 0) {
		start = ALIGN_DOWN(start, (u64)128);
		*length = ALIGN_UP(*length, (u64)128);
	}
	*length = MIN(*length, m->sectors - start) * SECTOR;
	*offset = start * SECTOR;
}

static enum block_op pick_op(struct model *m)
{
	u32 n = pick(m, 16);

	return n < 6    ? BLOCK_READ
	       : n < 12 ? BLOCK_WRITE
	       : n < 14 ? BLOCK_WRITE_ZEROES
	                : BLOCK_DISCARD;
}

static void make_job(struct model *m, struct job *j, u64 offset, u64 length,
                     sem_t *done)
{
	u64 cut = (pick(m, (u32)(length / SECTOR)) * SECTOR) | 7;

	*j = (struct job){ .data = xalloc(length), .done = done };
	j->req = (struct block_request){
		.op = pick_op(m),
		.flags = (pick(m, 8) == 0 ? BLOCK_REQ_FUA : 0u) |
		         (pick(m, 2) ? BLOCK_REQ_INLINE : 0u),
		.offset = offset,
		.length = length,
		.iov = j->iov,
		.iov_count = 2,
		.done = job_done,
		.ctx = j,
	};
	if (j->req.op == BLOCK_WRITE_ZEROES && pick(m, 2))
		j->req.flags |= BLOCK_REQ_NO_UNMAP;
	j->iov[0] = (struct iovec){ j->data, cut };
	j->iov[1] = (struct iovec){ j->data + cut, length - cut };
	if (j->req.op == BLOCK_WRITE) {
		j->stamp = m->next_stamp++;
		for (u64 at = 0; at < length; at += SECTOR)
			pattern_fill(j->data + at, offset + at, SECTOR,
			             j->stamp);
	} else {
		memset(j->data, 0xee, length);
	}
	/* From now on a cut may show it. */
	for (u64 s = offset / SECTOR;
	     j->req.op != BLOCK_READ && s < (offset + length) / SECTOR; s++) {
		note(m, s, j->req.op == BLOCK_WRITE ? j->stamp : 0);
		if (j->req.op == BLOCK_DISCARD)
			note(m, s, m->now[s]);
		m->marked[s] = true;
	}
}

/* A sector whose contents the model does not know: look, and see that it is
 * one of those it may be. */
static void look(struct model *m, u64 sector, u32 other, const char *why)
{
	u8 data[SECTOR];

	recorder_fail(m->recorder, 0, 0);
	if (block_sync(m->b, BLOCK_READ, sector * SECTOR, data, SECTOR) < 0)
		fail_msg("seed %u: can't read any more", m->o->seed);
	recorder_fail(m->recorder, m->o->fail_one_in, -ENOSPC);
	if (sector_is(data, sector, m->now[sector]))
		return;
	if (!sector_is(data, sector, other))
		fail_msg("%s: sector %llu is neither %u nor %u", why,
		         (unsigned long long)sector, m->now[sector], other);
	m->now[sector] = other;
}

static void account(struct model *m, struct job *j)
{
	u64 first = j->req.offset / SECTOR;
	u64 n = j->req.length / SECTOR;
	bool durable = false;

	for (u64 i = 0; i < n; i++) {
		u64 s = first + i;
		u32 stamp = j->req.op == BLOCK_WRITE ? j->stamp : 0;

		if (j->req.op == BLOCK_READ) {
			if (j->result == 0 &&
			    !sector_is(j->data + i * SECTOR, s, m->now[s]))
				fail_msg("seed %u: sector %llu is not what"
				         " write %u left",
				         m->o->seed, (unsigned long long)s,
				         m->now[s]);
			continue;
		}
		if (recorder_was_cut(m->recorder))
			continue;
		if (j->result < 0 || j->req.op == BLOCK_DISCARD) {
			look(m, s, stamp, "a failed write or a discard");
			continue;
		}
		m->now[s] = stamp;
		durable |= j->req.flags & BLOCK_REQ_FUA;
		if (durable)
			m->stable[s] = stamp;
	}
	if (durable) {
		size_t keep = 0;

		/* Others wait for a flush to be sure. */
		for (size_t k = 0; k < m->log_count; k++)
			if (m->log[k].sector < first ||
			    m->log[k].sector >= first + n)
				m->log[keep++] = m->log[k];
		m->log_count = keep;
	}
	if (j->result < 0 && !recorder_was_cut(m->recorder) &&
	    !m->o->fail_one_in)
		fail_msg("seed %u: op %d failed: %s", m->o->seed, j->req.op,
		         strerror(-j->result));
}

static void batch(struct model *m)
{
	struct job jobs[BATCH];
	sem_t done;
	int n = 0;

	sem_init(&done, 0, 0);
	while (n < BATCH && pick(m, 10)) {
		u64 offset, length;

		pick_range(m, &offset, &length);
		if (overlaps(jobs, n, offset, length))
			continue;
		make_job(m, &jobs[n], offset, length, &done);
		n++;
	}
	for (int i = 0; i < n; i++)
		block_submit(m->b, &jobs[i].req);
	if (!pick(m, 6))
		block_let_go(m->b);
	for (int i = 0; i < n; i++)
		sem_wait(&done);
	block_drain(m->b);
	for (int i = 0; i < n; i++) {
		account(m, &jobs[i]);
		free(jobs[i].data);
	}
	m->figures->requests += (u64)n;
	sem_destroy(&done);
}

static bool cut(const struct model *m)
{
	return recorder_was_cut(m->recorder);
}

static void flush(struct model *m)
{
	int rc = block_sync(m->b, BLOCK_FLUSH, 0, NULL, 0);

	if (rc == 0 && !cut(m))
		all_stable(m);
	else if (!cut(m) && !m->o->fail_one_in)
		fail_msg("flush: %s", strerror(-rc));
	m->unsure |= rc < 0;
}

static struct saved *saved_slot(struct model *m, bool used)
{
	u32 start = pick(m, SNAPSHOTS);

	for (u32 i = 0; i < SNAPSHOTS; i++) {
		struct saved *s = &m->saved[(start + i) % SNAPSHOTS];

		if ((s->stamps != NULL) == used)
			return s;
	}
	return NULL;
}

static void forget(struct saved *s)
{
	free(s->stamps);
	*s = (struct saved){ .stamps = NULL };
}

static void check_rc(struct model *m, int rc, const char *what)
{
	if (rc < 0 && !cut(m) && !m->o->fail_one_in)
		fail_msg("seed %u: %s: %s", m->o->seed, what, last_error.text);
	m->unsure |= rc < 0;
}

static void snapshot_make(struct model *m)
{
	struct saved *s = saved_slot(m, false);
	int rc;

	if (!s)
		return;
	snprintf(s->name, sizeof(s->name), "s%u", m->next_stamp++);
	s->stamps = xalloc(m->room * sizeof(u32));
	s->sectors = m->sectors;
	memcpy(s->stamps, m->now, m->sectors * sizeof(u32));
	rc = image_snapshot_create(m->b, s->name, &last_error);
	check_rc(m, rc, "snapshot create");
	s->certain = rc == 0 && !cut(m);
	if (s->certain)
		all_stable(m);
	m->figures->snapshots++;
}

static void snapshot_remove(struct model *m)
{
	struct saved *s = saved_slot(m, true);
	int rc;

	if (!s)
		return;
	s->certain = false;
	rc = image_snapshot_delete(m->b, s->name, &last_error);
	if (rc == -ENOENT)
		rc = 0;
	check_rc(m, rc, "snapshot delete");
	if (rc == 0 && !cut(m)) {
		forget(s);
		all_stable(m);
	}
}

/* Size and contents are the snapshot's. */
static void become(struct model *m, const struct saved *s)
{
	memcpy(m->now, s->stamps, s->sectors * sizeof(u32));
	memset(m->now + s->sectors, 0, (m->room - s->sectors) * sizeof(u32));
	m->sectors = s->sectors;
	memset(m->marked, 1, m->room);
	all_stable(m);
}

static void snapshot_back(struct model *m)
{
	struct saved *s = saved_slot(m, true);
	int rc;

	if (!s || !s->certain)
		return;
	for (u64 i = 0; i < s->sectors; i++)
		note(m, i, s->stamps[i]);
	rc = image_snapshot_apply(m->b, s->name, &last_error);
	check_rc(m, rc, "snapshot apply");
	if (rc == 0 && !cut(m))
		become(m, s);
}

static void resize(struct model *m)
{
	u64 sectors = 64 + pick(m, (u32)m->room - 64), old = m->sectors;
	int rc = block_resize(m->b, sectors * SECTOR, &last_error);

	check_rc(m, rc, "resize");
	if (rc < 0 || cut(m)) /* a shrink may have got through */
		return;
	for (u64 s = old; s < sectors; s++)
		m->now[s] = 0;
	/* What was cut off is in no bitmap any more. */
	for (u64 s = MIN(old, sectors); s < m->room; s++)
		m->marked[s] = false;
	m->sectors = sectors;
	all_stable(m);
	for (u64 s = sectors; s < m->room; s++)
		m->now[s] = m->stable[s] = 0;
}

static void bitmap_work(struct model *m)
{
	int rc = 0;

	if (!m->has_bitmap) {
		rc = image_bitmap_create(m->b, "b", 4096, &last_error);
		memset(m->marked, 0, m->room);
		m->has_bitmap = m->bitmap_good = rc == 0 && !cut(m);
	} else if (pick(m, 4) == 0 && m->bitmap_good) {
		rc = image_bitmap_clear(m->b, "b", &last_error);
		memset(m->marked, 0, m->room);
	} else if (pick(m, 4) == 0) {
		rc = image_bitmap_delete(m->b, "b", &last_error);
		m->has_bitmap = rc < 0;
	} else if (m->bitmap_good) {
		u64 at = 0, size = m->sectors * SECTOR;

		while (at < size && rc == 0) {
			bool dirty;
			u64 n;

			rc = image_bitmap_next(m->b, "b", at, &dirty, &n,
			                       &last_error);
			for (u64 s = at / SECTOR;
			     rc == 0 && !dirty && s < (at + n) / SECTOR; s++)
				if (m->marked[s])
					fail_msg("a written sector is not in"
					         " the bitmap");
			at += n;
		}
	}
	check_rc(m, rc, "bitmap");
	if (rc < 0 && !cut(m))
		m->bitmap_good = false;
}

/* Every sector against what it may be; then the model takes what is there. */
static void inspect(struct model *m, bool after_cut)
{
	u64 bytes = m->sectors * SECTOR;
	u8 *data = xalloc(bytes);

	assert_int_equal(block_sync(m->b, BLOCK_READ, 0, data, bytes), 0);
	for (u64 s = 0; s < m->sectors; s++) {
		const u8 *p = data + s * SECTOR;
		u32 want = after_cut ? m->stable[s] : m->now[s], found = want;
		bool ok = sector_is(p, s, want);

		for (size_t k = 0; after_cut && !ok && k < m->log_count; k++)
			if (m->log[k].sector == s &&
			    sector_is(p, s, m->log[k].stamp)) {
				ok = true;
				found = m->log[k].stamp;
			}
		for (u32 w = 0; !ok && w < m->next_stamp; w++)
			if (sector_is(p, s, w))
				print_message("it holds %u\n", w);
		if (!ok)
			fail_msg("seed %u: after %s, sector %llu is not what"
			         " write %u left",
			         m->o->seed, after_cut ? "a cut" : "reopening",
			         (unsigned long long)s, want);
		m->now[s] = found;
	}
	free(data);
	all_stable(m);
}

static void tell(void *ctx, const char *words)
{
	(void)ctx;
	if (strncmp(words, "leak", 4) != 0)
		print_message("%s\n", words);
}

static void own_check(struct model *m, u64 *leaks)
{
	struct image_check found = { .finding = tell };

	assert_int_equal(image_check(m->b, 0, &found, &last_error), 0);
	if (found.corruptions)
		fail_msg("seed %u: check finds %llu corruptions", m->o->seed,
		         (unsigned long long)found.corruptions);
	*leaks = found.leaks;
}

int model_oracle(const char *fmt, ...)
{
	char line[1024], command[1200];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	snprintf(command, sizeof(command),
	         "exec qemu-img %s >qemu-img.log 2>&1", line);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool model_have_oracle(void)
{
	return model_oracle("--version") == 0;
}

static bool marked_dirty(struct model *m, const char *path)
{
	FILE *f;
	u8 head[112] = { 0 };

	recorder_save(m->recorder, path);
	f = fopen(path, "rb");
	assert_non_null(f);
	assert_int_equal(fread(head, 1, 104, f), 104);
	fclose(f);
	return get32(head + H_VERSION) >= 3 &&
	       (get64(head + H_INCOMPATIBLE) & INCOMPAT_DIRTY);
}

/* No block is open. 0 clean, 3 only leaks. A dirty image is not judged: it
 * says itself that it wants repair first. */
static void ask_oracle(struct model *m, bool leaks_allowed)
{
	char *path = scratch_path(".qcow2");
	int rc;

	if (marked_dirty(m, path)) {
		unlink(path);
		free(path);
		return;
	}
	rc = model_oracle("check -f qcow2 %s", path);
	if (rc != 0 && !(rc == 3 && leaks_allowed))
		fail_msg("seed %u: qemu-img check of %s says %d", m->o->seed,
		         path, rc);
	m->figures->oracle_checks++;
	unlink(path);
	free(path);
}

static void close_image(struct model *m)
{
	block_close(m->b);
	m->b = NULL;
}

/* Which of the snapshots are there after a cut. */
static void recall(struct model *m)
{
	struct image_details d;

	image_details(m->b, &d);
	for (int i = 0; i < SNAPSHOTS; i++) {
		struct saved *s = &m->saved[i];
		bool there = false;

		for (u32 k = 0; k < d.snapshot_count; k++)
			there |= strcmp(d.snapshots[k].name, s->name) == 0;
		if (s->stamps && s->certain && !there)
			fail_msg("seed %u: snapshot %s is lost", m->o->seed,
			         s->name);
		if (s->stamps && !there)
			forget(s);
		else if (s->stamps)
			s->certain = true;
	}
	m->has_bitmap = m->bitmap_good = false;
	for (u32 k = 0; k < d.bitmap_count; k++)
		m->has_bitmap |= strcmp(d.bitmaps[k].name, "b") == 0;
	image_details_free(&d);
}

/* The image was opened after something was cut short or failed. */
static void take_stock(struct model *m)
{
	u64 leaks, sectors = block_size(m->b) / SECTOR;

	/* A resize or a revert cut short may leave either size. */
	for (u64 s = m->sectors; s < sectors; s++)
		m->stable[s] = 0;
	m->sectors = sectors;
	own_check(m, &leaks);
	recall(m);
	inspect(m, true);
	m->unsure = false;
}

static void reopen(struct model *m)
{
	int rc;

	close_image(m);
	recorder_fail(m->recorder, 0, 0);
	rc = open_image(m);
	if (cut(m)) {
		/* An open that succeeded had nothing to write. */
		if (rc < 0)
			m->b = NULL;
		return;
	}
	if (rc < 0)
		fail_msg("seed %u: reopening: %s", m->o->seed, last_error.text);
	/* A close that could not write is like a cut. */
	if (m->o->fail_one_in)
		take_stock(m);
	recorder_fail(m->recorder, m->o->fail_one_in, -ENOSPC);
}

static void crash(struct model *m)
{
	if (m->b)
		close_image(m);
	recorder_power_up(m->recorder);
	m->figures->crashes++;
	/* A process each time: now and then will do. */
	if (m->o->oracle && m->figures->crashes % 4 == 1)
		ask_oracle(m, true);
	if (open_image(m) < 0)
		fail_msg("seed %u: after a cut: %s", m->o->seed,
		         last_error.text);
	take_stock(m);
}

static void step(struct model *m)
{
	u32 n = pick(m, 40);

	if (n < 24)
		batch(m);
	else if (n < 30)
		flush(m);
	else if (n < 34 && m->o->snapshots)
		n == 30 ? snapshot_back(m)
			: (n == 31 ? snapshot_remove(m) : snapshot_make(m));
	else if (n == 34 && m->o->resizes)
		resize(m);
	else if (n == 35 && m->o->bitmaps)
		bitmap_work(m);
	else if (n == 36)
		reopen(m);
	else
		batch(m);
}

static void make_backing(struct model *m)
{
	u64 bytes = m->o->backing_bytes;
	u8 *data = xalloc(bytes);
	FILE *f;

	m->backing = scratch_path(".base");
	for (u64 at = 0; at < bytes; at += SECTOR) {
		pattern_fill(data + at, at, SECTOR, BACKING);
		if (at / SECTOR < m->sectors)
			m->now[at / SECTOR] = BACKING;
	}
	f = fopen(m->backing, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	fclose(f);
	free(data);
}

static void begin(struct model *m)
{
	struct image_create how = m->o->image;
	struct block *file;
	char *full = NULL;

	m->random = m->o->seed * 2654435761u | 1;
	m->next_stamp = 1;
	m->sectors = how.size / SECTOR;
	m->room = m->o->resizes ? m->sectors * 2 : m->sectors;
	m->now = xalloc(m->room * sizeof(u32));
	m->stable = xalloc(m->room * sizeof(u32));
	m->marked = xalloc(m->room);
	m->recorder = recorder_create(m->o->seed + 77);
	if (m->o->backing_bytes) {
		make_backing(m);
		full = realpath(m->backing, NULL);
		how.backing = full;
		how.backing_format = "raw";
	}
	file = recorder_open(m->recorder);
	if (qcow2_create_on(file, &how, &last_error) < 0)
		fail_msg("create: %s", last_error.text);
	block_close(file);
	free(full);
	all_stable(m);
	assert_int_equal(open_image(m), 0);
	recorder_fail(m->recorder, m->o->fail_one_in, -ENOSPC);
}

/* The image against a raw file that the model writes, judged from outside. */
static void compare_outside(struct model *m)
{
	char *raw = scratch_path(".raw"), *image = scratch_path(".qcow2");
	u8 data[SECTOR];
	FILE *f = fopen(raw, "wb");

	assert_non_null(f);
	for (u64 s = 0; s < m->sectors; s++) {
		memset(data, 0, SECTOR);
		if (m->now[s])
			pattern_fill(data, s * SECTOR, SECTOR, m->now[s]);
		assert_int_equal(fwrite(data, 1, SECTOR, f), SECTOR);
	}
	fclose(f);
	recorder_save(m->recorder, image);
	if (model_oracle("compare -f raw -F qcow2 %s %s", raw, image) != 0)
		fail_msg("seed %u: qemu-img reads something else", m->o->seed);
	m->figures->oracle_checks++;
	unlink(raw);
	unlink(image);
	free(raw);
	free(image);
}

static void finish(struct model *m)
{
	u64 leaks;

	reopen(m);
	recorder_fail(m->recorder, 0, 0);
	inspect(m, false);
	own_check(m, &leaks);
	if (leaks && !m->o->crashes && !m->o->fail_one_in)
		fail_msg("seed %u: %llu clusters leaked", m->o->seed,
		         (unsigned long long)leaks);
	close_image(m);
	if (m->o->oracle) {
		ask_oracle(m, m->o->crashes || m->o->fail_one_in);
		compare_outside(m);
	}
	/* Every snapshot is what it was when it was made. */
	assert_int_equal(open_image(m), 0);
	for (int i = 0; i < SNAPSHOTS; i++) {
		struct saved *s = &m->saved[i];

		if (s->stamps && s->certain) {
			assert_int_equal(
			    image_snapshot_apply(m->b, s->name, &last_error),
			    0);
			become(m, s);
			inspect(m, false);
		}
		forget(s);
	}
	close_image(m);
	if (m->backing)
		unlink(m->backing);
	free(m->backing);
	recorder_destroy(m->recorder);
	free(m->now);
	free(m->stable);
	free(m->marked);
	free(m->log);
}

void model_run(const struct model_options *options,
               struct model_figures *figures)
{
	struct model m = { .o = options, .figures = figures };

	begin(&m);
	for (unsigned i = 0; i < options->steps; i++) {
		if (options->crashes && pick(&m, 12) == 0)
			recorder_cut_after(m.recorder, 1 + pick(&m, 60));
		step(&m);
		if (cut(&m))
			crash(&m);
		else if (m.unsure ||
		         (options->fail_one_in && pick(&m, 10) == 0))
			reopen(&m);
	}
	recorder_cut_after(m.recorder, 0);
	finish(&m);
}
