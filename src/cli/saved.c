/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/saved.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/unnamed.h"
#include "cli/image.h"
#include "control/control.h"
#include "storage/image.h"
#include "storage/state_file.h"

enum { ABOUT_MAX = 1 << 20, ARGS_MAX = 4096, DISKS_MAX = 32 };

/* ---- reading ---- */

static int read_about(struct saved *s, struct error *err)
{
	struct state_file file;
	u8 *text = NULL;
	size_t size;
	json_t *argv, *arg;
	size_t i;
	int rc = state_file_open(&file, s->fd, err);

	if (rc == 0)
		rc = state_file_read(&file, "about", ABOUT_MAX, &text, &size,
		                     err);
	if (rc == 0)
		s->about = json_loadb((char *)text, size, 0, NULL);
	free(text);
	if (rc < 0)
		return rc;
	argv = json_object_get(json_object_get(s->about, "origin"), "argv");
	if (!json_is_array(argv) || json_array_size(argv) > ARGS_MAX) {
		error_set(err, -EINVAL,
		          "%s does not say how its machine was started",
		          s->path);
		return error_hint(err, "only what atoll run started can be "
		                       "resumed by it");
	}
	s->argv = xalloc((json_array_size(argv) + 1) * sizeof(*s->argv));
	json_array_foreach(argv, i, arg)
	{
		const char *value = json_string_value(arg);

		if (value)
			s->argv[s->argc++] = (char *)(uintptr_t)value;
	}
	return 0;
}

const char *saved_text(json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

int saved_open(struct saved *s, const char *path, struct error *err)
{
	int rc;

	*s = (struct saved){ .fd = open(path, O_RDONLY | O_CLOEXEC) };
	if (s->fd < 0)
		return error_set(err, -errno,
		                 "cannot open the saved machine %s: %s", path,
		                 strerror(errno));
	s->path = realpath(path, NULL);
	if (!s->path)
		s->path = xstrdup(path);
	s->disk = xasprintf("%s.disk", s->path);
	rc = read_about(s, err);
	if (rc < 0) {
		error_prefix(err, "%s", path);
		saved_fini(s);
	}
	return rc;
}

bool saved_is_at(const struct saved *s, const char *path)
{
	struct stat is, there;

	return fstat(s->fd, &is) == 0 && stat(path, &there) == 0 &&
	       is.st_dev == there.st_dev && is.st_ino == there.st_ino;
}

void saved_fini(struct saved *s)
{
	if (s->fd >= 0)
		close(s->fd);
	free(s->path);
	free(s->disk);
	free(s->argv);
	json_decref(s->about);
	*s = (struct saved){ .fd = -1 };
}

char **saved_command(const struct saved *s, int argc, char **argv, int *count)
{
	char **all = xalloc((size_t)(s->argc + argc + 1) * sizeof(*all));
	int n = 0;

	all[n++] = argv[0];
	for (int i = 0; i < s->argc; i++)
		all[n++] = s->argv[i];
	for (int i = 1; i < argc; i++)
		all[n++] = argv[i];
	*count = n;
	return all;
}

const char *saved_mac(const struct saved *s, unsigned nic)
{
	json_t *origin = json_object_get(s->about, "origin");

	return json_string_value(
	    json_array_get(json_object_get(origin, "macs"), nic));
}

const char *saved_kept_disk(const struct saved *s)
{
	return json_string_value(
	    json_object_get(json_object_get(s->about, "origin"), "image_disk"));
}

const char *saved_disk_format(const struct saved *s)
{
	const char *format = json_string_value(json_object_get(
	    json_object_get(s->about, "origin"), "image_format"));

	return format ? format : "raw";
}

bool saved_lies_beside(const struct saved *s, unsigned n)
{
	json_t *list = json_object_get(json_object_get(s->about, "origin"),
	                               "beside"),
	       *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		if (json_integer_value(one) == (json_int_t)n)
			return true;
	}
	return false;
}

bool saved_has_image(json_t *origin)
{
	return json_is_string(json_object_get(origin, "image_format"));
}

bool saved_is_image(json_t *disk, json_t *origin)
{
	return saved_has_image(origin) &&
	       json_integer_value(json_object_get(disk, "disk")) == 0;
}

char *saved_disk_path(const char *path, unsigned n, bool image)
{
	return image && n == 0 ? xasprintf("%s.disk", path)
	                       : xasprintf("%s.disk%u", path, n);
}

void saved_forget_disks(const char *path)
{
	for (unsigned n = 0; n < DISKS_MAX; n++)
		for (int image = 0; image <= (n == 0); image++) {
			char *disk = saved_disk_path(path, n, image);

			unlink(disk);
			free(disk);
		}
}

bool saved_is_there(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return false;
	if (st.st_size > 0)
		return true;
	unlink(path);
	saved_forget_disks(path);
	return false;
}

int saved_enter_folder(const struct saved *s, struct error *err)
{
	const char *cwd = json_string_value(
	    json_object_get(json_object_get(s->about, "origin"), "cwd"));

	if (cwd && chdir(cwd) < 0)
		return error_set(err, -errno,
		                 "the folder %s, where the machine was "
		                 "started: %s",
		                 cwd, strerror(errno));
	return 0;
}

/* ---- writing ---- */

static void drop_answer(json_t *answer, int *got, size_t *got_count)
{
	while (*got_count)
		close(got[--*got_count]);
	json_decref(answer);
}

/* How far the snapshot is that we wait for. */
enum { PROGRESS_ID = 1, TICK_MS = 150, SHARE_MS = 20 };

struct watch {
	const struct image_progress *progress; /* NULL: nobody looks */
	u64 total;                             /* that was told last */
};

static struct watch watch_for(const struct saved_how *how)
{
	bool looks = how->progress && how->progress->step;

	return (struct watch){ .progress = looks ? how->progress : NULL };
}

static bool tells_progress(json_t *answer, struct watch *w)
{
	json_int_t done = 0, total = 0;

	if (!w || !w->progress ||
	    json_integer_value(json_object_get(answer, "id")) != PROGRESS_ID)
		return false;
	json_unpack(answer, "{s:I,s:I}", "done", &done, "total", &total);
	if (total > 0) {
		w->total = (u64)total;
		w->progress->step(w->progress->ctx, (u64)done, w->total);
	}
	return true;
}

/* All of it is there. What was written before anybody asked is told now. */
static void tell_end(const struct watch *w, json_t *figures)
{
	json_int_t pages = 0;
	u64 total = w->total;

	if (!w->progress)
		return;
	json_unpack(figures, "{s:I}", "pages", &pages);
	if (total == 0)
		total = MAX((u64)pages * 4096, (u64)1);
	w->progress->step(w->progress->ctx, total, total);
}

static int ask_progress(int sock, struct error *err)
{
	json_t *ask = json_pack("{s:s,s:i}", "op", "snapshot-progress", "id",
	                        PROGRESS_ID);
	int rc = control_send(sock, ask, NULL, 0, err);

	json_decref(ask);
	return rc;
}

/* Events are passed over; with a watch it is asked for meanwhile. */
static int wait_answer(int sock, struct watch *watch, json_t **answer, int *got,
                       size_t *got_count, struct error *err)
{
	struct pollfd ready = { .fd = sock, .events = POLLIN };
	int rc = 0;

	while (rc == 0) {
		if (watch && watch->progress && poll(&ready, 1, TICK_MS) == 0) {
			rc = ask_progress(sock, err);
			continue;
		}
		rc = control_receive(sock, answer, got, CONTROL_FDS_MAX,
		                     got_count, err);
		if (rc < 0)
			break;
		if (json_object_get(*answer, "ok") &&
		    !tells_progress(*answer, watch))
			return 0;
		drop_answer(*answer, got, got_count);
	}
	return error_set(err, rc, "the machine gave no answer");
}

static int request(int sock, json_t *message, const int *fds, size_t count,
                   struct watch *watch, json_t **answer, int *got,
                   size_t *got_count, struct error *err)
{
	int rc = control_send(sock, message, fds, count, err);

	json_decref(message);
	if (rc < 0)
		return error_set(err, rc, "the machine gave no answer");
	rc = wait_answer(sock, watch, answer, got, got_count, err);
	if (rc < 0)
		return rc;
	if (!json_is_true(json_object_get(*answer, "ok"))) {
		const char *words = "it refused", *hint = "";
		int code = -EIO;

		json_unpack(*answer, "{s?s,s?s,s?i}", "words", &words, "hint",
		            &hint, "code", &code);
		rc = error_set(err, code < 0 ? code : -EIO, "%s", words);
		error_hint(err, "%s", hint);
		drop_answer(*answer, got, got_count);
	}
	return rc;
}

int saved_request(int sock, json_t *message, const int *fds, size_t count,
                  json_t **answer, int *got, size_t *got_count,
                  struct error *err)
{
	return request(sock, message, fds, count, NULL, answer, got, got_count,
	               err);
}

/* A disk without a name gets one; one that has a name gets a second; what the
 * file system refuses is copied. */
static int keep_disk(int fd, const char *path, struct error *err)
{
	char proc[64], *temp = xasprintf("%s.new", path);
	struct stat st, old;
	int rc = 0, to;

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (fstat(fd, &st) < 0)
		rc = -errno;
	if (rc == 0 && stat(path, &old) == 0 && old.st_ino == st.st_ino &&
	    old.st_dev == st.st_dev) {
		free(temp);
		return 0;
	}
	unlink(temp);
	if (rc == 0 &&
	    linkat(AT_FDCWD, proc, AT_FDCWD, temp, AT_SYMLINK_FOLLOW) < 0) {
		to = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		rc = to < 0 ? -errno : copy_sparse(fd, to, st.st_size);
		if (rc == 0 && fsync(to) < 0)
			rc = -errno;
		if (to >= 0)
			close(to);
	}
	if (rc == 0 && rename(temp, path) < 0)
		rc = -errno;
	if (rc < 0) {
		error_set(err, rc, "cannot keep the disk as %s: %s", path,
		          strerror(-rc));
		unlink(temp);
	}
	free(temp);
	return rc;
}

int saved_keep_disk(void *ctx, json_t *disk, int fd, struct error *err)
{
	const struct saved_place *place = ctx;
	char *name;
	int rc;

	if (!json_is_true(json_object_get(disk, "private")))
		return 0;
	name = saved_disk_path(
	    place->path,
	    (unsigned)json_integer_value(json_object_get(disk, "disk")),
	    place->image);
	rc = keep_disk(fd, name, err);
	if (rc == 0)
		rc = image_claim(name, err);
	free(name);
	return rc;
}

static int visit_disks(json_t *answer, const int *fds, size_t count,
                       const struct saved_how *how, struct error *err)
{
	json_t *disk;
	size_t i;
	int rc = 0;

	json_array_foreach(json_object_get(answer, "disks"), i, disk)
	{
		json_int_t fd = json_integer_value(json_object_get(disk, "fd"));

		if (rc == 0 && fd >= 0 && (size_t)fd < count)
			rc = how->disk(how->ctx, disk, fds[fd], err);
	}
	return rc;
}

/* The new name is on the disk too. */
static int rename_synced(const char *from, const char *to, struct error *err)
{
	char *copy = xstrdup(to);
	int folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = 0;

	if (rename(from, to) < 0)
		rc = error_set(err, -errno, "cannot name %s: %s", to,
		               strerror(errno));
	if (folder >= 0) {
		fsync(folder);
		close(folder);
	}
	free(copy);
	return rc;
}

int saved_open_unnamed(const char *path, char **temp)
{
	char *copy = xstrdup(path);
	int fd = open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	free(copy);
	*temp = xasprintf("%s.XXXXXX", path);
	return fd >= 0 ? fd : mkostemp(*temp, O_CLOEXEC);
}

static int cannot_write(const char *path, char *temp, struct error *err)
{
	int rc = error_set(err, -errno, "cannot write %s: %s", path,
	                   strerror(errno));

	free(temp);
	return rc;
}

int saved_give_name(int fd, const char *temp, const char *path,
                    struct error *err)
{
	char proc[64];
	struct stat st;

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (fstat(fd, &st) == 0 && st.st_nlink == 0) {
		unlink(temp); /* of one that ended right here */
		if (linkat(AT_FDCWD, proc, AT_FDCWD, temp, AT_SYMLINK_FOLLOW) <
		    0)
			return error_set(err, -errno, "cannot name %s: %s",
			                 temp, strerror(errno));
	}
	return rename_synced(temp, path, err);
}

int saved_write(int sock, const char *path, const struct saved_how *how,
                json_t **figures, struct error *err)
{
	char *temp;
	int fds[CONTROL_FDS_MAX], fd = saved_open_unnamed(path, &temp), rc;
	struct watch watch = watch_for(how);
	size_t count = 0;
	json_t *answer = NULL;

	if (fd < 0)
		return cannot_write(path, temp, err);
	rc = request(sock,
	             json_pack("{s:s,s:i,s:s,s:b}", "op", "save", "file", 0,
	                       "memory", how->plain ? "plain" : "packed",
	                       "stay", how->stay),
	             &fd, 1, &watch, &answer, fds, &count, err);
	if (rc == 0) {
		rc = visit_disks(answer, fds, count, how, err);
		if (rc == 0)
			rc = saved_give_name(fd, temp, path, err);
		if (rc == 0)
			tell_end(&watch, answer);
		if (rc == 0 && figures)
			*figures = json_incref(answer);
		json_decref(answer);
		while (count)
			close(fds[--count]);
	}
	close(fd);
	if (rc < 0)
		unlink(temp);
	free(temp);
	return rc;
}

/* ---- a moment ---- */

struct moment {
	int fds[CONTROL_FDS_MAX];
	size_t count;
	json_t *message;
};

static json_t *add_file(struct moment *m, int fd)
{
	m->fds[m->count] = fd;
	return json_integer((json_int_t)m->count++);
}

const char *saved_stored(json_t *disk, json_t *status)
{
	json_t *origin = json_object_get(status, "origin");
	const char *format = "raw";

	if (!json_is_true(json_object_get(disk, "private")))
		json_unpack(disk, "{s?s}", "format", &format);
	else if (saved_is_image(disk, origin))
		json_unpack(origin, "{s?s}", "image_format", &format);
	else
		format = "qcow2";
	return format;
}

static int make_copy(json_t *disk, struct error *err)
{
	const struct image_create how = {
		.path = json_string_value(json_object_get(disk, "copy")),
		.format = json_string_value(json_object_get(disk, "stored")),
		.size = (u64)json_integer_value(json_object_get(disk, "bytes")),
	};
	int fd, rc = image_create(&how, err);

	if (rc < 0)
		return error_prefix(err, "cannot make the copy of a disk");
	fd = open(how.path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? error_set(err, -errno, "cannot open %s: %s", how.path,
	                          strerror(errno))
	              : fd;
}

/* Whether the machine can have the copy share what the disk holds within its
 * standstill: tried out, for it takes as long as the file has pieces. The disk
 * is written out meanwhile, so that the machine need not wait for that. */
static bool can_share(json_t *disk, int copy)
{
	const char *path = saved_text(disk, "path");
	bool raw = strcmp(saved_text(disk, "stored"), "raw") == 0;
	int fd = -1;
	struct stat st;
	u64 began;
	bool can;

	if (raw && !json_is_true(json_object_get(disk, "private")) && path[0])
		fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	can = fstat(copy, &st) == 0 && copy_can_share(fd, copy) &&
	      fdatasync(fd) == 0;
	began = loop_now_ns();
	can = can && copy_share(fd, copy) == 0 &&
	      loop_now_ns() - began <= SHARE_MS * NSEC_PER_MSEC;
	close(fd);
	/* Empty again. */
	if (ftruncate(copy, 0) < 0 || ftruncate(copy, st.st_size) < 0)
		return false;
	return can;
}

/* An image for the disk's contents, and room for what is overwritten while
 * they are read. */
static int add_disk(struct moment *m, json_t *disk, const char *path,
                    struct error *err)
{
	json_t *entry =
	    json_pack("{s:O,s:O}", "disk", json_object_get(disk, "disk"),
	              "format", json_object_get(disk, "stored"));
	int scratch, fd;

	json_array_append_new(json_object_get(m->message, "disks"), entry);
	if (m->count + 2 > CONTROL_FDS_MAX)
		return error_set(err, -E2BIG, "too many disks");
	fd = make_copy(disk, err);
	if (fd < 0)
		return fd;
	if (can_share(disk, fd)) {
		json_object_set_new(entry, "share", add_file(m, fd));
		return 0;
	}
	json_object_set_new(entry, "target", add_file(m, fd));
	scratch = unnamed_beside(path);
	if (scratch < 0)
		return error_set(err, -errno, "cannot make a file: %s",
		                 strerror(errno));
	json_object_set_new(entry, "scratch", add_file(m, scratch));
	return 0;
}

/* All of it is on the disk before it has a name. */
static int sync_all(const struct moment *m, struct error *err)
{
	for (size_t i = 0; i < m->count; i++)
		if (fsync(m->fds[i]) < 0)
			return error_set(err, -errno,
			                 "cannot write the saved machine: %s",
			                 strerror(errno));
	return 0;
}

int saved_moment(int sock, const char *path, const struct saved_how *how,
                 json_t *disks, json_t **figures, struct error *err)
{
	struct moment m = { 0 };
	struct watch watch = watch_for(how);
	int got[CONTROL_FDS_MAX], fd, rc = 0;
	size_t count = 0, i;
	json_t *disk;
	char *temp;

	fd = saved_open_unnamed(path, &temp);
	if (fd < 0)
		return cannot_write(path, temp, err);
	m.message = json_pack("{s:s,s:o,s:s,s:b,s:[]}", "op", "snapshot",
	                      "file", add_file(&m, fd), "memory",
	                      how->plain ? "plain" : "packed", "stay",
	                      how->stay, "disks");
	json_array_foreach(disks, i, disk)
	{
		if (rc == 0)
			rc = add_disk(&m, disk, path, err);
	}
	if (rc == 0) {
		rc = request(sock, json_incref(m.message), m.fds, m.count,
		             &watch, figures, got, &count, err);
		while (count)
			close(got[--count]);
	}
	if (rc == 0) {
		rc = sync_all(&m, err);
		if (rc == 0)
			rc = saved_give_name(fd, temp, path, err);
		if (rc == 0)
			tell_end(&watch, *figures);
		else
			json_decref(*figures);
	}
	if (rc < 0)
		unlink(temp);
	free(temp);
	json_decref(m.message);
	while (m.count)
		close(m.fds[--m.count]);
	return rc;
}
