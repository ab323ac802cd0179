/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw disks: the same tests over both backends, cached and direct.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"
#include "storage/raw/io.h"
#include "storage/raw/raw.h"

enum {
	SIZE = 4 * 1024 * 1024,
	REQUEST_FLAGS = 1 << 24, /* a variant's, above those of open */
	AT_ONCE = REQUEST_FLAGS * BLOCK_REQ_INLINE,
	WAITING = REQUEST_FLAGS * (BLOCK_REQ_INLINE | BLOCK_REQ_BLOCKING),
};

struct fixture {
	unsigned flags, request_flags;
	char *path;
	struct block *b;
	struct block_info info;
};

static int open_flags(struct fixture *f, unsigned more)
{
	struct block_open how = { .path = f->path,
		                  .fd = -1,
		                  .flags = f->flags | more };
	struct error err = { 0 };
	int rc = block_open(&f->b, &how, &err);

	if (rc < 0) {
		f->b = NULL;
		print_message("%s\n", err.text);
	} else {
		block_info(f->b, &f->info);
	}
	return rc;
}

static struct fixture *begin(void **state)
{
	struct fixture *f = xalloc(sizeof(*f));
	int rc;

	f->flags = (unsigned)(uintptr_t)*state % REQUEST_FLAGS;
	f->request_flags = (unsigned)(uintptr_t)*state / REQUEST_FLAGS;
	f->path = scratch_file(".raw", SIZE);
	rc = open_flags(f, 0);
	if (rc == -EINVAL && (f->flags & BLOCK_OPEN_DIRECT)) {
		unlink(f->path);
		free(f->path);
		free(f);
		print_message("no direct I/O on this file system\n");
		skip();
	}
	assert_int_equal(rc, 0);
	return f;
}

static void end(struct fixture *f)
{
	block_close(f->b);
	unlink(f->path);
	free(f->path);
	free(f);
}

struct waiter {
	sem_t sem;
	int result;
};

static void wake_waiter(struct block_request *req, int result)
{
	struct waiter *w = req->ctx;

	w->result = result;
	sem_post(&w->sem);
}

/* block_sync() leaves nothing to the backends. */
static int io_flags(struct fixture *f, enum block_op op, unsigned flags,
                    u64 offset, void *buf, u64 length)
{
	struct iovec iov = { buf, length };
	struct waiter w;
	struct block_request req = {
		.op = op,
		.flags = flags | f->request_flags,
		.offset = offset,
		.length = length,
		.iov = &iov,
		.iov_count = 1,
		.done = wake_waiter,
		.ctx = &w,
	};

	sem_init(&w.sem, 0, 0);
	block_submit(f->b, &req);
	sem_wait(&w.sem);
	sem_destroy(&w.sem);
	return w.result;
}

static int io(struct fixture *f, enum block_op op, u64 offset, void *buf,
              u64 length)
{
	return io_flags(f, op, 0, offset, buf, length);
}

static void test_io(void **state)
{
	struct fixture *f = begin(state);
	/* Misaligned memory on purpose. */
	u8 *base = xalloc(256 * KIB + 16), *buf = base + 3;
	u32 unit = f->info.sector;

	assert_int_equal(f->info.size, SIZE);
	assert_false(f->info.readonly);
	for (u64 off = 0; off < SIZE; off += 256 * KIB) {
		pattern_fill(buf, off, 256 * KIB, 1);
		assert_int_equal(io(f, BLOCK_WRITE, off, buf, 256 * KIB), 0);
	}
	assert_int_equal(io(f, BLOCK_FLUSH, 0, NULL, 0), 0);
	pattern_fill(buf, unit, unit, 2);
	assert_int_equal(
	    io_flags(f, BLOCK_WRITE, BLOCK_REQ_FUA, unit, buf, unit), 0);
	memset(buf, 0, 3 * unit);
	assert_int_equal(io(f, BLOCK_READ, 0, buf, 3 * unit), 0);
	assert_true(pattern_holds(buf, 0, unit, 1));
	assert_true(pattern_holds(buf + unit, unit, unit, 2));
	assert_true(pattern_holds(buf + 2 * unit, 2 * unit, unit, 1));
	free(base);
	end(f);
}

static void test_vectors(void **state)
{
	struct fixture *f = begin(state);
	u32 unit = f->info.sector;
	/* More pieces than one system call takes, none aligned. */
	enum { PIECES = 4096, PIECE = 16, TOTAL = PIECES * PIECE };
	struct iovec *iov = xalloc(PIECES * sizeof(*iov));
	u8 *buf = xalloc(TOTAL), *back = xalloc(TOTAL);
	struct waiter w;
	struct block_request req = {
		.flags = f->request_flags,
		.offset = unit,
		.length = TOTAL,
		.iov = iov,
		.iov_count = PIECES,
		.done = wake_waiter,
		.ctx = &w,
	};

	sem_init(&w.sem, 0, 0);
	for (int i = 0; i < PIECES; i++)
		iov[i] = (struct iovec){ buf + i * PIECE, PIECE };
	pattern_fill(buf, 0, TOTAL, 5);
	req.op = BLOCK_WRITE;
	block_submit(f->b, &req);
	sem_wait(&w.sem);
	assert_int_equal(w.result, 0);

	memset(buf, 0, TOTAL);
	req.op = BLOCK_READ;
	block_submit(f->b, &req);
	sem_wait(&w.sem);
	assert_int_equal(w.result, 0);
	assert_true(pattern_holds(buf, 0, TOTAL, 5));
	assert_int_equal(io(f, BLOCK_READ, unit, back, TOTAL), 0);
	assert_memory_equal(back, buf, TOTAL);
	sem_destroy(&w.sem);
	free(iov);
	free(buf);
	free(back);
	end(f);
}

static void test_refusals(void **state)
{
	struct fixture *f = begin(state);
	u32 unit = f->info.sector;
	u8 *buf = xalloc(2 * unit);
	assert_int_equal(io(f, BLOCK_READ, SIZE, buf, unit), -EINVAL);
	assert_int_equal(io(f, BLOCK_READ, SIZE - unit, buf, 2 * unit),
	                 -EINVAL);
	assert_int_equal(io(f, BLOCK_READ, 1, buf, unit), -EINVAL);
	assert_int_equal(io(f, BLOCK_WRITE, 0, buf, unit - 1), -EINVAL);
	assert_int_equal(io(f, BLOCK_WRITE, UINT64_MAX - unit + 1, buf, unit),
	                 -EINVAL);
	assert_int_equal(io(f, BLOCK_DISCARD, 0, NULL, (u64)SIZE * 2), -EINVAL);
	assert_int_equal(io(f, (enum block_op)77, 0, buf, unit), -EINVAL);
	assert_int_equal(io(f, BLOCK_WRITE, 0, NULL, 0), 0);
	free(buf);
	end(f);
}

static u64 allocated(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (u64)st.st_blocks * 512;
}

static void check_zero(struct block *b, u64 offset, u64 length)
{
	u8 *buf = xalloc(length);

	memset(buf, 0xaa, length);
	assert_int_equal(block_sync(b, BLOCK_READ, offset, buf, length), 0);
	for (u64 i = 0; i < length; i++)
		assert_int_equal(buf[i], 0);
	free(buf);
}

static void test_zero_and_discard(void **state)
{
	struct fixture *f = begin(state);
	u8 *buf = xalloc(MIB);
	u64 full;

	pattern_fill(buf, 0, MIB, 3);
	assert_int_equal(io(f, BLOCK_WRITE, 0, buf, MIB), 0);
	assert_int_equal(io(f, BLOCK_FLUSH, 0, NULL, 0), 0);
	full = allocated(f->path);
	assert_int_equal(io_flags(f, BLOCK_WRITE_ZEROES, BLOCK_REQ_NO_UNMAP, 0,
	                          NULL, 256 * KIB),
	                 0);
	check_zero(f->b, 0, 256 * KIB);
	assert_int_equal(io(f, BLOCK_FLUSH, 0, NULL, 0), 0);
	assert_true(allocated(f->path) >= full);
	assert_int_equal(io_flags(f, BLOCK_WRITE_ZEROES, BLOCK_REQ_FUA,
	                          256 * KIB, NULL, 256 * KIB),
	                 0);
	check_zero(f->b, 256 * KIB, 256 * KIB);
	assert_int_equal(io(f, BLOCK_DISCARD, 512 * KIB, NULL, 256 * KIB), 0);
	assert_int_equal(io(f, BLOCK_READ, 768 * KIB, buf, 256 * KIB), 0);
	assert_true(pattern_holds(buf, 768 * KIB, 256 * KIB, 3));
	if (f->info.discard)
		assert_true(allocated(f->path) < full);
	free(buf);
	end(f);
}

static void test_locks(void **state)
{
	struct fixture *f = begin(state);
	struct fixture other = { .flags = f->flags, .path = f->path };
	struct block_open how = { .path = f->path, .fd = -1 };
	struct error err;

	/* Another open, even in this process, meets the lock. */
	assert_int_equal(open_flags(&other, 0), -EBUSY);
	assert_int_equal(open_flags(&other, BLOCK_OPEN_READONLY), -EBUSY);
	assert_int_equal(block_open(&other.b, &how, &err), -EBUSY);
	assert_non_null(strstr(err.text, "in use by another process"));
	assert_true(err.hint[0] != '\0');
	assert_int_equal(
	    open_flags(&other, BLOCK_OPEN_READONLY | BLOCK_OPEN_NO_LOCK), 0);
	block_close(other.b);
	block_close(f->b);

	assert_int_equal(open_flags(f, BLOCK_OPEN_READONLY), 0);
	assert_int_equal(open_flags(&other, BLOCK_OPEN_READONLY), 0);
	assert_int_equal(io(f, BLOCK_DISCARD, 0, NULL, 4096), -EROFS);
	block_close(other.b);
	assert_int_equal(open_flags(&other, 0), -EBUSY);
	end(f);
}

static void test_descriptor(void **state)
{
	struct fixture *f = begin(state);
	struct block_open how = { .fd = -1, .flags = f->flags };
	struct error err;
	u8 *buf = xalloc(4096);

	block_close(f->b);
	f->b = NULL;
	how.fd = open(f->path, O_RDWR | O_CLOEXEC);
	assert_int_equal(block_open(&f->b, &how, &err), 0);
	assert_int_equal(io(f, BLOCK_WRITE, 0, buf, 4096), 0);
	block_close(f->b);
	f->b = NULL;
	assert_int_equal(fcntl(how.fd, F_GETFD), -1); /* taken over */

	how.fd = open(f->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(block_open(&f->b, &how, &err), -EACCES);
	assert_int_equal(fcntl(how.fd, F_GETFD), -1); /* also on failure */
	how.fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	how.flags |= BLOCK_OPEN_READONLY;
	assert_int_equal(block_open(&f->b, &how, &err), -EINVAL);
	how.fd = -1;
	how.path = "no/such/file";
	assert_int_equal(block_open(&f->b, &how, &err), -ENOENT);
	how.format = "vmdk";
	assert_int_equal(block_open(&f->b, &how, &err), -EINVAL);
	assert_non_null(strstr(err.text, "vmdk"));
	f->b = NULL;
	free(buf);
	end(f);
}

struct noted {
	sem_t sem;
	pthread_t thread;
	int result;
};

static void note_thread(struct block_request *req, int result)
{
	struct noted *n = req->ctx;

	n->thread = pthread_self();
	n->result = result;
	sem_post(&n->sem);
}

/* Submits it, and says whether this thread completed it. */
static bool was_mine(struct fixture *f, enum block_op op, u64 offset, u8 *buf,
                     u64 length)
{
	struct iovec iov = { buf, length };
	struct noted n;
	struct block_request req = {
		.op = op,
		.flags = f->request_flags,
		.offset = offset,
		.length = length,
		.iov = &iov,
		.iov_count = 1,
		.done = note_thread,
		.ctx = &n,
	};

	sem_init(&n.sem, 0, 0);
	block_submit(f->b, &req);
	sem_wait(&n.sem);
	block_drain(f->b);
	assert_int_equal(n.result, 0);
	sem_destroy(&n.sem);
	return pthread_equal(n.thread, pthread_self());
}

/* Who completes what the page cache can: its submitter only if the request says
 * that it may. */
static void test_at_once(void **state)
{
	struct fixture *f = begin(state);
	u8 *buf = aligned_alloc(4096, 4096);
	struct raw *raw = container_of(f->b, struct raw, block);
	bool cached = !(f->flags & BLOCK_OPEN_DIRECT), mine;

	pattern_fill(buf, 8192, 4096, 3);
	assert_int_equal(io(f, BLOCK_WRITE, 8192, buf, 4096), 0);
	assert_int_equal(io(f, BLOCK_READ, 8192, buf, 4096), 0);
	memset(buf, 0, 4096);
	mine = was_mine(f, BLOCK_READ, 8192, buf, 4096);
	assert_true(pattern_holds(buf, 8192, 4096, 3));
	if (f->request_flags & BLOCK_REQ_BLOCKING)
		assert_true(mine);
	else if (!(f->request_flags & BLOCK_REQ_INLINE) || !cached)
		assert_false(mine);
	else if (!mine) /* memory may be short, too: it is no promise */
		print_message("not read at once: %s\n",
		              raw->no_nowait ? "not known here" : "not cached");
	free(buf);
	end(f);
}

static bool in_memory(const char *path)
{
	struct statfs fs;

	assert_int_equal(statfs(path, &fs), 0);
	return fs.f_type == TMPFS_MAGIC;
}

/* A flush is over at once when there is nothing to make durable, and never when
 * there is. Of qcow2 it is the same, as long as its tables have not changed. */
static void check_flushes(struct fixture *f)
{
	u8 *buf = aligned_alloc(4096, 4096);
	bool may = f->request_flags, at_once = may && in_memory(f->path);

	at_once |= (f->request_flags & BLOCK_REQ_BLOCKING) != 0;
	pattern_fill(buf, 8192, 4096, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(io(f, BLOCK_WRITE, 8192, buf, 4096), 0);
		assert_int_equal(io(f, BLOCK_FLUSH, 0, NULL, 0), 0);
		assert_int_equal(was_mine(f, BLOCK_FLUSH, 0, NULL, 0), may);
		assert_int_equal(io(f, BLOCK_WRITE, 8192, buf, 4096), 0);
		assert_int_equal(was_mine(f, BLOCK_FLUSH, 0, NULL, 0), at_once);
	}
	free(buf);
}

static void test_flush_at_once(void **state)
{
	struct fixture *f = begin(state);

	check_flushes(f);
	end(f);
}

static void test_flush_of_qcow2_at_once(void **state)
{
	struct fixture f = { .request_flags = BLOCK_REQ_INLINE,
		             .path = scratch_path(".qcow2") };
	const struct image_create make = {
		.path = f.path, .format = "qcow2", .size = SIZE, .replace = true
	};
	struct block_open how = { .path = f.path, .fd = -1, .format = "qcow2" };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(image_create(&make, &err), 0);
	assert_int_equal(block_open(&f.b, &how, &err), 0);
	check_flushes(&f);
	block_close(f.b);
	/* Where the host may lose it, none has anything to do. */
	how.flags = BLOCK_OPEN_NO_FLUSH;
	assert_int_equal(block_open(&f.b, &how, &err), 0);
	assert_true(was_mine(&f, BLOCK_FLUSH, 0, NULL, 0));
	block_close(f.b);
	unlink(f.path);
	free(f.path);
}

static _Atomic bool flush_fails;

/* Instead of the C library's: the kernel tells of a failure once, too. */
int fdatasync(int fd)
{
	if (!atomic_exchange(&flush_fails, false))
		return (int)syscall(SYS_fdatasync, fd);
	errno = EIO;
	return -1;
}

static void check_failed_flush(struct fixture *f)
{
	u8 *buf = aligned_alloc(4096, 4096);

	pattern_fill(buf, 8192, 4096, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(io(f, BLOCK_WRITE, 8192, buf, 4096), 0);
		flush_fails = true;
		assert_int_equal(io(f, BLOCK_FLUSH, 0, NULL, 0), -EIO);
		assert_false(flush_fails);
		assert_int_equal(io(f, BLOCK_FLUSH, 0, NULL, 0), 0);
		assert_true(block_is_flushed(f->b));
	}
	free(buf);
}

/* Whoever does it, who asked for it is told. */
static void test_failed_flush(void **state)
{
	struct fixture *f = begin(state);

	if (in_memory(f->path))
		print_message("nothing is flushed in memory\n");
	else
		check_failed_flush(f);
	end(f);
}

static void test_failed_flush_of_qcow2(void **state)
{
	struct fixture f = { .request_flags = WAITING / REQUEST_FLAGS,
		             .path = scratch_path(".qcow2") };
	const struct image_create make = { .path = f.path,
		                           .format = "qcow2",
		                           .size = SIZE,
		                           .preallocation = IMAGE_METADATA,
		                           .replace = true };
	struct block_open how = { .path = f.path, .fd = -1, .format = "qcow2" };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(image_create(&make, &err), 0);
	assert_int_equal(block_open(&f.b, &how, &err), 0);
	if (!in_memory(f.path))
		check_failed_flush(&f);
	block_close(f.b);
	unlink(f.path);
	free(f.path);
}

/* What lies in memory alone has nothing to wait for. */
static void test_memory_at_once(void **state)
{
	struct fixture f = { .request_flags = BLOCK_REQ_INLINE };
	struct block_open how = { .fd = memfd_create("disk", MFD_CLOEXEC),
		                  .flags = BLOCK_OPEN_THREADS };
	struct error err = { 0 };
	u8 buf[4096];

	(void)state;
	assert_true(how.fd >= 0);
	assert_int_equal(ftruncate(how.fd, SIZE), 0);
	pattern_fill(buf, 0, sizeof(buf), 5);
	assert_int_equal(pwrite(how.fd, buf, sizeof(buf), 0), sizeof(buf));
	assert_int_equal(block_open(&f.b, &how, &err), 0);
	for (int i = 0; i < 10; i++) {
		memset(buf, 0, sizeof(buf));
		assert_true(was_mine(&f, BLOCK_READ, 0, buf, sizeof(buf)));
		assert_true(pattern_holds(buf, 0, sizeof(buf), 5));
	}
	assert_int_equal(io(&f, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_true(was_mine(&f, BLOCK_FLUSH, 0, NULL, 0));
	/* And what was cut off is lost here as elsewhere. */
	assert_int_equal(ftruncate(how.fd, SIZE / 2), 0);
	assert_int_equal(
	    block_sync(f.b, BLOCK_READ, SIZE / 2, buf, sizeof(buf)), -EIO);
	block_close(f.b);
}

/* Whole pages are written at once, unless that was slow lately; parts of pages,
 * which may have to be read first, never. */
static void test_written_at_once(void **state)
{
	struct fixture *f = begin(state);
	u8 *buf = aligned_alloc(4096, 4096), *back = aligned_alloc(4096, 4096);
	struct raw *raw = container_of(f->b, struct raw, block);
	bool at_once = (f->request_flags & BLOCK_REQ_INLINE) &&
	               !(f->flags & BLOCK_OPEN_DIRECT);
	bool waits = f->request_flags & BLOCK_REQ_BLOCKING;
	unsigned part = f->info.sector;

	pattern_fill(buf, 4096, 4096, 6);
	atomic_store(&raw->queue_until_ns, 0);
	assert_int_equal(was_mine(f, BLOCK_WRITE, 4096, buf, 4096),
	                 at_once || waits);
	atomic_store(&raw->queue_until_ns, UINT64_MAX);
	pattern_fill(buf, 8192, 4096, 7);
	assert_int_equal(was_mine(f, BLOCK_WRITE, 8192, buf, 4096), waits);
	atomic_store(&raw->queue_until_ns, 0);
	pattern_fill(buf, 4096, part, 8);
	assert_int_equal(was_mine(f, BLOCK_WRITE, 4096, buf, part),
	                 waits || (at_once && part == 4096));
	assert_int_equal(io(f, BLOCK_READ, 8192, back, 4096), 0);
	assert_true(pattern_holds(back, 8192, 4096, 7));
	assert_int_equal(io(f, BLOCK_READ, 4096, back, part), 0);
	assert_true(pattern_holds(back, 4096, part, 8));
	free(buf);
	free(back);
	end(f);
}

static void test_truncated(void **state)
{
	struct fixture *f = begin(state);
	u8 *buf = xalloc(8192);

	pattern_fill(buf, 0, 4096, 9);
	assert_int_equal(io(f, BLOCK_WRITE, 0, buf, 4096), 0);
	assert_int_equal(truncate(f->path, 4096), 0);
	assert_int_equal(io(f, BLOCK_READ, 0, buf, 8192), -EIO);
	assert_int_equal(io(f, BLOCK_READ, MIB, buf, 4096), -EIO);
	assert_int_equal(io(f, BLOCK_READ, 0, buf, 4096), 0);
	assert_true(pattern_holds(buf, 0, 4096, 9));
	assert_string_equal(block_lost(f->b), "its file was cut short");
	/* A write would make it grow again, and what is lost look like zeroes.
	 */
	assert_int_equal(io(f, BLOCK_WRITE, MIB, buf, 4096), -EIO);
	assert_int_equal(io(f, BLOCK_READ, 8192, buf, 4096), -EIO);
	assert_int_equal(truncate(f->path, SIZE), 0);
	assert_null(block_lost(f->b));
	assert_int_equal(io(f, BLOCK_WRITE, MIB, buf, 4096), 0);
	free(buf);
	end(f);
}

static void test_replaced(void **state)
{
	struct fixture *f = begin(state);
	char *other = scratch_file(".raw", SIZE);
	u8 *buf = xalloc(4096), *back = xalloc(4096);
	int fd;

	pattern_fill(buf, 0, 4096, 4);
	assert_null(block_lost(f->b));
	assert_int_equal(rename(other, f->path), 0);
	assert_string_equal(
	    block_lost(f->b),
	    "its file was deleted, and with it all that was written");
	/* Goes on with what it has open, and leaves the other one alone. */
	assert_int_equal(io(f, BLOCK_WRITE, 0, buf, 4096), 0);
	assert_int_equal(io(f, BLOCK_READ, 0, back, 4096), 0);
	assert_memory_equal(back, buf, 4096);
	fd = open(f->path, O_RDONLY);
	assert_int_equal(pread(fd, back, 4096, 0), 4096);
	close(fd);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(back[i], 0);
	free(other);
	free(buf);
	free(back);
	end(f);
}

static void test_odd_size(void **state)
{
	struct fixture *f = begin(state);
	u32 unit = f->info.sector;
	u8 *buf = xalloc(unit);

	block_close(f->b);
	memset(buf, 0x55, unit);
	assert_int_equal(truncate(f->path, 0), 0);
	assert_int_equal(truncate(f->path, 10000), 0);
	assert_int_equal(open_flags(f, 0), 0);
	unit = f->info.sector;
	assert_int_equal(f->info.size, ALIGN_UP((u64)10000, (u64)unit));
	assert_int_equal(
	    io(f, BLOCK_READ, ALIGN_DOWN((u64)10000, (u64)unit), buf, unit), 0);
	for (u32 i = 0; i < unit; i++)
		assert_int_equal(buf[i], 0);
	free(buf);
	end(f);
}

static void test_resize_and_map(void **state)
{
	struct fixture *f = begin(state);
	struct block_extent e;
	struct error err;
	u8 *buf = xalloc(64 * KIB);

	assert_int_equal(block_resize(f->b, SIZE * 2, &err), 0);
	check_zero(f->b, SIZE, 64 * KIB);
	pattern_fill(buf, 0, 64 * KIB, 1);
	assert_int_equal(io(f, BLOCK_WRITE, MIB, buf, 64 * KIB), 0);
	assert_int_equal(block_map(f->b, 0, SIZE, &e), 0);
	if (e.flags & BLOCK_EXTENT_ZERO) {
		assert_int_equal(e.length, MIB);
		assert_int_equal(block_map(f->b, MIB, SIZE, &e), 0);
		assert_int_equal(e.length, 64 * KIB);
		assert_true(e.flags & BLOCK_EXTENT_DATA);
		assert_int_equal(e.host_offset, MIB);
	}
	assert_int_equal(block_map(f->b, 0, SIZE * 4, &e), -EINVAL);
	assert_int_equal(block_resize(f->b, 64 * KIB, &err), 0);
	assert_int_equal(io(f, BLOCK_READ, 64 * KIB, buf, 4096), -EINVAL);
	assert_int_equal(block_resize(f->b, 1000, &err), -EINVAL);
	free(buf);
	end(f);
}

/* Many requests at once from several threads; each checks its own area. */
enum { WORKERS = 4, SLOTS = 32, ROUNDS = 12 };

struct slot {
	struct block_request req;
	struct iovec iov;
	struct block *b;
	u8 *buf;
	u32 seed;
	u64 unit;
	int round;
	_Atomic int *left;
	_Atomic int *bad;
	sem_t *done;
};

static void slot_next(struct slot *s)
{
	bool write = s->round % 2 == 0;

	s->req.op = write ? BLOCK_WRITE : BLOCK_READ;
	if (write)
		pattern_fill(s->buf, s->req.offset, s->unit,
		             s->seed + (u32)s->round);
	else
		memset(s->buf, 0, s->unit);
	block_submit(s->b, &s->req);
}

static void slot_done(struct block_request *req, int result)
{
	struct slot *s = req->ctx;

	if (result != 0)
		atomic_fetch_add(s->bad, 1);
	if (s->round % 2 && !pattern_holds(s->buf, req->offset, s->unit,
	                                   s->seed + (u32)s->round - 1))
		atomic_fetch_add(s->bad, 1);
	if (++s->round < ROUNDS)
		slot_next(s); /* submitting from a completion is legal */
	else if (atomic_fetch_sub(s->left, 1) == 1)
		sem_post(s->done);
}

struct worker {
	struct slot slots[SLOTS];
	pthread_t thread;
};

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (int i = 0; i < SLOTS; i++)
		slot_next(&w->slots[i]);
	return NULL; /* gone before its requests are */
}

static void test_parallel(void **state)
{
	struct fixture *f = begin(state);
	struct worker *workers = xalloc(WORKERS * sizeof(*workers));
	_Atomic int left = WORKERS * SLOTS, bad = 0;
	sem_t done;

	sem_init(&done, 0, 0);
	for (u32 i = 0; i < WORKERS; i++) {
		for (u32 j = 0; j < SLOTS; j++) {
			struct slot *s = &workers[i].slots[j];

			s->unit = 8192;
			s->buf = xalloc(s->unit);
			s->b = f->b;
			s->seed = i * 100 + j;
			s->left = &left;
			s->bad = &bad;
			s->done = &done;
			s->iov = (struct iovec){ s->buf, s->unit };
			s->req = (struct block_request){
				.flags = f->request_flags,
				.offset = (i * SLOTS + j) * s->unit,
				.length = s->unit,
				.iov = &s->iov,
				.iov_count = 1,
				.done = slot_done,
				.ctx = s,
			};
		}
		pthread_create(&workers[i].thread, NULL, worker_main,
		               &workers[i]);
	}
	for (int i = 0; i < WORKERS; i++)
		pthread_join(workers[i].thread, NULL);
	sem_wait(&done);
	block_drain(f->b);
	assert_int_equal(bad, 0);
	for (int i = 0; i < WORKERS; i++)
		for (int j = 0; j < SLOTS; j++)
			free(workers[i].slots[j].buf);
	free(workers);
	sem_destroy(&done);
	end(f);
}

/* ---- a file that grows ---- */

enum { GROWERS = 4, GROWTH = 5000, STEP = 4096 };

struct grower {
	struct block *b;
	pthread_t thread;
	u64 first;
	int result;
};

static void *grow(void *arg)
{
	struct grower *g = arg;
	u8 *buf = aligned_alloc(STEP, STEP);

	memset(buf, 1, STEP);
	for (u64 i = 0; i < GROWTH && g->result == 0; i++)
		g->result =
		    block_sync(g->b, BLOCK_WRITE, g->first + i * GROWERS * STEP,
		               buf, STEP);
	free(buf);
	return NULL;
}

/* None may take the others' growth for a file that was cut short. */
static void test_growth(void **state)
{
	struct fixture *f = begin(state);
	struct block_open how = { .path = f->path,
		                  .fd = -1,
		                  .flags = f->flags | RAW_UNBOUNDED };
	struct grower growers[GROWERS] = { 0 };
	struct error err = { 0 };

	block_close(f->b);
	assert_int_equal(raw_open(&f->b, &how, &err), 0);
	for (u64 i = 0; i < GROWERS; i++) {
		growers[i] =
		    (struct grower){ .b = f->b, .first = SIZE + i * STEP };
		pthread_create(&growers[i].thread, NULL, grow, &growers[i]);
	}
	for (int i = 0; i < GROWERS; i++) {
		pthread_join(growers[i].thread, NULL);
		assert_int_equal(growers[i].result, 0);
	}
	end(f);
}

/* In a child: a file system of its own that fills up. 77: not possible. */
static int full_child(unsigned flags)
{
	struct fixture f = { .flags = flags, .path = xstrdup("mnt/disk") };
	u8 *buf = xalloc(MIB);
	int rc, fd;

	if (unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)) < 0)
		return 77;
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	mkdir("mnt", 0700);
	if (mount("none", "mnt", "tmpfs", 0, "size=2m") < 0)
		return 77;
	fd = open(f.path, O_CREAT | O_RDWR, 0600);
	if (fd < 0 || ftruncate(fd, 8 * MIB) < 0)
		return 1;
	close(fd);
	if (open_flags(&f, 0) < 0)
		return flags & BLOCK_OPEN_DIRECT ? 77 : 2;
	pattern_fill(buf, 0, MIB, 1);
	if (block_sync(f.b, BLOCK_WRITE, 0, buf, MIB) < 0)
		return 3;
	rc = 0;
	for (u64 off = MIB; off < 8 * MIB && rc == 0; off += MIB)
		rc = block_sync(f.b, BLOCK_WRITE, off, buf, MIB);
	if (rc != -ENOSPC)
		return 4;
	/* What was there stays, and room made is room again. */
	memset(buf, 0, MIB);
	if (block_sync(f.b, BLOCK_READ, 0, buf, MIB) < 0 ||
	    !pattern_holds(buf, 0, MIB, 1))
		return 5;
	if (block_sync(f.b, BLOCK_DISCARD, MIB, NULL, 7 * MIB) < 0 ||
	    block_sync(f.b, BLOCK_WRITE, 6 * MIB, buf, 64 * KIB) < 0)
		return 6;
	block_close(f.b);
	return 0;
}

static void test_full(void **state)
{
	unsigned flags = (unsigned)(uintptr_t)*state;
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(full_child(flags));
	assert_int_equal(waitpid(child, &status, 0), child);
	rmdir("mnt");
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* A loop device over a scratch file, where we may have one. */
static char *loop_device(const char *file)
{
	char *command = xasprintf("losetup -f --show %s 2>/dev/null", file);
	char line[64] = "";
	FILE *f = popen(command, "r");

	free(command);
	if (f && fgets(line, sizeof(line), f))
		line[strcspn(line, "\n")] = '\0';
	if (f)
		pclose(f);
	return line[0] ? xstrdup(line) : NULL;
}

static void device_work(struct fixture *f)
{
	u8 *buf = xalloc(64 * KIB);
	struct error err;

	assert_int_equal(f->info.size, SIZE);
	pattern_fill(buf, 0, 64 * KIB, 1);
	assert_int_equal(io(f, BLOCK_WRITE, MIB, buf, 64 * KIB), 0);
	assert_int_equal(io(f, BLOCK_FLUSH, 0, NULL, 0), 0);
	memset(buf, 0, 64 * KIB);
	assert_int_equal(io(f, BLOCK_READ, MIB, buf, 64 * KIB), 0);
	assert_true(pattern_holds(buf, 0, 64 * KIB, 1));
	assert_int_equal(io_flags(f, BLOCK_WRITE_ZEROES, BLOCK_REQ_NO_UNMAP,
	                          MIB, NULL, 8192),
	                 0);
	assert_int_equal(io(f, BLOCK_WRITE_ZEROES, MIB + 8192, NULL, 8192), 0);
	check_zero(f->b, MIB, 16384);
	assert_int_equal(io(f, BLOCK_DISCARD, MIB, NULL, 64 * KIB), 0);
	assert_int_equal(block_resize(f->b, SIZE * 2, &err), -EOPNOTSUPP);
	free(buf);
}

/* A qcow2 image right on the device: it ends where the device does. */
static void device_qcow2(struct fixture *f, const char *device)
{
	struct image_create how = { .path = device,
		                    .format = "qcow2",
		                    .size = 2 * SIZE,
		                    .replace = true };
	struct block_open open = {
		.path = device, .fd = -1, .format = "qcow2", .flags = f->flags
	};
	u8 *buf = xalloc(MIB);
	struct error err;
	struct block *b;
	u64 at;
	int rc = 0;

	assert_int_equal(image_create(&how, &err), 0);
	assert_int_equal(block_open(&b, &open, &err), 0);
	/* What was on the device before does not shine through. */
	check_zero(b, 0, MIB);
	memset(buf, 3, MIB);
	assert_int_equal(block_sync(b, BLOCK_WRITE, MIB + 4096, buf, 4096), 0);
	check_zero(b, MIB, 4096);
	for (at = 0; at < 2 * SIZE && rc == 0; at += MIB)
		rc = block_sync(b, BLOCK_WRITE, at, buf, MIB);
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(block_sync(b, BLOCK_FLUSH, 0, NULL, 0), 0);
	block_close(b);
	assert_int_equal(block_open(&b, &open, &err), 0);
	assert_int_equal(block_sync(b, BLOCK_READ, 0, buf, MIB), 0);
	assert_int_equal(buf[MIB - 1], 3);
	block_close(b);
	free(buf);
}

static void test_device(void **state)
{
	struct fixture *f = begin(state);
	char *file = f->path, *device = loop_device(file), *command;
	int rc;

	if (!device) {
		end(f);
		print_message("no loop device can be made here\n");
		skip();
	}
	block_close(f->b);
	f->b = NULL;
	f->path = device;
	rc = open_flags(f, 0);
	if (rc == 0) {
		device_work(f);
		block_close(f->b);
		f->b = NULL;
		device_qcow2(f, device);
	}
	command = xasprintf("losetup -d %s", device);
	(void)!system(command);
	free(command);
	free(device);
	f->path = file;
	assert_int_equal(rc, 0);
	end(f);
}

static void test_backends_exist(void **state)
{
	struct io *io = io_threads_create(2);

	(void)state;
	io->destroy(io);
	/* Where the host has no io_uring, the other variants ran on threads. */
	if (io_uring_create(&io) == 0)
		io->destroy(io);
	else
		print_message("io_uring is not available here\n");
}

#define VARIANT(test, flags)                                                   \
	{                                                                      \
#test " " #flags, test, NULL, NULL, (void *)(uintptr_t)(flags) \
	}
#define EACH(test)                                                             \
	VARIANT(test, BLOCK_OPEN_URING), VARIANT(test, BLOCK_OPEN_THREADS),    \
	    VARIANT(test, BLOCK_OPEN_DIRECT),                                  \
	    VARIANT(test, BLOCK_OPEN_DIRECT | BLOCK_OPEN_THREADS),             \
	    VARIANT(test, BLOCK_OPEN_URING | AT_ONCE),                         \
	    VARIANT(test, BLOCK_OPEN_THREADS | AT_ONCE),                       \
	    VARIANT(test, BLOCK_OPEN_THREADS | WAITING),                       \
	    VARIANT(test, BLOCK_OPEN_DIRECT | WAITING)

int main(void)
{
	const struct CMUnitTest tests[] = {
		EACH(test_io),
		EACH(test_vectors),
		EACH(test_refusals),
		EACH(test_zero_and_discard),
		EACH(test_locks),
		EACH(test_descriptor),
		EACH(test_at_once),
		EACH(test_written_at_once),
		EACH(test_truncated),
		EACH(test_replaced),
		EACH(test_odd_size),
		EACH(test_resize_and_map),
		EACH(test_parallel),
		VARIANT(test_growth, BLOCK_OPEN_THREADS),
		EACH(test_full),
		EACH(test_device),
		EACH(test_flush_at_once),
		cmocka_unit_test(test_flush_of_qcow2_at_once),
		VARIANT(test_failed_flush, BLOCK_OPEN_THREADS),
		VARIANT(test_failed_flush, BLOCK_OPEN_THREADS | AT_ONCE),
		VARIANT(test_failed_flush, BLOCK_OPEN_THREADS | WAITING),
		cmocka_unit_test(test_failed_flush_of_qcow2),
		cmocka_unit_test(test_memory_at_once),
		cmocka_unit_test(test_backends_exist),
	};

	return cmocka_run_group_tests_name("raw", tests, NULL, NULL);
}
