/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_clone - disks that lie on an image's, and who needs that.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/disk.h"
#include "cli/image.h"
#include "cli/live.h"

static int size_of(const char *path, const char *format, u64 *size,
                   struct error *err)
{
	struct block_info info;
	struct block *b;
	int rc = disk_open(&b, path, format,
	                   BLOCK_OPEN_READONLY | BLOCK_OPEN_NO_LOCK, err);

	if (rc < 0)
		return rc;
	block_info(b, &info);
	*size = info.size;
	block_close(b);
	return 0;
}

/* An empty file for a disk, by the name of which it can be opened. One without
 * a name may get one later (atoll suspend). */
static int make_file(const char *folder, bool keep, char **path, char **by,
                     struct error *err)
{
	int fd = keep ? -1 : open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	*path = xasprintf("%s/XXXXXX", folder);
	if (fd >= 0) {
		*by = xasprintf("/proc/self/fd/%d", fd);
		return fd;
	}
	fd = mkostemp(*path, O_CLOEXEC);
	*by = xstrdup(*path);
	return fd >= 0 ? fd
	               : error_set(err, -errno, "cannot make a disk %s: %s",
	                           *path, strerror(errno));
}

int image_overlay(const char *folder, const char *base, const char *format,
                  bool keep, char **path, struct error *err)
{
	struct image_create how = { .format = "qcow2",
		                    .replace = true,
		                    .backing = base,
		                    .backing_format = format };
	char *by = NULL;
	int fd = -1, rc = place_make(folder, err);

	*path = NULL;
	if (rc == 0)
		rc = size_of(base, format, &how.size, err);
	if (rc == 0)
		rc = fd = make_file(folder, keep, path, &by, err);
	if (fd >= 0) {
		how.path = by;
		rc = image_create(&how, err);
		/* Where the file system knows no files without a name. */
		if (strcmp(by, *path) == 0 && (!keep || rc < 0))
			unlink(by);
	}
	if (rc < 0 && fd >= 0)
		close(fd);
	if (rc < 0) {
		free(*path);
		*path = NULL;
	}
	free(by);
	return rc < 0 ? rc : fd;
}

int image_clone(const char *store, const char *folder, bool keep, char **path,
                struct error *err)
{
	char *disks = xasprintf("%s/../disks", store);
	char *base = xasprintf("%s/disk.raw", folder);
	int fd = image_overlay(disks, base, "raw", keep, path, err), rc;

	free(base);
	free(disks);
	if (fd < 0 || !keep)
		return fd;
	rc = image_claim(*path, err);
	if (rc == 0)
		return fd;
	unlink(*path);
	free(*path);
	*path = NULL;
	close(fd);
	return rc;
}

/* ---- claims ---- */

/* The folder of the image that path lies on; NULL: none of the store's. */
static char *image_below(const char *path, const char *store)
{
	struct image_details d;
	char *folder = NULL;
	size_t n = strlen(store);
	struct block *b;

	if (disk_open(&b, path, "qcow2",
	              BLOCK_OPEN_READONLY | BLOCK_OPEN_NO_LOCK |
	                  IMAGE_OPEN_NO_BACKING | IMAGE_OPEN_NO_DATA,
	              NULL) < 0)
		return NULL;
	image_details(b, &d);
	if (d.backing && strncmp(d.backing, store, n) == 0 &&
	    d.backing[n] == '/' && strrchr(d.backing, '/') > d.backing + n)
		folder = xasprintf("%.*s",
		                   (int)(strrchr(d.backing, '/') - d.backing),
		                   d.backing);
	image_details_free(&d);
	block_close(b);
	return folder;
}

int image_claim(const char *path, struct error *err)
{
	char *store = image_store(err), *folder, *real, *clones, *link;
	u64 number = 0;
	int rc;

	if (!store)
		return err->code;
	folder = image_below(path, store);
	free(store);
	if (!folder)
		return 0;
	real = realpath(path, NULL);
	clones = xasprintf("%s/clones", folder);
	rc = place_make(clones, err);
	if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
		rc = error_set(err, -EIO, "no random numbers");
	link = xasprintf("%s/%016" PRIx64, clones, number);
	if (rc == 0 && (!real || symlink(real, link) < 0))
		rc = error_set(err, -errno, "cannot claim %s: %s", folder,
		               strerror(errno));
	free(link);
	free(clones);
	free(real);
	free(folder);
	return rc;
}

/* Whether the disk at path lies on the image. What can't be read may. */
static bool lies_on(const char *path, const char *folder)
{
	char *base = xasprintf("%s/disk.raw", folder);
	struct live_chain chain;
	bool found = live_chain_read(&chain, path, "qcow2", NULL) < 0;

	for (unsigned i = 0; !found && i < chain.count; i++)
		found = strcmp(chain.layers[i].path, base) == 0;
	live_chain_free(&chain);
	free(base);
	return found;
}

/* One claim: those of disks that went away, or became independent, are
 * forgotten. */
static bool holds(const char *folder, const char *link, char **clone)
{
	*clone = realpath(link, NULL);
	if (*clone && lies_on(*clone, folder))
		return true;
	unlink(link);
	return false;
}

static int check_claims(const char *folder, struct error *err)
{
	char *clones = xasprintf("%s/clones", folder), *link, *clone;
	DIR *dir = opendir(clones);
	struct dirent *entry;
	int rc = 0;

	while (rc == 0 && dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		link = xasprintf("%s/%s", clones, entry->d_name);
		if (holds(folder, link, &clone)) {
			rc = error_set(err, -EBUSY,
			               "the image is in use: %s lies on it",
			               clone);
			error_hint(err, "delete that disk first, or make it "
			                "independent (atoll disk rebase)");
		}
		free(clone);
		free(link);
	}
	if (dir)
		closedir(dir);
	free(clones);
	return rc;
}

/* Machines that run lock it. */
static int check_lock(const char *folder, struct error *err)
{
	char *disk = xasprintf("%s/disk.raw", folder);
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(disk, O_RDONLY | O_CLOEXEC), rc = 0;

	if (fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 &&
	    lock.l_type != F_UNLCK) {
		rc = error_set(err, -EBUSY,
		               "the image is in use by a machine that runs");
		error_hint(err, "end that first");
	}
	if (fd >= 0)
		close(fd);
	free(disk);
	return rc;
}

int image_check_unused(const char *folder, struct error *err)
{
	int rc = check_lock(folder, err);

	return rc < 0 ? rc : check_claims(folder, err);
}
