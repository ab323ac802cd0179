/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file - boot files and the guest memory they go to.
 */
#include "machine/boot/file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "guest/memory.h"

/* No kernel, initrd or module comes near; guest memory bounds them anyway. */
#define FILE_MAX ((u64)64 * GIB)

int boot_file_check(struct boot_file *file, const char *what, struct error *err)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return error_set(err, -errno, "%s %s: %s", what, file->path,
		                 strerror(errno));
	if (!S_ISREG(st.st_mode)) {
		error_set(err, -EINVAL, "%s %s is not a regular file", what,
		          file->path);
		return error_hint(err, "copy it to a file first");
	}
	if (st.st_size == 0)
		return error_set(err, -EINVAL, "%s %s is empty", what,
		                 file->path);
	if ((u64)st.st_size > FILE_MAX)
		return error_set(err, -EFBIG,
		                 "%s %s is too big: %" PRIu64 " MiB", what,
		                 file->path, (u64)st.st_size / MIB);
	file->size = (u64)st.st_size;
	return 0;
}

int boot_file_read(const struct boot_file *file, u64 offset, void *buf,
                   u64 size, struct error *err)
{
	u8 *to = buf;

	while (size) {
		ssize_t n = pread(file->fd, to, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, -errno, "reading %s: %s",
			                 file->path, strerror(errno));
		if (n == 0) {
			error_set(err, -EIO,
			          "%s is truncated: it ends at byte "
			          "%" PRIu64,
			          file->path, offset);
			return error_hint(err, "copy or download it again");
		}
		to += n;
		offset += (u64)n;
		size -= (u64)n;
	}
	return 0;
}

int boot_file_load(const struct boot_file *file, u64 offset,
                   struct memory *memory, gpa_t gpa, u64 size,
                   struct error *err)
{
	void *to = memory_ptr_rw(memory, gpa, size);
	int rc;

	if (!to)
		return error_set(err, -ENOMEM,
		                 "%s does not fit in the "
		                 "machine's memory",
		                 file->path);
	rc = boot_file_read(file, offset, to, size, err);
	memory_written(memory, gpa, size);
	return rc;
}

void boot_put(struct memory *memory, gpa_t gpa, const void *data, u64 size)
{
	bool there = memory_write(memory, gpa, data, size);

	ASSERT(there);
}

void boot_zero(struct memory *memory, gpa_t gpa, u64 size)
{
	void *to = memory_ptr_rw(memory, gpa, size);

	ASSERT(to);
	memset(to, 0, size);
	memory_written(memory, gpa, size);
}

gpa_t boot_place_high(const struct boot_request *req, u64 size, u64 floor,
                      u64 limit)
{
	u64 top = MIN(limit, req->low_ram_end);
	gpa_t at;

	if (size > top)
		return 0;
	at = ALIGN_DOWN(top - size, (u64)PAGE_SIZE);
	return at >= MAX(floor, (u64)BOOT_KERNEL_MIN) ? at : 0;
}
