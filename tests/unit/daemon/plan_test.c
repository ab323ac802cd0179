/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan_test - when backups are due, also where clocks are put forward and back,
 * and which are kept: never one without what it builds on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/error.h"
#include "daemon/backup/plan.h"

enum { HOUR = 3600, DAY = 86400, COUNT = 60, ROUNDS = 3000 };

static int parse(const char *text, struct backup_plan *p)
{
	struct error err = { 0 };
	json_t *o = json_loads(text, 0, NULL);
	int rc;

	assert_non_null(o);
	rc = backup_plan_parse(p, o, &err);
	json_decref(o);
	assert_true(rc == 0 || err.text[0]);
	return rc;
}

static s64 local(int year, int month, int day, int hour, int minute)
{
	struct tm tm = { .tm_year = year - 1900,
		         .tm_mon = month - 1,
		         .tm_mday = day,
		         .tm_hour = hour,
		         .tm_min = minute,
		         .tm_isdst = -1 };

	return (s64)mktime(&tm);
}

static void set_zone(const char *zone)
{
	setenv("TZ", zone, 1);
	tzset();
}

/* ---- words ---- */

static void what_makes_no_sense_is_refused(void **state)
{
	static const char *const wrong[] = {
		"{}",
		"[]",
		"{\"every_s\": 0}",
		"{\"every_s\": -5}",
		"{\"every_s\": 1.5}",
		"{\"every_s\": \"60\"}",
		"{\"every_s\": 99999999999}",
		"{\"every_s\": 60, \"at\": \"02:00\"}",
		"{\"every_s\": 60, \"days\": [\"monday\"]}",
		"{\"at\": \"24:00\"}",
		"{\"at\": \"2:00\"}",
		"{\"at\": \"02:60\"}",
		"{\"at\": \"02:0 \"}",
		"{\"at\": 2}",
		"{\"at\": \"02:00\", \"days\": []}",
		"{\"at\": \"02:00\", \"days\": \"monday\"}",
		"{\"at\": \"02:00\", \"days\": [\"monday\", \"monday\"]}",
		"{\"at\": \"02:00\", \"days\": [\"holiday\"]}",
		"{\"at\": \"02:00\", \"days\": [1]}",
		"{\"at\": \"02:00\", \"keep\": 5}",
		"{\"at\": \"02:00\", \"keep\": {\"last\": -1}}",
		"{\"at\": \"02:00\", \"keep\": {\"yearly\": 1}}",
		"{\"at\": \"02:00\", \"full_every\": true}",
		"{\"at\": \"02:00\", \"freeze\": 1}",
		"{\"at\": \"02:00\", \"other\": 1}",
	};
	struct backup_plan p = { 0 }, none = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		if (parse(wrong[i], &p) == 0)
			fail_msg("taken: %s", wrong[i]);
		assert_memory_equal(&p, &none, sizeof(p));
	}
}

static void what_is_shown_is_read_again(void **state)
{
	static const char *const good[] = {
		"{\"every_s\": 1}",
		"{\"at\": \"23:59\", \"full_every\": 0}",
		"{\"at\": \"00:00\", \"days\": [\"sunday\", \"friday\"]}",
		"{\"at\": \"00:00\", \"keep\": {\"last\": 3, \"daily\": 7}}",
		"{\"every_s\": 60, \"keep\": {\"weekly\": 4}}",
		"{\"every_s\": 60, \"freeze\": true}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct backup_plan a, b;
		struct error err = { 0 };
		json_t *o;

		assert_int_equal(parse(good[i], &a), 0);
		o = backup_plan_json(&a);
		assert_int_equal(backup_plan_parse(&b, o, &err), 0);
		assert_memory_equal(&a, &b, sizeof(a));
		json_decref(o);
	}
}

/* ---- when ---- */

static void every_counts_from_its_begin(void **state)
{
	struct backup_plan p;

	(void)state;
	assert_int_equal(parse("{\"every_s\": 600}", &p), 0);
	assert_int_equal(backup_plan_next(&p, 1000, 1000), 1600);
	assert_int_equal(backup_plan_next(&p, 1000, 1599), 1600);
	assert_int_equal(backup_plan_next(&p, 1000, 1600), 2200);
	assert_int_equal(backup_plan_next(&p, 1000, 99999), 100000);
	/* A clock that was put back. */
	assert_int_equal(backup_plan_next(&p, 1000, 5), 1600);
}

static void at_is_of_the_local_day(void **state)
{
	struct backup_plan daily, some;

	(void)state;
	set_zone("CET-1CEST,M3.5.0,M10.5.0/3");
	assert_int_equal(parse("{\"at\": \"02:30\"}", &daily), 0);
	assert_int_equal(backup_plan_next(&daily, 0, local(2026, 6, 1, 1, 0)),
	                 local(2026, 6, 1, 2, 30));
	assert_int_equal(backup_plan_next(&daily, 0, local(2026, 6, 1, 2, 30)),
	                 local(2026, 6, 2, 2, 30));
	assert_int_equal(backup_plan_next(&daily, 0, local(2026, 12, 31, 3, 0)),
	                 local(2027, 1, 1, 2, 30));
	/* 1 June 2026 is a Monday. */
	assert_int_equal(parse("{\"at\": \"22:00\", \"days\":"
	                       " [\"wednesday\", \"sunday\"]}",
	                       &some),
	                 0);
	assert_int_equal(backup_plan_next(&some, 0, local(2026, 6, 1, 0, 0)),
	                 local(2026, 6, 3, 22, 0));
	assert_int_equal(backup_plan_next(&some, 0, local(2026, 6, 3, 22, 0)),
	                 local(2026, 6, 7, 22, 0));
	assert_int_equal(backup_plan_next(&some, 0, local(2026, 6, 7, 22, 0)),
	                 local(2026, 6, 10, 22, 0));
}

/* Of a whole year each day has one, and no two are less than 22 hours apart:
 * 29 March has no half past two, 25 October has two of them. */
static void a_year_has_no_gap(void **state)
{
	static const char *const zones[] = {
		"UTC0",
		"CET-1CEST,M3.5.0,M10.5.0/3",
		"EST5EDT,M3.2.0,M11.1.0",
		"<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
	};
	struct backup_plan p;

	(void)state;
	for (size_t z = 0; z < ARRAY_SIZE(zones); z++) {
		s64 at, next;

		set_zone(zones[z]);
		assert_int_equal(parse("{\"at\": \"02:30\"}", &p), 0);
		at = local(2026, 1, 1, 0, 0);
		for (int i = 0; i < 365; i++) {
			next = backup_plan_next(&p, 0, at);
			assert_in_range(next - at, i ? 22 * HOUR : 1,
			                26 * HOUR);
			at = next;
		}
		assert_in_range(at, local(2026, 12, 31, 0, 0),
		                local(2027, 1, 1, 0, 0));
	}
}

/* ---- which are kept ---- */

/* One every six hours, newest first; each fourth whole. */
static void fill(struct backup_kept list[COUNT], s64 newest)
{
	for (size_t i = 0; i < COUNT; i++)
		list[i] = (struct backup_kept){
			.at = newest - (s64)i * 6 * HOUR,
			.planned = true,
			.base = i % 4 == 3 ? SIZE_MAX : i + 1,
		};
}

static size_t kept(const struct backup_kept *list, size_t count)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		n += list[i].keep;
	return n;
}

static void the_last_and_their_bases_stay(void **state)
{
	struct backup_kept list[COUNT];
	struct backup_plan p = { .keep_last = 2 };

	(void)state;
	set_zone("UTC0");
	fill(list, 1000 * (s64)DAY);
	backup_plan_keep(&p, list, COUNT);
	/* Two, and the two below: to the whole one. */
	assert_int_equal(kept(list, COUNT), 4);
	assert_true(list[0].keep && list[3].keep && !list[4].keep);
	p.keep_last = 5;
	backup_plan_keep(&p, list, COUNT);
	assert_int_equal(kept(list, COUNT), 8);
}

static void days_and_weeks_keep_one_each(void **state)
{
	struct backup_kept list[COUNT];
	struct backup_plan p = { .keep_daily = 3 };

	(void)state;
	set_zone("UTC0");
	fill(list, 1000 * (s64)DAY + 18 * HOUR + 60);
	for (size_t i = 0; i < COUNT; i++)
		list[i].base = SIZE_MAX;
	backup_plan_keep(&p, list, COUNT);
	assert_int_equal(kept(list, COUNT), 3);
	assert_true(list[0].keep && list[4].keep && list[8].keep);
	p = (struct backup_plan){ .keep_weekly = 2 };
	backup_plan_keep(&p, list, COUNT);
	assert_int_equal(kept(list, COUNT), 2);
	/* Day 1000 is a Wednesday: the week before ends on Sunday, 997. */
	assert_true(list[0].keep && list[12].keep);
	p = (struct backup_plan){ .keep_weekly = 2, .keep_daily = 3 };
	backup_plan_keep(&p, list, COUNT);
	assert_int_equal(kept(list, COUNT), 4);
}

static void what_is_made_by_hand_stays(void **state)
{
	struct backup_kept list[COUNT];
	struct backup_plan p = { .keep_last = 1 }, all = { 0 };

	(void)state;
	set_zone("UTC0");
	fill(list, 1000 * (s64)DAY);
	list[9].planned = false;
	backup_plan_keep(&p, list, COUNT);
	/* 0 to 3; 9, which builds on 10 and 11. */
	assert_int_equal(kept(list, COUNT), 7);
	assert_true(list[9].keep && list[10].keep && list[11].keep);
	backup_plan_keep(&all, list, COUNT);
	assert_int_equal(kept(list, COUNT), COUNT);
}

/* Any list, damaged ones too: nothing that is kept is without its base. */
static void no_chain_is_broken(void **state)
{
	struct backup_kept list[COUNT];

	(void)state;
	srand(7);
	for (int round = 0; round < ROUNDS; round++) {
		size_t count = (size_t)rand() % COUNT;
		s64 at = 1000 * (s64)DAY;
		struct backup_plan p = { .keep_last = (u32)rand() % 5,
			                 .keep_daily = (u32)rand() % 5,
			                 .keep_weekly = (u32)rand() % 3 };

		for (size_t i = 0; i < count; i++) {
			at -= rand() % (2 * DAY);
			list[i].at = at;
			list[i].planned = rand() % 4;
			list[i].base = rand() % 3 ? i + 1 + (size_t)rand() % 3
			                          : (size_t)rand() % COUNT;
		}
		backup_plan_keep(&p, list, count);
		for (size_t i = 0; i < count; i++) {
			assert_true(list[i].keep || list[i].planned);
			if (list[i].keep && list[i].base < count &&
			    list[i].base > i)
				assert_true(list[list[i].base].keep);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(what_is_shown_is_read_again),
		cmocka_unit_test(every_counts_from_its_begin),
		cmocka_unit_test(at_is_of_the_local_day),
		cmocka_unit_test(a_year_has_no_gap),
		cmocka_unit_test(the_last_and_their_bases_stay),
		cmocka_unit_test(days_and_weeks_keep_one_each),
		cmocka_unit_test(what_is_made_by_hand_stays),
		cmocka_unit_test(no_chain_is_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
