/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk rebase, atoll disk commit
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/disk.h"
#include "cli/disk_options.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/say.h"

enum { OPT_UNSAFE = OPT_OWN, OPT_KEEP };

struct chain {
	struct disk_args args;
	const char *backing, *backing_format;
	char *same; /* the one it has, when that is what is meant */
	bool unsafe, keep;
};

static const struct option_spec rebase_options[] = {
	{ "backing", "FILE", "the new one; none if not given", OPT_BACKING },
	{ "backing-format", "F", "raw or qcow2", OPT_BACKING_FORMAT },
	{ "unsafe", NULL, "only change the name, not what the disk holds",
	  OPT_UNSAFE },
	DISK_OPT_QUIET,
	{ 0 },
};

static const struct option_spec commit_options[] = {
	{ "keep", NULL, "do not empty the image afterwards", OPT_KEEP },
	DISK_OPT_QUIET,
	{ 0 },
};

static int chain_option(void *ctx, int id, const char *value, struct error *err)
{
	struct chain *c = ctx;

	switch (id) {
	case OPT_BACKING:
		c->backing = value;
		return 0;
	case OPT_BACKING_FORMAT:
		c->backing_format = value;
		return 0;
	case OPT_UNSAFE:
		c->unsafe = true;
		return 0;
	case OPT_KEEP:
		c->keep = true;
		return 0;
	default:
		return disk_arg(&c->args, id, value, err);
	}
}

/* name as the image at path would mean it. */
static char *beside(const char *path, const char *name)
{
	const char *slash = name[0] == '/' ? NULL : strrchr(path, '/');

	return xasprintf("%.*s%s", slash ? (int)(slash - path) + 1 : 0, path,
	                 name);
}

static int open_backing(struct block **out, const char *image, const char *name,
                        const char *format, bool writable, struct error *err)
{
	char *path = beside(image, name);
	struct stat st;
	int rc = 0;

	/* Also for those whom the mode does not stop: others lie on it. */
	if (writable && stat(path, &st) == 0 && !(st.st_mode & S_IWUSR))
		rc = error_set(err, -EACCES, "%s is write-protected", path);
	if (rc == 0)
		rc = disk_open(out, path, format,
		               writable ? 0 : BLOCK_OPEN_READONLY, err);
	free(path);
	return rc;
}

/* Write into the image what the new backing file would show otherwise. */
static int keep_contents(struct chain *c, struct error *err)
{
	struct block *image, *backing = NULL;
	struct disk_progress p;
	int rc = disk_open(&image, c->args.names[0], "qcow2", 0, err);

	if (rc < 0)
		return rc;
	if (c->backing)
		rc = open_backing(&backing, c->args.names[0], c->backing,
		                  c->backing_format, false, err);
	/* The other process may be us. */
	if (rc == -EBUSY)
		error_hint(err, "stop its user first; an image can't lie on one"
		                " that lies on it");
	if (rc == 0) {
		disk_progress_begin(&p, "rebasing", c->args.quiet);
		rc = image_rebase_data(image, backing, &p.progress, err);
		disk_progress_end(&p);
	}
	block_close(backing);
	block_close(image);
	return rc;
}

static int refuse_itself(const struct chain *c, struct error *err)
{
	char *path = beside(c->args.names[0], c->backing);
	int rc = 0;

	if (file_same(path, c->args.names[0]))
		rc = error_set(err, -EINVAL, "%s can't lie on itself",
		               c->args.names[0]);
	free(path);
	return rc;
}

static int rebase(struct chain *c, struct error *err)
{
	struct image_details d;
	struct block *b;
	int rc = disk_open(&b, c->args.names[0], "qcow2", IMAGE_OPEN_NO_BACKING,
	                   err);

	if (rc < 0)
		return rc;
	image_details(b, &d);
	/* With --unsafe, only the format of the same file may be meant. */
	if (!c->backing && c->unsafe && c->backing_format && d.backing)
		c->backing = c->same = xstrdup(d.backing);
	image_details_free(&d);
	if (c->backing && !c->backing_format)
		c->backing_format =
		    disk_format_by(c->backing, NULL, "backing-format", err);
	if (c->backing && (!c->backing_format || refuse_itself(c, err) < 0)) {
		block_close(b);
		return -EINVAL;
	}
	if (!c->unsafe) {
		block_close(b);
		rc = keep_contents(c, err);
		if (rc == 0)
			rc = disk_open(&b, c->args.names[0], "qcow2",
			               IMAGE_OPEN_NO_BACKING, err);
		if (rc < 0)
			return rc;
	}
	rc = image_set_backing(b, c->backing, c->backing_format, err);
	block_close(b);
	return rc;
}

int disk_rebase(int argc, char **argv)
{
	struct chain c = { 0 };
	struct error err;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk rebase FILE [OPTION]...",
		             "Change the backing file; the disk holds the same"
		             " afterwards.",
		             rebase_options);
		return 0;
	}
	rc = options_parse(rebase_options, argc, argv, chain_option, &c, &err);
	if (rc == 0 && c.args.name_count != 1)
		rc = error_set(&err, -EINVAL, "say one FILE");
	if (rc == 0)
		rc = rebase(&c, &err);
	free(c.same);
	return rc < 0 ? say_error(&err) : 0;
}

static int commit(struct chain *c, struct error *err)
{
	struct block *image, *backing;
	struct image_details d;
	struct disk_progress p;
	int rc = disk_open(&image, c->args.names[0], "qcow2",
	                   IMAGE_OPEN_NO_BACKING, err);

	if (rc < 0)
		return rc;
	image_details(image, &d);
	if (!d.backing || !d.backing_format)
		rc = error_set(err, -ENOENT, "%s: has no backing file%s",
		               c->args.names[0],
		               d.backing ? " of a stated format" : "");
	else
		rc = open_backing(&backing, c->args.names[0], d.backing,
		                  d.backing_format, true, err);
	image_details_free(&d);
	if (rc == 0) {
		disk_progress_begin(&p, "committing", c->args.quiet);
		rc = image_commit_data(image, backing, &p.progress, err);
		disk_progress_end(&p);
		block_close(backing);
	}
	if (rc == 0 && !c->keep)
		rc = image_make_empty(image, err);
	block_close(image);
	return rc;
}

int disk_commit(int argc, char **argv)
{
	struct chain c = { 0 };
	struct error err;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk commit FILE [OPTION]...",
		             "Write an image's changes into its backing file.",
		             commit_options);
		return 0;
	}
	rc = options_parse(commit_options, argc, argv, chain_option, &c, &err);
	if (rc == 0 && c.args.name_count != 1)
		rc = error_set(&err, -EINVAL, "say one FILE");
	if (rc == 0)
		rc = commit(&c, &err);
	return rc < 0 ? say_error(&err) : 0;
}
