/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer - how one request becomes system calls on the file.
 *
 * A call may move less than asked (a signal, a quota, the end of the file):
 * the rest is asked for again until it is all there or the reason is known.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "storage/core/iov.h"
#include "storage/raw/raw.h"

enum {
	HOST_PAGE = 4096,
	NOW_BYTES_MAX = 64 * 1024, /* more, and two threads copy faster */
	SKIP_AFTER_MISS = 3,
	NOW_WRITE_NS = 1000 * 1000, /* a write that took longer has waited */
	QUEUE_TIMES = 10,           /* ...and none is made here as long */
};

static bool aligned(const struct raw *raw, const struct block_request *req)
{
	uintptr_t bits = 0;

	for (int i = 0; i < req->iov_count; i++)
		bits |= (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len;
	return (bits & (raw->mem_align - 1)) == 0;
}

/*
 * What length says is there grows after the file does, and shrinks before it:
 * whichever happens meanwhile, one of both is not more than the file has.
 *
 * Not by fstat(), which asks for the times, too: since Linux 6.13 the next
 * write has to set those anew then, and the flush after it to write the inode.
 */
bool raw_cut_short(const struct raw *raw)
{
	u64 before = raw->length, after;
	off_t size;

	if (raw->device)
		return false;
	size = lseek(raw->fd, 0, SEEK_END);
	after = raw->length;
	return size >= 0 && (u64)size < MIN(before, after);
}

int raw_begin(struct block_request *req)
{
	struct raw *raw = raw_of(req);
	struct raw_state *st = raw_state(req);
	void *copy;

	/* It would grow again, and what is lost would read as zeroes. */
	if (req->op == BLOCK_WRITE && raw_cut_short(raw))
		return -EIO;

	if (!raw->direct || aligned(raw, req))
		return 0;
	if (posix_memalign(&copy, raw->mem_align, req->length) != 0)
		return -ENOMEM;
	st->bounce = copy;
	if (req->op == BLOCK_WRITE)
		iov_copy_out(req->iov, req->iov_count, 0, copy, req->length);
	return 0;
}

int raw_remaining(struct block_request *req, const struct iovec **iov,
                  int *count)
{
	struct raw_state *st = raw_state(req);
	struct iovec whole = { st->bounce, req->length };
	const struct iovec *from = st->bounce ? &whole : req->iov;
	int entries = st->bounce ? 1 : req->iov_count;

	if (st->done == 0 && !st->bounce) {
		*iov = req->iov;
		*count = MIN(entries, IOV_MAX);
		return 0;
	}
	if (!st->iov)
		st->iov = try_alloc((size_t)entries, sizeof(*st->iov));
	if (!st->iov)
		return -ENOMEM;
	*count =
	    iov_slice(st->iov, from, entries, st->done, req->length - st->done);
	*count = MIN(*count, IOV_MAX);
	*iov = st->iov;
	return 0;
}

/* The file ended before the request did. */
static int at_end(struct block_request *req)
{
	struct raw *raw = raw_of(req);
	struct raw_state *st = raw_state(req);
	u64 rest = req->length - st->done;

	/* It was cut short, or has grown since it was read. */
	if (req->offset + st->done < raw->length) {
		if (raw->device || raw_cut_short(raw))
			return -EIO;
		st->done = ALIGN_DOWN(st->done, (u64)raw->block.info.sector);
		return 1;
	}
	if (st->bounce)
		memset(st->bounce + st->done, 0, rest);
	else
		iov_zero(req->iov, req->iov_count, st->done, rest);
	st->done = req->length;
	return 0;
}

static void note_growth(struct raw *raw, u64 end)
{
	u64 length = atomic_load_explicit(&raw->length, memory_order_relaxed);

	while (end > length &&
	       !atomic_compare_exchange_weak(&raw->length, &length, end))
		continue;
}

int raw_step(struct block_request *req, s64 n)
{
	struct raw *raw = raw_of(req);
	struct raw_state *st = raw_state(req);

	if (n == -EINTR || n == -EAGAIN)
		return 1;
	if (n < 0)
		return (int)n;
	if (n == 0)
		return req->op == BLOCK_READ ? at_end(req) : -EIO;
	st->done += (u64)n;
	if (req->op == BLOCK_WRITE && raw->block.unbounded)
		note_growth(raw, req->offset + st->done);
	if (st->done >= req->length)
		return 0;
	/* A direct read stops inside a sector at the end of the file only,
	 * and could not be continued from there. */
	if (req->op == BLOCK_READ && raw->direct &&
	    !IS_ALIGNED(st->done, (u64)raw->block.info.sector))
		return at_end(req);
	return 1;
}

bool raw_is_flushed(struct raw *raw, u64 *changes)
{
	*changes = atomic_load(&raw->changes);
	return raw->no_flush || raw->in_memory ||
	       *changes == atomic_load(&raw->flushed);
}

static void note_flush(struct raw *raw, u64 changes)
{
	u64 old = atomic_load(&raw->flushed);

	while (changes > old &&
	       !atomic_compare_exchange_weak(&raw->flushed, &old, changes))
		continue;
}

void raw_finish(struct block_request *req, int result)
{
	struct raw_state *st = raw_state(req);
	struct raw *raw = raw_of(req);

	if (st->post)
		; /* nothing was done */
	else if (req->op == BLOCK_FLUSH && result == 0)
		note_flush(raw, st->done);
	else if (req->op != BLOCK_FLUSH && req->op != BLOCK_READ)
		atomic_fetch_add(&raw->changes, 1);

	if (st->bounce && req->op == BLOCK_READ && result == 0)
		iov_copy_in(req->iov, req->iov_count, 0, st->bounce,
		            req->length);
	free(st->bounce);
	free(st->iov);
	block_complete(req, result);
}

static int transfer(struct block_request *req)
{
	struct raw *raw = raw_of(req);
	struct raw_state *st = raw_state(req);
	int sync = req->flags & BLOCK_REQ_FUA ? RWF_DSYNC : 0;
	int rc = raw_begin(req);

	while (rc >= 0) {
		const struct iovec *iov;
		off_t at = (off_t)(req->offset + st->done);
		ssize_t n;
		int count;

		rc = raw_remaining(req, &iov, &count);
		if (rc < 0)
			break;
		n = req->op == BLOCK_READ
		        ? preadv(raw->fd, iov, count, at)
		        : pwritev2(raw->fd, iov, count, at, sync);
		rc = raw_step(req, n < 0 ? -errno : n);
		if (rc <= 0)
			break;
	}
	return rc;
}

static bool unsupported(int rc)
{
	return rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -ENODEV ||
	       rc == -ENOTTY || rc == -EINVAL;
}

/* When memory does not have it the question alone costs something: after one
 * in vain, some are not asked. */
static bool read_now(struct raw *raw, const struct block_io *io)
{
	u32 skip;
	ssize_t n;

	/* Such can't be asked not to wait, and have nothing to wait for. */
	if (raw->in_memory)
		return preadv(raw->fd, io->iov, io->iov_count,
		              (off_t)io->offset) == (ssize_t)io->length;
	if (atomic_load_explicit(&raw->no_nowait, memory_order_relaxed))
		return false;
	skip = atomic_load_explicit(&raw->skip_now, memory_order_relaxed);
	if (skip) {
		atomic_store_explicit(&raw->skip_now, skip - 1,
		                      memory_order_relaxed);
		return false;
	}
	n = preadv2(raw->fd, io->iov, io->iov_count, (off_t)io->offset,
	            RWF_NOWAIT);
	if (n == (ssize_t)io->length)
		return true;
	if (n < 0 && unsupported(-errno))
		atomic_store(&raw->no_nowait, true);
	else
		atomic_store_explicit(&raw->skip_now, SKIP_AFTER_MISS,
		                      memory_order_relaxed);
	return false;
}

/*
 * Whole pages go into the page cache without a look at the disk; but few file
 * systems can be asked not to wait, for a journal or until there are fewer
 * dirty pages. So what it takes is measured, and once that was long, writes
 * are queued for a while: of all time, a small part at most is waited for.
 */
static bool write_now(struct raw *raw, const struct block_io *io)
{
	u64 begin = loop_now_ns(), end;
	ssize_t n;

	if (!IS_ALIGNED(io->offset | io->length, (u64)HOST_PAGE) ||
	    begin < atomic_load_explicit(&raw->queue_until_ns,
	                                 memory_order_relaxed) ||
	    raw_cut_short(raw))
		return false;
	n = pwritev(raw->fd, io->iov, io->iov_count, (off_t)io->offset);
	end = loop_now_ns();
	if (end - begin > NOW_WRITE_NS)
		atomic_store_explicit(&raw->queue_until_ns,
		                      end + (end - begin) * QUEUE_TIMES,
		                      memory_order_relaxed);
	atomic_fetch_add(&raw->changes, 1);
	/* Why not, is found out by who does it again. */
	if (n != (ssize_t)io->length)
		return false;
	if (raw->block.unbounded)
		note_growth(raw, io->offset + io->length);
	return true;
}

static int sync_data(struct raw *raw)
{
	int rc;

	do
		rc = fdatasync(raw->fd);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

/* The failure is found by who submits the flush. */
static bool flush_now(struct raw *raw, bool may_wait)
{
	u64 changes;
	int rc;

	if (raw_is_flushed(raw, &changes))
		return !atomic_load(&raw->flush_failed);
	if (!may_wait)
		return false;
	rc = sync_data(raw);
	if (rc == 0)
		note_flush(raw, changes);
	else
		atomic_store(&raw->flush_failed, rc);
	return rc == 0;
}

void raw_take_failure(struct block_request *req)
{
	int rc = atomic_exchange(&raw_of(req)->flush_failed, 0);

	if (rc == 0)
		return;
	raw_state(req)->post = true;
	raw_state(req)->posted = rc;
}

/* A thread that sleeps has to be woken to do it, which takes longer than to
 * copy a few pages. */
bool raw_now(struct block *b, const struct block_io *io)
{
	struct raw *raw = container_of(b, struct raw, block);

	if (io->op == BLOCK_FLUSH)
		return flush_now(raw, io->may_wait);
	if (io->length > NOW_BYTES_MAX || io->iov_count > IOV_MAX ||
	    raw->direct)
		return false;
	return io->op == BLOCK_READ ? read_now(raw, io) : write_now(raw, io);
}

static int allocate(struct raw *raw, int mode, u64 offset, u64 length)
{
	int rc;

	do
		rc = fallocate(raw->fd, mode, (off_t)offset, (off_t)length);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

static int punch(struct raw *raw, u64 offset, u64 length)
{
	int rc;

	if (atomic_load(&raw->no_punch))
		return -EOPNOTSUPP;
	rc = allocate(raw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
	              length);
	if (unsupported(rc)) {
		atomic_store(&raw->no_punch, true);
		rc = -EOPNOTSUPP;
	}
	return rc;
}

static int discard(struct raw *raw, u64 offset, u64 length)
{
	u64 range[2] = { offset, length };
	int rc;

	if (raw->device)
		rc = ioctl(raw->fd, BLKDISCARD, range) < 0 ? -errno : 0;
	else
		rc = punch(raw, offset, length);
	/* A hint that the host can't use is no failure. */
	return unsupported(rc) ? 0 : rc;
}

static int write_zero_pages(struct raw *raw, u64 offset, u64 length)
{
	static const u8 zeroes[64 * KIB] __attribute__((aligned(4096)));

	while (length > 0) {
		size_t want = MIN(length, sizeof(zeroes));
		ssize_t n = pwrite(raw->fd, zeroes, want, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		offset += (u64)n;
		length -= (u64)n;
	}
	return 0;
}

/*
 * A file that has to grow: the new part is a hole, which reads as zeroes. By
 * a byte written and not by ftruncate(), which could cut off what another
 * thread has just appended. The byte lies in the range being zeroed.
 */
static int extend(struct raw *raw, u64 end)
{
	struct stat st;
	ssize_t n;

	if (raw->device)
		return 0;
	if (fstat(raw->fd, &st) < 0)
		return -errno;
	if ((u64)st.st_size >= end)
		return 0;
	do
		n = pwrite(raw->fd, "", 1, (off_t)end - 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? 0 : n < 0 ? -errno : -EIO;
}

static int write_zeroes(struct raw *raw, const struct block_request *req)
{
	u64 range[2] = { req->offset, req->length };
	int rc = 0;

	/* A direct write of one byte is refused; of pages it is not. */
	if (raw->block.unbounded && raw->direct)
		return write_zero_pages(raw, req->offset, req->length);
	if (raw->block.unbounded)
		rc = extend(raw, req->offset + req->length);
	if (rc < 0)
		return rc;
	rc = -EOPNOTSUPP;
	if (!(req->flags & BLOCK_REQ_NO_UNMAP))
		rc = punch(raw, req->offset, req->length);
	if (unsupported(rc) && raw->device)
		rc = ioctl(raw->fd, BLKZEROOUT, range) < 0 ? -errno : 0;
	else if (unsupported(rc) && !atomic_load(&raw->no_zero_range))
		rc = allocate(raw, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
		              req->offset, req->length);
	if (!unsupported(rc))
		return rc;
	atomic_store(&raw->no_zero_range, true);
	return write_zero_pages(raw, req->offset, req->length);
}

void raw_perform(struct block_request *req)
{
	struct raw *raw = raw_of(req);
	struct raw_state *st = raw_state(req);
	int rc = -EINVAL;

	if (st->post) {
		raw_finish(req, st->posted);
		return;
	}
	switch (req->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		rc = transfer(req);
		break;
	case BLOCK_FLUSH:
		rc = sync_data(raw);
		break;
	case BLOCK_DISCARD:
		rc = discard(raw, req->offset, req->length);
		break;
	case BLOCK_WRITE_ZEROES:
		rc = write_zeroes(raw, req);
		if (rc == 0 && (req->flags & BLOCK_REQ_FUA))
			rc = sync_data(raw);
		break;
	}
	raw_finish(req, rc);
}
