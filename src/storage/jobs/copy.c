/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/jobs/copy.h"

#include <errno.h>
#include <limits.h>

#include "base/error.h"

/* So little is copied while the disk stands still. */
#define LITTLE (16 * GRANULE)
/* So much is copied without a flush: what comes with the last one, for which
 * the guest waits, and what a qcow2 image can't use again until then. */
#define FLUSH_EACH (64 * MIB)
enum { WAIT_MS = 50 };

/* Outside the rate but for a little, since it has to be looked at. */
static int skip(struct job *j, u64 length)
{
	j->cost += length / JOB_SKIP;
	return 0;
}

static int copy_extent(struct job *j, const struct job_copy *c, u64 offset,
                       const struct block_extent *e, struct error *err)
{
	int rc;

	if (e->depth >= c->levels)
		return skip(j, e->length);
	if (e->flags & BLOCK_EXTENT_ZERO) {
		rc = c->blank ? 0
		              : block_sync(c->to, BLOCK_WRITE_ZEROES, offset,
		                           NULL, e->length);
		return rc < 0 ? job_failed(err, rc, "writing", offset)
		              : skip(j, e->length);
	}
	rc = block_sync(c->from, BLOCK_READ, offset, j->buf, e->length);
	if (rc < 0)
		return job_failed(err, rc, "reading", offset);
	rc = block_sync(c->to, BLOCK_WRITE, offset, j->buf, e->length);
	j->unflushed += e->length;
	j->cost += e->length;
	return rc < 0 ? job_failed(err, rc, "writing", offset) : 0;
}

int job_flush(struct job *j, struct block *to, struct error *err)
{
	int rc = block_sync(to, BLOCK_FLUSH, 0, NULL, 0);

	j->unflushed = 0;
	return rc < 0 ? job_failed(err, rc, "flushing", 0) : 0;
}

int job_copy_range(struct job *j, const struct job_copy *c, u64 offset,
                   u64 length, struct error *err)
{
	int rc = 0;

	while (length > 0 && rc == 0) {
		struct block_extent e;

		rc = block_map(c->from, offset, length, &e);
		if (rc < 0)
			return job_failed(err, rc, "the map", offset);
		/* Zeroes are made at once, however many. */
		if (!(e.flags & BLOCK_EXTENT_ZERO))
			e.length = MIN(e.length, JOB_BUFFER);
		rc = copy_extent(j, c, offset, &e, err);
		offset += e.length;
		length -= e.length;
	}
	return rc;
}

int job_copy_all(struct job *j, const struct job_copy *c, struct error *err)
{
	u64 size = block_size(c->from), n;
	int rc = 0;

	job_set_total(j, size);
	for (u64 at = 0; at < size && rc == 0; at += n) {
		n = MIN(JOB_BUFFER, size - at);
		rc = job_copy_range(j, c, at, n, err);
		if (rc == 0)
			rc = job_step(j, n);
	}
	return rc;
}

/* ---- after a guest that goes on writing ---- */

/* Writes that wait for the job. They are over on the disk, so that a failure
 * here is the job's alone. */
static int make_good(struct job *j, const struct job_copy *c, struct error *err)
{
	struct block_request *req = job_take_kept(j);
	u64 cost = j->cost;
	int rc = 0;

	if (j->unflushed >= FLUSH_EACH)
		rc = job_flush(j, c->to, err);
	while (req) {
		if (rc == 0 && !job_cancelled(j))
			rc =
			    job_copy_range(j, c, req->offset, req->length, err);
		req = job_complete_kept(req);
	}
	j->cost = cost; /* they are outside the rate */
	return rc;
}

/* Those come first, and while the rate has the job wait. */
static int step(struct job *j, const struct job_copy *c, u64 length,
                struct error *err)
{
	int rc = make_good(j, c, err);

	if (rc == 0)
		rc = job_step(j, length);
	while (rc == -EAGAIN) {
		rc = make_good(j, c, err);
		if (rc == 0)
			rc = job_step(j, 0);
	}
	return rc;
}

static int copy_marked(struct job *j, const struct job_copy *c, bool paused,
                       struct error *err)
{
	u64 granule = 0, count;
	int rc = 0;

	while (rc == 0 && job_take_dirty(j, &granule, &count)) {
		u64 at = granule * GRANULE;
		u64 n = MIN(count * GRANULE, j->bytes - at);

		rc = job_copy_range(j, c, at, n, err);
		if (rc == 0 && paused)
			job_copied(j, n);
		else if (rc == 0)
			rc = step(j, c, n, err);
		granule += count;
	}
	return rc;
}

/* Each has what was written to in the one before. If that is not half as much,
 * they might go on for ever, or for too long. */
static int one_round(struct job *j, const struct job_copy *c, struct error *err)
{
	u64 before = j->left;
	int rc = copy_marked(j, c, false, err);

	if (rc == 0 && j->left > LITTLE && j->left > before / 2)
		job_write_both(j);
	return rc;
}

static int catch_up(struct job *j, const struct job_copy *c, struct error *err)
{
	int rc = make_good(j, c, err);

	while (rc == 0 && j->left > LITTLE)
		rc = one_round(j, c, err);
	return rc;
}

int job_follow(struct job *j, const struct job_copy *c, struct error *err)
{
	struct job_copy again = *c;
	int rc = job_track(j, err);

	if (rc == 0)
		rc = one_round(j, c, err);
	again.blank = false;
	while (rc == 0) {
		rc = catch_up(j, &again, err);
		if (rc == 0)
			rc = job_ready(j, WAIT_MS);
		if (rc == 0)
			break;
		rc = rc == -EAGAIN ? 0 : rc;
	}
	/* While the guest goes on; it may have waited before it was told. */
	if (rc == 0)
		rc = job_flush(j, c->to, err);
	if (rc == 0)
		rc = catch_up(j, &again, err);
	return rc == 0 ? job_finish(j) : rc;
}

int job_follow_last(struct job *j, const struct job_copy *c, struct error *err)
{
	struct job_copy again = *c;
	int rc;

	again.blank = false;
	rc = make_good(j, &again, err);
	return rc < 0 ? rc : copy_marked(j, &again, true, err);
}
