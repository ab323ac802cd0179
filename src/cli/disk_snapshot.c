/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk snapshot, atoll disk bitmap: what qcow2 images hold besides.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "cli/disk.h"
#include "cli/disk_options.h"
#include "cli/options.h"
#include "cli/say.h"

enum { OPT_GRANULARITY = OPT_OWN };

struct action {
	const char *name;
	int (*fn)(struct block *b, const char *name, u64 granularity,
	          struct error *err);
};

static int snapshot_create(struct block *b, const char *name, u64 granularity,
                           struct error *err)
{
	(void)granularity;
	return image_snapshot_create(b, name, err);
}

static int snapshot_apply(struct block *b, const char *name, u64 granularity,
                          struct error *err)
{
	(void)granularity;
	return image_snapshot_apply(b, name, err);
}

static int snapshot_delete(struct block *b, const char *name, u64 granularity,
                           struct error *err)
{
	(void)granularity;
	return image_snapshot_delete(b, name, err);
}

static int bitmap_delete(struct block *b, const char *name, u64 granularity,
                         struct error *err)
{
	(void)granularity;
	return image_bitmap_delete(b, name, err);
}

static int bitmap_clear(struct block *b, const char *name, u64 granularity,
                        struct error *err)
{
	(void)granularity;
	return image_bitmap_clear(b, name, err);
}

static int bitmap_enable(struct block *b, const char *name, u64 granularity,
                         struct error *err)
{
	(void)granularity;
	return image_bitmap_enable(b, name, true, err);
}

static int bitmap_disable(struct block *b, const char *name, u64 granularity,
                          struct error *err)
{
	(void)granularity;
	return image_bitmap_enable(b, name, false, err);
}

static const struct action snapshot_actions[] = {
	{ "create", snapshot_create },
	{ "apply", snapshot_apply },
	{ "delete", snapshot_delete },
	{ 0 },
};

static const struct action bitmap_actions[] = {
	{ "create", image_bitmap_create }, { "clear", bitmap_clear },
	{ "enable", bitmap_enable },       { "disable", bitmap_disable },
	{ "delete", bitmap_delete },       { 0 },
};

/* A verb's own part of all this. */
struct noun {
	const struct option_spec *options;
	const struct action *actions;
	void (*print)(const struct image_details *d);
	json_t *(*json)(const struct image_details *d);
};

struct request {
	struct disk_args args;
	u64 granularity;
};

static const struct option_spec snapshot_options[] = {
	DISK_OPT_JSON,
	{ 0 },
};

static const struct option_spec bitmap_options[] = {
	{ "granularity", "SIZE", "of a new bitmap (64K)", OPT_GRANULARITY },
	DISK_OPT_JSON,
	{ 0 },
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct request *r = ctx;

	if (id == OPT_GRANULARITY)
		return parse_size(value, 1, &r->granularity, err);
	return disk_arg(&r->args, id, value, err);
}

static void list_snapshots(const struct image_details *d)
{
	if (d->snapshot_count)
		printf("%-6s %-20s %-20s %s\n", "ID", "TIME", "NAME", "SIZE");
	for (u32 i = 0; i < d->snapshot_count; i++) {
		const struct image_snapshot *s = &d->snapshots[i];
		time_t t = (time_t)s->seconds;
		char when[32], size[32];
		struct tm tm;

		gmtime_r(&t, &tm);
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
		printf("%-6s %-20s %-20s %s\n", s->id, when, s->name,
		       format_size(s->disk_bytes, size, sizeof(size)));
	}
}

static void list_bitmaps(const struct image_details *d)
{
	if (d->bitmap_count)
		printf("%-20s %-12s %s\n", "NAME", "GRANULARITY", "STATE");
	for (u32 i = 0; i < d->bitmap_count; i++) {
		const struct image_bitmap *b = &d->bitmaps[i];
		char size[32];

		printf("%-20s %-12s %s\n", b->name,
		       format_size(b->granularity, size, sizeof(size)),
		       b->in_use    ? "not stored properly"
		       : b->enabled ? "recording"
		                    : "stopped");
	}
}

static const struct noun snapshots = { snapshot_options, snapshot_actions,
	                               list_snapshots, disk_snapshots_json };
static const struct noun bitmaps = { bitmap_options, bitmap_actions,
	                             list_bitmaps, disk_bitmaps_json };

static int list(const char *path, const struct noun *noun, bool json,
                struct error *err)
{
	struct image_details d;
	struct block *b;
	int rc = disk_open(&b, path, "qcow2",
	                   BLOCK_OPEN_READONLY | BLOCK_OPEN_NO_LOCK |
	                       IMAGE_OPEN_NO_BACKING | IMAGE_OPEN_AS_IS,
	                   err);

	if (rc < 0)
		return rc;
	image_details(b, &d);
	if (json)
		disk_print_json(noun->json(&d));
	else
		noun->print(&d);
	image_details_free(&d);
	block_close(b);
	return 0;
}

static int act(const struct request *r, const struct action *actions,
               struct error *err)
{
	struct block *b;
	int rc;

	while (actions->name && strcmp(actions->name, r->args.names[0]) != 0)
		actions++;
	if (!actions->name)
		return error_set(err, -EINVAL, "there is no '%s' here",
		                 r->args.names[0]);
	if (r->args.name_count != 3)
		return error_set(err, -EINVAL, "say %s FILE NAME",
		                 actions->name);
	rc = disk_open(&b, r->args.names[1], "qcow2", IMAGE_OPEN_NO_BACKING,
	               err);
	if (rc < 0)
		return rc;
	rc = actions->fn(b, r->args.names[2], r->granularity, err);
	block_close(b);
	return rc;
}

static int run(int argc, char **argv, const struct noun *noun)
{
	struct request r = { 0 };
	struct error err;
	int rc =
	    options_parse(noun->options, argc, argv, take_option, &r, &err);

	if (rc == 0 && r.args.name_count == 0)
		rc = error_set(&err, -EINVAL, "say what to do: list FILE, ...");
	if (rc == 0 && strcmp(r.args.names[0], "list") == 0)
		rc = r.args.name_count == 2
		         ? list(r.args.names[1], noun, r.args.json, &err)
		         : error_set(&err, -EINVAL, "say list FILE");
	else if (rc == 0)
		rc = act(&r, noun->actions, &err);
	return rc < 0 ? say_error(&err) : 0;
}

int disk_snapshot(int argc, char **argv)
{
	if (options_want_help(argc, argv)) {
		options_help("atoll disk snapshot list FILE\n"
		             "       atoll disk snapshot create|apply|delete"
		             " FILE NAME",
		             "Snapshots inside a qcow2 image.",
		             snapshot_options);
		return 0;
	}
	return run(argc, argv, &snapshots);
}

int disk_bitmap(int argc, char **argv)
{
	if (options_want_help(argc, argv)) {
		options_help("atoll disk bitmap list FILE\n"
		             "       atoll disk bitmap create|clear|enable|"
		             "disable|delete FILE NAME",
		             "Records, inside a qcow2 image, of what was"
		             " written.",
		             bitmap_options);
		return 0;
	}
	return run(argc, argv, &bitmaps);
}
