/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/stack_disks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "cli/disk.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "storage/image.h"

/* ---- the file ---- */

static json_t *find(json_t *list, const char *path)
{
	json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		if (path[0] && strcmp(remote_text(one, "path"), path) == 0)
			return one;
	}
	return NULL;
}

static int read_disk(json_t *disk, struct error *err)
{
	static const char *const keys[] = { "path", "size", "format" };
	const char *path = remote_text(disk, "path"), *key, *format;
	json_t *value;
	u64 bytes;
	size_t i;

	json_object_foreach(disk, key, value)
	{
		for (i = 0; i < ARRAY_SIZE(keys); i++)
			if (strcmp(keys[i], key) == 0)
				break;
		if (i == ARRAY_SIZE(keys) || !json_is_string(value))
			return error_set(err, -EINVAL,
			                 "%s is not known, or no "
			                 "text",
			                 key);
	}
	if (!path[0] || !remote_text(disk, "size")[0])
		return error_set(err, -EINVAL, "a path and a size are needed");
	if (parse_size(remote_text(disk, "size"), 1, &bytes, err) < 0)
		return err->code;
	format = remote_text(disk, "format");
	format = disk_format(path, format[0] ? format : NULL, err);
	if (!format)
		return err->code;
	if (disk_format_foreign(format))
		return error_set(err, -EINVAL, "%s is neither raw nor qcow2",
		                 format);
	json_object_set_new(disk, "format", json_string(format));
	json_object_set_new(disk, "bytes",
	                    json_integer((json_int_t)ALIGN_UP(bytes, 512)));
	return 0;
}

/* Machines open it as what it is. */
static bool tell_machines(json_t *file, json_t *disk)
{
	json_t *machine, *one;
	bool found = false;
	size_t i;

	json_array_foreach(json_object_get(file, "machines"), i, machine)
	{
		one = find(json_object_get(machine, "disks"),
		           remote_text(disk, "path"));
		found = found || one;
		if (one && !json_object_get(one, "format"))
			json_object_set(one, "format",
			                json_object_get(disk, "format"));
	}
	return found;
}

int stack_disks_read(json_t *file, const struct remote *r, struct error *err)
{
	json_t *list = json_object_get(file, "disks"), *disk;
	size_t i;

	if (list && !json_is_array(list))
		return error_set(err, -EINVAL, "disks is not a list");
	json_array_foreach(list, i, disk)
	{
		if (!json_is_object(disk))
			return error_set(err, -EINVAL, "disks: %zu is no disk",
			                 i + 1);
		if (read_disk(disk, err) < 0)
			return error_prefix(err, "disks: %s",
			                    remote_text(disk, "path"));
		if (find(list, remote_text(disk, "path")) != disk)
			return error_set(err, -EINVAL,
			                 "disks: %s is there twice",
			                 remote_text(disk, "path"));
		if (!tell_machines(file, disk))
			return error_set(err, -EINVAL,
			                 "disks: no machine has %s",
			                 remote_text(disk, "path"));
	}
	if (json_array_size(list) && r->where &&
	    strncmp(r->where, "https:", 6) == 0) {
		error_set(err, -EINVAL,
		          "disks are made on the daemon's host alone");
		return error_hint(err, "apply it there, or make them there and "
		                       "take them out of disks");
	}
	return 0;
}

/* ---- making ---- */

static bool used_by(json_t *owned, const char *path)
{
	const char *name;
	json_t *vm;

	json_object_foreach(owned, name, vm)
	{
		if (find(remote_at(vm, "spec.disks"), path))
			return true;
	}
	return false;
}

/* Another machine of the file, that comes before it, had it made. */
static bool made_before(json_t *file, json_t *machine, const char *path)
{
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(file, "machines"), i, one)
	{
		if (one == machine)
			return false;
		if (find(json_object_get(one, "disks"), path))
			return true;
	}
	return false;
}

static int make(json_t *disk, const struct remote *r)
{
	struct image_create how = {
		.path = remote_text(disk, "path"),
		.format = remote_text(disk, "format"),
		.size = (u64)remote_number(disk, "bytes"),
	};
	struct error err = { 0 };

	if (r->dry_run) {
		printf("make the disk %s of %s\n", how.path,
		       remote_text(disk, "size"));
		return CODE_OK;
	}
	if (image_create(&how, &err) < 0)
		return say_error(&err);
	if (!r->quiet)
		printf("created disk %s\n", how.path);
	return CODE_OK;
}

int stack_disks_make(json_t *file, json_t *machine, json_t *owned, json_t *made,
                     const struct remote *r)
{
	json_t *list = json_object_get(file, "disks"), *one, *disk;
	struct error err = { 0 };
	int code = CODE_OK;
	size_t i;

	json_array_foreach(json_object_get(machine, "disks"), i, one)
	{
		const char *path = remote_text(one, "path");

		disk = find(list, path);
		if (!disk || made_before(file, machine, path) ||
		    used_by(owned, path))
			continue;
		if (access(path, F_OK) == 0) {
			error_set(&err, -EEXIST,
			          "%s is there already, and no "
			          "machine of the stack has it",
			          path);
			error_hint(&err, "take it out of disks to use it as it "
			                 "is, or move it away");
			return say_error(&err);
		}
		code = make(disk, r);
		if (code != CODE_OK)
			break;
		json_array_append(made, json_object_get(disk, "path"));
	}
	return code;
}

/* What is not there needs no words. */
static bool removed(const char *path)
{
	if (unlink(path) == 0)
		return true;
	if (errno != ENOENT)
		fprintf(stderr, "error: cannot delete %s: %s\n", path,
		        strerror(errno));
	return false;
}

void stack_disks_unmake(json_t *made)
{
	json_t *path;
	size_t i;

	json_array_foreach(made, i, path)
	{
		removed(json_string_value(path));
	}
}

/* ---- deleting ---- */

size_t stack_disks_delete(json_t *file, json_t *disks, const struct remote *r)
{
	json_t *list = json_object_get(file, "disks"), *one;
	size_t count = 0, i;

	json_array_foreach(disks, i, one)
	{
		const char *path = remote_text(one, "path");

		if (!find(list, path))
			continue;
		if (r->dry_run) {
			printf("delete the disk %s\n", path);
		} else if (removed(path)) {
			count++;
			if (!r->quiet)
				printf("deleted disk %s\n", path);
		}
	}
	return count;
}

size_t stack_disks_count(json_t *file)
{
	return json_array_size(json_object_get(file, "disks"));
}

const char *stack_disks_missing(json_t *file, size_t n)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(file, "disks"), i, disk)
	{
		const char *path = remote_text(disk, "path");

		if (access(path, F_OK) < 0 && n-- == 0)
			return path;
	}
	return NULL;
}
