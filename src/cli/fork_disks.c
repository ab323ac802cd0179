/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork_disks - the disks of a machine that is copied, and of its copies.
 *
 * What a disk was is written by nobody from the moment on. The machine goes on
 * in an empty overlay on top of it, and each copy in one of its own, a file
 * without a name. A disk that has a path keeps it:
 *
 *	1. its file gets a second name, disk.fork-MOMENT.qcow2
 *	2. the machine's overlay, whose header names that, gets the path
 *	3. the machine takes the overlay, at its moment
 *
 * Between 2 and 3 the machine writes to what the path reads through an empty
 * overlay, so that whoever ends in between leaves a whole disk. Who has the
 * next turn with it puts the path right (cli/untaken.h).
 *
 * A raw disk stays what it is: whoever opens its path as raw would get an
 * overlay's header. Where the file system lets two files share what they hold,
 * the machine makes such a file at its moment, and the copies' overlays lie on
 * that.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/error.h"
#include "base/unnamed.h"
#include "cli/files.h"
#include "cli/fork.h"
#include "cli/saved.h"
#include "cli/untaken.h"
#include "control/record.h"
#include "launch/launch.h"
#include "storage/image.h"

static bool is_readonly(json_t *disk)
{
	return json_is_true(json_object_get(disk, "readonly"));
}

char *fork_base_name(json_t *disk, const char *moment)
{
	return xasprintf(
	    "/fork/%s/%d", moment,
	    (int)json_integer_value(json_object_get(disk, "disk")));
}

/* ---- which ---- */

static int refuse(const char *machine, const char *path, const char *why,
                  struct error *err)
{
	error_set(err, -ENOTSUP,
	          "%s writes to %s, which is %s: copies can't "
	          "share it",
	          machine, path, why);
	return error_hint(err, "disks of images, qcow2 files (atoll disk "
	                       "convert makes one), what is read-only, and raw "
	                       "files on btrfs, xfs or bcachefs can be shared");
}

int fork_try_raw(const char *machine, const char *path, int fd,
                 struct error *err)
{
	int disk = open(path, O_RDONLY | O_CLOEXEC);
	bool can = disk >= 0 && copy_can_share(disk, fd);

	if (disk >= 0)
		close(disk);
	return can ? 0
	           : refuse(machine, path,
	                    "not a qcow2 image, and can share nothing there",
	                    err);
}

/* It lies where the disk does, and goes with who has it open. */
static int open_beside(const char *path, struct error *err)
{
	int fd = unnamed_beside(path);

	return fd >= 0
	           ? fd
	           : error_set(err, -errno, "cannot make a file beside %s: %s",
	                       path, strerror(errno));
}

static int find_raw(const char *machine, struct fork_path *p, struct error *err)
{
	int fd = open_beside(p->path, err), rc = fd;

	if (fd >= 0) {
		rc = fork_try_raw(machine, p->path, fd, err);
		close(fd);
	}
	p->raw = rc == 0;
	return rc;
}

/* disk.qcow2 -> disk.fork-MOMENT.qcow2 */
char *fork_kept_name(const char *path, const char *moment)
{
	const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');

	if (!dot || dot <= slash + 1)
		dot = path + strlen(path);
	return xasprintf("%.*s.fork-%s%s", (int)(dot - path), path, moment,
	                 dot);
}

/* A path is meant from where the machine was started. */
static int find_path(struct fork_disks *d, struct fork_path *p, json_t *disk,
                     const char *machine, const char *cwd, struct error *err)
{
	const char *name = saved_text(disk, "path");
	char *whole = name[0] == '/' || !cwd ? xstrdup(name)
	                                     : xasprintf("%s/%s", cwd, name);
	struct stat st;

	if (json_is_true(json_object_get(disk, "private"))) {
		free(whole);
		return 0;
	}
	p->path = realpath(whole, NULL);
	free(whole);
	if (!p->path || stat(p->path, &st) < 0)
		return refuse(machine, name, "not to be found", err);
	if (!S_ISREG(st.st_mode))
		return refuse(machine, name, "not a file", err);
	if (strcmp(saved_text(disk, "format"), "qcow2") != 0)
		return find_raw(machine, p, err);
	p->kept = fork_kept_name(p->path, d->moment);
	return 0;
}

void fork_disks_init(struct fork_disks *d, const char *moment)
{
	*d = (struct fork_disks){ .list = json_array(), .moment = moment };
	for (size_t i = 0; i < ARRAY_SIZE(d->overlays); i++)
		d->overlays[i] = d->paths[i].base = -1;
}

int fork_disks_list(struct fork_disks *d, int sock, const char *machine,
                    const char *moment, struct error *err)
{
	json_t *status = NULL, *answer = NULL, *disk;
	int fds[CONTROL_FDS_MAX], rc;
	const char *cwd = NULL;
	size_t count = 0, i;

	fork_disks_init(d, moment);
	rc = saved_request(sock, json_pack("{s:s}", "op", "status"), NULL, 0,
	                   &status, fds, &count, err);
	if (rc == 0)
		rc = saved_request(sock, json_pack("{s:s}", "op", "disks"),
		                   NULL, 0, &answer, fds, &count, err);
	json_unpack(status, "{s?{s?s}}", "origin", "cwd", &cwd);
	json_array_foreach(json_object_get(answer, "disks"), i, disk)
	{
		if (rc < 0 || is_readonly(disk))
			continue;
		if (d->count == ARRAY_SIZE(d->paths)) {
			rc = error_set(err, -E2BIG,
			               "the machine has too many disks");
			continue;
		}
		json_array_append(d->list, disk);
		rc = find_path(d, &d->paths[d->count++], disk, machine, cwd,
		               err);
	}
	json_decref(status);
	json_decref(answer);
	return rc;
}

/* ---- overlays ---- */

struct image_create fork_overlay_how(const char *path, const char *base,
                                     const char *format, u64 size)
{
	return (struct image_create){ .path = path,
		                      .format = "qcow2",
		                      .size = size,
		                      .replace = true,
		                      .backing = base,
		                      .backing_format = format };
}

int fork_overlay_create(const char *path, const char *base, json_t *disk,
                        struct error *err)
{
	const struct image_create how = fork_overlay_how(
	    path, base, saved_text(disk, "format"),
	    (u64)json_integer_value(json_object_get(disk, "bytes")));
	int fd, rc = image_create(&how, err);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd >= 0 ? fd
	               : error_set(err, -errno, "cannot open %s: %s", path,
	                           strerror(errno));
}

/* A file without a name, beside where disks of images are. */
static int unnamed_overlay(const char *folder, const char *base, json_t *disk,
                           struct error *err)
{
	char *path = xasprintf("%s/overlay.%d", folder, (int)getpid());
	int fd = fork_overlay_create(path, base, disk, err);

	unlink(path);
	free(path);
	return fd;
}

static int private_overlay(struct fork_disks *d, json_t *disk,
                           const char *folder, struct error *err)
{
	char *base = fork_base_name(disk, d->moment);
	int fd = unnamed_overlay(folder, base, disk, err);

	free(base);
	return fd;
}

int fork_disks_overlays(struct fork_disks *d, int *out, const char *folder,
                        struct error *err)
{
	for (unsigned i = 0; i < d->count; i++) {
		json_t *disk = json_array_get(d->list, i);

		out[i] =
		    d->paths[i].path && !d->paths[i].raw
			? unnamed_overlay(folder, d->paths[i].kept, disk, err)
			: private_overlay(d, disk, folder, err);
		if (out[i] < 0)
			return out[i];
	}
	return 0;
}

/* Which file the overlay lies on: the machine may have gone to another since.
 */
static int open_base(struct fork_path *p, struct error *err)
{
	p->base = open(p->kept, O_RDONLY | O_CLOEXEC);
	return p->base >= 0
	           ? 0
	           : error_set(err, -errno, "%s: %s", p->kept, strerror(errno));
}

/* What stands at p->kept and p->next is fork_disks_fini()'s on failure. */
static int take_path(struct fork_path *p, json_t *disk, int sock,
                     struct error *err)
{
	json_t *number = json_object_get(disk, "disk");
	int fd, rc;

	if (!untaken_put_right(sock, (unsigned)json_integer_value(number),
	                       p->path, "qcow2"))
		return untaken_refuse(p->path, err);
	p->next = record_name(p->path, err);
	if (!p->next)
		return err->code;
	fd = fork_overlay_create(p->next, strrchr(p->kept, '/') + 1, disk, err);
	if (fd < 0)
		return fd;
	if (link(p->path, p->kept) < 0)
		rc = error_set(err, -errno, "cannot make %s: %s", p->kept,
		               strerror(errno));
	else
		rc = open_base(p, err);
	if (rc == 0)
		rc = record_take(p->path, strrchr(p->next, '/') + 1, err);
	if (rc == 0 && fstat(fd, &p->was) < 0)
		rc = error_set(err, -errno, "%s: %s", p->path, strerror(errno));
	p->taken = rc == 0;
	if (rc == 0)
		return fd;
	close(fd);
	return rc;
}

int fork_disks_take(struct fork_disks *d, int sock, const char *folder,
                    struct error *err)
{
	for (unsigned i = 0; i < d->count; i++) {
		json_t *disk = json_array_get(d->list, i);
		struct fork_path *p = &d->paths[i];
		int fd = d->overlays[i];

		if (fd < 0)
			fd = p->raw    ? open_beside(p->path, err)
			     : p->path ? take_path(p, disk, sock, err)
			               : private_overlay(d, disk, folder, err);
		if (fd < 0)
			return fd;
		d->overlays[i] = fd;
	}
	return 0;
}

json_t *fork_disks_message(struct fork_disks *d, int *fds, size_t *count)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < d->count; i++) {
		json_t *disk = json_array_get(d->list, i);
		const struct fork_path *p = &d->paths[i];
		char *base = p->kept ? xstrdup(p->kept)
		                     : fork_base_name(disk, d->moment);

		json_t *one = json_pack(
		    "{s:O,s:i,s:s}", "disk", json_object_get(disk, "disk"),
		    p->raw ? "share" : "overlay", (int)*count, "name", base);

		fds[(*count)++] = d->overlays[i];
		if (p->base >= 0) {
			json_object_set_new(one, "base",
			                    json_integer((int)*count));
			fds[(*count)++] = p->base;
		}
		json_array_append_new(list, one);
		free(base);
	}
	return list;
}

/* ---- what lies below a path ---- */

struct below {
	struct fork_source *source;
	json_t *list;
};

static int add_one(void *ctx, const char *path, const char *format, int fd,
                   struct error *err)
{
	struct below *b = ctx;
	struct fork_source *s = b->source;

	if (s->count == CONTROL_FDS_MAX) {
		close(fd);
		return error_set(err, -E2BIG,
		                 "the machine's disks are made of too many "
		                 "files");
	}
	json_array_append_new(b->list,
	                      json_pack("{s:i,s:s,s:s}", "fd", (int)s->count,
	                                "path", path, "format", format));
	s->fds[s->count++] = fd;
	return 0;
}

static int open_below(struct fork_source *s, const char *kept, json_t *disk,
                      struct error *err)
{
	struct below b = { s, json_array() };
	const struct launch_files files = { file_open_layer, add_one, &b };
	int fd = file_open_disk(kept, true, err);
	int rc = fd < 0 ? fd : add_one(&b, kept, "qcow2", fd, err);

	json_object_set_new(disk, "below", b.list);
	return rc < 0 ? rc : launch_chain(&files, fd, kept, true, err);
}

/* What it was at the moment, for reading alone. */
static int open_shared(struct fork_source *s, struct fork_disks *d, unsigned i,
                       json_t *disk, struct error *err)
{
	struct below b = { s, json_array() };
	char *name = fork_base_name(json_array_get(d->list, i), d->moment);
	char *by = xasprintf("/proc/self/fd/%d", d->overlays[i]);
	int fd = open(by, O_RDONLY | O_CLOEXEC), rc;

	json_object_set_new(disk, "below", b.list);
	rc = fd < 0 ? error_set(err, -errno, "%s: %s", by, strerror(errno))
	            : add_one(&b, name, "raw", fd, err);
	free(by);
	free(name);
	return rc;
}

int fork_disks_below(struct fork_disks *d, struct fork_source *s,
                     struct error *err)
{
	json_t *list = json_object_get(s->answer, "disks");
	int rc = 0;

	for (unsigned i = 0; i < d->count; i++)
		d->paths[i].used = true;
	for (unsigned i = 0; rc == 0 && i < d->count; i++) {
		json_t *number =
		    json_object_get(json_array_get(d->list, i), "disk");
		json_t *disk =
		    json_array_get(list, (size_t)json_integer_value(number));

		if (d->paths[i].raw)
			rc = open_shared(s, d, i, disk, err);
		else if (d->paths[i].path)
			rc = open_below(s, d->paths[i].kept, disk, err);
	}
	return rc;
}

/* ---- the end ---- */

/* Nobody has it open to write, and nobody ever wrote to it. */
static bool never_used(const struct fork_path *p, int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct stat now;

	return fcntl(fd, F_OFD_SETLK, &lock) == 0 && fstat(fd, &now) == 0 &&
	       now.st_ino == p->was.st_ino && now.st_size == p->was.st_size &&
	       now.st_mtim.tv_sec == p->was.st_mtim.tv_sec &&
	       now.st_mtim.tv_nsec == p->was.st_mtim.tv_nsec;
}

/* The overlay makes way for what the disk was; until then it is locked, so
 * that no machine that starts meanwhile writes to it. */
static void give_back(const struct fork_path *p)
{
	int fd = open(p->path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	if (never_used(p, fd))
		(void)rename(p->kept, p->path);
	close(fd);
}

static void path_fini(struct fork_path *p)
{
	if (p->taken && !p->used)
		give_back(p);
	if (p->base >= 0)
		close(p->base);
	if (p->next)
		unlink(p->next);
	if (p->next && !p->taken && file_same(p->path, p->kept))
		unlink(p->kept);
	free(p->path);
	free(p->kept);
	free(p->next);
}

void fork_disks_fini(struct fork_disks *d)
{
	for (unsigned i = 0; i < d->count; i++) {
		if (d->overlays[i] >= 0)
			close(d->overlays[i]);
		path_fini(&d->paths[i]);
	}
	json_decref(d->list);
	*d = (struct fork_disks){ .list = NULL };
}
