/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk rebase NAME:DISK - what a disk in use lies on, or that it lies on
 * nothing any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/files.h"
#include "cli/live.h"
#include "cli/options.h"
#include "control/control.h"
#include "launch/launch.h"

enum { OPT_LAYER = 1, OPT_BACKING, OPT_BACKING_FORMAT, LAYER_MAX = 64 };

struct rebase {
	struct live_args a;
	u64 layer;
	const char *backing, *format;
	/* What it is to lie on, opened: with all below it. */
	json_t *files;
	int fds[CONTROL_FDS_MAX];
	size_t count;
};

static const struct option_spec options[] = {
	{ "layer", "N", "of the images below, 2 or more: lie on that one",
	  OPT_LAYER },
	{ "backing", "FILE", "lie on FILE", OPT_BACKING },
	{ "backing-format", "F", "raw or qcow2", OPT_BACKING_FORMAT },
	LIVE_OPT_OF_JOBS,
	LIVE_OPTIONS,
	{ 0 },
};

static int option(void *ctx, int id, const char *value, struct error *err)
{
	struct rebase *r = ctx;

	switch (id) {
	case OPT_LAYER:
		return parse_u64(value, 2, LAYER_MAX, &r->layer, err);
	case OPT_BACKING:
		r->backing = value;
		return 0;
	case OPT_BACKING_FORMAT:
		r->format = value;
		return 0;
	default:
		return live_arg(&r->a, id, value, err);
	}
}

/* ---- onto a file ---- */

/* The disk itself is locked; that its own backing file can't lie on it is a
 * better reason. */
static int open_layer(void *ctx, const char *path, bool readonly,
                      struct error *err)
{
	const struct rebase *r = ctx;

	return file_same(path, r->a.disk.path)
	           ? error_set(err, -EINVAL, "%s lies on the disk itself",
	                       r->backing)
	           : file_open_disk(path, readonly, err);
}

static int add_file(void *ctx, const char *path, const char *format, int fd,
                    struct error *err)
{
	struct rebase *r = ctx;

	if (r->count == CONTROL_FDS_MAX) {
		close(fd);
		return error_set(err, -E2BIG, "it is made of too many files");
	}
	json_array_append_new(r->files,
	                      json_pack("{s:i,s:s,s:s}", "file", (int)r->count,
	                                "path", path, "format", format));
	r->fds[r->count++] = fd;
	return 0;
}

static int open_files(struct rebase *r, const char *path, const char *format,
                      struct error *err)
{
	const struct launch_files files = { open_layer, add_file, r };
	int fd = file_open_disk(path, true, err);
	int rc = fd < 0 ? fd : add_file(r, path, format, fd, err);

	if (rc < 0 || strcmp(format, "qcow2") != 0)
		return rc;
	return launch_chain(&files, fd, path, true, err);
}

static int onto_file(struct rebase *r, const struct live_chain *chain,
                     json_t *message, struct error *err)
{
	char *path = realpath(r->backing, NULL);
	const char *format = path ? disk_format(path, r->format, err) : NULL;
	unsigned n = 0;
	int rc = 0;

	if (!path)
		return error_set(err, -errno, "%s: %s", r->backing,
		                 strerror(errno));
	while (n < chain->count && !file_same(path, chain->layers[n].path))
		n++;
	if (!format)
		rc = err->code;
	else if (n < chain->count && n < 2)
		rc = error_set(err, -EINVAL,
		               n ? "the disk lies on %s already"
		                 : "%s is the disk itself",
		               path);
	else if (n < chain->count)
		json_object_set_new(message, "layer", json_integer((int)n));
	else
		rc = open_files(r, path, format, err);
	if (rc == 0) {
		json_object_set_new(
		    message, "name",
		    json_string(live_name_for(r->a.disk.path, path)));
		json_object_set_new(message, "format", json_string(format));
		json_object_set(message, "files", r->files);
	}
	free(path);
	return rc;
}

/* ---- onto one of those below, or none ---- */

static int onto_layer(const struct rebase *r, const struct live_chain *chain,
                      json_t *message, struct error *err)
{
	const struct live_layer *to;

	json_object_set_new(message, "layer",
	                    json_integer((json_int_t)r->layer));
	/* The machine knows those that no path leads to. */
	if (!r->a.disk.path || !r->layer)
		return 0;
	if (r->layer >= chain->count)
		return error_set(err, -EINVAL,
		                 "the chain has %u images, 0 to %u",
		                 chain->count, chain->count - 1);
	to = &chain->layers[r->layer];
	json_object_set_new(
	    message, "name",
	    json_string(live_name_for(r->a.disk.path, to->path)));
	json_object_set_new(message, "format", json_string(to->format));
	return 0;
}

static int rebase(void *ctx, struct error *err)
{
	struct rebase *r = ctx;
	struct live_disk *d = &r->a.disk;
	struct live_chain chain = { 0 };
	json_t *message = json_pack("{s:s}", "op", "disk-rebase");
	bool left;
	int rc = 0;

	r->files = json_array();
	if (r->backing && r->layer)
		rc = error_set(err, -EINVAL, "--layer or --backing, not both");
	if (rc == 0 && (d->path || r->backing))
		rc = live_check_path(d, err);
	if (rc == 0 && d->path)
		rc = live_chain_read(&chain, d->path, d->format, err);
	if (rc == 0)
		rc = r->backing ? onto_file(r, &chain, message, err)
		                : onto_layer(r, &chain, message, err);
	r->a.renames = true;
	if (rc == 0)
		rc = live_work(&r->a, "rebasing", json_incref(message), r->fds,
		               r->count, &left, err);
	while (r->count)
		close(r->fds[--r->count]);
	json_decref(r->files);
	json_decref(message);
	live_chain_free(&chain);
	return rc;
}

static json_t *rebase_remote(void *ctx, struct error *err)
{
	const struct rebase *r = ctx;
	json_t *body = json_object();

	if (r->backing) {
		error_set(err, -EINVAL,
		          "a daemon's machine takes no other file below its "
		          "disk");
		error_hint(err, "--layer N is one of those below it now");
	}
	live_put_number(body, "layer", r->layer);
	live_put_number(body, "rate", r->a.rate);
	return body;
}

int live_rebase_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk rebase NAME:DISK [OPTION]...",
		"Have a disk lie on another image, or on none; what it shows "
		"stays the same, and the images that it lay on, too.",
		options,
		option,
		rebase,
		rebase_remote,
		.turn = true
	};
	struct rebase r = { 0 };

	return live_main(&verb, argc, argv, &r, &r.a);
}
