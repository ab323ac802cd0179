/* SPDX-License-Identifier: Apache-2.0 */
/*
 * formats - one table of formats, and the opener that goes by paths.
 *
 * A format is what the caller says it is. Nothing here looks into a file to
 * guess: a guest that writes a qcow2 header onto its raw disk must not be
 * able to name a backing file of its choice.
 */
#include "storage/core/formats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"
#include "storage/raw/raw.h"

static const struct format {
	const char *name;
	int (*open)(struct block **out, const struct block_open *how,
	            struct error *err);
} formats[] = {
	{ "raw", raw_open },
	{ "qcow2", qcow2_open },
};

int format_open(struct block **out, const struct block_open *how,
                struct error *err)
{
	const char *name = how->format ? how->format : "raw";

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (strcmp(formats[i].name, name) == 0)
			return formats[i].open(out, how, err);
	if (how->fd >= 0)
		close(how->fd);
	error_set(err, -EINVAL, "%s: '%s' is not a disk format",
	          how->path ? how->path : "disk", name);
	error_hint(err, "formats are raw and qcow2; others can be converted"
	                " with qemu-img");
	return -EINVAL;
}

char *path_beside(const char *base, const char *name)
{
	const char *slash = base && name[0] != '/' ? strrchr(base, '/') : NULL;
	int dir = slash ? (int)(slash - base) + 1 : 0;

	return xasprintf("%.*s%s", dir, base ? base : "", name);
}

static int open_by_path(void *ctx, const char *base, const char *name,
                        const char *format, bool writable, struct error *err)
{
	char *path = path_beside(base, name);
	int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);

	(void)ctx;
	(void)format;
	if (fd < 0)
		fd = error_set(err, -errno, "%s: %s", path, strerror(errno));
	free(path);
	return fd;
}

const struct block_opener block_opener_paths = { .open = open_by_path };

static int take_file(struct block_file *f, const char *format, bool writable,
                     struct error *err)
{
	int fd = f->fd, flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);

	if (fd < 0)
		return error_set(err, -ELOOP, "'%s' is named twice in a chain",
		                 f->path);
	if (strcmp(f->format, format) != 0)
		return error_set(err, -EINVAL,
		                 "'%s' was given as %s, but the image says %s",
		                 f->path, f->format, format);
	if (writable && (flags < 0 || (flags & O_ACCMODE) != O_RDWR))
		return error_set(err, -EACCES, "'%s' was given for reading",
		                 f->path);
	f->fd = -1;
	return fd;
}

int block_files_open(void *ctx, const char *base, const char *name,
                     const char *format, bool writable, struct error *err)
{
	struct block_files *given = ctx;
	char *path = path_beside(base, name);
	int rc = -EPERM;

	for (unsigned i = 0; i < given->count && rc == -EPERM; i++)
		if (strcmp(given->files[i].path, path) == 0)
			rc = take_file(&given->files[i], format, writable, err);
	if (rc == -EPERM)
		error_set(err, rc, "'%s' was not given", path);
	free(path);
	return rc;
}
