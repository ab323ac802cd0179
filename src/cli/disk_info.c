/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk info, atoll disk map
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "cli/disk.h"
#include "cli/options.h"
#include "cli/say.h"

static const struct option_spec info_options[] = {
	DISK_OPT_FORMAT,
	DISK_OPT_JSON,
	{ 0 },
};

static int common_option(void *ctx, int id, const char *value,
                         struct error *err)
{
	return disk_arg(ctx, id, value, err);
}

static json_t *maybe(const char *s)
{
	return s ? json_string(s) : json_null();
}

static json_t *snapshot_json(const struct image_snapshot *s)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "id", s->id, "name",
	                 s->name, "time", (json_int_t)s->seconds, "clock_ns",
	                 (json_int_t)s->clock_ns, "state_bytes",
	                 (json_int_t)s->state_bytes, "size",
	                 (json_int_t)s->disk_bytes);
}

static json_t *bitmap_json(const struct image_bitmap *b)
{
	return json_pack("{s:s, s:I, s:b, s:b}", "name", b->name, "granularity",
	                 (json_int_t)b->granularity, "enabled", b->enabled,
	                 "in_use", b->in_use);
}

json_t *disk_snapshots_json(const struct image_details *d)
{
	json_t *list = json_array();

	for (u32 i = 0; i < d->snapshot_count; i++)
		json_array_append_new(list, snapshot_json(&d->snapshots[i]));
	return list;
}

json_t *disk_bitmaps_json(const struct image_details *d)
{
	json_t *list = json_array();

	for (u32 i = 0; i < d->bitmap_count; i++)
		json_array_append_new(list, bitmap_json(&d->bitmaps[i]));
	return list;
}

void disk_print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static json_t *details_json(const char *path, const struct block_info *info,
                            const struct image_details *d, u64 on_host)
{
	json_t *o =
	    json_pack("{s:i, s:s, s:s, s:I, s:I}", "version", 1, "file", path,
	              "format", d->format, "size", (json_int_t)info->size,
	              "host_bytes", (json_int_t)on_host);

	if (d->version == 0)
		return o;
	json_object_set_new(o, "qcow2_version",
	                    json_integer((json_int_t)d->version));
	json_object_set_new(o, "cluster_size",
	                    json_integer((json_int_t)d->cluster_bytes));
	json_object_set_new(o, "refcount_bits",
	                    json_integer((json_int_t)d->refcount_bits));
	json_object_set_new(o, "compression", json_string(d->compression));
	json_object_set_new(o, "lazy_refcounts",
	                    json_boolean(d->lazy_refcounts));
	json_object_set_new(o, "extended_l2", json_boolean(d->extended_l2));
	json_object_set_new(o, "dirty", json_boolean(d->dirty));
	json_object_set_new(o, "corrupt", json_boolean(d->corrupt));
	json_object_set_new(o, "backing", maybe(d->backing));
	json_object_set_new(o, "backing_format", maybe(d->backing_format));
	json_object_set_new(o, "data_file", maybe(d->data_file));
	json_object_set_new(o, "data_file_raw", json_boolean(d->data_file_raw));
	json_object_set_new(o, "snapshots", disk_snapshots_json(d));
	json_object_set_new(o, "bitmaps", disk_bitmaps_json(d));
	return o;
}

static void print_time(u64 seconds)
{
	time_t t = (time_t)seconds;
	struct tm tm;
	char text[32];

	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	fputs(text, stdout);
}

static void print_details(const char *path, const struct block_info *info,
                          const struct image_details *d, u64 on_host)
{
	char a[32], b[32];

	printf("file            %s\nformat          %s\n", path, d->format);
	printf("size            %s (%" PRIu64 " bytes)\n",
	       format_size(info->size, a, sizeof(a)), info->size);
	printf("on the host     %s\n", format_size(on_host, b, sizeof(b)));
	if (d->version == 0)
		return;
	printf("qcow2 version   %u\ncluster         %s\n", d->version,
	       format_size(d->cluster_bytes, a, sizeof(a)));
	printf("refcount bits   %u\ncompression     %s\n", d->refcount_bits,
	       d->compression);
	if (d->backing)
		printf("backing file    %s (%s)\n", d->backing,
		       d->backing_format ? d->backing_format
		                         : "format not stated");
	if (d->data_file)
		printf("data file       %s%s\n", d->data_file,
		       d->data_file_raw ? " (raw)" : "");
	printf("features       %s%s%s\n",
	       d->lazy_refcounts ? " lazy-refcounts" : "",
	       d->extended_l2 ? " extended-l2" : "",
	       d->lazy_refcounts || d->extended_l2 ? "" : " -");
	printf("state           %s\n", d->corrupt ? "corrupt"
	                               : d->dirty ? "not closed properly"
	                                          : "clean");
	for (u32 i = 0; i < d->snapshot_count; i++) {
		printf("snapshot        %s  %s  ", d->snapshots[i].id,
		       d->snapshots[i].name);
		print_time(d->snapshots[i].seconds);
		putchar('\n');
	}
	for (u32 i = 0; i < d->bitmap_count; i++)
		printf("bitmap          %s  %s%s%s\n", d->bitmaps[i].name,
		       format_size(d->bitmaps[i].granularity, a, sizeof(a)),
		       d->bitmaps[i].enabled ? "" : "  disabled",
		       d->bitmaps[i].in_use ? "  not stored properly" : "");
}

static int open_to_look(struct block **b, struct disk_args *args, int argc,
                        char **argv, unsigned flags, struct error *err)
{
	int rc =
	    options_parse(info_options, argc, argv, common_option, args, err);

	if (rc == 0 && args->name_count != 1)
		rc = error_set(err, -EINVAL, "say one FILE");
	/* Looking does no harm beside a machine that runs on it. */
	return rc < 0
	           ? rc
	           : disk_open(b, args->names[0], args->format,
	                       flags | BLOCK_OPEN_READONLY | BLOCK_OPEN_NO_LOCK,
	                       err);
}

int disk_info(int argc, char **argv)
{
	struct disk_args args = { 0 };
	struct image_details d;
	struct block_info info;
	struct stat st = { 0 };
	struct error err;
	struct block *b;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk info FILE [OPTION]...",
		             "Tell what an image is.", info_options);
		return 0;
	}
	if (open_to_look(&b, &args, argc, argv,
	                 IMAGE_OPEN_NO_BACKING | IMAGE_OPEN_AS_IS, &err) < 0)
		return say_error(&err);
	stat(args.names[0], &st);
	block_info(b, &info);
	image_details(b, &d);
	if (args.json)
		disk_print_json(details_json(args.names[0], &info, &d,
		                             (u64)st.st_blocks * 512));
	else
		print_details(args.names[0], &info, &d,
		              (u64)st.st_blocks * 512);
	image_details_free(&d);
	block_close(b);
	return 0;
}

static void print_extent(u64 offset, const struct block_extent *e)
{
	const char *kind = e->flags & BLOCK_EXTENT_COMPRESSED ? "compressed"
	                   : e->flags & BLOCK_EXTENT_ZERO     ? "zero"
	                                                      : "data";

	printf("%#14" PRIx64 " %#14" PRIx64 "  %5u  %-10s", offset, e->length,
	       e->depth, kind);
	if ((e->flags & BLOCK_EXTENT_MAPPED) && !(e->flags & BLOCK_EXTENT_ZERO))
		printf("  %#" PRIx64, e->host_offset);
	putchar('\n');
}

static json_t *extent_json(u64 offset, const struct block_extent *e)
{
	json_t *o = json_pack(
	    "{s:I, s:I, s:i, s:b, s:b, s:b}", "start", (json_int_t)offset,
	    "length", (json_int_t)e->length, "depth", (int)e->depth, "data",
	    (e->flags & BLOCK_EXTENT_DATA) && !(e->flags & BLOCK_EXTENT_ZERO),
	    "zero", !!(e->flags & BLOCK_EXTENT_ZERO), "compressed",
	    !!(e->flags & BLOCK_EXTENT_COMPRESSED));

	if ((e->flags & BLOCK_EXTENT_MAPPED) && !(e->flags & BLOCK_EXTENT_ZERO))
		json_object_set_new(o, "offset",
		                    json_integer((json_int_t)e->host_offset));
	return o;
}

static bool goes_on(const struct block_extent *a, const struct block_extent *b)
{
	return a->flags == b->flags && a->depth == b->depth &&
	       !(a->flags & BLOCK_EXTENT_COMPRESSED) &&
	       (!(a->flags & BLOCK_EXTENT_MAPPED) ||
	        (a->flags & BLOCK_EXTENT_ZERO) ||
	        a->host_offset + a->length == b->host_offset);
}

int disk_map(int argc, char **argv)
{
	struct disk_args args = { 0 };
	struct block_extent now, e = { 0 };
	struct block_info info;
	struct error err;
	struct block *b;
	json_t *list;
	u64 start = 0;
	int rc = 0;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk map FILE [OPTION]...",
		             "Show where the data is: start, length, how deep"
		             " in the chain, kind, place.",
		             info_options);
		return 0;
	}
	if (open_to_look(&b, &args, argc, argv, 0, &err) < 0)
		return say_error(&err);
	block_info(b, &info);
	list = json_array();
	for (u64 at = 0; at < info.size && rc == 0; at += now.length) {
		rc = block_map(b, at, info.size - at, &now);
		if (rc < 0)
			break;
		if (at > 0 && goes_on(&e, &now)) {
			e.length += now.length;
			continue;
		}
		if (at > 0 && args.json)
			json_array_append_new(list, extent_json(start, &e));
		else if (at > 0)
			print_extent(start, &e);
		start = at;
		e = now;
	}
	if (rc == 0 && info.size > 0 && args.json)
		json_array_append_new(list, extent_json(start, &e));
	else if (rc == 0 && info.size > 0)
		print_extent(start, &e);
	if (rc == 0 && args.json) {
		json_dumpf(list, stdout, JSON_INDENT(1));
		putchar('\n');
	}
	json_decref(list);
	block_close(b);
	if (rc == 0)
		return 0;
	error_set(&err, rc, "%s: the image can't be read", args.names[0]);
	return say_error(&err);
}
