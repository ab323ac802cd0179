/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"

#define PARTIAL ".partial"

char *backup_path(const struct daemon *d, const char *id, bool partial)
{
	return xasprintf("%s/backups/%s%s", d->place.state, id,
	                 partial ? PARTIAL : "");
}

char *backup_file(const struct daemon *d, const char *id, bool partial,
                  int disk)
{
	char *folder = backup_path(d, id, partial);
	char *path = xasprintf("%s/%d.qcow2", folder, disk);

	free(folder);
	return path;
}

json_t *backup_head(const struct daemon *d, const char *id, bool partial)
{
	char *folder = backup_path(d, id, partial);
	char *path = xasprintf("%s/backup.json", folder);
	json_t *head = id_looks_like(id) ? json_load_file(path, 0, NULL) : NULL;

	free(folder);
	free(path);
	return head;
}

json_t *backup_find(const struct daemon *d, const char *id)
{
	return backup_head(d, id, false);
}

static const char *at_of(json_t *head)
{
	const char *at = json_string_value(json_object_get(head, "at"));

	return at ? at : "";
}

json_t *backup_list(const struct daemon *d)
{
	char *path = xasprintf("%s/backups", d->place.state);
	json_t *list = json_array(), *head;
	DIR *dir = opendir(path);
	struct dirent *entry;
	size_t i;

	free(path);
	while (dir && (entry = readdir(dir))) {
		head = backup_find(d, entry->d_name);
		for (i = 0; head && i < json_array_size(list); i++)
			if (strcmp(at_of(head),
			           at_of(json_array_get(list, i))) > 0)
				break;
		if (head)
			json_array_insert_new(list, i, head);
	}
	if (dir)
		closedir(dir);
	return list;
}

u64 backups_bytes(const struct daemon *d, const char *project)
{
	json_t *list = backup_list(d), *head;
	u64 bytes = 0;
	size_t i;

	json_array_foreach(list, i, head)
	{
		const char *of =
		    json_string_value(json_object_get(head, "project"));

		if (of && strcmp(of, project) == 0)
			bytes += (u64)MAX(
			    json_integer_value(json_object_get(head, "bytes")),
			    (json_int_t)0);
	}
	json_decref(list);
	return bytes;
}

static bool names(json_t *head, const char *key, const char *id)
{
	const char *value = json_string_value(json_object_get(head, key));

	return value && strcmp(value, id) == 0;
}

bool backup_is_base(const struct daemon *d, const char *id)
{
	json_t *list = backup_list(d), *head;
	bool found = false;
	size_t i;

	json_array_foreach(list, i, head)
	{
		found |= names(head, "parent", id);
	}
	json_decref(list);
	return found;
}

int backup_discard(const struct daemon *d, const char *id, bool partial,
                   struct error *err)
{
	char *from = backup_path(d, id, partial);
	char *trash = xasprintf("%s/trash", d->place.state);
	char *to = xasprintf("%s/%s", trash, id);
	int rc = place_make(trash, err);

	if (rc == 0 && rename(from, to) < 0 && errno != ENOENT)
		rc = error_set(err, -errno, "%s: %s", from, strerror(errno));
	if (rc == 0)
		job_remove_folder(to);
	free(from);
	free(trash);
	free(to);
	return rc;
}

void backups_tidy(struct daemon *d)
{
	char *path = xasprintf("%s/backups", d->place.state), *end;
	DIR *dir = opendir(path);
	struct dirent *entry;
	struct error err;

	free(path);
	while (dir && (entry = readdir(dir))) {
		end = strstr(entry->d_name, PARTIAL);
		if (!end)
			continue;
		*end = '\0';
		if (id_looks_like(entry->d_name) &&
		    backup_discard(d, entry->d_name, true, &err) < 0)
			log_warn("daemon", "%s", err.text);
	}
	if (dir)
		closedir(dir);
}

/* ---- written whole, or not at all ---- */

static int sync_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

	if (fd < 0 || fsync(fd) < 0)
		rc = -errno;
	if (fd >= 0)
		close(fd);
	return rc;
}

static int write_json(const char *path, json_t *value, struct error *err)
{
	char *next = xasprintf("%s.next", path);
	int rc = json_dump_file(value, next, JSON_INDENT(2)) < 0 ? -EIO : 0;

	if (rc == 0)
		rc = sync_path(next);
	if (rc == 0 && rename(next, path) < 0)
		rc = -errno;
	if (rc < 0)
		error_set(err, rc, "%s: %s", path, strerror(-rc));
	free(next);
	return rc;
}

static int write_head(const char *folder, json_t *head, struct error *err)
{
	char *path = xasprintf("%s/backup.json", folder);
	int rc = write_json(path, head, err);

	free(path);
	return rc;
}

static const char *id_of(json_t *head)
{
	return json_string_value(json_object_get(head, "id"));
}

int backup_begin(const struct daemon *d, json_t *head, struct error *err)
{
	char *folder = backup_path(d, id_of(head), true);
	int rc = place_make(folder, err);

	if (rc == 0)
		rc = write_head(folder, head, err);
	free(folder);
	return rc;
}

int backup_finish(const struct daemon *d, json_t *head, struct error *err)
{
	char *partial = backup_path(d, id_of(head), true);
	char *whole = backup_path(d, id_of(head), false);
	char *above = xasprintf("%s/backups", d->place.state);
	int rc = write_head(partial, head, err);

	if (rc == 0)
		rc = sync_path(partial);
	if (rc == 0 && rename(partial, whole) < 0)
		rc = error_set(err, -errno, "%s: %s", whole, strerror(errno));
	if (rc == 0)
		rc = sync_path(above);
	free(partial);
	free(whole);
	free(above);
	return rc;
}

static char *last_path(const struct daemon *d, const char *vm)
{
	return xasprintf("%s/backups/last/%s", d->place.state, vm);
}

json_t *backup_last(const struct daemon *d, const char *vm)
{
	char *path = last_path(d, vm);
	json_t *last = json_load_file(path, 0, NULL), *head;
	const char *id = json_string_value(json_object_get(last, "backup"));

	free(path);
	head = id ? backup_find(d, id) : NULL;
	if (!head) {
		json_decref(last);
		return NULL;
	}
	json_decref(head);
	return last;
}

int backup_set_last(const struct daemon *d, const char *vm, json_t *last,
                    struct error *err)
{
	char *folder = xasprintf("%s/backups/last", d->place.state);
	char *path = last_path(d, vm);
	int rc = last ? place_make(folder, err) : 0;

	if (rc == 0 && last)
		rc = write_json(path, last, err);
	else if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
		rc = error_set(err, -errno, "%s: %s", path, strerror(errno));
	if (rc == 0 && access(folder, F_OK) == 0)
		rc = sync_path(folder);
	free(folder);
	free(path);
	return rc;
}

enum belonging backup_belongs(struct daemon *d, const char *id,
                              char project[PROJECT_SIZE])
{
	json_t *head = backup_find(d, id);
	const char *of = json_string_value(json_object_get(head, "project"));

	if (of)
		snprintf(project, PROJECT_SIZE, "%s", of);
	json_decref(head);
	return of ? BELONGS_PROJECT : BELONGS_NOWHERE;
}
