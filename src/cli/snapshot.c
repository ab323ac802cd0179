/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll snapshot - create, list, revert, delete.
 */
#include "cli/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/image.h"
#include "cli/named.h"
#include "cli/options.h"
#include "cli/saved.h"
#include "cli/say.h"
#include "control/control.h"
#include "storage/image.h"

struct wish {
	const char *machine, *name, *description;
	bool tree, json, fast;
};

enum { OPT_DESCRIPTION = 1, OPT_TREE, OPT_JSON, OPT_FAST };

static int one(void *ctx, int id, const char *value, struct error *err)
{
	struct wish *w = ctx;

	switch (id) {
	case OPT_DESCRIPTION:
		w->description = value;
		return 0;
	case OPT_TREE:
		w->tree = true;
		return 0;
	case OPT_JSON:
		w->json = true;
		return 0;
	case OPT_FAST:
		w->fast = true;
		return 0;
	default:
		break;
	}
	if (w->name)
		return error_set(err, -EINVAL, "%s: one name too many", value);
	if (named_check(value, err) < 0)
		return err->code;
	*(w->machine ? &w->name : &w->machine) = value;
	return 0;
}

/* 0, or the exit code plus one. */
static int parse(struct wish *w, const struct option_spec *specs,
                 bool need_name, int argc, char **argv, const char *usage,
                 const char *summary)
{
	struct error err = { 0 };

	if (options_want_help(argc, argv)) {
		options_help(usage, summary, specs);
		return 1;
	}
	if (options_parse(specs, argc, argv, one, w, &err) < 0)
		return say_error(&err) + 1;
	if (!w->machine)
		return say_usage("which machine?") + 1;
	if (need_name && !w->name)
		return say_usage("which snapshot?") + 1;
	return 0;
}

/* Copies by content, to a name that appears when it is whole. */
static int copy_to(int from, const char *path, bool sync, struct error *err)
{
	char *temp = xasprintf("%s.new", path);
	int to = open(temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat st;
	int rc = 0;

	if (to < 0 || fstat(from, &st) < 0)
		rc = -errno;
	if (rc == 0)
		rc = copy_sparse(from, to, st.st_size);
	if (rc == 0 && ((sync && fsync(to) < 0) || rename(temp, path) < 0))
		rc = -errno;
	if (to >= 0)
		close(to);
	if (rc < 0) {
		error_set(err, rc, "cannot copy a disk to %s: %s", path,
		          strerror(-rc));
		unlink(temp);
	}
	free(temp);
	return rc;
}

/* ---- create ---- */

/* The folder that a path was meant from may be another than ours. */
static void note_path(json_t *disk, const char *cwd)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	char *whole, *real;

	if (json_is_true(json_object_get(disk, "private")) || !path)
		return;
	whole = path[0] == '/' || !cwd ? xstrdup(path)
	                               : xasprintf("%s/%s", cwd, path);
	real = realpath(whole, NULL);
	json_object_set_new(disk, "path", json_string(real ? real : whole));
	free(real);
	free(whole);
}

/* Can it be put back? */
static int check_disk(json_t *disk, struct error *err)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	struct stat st;

	if (json_is_true(json_object_get(disk, "private")))
		return 0;
	if (!path || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(err, -ENOTSUP,
		                 "%s is no file: it can't be in a snapshot",
		                 path ? path : "a disk");
	return 0;
}

/* Those that the machine writes to. */
static int list_disks(int sock, const char *folder, json_t **out,
                      struct error *err)
{
	json_t *status = NULL, *answer = NULL, *disk, *list;
	int fds[CONTROL_FDS_MAX], rc;
	const char *cwd = NULL;
	size_t count = 0, i;

	rc = saved_request(sock, json_pack("{s:s}", "op", "status"), NULL, 0,
	                   &status, fds, &count, err);
	if (rc < 0)
		return rc;
	json_unpack(status, "{s?{s?s}}", "origin", "cwd", &cwd);
	rc = saved_request(sock, json_pack("{s:s}", "op", "disks"), NULL, 0,
	                   &answer, fds, &count, err);
	list = json_array();
	json_array_foreach(json_object_get(answer, "disks"), i, disk)
	{
		char *copy;

		if (rc < 0 || json_is_true(json_object_get(disk, "readonly")))
			continue;
		note_path(disk, cwd);
		rc = check_disk(disk, err);
		copy = xasprintf(
		    "%s/disk%d", folder,
		    (int)json_integer_value(json_object_get(disk, "disk")));
		json_object_set_new(disk, "copy", json_string(copy));
		json_object_set_new(disk, "stored",
		                    json_string(saved_stored(disk, status)));
		json_array_append(list, disk);
		free(copy);
	}
	json_decref(answer);
	json_decref(status);
	if (rc < 0)
		json_decref(list);
	else
		*out = list;
	return rc;
}

/* What snapshot.json says of it. */
static json_t *kept(json_t *disks)
{
	json_t *list = json_array(), *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		json_t *one =
		    json_pack("{s:O,s:O,s:O,s:O,s:s}", "disk",
		              json_object_get(disk, "disk"), "private",
		              json_object_get(disk, "private"), "path",
		              json_object_get(disk, "path"), "format",
		              json_object_get(disk, "format"), "stored", "raw");

		json_array_append_new(list, one);
	}
	return list;
}

static int describe(const struct wish *w, const struct snapshots *s,
                    const char *folder, json_t *disks, json_t *figures,
                    struct error *err)
{
	struct timespec now;
	json_t *json;
	int rc;

	clock_gettime(CLOCK_REALTIME, &now);
	json = json_pack("{s:s,s:s?,s:I,s:s?,s:O,s:O}", "name", w->name,
	                 "description", w->description, "time",
	                 (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000,
	                 "parent", s->current, "disks", disks, "memory_bytes",
	                 json_object_get(figures, "stored_bytes"));
	if (!json)
		return error_set(err, -EILSEQ, "the description isn't UTF-8");
	rc = snapshots_write(folder, "snapshot.json", json, err);
	json_decref(json);
	return rc;
}

static int fill(const struct wish *w, struct snapshots *s, int sock,
                const char *folder, json_t **figures, struct error *err)
{
	char *state = xasprintf("%s/state", folder);
	const struct saved_how how = { .plain = w->fast };
	json_t *disks = NULL, *said;
	int rc = list_disks(sock, folder, &disks, err);

	if (rc == 0)
		rc = saved_moment(sock, state, &how, disks, figures, err);
	if (rc == 0) {
		said = kept(disks);
		rc = describe(w, s, folder, said, *figures, err);
		json_decref(said);
	}
	if (rc == 0)
		rc = snapshots_sync(s->folder, err);
	if (rc == 0)
		rc = snapshots_set_current(s, w->name, err);
	json_decref(disks);
	free(state);
	return rc;
}

static int create(const struct wish *w, struct snapshots *s, struct error *err)
{
	char *folder = snapshots_path(s, w->name, NULL);
	json_t *figures = NULL;
	int sock = -1, rc = 0;

	if (json_object_get(s->all, w->name))
		rc = error_set(err, -EEXIST, "there is a snapshot %s already",
		               w->name);
	if (rc == 0)
		rc = named_check_lasting(w->machine, err);
	if (rc == 0)
		rc = sock = named_connect(w->machine, err);
	if (rc >= 0 && mkdir(folder, 0700) < 0) {
		rc = error_set(err, -errno, "cannot make %s: %s", folder,
		               strerror(errno));
	} else if (rc >= 0) {
		rc = fill(w, s, sock, folder, &figures, err);
		if (rc < 0) {
			struct error ignored;

			if (snapshots_erase(folder, &ignored) < 0)
				fprintf(stderr, "%s\n", ignored.text);
		}
	}
	if (rc == 0)
		fprintf(stderr, "%s stood still for %.1f ms\n", w->machine,
		        (double)json_integer_value(
			    json_object_get(figures, "pause_us")) /
		            1e3);
	if (sock >= 0)
		close(sock);
	json_decref(figures);
	free(folder);
	return rc;
}

static int command_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "description", "TEXT", "what it is for", OPT_DESCRIPTION },
		{ "fast", NULL, "leave memory as it is: larger, reverts sooner",
		  OPT_FAST },
		{ 0 },
	};
	struct wish w = { 0 };
	struct snapshots s;
	struct error err = { 0 };
	char name[32];
	int code = parse(&w, specs, false, argc, argv,
	                 "atoll snapshot create [OPTION]... MACHINE [NAME]",
	                 "Save a running machine and its disks; it goes on.");

	if (code)
		return code - 1;
	if (!w.name) {
		time_t now = time(NULL);
		struct tm tm;

		strftime(name, sizeof(name), "%Y-%m-%d-%H%M%S",
		         localtime_r(&now, &tm));
		w.name = name;
	}
	if (snapshots_open(&s, w.machine, true, &err) < 0)
		return say_error(&err);
	code = create(&w, &s, &err) < 0 ? say_error(&err) : 0;
	if (!code)
		puts(w.name);
	snapshots_fini(&s);
	return code;
}

/* ---- list ---- */

static const char *text_of(json_t *one, const char *key)
{
	const char *text = json_string_value(json_object_get(one, key));

	return text ? text : "";
}

static u64 folder_bytes(const struct snapshots *s, const char *name)
{
	static const char *const files[] = { "state", "disk0", "disk1",
		                             "disk2", "disk3", "disk4" };
	u64 bytes = 0;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char *path = snapshots_path(s, name, files[i]);
		struct stat st;

		if (stat(path, &st) == 0)
			bytes += (u64)st.st_blocks * 512;
		free(path);
	}
	return bytes;
}

static void print_one(const struct snapshots *s, json_t *one, unsigned depth)
{
	const char *name = text_of(one, "name");
	time_t when =
	    (time_t)(json_integer_value(json_object_get(one, "time")) / 1000);
	char text[32], size[32];
	struct tm tm;

	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S",
	         localtime_r(&when, &tm));
	printf("%*s%s%-*s %s %10s  %s\n", (int)(depth * 2), "",
	       s->current && strcmp(s->current, name) == 0 ? "* " : "  ",
	       depth > 10 ? 4 : 24 - (int)depth * 2, name, text,
	       format_size(folder_bytes(s, name), size, sizeof(size)),
	       text_of(one, "description"));
}

/* Each once: a parent that is gone, or a circle, hides none. */
static void print_below(const struct snapshots *s, const char *parent,
                        unsigned depth, json_t *seen)
{
	const char *name;
	json_t *child;

	json_object_foreach(s->all, name, child)
	{
		const char *of = text_of(child, "parent");
		bool root = !json_object_get(s->all, of);

		if (json_object_get(seen, name) ||
		    (parent ? strcmp(of, parent) != 0 : !root))
			continue;
		json_object_set_new(seen, name, json_true());
		print_one(s, child, depth);
		print_below(s, name, depth + 1, seen);
	}
}

static void print_list(const struct snapshots *s, bool tree)
{
	json_t *seen = json_object(), *each;
	const char *name;

	if (tree)
		print_below(s, NULL, 0, seen);
	json_object_foreach(s->all, name, each)
	{
		if (!json_object_get(seen, name))
			print_one(s, each, 0);
	}
	json_decref(seen);
}

static int command_snapshots(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "tree", NULL, "show which came of which", OPT_TREE },
		{ "json", NULL, "print JSON", OPT_JSON },
		{ 0 },
	};
	struct wish w = { 0 };
	struct snapshots s;
	struct error err = { 0 };
	int code =
	    parse(&w, specs, false, argc, argv,
	          "atoll snapshot list [OPTION]... MACHINE",
	          "List snapshots; * is where the machine goes on from.");

	if (code)
		return code - 1;
	if (snapshots_open(&s, w.machine, false, &err) < 0)
		return say_error(&err);
	if (w.json) {
		json_t *json = json_pack("{s:s?,s:O}", "current", s.current,
		                         "snapshots", s.all);

		json_dumpf(json, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(json);
	} else {
		print_list(&s, w.tree);
	}
	snapshots_fini(&s);
	return 0;
}

/* ---- revert ---- */

/* What the image has besides its contents would be lost. */
static int check_present(const char *path, struct error *err)
{
	const struct block_open how = { .path = path,
		                        .fd = -1,
		                        .format = "qcow2",
		                        .flags = BLOCK_OPEN_READONLY |
		                                 IMAGE_OPEN_NO_BACKING |
		                                 IMAGE_OPEN_NO_DATA };
	struct image_details d;
	struct block *b;
	int rc;

	if (access(path, F_OK) < 0)
		return 0;
	rc = block_open(&b, &how, err);
	if (rc < 0)
		return rc;
	image_details(b, &d);
	if (d.snapshot_count || d.data_file) {
		rc = error_set(
		    err, -ENOTSUP, "%s has %s, which a revert would lose", path,
		    d.data_file ? "a data file" : "snapshots inside");
		error_hint(err, "convert it (atoll disk convert), or delete "
		                "them (atoll disk snapshot)");
	}
	image_details_free(&d);
	block_close(b);
	return rc;
}

static int copy_file_back(const char *from, const char *to, struct error *err)
{
	int fd = open(from, O_RDONLY | O_CLOEXEC), rc;

	if (fd < 0)
		return error_set(err, -errno, "cannot read %s: %s", from,
		                 strerror(errno));
	rc = copy_to(fd, to, true, err);
	close(fd);
	return rc;
}

static int copy_back(const struct snapshots *s, const char *name, json_t *disk,
                     const char *suspended, struct error *err)
{
	bool private = json_is_true(json_object_get(disk, "private"));
	json_int_t i = json_integer_value(json_object_get(disk, "disk"));
	char *file = xasprintf("disk%d", (int)i);
	char *from = snapshots_path(s, name, file);
	char *to = private ? xasprintf("%s.disk", suspended)
	                   : xstrdup(text_of(disk, "path"));
	int rc = 0;

	if (!private && strcmp(text_of(disk, "stored"), "qcow2") == 0)
		rc = check_present(to, err);
	if (rc == 0)
		rc = copy_file_back(from, to, err);
	free(file);
	free(from);
	free(to);
	return rc;
}

/* What is suspended is made anew; its state comes last, and shares the
 * snapshot's file, which nobody changes. */
static int put_back(const struct snapshots *s, const char *name, json_t *one,
                    const char *suspended, struct error *err)
{
	char *state = snapshots_path(s, name, "state");
	json_t *disk;
	size_t i;
	int rc = 0;

	unlink(suspended);
	json_array_foreach(json_object_get(one, "disks"), i, disk)
	{
		if (rc == 0)
			rc = copy_back(s, name, disk, suspended, err);
	}
	if (rc == 0)
		rc = snapshots_set_current(s, name, err);
	if (rc == 0 && link(state, suspended) < 0)
		rc = error_set(err, -errno, "cannot make %s: %s", suspended,
		               strerror(errno));
	free(state);
	return rc;
}

static int revert(const struct wish *w, const struct snapshots *s,
                  struct error *err)
{
	json_t *one = snapshots_find(s, w->name, err);
	char *suspended = named_suspended(w->machine, err);
	struct named claim;
	int rc =
	    one && suspended ? named_claim(&claim, w->machine, err) : err->code;

	if (rc == -EEXIST)
		error_hint(err, "end it first: what it did since is lost by a "
		                "revert");
	if (rc == 0) {
		rc = put_back(s, w->name, one, suspended, err);
		named_release(&claim);
	}
	free(suspended);
	return rc;
}

static int command_revert(int argc, char **argv)
{
	static const struct option_spec specs[] = { { 0 } };
	struct wish w = { 0 };
	struct snapshots s;
	struct error err = { 0 };
	int code = parse(&w, specs, true, argc, argv,
	                 "atoll snapshot revert MACHINE NAME",
	                 "Put a machine that has ended, and its disks, back to "
	                 "a snapshot; atoll resume goes on with it.");

	if (code)
		return code - 1;
	if (snapshots_open(&s, w.machine, true, &err) < 0)
		return say_error(&err);
	code = revert(&w, &s, &err) < 0 ? say_error(&err) : 0;
	if (!code)
		printf("atoll resume %s\n", w.machine);
	snapshots_fini(&s);
	return code;
}

/* ---- delete ---- */

/* Its children become its parent's. Each step leaves a whole tree. */
static int erase(const struct wish *w, const struct snapshots *s,
                 struct error *err)
{
	json_t *dead = snapshots_find(s, w->name, err), *parent, *child;
	const char *name;
	char *folder;
	int rc = dead ? 0 : err->code;

	parent = json_object_get(dead, "parent");
	json_object_foreach(s->all, name, child)
	{
		if (rc < 0 || strcmp(text_of(child, "parent"), w->name) != 0)
			continue;
		json_object_set(child, "parent", parent);
		folder = snapshots_path(s, name, NULL);
		rc = snapshots_write(folder, "snapshot.json", child, err);
		free(folder);
	}
	if (rc == 0 && s->current && strcmp(s->current, w->name) == 0)
		rc = snapshots_set_current(s, json_string_value(parent), err);
	if (rc == 0) {
		folder = snapshots_path(s, w->name, NULL);
		rc = snapshots_erase(folder, err);
		free(folder);
	}
	return rc;
}

static int command_delete(int argc, char **argv)
{
	static const struct option_spec specs[] = { { 0 } };
	struct wish w = { 0 };
	struct snapshots s;
	struct error err = { 0 };
	int code = parse(&w, specs, true, argc, argv,
	                 "atoll snapshot delete MACHINE NAME",
	                 "Delete a snapshot; those that came of it stay.");

	if (code)
		return code - 1;
	if (snapshots_open(&s, w.machine, true, &err) < 0)
		return say_error(&err);
	code = erase(&w, &s, &err) < 0 ? say_error(&err) : 0;
	snapshots_fini(&s);
	return code;
}

int cmd_snapshot(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "create", "save a running machine; it goes on",
		  command_create },
		{ "list", "list snapshots; --tree shows which came of which",
		  command_snapshots },
		{ "revert", "put a machine back to a snapshot",
		  command_revert },
		{ "delete", "delete a snapshot", command_delete },
		{ "diff", "tell what differs in two snapshots", snapshot_diff },
		{ 0 },
	};
	const struct command *c;

	if (argc < 2 || options_want_help(2, argv)) {
		puts("usage: atoll snapshot VERB [OPTION]... MACHINE [NAME]\n\n"
		     "Moments of a machine that was started with --name: its "
		     "memory and its disks.\n\nVerbs:");
		command_list(verbs);
		return argc < 2 ? END_USAGE : 0;
	}
	c = command_find(verbs, "verb", argv[1]);
	return c ? c->fn(argc - 1, argv + 1) : END_USAGE;
}
