/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block - the front of every disk: requests are checked and counted here, so
 * that drivers see only valid ones and a close can wait for all of them.
 */
#include "storage/block.h"

#include <errno.h>
#include <limits.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "storage/core/driver.h"
#include "storage/core/formats.h"

void block_init(struct block *b, const struct block_driver *driver)
{
	b->driver = driver;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->idle, NULL);
}

void block_fini(struct block *b)
{
	pthread_cond_destroy(&b->idle);
	pthread_mutex_destroy(&b->lock);
}

int block_open(struct block **out, const struct block_open *how,
               struct error *err)
{
	return format_open(out, how, err);
}

void block_close(struct block *b)
{
	if (!b)
		return;
	block_drain(b);
	if (!b->info.readonly)
		(void)block_sync(b, BLOCK_FLUSH, 0, NULL, 0);
	b->driver->close(b);
}

void block_info(const struct block *b, struct block_info *info)
{
	*info = b->info;
	info->size = block_size(b);
}

/* The bytes of a vector; U64_MAX when the sum does not fit. */
static u64 vector_bytes(const struct iovec *iov, int count)
{
	u64 sum = 0;

	for (int i = 0; i < count; i++)
		if (__builtin_add_overflow(sum, iov[i].iov_len, &sum))
			return UINT64_MAX;
	return sum;
}

static int check_range(const struct block *b, const struct block_request *req)
{
	u64 end, mask = b->info.sector - 1;

	if ((req->offset | req->length) & mask)
		return -EINVAL;
	if (__builtin_add_overflow(req->offset, req->length, &end) ||
	    end > INT64_MAX)
		return -EINVAL;
	return !b->unbounded && end > block_size(b) ? -EINVAL : 0;
}

static int check(const struct block *b, const struct block_request *req)
{
	int rc;

	switch (req->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		if (req->iov_count < 0 ||
		    vector_bytes(req->iov, req->iov_count) != req->length)
			return -EINVAL;
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
		break;
	case BLOCK_FLUSH:
		return 0;
	default:
		return -EINVAL;
	}
	rc = check_range(b, req);
	if (rc == 0 && b->info.readonly && req->op != BLOCK_READ)
		rc = -EROFS;
	return rc;
}

static void enter(struct block *b)
{
	atomic_fetch_add_explicit(&b->inflight, 1, memory_order_relaxed);
}

/* b may be gone when this returns. */
static void leave(struct block *b)
{
	u64 n = atomic_load_explicit(&b->inflight, memory_order_relaxed);

	while (n > 1)
		if (atomic_compare_exchange_weak_explicit(
			&b->inflight, &n, n - 1, memory_order_release,
			memory_order_relaxed))
			return;
	/* The last one takes the lock first: who sees 0 under it may free b. */
	pthread_mutex_lock(&b->lock);
	if (atomic_fetch_sub_explicit(&b->inflight, 1, memory_order_acq_rel) ==
	    1)
		pthread_cond_broadcast(&b->idle);
	pthread_mutex_unlock(&b->lock);
}

bool block_now(struct block *b, const struct block_io *io)
{
	bool done;

	if (!b->driver->now)
		return false;
	enter(b);
	done = b->driver->now(b, io);
	/* b does not go away: what is on top of it is in a call. Either
	 * block_drain() sees 0, or we see that it waits. */
	if (atomic_fetch_sub(&b->inflight, 1) == 1 &&
	    atomic_load(&b->drainers)) {
		pthread_mutex_lock(&b->lock);
		pthread_cond_broadcast(&b->idle);
		pthread_mutex_unlock(&b->lock);
	}
	return done;
}

bool block_is_flushed(struct block *b)
{
	const struct block_io io = { .op = BLOCK_FLUSH };

	return block_now(b, &io);
}

/* A read, a flush of what is durable, or a write that need not be so at once.
 */
static bool done_now(struct block *b, struct block_request *req)
{
	const struct block_io io = {
		.op = req->op,
		.offset = req->offset,
		.length = req->length,
		.iov = req->iov,
		.iov_count = req->iov_count,
		.may_wait = req->flags & BLOCK_REQ_BLOCKING,
	};

	if (!(req->flags & BLOCK_REQ_INLINE) || !b->driver->now ||
	    !(req->op == BLOCK_READ || req->op == BLOCK_FLUSH ||
	      (req->op == BLOCK_WRITE && !(req->flags & BLOCK_REQ_FUA))))
		return false;
	return b->driver->now(b, &io);
}

bool block_submit(struct block *b, struct block_request *req)
{
	int rc = check(b, req);

	req->driver_private[0] = b;
	enter(b);
	if (rc < 0 || (req->length == 0 && req->op != BLOCK_FLUSH)) {
		b->driver->post(b, req, rc);
	} else if (done_now(b, req)) {
		req->done(req, 0);
		leave(b);
		return true;
	} else {
		b->driver->submit(b, req);
	}
	return false;
}

void block_complete(struct block_request *req, int result)
{
	struct block *b = req->driver_private[0];

	/* Counted until done() is back: a close must not overtake it. */
	req->done(req, result);
	leave(b);
}

void block_drain(struct block *b)
{
	pthread_mutex_lock(&b->lock);
	atomic_fetch_add(&b->drainers, 1);
	while (atomic_load(&b->inflight) > 0)
		pthread_cond_wait(&b->idle, &b->lock);
	atomic_fetch_sub(&b->drainers, 1);
	pthread_mutex_unlock(&b->lock);
}

bool block_cancel(struct block *b, struct block_request *req)
{
	return b->driver->cancel && b->driver->cancel(b, req);
}

struct waiter {
	sem_t done;
	int result;
};

static void sync_done(struct block_request *req, int result)
{
	struct waiter *w = req->ctx;

	w->result = result;
	sem_post(&w->done);
}

int block_sync_flags(struct block *b, enum block_op op, unsigned flags,
                     u64 offset, void *buf, u64 length)
{
	struct iovec iov = { .iov_base = buf, .iov_len = length };
	struct waiter w = { .result = 0 };
	struct block_request req = {
		.op = op,
		.flags = flags | BLOCK_REQ_INLINE | BLOCK_REQ_BLOCKING,
		.offset = offset,
		.length = length,
		.iov = &iov,
		.iov_count = 1,
		.done = sync_done,
		.ctx = &w,
	};

	sem_init(&w.done, 0, 0);
	block_submit(b, &req);
	while (sem_wait(&w.done) < 0 && errno == EINTR)
		continue;
	sem_destroy(&w.done);
	return w.result;
}

int block_sync(struct block *b, enum block_op op, u64 offset, void *buf,
               u64 length)
{
	return block_sync_flags(b, op, 0, offset, buf, length);
}

int block_resize(struct block *b, u64 size, struct error *err)
{
	if (b->info.readonly)
		return error_set(err, -EROFS, "the disk is read-only");
	if (!b->driver->resize)
		return error_set(err, -EOPNOTSUPP, "a %s disk has a fixed size",
		                 b->driver->name);
	if (size > INT64_MAX || !IS_ALIGNED(size, b->info.sector))
		return error_set(err, -EINVAL,
		                 "%" PRIu64 " bytes is not a multiple of the"
		                 " sector of %u bytes",
		                 size, b->info.sector);
	block_drain(b);
	return b->driver->resize(b, size, err);
}

const char *block_lost(struct block *b)
{
	return b->driver->lost ? b->driver->lost(b) : NULL;
}

void block_let_go(struct block *b)
{
	if (b->driver->let_go)
		b->driver->let_go(b);
}

int block_map(struct block *b, u64 offset, u64 length,
              struct block_extent *extent)
{
	u64 size = block_size(b);

	if (length == 0 || offset > size || length > size - offset)
		return -EINVAL;
	if (b->driver->map)
		return b->driver->map(b, offset, length, extent);
	*extent = (struct block_extent){ .length = length,
		                         .flags = BLOCK_EXTENT_DATA };
	return 0;
}
