/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk_limits - how fast a machine's disks may be: said in its definition,
 * given to it at each start, and told to one that runs when they change.
 *
 * They are no part of what a machine is made of: like its share of the host
 * they hold for whatever it goes on from.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "daemon/daemon.h"

const char *const disk_limit_keys[] = { "iops", "iops_burst", "bytes_per_s",
	                                "bytes_burst", NULL };

void disk_limits_copy(json_t *to, json_t *from)
{
	for (size_t i = 0; disk_limit_keys[i]; i++) {
		json_t *value = json_object_get(from, disk_limit_keys[i]);

		if (value)
			json_object_set(to, disk_limit_keys[i], value);
	}
}

/* The disk that its image gave is none of the list, and comes first. */
static size_t own_disks(json_t *spec)
{
	return json_object_get(spec, "image") ? 1 : 0;
}

static size_t disk_count(json_t *spec)
{
	return own_disks(spec) +
	       json_array_size(json_object_get(spec, "disks"));
}

/* Where a definition has them; NULL: nowhere. */
static json_t *limits_of(json_t *spec, size_t disk)
{
	size_t own = own_disks(spec);

	return disk < own
	           ? json_object_get(spec, "image_disk")
	           : json_array_get(json_object_get(spec, "disks"), disk - own);
}

json_t *disk_limits_patch(json_t *spec, size_t disk, json_t *limits)
{
	json_t *list;

	if (disk >= disk_count(spec))
		return NULL;
	if (disk < own_disks(spec))
		return json_pack("{s:O}", "image_disk", limits);
	list = json_deep_copy(json_object_get(spec, "disks"));
	disk_limits_copy(json_array_get(list, disk - own_disks(spec)), limits);
	return json_pack("{s:o}", "disks", list);
}

static bool same_limits(json_t *a, json_t *b)
{
	for (size_t i = 0; disk_limit_keys[i]; i++)
		if (json_integer_value(
			json_object_get(a, disk_limit_keys[i])) !=
		    json_integer_value(json_object_get(b, disk_limit_keys[i])))
			return false;
	return true;
}

static json_t *without_limits(json_t *spec)
{
	json_t *list = json_deep_copy(json_object_get(spec, "disks")), *disk;
	size_t i;

	json_array_foreach(list, i, disk)
	{
		for (size_t k = 0; disk_limit_keys[k]; k++)
			json_object_del(disk, disk_limit_keys[k]);
	}
	return list ? list : json_array();
}

bool disk_limits_same_disks(json_t *a, json_t *b)
{
	json_t *x = without_limits(a), *y = without_limits(b);
	bool same = json_equal(x, y);

	json_decref(x);
	json_decref(y);
	return same;
}

bool disk_limits_same(json_t *a, json_t *b)
{
	size_t count = disk_count(a);

	if (disk_count(b) != count)
		return false;
	for (size_t i = 0; i < count; i++)
		if (!same_limits(limits_of(a, i), limits_of(b, i)))
			return false;
	return true;
}

void disk_limits_tell(struct vm *vm, size_t disk, holder_answer_fn *fn,
                      void *ctx)
{
	json_t *limits = limits_of(vm->spec, disk), *message;

	/* The image's has a path that the definition does not say. */
	message = json_pack("{s:s, s:I, s:O*}", "op", "disk-throttle", "disk",
	                    (json_int_t)disk, "path",
	                    disk < own_disks(vm->spec)
	                        ? NULL
	                        : json_object_get(limits, "path"));
	for (size_t i = 0; disk_limit_keys[i]; i++)
		json_object_set_new(
		    message, disk_limit_keys[i],
		    json_integer(json_integer_value(
			json_object_get(limits, disk_limit_keys[i]))));
	holder_request(vm, message, fn, ctx);
}

static void told(void *ctx, bool ok, const char *words, json_t *answer)
{
	(void)ctx;
	(void)answer;
	if (!ok)
		log_warn("daemon", "limits of a disk: %s", words);
}

void disk_limits_tell_changed(struct vm *vm, json_t *before)
{
	size_t count = vm_is_up(vm) ? disk_count(vm->spec) : 0;

	for (size_t i = 0; i < count; i++)
		if (!same_limits(limits_of(vm->spec, i), limits_of(before, i)))
			disk_limits_tell(vm, i, told, NULL);
}
