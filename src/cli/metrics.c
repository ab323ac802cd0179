/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll metrics - what a machine used: figures over a span, as a table with a
 * bar, or as CSV and JSON for other programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/watch.h"

enum { OPT_SINCE = OPT_OWN, OPT_CSV, OPT_METRIC };
enum { USUAL_S = 3600, BAR = 40, LINES_MAX = 60 };

struct wishes {
	u64 since_ns;
	bool csv;
	const char *metric;
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct wishes *w = ctx;

	if (id == OPT_CSV)
		w->csv = true;
	else if (id == OPT_METRIC)
		w->metric = value;
	else
		return parse_duration(value, &w->since_ns, err);
	return 0;
}

static size_t metric_index(json_t *whole, const char *name)
{
	json_t *names = json_object_get(whole, "metrics"), *one;
	size_t i;

	json_array_foreach(names, i, one)
	{
		if (strcmp(json_string_value(one), name) == 0)
			return i;
	}
	return SIZE_MAX;
}

static void put_time(s64 at)
{
	time_t t = (time_t)at;
	struct tm tm;
	char text[32];

	localtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S%z", &tm);
	fputs(text, stdout);
}

static void print_csv(json_t *whole)
{
	json_t *names = json_object_get(whole, "metrics"), *one, *point;
	size_t i, k, n = json_array_size(names);

	fputs("time", stdout);
	json_array_foreach(names, i, one)
	{
		printf(",%s", json_string_value(one));
	}
	json_array_foreach(names, i, one)
	{
		printf(",%s_max", json_string_value(one));
	}
	putchar('\n');
	json_array_foreach(json_object_get(whole, "points"), i, point)
	{
		put_time(json_integer_value(json_array_get(point, 0)));
		for (k = 1; k <= 2 * n; k++)
			printf(",%" JSON_INTEGER_FORMAT,
			       json_integer_value(json_array_get(point, k)));
		putchar('\n');
	}
}

/* cpu, ready and steal are thousandths of a processor. */
static bool in_thousandths(const char *name)
{
	return strcmp(name, "cpu") == 0 || strcmp(name, "ready") == 0 ||
	       strcmp(name, "steal") == 0;
}

static void put_value(const char *name, u64 value)
{
	char room[32];

	if (in_thousandths(name))
		printf("%10.1f%%", (double)value / 10);
	else if (strcmp(name, "disk_ops") == 0 || strcmp(name, "disk_us") == 0)
		printf("%11" PRIu64, value);
	else
		printf("%11s", format_size(value, room, sizeof(room)));
}

static u64 value_at(json_t *point, size_t k)
{
	return (u64)json_integer_value(json_array_get(point, k + 1));
}

/* So many points to a line that they fit. */
static void print_bars(json_t *whole, const char *name, size_t k)
{
	json_t *points = json_object_get(whole, "points");
	size_t count = json_array_size(points), group, n;
	u64 most = 1;

	group = MAX((size_t)1, (count + LINES_MAX - 1) / LINES_MAX);
	for (size_t i = 0; i < count; i++)
		most = MAX(most, value_at(json_array_get(points, i), k));
	for (size_t i = 0; i < count; i += n) {
		u64 sum = 0, mean;

		for (n = 0; n < group && i + n < count; n++)
			sum += value_at(json_array_get(points, i + n), k);
		mean = sum / n;
		put_time(json_integer_value(
		    json_array_get(json_array_get(points, i), 0)));
		put_value(name, mean);
		fputs("  ", stdout);
		for (u64 c = 0; c < mean * BAR / most; c++)
			putchar('#');
		putchar('\n');
	}
}

static void print_summary(json_t *whole)
{
	json_t *names = json_object_get(whole, "metrics"), *one;
	json_t *points = json_object_get(whole, "points");
	size_t i, count = json_array_size(points);
	size_t n = json_array_size(names);

	printf("%-14s %11s %11s %11s\n", "METRIC", "MEAN", "MAX", "NOW");
	json_array_foreach(names, i, one)
	{
		const char *name = json_string_value(one);
		u64 sum = 0, most = 0;

		for (size_t p = 0; p < count; p++) {
			json_t *point = json_array_get(points, p);

			sum += value_at(point, i);
			most = MAX(most, value_at(point, n + i));
		}
		printf("%-14s ", name);
		put_value(name, count ? sum / count : 0);
		putchar(' ');
		put_value(name, most);
		putchar(' ');
		put_value(name,
		          count ? value_at(json_array_get(points, count - 1), i)
		                : 0);
		putchar('\n');
	}
	printf("%zu points, %" JSON_INTEGER_FORMAT " s apart\n", count,
	       json_integer_value(json_object_get(whole, "step_s")));
}

static int show(struct remote *r, const struct wishes *w)
{
	s64 now = (s64)time(NULL), span;
	char *vm = resource_path("/v1/vms", r->names[0]), *path;
	int code = CODE_OK;
	json_t *whole;
	size_t k;

	span = w->since_ns ? (s64)(w->since_ns / NSEC_PER_SEC) : USUAL_S;
	path = xasprintf("%s/metrics?since=%" PRId64 "&until=%" PRId64, vm,
	                 MAX(now - span, (s64)0), now);
	free(vm);
	whole = remote_get(r, path, &code);
	free(path);
	if (!whole)
		return code;
	k = w->metric ? metric_index(whole, w->metric) : 0;
	if (k == SIZE_MAX)
		code = say_usage("there is no metric %s", w->metric);
	else if (r->format != FORMAT_TABLE)
		remote_print_value(r, whole);
	else if (w->csv)
		print_csv(whole);
	else if (w->metric)
		print_bars(whole, w->metric, k);
	else
		print_summary(whole);
	json_decref(whole);
	return code;
}

int command_metrics(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "since", "TIME", "how far back, as 30m or 720h [1h]",
		  OPT_SINCE },
		{ "metric", "NAME", "one of them, over the time", OPT_METRIC },
		{ "csv", NULL, "all points, with commas", OPT_CSV },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { 0 };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(&r, "atoll metrics NAME [OPTION]...",
	                       "What a machine used.", specs, argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll metrics takes the name of a machine");
	if (code < 0)
		code = show(&r, &w);
	remote_close(&r);
	return code;
}
