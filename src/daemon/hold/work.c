/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.c - what takes too long for the daemon's loop: a machine's copy of an
 * image, a machine's folder removed.
 *
 * Every file gets its name only when it is whole and on the disk, so that a
 * copy cut short at any moment is begun again and never taken for whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/copy.h"
#include "daemon/hold/hold.h"

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

static int copy_file(int image, const char *name, int folder, const char *as)
{
	char part[64];
	int from, to, rc = -1;

	if (faccessat(folder, as, F_OK, 0) == 0)
		return 0;
	snprintf(part, sizeof(part), "%s.part", as);
	from = openat(image, name, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return failed("cannot open the image's", name);
	to = openat(folder, part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
	            0600);
	if (to >= 0 && copy_data(from, to) == 0 && fsync(to) == 0 &&
	    renameat(folder, part, folder, as) == 0)
		rc = 0;
	else
		failed("cannot copy the image's", name);
	if (rc < 0)
		unlinkat(folder, part, 0);
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

int hold_prepare(const char *image_path, const char *folder_path)
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
	    copy_file(image, "disk.raw", folder, "root.raw") < 0 ||
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
