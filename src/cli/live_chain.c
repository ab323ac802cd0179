/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The images that a disk in use is made of, as their headers say; and the
 * verbs that make such a chain longer and shorter.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/files.h"
#include "cli/live.h"
#include "cli/named.h"
#include "cli/options.h"
#include "cli/snapshot.h"
#include "cli/untaken.h"
#include "control/record.h"

enum { CHAIN_MAX = 65 };

void live_chain_free(struct live_chain *c)
{
	for (unsigned i = 0; i < c->count; i++) {
		free(c->layers[i].path);
		free(c->layers[i].format);
	}
	free(c->layers);
	*c = (struct live_chain){ 0 };
}

static void add_layer(struct live_chain *c, char *path, const char *format)
{
	struct stat st = { 0 };

	(void)!stat(path, &st);
	c->layers = xrealloc(c->layers, (c->count + 1) * sizeof(*c->layers));
	c->layers[c->count++] =
	    (struct live_layer){ path, xstrdup(format), st.st_dev, st.st_ino };
}

/* The one below the last. 0: there is none. */
static int add_below(struct live_chain *c, struct error *err)
{
	const struct live_layer *last = &c->layers[c->count - 1];
	struct image_details d;
	struct block *b;
	char *name, *path;
	int rc;

	if (strcmp(last->format, "qcow2") != 0)
		return 0;
	rc = disk_open(&b, last->path, "qcow2",
	               BLOCK_OPEN_READONLY | BLOCK_OPEN_NO_LOCK |
	                   IMAGE_OPEN_NO_BACKING | IMAGE_OPEN_NO_DATA,
	               err);
	if (rc < 0)
		return rc;
	image_details(b, &d);
	if (d.backing && d.backing_format) {
		name = image_path_beside(last->path, d.backing);
		path = realpath(name, NULL);
		rc = path ? 1
		          : error_set(err, -errno, "%s: %s", name,
		                      strerror(errno));
		if (path)
			add_layer(c, path, d.backing_format);
		free(name);
	}
	image_details_free(&d);
	block_close(b);
	return rc;
}

int live_chain_read(struct live_chain *c, const char *path, const char *format,
                    struct error *err)
{
	int rc;

	*c = (struct live_chain){ 0 };
	add_layer(c, xstrdup(path), format);
	do
		rc = add_below(c, err);
	while (rc > 0 && c->count < CHAIN_MAX);
	if (rc < 0)
		live_chain_free(c);
	return rc < 0 ? rc : 0;
}

int live_check_path(const struct live_disk *d, struct error *err)
{
	struct stat st;

	if (!d->path) {
		error_set(err, -EINVAL, "no path leads to this disk");
		return error_hint(err, "the disk of an image is the machine's "
		                       "own; atoll run --keep gives it a path");
	}
	if (stat(d->path, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "%s is not a file", d->path);
	return 0;
}

/* ---- snapshot ---- */

enum { OPT_NAME = 1, OPT_FREEZE };

struct snapshot {
	struct live_args a;
	const char *name;
	bool freeze;
};

static const struct option_spec snapshot_options[] = {
	{ "name", "NAME", "what is added to the name of the file that stays",
	  OPT_NAME },
	LIVE_OPT_FREEZE(OPT_FREEZE),
	LIVE_OPTIONS,
	{ 0 },
};

static int snapshot_option(void *ctx, int id, const char *value,
                           struct error *err)
{
	struct snapshot *s = ctx;

	if (id == OPT_FREEZE)
		s->freeze = true;
	else if (id == OPT_NAME)
		s->name = value;
	else
		return live_arg(&s->a, id, value, err);
	return 0;
}

/* disk.qcow2 -> disk.NAME.qcow2 */
static char *kept_name(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
	char made[32];
	struct tm tm;
	time_t now = time(NULL);

	strftime(made, sizeof(made), "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
	if (!dot || dot <= slash + 1)
		dot = path + strlen(path);
	return xasprintf("%.*s.%s%s", (int)(dot - path), path,
	                 name ? name : made, dot);
}

static u64 size_of(struct live_args *a, struct error *err)
{
	json_t *answer = NULL, *disk;
	u64 bytes = 0;

	if (live_ask(a, json_pack("{s:s}", "op", "disks"), NULL, 0, &answer,
	             err) == 0) {
		disk = json_array_get(json_object_get(answer, "disks"),
		                      a->disk.number);
		bytes = (u64)json_integer_value(json_object_get(disk, "bytes"));
		json_decref(answer);
	}
	return bytes;
}

static int make_overlay(struct snapshot *s, const char *kept, const char *next,
                        struct error *err)
{
	const struct image_create how = {
		.path = next,
		.format = "qcow2",
		.size = size_of(&s->a, err),
		.backing = strrchr(kept, '/') + 1,
		.backing_format = s->a.disk.format,
	};
	int fd, rc = how.size ? image_create(&how, err) : err->code;

	if (rc < 0)
		return rc;
	fd = open(next, O_RDWR | O_CLOEXEC);
	return fd >= 0
	           ? fd
	           : error_set(err, -errno, "%s: %s", next, strerror(errno));
}

/* Without the new name the change can't happen any more; if it has not, the
 * second name of the old image is one too many. Of one that the machine refused
 * that is certain, though the path may lead to another's overlay by now. */
static void take_back(const char *path, const char *kept, const char *next,
                      bool refused)
{
	unlink(next);
	if (refused || file_same(path, kept))
		unlink(kept);
}

static int snapshot_to(struct snapshot *s, const char *kept, const char *next,
                       struct error *err)
{
	json_t *message;
	bool left;
	int fds[2], fd, rc;

	if (link(s->a.disk.path, kept) < 0) {
		rc = error_set(err, -errno, "%s: %s", kept, strerror(errno));
		if (rc == -EEXIST)
			error_hint(err, "say another --name");
		return rc;
	}
	rc = fd = make_overlay(s, kept, next, err);
	fds[0] = fd;
	fds[1] = fd < 0 ? -1 : open(kept, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && fds[1] < 0)
		rc = error_set(err, -errno, "%s: %s", kept, strerror(errno));
	if (rc >= 0) {
		message =
		    json_pack("{s:s, s:i, s:i, s:s, s:s}", "op",
		              "disk-snapshot", "file", 0, "base", 1, "path",
		              s->a.disk.path, "record", strrchr(next, '/') + 1);
		rc = live_work(&s->a, "snapshot", message, fds, 2, &left, err);
	}
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (rc < 0)
		take_back(s->a.disk.path, kept, next,
		          fd < 0 || (!s->a.job && rc == -EBUSY));
	return rc;
}

static int snapshot(void *ctx, struct error *err)
{
	struct snapshot *s = ctx;
	struct live_disk *d = &s->a.disk;
	char *kept, *next;
	int rc = s->freeze ? live_no_agent(err) : live_check_path(d, err);

	if (rc == 0 && d->foreign)
		rc = untaken_refuse(d->path, err);
	if (rc < 0)
		return rc;
	if (strcmp(d->format, "qcow2") != 0) {
		error_set(err, -EINVAL, "%s is a %s image", d->path, d->format);
		return error_hint(err, "a qcow2 disk can lie on another: atoll "
		                       "disk convert it while nobody uses it");
	}
	if (s->name &&
	    (!s->name[0] || strchr(s->name, '/') || strlen(s->name) > 64))
		return error_set(err, -EINVAL,
		                 "--name %s: not a part of a "
		                 "file's name",
		                 s->name);
	kept = kept_name(d->path, s->name);
	next = record_name(d->path, err);
	rc = next ? snapshot_to(s, kept, next, err) : err->code;
	if (rc == 0 && !s->a.args.json)
		printf("%s\n", kept);
	free(kept);
	free(next);
	return rc;
}

static json_t *snapshot_remote(void *ctx, struct error *err)
{
	const struct snapshot *s = ctx;
	json_t *body = json_object();

	(void)err;
	live_put_text(body, "name", s->name);
	live_put_switch(body, "freeze", s->freeze);
	return body;
}

int live_snapshot_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk snapshot NAME:DISK [OPTION]...",
		"Go on in a new file; the present one stays as it is, under "
		"the name that is printed.",
		snapshot_options,
		snapshot_option,
		snapshot,
		snapshot_remote,
		.turn = true
	};
	struct snapshot s = { 0 };

	return live_main(&verb, argc, argv, &s, &s.a);
}

/* ---- commit ---- */

enum { OPT_LAYER = 1, OPT_COUNT, OPT_ALL, OPT_KEEP, OPT_FORCED };

struct commit {
	struct live_args a;
	u64 layer, count;
	bool all, keep, force;
	struct live_chain chain;
};

static const struct option_spec commit_options[] = {
	{ "layer", "N", "what goes down: 0 is the disk itself (0)", OPT_LAYER },
	{ "count", "N", "and so many of those below with it (1)", OPT_COUNT },
	{ "all", NULL, "down to the lowest that may be written", OPT_ALL },
	{ "keep", NULL, "don't delete the files that were merged", OPT_KEEP },
	{ "force", NULL, "although snapshots of the machine need them",
	  OPT_FORCED },
	LIVE_OPT_OF_JOBS,
	LIVE_OPTIONS,
	{ 0 },
};

static int commit_option(void *ctx, int id, const char *value,
                         struct error *err)
{
	struct commit *c = ctx;

	switch (id) {
	case OPT_LAYER:
		return parse_u64(value, 0, CHAIN_MAX, &c->layer, err);
	case OPT_COUNT:
		return parse_u64(value, 1, CHAIN_MAX, &c->count, err);
	case OPT_ALL:
		c->all = true;
		return 0;
	case OPT_KEEP:
		c->keep = true;
		return 0;
	case OPT_FORCED:
		c->force = true;
		return 0;
	default:
		return live_arg(&c->a, id, value, err);
	}
}

/* A template is write-protected, whoever asks. */
static bool may_write(const struct live_layer *layer)
{
	struct stat st;

	return stat(layer->path, &st) == 0 && (st.st_mode & S_IWUSR);
}

static int choose(struct commit *c, struct error *err)
{
	struct live_chain *chain = &c->chain;
	u64 base;

	if (c->all)
		while (c->layer + c->count + 1 < chain->count &&
		       may_write(&chain->layers[c->layer + c->count + 1]))
			c->count++;
	base = c->layer + c->count;
	if (chain->count < 2)
		return error_set(err, -EINVAL, "%s lies on no other image",
		                 c->a.disk.path);
	if (base >= chain->count)
		return error_set(err, -EINVAL,
		                 "the chain has %u images, 0 to %u",
		                 chain->count, chain->count - 1);
	if (!may_write(&chain->layers[base])) {
		error_set(err, -EACCES, "%s is write-protected",
		          chain->layers[base].path);
		return error_hint(err, "others may need it as it is: atoll "
		                       "disk rebase makes a disk independent");
	}
	if (c->layer == 0 &&
	    strcmp(chain->layers[base].format, c->a.disk.format) != 0)
		return error_set(err, -EINVAL,
		                 "%s is a %s image, and can't take the place "
		                 "of a %s disk",
		                 chain->layers[base].path,
		                 chain->layers[base].format, c->a.disk.format);
	return 0;
}

/* A snapshot has the disk's own file; the images below are shared. */
static int check_snapshots(const struct commit *c, struct error *err)
{
	char *folder = named_folder(c->a.disk.machine, false, err);
	bool none = folder && access(folder, F_OK) < 0;
	const struct snapshot_of of = { .machine = c->a.disk.machine };
	struct snapshots s;
	size_t count;

	free(folder);
	if (c->force || c->a.socket || none)
		return 0;
	if (snapshots_open(&s, &of, false, err) < 0)
		return err->code;
	count = json_object_size(s.all);
	snapshots_fini(&s);
	if (count == 0)
		return 0;
	error_set(err, -EEXIST, "snapshots of %s need these images",
	          c->a.disk.machine);
	return error_hint(err, "atoll snapshot list shows them; --force loses "
	                       "what they hold");
}

const char *live_name_for(const char *above, const char *base)
{
	size_t n = (size_t)(strrchr(base, '/') - base) + 1;

	return strncmp(above, base, n) == 0 && !strchr(above + n, '/')
	           ? base + n
	           : base;
}

static json_t *commit_message(const struct commit *c, const char *next)
{
	const struct live_layer *layers = c->chain.layers;
	const struct live_layer *base = &layers[c->layer + c->count];
	json_t *m = json_pack(
	    "{s:s, s:i, s:s, s:s, s:I, s:I}", "op", "disk-commit", "file", 0,
	    "path", base->path, "format", base->format, "from",
	    (json_int_t)c->layer, "count", (json_int_t)c->count);

	if (c->layer == 0) {
		json_object_set_new(m, "record",
		                    json_string(strrchr(next, '/') + 1));
	} else {
		const char *above = layers[c->layer - 1].path;

		json_object_set_new(
		    m, "name", json_string(live_name_for(above, base->path)));
		json_object_set_new(m, "above_path", json_string(above));
		json_object_set_new(m, "above", json_integer(1));
	}
	return m;
}

/* Opened by who asks, so that it is sent: for writing. */
static int open_writable(const char *path, struct error *err)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd >= 0
	           ? fd
	           : error_set(err, -errno, "%s: %s", path, strerror(errno));
}

/* Its name may be another's by now. */
static void delete_layer(const struct live_layer *l)
{
	struct stat now;

	if (lstat(l->path, &now) == 0 && now.st_dev == l->dev &&
	    now.st_ino == l->ino)
		unlink(l->path);
}

static void delete_merged(const struct commit *c)
{
	unsigned base = (unsigned)(c->layer + c->count);

	/* The base has taken the disk's name, and needs its own no more. */
	for (unsigned i = MAX((unsigned)c->layer, 1u); i < base; i++)
		delete_layer(&c->chain.layers[i]);
	if (c->layer == 0)
		delete_layer(&c->chain.layers[base]);
}

static int commit_into(struct commit *c, const char *next, struct error *err)
{
	const struct live_layer *layers = c->chain.layers;
	const char *base = layers[c->layer + c->count].path;
	int fds[2] = { -1, -1 }, rc;
	bool left = false;

	if (c->layer == 0 && link(base, next) < 0)
		return error_set(err, -errno, "%s: %s", next, strerror(errno));
	/* By the name under which it stays: who asks for a descriptor's path
	 * later is told that. */
	rc = fds[0] = open_writable(c->layer == 0 ? next : base, err);
	if (rc >= 0 && c->layer > 0)
		rc = fds[1] = open_writable(layers[c->layer - 1].path, err);
	/* What is left to do at its end is done, whoever waits. */
	c->a.guarded = c->a.renames = true;
	if (rc >= 0)
		rc = live_work(&c->a, "merging", commit_message(c, next), fds,
		               c->layer ? 2 : 1, &left, err);
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (rc < 0 && c->layer == 0 && !c->a.left)
		unlink(next);
	if (rc == 0 && !left && !c->keep)
		delete_merged(c);
	return rc;
}

static int commit(void *ctx, struct error *err)
{
	struct commit *c = ctx;
	struct live_disk *d = &c->a.disk;
	char *next = NULL;
	int rc = live_check_path(d, err);

	if (rc == 0)
		rc = check_snapshots(c, err);
	if (rc == 0)
		rc = live_chain_read(&c->chain, d->path, d->format, err);
	if (rc == 0)
		rc = choose(c, err);
	if (rc == 0) {
		next = record_name(d->path, err);
		rc = next ? commit_into(c, next, err) : err->code;
	}
	live_chain_free(&c->chain);
	free(next);
	return rc;
}

static json_t *commit_remote(void *ctx, struct error *err)
{
	const struct commit *c = ctx;
	json_t *body = json_object();

	(void)err;
	live_put_number(body, "layer", c->layer);
	live_put_number(body, "count", c->count);
	live_put_switch(body, "all", c->all);
	live_put_switch(body, "keep", c->keep);
	live_put_number(body, "rate", c->a.rate);
	return body;
}

int live_commit_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk commit NAME:DISK [OPTION]...",
		"Merge images into the one below them, while the machine "
		"runs.",
		commit_options,
		commit_option,
		commit,
		commit_remote,
		.turn = true
	};
	struct commit c = { .count = 1 };

	return live_main(&verb, argc, argv, &c, &c.a);
}

/* ---- info ---- */

static const struct option_spec info_options[] = { LIVE_OPTIONS, { 0 } };

static int info_option(void *ctx, int id, const char *value, struct error *err)
{
	return live_arg(ctx, id, value, err);
}

static int info(void *ctx, struct error *err)
{
	struct live_args *a = ctx;
	struct live_chain chain = { 0 };
	json_t *answer, *disk, *layers = json_array();
	int rc = live_ask(a, json_pack("{s:s}", "op", "disks"), NULL, 0,
	                  &answer, err);

	if (rc == 0 && a->disk.path)
		rc = live_chain_read(&chain, a->disk.path, a->disk.format, err);
	if (rc < 0) {
		json_decref(layers);
		return rc;
	}
	disk = json_array_get(json_object_get(answer, "disks"), a->disk.number);
	if (!a->disk.path)
		json_array_extend(layers, json_object_get(disk, "layers"));
	for (unsigned i = 0; i < chain.count; i++)
		json_array_append_new(layers,
		                      json_pack("{s:s, s:s}", "path",
		                                chain.layers[i].path, "format",
		                                chain.layers[i].format));
	json_object_set_new(disk, "layers", layers);
	json_dumpf(disk, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(answer);
	live_chain_free(&chain);
	return 0;
}

static json_t *info_remote(void *ctx, struct error *err)
{
	(void)ctx;
	(void)err;
	return NULL;
}

int live_info_verb(int argc, char **argv)
{
	static const struct live_verb verb = {
		"atoll disk info NAME:DISK",
		"What a machine's disk is, as JSON.",
		info_options,
		info_option,
		info,
		info_remote,
	};
	struct live_args a = { 0 };

	return live_main(&verb, argc, argv, &a, &a);
}
