/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be set of a disk in use: size, limits, bitmaps; and its jobs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/live.h"
#include "cli/options.h"

/* ---- resize ---- */

static const struct option_spec plain_options[] = { LIVE_OPTIONS, { 0 } };

static int plain_option(void *ctx, int id, const char *value, struct error *err)
{
	return live_arg(ctx, id, value, err);
}

static int resize(void *ctx, struct error *err)
{
	struct live_args *a = ctx;
	const char *text = a->args.name_count > 1 ? a->args.names[1] : NULL;
	json_t *answer, *disk;
	bool more = text && text[0] == '+';
	u64 bytes;
	int rc;

	if (!text)
		return error_set(err, -EINVAL, "say the size: 20G, or +5G");
	rc = parse_size(text + more, 1, &bytes, err);
	if (rc == 0 && more) {
		rc = live_ask(a, json_pack("{s:s}", "op", "disks"), NULL, 0,
		              &answer, err);
		if (rc < 0)
			return rc;
		disk = json_array_get(json_object_get(answer, "disks"),
		                      a->disk.number);
		bytes +=
		    (u64)json_integer_value(json_object_get(disk, "bytes"));
		json_decref(answer);
	}
	if (rc == 0 && bytes > BIT(53))
		rc = error_set(err, -EINVAL, "a disk in use has at most 8 PiB");
	return rc < 0 ? rc
	              : live_ask(a,
	                         json_pack("{s:s, s:I}", "op", "disk-resize",
	                                   "bytes", (json_int_t)bytes),
	                         NULL, 0, NULL, err);
}

static json_t *resize_remote(void *ctx, struct error *err)
{
	const struct live_args *a = ctx;
	const char *text = a->args.name_count > 1 ? a->args.names[1] : "";
	json_t *body;
	u64 bytes;

	if (text[0] == '+') {
		error_set(err, -EINVAL, "say the whole size, without +");
		return NULL;
	}
	if (parse_size(text, 1, &bytes, err) < 0)
		return NULL;
	if (bytes > BIT(53)) {
		error_set(err, -EINVAL, "a disk in use has at most 8 PiB");
		return NULL;
	}
	body = json_object();
	live_put_number(body, "bytes", bytes);
	return body;
}

int live_resize_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk resize NAME:DISK [+]SIZE",
		"Make a disk in use larger; the guest sees it at once.",
		plain_options,
		plain_option,
		resize,
		resize_remote,
		.turn = true
	};
	struct live_args a = { 0 };

	return live_main(&verb, argc, argv, &a, &a);
}

/* ---- throttle ---- */

enum { OPT_IOPS = 1, OPT_IOPS_BURST, OPT_BYTES, OPT_BYTES_BURST };

struct throttle {
	struct live_args a;
	json_t *limits;
};

static const struct option_spec throttle_options[] = {
	{ "iops", "N", "requests a second; 0: no limit", OPT_IOPS },
	{ "iops-burst", "N", "what an idle disk saves up", OPT_IOPS_BURST },
	{ "bytes-per-s", "SIZE", "both ways together; 0: no limit", OPT_BYTES },
	{ "bytes-burst", "SIZE", "what an idle disk saves up",
	  OPT_BYTES_BURST },
	LIVE_OPTIONS,
	{ 0 },
};

static int throttle_option(void *ctx, int id, const char *value,
                           struct error *err)
{
	static const char *const keys[] = {
		[OPT_IOPS] = "iops",
		[OPT_IOPS_BURST] = "iops_burst",
		[OPT_BYTES] = "bytes_per_s",
		[OPT_BYTES_BURST] = "bytes_burst",
	};
	struct throttle *t = ctx;
	u64 n;
	int rc;

	if (id < OPT_IOPS || id > OPT_BYTES_BURST)
		return live_arg(&t->a, id, value, err);
	rc = id >= OPT_BYTES ? parse_size(value, 1, &n, err)
	                     : parse_u64(value, 0, BIT(53), &n, err);
	if (rc == 0)
		json_object_set_new(t->limits, keys[id],
		                    json_integer((json_int_t)n));
	return rc;
}

static int throttle(void *ctx, struct error *err)
{
	struct throttle *t = ctx;

	if (json_object_size(t->limits) == 0)
		return error_set(err, -EINVAL,
		                 "say a limit: --iops or "
		                 "--bytes-per-s");
	json_object_set_new(t->limits, "op", json_string("disk-throttle"));
	return live_ask(&t->a, json_incref(t->limits), NULL, 0, NULL, err);
}

static json_t *throttle_remote(void *ctx, struct error *err)
{
	const struct throttle *t = ctx;

	if (json_object_size(t->limits))
		return json_incref(t->limits);
	error_set(err, -EINVAL, "say a limit: --iops or --bytes-per-s");
	return NULL;
}

int live_throttle_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk throttle NAME:DISK OPTION...",
		"Say how fast a disk may be: one in use, or (of the daemon's "
		"machines) from the next start on.",
		throttle_options,
		throttle_option,
		throttle,
		throttle_remote,
		.stopped = true
	};
	struct throttle t = { .limits = json_object() };
	int code = live_main(&verb, argc, argv, &t, &t.a);

	json_decref(t.limits);
	return code;
}

/* ---- bitmap ---- */

/* atoll disk bitmap ACTION NAME:DISK [BITMAP] */
static int bitmap(void *ctx, struct error *err)
{
	struct live_args *a = ctx;
	const char *action = a->args.names[1];
	json_t *answer;
	int rc = live_ask(
	    a,
	    json_pack("{s:s, s:s, s:s?}", "op", "disk-bitmap", "action", action,
	              "name", a->args.name_count > 2 ? a->args.names[2] : NULL),
	    NULL, 0, &answer, err);

	if (rc < 0)
		return rc;
	if (json_object_get(answer, "bitmaps")) {
		json_dumpf(json_object_get(answer, "bitmaps"), stdout,
		           JSON_INDENT(2) | JSON_PRESERVE_ORDER);
		putchar('\n');
	}
	json_decref(answer);
	return 0;
}

static int bitmap_option(void *ctx, int id, const char *value,
                         struct error *err)
{
	struct live_args *a = ctx;
	int rc = live_arg(a, id, value, err);

	/* The disk first, as live_main() wants it. */
	if (rc == 0 && id == 0 && a->args.name_count == 2) {
		const char *action = a->args.names[0];

		a->args.names[0] = a->args.names[1];
		a->args.names[1] = action;
	}
	return rc;
}

int live_bitmap_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk bitmap list|create|delete|clear NAME:DISK [BITMAP]",
		"What is recorded of a disk in use, for backups.",
		plain_options,
		bitmap_option,
		bitmap,
		.turn = true
	};
	struct live_args a = { 0 };

	return live_main(&verb, argc, argv, &a, &a);
}

/* ---- jobs ---- */

enum { OPT_CANCEL = 1, OPT_WAIT, OPT_FINISH, OPT_PIVOT, OPT_JOB };

struct jobs {
	struct live_args a;
	int action;
	u64 job;
};

static const struct option_spec jobs_options[] = {
	{ "job", "N", "the one that is meant below", OPT_JOB },
	{ "wait", NULL, "until it is over", OPT_WAIT },
	{ "cancel", NULL, "give it up", OPT_CANCEL },
	{ "finish", NULL, "a mirror that stays: it holds the same, and ends",
	  OPT_FINISH },
	{ "rate", "SIZE", "at most so many bytes a second", LIVE_OPT_RATE },
	LIVE_OPTIONS,
	{ 0 },
};

static int jobs_option(void *ctx, int id, const char *value, struct error *err)
{
	struct jobs *j = ctx;

	if (id == OPT_JOB)
		return parse_u64(value, 1, BIT(53), &j->job, err);
	if (id < OPT_CANCEL || id > OPT_PIVOT)
		return live_arg(&j->a, id, value, err);
	j->action = id;
	return 0;
}

static void print_job(json_t *job)
{
	const char *kind = "", *state = "", *path = "";
	json_int_t id = 0, done = 0, total = 0;
	char a[32], b[32];
	int disk = 0, both = 0;

	json_unpack(job, "{s:I, s:i, s:s, s:s, s:I, s:I, s?b, s?s}", "job", &id,
	            "disk", &disk, "kind", &kind, "state", &state, "done",
	            &done, "total", &total, "both", &both, "path", &path);
	printf("%-4lld vd%c  %-9s %-10s %10s of %-10s %s%s\n", (long long)id,
	       'a' + disk, kind, state, format_size((u64)done, a, sizeof(a)),
	       format_size((u64)total, b, sizeof(b)), path,
	       both ? " (writes go to both)" : "");
}

static int list(struct jobs *j, struct error *err)
{
	json_t *answer, *one;
	size_t i;
	int rc = live_ask(&j->a, json_pack("{s:s}", "op", "disks"), NULL, 0,
	                  &answer, err);

	if (rc < 0)
		return rc;
	if (j->a.args.json) {
		json_dumpf(json_object_get(answer, "jobs"), stdout,
		           JSON_INDENT(2) | JSON_PRESERVE_ORDER);
		putchar('\n');
	} else {
		json_array_foreach(json_object_get(answer, "jobs"), i, one)
		    print_job(one);
	}
	json_decref(answer);
	return 0;
}

static int tell(struct jobs *j, const char *op, struct error *err)
{
	return live_ask(&j->a,
	                json_pack("{s:s, s:I, s:I}", "op", op, "job",
	                          (json_int_t)j->job, "rate",
	                          (json_int_t)j->a.rate),
	                NULL, 0, NULL, err);
}

/* It may be about to. */
static int finish(struct jobs *j, struct error *err)
{
	const struct timespec tick = { .tv_nsec = 20 * 1000 * 1000 };
	int rc;

	while ((rc = tell(j, "job-complete", err)) == -EAGAIN)
		nanosleep(&tick, NULL);
	return rc;
}

static int jobs(void *ctx, struct error *err)
{
	struct jobs *j = ctx;
	bool left;
	int rc = 0;

	if (!j->job && (j->action || j->a.rate))
		return error_set(err, -EINVAL, "which job? --job N");
	if (!j->job)
		return list(j, err);
	if (j->a.rate)
		rc = tell(j, "job-rate", err);
	if (rc == 0 && j->action == OPT_CANCEL)
		rc = tell(j, "job-cancel", err);
	if (rc == 0 && j->action == OPT_FINISH)
		rc = finish(j, err);
	if (rc == 0 && (j->action == OPT_WAIT || j->action == OPT_FINISH))
		rc = live_follow(&j->a, "job", (json_int_t)j->job, &left, err);
	return rc;
}

static json_t *jobs_remote(void *ctx, struct error *err)
{
	const struct jobs *j = ctx;
	json_t *body;

	if (!j->job && (j->action || j->a.rate))
		error_set(err, -EINVAL, "which job? --job N");
	if (!j->job)
		return NULL;
	if (j->action != OPT_CANCEL) {
		error_set(err, -ENOTSUP,
		          "the daemon's jobs can only be cancelled; their "
		          "tasks tell how they end");
		return NULL;
	}
	body = json_object();
	live_put_number(body, "job", j->job);
	return body;
}

int live_jobs_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk jobs NAME:DISK [--job N ...]",
		"Long work on the disks of a machine: listed, waited for, "
		"ended.",
		jobs_options,
		jobs_option,
		jobs,
		jobs_remote
	};
	struct jobs j = { 0 };

	return live_main(&verb, argc, argv, &j, &j.a);
}
