/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store - the snapshots there are, as their folders say.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/moment/moment.h"

enum { NAME_BYTES = 63 };

bool moment_name_valid(const char *name)
{
	size_t size = strlen(name);

	return size && size <= NAME_BYTES && name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz"
	                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == size;
}

static char *folder_of(const struct vm *vm, const char *name)
{
	char *own = vm_folder_path(vm);
	char *path = xasprintf("%s/snapshots%s%s", own, name ? "/" : "",
	                       name ? name : "");

	free(own);
	return path;
}

json_t *moment_find(const struct vm *vm, const char *name)
{
	char *folder, *path;
	json_t *found;

	if (!moment_name_valid(name))
		return NULL;
	folder = folder_of(vm, name);
	path = xasprintf("%s/snapshot.json", folder);
	found = json_load_file(path, 0, NULL);
	if (found && !json_is_object(found)) {
		json_decref(found);
		found = NULL;
	}
	if (found)
		json_object_set_new(found, "name", json_string(name));
	free(path);
	free(folder);
	return found;
}

/* What its files take. */
static u64 bytes_of(const struct vm *vm, const char *name)
{
	char *folder = folder_of(vm, name);
	DIR *dir = opendir(folder);
	struct dirent *entry;
	struct stat st;
	u64 bytes = 0;

	while (dir && (entry = readdir(dir)))
		if (fstatat(dirfd(dir), entry->d_name, &st,
		            AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(st.st_mode))
			bytes += (u64)st.st_blocks * 512;
	if (dir)
		closedir(dir);
	free(folder);
	return bytes;
}

u64 moment_count(const struct vm *vm, u64 *bytes)
{
	char *folder = folder_of(vm, NULL);
	DIR *dir = opendir(folder);
	struct dirent *entry;
	u64 count = 0;

	*bytes = 0;
	while (dir && (entry = readdir(dir))) {
		json_t *one = moment_find(vm, entry->d_name);

		if (!one)
			continue;
		count++;
		*bytes += bytes_of(vm, entry->d_name);
		json_decref(one);
	}
	if (dir)
		closedir(dir);
	free(folder);
	return count;
}

void moment_tidy(const struct vm *vm, const char *name)
{
	json_t *found = moment_find(vm, name);
	char *folder;

	if (!found && moment_name_valid(name)) {
		folder = folder_of(vm, name);
		job_remove_folder(folder);
		free(folder);
	}
	json_decref(found);
}

/* ---- as the API shows them ---- */

static json_t *time_json(json_int_t ms)
{
	time_t s = (time_t)(ms / 1000);
	char text[TIME_SIZE];
	struct tm tm = { 0 };

	gmtime_r(&s, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	return json_sprintf("%s.%03dZ", text, (int)(ms % 1000));
}

static json_t *or_null(json_t *value)
{
	return value ? json_incref(value) : json_null();
}

/* Without what is the folder's own: where its disks lay. */
static json_t *shown(const struct vm *vm, json_t *found)
{
	const char *name = json_string_value(json_object_get(found, "name"));
	json_t *description = json_object_get(found, "description");
	json_t *pause = json_object_get(found, "pause_us");
	json_int_t ms = json_integer_value(json_object_get(found, "time"));

	return json_pack("{s:s, s:o, s:o, s:o, s:I, s:O?, s:o, s:o, s:i}",
	                 "name", name, "description",
	                 json_is_string(description) ? json_incref(description)
	                                             : json_string(""),
	                 "at", time_json(MAX(ms, (json_int_t)0)), "parent",
	                 or_null(json_object_get(found, "parent")), "bytes",
	                 (json_int_t)bytes_of(vm, name), "memory_bytes",
	                 json_object_get(found, "memory_bytes"), "pause_us",
	                 pause ? json_incref(pause) : json_integer(0),
	                 "revision",
	                 or_null(json_object_get(found, "revision")), "disks",
	                 (int)json_array_size(json_object_get(found, "disks")));
}

json_t *moment_json(const struct vm *vm, json_t *found)
{
	json_t *one = shown(vm, found);

	json_object_set_new(one, "spec",
	                    or_null(json_object_get(found, "spec")));
	json_decref(found);
	return one;
}

static int by_time(const void *a, const void *b)
{
	json_t *const *x = a, *const *y = b;

	return strcmp(json_string_value(json_object_get(*x, "at")),
	              json_string_value(json_object_get(*y, "at")));
}

static json_t *sorted(json_t *list)
{
	size_t count = json_array_size(list);
	json_t **all = xalloc((count + 1) * sizeof(*all)), *out = json_array();

	for (size_t i = 0; i < count; i++)
		all[i] = json_array_get(list, i);
	qsort(all, count, sizeof(*all), by_time);
	for (size_t i = 0; i < count; i++)
		json_array_append(out, all[i]);
	free(all);
	json_decref(list);
	return out;
}

/* From which it goes on, if that is still there. */
static json_t *current_of(const struct vm *vm)
{
	char *folder = folder_of(vm, NULL);
	char *path = xasprintf("%s/current.json", folder);
	json_t *json = json_load_file(path, 0, NULL), *name, *found;

	name = json_object_get(json, "name");
	found = json_is_string(name) ? moment_find(vm, json_string_value(name))
	                             : NULL;
	name = found ? json_incref(name) : json_null();
	json_decref(found);
	json_decref(json);
	free(path);
	free(folder);
	return name;
}

json_t *moment_list_json(const struct vm *vm)
{
	char *folder = folder_of(vm, NULL);
	DIR *dir = opendir(folder);
	json_t *list = json_array(), *one;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		one = moment_find(vm, entry->d_name);
		if (one)
			json_array_append_new(list, shown(vm, one));
		json_decref(one);
	}
	if (dir)
		closedir(dir);
	free(folder);
	return json_pack("{s:o, s:o}", "current", current_of(vm), "snapshots",
	                 sorted(list));
}
