/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/untaken.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/unnamed.h"
#include "cli/fork.h"
#include "cli/saved.h"
#include "cli/snapshot.h"
#include "storage/image.h"

enum { SAME, OTHER, UNKNOWN };

/* Is that what the machine has open? It is not believed alone: whatever it
 * says, what goes is an overlay that holds nothing. */
static int is_machines(int sock, unsigned disk, int fd)
{
	struct error err = { 0 };
	int fds[CONTROL_FDS_MAX], rc;
	json_t *answer = NULL;
	size_t count = 0;

	rc = saved_request(sock,
	                   json_pack("{s:s,s:i,s:i}", "op", "disk-same", "disk",
	                             (int)disk, "own", 0),
	                   &fd, 1, &answer, fds, &count, &err);
	json_decref(answer);
	while (count)
		close(fds[--count]);
	return rc == 0 ? SAME : rc == -EBUSY ? OTHER : UNKNOWN;
}

/* /d/disk.fork-0123456789abcdef.qcow2, if that is what backing means and what
 * a copy calls /d/disk.qcow2; NULL. */
static char *kept_name(const char *path, const char *backing)
{
	const char *mark = ".fork-", *at = NULL, *next = backing;
	char moment[17] = "", *name;

	while ((next = strstr(next, mark)))
		at = next += strlen(mark);
	if (!at || strspn(at, "0123456789abcdef") != 16)
		return NULL;
	memcpy(moment, at, 16);
	name = fork_kept_name(path, moment);
	if (strcmp(strrchr(name, '/') + 1, backing) == 0)
		return name;
	free(name);
	return NULL;
}

static bool same_bytes(int a, int b)
{
	char x[16 * KIB], y[16 * KIB];
	off_t at = 0;
	ssize_t n;

	while ((n = pread(a, x, sizeof(x), at)) > 0) {
		if (pread(b, y, (size_t)n, at) != n || memcmp(x, y, (size_t)n))
			return false;
		at += n;
	}
	return n == 0 && pread(b, y, 1, at) == 0;
}

/* The overlay that a copy would make now. */
static bool is_as_made(int fd, const char *path, u64 size, const char *backing)
{
	int fresh = unnamed_beside(path);
	char *by = xasprintf("/proc/self/fd/%d", fresh);
	struct image_create how =
	    fork_overlay_how(path, backing, "qcow2", size);
	struct error err;
	bool same;

	how.by = by;
	same = fresh >= 0 && image_create(&how, &err) == 0 &&
	       same_bytes(fd, fresh);
	if (fresh >= 0)
		close(fresh);
	free(by);
	return same;
}

/* Nobody has it open, and it holds nothing. On what it lies; owned; NULL: it
 * may be anything. The lock lasts as long as fd. */
static char *find_kept(int fd, const char *path)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct image_details d;
	struct block_info info;
	char *kept = NULL;
	struct block *b;
	struct error err;

	if (fcntl(fd, F_OFD_SETLK, &lock) < 0 ||
	    image_look(&b, fd, path, &d, &err) < 0)
		return NULL;
	block_info(b, &info);
	if (d.backing)
		kept = kept_name(path, d.backing);
	if (kept && !is_as_made(fd, path, info.size, d.backing)) {
		free(kept);
		kept = NULL;
	}
	image_details_free(&d);
	block_close(b);
	return kept;
}

static bool leads_to(const char *path, int fd)
{
	struct stat a, b;

	return lstat(path, &a) == 0 && fstat(fd, &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool exchange(const char *a, const char *b)
{
	return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
}

static bool sync_folder_of(const char *path)
{
	struct error err;
	char *folder =
	    xasprintf("%.*s", (int)(strrchr(path, '/') - path) + 1, path);
	bool synced = snapshots_sync(folder, &err) == 0;

	free(folder);
	return synced;
}

/* They change names, so that what somebody has put at the path by now is lost
 * in no case. */
static bool make_way(const char *path, int fd, const char *kept)
{
	if (!leads_to(path, fd) || !exchange(path, kept))
		return false;
	if (!leads_to(kept, fd)) {
		(void)exchange(path, kept);
		return false;
	}
	if (sync_folder_of(path))
		unlink(kept);
	return true;
}

bool untaken_put_right(int sock, unsigned disk, const char *path,
                       const char *format)
{
	int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC), own = -1;
	bool foreign = fd >= 0 && is_machines(sock, disk, fd) == OTHER;
	char *kept = NULL;

	if (foreign && strcmp(format, "qcow2") == 0)
		kept = find_kept(fd, path);
	if (kept)
		own = open(kept, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (own >= 0 && is_machines(sock, disk, own) == SAME)
		foreign = !make_way(path, fd, kept);
	if (own >= 0)
		close(own);
	if (fd >= 0)
		close(fd);
	free(kept);
	return !foreign;
}

int untaken_refuse(const char *path, struct error *err)
{
	error_set(err, -EBUSY,
	          "%s is not the file that the machine has open for this disk",
	          path);
	return error_hint(err,
	                  "put that back where it was, or end the machine: "
	                  "started again it has what lies there now");
}
