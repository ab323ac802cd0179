/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain.c - the further files of a disk, on behalf of who named the disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "launch/launch.h"
#include "storage/image.h"

static int open_named(const struct launch_files *f, const char *base,
                      const char *name, const char *format, bool readonly,
                      char **path, int *opened, struct error *err)
{
	int fd, rc;

	*path = image_path_beside(base, name);
	fd = f->open(f->ctx, *path, readonly, err);
	if (fd < 0)
		rc = error_prefix(err, "%s", base);
	else
		rc = f->add(f->ctx, *path, format, fd, err);
	*opened = fd;
	return fd < 0 ? fd : rc;
}

int launch_chain(const struct launch_files *f, int fd, const char *image,
                 bool readonly, struct error *err)
{
	char *path = xstrdup(image), *next = NULL, *data;
	int rc = 0, ignored;

	while (rc == 0 && path) {
		struct image_details d;
		struct block *b;

		next = data = NULL;
		rc = image_look(&b, fd, path, &d, err);
		if (rc < 0)
			break;
		if (d.data_file)
			rc = open_named(f, path, d.data_file, "raw", readonly,
			                &data, &ignored, err);
		if (rc == 0 && d.backing && !d.backing_format)
			rc = error_set(err, -EINVAL,
			               "%s: the format of its backing file is "
			               "not stated",
			               path);
		if (rc == 0 && d.backing)
			rc = open_named(f, path, d.backing, d.backing_format,
			                true, &next, &fd, err);
		/* What lies below a raw file would be guessed. */
		if (next && strcmp(d.backing_format, "qcow2") != 0) {
			free(next);
			next = NULL;
		}
		image_details_free(&d);
		block_close(b);
		free(data);
		free(path);
		path = next;
		readonly = true;
	}
	free(path);
	return rc;
}

int launch_hold_disk(int fd, const char *path, bool readonly, struct error *err)
{
	struct flock lock = { .l_type = readonly ? F_RDLCK : F_WRLCK,
		              .l_whence = SEEK_SET };
	struct stat is, there;

	(void)fcntl(fd, F_OFD_SETLK, &lock);
	if (fstat(fd, &is) == 0 && stat(path, &there) == 0 &&
	    is.st_dev == there.st_dev && is.st_ino == there.st_ino)
		return 0;
	error_set(err, -EBUSY, "%s has been replaced just now", path);
	return error_hint(err, "ask again");
}
