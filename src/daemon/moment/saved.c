/* SPDX-License-Identifier: Apache-2.0 */
/*
 * saved - what a machine goes on from when it is started next.
 *
 * It goes on as what it was: a definition that was changed since is what it is
 * to be from its next start on, as of one that runs. But what may be taken
 * from a machine meanwhile does not come back with it: files and interfaces of
 * the host, networks, and what its project's quota counts.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/units.h"
#include "daemon/moment/moment.h"

static char *path_of(const struct vm *vm, const char *file)
{
	char *own = vm_folder_path(vm), *path = xasprintf("%s/%s", own, file);

	free(own);
	return path;
}

void saved_look(struct vm *vm)
{
	char *path = path_of(vm, "suspended.state");

	vm->saved = access(path, F_OK) == 0;
	free(path);
}

json_t *saved_read(const struct vm *vm, struct error *err)
{
	char *path = path_of(vm, "suspended.json");
	json_t *json = json_load_file(path, 0, NULL);

	free(path);
	if (json_is_object(json_object_get(json, "spec")))
		return json;
	json_decref(json);
	error_set(err, -EBADMSG,
	          "what the machine was saved by is damaged: suspended.json");
	error_hint(err, "start it anew: atoll vm start --discard");
	return NULL;
}

void saved_discard(struct vm *vm)
{
	static const char *const files[] = { "suspended.state",
		                             "suspended.json" };

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char *path = path_of(vm, files[i]);

		unlink(path);
		free(path);
	}
	vm->saved = false;
}

static json_int_t number(json_t *spec, const char *key)
{
	return json_integer_value(json_object_get(spec, key));
}

static int no_more_than(const struct vm *vm, json_t *spec, const char *key,
                        const char *words, struct error *err)
{
	json_int_t then = number(spec, key), now = number(vm->spec, key);

	if (then <= now)
		return 0;
	error_set(err, -EBUSY,
	          "%s was saved with %s of %" JSON_INTEGER_FORMAT
	          ", and is to have %" JSON_INTEGER_FORMAT " now",
	          vm->name, words, then, now);
	return error_hint(err, "give it as much again (atoll vm set), or start "
	                       "it anew (atoll vm start --discard)");
}

int saved_fits(const struct vm *vm, json_t *then, struct error *err)
{
	static const char *const parts[] = { "image", "boot", "disks", "nics" };
	json_t *spec = json_object_get(then, "spec");
	int rc;

	if (!json_is_object(spec))
		return error_set(err, -EBADMSG,
		                 "what %s was saved by is damaged", vm->name);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		json_t *a = json_object_get(spec, parts[i]);
		json_t *b = json_object_get(vm->spec, parts[i]);

		if ((!a && !b) || json_equal(a, b) ||
		    (strcmp(parts[i], "disks") == 0 &&
		     disk_limits_same_disks(spec, vm->spec)))
			continue;
		error_set(err, -EBUSY,
		          "%s has other %s now than when it was saved",
		          vm->name, parts[i]);
		return error_hint(err, "make them what they were (atoll vm "
		                       "set), or start it anew (atoll vm "
		                       "start --discard)");
	}
	rc = no_more_than(vm, spec, "cpus", "a number of vCPUs", err);
	if (rc == 0)
		rc = no_more_than(vm, spec, "memory_bytes", "memory", err);
	if (rc == 0 && number(spec, "memory_max_bytes") >
	                   MAX(number(vm->spec, "memory_max_bytes"),
	                       number(vm->spec, "memory_bytes")))
		rc = no_more_than(vm, spec, "memory_max_bytes", "most memory",
		                  err);
	return rc;
}

json_t *saved_spec(const struct vm *vm, json_t *then)
{
	/* What is not the machine's own make, but how it is dealt with. Of
	 * disks, which are the same (saved_fits), that is their limits. */
	static const char *const kept[] = {
		"name",      "description",    "tags",    "autostart",
		"restart",   "stop_timeout_s", "project", "owner",
		"resources", "expires",        "disks",   "image_disk"
	};
	json_t *spec = json_deep_copy(json_object_get(then, "spec"));

	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		json_t *now = json_object_get(vm->spec, kept[i]);

		if (now)
			json_object_set(spec, kept[i], now);
		else
			json_object_del(spec, kept[i]);
	}
	return spec;
}
