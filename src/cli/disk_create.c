/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk create, atoll disk resize
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/disk.h"
#include "cli/disk_options.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/say.h"

static const char *const preallocations[] = { "off", "metadata", "falloc",
	                                      "full" };

int disk_create_option(struct image_create *how, int id, const char *value,
                       struct error *err)
{
	u64 n;
	int rc = 0;

	switch (id) {
	case OPT_BACKING:
		how->backing = value;
		break;
	case OPT_BACKING_FORMAT:
		how->backing_format = value;
		break;
	case OPT_CLUSTER:
		rc = parse_size(value, 1, &n, err);
		how->cluster_bytes = n > UINT32_MAX ? 1 : (u32)n;
		break;
	case OPT_REFCOUNT:
		rc = parse_u64(value, 1, 64, &n, err);
		how->refcount_bits = (u32)n;
		break;
	case OPT_VERSION:
		rc = parse_u64(value, 2, 3, &n, err);
		how->version = (unsigned)n;
		break;
	case OPT_COMPRESSION:
		how->compression = value;
		break;
	case OPT_LAZY:
		how->lazy_refcounts = true;
		break;
	case OPT_EXTENDED:
		how->extended_l2 = true;
		break;
	case OPT_DATA_FILE:
		how->data_file = value;
		break;
	case OPT_DATA_RAW:
		how->data_file_raw = true;
		break;
	case OPT_PREALLOCATION:
		for (size_t i = 0; i < ARRAY_SIZE(preallocations); i++)
			if (strcmp(value, preallocations[i]) == 0) {
				how->preallocation =
				    (enum image_preallocation)i;
				return 0;
			}
		return error_set(err, -EINVAL,
		                 "preallocation is off, metadata, falloc or"
		                 " full, not '%s'",
		                 value);
	default:
		return 1;
	}
	return rc;
}

struct create {
	struct disk_args args;
	struct disk_new made;
};

static const struct option_spec create_options[] = {
	DISK_OPT_FORMAT,
	DISK_CREATE_OPTIONS,
	{ "force", NULL, "replace a file that is there", OPT_FORCE },
	{ 0 },
};

static int create_option(void *ctx, int id, const char *value,
                         struct error *err)
{
	struct create *c = ctx;
	int rc = disk_create_option(&c->made.how, id, value, err);

	return rc <= 0 ? rc : disk_arg(&c->args, id, value, err);
}

/* A disk over another is as large as that, unless said. */
static int size_of_backing(struct image_create *how, struct error *err)
{
	struct block_info info;
	struct block *b;
	char *path;
	const char *slash =
	    how->backing[0] == '/' ? NULL : strrchr(how->path, '/');
	int rc;

	path = xasprintf("%.*s%s", slash ? (int)(slash - how->path) + 1 : 0,
	                 how->path, how->backing);
	rc = disk_open(&b, path, how->backing_format, BLOCK_OPEN_READONLY, err);
	free(path);
	if (rc < 0)
		return error_prefix(err, "backing file");
	block_info(b, &info);
	if (how->size == 0)
		how->size = info.size;
	block_close(b);
	return 0;
}

/* Whether both names lead, or would, to one file. */
static bool one_place(const char *a, const char *b)
{
	const char *at[2] = { a, b }, *end[2];
	char *folder[2];
	bool same;

	for (int i = 0; i < 2; i++) {
		const char *slash = strrchr(at[i], '/');

		end[i] = slash ? slash + 1 : at[i];
		folder[i] = xasprintf("%.*s.", (int)(end[i] - at[i]), at[i]);
	}
	same = file_same(a, b) ||
	       (strcmp(end[0], end[1]) == 0 && file_same(folder[0], folder[1]));
	free(folder[0]);
	free(folder[1]);
	return same;
}

static int check_data_file(const struct image_create *how, struct error *err)
{
	char *data = image_path_beside(how->path, how->data_file);
	struct stat st;
	int rc = 0;

	if (one_place(how->path, data)) {
		rc = error_set(err, -EINVAL,
		               "--data-file %s is the image itself", data);
	} else if (!how->replace && lstat(how->path, &st) == 0) {
		/* Before the data file is made. */
		rc = error_set(err, -EEXIST, "%s: %s", how->path,
		               strerror(EEXIST));
		error_hint(err, "--force replaces both");
	}
	free(data);
	return rc;
}

static int begin_files(struct disk_new *d, struct error *err)
{
	unsigned flags = d->how.replace ? PARTIAL_REPLACE : 0;
	int rc = partial_begin(&d->file, d->how.path, flags, err);
	char *data;

	if (rc < 0 || !d->how.data_file)
		return rc;
	data = image_path_beside(d->how.path, d->how.data_file);
	rc = partial_begin(&d->data, data, flags, err);
	free(data);
	return rc;
}

int disk_make(struct disk_new *d, struct error *err)
{
	int rc = d->how.data_file ? check_data_file(&d->how, err) : 0;

	d->file = d->data = (struct partial){ .path = NULL };
	if (rc < 0)
		return rc;
	rc = begin_files(d, err);
	d->how.by = d->file.by;
	d->how.data_by = d->data.by;
	if (rc == 0)
		rc = image_create(&d->how, err);
	if (rc < 0)
		disk_drop(d);
	return rc;
}

int disk_keep(struct disk_new *d, struct error *err)
{
	char *data = d->data.path ? xstrdup(d->data.path) : NULL;
	bool replace = d->how.replace;
	/* An image that names it is never there without it. */
	int rc = data ? partial_end(&d->data, err) : 0;

	if (rc == 0) {
		rc = partial_end(&d->file, err);
		if (rc < 0 && data && !replace)
			unlink(data);
	}
	disk_drop(d);
	free(data);
	return rc;
}

void disk_drop(struct disk_new *d)
{
	partial_discard(&d->file);
	partial_discard(&d->data);
	d->how.by = d->how.data_by = NULL;
}

int disk_create(int argc, char **argv)
{
	struct create c = { 0 };
	struct image_create *how = &c.made.how;
	struct error err;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk create FILE [SIZE] [OPTION]...",
		             "Make an empty disk of SIZE (10G, 512M).",
		             create_options);
		return 0;
	}
	rc = options_parse(create_options, argc, argv, create_option, &c, &err);
	if (rc == 0 && (c.args.name_count < 1 || c.args.name_count > 2))
		rc = error_set(&err, -EINVAL, "say FILE and SIZE");
	if (rc == 0 && c.args.name_count == 1 && !how->backing)
		rc = error_set(&err, -EINVAL, "say the disk's size");
	if (rc == 0 && c.args.name_count == 2)
		rc = parse_size(c.args.names[1], 1, &how->size, &err);
	if (rc < 0)
		return say_error(&err);
	how->path = c.args.names[0];
	how->replace = c.args.force;
	how->format = disk_format(how->path, c.args.format, &err);
	if (!how->format)
		return say_error(&err);
	if (how->backing && !how->backing_format)
		how->backing_format =
		    disk_format_by(how->backing, NULL, "backing-format", &err);
	if (how->backing &&
	    (!how->backing_format || size_of_backing(how, &err) < 0))
		return say_error(&err);
	how->size = ALIGN_UP(how->size, 512);
	rc = disk_make(&c.made, &err);
	if (rc == 0)
		rc = disk_keep(&c.made, &err);
	return rc < 0 ? say_error(&err) : 0;
}

static const struct option_spec resize_options[] = {
	DISK_OPT_FORMAT,
	{ "shrink", NULL, "allow cutting off what is beyond SIZE", OPT_FORCE },
	{ 0 },
};

static int resize_option(void *ctx, int id, const char *value,
                         struct error *err)
{
	return disk_arg(ctx, id, value, err);
}

static int new_size(const char *text, u64 old, u64 *size, struct error *err)
{
	u64 n;
	int rc =
	    parse_size(text + (text[0] == '+' || text[0] == '-'), 1, &n, err);

	if (rc < 0)
		return rc;
	if (text[0] == '-' && n > old)
		return error_set(err, -EINVAL, "the disk is smaller than that");
	*size = text[0] == '+' ? old + n : text[0] == '-' ? old - n : n;
	*size = ALIGN_UP(*size, 512);
	return 0;
}

int disk_resize(int argc, char **argv)
{
	struct disk_args args = { 0 };
	struct block_info info;
	struct error err;
	struct block *b;
	u64 size = 0;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk resize FILE [+|-]SIZE [OPTION]...",
		             "Give a disk another size. New space is zero.",
		             resize_options);
		return 0;
	}
	rc = options_parse(resize_options, argc, argv, resize_option, &args,
	                   &err);
	if (rc == 0 && args.name_count != 2)
		rc = error_set(&err, -EINVAL, "say FILE and SIZE");
	if (rc == 0)
		rc = disk_open(&b, args.names[0], args.format, 0, &err);
	if (rc < 0)
		return say_error(&err);
	block_info(b, &info);
	rc = new_size(args.names[1], info.size, &size, &err);
	if (rc == 0 && size < info.size && !args.force) {
		rc = error_set(&err, -EINVAL, "that would cut off data");
		error_hint(&err, "--shrink does it all the same");
	}
	if (rc == 0)
		rc = block_resize(b, size, &err);
	block_close(b);
	return rc < 0 ? say_error(&err) : 0;
}
