/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a disk in use holds, taken elsewhere: mirror, backup, export.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "base/unnamed.h"
#include "cli/live.h"
#include "cli/options.h"
#include "control/record.h"

enum {
	OPT_PIVOT = 1,
	OPT_STAY,
	OPT_BITMAP,
	OPT_BASE,
	OPT_SCRATCH,
	OPT_SOCKET,
	OPT_NAME,
	OPT_ONCE,
	OPT_FREEZE
};

struct copy {
	struct live_args a;
	const char *bitmap, *base, *scratch, *socket, *name;
	bool pivot, stay, once, freeze;
};

static int copy_option(void *ctx, int id, const char *value, struct error *err)
{
	struct copy *c = ctx;

	switch (id) {
	case OPT_PIVOT:
		c->pivot = true;
		return 0;
	case OPT_STAY:
		c->stay = true;
		return 0;
	case OPT_BITMAP:
		c->bitmap = value;
		return 0;
	case OPT_BASE:
		c->base = value;
		return 0;
	case OPT_SCRATCH:
		c->scratch = value;
		return 0;
	case OPT_SOCKET:
		c->socket = value;
		return 0;
	case OPT_NAME:
		c->name = value;
		return 0;
	case OPT_ONCE:
		c->once = true;
		return 0;
	case OPT_FREEZE:
		c->freeze = true;
		return 0;
	default:
		return live_arg(&c->a, id, value, err);
	}
}

static int disk_bytes(struct live_args *a, u64 *bytes, struct error *err)
{
	json_t *answer, *disk;
	int rc = live_ask(a, json_pack("{s:s}", "op", "disks"), NULL, 0,
	                  &answer, err);

	if (rc < 0)
		return rc;
	disk = json_array_get(json_object_get(answer, "disks"), a->disk.number);
	*bytes = (u64)json_integer_value(json_object_get(disk, "bytes"));
	json_decref(answer);
	return 0;
}

/* The file that is written. It gets its name when the job has ended well. Some
 * have it from the beginning, and are known as the same whatever is done to
 * their names: one that the machine may go on with, one that nobody waits for
 * but by its job, and a backup after which the bitmap begins anew, for nobody
 * else has what that had recorded. */
struct target {
	struct disk_new made;
	char *path; /* absolute */
	bool named;
	int fd;
	struct stat st;
};

/* What a backup builds on is there: without it it would hold nothing. */
static int find_base(const struct image_create *how, struct error *err)
{
	char *path = image_path_beside(how->path, how->backing);
	struct block *b;
	int rc = disk_open(&b, path, how->backing_format,
	                   BLOCK_OPEN_READONLY | BLOCK_OPEN_NO_LOCK |
	                       IMAGE_OPEN_NO_BACKING,
	                   err);

	free(path);
	if (rc == 0) {
		block_close(b);
		return 0;
	}
	error_prefix(err, "--base");
	if (rc == -ENOENT && how->backing[0] != '/')
		error_hint(err, "a relative name is relative to the backup");
	return rc;
}

/* The file may not be there yet, but its folder. */
static char *absolute(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder =
	    xasprintf("%.*s.", slash ? (int)(slash - path) + 1 : 0, path);
	char *real = realpath(folder, NULL), *whole = NULL;

	if (real)
		whole = xasprintf("%s/%s", strcmp(real, "/") ? real : "",
		                  slash ? slash + 1 : path);
	free(real);
	free(folder);
	return whole;
}

static int open_target(struct target *t, struct error *err)
{
	int rc = t->named ? disk_keep(&t->made, err) : 0;

	if (rc < 0)
		return rc;
	t->fd = open(t->named ? t->path : t->made.file.by, O_RDWR | O_CLOEXEC);
	if (t->fd >= 0 && fstat(t->fd, &t->st) == 0)
		return 0;
	rc = error_set(err, -errno, "%s: %s", t->path, strerror(errno));
	if (t->named)
		unlink(t->path);
	return rc;
}

/* A new image of the disk's size, open. */
static int make_target(struct target *t, struct copy *c, const char *path,
                       const char *format, const char *base, struct error *err)
{
	struct image_create *how = &t->made.how;
	int rc;

	t->path = absolute(path);
	if (!t->path)
		return error_set(err, -errno, "%s: %s", path, strerror(errno));
	*how = (struct image_create){ .path = t->path, .format = format };
	rc = disk_bytes(&c->a, &how->size, err);
	if (rc == 0 && base) {
		how->backing = base;
		how->backing_format = disk_format(base, NULL, err);
		rc = how->backing_format ? find_base(how, err) : -EINVAL;
	}
	if (rc == 0)
		rc = disk_make(&t->made, err);
	if (rc == -EEXIST)
		error_hint(err, "say another name, or remove it first");
	return rc < 0 ? rc : open_target(t, err);
}

/* Of a job that its machine has forgotten nothing is known: it has long been
 * over. */
static bool is_forgotten(const struct copy *c, int rc)
{
	return c->a.job && rc == -ENOENT;
}

/* Whether it ended so that a part may be all there is. */
static bool ended_badly(const struct copy *c, int rc)
{
	return rc < 0 && !is_forgotten(c, rc);
}

static int keep_target(struct target *t, struct error *err)
{
	return t->named ? 0 : disk_keep(&t->made, err);
}

static void discard_target(struct target *t)
{
	struct stat now;

	if (!t->named)
		disk_drop(&t->made);
	else if (lstat(t->path, &now) == 0 && now.st_dev == t->st.st_dev &&
	         now.st_ino == t->st.st_ino)
		unlink(t->path);
}

/* How a job on it ended, as its command says it. */
static int end_target(struct target *t, const struct copy *c, int rc,
                      struct error *err)
{
	if (c->a.left)
		return rc;
	/* Which of the two files it was about. */
	if (c->a.failed && rc != -ECANCELED)
		error_prefix(err, "%s:vd%c to %s", c->a.disk.machine,
		             'a' + (char)c->a.disk.number, t->path);
	if (ended_badly(c, rc)) {
		discard_target(t);
		return rc;
	}
	if (rc == 0)
		return keep_target(t, err);
	if (keep_target(t, NULL) < 0)
		discard_target(t);
	return rc;
}

static void close_target(struct target *t)
{
	if (t->fd >= 0)
		close(t->fd);
	free(t->path);
}

static const char *target_of(struct copy *c, const char **format,
                             struct error *err)
{
	const char *path = c->a.args.name_count > 1 ? c->a.args.names[1] : NULL;

	if (!path) {
		error_set(err, -EINVAL, "say where to: NAME:DISK FILE");
		return NULL;
	}
	*format = disk_format(path, c->a.args.format, err);
	return *format ? path : NULL;
}

/* ---- mirror ---- */

static const struct option_spec mirror_options[] = {
	{ "pivot", NULL, "then let the machine go on with FILE", OPT_PIVOT },
	{ "stay", NULL, "keep FILE the same until atoll disk jobs --finish",
	  OPT_STAY },
	DISK_OPT_FORMAT,
	LIVE_OPT_OF_JOBS,
	LIVE_OPTIONS,
	{ 0 },
};

/* The disk's path leads to target. */
static bool leads_to(const char *path, const char *target)
{
	char *a = realpath(path, NULL), *b = realpath(target, NULL);
	bool same = a && b && strcmp(a, b) == 0;

	free(a);
	free(b);
	return same;
}

/* A link beside the disk that waits to become it. */
static int make_link(struct copy *c, const char *target, char **next,
                     struct error *err)
{
	char *real = realpath(target, NULL);
	int rc = live_check_path(&c->a.disk, err);

	if (rc == 0) {
		*next = record_name(c->a.disk.path, err);
		rc = *next ? 0 : err->code;
	}
	if (rc == 0 && (!real || symlink(real, *next) < 0))
		rc = error_set(err, -errno, "%s: %s", *next, strerror(errno));
	free(real);
	return rc;
}

/* A part looks like the whole. So what was given up, or went wrong, goes; one
 * that held all and lost its machine does not. */
static bool held_all(const struct copy *c, const struct target *t)
{
	bool is_disk = c->a.disk.path && leads_to(c->a.disk.path, t->path);

	return is_disk || (c->a.ready && !c->a.failed);
}

static int end_mirror(struct copy *c, struct target *t, const char *next,
                      int rc, struct error *err)
{
	if (ended_badly(c, rc) && next)
		unlink(next);
	if (ended_badly(c, rc) && held_all(c, t)) {
		if (keep_target(t, NULL) < 0)
			discard_target(t);
		return rc;
	}
	return end_target(t, c, rc, err);
}

static int mirror_to(struct copy *c, const char *path, const char *format,
                     struct error *err)
{
	struct target t = { .fd = -1, .named = c->pivot || c->a.detach };
	int rc = make_target(&t, c, path, format, NULL, err);
	char *next = NULL;
	bool left = false;
	json_t *m;

	if (rc < 0) {
		close_target(&t);
		return rc;
	}
	if (c->pivot)
		rc = make_link(c, t.path, &next, err);
	if (rc == 0) {
		m = json_pack("{s:s, s:i, s:s, s:s, s:b, s:s, s:s}", "op",
		              "disk-mirror", "file", 0, "path", t.path,
		              "format", format, "blank", 1, "record",
		              next ? strrchr(next, '/') + 1 : "", "then",
		              c->pivot  ? "pivot"
		              : c->stay ? "stay"
		                        : "finish");
		c->a.guarded = true;
		c->a.renames = c->pivot;
		rc = live_work(&c->a, "mirroring", m, &t.fd, 1, &left, err);
	}
	rc = end_mirror(c, &t, next, rc, err);
	close_target(&t);
	free(next);
	return rc;
}

static int mirror(void *ctx, struct error *err)
{
	struct copy *c = ctx;
	const char *format, *path = target_of(c, &format, err);

	if (!path)
		return -EINVAL;
	if (c->pivot && strcmp(format, c->a.disk.format) != 0)
		return error_set(err, -EINVAL,
		                 "a %s disk can't become a %s one while it is "
		                 "in use",
		                 c->a.disk.format, format);
	if (c->stay && c->pivot)
		return error_set(err, -EINVAL,
		                 "--stay and --pivot: does the machine go on "
		                 "with the file, or not?");
	if (c->stay)
		c->a.detach = true;
	return mirror_to(c, path, format, err);
}

static json_t *copy_remote(void *ctx, struct error *err)
{
	struct copy *c = ctx;
	const char *format, *path = target_of(c, &format, err);
	json_t *body;

	if (path && c->stay)
		error_set(err, -ENOTSUP,
		          "the daemon's mirrors end when both are the same");
	if (!path || c->stay)
		return NULL;
	body = json_object();
	live_put_path(body, "path", path);
	live_put_text(body, "format", c->a.args.format);
	live_put_switch(body, "pivot", c->pivot);
	live_put_text(body, "bitmap", c->bitmap);
	live_put_path(body, "base", c->base);
	live_put_number(body, "rate", c->a.rate);
	live_put_switch(body, "freeze", c->freeze);
	return body;
}

int live_mirror_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk mirror NAME:DISK FILE [OPTION]...",
		"Copy a disk in use to FILE, and keep up with what is written "
		"until they are the same.",
		mirror_options,
		copy_option,
		mirror,
		copy_remote,
		.turn = true
	};
	struct copy c = { 0 };

	return live_main(&verb, argc, argv, &c, &c.a);
}

/* ---- a file for what is overwritten meanwhile ---- */

static int open_scratch(struct copy *c, const char *near, struct error *err)
{
	const char *slash = near ? strrchr(near, '/') : NULL;
	char *folder = c->scratch ? xstrdup(c->scratch)
	               : slash
	                   ? xasprintf("%.*s", (int)(slash - near) + 1, near)
	                   : xstrdup(".");
	int fd = unnamed_scratch(folder);

	if (fd < 0)
		error_set(err, -errno, "a file in %s: %s", folder,
		          strerror(errno));
	free(folder);
	return fd >= 0 ? fd : err->code;
}

/* ---- backup ---- */

static const struct option_spec backup_options[] = {
	{ "bitmap", "NAME", "only what changed since the last one with NAME",
	  OPT_BITMAP },
	{ "base", "FILE", "which that was", OPT_BASE },
	LIVE_OPT_FREEZE(OPT_FREEZE),
	{ "scratch", "FOLDER", "for what the guest overwrites meanwhile",
	  OPT_SCRATCH },
	DISK_OPT_FORMAT,
	LIVE_OPT_OF_JOBS,
	LIVE_OPTIONS,
	{ 0 },
};

/* 1: the bitmap is there and can be trusted; 0: it is not there. */
static int find_bitmap(struct copy *c, struct error *err)
{
	json_t *answer, *one;
	const char *name;
	size_t i;
	int found = 0, valid = 0;
	int rc = live_ask(
	    &c->a,
	    json_pack("{s:s, s:s}", "op", "disk-bitmap", "action", "list"),
	    NULL, 0, &answer, err);

	if (rc < 0)
		return rc;
	json_array_foreach(json_object_get(answer, "bitmaps"), i, one)
	{
		json_unpack(one, "{s:s, s:b}", "name", &name, "valid", &valid);
		if (strcmp(name, c->bitmap) == 0)
			found = valid ? 1
			              : error_set(err, -EBADMSG,
			                          "the bitmap %s did not "
			                          "survive a crash",
			                          name);
	}
	if (found < 0)
		error_hint(err, "delete it (atoll disk bitmap), and make a "
		                "whole backup");
	json_decref(answer);
	return found;
}

static int check_base(struct copy *c, const char *format, int found,
                      struct error *err)
{
	if (found && !c->base) {
		error_set(err, -EINVAL,
		          "%s is there: on what does this backup "
		          "build?",
		          c->bitmap);
		return error_hint(err, "--base FILE, the last backup with this "
		                       "bitmap");
	}
	if (!found && c->base)
		return error_set(err, -EINVAL,
		                 "there is no bitmap %s: this backup is whole",
		                 c->bitmap ? c->bitmap : "given");
	if (c->base && strcmp(format, "qcow2") != 0)
		return error_set(err, -EINVAL,
		                 "a %s image can't build on "
		                 "another",
		                 format);
	return 0;
}

static int backup_to(struct copy *c, const char *path, const char *format,
                     bool first, struct error *err)
{
	struct target t = { .fd = -1, .named = c->bitmap || c->a.detach };
	int rc = make_target(&t, c, path, format, c->base, err), fds[2];
	bool left = false;
	json_t *m;

	if (rc < 0) {
		close_target(&t);
		return rc;
	}
	fds[0] = t.fd;
	rc = fds[1] = open_scratch(c, path, err);
	if (fds[1] >= 0) {
		m = json_pack("{s:s, s:i, s:i, s:s, s:s, s:b, s:b, s:s?}", "op",
		              "disk-backup", "file", 0, "scratch", 1, "path",
		              t.path, "format", format, "blank", !c->base,
		              "first", first, "bitmap", c->bitmap);
		c->a.guarded = true;
		rc = live_work(&c->a, "backing up", m, fds, 2, &left, err);
		close(fds[1]);
	}
	rc = end_target(&t, c, rc, err);
	close_target(&t);
	return rc;
}

static int backup(void *ctx, struct error *err)
{
	struct copy *c = ctx;
	const char *format, *path = target_of(c, &format, err);
	int found = 0, rc;

	if (!path)
		return -EINVAL;
	if (c->freeze)
		return live_no_agent(err);
	if (c->bitmap)
		found = find_bitmap(c, err);
	rc = found < 0 ? found : check_base(c, format, found, err);
	return rc < 0 ? rc
	              : backup_to(c, path, format, c->bitmap && !found, err);
}

int live_backup_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk backup NAME:DISK FILE [OPTION]...",
		"Copy what a disk in use holds at this moment to FILE.",
		backup_options,
		copy_option,
		backup,
		copy_remote,
		.turn = true
	};
	struct copy c = { 0 };

	return live_main(&verb, argc, argv, &c, &c.a);
}

/* ---- export ---- */

static const struct option_spec export_options[] = {
	{ "socket", "PATH", "where clients connect; removed at the end",
	  OPT_SOCKET },
	{ "name", "NAME", "of the export (disk)", OPT_NAME },
	{ "once", NULL, "end when the last client has left", OPT_ONCE },
	{ "scratch", "FOLDER", "for what the guest overwrites meanwhile",
	  OPT_SCRATCH },
	LIVE_OPTIONS,
	{ 0 },
};

/* Until a signal, the last client's leaving, or the machine's end. */
static int attend(struct copy *c, json_int_t id, struct error *err)
{
	const struct timespec tick = { .tv_nsec = 100 * 1000 * 1000 };
	json_int_t now = 1, ever = 0;
	json_t *answer;
	sigset_t set;
	int rc = 0;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	printf("nbd+unix:///%s?socket=%s\n", c->name ? c->name : "disk",
	       c->socket);
	fflush(stdout);
	while (rc == 0 && sigtimedwait(&set, NULL, &tick) < 0) {
		rc = live_ask(&c->a,
		              json_pack("{s:s, s:I}", "op", "job", "job", id),
		              NULL, 0, &answer, err);
		if (rc < 0)
			break;
		json_unpack(answer, "{s:{s?I, s?I}}", "job", "clients", &now,
		            "clients_ever", &ever);
		json_decref(answer);
		if (c->once && ever > 0 && now == 0)
			break;
	}
	return rc;
}

static int export_at(struct copy *c, int listener, struct error *err)
{
	int fds[2] = { listener, open_scratch(c, c->a.disk.path, err) }, rc;
	json_t *answer;
	json_int_t id;

	if (fds[1] < 0)
		return fds[1];
	rc = live_ask(&c->a,
	              json_pack("{s:s, s:i, s:i, s:s?}", "op", "disk-export",
	                        "listener", 0, "scratch", 1, "name", c->name),
	              fds, 2, &answer, err);
	close(fds[1]);
	if (rc < 0)
		return rc;
	id = json_integer_value(json_object_get(answer, "job"));
	json_decref(answer);
	rc = attend(c, id, err);
	if (rc == 0)
		rc = live_ask(
		    &c->a,
		    json_pack("{s:s, s:I}", "op", "job-cancel", "job", id),
		    NULL, 0, NULL, err);
	return rc;
}

static int export(void *ctx, struct error *err)
{
	struct copy *c = ctx;
	int fd, rc;

	if (!c->socket)
		return error_set(err, -EINVAL, "say where: --socket PATH");
	if (c->name &&
	    strspn(c->name, "abcdefghijklmnopqrstuvwxyz"
	                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") !=
	        strlen(c->name))
		return error_set(
		    err, -EINVAL,
		    "--name %s: not letters, digits, '-', '_', '.'", c->name);
	fd = disk_listen(c->socket, err);
	if (fd < 0)
		return fd;
	rc = export_at(c, fd, err);
	close(fd);
	unlink(c->socket);
	return rc;
}

int live_export_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk export NAME:DISK --socket PATH [OPTION]...",
		"Let NBD clients read what a disk in use holds at this moment.",
		export_options, copy_option, export
	};
	struct copy c = { 0 };

	return live_main(&verb, argc, argv, &c, &c.a);
}
