/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/backup/plan.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

enum {
	EVERY_MAX = 366 * 86400,
	KEEP_MAX = 100000,
	DAYS_ALL = 0x7f,
	DAY_S = 86400,
	KEPT_WHOLE = 7, /* full_every, if it is not said */
};

static const char *const day_names[] = { "monday",   "tuesday", "wednesday",
	                                 "thursday", "friday",  "saturday",
	                                 "sunday" };

/* ---- to and from JSON ---- */

static int take(json_t *o, const char *key, u32 min, u32 max, u32 *out,
                struct error *err)
{
	json_t *value = json_object_get(o, key);

	if (!value)
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < min ||
	    json_integer_value(value) > max)
		return error_set(err, -EINVAL,
		                 "%s is not a number from %u to %u", key, min,
		                 max);
	*out = (u32)json_integer_value(value);
	return 0;
}

static int take_days(json_t *list, u32 *days, struct error *err)
{
	json_t *value;
	size_t i;

	if (!list)
		return 0;
	*days = 0;
	json_array_foreach(list, i, value)
	{
		const char *name = json_string_value(value);

		for (u32 d = 0; name && d < ARRAY_SIZE(day_names); d++)
			if (strcmp(name, day_names[d]) == 0)
				*days |= 1u << d;
	}
	return (size_t)__builtin_popcount(*days) == json_array_size(list) &&
	               *days
	           ? 0
	           : error_set(err, -EINVAL,
	                       "days is not a list of days, monday to sunday, "
	                       "each once");
}

static int take_time(json_t *at, u32 *minute, struct error *err)
{
	const char *text = json_string_value(at);
	unsigned h, m;
	int end = 0;

	if (!text || strlen(text) != 5 ||
	    sscanf(text, "%2u:%2u%n", &h, &m, &end) != 2 || end != 5 ||
	    h > 23 || m > 59)
		return error_set(err, -EINVAL,
		                 "at is not a time of the day, as 02:30");
	*minute = h * 60 + m;
	return 0;
}

static int known(json_t *o, const char *const *keys, const char *what,
                 struct error *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(o))
		return error_set(err, -EINVAL, "%s is not an object", what);
	json_object_foreach(o, key, value)
	{
		size_t i = 0;

		while (keys[i] && strcmp(keys[i], key))
			i++;
		if (!keys[i])
			return error_set(err, -EINVAL,
			                 "%s: nothing is called "
			                 "%.40s",
			                 what, key);
	}
	return 0;
}

static int take_keep(struct backup_plan *p, json_t *keep, struct error *err)
{
	static const char *const keys[] = { "last", "daily", "weekly", NULL };
	int rc;

	if (!keep)
		return 0;
	rc = known(keep, keys, "keep", err);
	if (rc == 0)
		rc = take(keep, "last", 0, KEEP_MAX, &p->keep_last, err);
	if (rc == 0)
		rc = take(keep, "daily", 0, KEEP_MAX, &p->keep_daily, err);
	if (rc == 0)
		rc = take(keep, "weekly", 0, KEEP_MAX, &p->keep_weekly, err);
	return rc;
}

int backup_plan_parse(struct backup_plan *out, json_t *o, struct error *err)
{
	static const char *const keys[] = { "every_s", "at",         "days",
		                            "keep",    "full_every", "freeze",
		                            NULL };
	struct backup_plan p = { .days = DAYS_ALL, .full_every = KEPT_WHOLE };
	json_t *at = json_object_get(o, "at");
	json_t *freeze = json_object_get(o, "freeze");
	int rc = known(o, keys, "a schedule", err);

	if (rc == 0)
		rc = take(o, "every_s", 1, EVERY_MAX, &p.every_s, err);
	if (rc == 0 && at)
		rc = take_time(at, &p.minute, err);
	if (rc == 0)
		rc = take_days(json_object_get(o, "days"), &p.days, err);
	if (rc == 0 && !p.every_s == !at)
		rc = error_set(err, -EINVAL,
		               "a schedule has every_s, or it has at");
	if (rc == 0 && p.every_s && p.days != DAYS_ALL)
		rc = error_set(err, -EINVAL, "days go with at");
	if (rc == 0)
		rc = take_keep(&p, json_object_get(o, "keep"), err);
	if (rc == 0)
		rc = take(o, "full_every", 0, KEEP_MAX, &p.full_every, err);
	if (rc == 0 && freeze && !json_is_boolean(freeze))
		rc =
		    error_set(err, -EINVAL, "freeze is neither true nor false");
	p.freeze = json_is_true(freeze);
	if (rc == 0)
		*out = p;
	return rc;
}

json_t *backup_plan_json(const struct backup_plan *p)
{
	json_t *days = json_array();
	char at[16];
	json_t *o = json_pack("{s:{s:i, s:i, s:i}, s:i, s:b}", "keep", "last",
	                      (int)p->keep_last, "daily", (int)p->keep_daily,
	                      "weekly", (int)p->keep_weekly, "full_every",
	                      (int)p->full_every, "freeze", (int)p->freeze);

	for (u32 d = 0; d < ARRAY_SIZE(day_names); d++)
		if (p->days >> d & 1)
			json_array_append_new(days, json_string(day_names[d]));
	snprintf(at, sizeof(at), "%02u:%02u", p->minute / 60, p->minute % 60);
	if (p->every_s) {
		json_object_set_new(o, "every_s", json_integer(p->every_s));
	} else {
		json_object_set_new(o, "at", json_string(at));
		json_object_set(o, "days", days);
	}
	json_decref(days);
	return o;
}

/* ---- when ---- */

s64 backup_plan_next(const struct backup_plan *p, s64 since, s64 after)
{
	time_t from = (time_t)after, then;
	struct tm day, tm;

	if (p->every_s) {
		s64 periods = after < since ? 0 : (after - since) / p->every_s;

		return since + (periods + 1) * p->every_s;
	}
	localtime_r(&from, &day);
	/* One week, and a day more for where clocks are put forward. */
	for (int i = 0; i <= 8; i++) {
		tm = (struct tm){ .tm_year = day.tm_year,
			          .tm_mon = day.tm_mon,
			          .tm_mday = day.tm_mday + i,
			          .tm_hour = (int)p->minute / 60,
			          .tm_min = (int)p->minute % 60,
			          .tm_isdst = -1 };
		then = mktime(&tm);
		if (then > from && p->days >> ((tm.tm_wday + 6) % 7) & 1)
			return (s64)then;
	}
	return after + 7 * (s64)DAY_S;
}

/* ---- which are kept ---- */

/* The local day since 1970. */
static s64 day_of(s64 at)
{
	time_t t = (time_t)at;
	struct tm tm;

	localtime_r(&t, &tm);
	return timegm(&(struct tm){ .tm_year = tm.tm_year,
	                            .tm_mon = tm.tm_mon,
	                            .tm_mday = tm.tm_mday }) /
	       DAY_S;
}

/* 1970 began on a Thursday. */
static s64 week_of(s64 at)
{
	return (day_of(at) + 3) / 7;
}

/* The newest of each of the latest spans in which there are some. */
static void keep_spans(struct backup_kept *list, size_t count, u32 spans,
                       s64 (*span_of)(s64 at))
{
	s64 last = INT64_MAX;

	for (size_t i = 0; i < count && spans; i++) {
		if (!list[i].planned || span_of(list[i].at) == last)
			continue;
		last = span_of(list[i].at);
		list[i].keep = true;
		spans--;
	}
}

void backup_plan_keep(const struct backup_plan *p, struct backup_kept *list,
                      size_t count)
{
	bool all = !p->keep_last && !p->keep_daily && !p->keep_weekly;
	u32 left = p->keep_last;

	for (size_t i = 0; i < count; i++) {
		list[i].keep = all || !list[i].planned || left > 0;
		left -= list[i].planned && left > 0;
	}
	keep_spans(list, count, p->keep_daily, day_of);
	keep_spans(list, count, p->keep_weekly, week_of);
	/* Backwards in time: what builds on another is newer. */
	for (size_t i = 0; i < count; i++)
		for (size_t b = i; list[i].keep && b < count;) {
			list[b].keep = true;
			b = list[b].base < count && list[b].base > b
			        ? list[b].base
			        : count;
		}
}
