/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll snapshot diff - what is not the same in two snapshots of a machine:
 * its configuration, its memory, its disks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/named.h"
#include "cli/options.h"
#include "cli/say.h"
#include "cli/snapshot.h"
#include "storage/image.h"
#include "storage/state_file.h"
#include "storage/state_pages.h"

enum {
	DISK_UNIT = 65536, /* what differs is told in pieces of that */
	MEMORY_UNIT = 4096,
	ABOUT_MAX = 1 << 20,
	ROWS = 8, /* of ranges, in the table */
};

struct wish {
	struct snapshot_of of;
	struct snapshot_remote remote;
	const char *name[2];
};

static int one(void *ctx, int id, const char *value, struct error *err)
{
	struct wish *w = ctx;

	if (id)
		return snapshot_where_option(&w->of, &w->remote, id, value,
		                             err);
	if (!w->of.machine) {
		w->of.machine = value;
		return 0;
	}
	if (!w->name[0])
		w->name[0] = value;
	else if (!w->name[1])
		w->name[1] = value;
	else
		return error_set(err, -EINVAL, "%s: one name too many", value);
	return named_check(value, err);
}

/* ---- ranges ---- */

/* Appends the run [from, to) of units to the list. */
static void add_range(json_t *o, u64 from, u64 to, u64 unit)
{
	json_t *list = json_object_get(o, "ranges");
	json_int_t bytes = (json_int_t)((to - from) * unit);

	json_array_append_new(list, json_pack("{s:I,s:I}", "offset",
	                                      (json_int_t)(from * unit),
	                                      "length", bytes));
	bytes += json_integer_value(json_object_get(o, "differing_bytes"));
	json_object_set_new(o, "differing_bytes", json_integer(bytes));
}

static json_t *no_ranges(void)
{
	return json_pack("{s:i,s:[]}", "differing_bytes", 0, "ranges");
}

/* ---- memory and configuration: the state's file ---- */

struct state {
	char *path;
	int fd;
	struct state_file file;
	json_t *about;
};

static int state_open(struct state *st, const struct snapshots *s,
                      const char *name, struct error *err)
{
	u8 *text = NULL;
	size_t size;
	int rc;

	st->path = snapshots_path(s, name, "state");
	st->fd = open(st->path, O_RDONLY | O_CLOEXEC);
	if (st->fd < 0)
		return error_set(err, -errno, "cannot read %s: %s", st->path,
		                 strerror(errno));
	rc = state_file_open(&st->file, st->fd, err);
	if (rc == 0)
		rc = state_file_read(&st->file, "about", ABOUT_MAX, &text,
		                     &size, err);
	if (rc == 0)
		st->about = json_loadb((char *)text, size, 0, NULL);
	free(text);
	return rc < 0 ? error_prefix(err, "snapshot %s", name) : 0;
}

static void state_close(struct state *st)
{
	json_decref(st->about);
	if (st->fd >= 0)
		close(st->fd);
	free(st->path);
}

static int diff_memory(const struct state st[2], json_t **out,
                       struct error *err)
{
	struct state_pages a = { 0 }, b = { 0 };
	json_t *o = no_ranges();
	int rc = state_pages_read(&a, &st[0].file, err);
	u64 pages, from = 0;
	bool inside = false;

	if (rc == 0)
		rc = state_pages_read(&b, &st[1].file, err);
	pages = MAX(a.count, b.count);
	for (u64 i = 0; rc == 0 && i <= pages; i++) {
		bool differs = i < pages && (i >= a.count || i >= b.count ||
		                             a.sum[i] != b.sum[i]);

		if (differs && !inside)
			from = i;
		else if (!differs && inside)
			add_range(o, from, i, MEMORY_UNIT);
		inside = differs;
	}
	json_object_set_new(o, "bytes",
	                    json_integer((json_int_t)pages * MEMORY_UNIT));
	state_pages_fini(&a);
	state_pages_fini(&b);
	if (rc < 0)
		json_decref(o);
	else
		*out = o;
	return rc;
}

/* Of a value: a path to it, and both sides (null: it is not there). */
static void add_change(json_t *list, const char *path, json_t *a, json_t *b)
{
	json_array_append_new(
	    list, json_pack("{s:s,s:O?,s:O?}", "what", path, "a", a, "b", b));
}

static void diff_values(json_t *list, const char *path, json_t *a, json_t *b)
{
	const char *key;
	json_t *value;

	if (json_equal(a, b))
		return;
	if (!json_is_object(a) || !json_is_object(b)) {
		add_change(list, path, a, b);
		return;
	}
	json_object_foreach(a, key, value)
	{
		char *below = xasprintf("%s%s%s", path, *path ? "." : "", key);

		diff_values(list, below, value, json_object_get(b, key));
		free(below);
	}
	json_object_foreach(b, key, value)
	{
		char *below = xasprintf("%s%s%s", path, *path ? "." : "", key);

		if (!json_object_get(a, key))
			add_change(list, below, NULL, value);
		free(below);
	}
}

/* When it was saved is no property of the machine. */
static json_t *diff_configuration(const struct state st[2])
{
	json_t *list = json_array();

	for (int i = 0; i < 2; i++)
		json_object_del(st[i].about, "saved_at");
	diff_values(list, "", st[0].about, st[1].about);
	return list;
}

/* ---- disks ---- */

static json_t *disk_of(json_t *snapshot, json_int_t number)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(snapshot, "disks"), i, disk)
	{
		if (json_integer_value(json_object_get(disk, "disk")) == number)
			return disk;
	}
	return NULL;
}

static int open_disk(const struct snapshots *s, const char *name, json_t *disk,
                     struct block **out, struct error *err)
{
	char *file = xasprintf(
	    "disk%d", (int)json_integer_value(json_object_get(disk, "disk")));
	char *path = snapshots_path(s, name, file);
	const struct block_open how = {
		.path = path,
		.fd = -1,
		.format = json_string_value(json_object_get(disk, "stored")),
		.flags = BLOCK_OPEN_READONLY,
	};
	int rc = block_open(out, &how, err);

	free(path);
	free(file);
	return rc;
}

static int compare(struct block *b[2], json_t *o, struct error *err)
{
	struct block_info info[2];
	u64 units, from = 0;
	bool inside = false;
	u8 *differs;
	int rc;

	for (int i = 0; i < 2; i++)
		block_info(b[i], &info[i]);
	units = (MAX(info[0].size, info[1].size) + DISK_UNIT - 1) / DISK_UNIT;
	differs = try_alloc(units + 1, 1);
	if (!differs)
		return error_set(err, -ENOMEM, "no memory to compare disks");
	rc = image_differences(b[0], b[1], DISK_UNIT, differs, err);
	for (u64 i = 0; rc == 0 && i <= units; i++) {
		if (differs[i] && !inside)
			from = i;
		else if (!differs[i] && inside)
			add_range(o, from, i, DISK_UNIT);
		inside = differs[i];
	}
	free(differs);
	json_object_set_new(o, "bytes_a",
	                    json_integer((json_int_t)info[0].size));
	json_object_set_new(o, "bytes_b",
	                    json_integer((json_int_t)info[1].size));
	return rc;
}

static int diff_disk(const struct snapshots *s, const struct wish *w, json_t *a,
                     json_t *b, json_t *list, struct error *err)
{
	struct block *blocks[2] = { NULL };
	json_t *o = no_ranges();
	int rc = open_disk(s, w->name[0], a, &blocks[0], err);

	json_object_set(o, "disk", json_object_get(a, "disk"));
	json_object_set(o, "path", json_object_get(b, "path"));
	if (rc == 0)
		rc = open_disk(s, w->name[1], b, &blocks[1], err);
	if (rc == 0)
		rc = compare(blocks, o, err);
	block_close(blocks[0]);
	block_close(blocks[1]);
	json_array_append_new(list, o);
	return rc;
}

/* One that the other has not counts as an other configuration. */
static int diff_disks(const struct snapshots *s, const struct wish *w,
                      json_t *const one[2], json_t *changes, json_t **out,
                      struct error *err)
{
	json_t *list = json_array(), *disk;
	int rc = 0;

	for (int side = 0; side < 2; side++) {
		size_t i;

		json_array_foreach(json_object_get(one[side], "disks"), i, disk)
		{
			json_int_t n =
			    json_integer_value(json_object_get(disk, "disk"));
			json_t *other = disk_of(one[!side], n);
			char *what = xasprintf("disk %d", (int)n);

			if (!other)
				add_change(changes, what, side ? NULL : disk,
				           side ? disk : NULL);
			else if (side == 0 && rc == 0)
				rc = diff_disk(s, w, disk, other, list, err);
			free(what);
		}
	}
	*out = list;
	return rc;
}

/* ---- all of it ---- */

static int diff(const struct snapshots *s, const struct wish *w, json_t **out,
                struct error *err)
{
	json_t *one[2], *memory = NULL, *changes, *disks = NULL;
	struct state st[2] = { { .fd = -1 }, { .fd = -1 } };
	int rc = 0;

	for (int i = 0; rc == 0 && i < 2; i++) {
		one[i] = snapshots_find(s, w->name[i], err);
		rc =
		    one[i] ? state_open(&st[i], s, w->name[i], err) : err->code;
	}
	if (rc == 0)
		rc = diff_memory(st, &memory, err);
	if (rc == 0) {
		changes = diff_configuration(st);
		rc = diff_disks(s, w, one, changes, &disks, err);
		*out = json_pack("{s:s,s:s,s:o,s:o,s:o}", "a", w->name[0], "b",
		                 w->name[1], "configuration", changes, "memory",
		                 memory, "disks", disks);
	}
	state_close(&st[0]);
	state_close(&st[1]);
	return rc;
}

static void print_ranges(json_t *o)
{
	json_t *list = json_object_get(o, "ranges"), *range;
	size_t i, count = json_array_size(list);

	json_array_foreach(list, i, range)
	{
		json_int_t at = 0, length = 0;
		char size[32];

		if (i == ROWS) {
			printf("    and %zu more\n", count - ROWS);
			break;
		}
		json_unpack(range, "{s:I,s:I}", "offset", &at, "length",
		            &length);
		printf("    %#14llx  %s\n", (long long)at,
		       format_size((u64)length, size, sizeof(size)));
	}
}

static void print_part(const char *what, json_t *o, json_int_t of)
{
	char size[32], whole[32];
	u64 bytes =
	    (u64)json_integer_value(json_object_get(o, "differing_bytes"));

	printf("%-16s %s of %s", what, format_size(bytes, size, sizeof(size)),
	       format_size((u64)of, whole, sizeof(whole)));
	printf(" in %zu ranges\n",
	       json_array_size(json_object_get(o, "ranges")));
	print_ranges(o);
}

static void print_side(json_t *value)
{
	char *text = value && !json_is_null(value)
	                 ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY)
	                 : xstrdup("-");

	fputs(text ? text : "?", stdout);
	free(text);
}

static void print(json_t *o)
{
	json_t *memory = json_object_get(o, "memory"), *each;
	size_t i;

	json_array_foreach(json_object_get(o, "configuration"), i, each)
	{
		printf("%-16s ",
		       json_string_value(json_object_get(each, "what")));
		print_side(json_object_get(each, "a"));
		fputs(" -> ", stdout);
		print_side(json_object_get(each, "b"));
		putchar('\n');
	}
	print_part("memory", memory,
	           json_integer_value(json_object_get(memory, "bytes")));
	json_array_foreach(json_object_get(o, "disks"), i, each)
	{
		char name[32];

		snprintf(
		    name, sizeof(name), "disk %d",
		    (int)json_integer_value(json_object_get(each, "disk")));
		print_part(
		    name, each,
		    MAX(json_integer_value(json_object_get(each, "bytes_a")),
		        json_integer_value(json_object_get(each, "bytes_b"))));
	}
}

static int diff_here(const struct wish *w, json_t **out)
{
	struct error err = { 0 };
	struct snapshots s;
	int rc;

	if (snapshots_open(&s, &w->of, false, &err) < 0)
		return say_error(&err);
	rc = diff(&s, w, out, &err);
	snapshots_fini(&s);
	return rc < 0 ? say_error(&err) : 0;
}

int snapshot_diff(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		SNAPSHOT_OPT_JSON,
		SNAPSHOT_OPTIONS,
		{ 0 },
	};
	struct wish w = { 0 };
	struct error err = { 0 };
	json_t *o = NULL;
	bool remote;
	int code;

	if (options_want_help(argc, argv)) {
		options_help("atoll snapshot diff [OPTION]... MACHINE A B",
		             "Tell what is not the same in two snapshots.",
		             specs);
		return 0;
	}
	if (options_parse(specs, argc, argv, one, &w, &err) < 0)
		return say_error(&err);
	if (!w.name[1])
		return say_usage("which machine, and which two snapshots?");
	if (snapshot_is_remote(&w.of, &w.remote, &remote, &err) < 0)
		return say_error(&err);
	code = remote ? snapshot_remote_diff(&w.of, &w.remote, w.name[0],
	                                     w.name[1], &o)
	              : diff_here(&w, &o);
	if (code == 0 && w.remote.json) {
		json_dumpf(o, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (code == 0) {
		print(o);
	}
	json_decref(o);
	return code;
}
