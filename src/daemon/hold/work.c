/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.c - what takes too long for the daemon's loop: a machine's disk made
 * from an image, a machine's folder removed.
 *
 * Every file gets its name only when it is whole and on the disk, so that a
 * copy cut short at any moment is begun again and never taken for whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/error.h"
#include "base/unnamed.h"
#include "daemon/hold/hold.h"
#include "storage/image.h"

enum { TREE_FDS = 16 };

static int failed(const char *what, const char *path)
{
	fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
	return -1;
}

static int copy_data(int from, int to)
{
	off_t size = lseek(from, 0, SEEK_END);
	int rc = size < 0 ? -errno : copy_sparse(from, to, size);

	errno = -rc;
	return rc;
}

static bool is_there(int folder, const char *name)
{
	return faccessat(folder, name, F_OK, 0) == 0;
}

/* Where the file system knows no files without a name: one that the next
 * attempt overwrites. */
static int copy_named(int from, int folder, const char *as)
{
	char part[64];
	int to, rc = -1, saved;

	snprintf(part, sizeof(part), "%s.part", as);
	to = openat(folder, part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
	            0600);
	if (to < 0)
		return -1;
	if (copy_data(from, to) == 0 && fsync(to) == 0 &&
	    renameat(folder, part, folder, as) == 0)
		rc = 0;
	saved = errno;
	if (rc < 0)
		unlinkat(folder, part, 0);
	close(to);
	errno = saved;
	return rc;
}

static int copy_unnamed(int from, int to, int folder, const char *as)
{
	int rc = copy_data(from, to);

	if (rc == 0 && fsync(to) < 0)
		rc = -errno;
	if (rc == 0)
		rc = unnamed_give(to, folder, as);
	errno = -rc;
	return rc < 0 ? -1 : 0;
}

static int copy_file(int image, const char *name, int folder, const char *as)
{
	int from, to, rc;

	if (is_there(folder, as))
		return 0;
	from = openat(image, name, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return failed("cannot open the image's", name);
	to = unnamed_open(folder, 0600);
	rc = to >= 0 ? copy_unnamed(from, to, folder, as)
	             : copy_named(from, folder, as);
	if (rc < 0)
		failed("cannot copy the image's", name);
	close(from);
	if (to >= 0)
		close(to);
	return rc;
}

/* What is never written can be the image's own file: it stays when the image
 * goes. */
static int share_file(int image, const char *name, int folder)
{
	if (linkat(image, name, folder, name, 0) == 0 || errno == EEXIST)
		return 0;
	return copy_file(image, name, folder, name);
}

/* ---- the disk ---- */

/* A qcow2 image over base, which lies beside it. */
static int make_overlay(const char *folder_path, int folder, const char *base,
                        u64 size)
{
	char *part = xasprintf("%s/root.qcow2.part", folder_path);
	const struct image_create how = { .path = part,
		                          .format = "qcow2",
		                          .size = size,
		                          .replace = true,
		                          .backing = base,
		                          .backing_format = "raw" };
	struct error err = { 0 };
	int rc = image_create(&how, &err), fd;

	if (rc < 0)
		fprintf(stderr, "%s\n", err.text);
	fd = rc < 0 ? -1 : open(part, O_RDWR | O_CLOEXEC);
	if (rc == 0 &&
	    (fd < 0 || fsync(fd) < 0 ||
	     renameat(folder, "root.qcow2.part", folder, "root.qcow2") < 0))
		rc = failed("cannot make the disk", part);
	if (fd >= 0)
		close(fd);
	if (rc < 0)
		unlink(part);
	free(part);
	return rc < 0 ? -1 : 0;
}

/*
 * A linked clone: what the machine writes, over the image's own disk, which
 * stays as long as the machine does, even when the image goes. -EXDEV: that one
 * can't be linked to here.
 */
static int clone_disk(int image, const char *folder_path, int folder)
{
	struct stat st;

	if (is_there(folder, "root.qcow2"))
		return 0;
	/* Nobody merges into a file that is write-protected. */
	if (fstatat(image, "disk.raw", &st, 0) == 0 && (st.st_mode & 0222) &&
	    fchmodat(image, "disk.raw", 0444, 0) < 0)
		return -EXDEV;
	if (linkat(image, "disk.raw", folder, "image.raw", 0) < 0 &&
	    errno != EEXIST)
		return errno == ENOENT
		           ? failed("cannot link to the image's", "disk.raw")
		           : -EXDEV;
	if (fstatat(folder, "image.raw", &st, 0) < 0)
		return failed("cannot look at", "image.raw");
	return make_overlay(folder_path, folder, "image.raw", (u64)st.st_size);
}

static int make_disk(int image, const char *folder_path, int folder, bool full)
{
	int rc = -EXDEV;

	if (is_there(folder, "root.raw"))
		return 0;
	if (!full)
		rc = clone_disk(image, folder_path, folder);
	return rc == -EXDEV ? copy_file(image, "disk.raw", folder, "root.raw")
	                    : rc;
}

int hold_prepare(const char *image_path, const char *folder_path, bool full)
{
	int image = open(image_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int folder = open(folder_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	if (image < 0)
		return failed("cannot open the image", image_path) < 0;
	if (folder < 0)
		return failed("cannot open", folder_path) < 0;
	if (share_file(image, "vmlinuz", folder) < 0 ||
	    share_file(image, "initrd", folder) < 0 ||
	    share_file(image, "manifest.json", folder) < 0 ||
	    make_disk(image, folder_path, folder, full) < 0 ||
	    fsync(folder) < 0)
		return 1;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

int hold_remove(const char *folder)
{
	pid_t pid = fork();

	if (pid)
		return pid < 0;
	return nftw(folder, remove_one, TREE_FDS, FTW_DEPTH | FTW_PHYS) != 0;
}
