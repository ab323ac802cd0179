/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_disk - a disk in a definition: what is said of it on a command line, and
 * its limits for people.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/vm.h"
#include "storage/image.h"

/* Words as atoll run has them, keys as the API. */
static const struct limit {
	const char *word, *key;
} limits[] = {
	{ "iops", "iops" },
	{ "iops-burst", "iops_burst" },
	{ "rate", "bytes_per_s" },
	{ "rate-burst", "bytes_burst" },
};

static bool is_key(const char *part, const char *key)
{
	size_t n = strcspn(part, "=");

	return part[n] && strlen(key) == n && strncmp(key, part, n) == 0;
}

/* KEY=TEXT, if the key is one of these. */
static bool disk_text(json_t *disk, const char *part)
{
	static const char *const keys[] = { "format", "cache", "serial" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (is_key(part, keys[i])) {
			json_object_set_new(disk, keys[i],
			                    json_string(strchr(part, '=') + 1));
			return true;
		}
	return false;
}

/* KEY=NUMBER, if the key is a limit's: 1. */
static int disk_limit(json_t *disk, const char *part, struct error *err)
{
	u64 n = 0;
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		if (!is_key(part, limits[i].word))
			continue;
		rc = parse_size(strchr(part, '=') + 1, 1, &n, err);
		if (rc == 0 && n > BIT(53))
			rc = error_set(err, -EINVAL, "no rate is that");
		if (rc < 0)
			return rc;
		json_object_set_new(disk, limits[i].key,
		                    json_integer((json_int_t)n));
		return 1;
	}
	return 0;
}

int definition_image_disk(json_t *spec, const char *value, struct error *err)
{
	char *copy = xstrdup(value), *rest = copy, *part;
	json_t *disk = json_object();
	int rc = 1;

	json_object_set_new(spec, "image_disk", disk);
	while (rc > 0 && (part = strsep(&rest, ","))) {
		rc = disk_limit(disk, part, err);
		if (rc == 0)
			rc = error_set(err, -EINVAL,
			               "%s is none of iops=N, iops-burst=N, "
			               "rate=SIZE, rate-burst=SIZE",
			               part);
	}
	free(copy);
	return rc < 0 ? (error_prefix(err, "--image-disk"), rc) : 0;
}

static int disk_option(json_t *disk, const char *part, struct error *err)
{
	int rc;

	if (strcmp(part, "readonly") == 0)
		return json_object_set_new(disk, "readonly", json_true());
	if (disk_text(disk, part))
		return 0;
	rc = disk_limit(disk, part, err);
	if (rc < 0)
		error_prefix(err, "--disk: %s", part);
	if (rc == 0) {
		rc = error_set(err, -EINVAL, "--disk: there is no option %s",
		               part);
		error_hint(err, "there are format=, readonly, cache=, serial=, "
		                "iops=, iops-burst=, rate= and rate-burst=");
	}
	return MIN(rc, 0);
}

int definition_add_disk(json_t *spec, const char *value, struct error *err)
{
	char *copy = xstrdup(value), *rest = copy, *part = strsep(&rest, ",");
	json_t *path = definition_path(part, err);
	const char *named = path ? image_format_named(copy) : NULL;
	json_t *disk = json_pack("{s:o*, s:s*}", "path", path, "format", named);
	int rc = path ? 0 : err->code;

	while (rc == 0 && (part = strsep(&rest, ",")))
		rc = disk_option(disk, part, err);
	if (rc == 0)
		json_array_append(definition_list(spec, "disks"), disk);
	json_decref(disk);
	free(copy);
	return rc;
}

/* ---- for people ---- */

static size_t add(char *room, size_t size, size_t used, const char *words,
                  const char *value)
{
	int n = snprintf(room + used, size - used, ", %s %s", words, value);

	return MIN(used + (size_t)MAX(n, 0), size - 1);
}

const char *disk_limits_words(json_t *disk, char *room, size_t size)
{
	size_t used = 0;

	room[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		s64 n = remote_number(disk, limits[i].key);
		char value[32];

		if (n <= 0)
			continue;
		if (strncmp(limits[i].word, "rate", 4) == 0)
			format_size((u64)n, value, sizeof(value));
		else
			snprintf(value, sizeof(value), "%" PRId64, n);
		used = add(room, size, used, limits[i].word, value);
	}
	return room;
}
