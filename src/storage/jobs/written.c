/* SPDX-License-Identifier: Apache-2.0 */
/*
 * written - what a job that follows the guest has to copy.
 *
 * A bit a granule, all set at first. The job clears a bit and then reads; a
 * write sets it when it is over. So the job sees that write, or finds the bit
 * set again.
 *
 * A guest that writes faster than the job may copy would set bits for ever.
 * From job_write_both() on writes set none: one that touches what was copied is
 * over when the job, outside its rate, has copied it from the disk once more.
 * It is the job's thread that copies, whatever it copies, so that nothing old
 * comes after something new; and it copies what the disk holds, not the guest's
 * memory, which may have changed since.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/jobs/internal.h"

static u64 last_granule(u64 offset, u64 length)
{
	return (offset + length - 1) / GRANULE;
}

/* Nobody else sets bits meanwhile, for the live disk's lock is held. A job that
 * clears one which is found set reads after this write. */
static void mark(struct job *j, u64 offset, u64 length)
{
	atomic_thread_fence(memory_order_seq_cst);
	for (u64 g = offset / GRANULE; g <= last_granule(offset, length); g++) {
		if (atomic_load(&j->dirty[g / 64]) & BIT(g % 64))
			continue;
		atomic_fetch_add(&j->left,
		                 MIN(GRANULE, j->bytes - g * GRANULE));
		atomic_fetch_or(&j->dirty[g / 64], BIT(g % 64));
	}
}

/* All of it is going to be copied anyway. */
static bool is_marked(const struct job *j, u64 offset, u64 length)
{
	bool all = true;

	atomic_thread_fence(memory_order_seq_cst);
	for (u64 g = offset / GRANULE; all && g <= last_granule(offset, length);
	     g++)
		all = atomic_load(&j->dirty[g / 64]) >> (g % 64) & 1;
	return all;
}

static void keep(struct live *l, struct block_request *req, int result)
{
	struct job *j = l->follower;

	live_request_of(req)->next = NULL;
	live_request_of(req)->result = result;
	*l->kept_tail = req;
	l->kept_tail = &live_request_of(req)->next;
	pthread_mutex_lock(&j->lock);
	j->kept = true;
	pthread_cond_broadcast(&j->changed);
	pthread_mutex_unlock(&j->lock);
}

bool written_beside(const struct live *l)
{
	return !l->follower || !l->follower->both;
}

/* One that failed may have been made in part. */
bool written(struct live *l, const struct block_io *io,
             struct block_request *req, int result)
{
	struct job *j = l->follower;

	if (!j || io->op == BLOCK_READ || io->op == BLOCK_FLUSH ||
	    io->length == 0)
		return false;
	if (!j->both || !req) {
		mark(j, io->offset, io->length);
		return false;
	}
	if (is_marked(j, io->offset, io->length))
		return false;
	keep(l, req, result);
	return true;
}

/* ---- the job's thread ---- */

int job_track(struct job *j, struct error *err)
{
	j->bytes = block_size(&j->live->block);
	j->granules = (j->bytes + GRANULE - 1) / GRANULE;
	j->dirty = try_alloc(j->granules / 64 + 1, 8);
	if (!j->dirty)
		return error_set(err, -ENOMEM, "out of memory");
	for (u64 g = 0; g < j->granules; g++)
		j->dirty[g / 64] |= BIT(g % 64);
	j->left = j->bytes;
	pthread_mutex_lock(&j->live->lock);
	j->live->follower = j;
	pthread_mutex_unlock(&j->live->lock);
	return 0;
}

void job_untrack(struct job *j)
{
	struct block_request *req;

	if (!j->dirty)
		return;
	job_set_total(j, j->done + j->left);
	pthread_mutex_lock(&j->live->lock);
	j->live->follower = NULL;
	j->both = false;
	pthread_mutex_unlock(&j->live->lock);
	for (req = job_take_kept(j); req;)
		req = job_complete_kept(req);
	free((void *)(uintptr_t)j->dirty);
	j->dirty = NULL;
}

static bool take_bit(struct job *j, u64 g)
{
	u64 bit = BIT(g % 64);

	return atomic_fetch_and(&j->dirty[g / 64], ~bit) & bit;
}

bool job_take_dirty(struct job *j, u64 *granule, u64 *count)
{
	u64 g = *granule, n = 0;

	while (g < j->granules && !take_bit(j, g))
		g += atomic_load(&j->dirty[g / 64]) ? 1 : 64 - g % 64;
	if (g >= j->granules)
		return false;
	do
		n++;
	while (n < JOB_BUFFER / GRANULE && g + n < j->granules &&
	       take_bit(j, g + n));
	*granule = g;
	*count = n;
	return true;
}

void job_write_both(struct job *j)
{
	pthread_mutex_lock(&j->live->lock);
	j->both = true;
	pthread_mutex_unlock(&j->live->lock);
}

struct block_request *job_take_kept(struct job *j)
{
	struct live *l = j->live;
	struct block_request *list;

	/* First: who comes in between says it again. */
	pthread_mutex_lock(&j->lock);
	j->kept = false;
	pthread_mutex_unlock(&j->lock);
	pthread_mutex_lock(&l->lock);
	list = l->kept;
	l->kept = NULL;
	l->kept_tail = &l->kept;
	pthread_mutex_unlock(&l->lock);
	return list;
}

struct block_request *job_complete_kept(struct block_request *req)
{
	struct block_request *next = live_request_of(req)->next;

	block_complete(req, live_request_of(req)->result);
	return next;
}
