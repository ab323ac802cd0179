/* SPDX-License-Identifier: Apache-2.0 */
#include "base/copy.h"

#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

int copy_share(int from, int to)
{
	return ioctl(to, FICLONE, from) < 0 ? -errno : 0;
}

/* Its last blocks, which costs nothing, however large it is. */
bool copy_can_share(int from, int to)
{
	struct file_clone_range part = { .src_fd = from };
	struct stat st;
	bool can;

	if (fstat(from, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	if (st.st_size > 0)
		part.src_offset = ALIGN_DOWN((u64)st.st_size - 1, (u64)MIB);
	can = ioctl(to, FICLONERANGE, &part) == 0;
	return ftruncate(to, 0) == 0 && can;
}

/* One piece at at; the kernel's way of one file system, or of all. */
static ssize_t copy_piece(int from, int to, off_t at, size_t size)
{
	off_t in = at, out = at;
	ssize_t n = copy_file_range(from, &in, to, &out, size, 0);

	if (n >= 0 || (errno != EXDEV && errno != EINVAL && errno != ENOSYS &&
	               errno != EOPNOTSUPP))
		return n;
	in = at;
	if (lseek(to, at, SEEK_SET) < 0)
		return -1;
	return sendfile(to, from, &in, size);
}

static int copy_range(int from, int to, off_t at, off_t end, copy_step_fn *step,
                      void *ctx)
{
	enum { PIECE = 4 << 20 };
	ssize_t n;

	for (; at < end; at += n) {
		n = copy_piece(from, to, at,
		               (size_t)MIN(end - at, (off_t)PIECE));
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n <= 0)
			return n < 0 ? -errno : -EIO;
		if (step)
			step(ctx, (u64)(at + n));
	}
	return 0;
}

int copy_sparse_told(int from, int to, off_t size, copy_step_fn *step,
                     void *ctx)
{
	off_t at = 0, end;
	int rc;

	if (copy_share(from, to) == 0)
		return 0;
	if (ftruncate(to, size) < 0)
		return -errno;
	while (at < size) {
		at = lseek(from, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			break; /* nothing but a hole is left */
		end = at < 0 ? -1 : lseek(from, at, SEEK_HOLE);
		if (end < 0)
			return -errno;
		rc = copy_range(from, to, at, MIN(end, size), step, ctx);
		if (rc < 0)
			return rc;
		at = end;
	}
	return 0;
}

int copy_sparse(int from, int to, off_t size)
{
	return copy_sparse_told(from, to, size, NULL, NULL);
}
