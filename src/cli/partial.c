/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/partial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/unnamed.h"
#include "cli/partial_names.h"
#include "storage/block.h"

enum { TRIES = 100 };

/* ---- what is there ---- */

static int cannot(const struct partial *p, int rc, struct error *err)
{
	return error_set(err, rc, "%s: %s", p->path, strerror(-rc));
}

/* It stays locked, as an image in use is, until its place is taken. */
static int take_old(struct partial *p, const char *path, struct error *err)
{
	const struct block_open how = { .path = path,
		                        .fd = -1,
		                        .flags = BLOCK_OPEN_NO_FLUSH };
	char *real = realpath(path, NULL);
	int rc;

	/* By a link the file is meant, not the link. */
	if (!real)
		return cannot(p, -errno, err);
	free(p->path);
	p->path = real;
	p->replace = true;
	rc = block_open(&p->old, &how, err);
	return rc == -EACCES || rc == -EROFS ? cannot(p, rc, err) : rc;
}

/* 1: it is no file, and written where it is. */
static int look(struct partial *p, const char *path, unsigned flags,
                struct error *err)
{
	struct stat st;
	bool known;

	if (lstat(path, &st) < 0)
		return 0;
	known = stat(path, &st) == 0;
	if (!(flags & PARTIAL_REPLACE)) {
		cannot(p, -EEXIST, err);
		if (known && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
			error_hint(err, "--force replaces it");
		return -EEXIST;
	}
	if (!known) {
		error_set(err, -ENOENT, "%s leads nowhere", path);
		return error_hint(err, "remove that link");
	}
	return S_ISREG(st.st_mode) ? take_old(p, path, err) : 1;
}

/* ---- one with a name ---- */

static char *beside(const struct partial *p, const char *name)
{
	const char *slash = strrchr(p->path, '/');

	return xasprintf("%.*s%s", slash ? (int)(slash - p->path) + 1 : 0,
	                 p->path, name);
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Made and locked, before another took it for dead. fd or -errno. */
static int try_name(const struct partial *p, const char *name)
{
	int fd = -1;
	struct stat st;

	if (!p->is_folder)
		fd = openat(p->folder, name,
		            O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		            0644);
	else if (mkdirat(p->folder, name, 0700) == 0)
		fd = openat(p->folder, name,
		            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!partial_locks_hold(p->folder))
		return fd;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 &&
	    fstatat(p->folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return fd;
	close(fd);
	return -EEXIST;
}

static int begin_named(struct partial *p)
{
	char name[PARTIAL_NAME_SIZE];
	int fd = -EEXIST;

	for (int i = 0; i < TRIES && fd == -EEXIST; i++) {
		int rc = partial_new_name(name);

		fd = rc < 0 ? rc : try_name(p, name);
	}
	if (fd < 0)
		return fd;
	p->fd = fd;
	p->name = beside(p, name);
	p->by = p->is_folder ? xasprintf("%s/%s", p->name, last_part(p->path))
	                     : xstrdup(p->name);
	if (p->is_folder)
		partial_watch(p->by);
	partial_watch(p->name);
	return 0;
}

/* ---- without one ---- */

static int begin_unnamed(struct partial *p)
{
	p->fd = unnamed_open(p->folder, 0644);
	if (p->fd < 0)
		return -errno;
	/* What a child of ours writes. */
	fcntl(p->fd, F_SETFD, 0);
	p->by = xasprintf("/proc/self/fd/%d", p->fd);
	return 0;
}

static int begin(struct partial *p, unsigned flags)
{
	char *folder = beside(p, ".");
	int rc = -EOPNOTSUPP;

	p->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	free(folder);
	if (p->folder < 0)
		return -errno;
	if (partial_locks_hold(p->folder))
		partial_remove_dead(p->folder);
	p->is_folder = flags & PARTIAL_ALIKE;
	if (!(flags & (PARTIAL_ALIKE | PARTIAL_BESIDE)))
		rc = begin_unnamed(p);
	return rc < 0 ? begin_named(p) : 0;
}

static void write_in_place(struct partial *p)
{
	block_close(p->old);
	p->old = NULL;
	p->replace = false;
	if (p->folder >= 0)
		close(p->folder);
	p->folder = -1;
	p->by = xstrdup(p->path);
}

int partial_begin(struct partial *p, const char *path, unsigned flags,
                  struct error *err)
{
	int rc;

	*p = (struct partial){ .path = xstrdup(path), .folder = -1, .fd = -1 };
	rc = look(p, path, flags, err);
	if (rc == 1) {
		write_in_place(p);
		return 0;
	}
	if (rc == 0) {
		rc = begin(p, flags);
		/* Whose folder may not be written to, but it. */
		if (p->old && (rc == -EACCES || rc == -EPERM)) {
			write_in_place(p);
			return 0;
		}
		if (rc < 0)
			cannot(p, rc, err);
	}
	if (rc < 0)
		partial_discard(p);
	return rc;
}

/* ---- the end ---- */

/* As the one before was, and whole whatever happens to the host: it takes the
 * place of what would still be there. */
static int be_like_old(const struct partial *p)
{
	int old = open(p->path, O_PATH | O_CLOEXEC);
	int fd = open(p->by, O_RDWR | O_CLOEXEC), rc = 0;
	struct stat st;

	if (old < 0 || fd < 0 || fstat(old, &st) < 0 || fdatasync(fd) < 0)
		rc = -errno;
	/* Root's copy of what is another's stays that one's. */
	if (rc == 0 && fchown(fd, st.st_uid, st.st_gid) == 0)
		(void)fchmod(fd, st.st_mode & 0777);
	if (old >= 0)
		close(old);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* It gets a name of ours, to be renamed from. */
static int name_it(struct partial *p)
{
	char name[PARTIAL_NAME_SIZE];
	int rc = -EEXIST;

	if (p->name)
		return 0;
	if (partial_locks_hold(p->folder) &&
	    flock(p->fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	for (int i = 0; i < TRIES && rc == -EEXIST; i++) {
		rc = partial_new_name(name);
		if (rc == 0)
			rc = unnamed_give(p->fd, p->folder, name);
	}
	if (rc == 0)
		p->name = beside(p, name);
	return rc;
}

/* Where the file system can't rename without replacing. */
static int link_it(struct partial *p, const char *by, const char *to)
{
	if (linkat(AT_FDCWD, by, p->folder, to, 0) < 0)
		return -errno;
	unlink(by);
	return 0;
}

static int take_place(struct partial *p)
{
	const char *to = last_part(p->path), *by;
	int rc = p->replace ? be_like_old(p) : 0;

	if (rc == 0 && !p->name && !p->replace)
		return unnamed_give(p->fd, p->folder, to);
	if (rc == 0)
		rc = name_it(p);
	if (rc < 0)
		return rc;
	by = p->is_folder ? p->by : p->name;
	if (renameat2(AT_FDCWD, by, p->folder, to,
	              p->replace ? 0 : RENAME_NOREPLACE) == 0)
		return 0;
	return errno == EINVAL && !p->replace ? link_it(p, by, to) : -errno;
}

int partial_end(struct partial *p, struct error *err)
{
	int rc = p->folder < 0 ? 0 : take_place(p);

	if (rc < 0) {
		cannot(p, rc, err);
		if (rc == -EEXIST)
			error_hint(err, "it came meanwhile");
	} else if (!p->is_folder && p->name) {
		partial_unwatch(p->name);
		free(p->name);
		p->name = NULL;
	}
	partial_discard(p);
	return rc;
}

void partial_discard(struct partial *p)
{
	if (!p->path)
		return;
	if (p->name && p->is_folder) {
		unlink(p->by);
		partial_unwatch(p->by);
		rmdir(p->name);
	} else if (p->name) {
		unlink(p->name);
	}
	if (p->name)
		partial_unwatch(p->name);
	if (p->fd >= 0)
		close(p->fd);
	if (p->folder >= 0)
		close(p->folder);
	block_close(p->old);
	free(p->path);
	free(p->by);
	free(p->name);
	*p = (struct partial){ .folder = -1, .fd = -1 };
}
