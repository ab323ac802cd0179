/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/jobs/copy.h"

#include <errno.h>
#include <limits.h>

#include "base/error.h"

/* Rounds after which a fast writer is not run after any more, and what is
 * little enough to be copied while the disk stands still. */
enum { ROUNDS_MAX = 8, LITTLE = 16, WAIT_MS = 50 };

static int copy_extent(struct job *j, const struct job_copy *c, u64 offset,
                       const struct block_extent *e, struct error *err)
{
	int rc;

	if (e->depth >= c->levels)
		return 0;
	if (e->flags & BLOCK_EXTENT_ZERO) {
		rc = c->blank ? 0
		              : block_sync(c->to, BLOCK_WRITE_ZEROES, offset,
		                           NULL, e->length);
		return rc < 0 ? job_failed(err, rc, "writing", offset) : 0;
	}
	rc = block_sync(c->from, BLOCK_READ, offset, j->buf, e->length);
	if (rc < 0)
		return job_failed(err, rc, "reading", offset);
	rc = block_sync(c->to, BLOCK_WRITE, offset, j->buf, e->length);
	return rc < 0 ? job_failed(err, rc, "writing", offset) : 0;
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

static int one_round(struct job *j, const struct job_copy *c, bool paused,
                     struct error *err)
{
	struct job_copy again = *c;
	u64 size = block_size(c->from), granule = 0, count;
	int rc = 0;

	again.blank = false;
	while (rc == 0 && job_take_dirty(j, &granule, &count)) {
		u64 at = granule * GRANULE;
		u64 n = MIN(count * GRANULE, size - at);

		rc = job_copy_range(j, &again, at, n, err);
		if (rc == 0 && !paused)
			rc = job_step(j, n);
		granule += count;
	}
	return rc;
}

int job_copy_dirty(struct job *j, const struct job_copy *c, bool once,
                   struct error *err)
{
	int rc = 0;

	for (int i = 0; i < ROUNDS_MAX && rc == 0; i++) {
		if (!once && job_count_dirty(j) <= LITTLE)
			break;
		rc = one_round(j, c, once, err);
		if (once)
			break;
	}
	return rc;
}

int job_keep_up(struct job *j, const struct job_copy *c, struct error *err)
{
	int rc;

	do {
		rc = job_copy_dirty(j, c, false, err);
		if (rc == 0)
			rc = job_ready(j, WAIT_MS);
	} while (rc == -EAGAIN);
	return rc == 0 ? job_finish(j) : rc;
}
