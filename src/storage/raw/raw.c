/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw - opening, locking and measuring a plain file or block device.
 *
 * The lock is one open file description lock over the whole file: it belongs
 * to the descriptor, so it survives fork and passing, is dropped when the
 * last copy closes, and keeps out a second open in our own process too.
 */
#include "storage/raw/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/error.h"
#include "storage/raw/io.h"

enum { POOL_THREADS = 4, SECTOR = 512, SECTOR_MAX = 4096 };

static const char *name_of(const struct block_open *how)
{
	return how->path ? how->path : "disk";
}

static int open_path(const struct block_open *how, struct error *err)
{
	bool readonly = how->flags & BLOCK_OPEN_READONLY;
	int fd;

	if (!how->path)
		return error_set(err, -EINVAL, "no disk image was given");
	/* A pipe that nobody writes is no reason to wait. */
	fd = open(how->path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC |
	                         O_NOCTTY | O_NONBLOCK);
	if (fd >= 0)
		return fd;
	fd = -errno;
	error_set(err, fd, "%s: %s", how->path, strerror(-fd));
	if (!readonly && (fd == -EACCES || fd == -EROFS))
		error_hint(err, "it can be used read-only");
	return fd;
}

static int check_access(int fd, const struct block_open *how, struct error *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return error_set(err, -errno, "%s: %s", name_of(how),
		                 strerror(errno));
	if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_APPEND))
		return error_set(err, -EINVAL,
		                 "%s: the descriptor does not allow reading"
		                 " and writing anywhere",
		                 name_of(how));
	if (!(how->flags & BLOCK_OPEN_READONLY) &&
	    (flags & O_ACCMODE) != O_RDWR)
		return error_set(err, -EACCES, "%s: opened for reading only",
		                 name_of(how));
	/* Only opening was not to wait. */
	if ((flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return error_set(err, -errno, "%s: %s", name_of(how),
		                 strerror(errno));
	return 0;
}

static int take_lock(int fd, const struct block_open *how, struct error *err)
{
	bool readonly = how->flags & BLOCK_OPEN_READONLY;
	struct flock lock = {
		.l_type = readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (how->flags & BLOCK_OPEN_NO_LOCK)
		return 0;
	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES) {
		error_set(err, -EBUSY, "%s: in use by another process",
		          name_of(how));
		error_hint(err, readonly
		                    ? "it is being written; stop its user first"
		                    : "stop its user first, or open the disk"
		                      " read-only");
		return -EBUSY;
	}
	return error_set(err, -errno, "%s: can't be locked: %s", name_of(how),
	                 strerror(errno));
}

static int measure(struct raw *raw, const struct block_open *how,
                   struct error *err)
{
	struct block_info *info = &raw->block.info;
	unsigned short rotational = 0;
	struct statfs fs;
	struct stat st;
	int sector = 0;
	u64 bytes;

	if (fstat(raw->fd, &st) < 0)
		return error_set(err, -errno, "%s: %s", name_of(how),
		                 strerror(errno));
	info->sector = SECTOR;
	info->discard = true;
	raw->named = st.st_nlink > 0;
	if (S_ISREG(st.st_mode)) {
		raw->length = (u64)st.st_size;
		raw->in_memory =
		    fstatfs(raw->fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
		return 0;
	}
	if (!S_ISBLK(st.st_mode)) {
		return error_set(
		    err, -EINVAL, "%s: %s, not a disk image", name_of(how),
		    S_ISDIR(st.st_mode) ? "a directory" : "a special file");
	}
	raw->device = true;
	if (ioctl(raw->fd, BLKGETSIZE64, &bytes) < 0 ||
	    ioctl(raw->fd, BLKSSZGET, &sector) < 0)
		return error_set(err, -errno, "%s: its size is unknown: %s",
		                 name_of(how), strerror(errno));
	raw->length = bytes;
	if (ioctl(raw->fd, BLKROTATIONAL, &rotational) == 0)
		info->rotational = rotational;
	if (sector > SECTOR_MAX)
		return error_set(err, -EINVAL,
		                 "%s: sectors of %d bytes are not supported",
		                 name_of(how), sector);
	/* The page cache takes any alignment; O_DIRECT asks for sectors. */
	if (how->flags & BLOCK_OPEN_DIRECT)
		info->sector = MAX(SECTOR, (u32)sector);
	return 0;
}

/* Whether the file takes direct reads of this unit; tried out, because the
 * kernel's own word for it (STATX_DIOALIGN) is younger than our hosts. */
static int try_direct(int fd, u32 unit)
{
	void *buf = aligned_alloc(SECTOR_MAX, SECTOR_MAX);
	ssize_t n;
	int rc;

	if (!buf)
		return -ENOMEM;
	do
		n = pread(fd, buf, unit, unit);
	while (n < 0 && errno == EINTR);
	rc = n < 0 ? -errno : 0;
	free(buf);
	return rc;
}

static int set_direct(struct raw *raw, const struct block_open *how,
                      struct error *err)
{
	u32 *sector = &raw->block.info.sector;
	int flags = fcntl(raw->fd, F_GETFL), rc;

	if (!(how->flags & BLOCK_OPEN_DIRECT))
		return 0;
	if (flags < 0 || fcntl(raw->fd, F_SETFL, flags | O_DIRECT) < 0) {
		rc = -errno;
		error_set(err, rc, "%s: no direct I/O here: %s", name_of(how),
		          strerror(-rc));
		error_hint(err, "use the disk through the page cache");
		return rc;
	}
	rc = try_direct(raw->fd, *sector);
	if (rc == -EINVAL && *sector < SECTOR_MAX) {
		*sector = SECTOR_MAX;
		rc = try_direct(raw->fd, *sector);
	}
	if (rc < 0)
		return error_set(err, rc, "%s: direct I/O: %s", name_of(how),
		                 strerror(-rc));
	/* An empty file accepts any read: promise nothing for it. */
	if (!raw->device && raw->length < SECTOR_MAX)
		*sector = SECTOR_MAX;
	raw->direct = true;
	/* Memory must be aligned like the device's unit, at the most. */
	raw->mem_align = *sector;
	return 0;
}

static void start_io(struct raw *raw, const struct block_open *how)
{
	unsigned ring = BLOCK_OPEN_DIRECT | BLOCK_OPEN_URING;
	int rc = -ENOSYS;

	/* From the page cache a ring's one thread copies no more than one core
	 * can; a pool has several. A device's queue is the ring's affair. */
	if ((how->flags & ring) && !(how->flags & BLOCK_OPEN_THREADS))
		rc = io_uring_create(&raw->io);
	/* Old kernels, io_uring_disabled, container policies, memlock. */
	if (rc < 0)
		raw->io = io_threads_create(POOL_THREADS);
}

static void raw_submit(struct block *b, struct block_request *req)
{
	struct raw *raw = container_of(b, struct raw, block);

	*raw_state(req) = (struct raw_state){ .next = NULL };
	if (raw->no_flush)
		req->flags &= ~(unsigned)BLOCK_REQ_FUA;
	if (req->op == BLOCK_FLUSH) {
		raw_state(req)->post =
		    raw_is_flushed(raw, &raw_state(req)->done);
		raw_take_failure(req);
	}
	if (req->flags & BLOCK_REQ_BLOCKING)
		raw_perform(req);
	else
		raw->io->submit(raw->io, req);
}

static void raw_post(struct block *b, struct block_request *req, int result)
{
	struct raw *raw = container_of(b, struct raw, block);

	*raw_state(req) = (struct raw_state){ .post = true, .posted = result };
	raw->io->submit(raw->io, req);
}

static bool raw_cancel(struct block *b, struct block_request *req)
{
	struct raw *raw = container_of(b, struct raw, block);

	return raw->io->cancel(raw->io, req);
}

static void raw_close(struct block *b)
{
	struct raw *raw = container_of(b, struct raw, block);

	if (raw->io)
		raw->io->destroy(raw->io);
	close(raw->fd);
	block_fini(b);
	free(raw);
}

static int raw_resize(struct block *b, u64 size, struct error *err)
{
	struct raw *raw = container_of(b, struct raw, block);
	u64 old = raw->length;

	if (raw->device)
		return error_set(err, -EOPNOTSUPP,
		                 "a host block device has a fixed size");
	/* Shrinking first narrows what may be asked for, then cuts. */
	if (size < old)
		raw->length = size;
	if (ftruncate(raw->fd, (off_t)size) < 0) {
		raw->length = old;
		return error_set(err, -errno, "resize to %" PRIu64 " bytes: %s",
		                 size, strerror(errno));
	}
	raw->length = size;
	atomic_fetch_add(&raw->changes, 1);
	atomic_store(&b->size, size);
	return 0;
}

static int raw_map(struct block *b, u64 offset, u64 length,
                   struct block_extent *extent)
{
	struct raw *raw = container_of(b, struct raw, block);
	off_t data = lseek(raw->fd, (off_t)offset, SEEK_DATA), hole;
	u64 end;

	*extent = (struct block_extent){
		.length = length,
		.flags = BLOCK_EXTENT_DATA | BLOCK_EXTENT_MAPPED,
		.host_offset = offset,
	};
	if (data < 0 && errno != ENXIO)
		return 0; /* no holes known here: all is data */
	if (data < 0 || (u64)data > offset) {
		end = data < 0 ? offset + length : (u64)data;
		extent->flags = BLOCK_EXTENT_ZERO | BLOCK_EXTENT_MAPPED;
		/* A hole that ends inside a sector leaves the sector data. */
		end = ALIGN_DOWN(end, (u64)b->info.sector);
		if (end > offset) {
			extent->length = MIN(length, end - offset);
			return 0;
		}
		extent->flags = BLOCK_EXTENT_DATA | BLOCK_EXTENT_MAPPED;
		data = (off_t)(offset + b->info.sector - 1);
	}
	hole = lseek(raw->fd, data, SEEK_HOLE);
	if (hole >= 0) {
		end = ALIGN_UP((u64)hole, (u64)b->info.sector);
		if (end > offset)
			extent->length = MIN(length, end - offset);
	}
	return 0;
}

static const char *raw_lost(struct block *b)
{
	struct raw *raw = container_of(b, struct raw, block);
	struct stat st;

	if (raw->named && fstat(raw->fd, &st) == 0 && st.st_nlink == 0)
		return "its file was deleted, and with it all that was written";
	return raw_cut_short(raw) ? "its file was cut short" : NULL;
}

static int set_lock(const struct raw *raw, short type)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET };

	return fcntl(raw->fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

static int raw_lock(struct block *b, bool shared)
{
	struct raw *raw = container_of(b, struct raw, block);

	return raw->no_lock ? 0 : set_lock(raw, shared ? F_RDLCK : F_UNLCK);
}

static int raw_freeze(struct block *b)
{
	int rc = block_sync(b, BLOCK_FLUSH, 0, NULL, 0);

	return rc < 0 ? rc : raw_lock(b, true);
}

static const struct block_driver raw_driver = {
	.name = "raw",
	.submit = raw_submit,
	.now = raw_now,
	.post = raw_post,
	.close = raw_close,
	.resize = raw_resize,
	.map = raw_map,
	.cancel = raw_cancel,
	.freeze = raw_freeze,
	.lock = raw_lock,
	.lost = raw_lost,
};

static bool is_file(struct block *b)
{
	return b->driver == &raw_driver &&
	       !container_of(b, struct raw, block)->device;
}

int raw_share(struct block *b, int to)
{
	struct raw *raw = container_of(b, struct raw, block);

	if (!is_file(b))
		return -EOPNOTSUPP;
	/* What was cut off would be zeroes there. */
	return raw_cut_short(raw) ? -EIO : copy_share(raw->fd, to);
}

int raw_share_with(struct block *b, struct block *to)
{
	struct raw *other = container_of(to, struct raw, block);
	int rc;

	if (!is_file(to) || to->info.readonly)
		return -EOPNOTSUPP;
	rc = raw_share(b, other->fd);
	if (rc == 0)
		atomic_fetch_add(&other->changes, 1);
	return rc;
}

int raw_open(struct block **out, const struct block_open *how,
             struct error *err)
{
	int fd = how->fd >= 0 ? how->fd : open_path(how, err), rc;
	struct raw *raw;
	u64 size;

	if (fd < 0)
		return fd;
	raw = xalloc(sizeof(*raw));
	raw->fd = fd;
	raw->no_flush = how->flags & BLOCK_OPEN_NO_FLUSH;
	raw->no_lock = how->flags & BLOCK_OPEN_NO_LOCK;
	/* What others left there is not known to be durable. */
	atomic_store(&raw->changes, 1);
	block_init(&raw->block, &raw_driver);
	raw->block.info.readonly = how->flags & BLOCK_OPEN_READONLY;

	rc = check_access(fd, how, err);
	if (rc == 0)
		rc = measure(raw, how, err);
	if (rc == 0)
		rc = take_lock(fd, how, err);
	if (rc == 0)
		rc = set_direct(raw, how, err);
	if (rc < 0) {
		raw_close(&raw->block);
		return rc;
	}
	start_io(raw, how);
	raw->block.unbounded = (how->flags & RAW_UNBOUNDED) && !raw->device;
	/* A last part of a sector is a whole one whose rest is zeroes. */
	size = raw->device ? raw->length
	                   : ALIGN_UP(raw->length, (u64)raw->block.info.sector);
	atomic_store(&raw->block.size, size);
	*out = &raw->block;
	return 0;
}
