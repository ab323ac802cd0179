/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy - contents from disk to disk: convert, compare, rebase, commit.
 *
 * All four are one walk: the disk in pieces, each given to one of a few
 * threads that read, look and write it, blocking. Pieces never share a
 * cluster, so the threads never meet.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"
#include "storage/raw/raw.h"

enum { THREADS_MIN = 2, THREADS_MAX = 8 };
#define PIECE (1 * MIB)
/* Zeroes shorter than this are written as data. */
#define ZERO_UNIT (4 * KIB)

struct walk {
	u64 size, piece;
	const struct image_progress *progress;
	/* One piece, in whole; buf has room for two of them. */
	int (*visit)(struct walk *w, u64 offset, u64 length, u8 *buf,
	             struct error *err);
	struct block *from, *to;
	u64 from_size, to_size;
	bool blank, compress;
	u8 *units; /* compare: which differ; NULL: the first place is enough */
	u64 unit;

	pthread_mutex_t lock;
	/* Under lock. */
	u64 next, done, where;
	int rc;
	bool differs;
	struct error err;
};

static bool is_zero(const u8 *p, u64 n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static bool take(struct walk *w, u64 *offset, u64 *length)
{
	bool more;

	pthread_mutex_lock(&w->lock);
	more = w->rc == 0 && w->next < w->size &&
	       !(w->differs && w->where <= w->next);
	if (more) {
		*offset = w->next;
		*length = MIN(w->piece, w->size - w->next);
		w->next += *length;
	}
	pthread_mutex_unlock(&w->lock);
	return more;
}

static void account(struct walk *w, u64 length, int rc, const struct error *err)
{
	pthread_mutex_lock(&w->lock);
	w->done += length;
	if (rc < 0 && w->rc == 0) {
		w->rc = rc;
		w->err = *err;
	}
	if (w->progress && w->progress->step)
		w->progress->step(w->progress->ctx, w->done, w->size);
	pthread_mutex_unlock(&w->lock);
}

static void *walk_thread(void *arg)
{
	struct walk *w = arg;
	u64 offset, length;
	u8 *buf = NULL;

	if (posix_memalign((void **)&buf, 4096, 2 * w->piece) != 0)
		buf = NULL;
	while (take(w, &offset, &length)) {
		struct error err = { 0 };
		int rc = buf ? w->visit(w, offset, length, buf, &err)
		             : error_set(&err, -ENOMEM, "out of memory");

		account(w, length, rc, &err);
	}
	free(buf);
	return NULL;
}

static int walk_run(struct walk *w, struct error *err)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = 0, want;
	pthread_t threads[THREADS_MAX];

	want = cpus < THREADS_MIN ? THREADS_MIN : (unsigned)MIN(cpus, 8);
	pthread_mutex_init(&w->lock, NULL);
	while (n < want &&
	       pthread_create(&threads[n], NULL, walk_thread, w) == 0)
		n++;
	if (n == 0)
		walk_thread(w);
	while (n > 0)
		pthread_join(threads[--n], NULL);
	pthread_mutex_destroy(&w->lock);
	if (w->rc < 0 && err)
		*err = w->err;
	return w->rc;
}

static int failed(struct error *err, int rc, const char *what, u64 offset)
{
	return error_set(err, rc, "%s at %" PRIu64 ": %s", what, offset,
	                 strerror(-rc));
}

static int read_piece(struct block *b, u64 size, u64 offset, u64 length,
                      u8 *buf, struct error *err)
{
	u64 n = offset < size ? MIN(length, size - offset) : 0;
	int rc = n ? block_sync(b, BLOCK_READ, offset, buf, n) : 0;

	memset(buf + n, 0, length - n);
	return rc < 0 ? failed(err, rc, "reading", offset) : 0;
}

static int write_zeroes(struct walk *w, u64 offset, u64 length,
                        struct error *err)
{
	int rc = w->blank ? 0
	                  : block_sync(w->to, BLOCK_WRITE_ZEROES, offset, NULL,
	                               length);

	return rc < 0 ? failed(err, rc, "writing", offset) : 0;
}

/* Data as data, zeroes as zeroes. */
static int write_runs(struct walk *w, u64 offset, u64 length, u8 *buf,
                      struct error *err)
{
	u64 at = 0;
	int rc = 0;

	while (at < length && rc == 0) {
		u64 unit = MIN(ZERO_UNIT, length - at), n = unit;
		bool zero = is_zero(buf + at, unit);

		while (at + n < length) {
			unit = MIN(ZERO_UNIT, length - at - n);
			if (is_zero(buf + at + n, unit) != zero)
				break;
			n += unit;
		}
		if (zero) {
			rc = write_zeroes(w, offset + at, n, err);
		} else {
			rc = block_sync(w->to, BLOCK_WRITE, offset + at,
			                buf + at, n);
			if (rc < 0)
				failed(err, rc, "writing", offset + at);
		}
		at += n;
	}
	return rc;
}

/* The part of a piece that is alike, by the map alone. */
static int next_extent(struct block *b, u64 size, u64 offset, u64 length,
                       struct block_extent *e, struct error *err)
{
	int rc;

	if (offset >= size) {
		*e = (struct block_extent){ .length = length,
			                    .flags = BLOCK_EXTENT_ZERO };
		return 0;
	}
	rc = block_map(b, offset, MIN(length, size - offset), e);
	return rc < 0 ? failed(err, rc, "reading the map", offset) : 0;
}

static int visit_copy(struct walk *w, u64 offset, u64 length, u8 *buf,
                      struct error *err)
{
	u64 end = offset + length;
	int rc = 0;

	while (offset < end && rc == 0) {
		struct block_extent e;

		rc = next_extent(w->from, w->from_size, offset, end - offset,
		                 &e, err);
		if (rc < 0)
			break;
		if (e.flags & BLOCK_EXTENT_ZERO) {
			rc = write_zeroes(w, offset, e.length, err);
		} else {
			rc = read_piece(w->from, w->from_size, offset, e.length,
			                buf, err);
			if (rc == 0)
				rc = write_runs(w, offset, e.length, buf, err);
		}
		offset += e.length;
	}
	return rc;
}

static int visit_compress(struct walk *w, u64 offset, u64 length, u8 *buf,
                          struct error *err)
{
	struct block_extent e;
	int rc = next_extent(w->from, w->from_size, offset, length, &e, err);

	if (rc < 0 || ((e.flags & BLOCK_EXTENT_ZERO) && e.length == length))
		return rc;
	rc = read_piece(w->from, w->from_size, offset, length, buf, err);
	if (rc < 0 || is_zero(buf, length))
		return rc;
	memset(buf + length, 0, w->piece - length);
	return image_write_compressed(w->to, offset, buf, err);
}

int image_copy(struct block *from, struct block *to, bool blank, bool compress,
               const struct image_progress *progress, struct error *err)
{
	struct block_info a, b;
	struct walk w = { .visit = compress ? visit_compress : visit_copy,
		          .progress = progress,
		          .from = from,
		          .to = to,
		          .blank = blank,
		          .compress = compress };
	int rc;

	block_info(from, &a);
	block_info(to, &b);
	if (b.size < a.size)
		return error_set(err, -ENOSPC, "the target is smaller");
	w.size = w.from_size = a.size;
	/* What the source leaves of the target's last sector is zero. */
	w.size = ALIGN_UP(w.size, (u64)b.sector);
	w.to_size = b.size;
	w.piece = compress ? b.cluster : MAX(PIECE, (u64)b.cluster);
	if (compress && b.cluster == 0)
		return error_set(err, -ENOTSUP,
		                 "this format can't be compressed");
	rc = walk_run(&w, err);
	if (rc == 0) {
		rc = block_sync(to, BLOCK_FLUSH, 0, NULL, 0);
		if (rc < 0)
			failed(err, rc, "flushing", w.size);
	}
	return rc;
}

int image_share(struct block *from, struct block *to)
{
	struct block_info a, b;
	int rc;

	block_info(from, &a);
	block_info(to, &b);
	if (a.size != b.size)
		return -EOPNOTSUPP;
	rc = raw_share_with(from, to);
	return rc < 0 ? rc : block_sync(to, BLOCK_FLUSH, 0, NULL, 0);
}

/* Pieces are whole units: no two threads write one byte. */
static int note_units(struct walk *w, u64 offset, u64 length, const u8 *a,
                      const u8 *b)
{
	for (u64 at = 0; at < length; at += w->unit)
		if (memcmp(a + at, b + at, MIN(w->unit, length - at)) != 0)
			w->units[(offset + at) / w->unit] = 1;
	return 0;
}

static int visit_compare(struct walk *w, u64 offset, u64 length, u8 *buf,
                         struct error *err)
{
	u8 *other = buf + w->piece;
	struct block_extent a, b;
	int rc = next_extent(w->from, w->from_size, offset, length, &a, err);

	if (rc == 0)
		rc = next_extent(w->to, w->to_size, offset, length, &b, err);
	if (rc < 0)
		return rc;
	if ((a.flags & b.flags & BLOCK_EXTENT_ZERO) && a.length == length &&
	    b.length == length)
		return 0;
	rc = read_piece(w->from, w->from_size, offset, length, buf, err);
	if (rc == 0)
		rc = read_piece(w->to, w->to_size, offset, length, other, err);
	if (rc < 0 || memcmp(buf, other, length) == 0)
		return rc;
	if (w->units)
		return note_units(w, offset, length, buf, other);
	pthread_mutex_lock(&w->lock);
	for (u64 i = 0; i < length; i++) {
		if (buf[i] == other[i])
			continue;
		if (!w->differs || offset + i < w->where)
			w->where = offset + i;
		w->differs = true;
		break;
	}
	pthread_mutex_unlock(&w->lock);
	return 0;
}

static int compare(struct walk *w, struct block *a, struct block *b,
                   struct error *err)
{
	struct block_info ia, ib;

	block_info(a, &ia);
	block_info(b, &ib);
	w->visit = visit_compare;
	w->from = a;
	w->to = b;
	w->piece = PIECE;
	w->from_size = ia.size;
	w->to_size = ib.size;
	w->size = MAX(ia.size, ib.size);
	return walk_run(w, err);
}

int image_compare(struct block *a, struct block *b, bool *same, u64 *where,
                  const struct image_progress *progress, struct error *err)
{
	struct walk w = { .progress = progress };
	int rc = compare(&w, a, b, err);

	if (rc < 0)
		return rc;
	*same = !w.differs;
	*where = w.where;
	return 0;
}

int image_differences(struct block *a, struct block *b, u64 unit, u8 *differs,
                      struct error *err)
{
	struct walk w = { .units = differs, .unit = unit };

	ASSERT(unit && PIECE % unit == 0);
	return compare(&w, a, b, err);
}

/* from: the image as it is, and where it is written; to: the backing file to
 * be, or NULL. */
static int visit_rebase(struct walk *w, u64 offset, u64 length, u8 *buf,
                        struct error *err)
{
	u8 *other = buf + w->piece;
	u64 end = offset + length;
	int rc = 0;

	while (offset < end && rc == 0) {
		struct block_extent e;
		bool own;

		rc = next_extent(w->from, w->from_size, offset, end - offset,
		                 &e, err);
		if (rc < 0)
			break;
		own = e.depth == 0 && (e.flags & BLOCK_EXTENT_DATA);
		if (!own) {
			rc = read_piece(w->from, w->from_size, offset, e.length,
			                buf, err);
			if (rc == 0)
				rc = read_piece(w->to, w->to_size, offset,
				                e.length, other, err);
			if (rc == 0 && memcmp(buf, other, e.length) != 0) {
				rc = block_sync(w->from, BLOCK_WRITE, offset,
				                buf, e.length);
				if (rc < 0)
					failed(err, rc, "writing", offset);
			}
		}
		offset += e.length;
	}
	return rc;
}

int image_rebase_data(struct block *image, struct block *backing,
                      const struct image_progress *progress, struct error *err)
{
	struct block_info a, b = { 0 };
	struct walk w = { .visit = visit_rebase,
		          .progress = progress,
		          .from = image,
		          .to = backing };
	int rc = image_without_snapshots(image, err);

	if (rc < 0)
		return rc;
	block_info(image, &a);
	if (backing)
		block_info(backing, &b);
	w.size = w.from_size = a.size;
	w.to_size = b.size;
	w.piece = MAX(PIECE, (u64)a.cluster);
	rc = walk_run(&w, err);
	if (rc == 0) {
		rc = block_sync(image, BLOCK_FLUSH, 0, NULL, 0);
		if (rc < 0)
			failed(err, rc, "flushing", w.size);
	}
	return rc;
}

static int visit_commit(struct walk *w, u64 offset, u64 length, u8 *buf,
                        struct error *err)
{
	u64 end = offset + length;
	int rc = 0;

	while (offset < end && rc == 0) {
		struct block_extent e;

		rc = next_extent(w->from, w->from_size, offset, end - offset,
		                 &e, err);
		if (rc < 0)
			break;
		if ((e.flags & BLOCK_EXTENT_DATA) &&
		    (e.flags & BLOCK_EXTENT_ZERO)) {
			rc = write_zeroes(w, offset, e.length, err);
		} else if (e.flags & BLOCK_EXTENT_DATA) {
			rc = read_piece(w->from, w->from_size, offset, e.length,
			                buf, err);
			if (rc == 0)
				rc = write_runs(w, offset, e.length, buf, err);
		}
		offset += e.length;
	}
	return rc;
}

int image_commit_data(struct block *image, struct block *backing,
                      const struct image_progress *progress, struct error *err)
{
	struct block_info a, b;
	struct walk w = { .visit = visit_commit,
		          .progress = progress,
		          .from = image,
		          .to = backing };
	int rc = image_without_snapshots(image, err);

	if (rc < 0)
		return rc;
	block_info(image, &a);
	block_info(backing, &b);
	if (b.size < a.size)
		rc = block_resize(backing, a.size, err);
	if (rc < 0)
		return rc;
	w.size = w.from_size = a.size;
	w.to_size = MAX(a.size, b.size);
	w.piece = MAX(PIECE, (u64)MAX(a.cluster, b.cluster));
	rc = walk_run(&w, err);
	if (rc == 0) {
		rc = block_sync(backing, BLOCK_FLUSH, 0, NULL, 0);
		if (rc < 0)
			failed(err, rc, "flushing", w.size);
	}
	return rc;
}
