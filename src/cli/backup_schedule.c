/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll backup schedule - when machines are backed up by themselves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/backup.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"

enum {
	OPT_EVERY = OPT_OWN,
	OPT_AT,
	OPT_DAYS,
	OPT_KEEP,
	OPT_KEEP_DAILY,
	OPT_KEEP_WEEKLY,
	OPT_FULL_EVERY,
	OPT_FREEZE,
	OPT_OFF,
};

struct wishes {
	json_t *body;
	bool off;
};

/* "mon,friday": what days begin with. */
static json_t *days_of(const char *value)
{
	static const char *const names[] = { "monday",   "tuesday", "wednesday",
		                             "thursday", "friday",  "saturday",
		                             "sunday" };
	char *text = xstrdup(value), *rest = NULL;
	json_t *days = json_array();

	for (char *word = strtok_r(text, ",", &rest); word;
	     word = strtok_r(NULL, ",", &rest)) {
		const char *day = word;

		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			if (strlen(word) >= 3 &&
			    strncmp(names[i], word, strlen(word)) == 0)
				day = names[i];
		json_array_append_new(days, json_string(day));
	}
	free(text);
	return days;
}

static int take_number(json_t *to, const char *key, const char *value,
                       struct error *err)
{
	u64 n;
	int rc = parse_u64(value, 0, INT32_MAX, &n, err);

	if (rc == 0)
		json_object_set_new(to, key, json_integer((json_int_t)n));
	return rc;
}

static int take_every(json_t *body, const char *value, struct error *err)
{
	u64 ns;
	int rc = parse_duration(value, &ns, err);

	if (rc == 0 && ns < NSEC_PER_SEC)
		rc = error_set(err, -EINVAL, "every %s is too often", value);
	if (rc == 0)
		json_object_set_new(
		    body, "every_s",
		    json_integer((json_int_t)(ns / NSEC_PER_SEC)));
	return rc;
}

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct wishes *w = ctx;
	json_t *keep = json_object_get(w->body, "keep");

	if (!keep && id >= OPT_KEEP && id <= OPT_KEEP_WEEKLY) {
		keep = json_object();
		json_object_set_new(w->body, "keep", keep);
	}
	switch (id) {
	case OPT_EVERY:
		return take_every(w->body, value, err);
	case OPT_AT:
		json_object_set_new(w->body, "at", json_string(value));
		return 0;
	case OPT_DAYS:
		json_object_set_new(w->body, "days", days_of(value));
		return 0;
	case OPT_KEEP:
		return take_number(keep, "last", value, err);
	case OPT_KEEP_DAILY:
		return take_number(keep, "daily", value, err);
	case OPT_KEEP_WEEKLY:
		return take_number(keep, "weekly", value, err);
	case OPT_FULL_EVERY:
		return take_number(w->body, "full_every", value, err);
	case OPT_FREEZE:
		json_object_set_new(w->body, "freeze", json_true());
		return 0;
	default:
		w->off = true;
		return 0;
	}
}

/* ---- what there is ---- */

static const char *when_of(json_t *e, char *room, size_t size)
{
	json_t *days = json_object_get(e, "days"), *day;
	s64 every = remote_number(e, "every_s");
	size_t i, used;

	if (every) {
		snprintf(room, size, "every %" PRId64 " s", every);
		return room;
	}
	used = (size_t)snprintf(room, size, "at %s", remote_text(e, "at"));
	if (json_array_size(days) == 7)
		return room;
	json_array_foreach(days, i, day)
	{
		if (used < size)
			used += (size_t)snprintf(room + used, size - used,
			                         "%s%.3s", i ? "," : " ",
			                         json_string_value(day));
	}
	return room;
}

static const char *kept_of(json_t *e, char *room, size_t size)
{
	s64 last = remote_number(e, "keep.last");
	s64 daily = remote_number(e, "keep.daily");
	s64 weekly = remote_number(e, "keep.weekly");

	if (!last && !daily && !weekly)
		return "all";
	snprintf(room, size,
	         "%" PRId64 " + %" PRId64 " days + %" PRId64 " weeks", last,
	         daily, weekly);
	return room;
}

static const struct column columns[] = {
	{ "MACHINE", .path = "vm.name" },
	{ "WHEN", when_of },
	{ "KEPT", kept_of },
	{ "NEXT", .path = "next", .kind = CELL_TIME },
	{ "FAILED", .path = "failures", .kind = CELL_NUMBER },
	{ "BECAUSE", .path = "error" },
	{ NULL },
};

static int do_one(struct remote *r, void *ctx, const char *name)
{
	const struct wishes *w = ctx;
	char *vm = resource_path("/v1/vms", name);
	char *path = xasprintf("%s/backup-schedule", vm);
	int code;

	if (w->off)
		code = resource_call(r, "DELETE", path, NULL, NULL);
	else if (json_object_size(w->body))
		code =
		    resource_call(r, "PUT", path, json_incref(w->body), NULL);
	else
		code = remote_show(r, path, columns);
	free(path);
	free(vm);
	return code;
}

int backup_schedule(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "every", "TIME", "between two, as 6h", OPT_EVERY },
		{ "at", "HH:MM", "once a day at that time of the host's",
		  OPT_AT },
		{ "days", "DAYS", "with --at: mon,wed,fri", OPT_DAYS },
		{ "keep", "N", "the last N", OPT_KEEP },
		{ "keep-daily", "N", "the newest of each of N days",
		  OPT_KEEP_DAILY },
		{ "keep-weekly", "N", "the newest of each of N weeks",
		  OPT_KEEP_WEEKLY },
		{ "full-every", "N", "each Nth is whole (7); 0: none has to be",
		  OPT_FULL_EVERY },
		{ "freeze", NULL,
		  "their file systems stand still as each begins, by the "
		  "guest's agent",
		  OPT_FREEZE },
		{ "off", NULL, "not by themselves any more", OPT_OFF },
		{ "all", NULL, "all machines", OPT_ALL },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { .body = json_object() };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(
	    &r, "atoll backup schedule [NAME...] [OPTION]...",
	    "When machines are backed up by themselves; without options, what "
	    "there is.",
	    specs, argc, argv);
	bool writes = w.off || json_object_size(w.body);

	if (code < 0 && writes && !r.name_count && !r.all)
		code = say_usage("atoll backup schedule: of which machine?");
	else if (code < 0 && w.off && json_object_size(w.body))
		code = say_usage("atoll backup schedule: --off goes alone");
	if (code < 0 && !r.name_count && !r.all)
		code = remote_list(&r, "/v1/backup-schedules", "schedules",
		                   columns);
	if (code < 0)
		code = remote_each_machine(&r, do_one, &w);
	json_decref(w.body);
	remote_close(&r);
	return code;
}
