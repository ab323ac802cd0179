/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk convert, atoll disk compare
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/end.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/disk.h"
#include "cli/disk_options.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/say.h"

enum { OPT_FROM = OPT_OWN, OPT_TO, OPT_COMPRESS, OPT_SYNC };

struct convert {
	struct disk_args args;
	struct disk_new made;
	const char *from, *to;
	bool compress, sync;
};

static const struct option_spec convert_options[] = {
	{ "from", "F", "the source's format", OPT_FROM },
	{ "to", "F", "the target's format", OPT_TO },
	{ "compress", NULL, "store clusters compressed (qcow2)", OPT_COMPRESS },
	DISK_CREATE_OPTIONS,
	{ "sync", NULL, "end only when the copy is on stable storage",
	  OPT_SYNC },
	{ "force", NULL, "replace a file that is there", OPT_FORCE },
	DISK_OPT_QUIET,
	{ 0 },
};

static int convert_option(void *ctx, int id, const char *value,
                          struct error *err)
{
	struct convert *c = ctx;
	int rc = 0;

	if (id == OPT_FROM)
		c->from = value;
	else if (id == OPT_TO)
		c->to = value;
	else if (id == OPT_COMPRESS)
		c->compress = true;
	else if (id == OPT_SYNC)
		c->sync = true;
	else
		rc = disk_create_option(&c->made.how, id, value, err);
	return rc <= 0 ? rc : disk_arg(&c->args, id, value, err);
}

/* Over a backing file only what differs from it is kept. */
static int fill(struct convert *c, struct block *from, struct block *to,
                struct error *err)
{
	struct disk_progress p;
	bool blank = !c->made.how.backing;
	int rc;

	/* What was to be reserved would not be. */
	if (blank && !c->made.how.preallocation && image_share(from, to) == 0)
		return 0;
	disk_progress_begin(&p, "converting", c->args.quiet);
	rc =
	    image_copy(from, to, blank, c->compress && blank, &p.progress, err);
	disk_progress_end(&p);
	return rc;
}

static void explain(const struct convert *c, int rc, struct error *err)
{
	error_prefix(err, "%s to %s", c->args.names[0], c->args.names[1]);
	if (rc == -EIO && strcmp(c->from, "qcow2") == 0)
		error_hint(err, "atoll disk check %s", c->args.names[0]);
	else if (rc == -ENOSPC && c->made.file.replace)
		error_hint(err,
		           "what is there is kept until the copy is whole: "
		           "remove %s first",
		           c->args.names[1]);
}

static int convert(struct convert *c, struct error *err)
{
	struct block *from, *to;
	struct block_info info;
	int rc = disk_open(&from, c->args.names[0], c->from,
	                   BLOCK_OPEN_READONLY, err);

	if (rc < 0)
		return rc;
	block_info(from, &info);
	c->made.how.size = info.size;
	rc = disk_make(&c->made, err);
	if (rc == 0) {
		/* As cp does, unless asked: after a crash of the host the copy
		 * has to be made anew anyhow. */
		rc = image_open_new(&to, &c->made.how,
		                    c->sync ? 0 : BLOCK_OPEN_NO_FLUSH, err);
		if (rc == 0) {
			rc = fill(c, from, to, err);
			block_close(to);
			if (rc < 0)
				explain(c, rc, err);
		}
		if (rc == 0)
			rc = disk_keep(&c->made, err);
		disk_drop(&c->made);
	}
	block_close(from);
	return rc;
}

int disk_convert(int argc, char **argv)
{
	struct convert c = { 0 };
	struct image_create *how = &c.made.how;
	struct error err;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk convert SOURCE TARGET [OPTION]...",
		             "Copy a disk to another format; holes stay holes.",
		             convert_options);
		return 0;
	}
	rc = options_parse(convert_options, argc, argv, convert_option, &c,
	                   &err);
	if (rc == 0 && c.args.name_count != 2)
		rc = error_set(&err, -EINVAL, "say SOURCE and TARGET");
	if (rc < 0)
		return say_error(&err);
	c.from = disk_format_by(c.args.names[0], c.from, "from", &err);
	c.to =
	    c.from ? disk_format_by(c.args.names[1], c.to, "to", &err) : NULL;
	if (!c.to)
		return say_error(&err);
	if (file_same(c.args.names[0], c.args.names[1])) {
		error_set(&err, -EINVAL, "%s and %s are the same file",
		          c.args.names[0], c.args.names[1]);
		return say_error(&err);
	}
	if (c.compress &&
	    (strcmp(c.to, "qcow2") != 0 || how->backing || how->data_file)) {
		error_set(&err, -EINVAL,
		          "only a qcow2 image by itself can be"
		          " compressed");
		return say_error(&err);
	}
	how->path = c.args.names[1];
	how->format = c.to;
	how->replace = c.args.force;
	if (how->backing && !how->backing_format)
		how->backing_format =
		    disk_format_by(how->backing, NULL, "backing-format", &err);
	if (how->backing && !how->backing_format)
		rc = -EINVAL;
	else if (disk_format_foreign(c.from) || disk_format_foreign(c.to))
		rc = disk_convert_foreign(how, c.args.names[0], c.from,
		                          c.compress, c.sync, c.args.quiet,
		                          &err);
	else
		rc = convert(&c, &err);
	return rc < 0 ? say_error(&err) : 0;
}

struct compare {
	struct disk_args args;
	const char *second;
};

static const struct option_spec compare_options[] = {
	{ "format", "F", "of the first", OPT_IMAGE_FORMAT },
	{ "second-format", "F", "of the second", OPT_TO },
	DISK_OPT_JSON,
	DISK_OPT_QUIET,
	{ 0 },
};

static int compare_option(void *ctx, int id, const char *value,
                          struct error *err)
{
	struct compare *c = ctx;

	if (id != OPT_TO)
		return disk_arg(&c->args, id, value, err);
	c->second = value;
	return 0;
}

/* As cmp does: 1 is an answer, and trouble none. */
static int trouble(const struct error *err)
{
	int code = say_error(err);

	return code == END_FAILURE ? END_USAGE : code;
}

static int answer(const struct compare *c, bool same, u64 where)
{
	if (c->args.json)
		disk_print_json(json_pack(
		    "{s:i, s:b, s:o}", "version", 1, "same", same, "differ_at",
		    same ? json_null() : json_integer((json_int_t)where)));
	else if (same)
		puts("the disks hold the same");
	else
		printf("the disks differ at byte %" PRIu64 "\n", where);
	return same ? 0 : 1;
}

static int compare(struct compare *c, bool *same, u64 *where, struct error *err)
{
	struct disk_progress p;
	struct block *a, *b;
	int rc;

	c->second =
	    disk_format_by(c->args.names[1], c->second, "second-format", err);
	if (!c->second)
		return -EINVAL;
	rc = disk_open(&a, c->args.names[0], c->args.format,
	               BLOCK_OPEN_READONLY, err);
	if (rc < 0)
		return rc;
	rc = disk_open(&b, c->args.names[1], c->second, BLOCK_OPEN_READONLY,
	               err);
	if (rc == 0) {
		disk_progress_begin(&p, "comparing", c->args.quiet);
		rc = image_compare(a, b, same, where, &p.progress, err);
		disk_progress_end(&p);
		block_close(b);
	}
	block_close(a);
	return rc;
}

int disk_compare(int argc, char **argv)
{
	struct compare c = { 0 };
	struct error err;
	bool same = false;
	u64 where = 0;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk compare FILE FILE [OPTION]...",
		             "Tell whether two disks hold the same. Exits with"
		             " 1 if not.",
		             compare_options);
		return 0;
	}
	rc = options_parse(compare_options, argc, argv, compare_option, &c,
	                   &err);
	if (rc == 0 && c.args.name_count != 2)
		rc = error_set(&err, -EINVAL, "say two FILEs");
	if (rc == 0)
		rc = compare(&c, &same, &where, &err);
	return rc < 0 ? trouble(&err) : answer(&c, same, where);
}
