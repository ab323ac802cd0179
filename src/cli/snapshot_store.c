/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/named.h"
#include "cli/snapshot.h"

int snapshots_sync(const char *folder, struct error *err)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0 || fsync(fd) < 0)
		rc = error_set(err, -errno, "cannot write %s: %s", folder,
		               strerror(errno));
	if (fd >= 0)
		close(fd);
	return rc;
}

int snapshots_write(const char *folder, const char *file, json_t *json,
                    struct error *err)
{
	char *path = xasprintf("%s/%s", folder, file);
	char *temp = xasprintf("%s.new", path);
	FILE *f = fopen(temp, "we");
	int rc = 0;

	if (!f || json_dumpf(json, f, JSON_INDENT(2)) < 0 || fflush(f) ||
	    fsync(fileno(f)) < 0 || rename(temp, path) < 0)
		rc = error_set(err, -errno, "cannot write %s: %s", path,
		               strerror(errno));
	if (f)
		fclose(f);
	free(temp);
	free(path);
	return rc < 0 ? rc : snapshots_sync(folder, err);
}

int snapshots_erase(const char *folder, struct error *err)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	if (!dir)
		return errno == ENOENT
		           ? 0
		           : error_set(err, -errno, "cannot delete %s: %s",
		                       folder, strerror(errno));
	/* Its word goes first: what is left is then no snapshot. */
	unlinkat(dirfd(dir), "snapshot.json", 0);
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	if (rmdir(folder) < 0)
		return error_set(err, -errno, "cannot delete %s: %s", folder,
		                 strerror(errno));
	return 0;
}

char *snapshots_path(const struct snapshots *s, const char *name,
                     const char *file)
{
	return xasprintf("%s/%s%s%s", s->folder, name, file ? "/" : "",
	                 file ? file : "");
}

static int by_time(const void *a, const void *b)
{
	json_t *const *x = a, *const *y = b;
	json_int_t tx = json_integer_value(json_object_get(*x, "time"));
	json_int_t ty = json_integer_value(json_object_get(*y, "time"));

	return (tx > ty) - (tx < ty);
}

static void sort(struct snapshots *s)
{
	size_t count = json_object_size(s->all), n = 0;
	json_t **list = xalloc((count + 1) * sizeof(*list)), *one;
	json_t *sorted = json_object();
	const char *name;

	json_object_foreach(s->all, name, one) list[n++] = one;
	qsort(list, n, sizeof(*list), by_time);
	for (size_t i = 0; i < n; i++)
		json_object_set(
		    sorted, json_string_value(json_object_get(list[i], "name")),
		    list[i]);
	free(list);
	json_decref(s->all);
	s->all = sorted;
}

static void read_one(struct snapshots *s, const char *name)
{
	char *path = snapshots_path(s, name, "snapshot.json");
	json_t *json = json_load_file(path, 0, NULL);
	struct error ignored;

	free(path);
	if (json_is_object(json)) {
		json_object_set_new(json, "name", json_string(name));
		json_object_set_new(s->all, name, json);
		return;
	}
	json_decref(json);
	if (s->lock_fd < 0)
		return;
	path = snapshots_path(s, name, NULL);
	/* Begun, or half deleted, when the host went down. */
	if (snapshots_erase(path, &ignored) < 0)
		fprintf(stderr, "%s is no snapshot\n", path);
	free(path);
}

static int read_all(struct snapshots *s, struct error *err)
{
	DIR *dir = opendir(s->folder);
	struct dirent *entry;
	json_t *current;
	char *path;

	if (!dir && errno == ENOENT)
		return 0;
	if (!dir)
		return error_set(err, -errno, "cannot read %s: %s", s->folder,
		                 strerror(errno));
	while ((entry = readdir(dir)))
		if (entry->d_type == DT_DIR && named_valid(entry->d_name))
			read_one(s, entry->d_name);
	closedir(dir);
	sort(s);
	path = xasprintf("%s/current.json", s->folder);
	current = json_load_file(path, 0, NULL);
	free(path);
	if (json_string_value(json_object_get(current, "name")))
		s->current = xstrdup(
		    json_string_value(json_object_get(current, "name")));
	json_decref(current);
	return 0;
}

/* The daemon lets one at a time work here; one that it does not remember is
 * waited for. */
static int lock(struct snapshots *s, bool wait, struct error *err)
{
	s->lock_fd = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->lock_fd >= 0 &&
	    flock(s->lock_fd, LOCK_EX | (wait ? 0 : LOCK_NB)) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return error_set(err, -EBUSY,
		                 "the machine's snapshots are being changed "
		                 "already");
	return error_set(err, -errno, "cannot lock %s: %s", s->folder,
	                 strerror(errno));
}

int snapshots_open(struct snapshots *s, const struct snapshot_of *of,
                   bool change, struct error *err)
{
	char *folder = of->folder ? xstrdup(of->folder)
	                          : named_folder(of->machine, false, err);
	int rc;

	*s = (struct snapshots){ .all = json_object(), .lock_fd = -1 };
	if (!folder)
		return err->code;
	s->folder = xasprintf("%s/snapshots", folder);
	free(folder);
	rc = change ? place_make(s->folder, err) : 0;
	if (rc == 0 && change)
		rc = lock(s, of->folder != NULL, err);
	if (rc == 0)
		rc = read_all(s, err);
	if (rc < 0)
		snapshots_fini(s);
	return rc;
}

void snapshots_fini(struct snapshots *s)
{
	free(s->folder);
	free(s->current);
	json_decref(s->all);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	*s = (struct snapshots){ .lock_fd = -1 };
}

json_t *snapshots_find(const struct snapshots *s, const char *name,
                       struct error *err)
{
	json_t *one = json_object_get(s->all, name);

	if (!one)
		error_set(err, -ENOENT, "there is no snapshot %s", name);
	return one;
}

int snapshots_set_current(const struct snapshots *s, const char *name,
                          struct error *err)
{
	json_t *json = json_pack("{s:s?}", "name", name);
	int rc = snapshots_write(s->folder, "current.json", json, err);

	json_decref(json);
	return rc;
}
