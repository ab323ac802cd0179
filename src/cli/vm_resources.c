/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/vm_resources.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cli/expiry.h"

enum value { TEXT, NUMBER, SIZE, SWITCH, TIME };

/* In the order of RESOURCE_OPTIONS. */
static const struct {
	const char *key;
	bool below; /* in "resources" */
	enum value value;
} keys[] = {
	{ "project", false, TEXT },
	{ "owner", false, TEXT },
	{ "expires", false, TIME },
	{ "cpu_weight", true, NUMBER },
	{ "cpu_limit", true, NUMBER },
	{ "cpu_reservation", true, NUMBER },
	{ "cpu_pin", true, TEXT },
	{ "memory_max_bytes", false, SIZE },
	{ "memory_reservation_bytes", true, SIZE },
	{ "memory_limit_bytes", true, SIZE },
	{ "memory_target_bytes", true, SIZE },
	{ "memory_hard_limit_bytes", true, SIZE },
	{ "io_weight", true, NUMBER },
	{ "share_memory", false, SWITCH },
};

/* "--cpu-limit": as it was written. */
static const char *option_of(size_t i, char *room, size_t size)
{
	size_t n;

	snprintf(room, size, "--%s", keys[i].key);
	n = strlen(room);
	if (n > 6 && strcmp(room + n - 6, "_bytes") == 0)
		room[n - 6] = '\0';
	for (char *c = room; *c; c++)
		if (*c == '_')
			*c = '-';
	return room;
}

static int set_expiry(json_t *to, const char *value, struct error *err)
{
	char text[EXPIRY_TEXT];
	s64 at;

	if (expiry_parse(value, &at, text, err) < 0)
		return err->code;
	return json_object_set_new(to, "expires",
	                           text[0] ? json_string(text) : json_null());
}

int resources_option(json_t *spec, int id, const char *value, struct error *err)
{
	size_t i = (size_t)(id - OPT_RESOURCES);
	json_t *to = spec, *what;
	char room[40];
	u64 n = 0;
	int rc = 0;

	if (i >= ARRAY_SIZE(keys))
		return -EINVAL;
	if (keys[i].below) {
		to = json_object_get(spec, "resources");
		if (!to) {
			to = json_object();
			json_object_set_new(spec, "resources", to);
		}
	}
	if (keys[i].value == TIME)
		return set_expiry(to, value, err);
	if (keys[i].value == NUMBER)
		rc = parse_u64(value, 0, INT32_MAX, &n, err);
	else if (keys[i].value == SIZE)
		rc = parse_size(value, 1, &n, err);
	else if (keys[i].value == SWITCH && strcmp(value, "on") &&
	         strcmp(value, "off"))
		rc = error_set(err, -EINVAL, "'%s' is neither on nor off",
		               value);
	if (rc < 0)
		return error_prefix(err, "%s",
		                    option_of(i, room, sizeof(room)));
	if (keys[i].value == SWITCH)
		return json_object_set_new(
		    to, keys[i].key, json_boolean(strcmp(value, "on") == 0));
	what = keys[i].value == TEXT ? json_string(value)
	                             : json_integer((json_int_t)n);
	return json_object_set_new(to, keys[i].key, what) < 0
	           ? error_set(err, -EINVAL, "%s is not UTF-8", keys[i].key)
	           : 0;
}
