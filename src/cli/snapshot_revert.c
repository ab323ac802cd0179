/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot_revert - a machine's disks and its state as a snapshot has them.
 *
 * All is copied first, to files that nobody knows of yet; what is there stays
 * as it is until the last copy is on the disk. Then they get their names, one
 * after another, and that is not given up by a signal half way.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/error.h"
#include "cli/run.h"
#include "cli/saved.h"
#include "cli/snapshot.h"
#include "storage/image.h"

struct copy {
	char *path; /* what it becomes */
	char *temp;
	int fd;
	int present; /* what stands there, locked; -1: nothing */
};

struct copies {
	struct copy disk[RUN_DISKS_MAX + 1];
	size_t count;
	/* Of all of them; what is under way comes on top of done. */
	u64 done, total;
	const struct image_progress *progress;
};

/* What the image has besides its contents would be lost. */
static int check_present(const char *path, struct error *err)
{
	const struct block_open how = { .path = path,
		                        .fd = -1,
		                        .format = "qcow2",
		                        .flags = BLOCK_OPEN_READONLY |
		                                 IMAGE_OPEN_NO_BACKING |
		                                 IMAGE_OPEN_NO_DATA };
	struct image_details d;
	struct block *b;
	int rc;

	if (access(path, F_OK) < 0)
		return 0;
	rc = block_open(&b, &how, err);
	if (rc < 0)
		return rc;
	image_details(b, &d);
	if (d.snapshot_count || d.data_file) {
		rc = error_set(
		    err, -ENOTSUP, "%s has %s, which a revert would lose", path,
		    d.data_file ? "a data file" : "snapshots inside");
		error_hint(err, "convert it (atoll disk convert), or delete "
		                "them (atoll disk snapshot)");
	}
	image_details_free(&d);
	block_close(b);
	return rc;
}

void snapshot_tell_far(void *ctx, u64 done, u64 total)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%20" PRIu64 " %20" PRIu64 "\n",
	                 done, total);

	(void)ctx;
	(void)!pwrite(STDOUT_FILENO, text, (size_t)n, 0);
}

/* ---- copies ---- */

static void copied(void *ctx, u64 done)
{
	struct copies *all = ctx;

	if (all->progress->step)
		all->progress->step(all->progress->ctx,
		                    MIN(all->done + done, all->total),
		                    all->total);
}

static int copy_contents(struct copies *all, const char *from, int to,
                         struct error *err)
{
	int fd = open(from, O_RDONLY | O_CLOEXEC), rc = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		rc = -errno;
	if (rc == 0)
		rc = copy_sparse_told(fd, to, st.st_size, copied, all);
	if (rc == 0) {
		all->done += (u64)st.st_size;
		copied(all, 0);
	}
	if (rc == 0 && fsync(to) < 0)
		rc = -errno;
	if (fd >= 0)
		close(fd);
	return rc < 0 ? error_set(err, rc, "cannot copy %s: %s", from,
	                          strerror(-rc))
	              : 0;
}

static char *kept_path(const struct snapshots *s, const char *name,
                       json_t *disk)
{
	char file[24];

	snprintf(file, sizeof(file), "disk%d",
	         (int)json_integer_value(json_object_get(disk, "disk")));
	return snapshots_path(s, name, file);
}

static u64 bytes_of(const struct snapshots *s, const char *name, json_t *disks)
{
	json_t *disk;
	u64 sum = 0;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		char *path = kept_path(s, name, disk);
		struct stat st;

		if (stat(path, &st) == 0)
			sum += (u64)st.st_size;
		free(path);
	}
	return sum;
}

/* Another machine than this one may have it, or start with it now. */
static int hold_present(struct copy *c, struct error *err)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	c->present = open(c->path, O_RDONLY | O_CLOEXEC);
	if (c->present < 0 && errno == ENOENT)
		return 0;
	if (c->present < 0)
		return error_set(err, -errno, "%s: %s", c->path,
		                 strerror(errno));
	if (fcntl(c->present, F_OFD_SETLK, &lock) < 0) {
		error_set(err, -EBUSY, "%s: in use by another process",
		          c->path);
		return error_hint(err, "stop its user first");
	}
	return 0;
}

static int copy_disk(struct copies *all, const struct snapshots *s,
                     const char *name, json_t *disk, const char *suspended,
                     struct error *err)
{
	bool private = json_is_true(json_object_get(disk, "private"));
	char *from;
	struct copy *c;
	int rc = 0;

	if (all->count == ARRAY_SIZE(all->disk))
		return error_set(err, -E2BIG, "too many disks");
	c = &all->disk[all->count++];
	c->path = private ? saved_disk_path(
				suspended,
				(unsigned)json_integer_value(
				    json_object_get(disk, "disk")),
				!json_is_true(json_object_get(disk, "beside")))
	                  : xstrdup(saved_text(disk, "path"));
	c->fd = c->present = -1;
	if (!private && strcmp(saved_text(disk, "stored"), "qcow2") == 0)
		rc = check_present(c->path, err);
	if (rc == 0 && !private)
		rc = hold_present(c, err);
	if (rc < 0)
		return rc;
	c->fd = saved_open_unnamed(c->path, &c->temp);
	if (c->fd < 0)
		return error_set(err, -errno, "cannot write beside %s: %s",
		                 c->path, strerror(errno));
	from = kept_path(s, name, disk);
	rc = copy_contents(all, from, c->fd, err);
	free(from);
	return rc;
}

static void copies_fini(struct copies *all)
{
	for (size_t i = 0; i < all->count; i++) {
		struct copy *c = &all->disk[i];

		if (c->fd >= 0) {
			unlink(c->temp); /* where it had to have a name */
			close(c->fd);
		}
		if (c->present >= 0)
			close(c->present);
		free(c->path);
		free(c->temp);
	}
}

static int name_all(struct copies *all, struct error *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < all->count; i++) {
		struct copy *c = &all->disk[i];

		rc = saved_give_name(c->fd, c->temp, c->path, err);
	}
	return rc;
}

/* ---- all of it ---- */

static void hold_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* What was suspended is gone first: it fits to no disk but those of before. Its
 * successor comes last, and shares the snapshot's file, which nobody
 * changes. */
static int take(const struct snapshot_of *of, const struct snapshots *s,
                json_t *one, const char *suspended, struct copies *all,
                struct error *err)
{
	const char *name = saved_text(one, "name");
	char *state = snapshots_path(s, name, "state");
	int rc;

	unlink(suspended);
	rc = snapshot_write_saved(of, one, true, err);
	if (rc == 0)
		rc = name_all(all, err);
	if (rc == 0)
		rc = snapshots_set_current(s, name, err);
	if (rc == 0 && link(state, suspended) < 0)
		rc = error_set(err, -errno, "cannot make %s: %s", suspended,
		               strerror(errno));
	free(state);
	return rc;
}

int snapshot_put_back(const struct snapshot_of *of, const struct snapshots *s,
                      const char *name, const struct image_progress *progress,
                      struct error *err)
{
	json_t *one = snapshots_find(s, name, err), *disk;
	char *suspended = one ? snapshot_suspended(of, err) : NULL;
	json_t *disks = json_object_get(one, "disks");
	struct copies all = { .progress = progress,
		              .total = bytes_of(s, name, disks) };
	size_t i;
	int rc = suspended ? 0 : err->code;

	json_array_foreach(disks, i, disk)
	{
		if (rc == 0)
			rc = copy_disk(&all, s, name, disk, suspended, err);
	}
	if (rc == 0) {
		hold_signals();
		rc = take(of, s, one, suspended, &all, err);
	}
	copies_fini(&all);
	free(suspended);
	return rc;
}
