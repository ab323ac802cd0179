/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll snapshot - the verbs; create, list, delete.
 */
#include "cli/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/disk.h"
#include "cli/live.h"
#include "cli/named.h"
#include "cli/options.h"
#include "cli/saved.h"
#include "cli/say.h"
#include "control/control.h"

struct wish {
	struct snapshot_of of;
	const char *name, *description;
	struct snapshot_remote remote;
	bool tree, fast, force, start;
};

enum { OPT_DESCRIPTION = 1, OPT_TREE, OPT_FAST, OPT_KILL, OPT_START };

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
	case OPT_FAST:
		w->fast = true;
		return 0;
	case OPT_KILL:
		w->force = true;
		return 0;
	case OPT_START:
		w->start = true;
		return 0;
	default:
		break;
	}
	if (id)
		return snapshot_where_option(&w->of, &w->remote, id, value,
		                             err);
	if (w->name)
		return error_set(err, -EINVAL, "%s: one name too many", value);
	if (w->of.machine && named_check(value, err) < 0)
		return err->code;
	*(w->of.machine ? &w->name : &w->of.machine) = value;
	return 0;
}

/* 0, or the exit code plus one. remote: the daemon is to be asked. */
static int parse(struct wish *w, const struct option_spec *specs,
                 bool need_name, int argc, char **argv, bool *remote,
                 const char *usage, const char *summary)
{
	struct error err = { 0 };

	if (options_want_help(argc, argv)) {
		options_help(usage, summary, specs);
		return 1;
	}
	if (options_parse(specs, argc, argv, one, w, &err) < 0)
		return say_error(&err) + 1;
	if (!w->of.machine)
		return say_usage("which machine?") + 1;
	if (need_name && !w->name)
		return say_usage("which snapshot?") + 1;
	if (snapshot_is_remote(&w->of, &w->remote, remote, &err) < 0)
		return say_error(&err) + 1;
	return 0;
}

/* ---- create ---- */

/* What a machine of the daemon's is to be when it goes on from here. */
static void note_definition(json_t *json, json_t *definition)
{
	static const char *const keys[] = { "spec", "revision" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		json_t *value = json_object_get(definition, keys[i]);

		if (value)
			json_object_set(json, keys[i], value);
	}
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

/* Where a disk lies is said by whoever started the machine. The machine is
 * not asked: it may be its guest's by now, and a revert writes there. */
static int place_disk(json_t *disk, json_t *known, const char *folder,
                      json_t *status, struct error *err)
{
	json_t *path = json_object_get(known, "path");
	json_t *format = json_object_get(known, "format");
	bool private = json_string_length(path) == 0;
	char *copy;

	json_object_set_new(disk, "private", json_boolean(private));
	json_object_set(disk, "path", private ? json_null() : path);
	if (!private)
		json_object_set_new(disk, "format",
		                    format ? json_incref(format)
		                           : json_string("raw"));
	copy =
	    xasprintf("%s/disk%d", folder,
	              (int)json_integer_value(json_object_get(disk, "disk")));
	json_object_set_new(disk, "copy", json_string(copy));
	json_object_set_new(disk, "stored",
	                    json_string(saved_stored(disk, status)));
	json_object_set_new(
	    disk, "beside",
	    json_boolean(
		private &&
		!saved_is_image(disk, json_object_get(status, "origin"))));
	free(copy);
	return check_disk(disk, err);
}

/* Those that the machine writes to. */
static int list_disks(int sock, json_t *known, const char *folder, json_t **out,
                      struct error *err)
{
	json_t *status = NULL, *answer = NULL, *disk, *list;
	int fds[CONTROL_FDS_MAX], rc;
	size_t count = 0, i;

	rc = saved_request(sock, json_pack("{s:s}", "op", "status"), NULL, 0,
	                   &status, fds, &count, err);
	if (rc < 0)
		return rc;
	rc = saved_request(sock, json_pack("{s:s}", "op", "disks"), NULL, 0,
	                   &answer, fds, &count, err);
	list = json_array();
	json_array_foreach(known, i, disk)
	{
		json_t *said =
		    json_array_get(json_object_get(answer, "disks"), i);

		if (rc < 0 || json_is_true(json_object_get(disk, "readonly")))
			continue;
		said = json_pack("{s:i,s:O?}", "disk", (int)i, "bytes",
		                 json_object_get(said, "bytes"));
		rc = place_disk(said, disk, folder, status, err);
		json_array_append_new(list, said);
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
		    json_pack("{s:O,s:O,s:O,s:O?,s:O,s:O}", "disk",
		              json_object_get(disk, "disk"), "private",
		              json_object_get(disk, "private"), "path",
		              json_object_get(disk, "path"), "format",
		              json_object_get(disk, "format"), "stored",
		              json_object_get(disk, "stored"), "beside",
		              json_object_get(disk, "beside"));

		json_array_append_new(list, one);
	}
	return list;
}

static int describe(const struct wish *w, const struct snapshots *s,
                    const char *folder, json_t *disks, json_t *figures,
                    json_t *definition, struct error *err)
{
	struct timespec now;
	json_t *json;
	int rc;

	clock_gettime(CLOCK_REALTIME, &now);
	json = json_pack("{s:s,s:s?,s:I,s:s?,s:O,s:O,s:O?}", "name", w->name,
	                 "description", w->description, "time",
	                 (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000,
	                 "parent", s->current, "disks", disks, "memory_bytes",
	                 json_object_get(figures, "stored_bytes"), "pause_us",
	                 json_object_get(figures, "pause_us"));
	if (!json)
		return error_set(err, -EILSEQ, "the description isn't UTF-8");
	note_definition(json, definition);
	rc = snapshots_write(folder, "snapshot.json", json, err);
	json_decref(json);
	return rc;
}

static int save_moment(const struct wish *w, int sock, const char *state,
                       json_t *disks, json_t **figures, struct error *err)
{
	struct disk_progress bar;
	const struct saved_how how = { .plain = w->fast,
		                       .progress = &bar.progress };
	int rc;

	disk_progress_begin(&bar, "saving", w->remote.quiet);
	rc = saved_moment(sock, state, &how, disks, figures, err);
	disk_progress_end(&bar);
	return rc;
}

static int fill(const struct wish *w, struct snapshots *s, int sock,
                const char *folder, json_t **figures, struct error *err)
{
	char *state = xasprintf("%s/state", folder);
	json_t *disks = NULL, *said, *definition = NULL, *known = NULL;
	int rc = w->of.socket ? snapshot_definition(sock, &definition, err) : 0;

	if (rc == 0) {
		known = definition
		            ? json_incref(json_object_get(definition, "disks"))
		            : named_disks(w->of.machine, err);
		rc = known ? list_disks(sock, known, folder, &disks, err)
		           : err->code;
	}
	if (rc == 0)
		rc = save_moment(w, sock, state, disks, figures, err);
	if (rc == 0) {
		said = kept(disks);
		rc = describe(w, s, folder, said, *figures, definition, err);
		json_decref(said);
	}
	if (rc == 0)
		rc = snapshots_sync(s->folder, err);
	if (rc == 0)
		rc = snapshots_set_current(s, w->name, err);
	json_decref(disks);
	json_decref(known);
	json_decref(definition);
	free(state);
	return rc;
}

static int reach(const struct wish *w, struct error *err)
{
	int rc;

	if (w->of.socket)
		return live_connect(w->of.socket, err);
	rc = named_check_lasting(w->of.machine, err);
	return rc < 0 ? rc : named_connect(w->of.machine, err);
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
		rc = sock = reach(w, err);
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
		fprintf(stderr, "%s stood still for %.1f ms\n", w->of.machine,
		        (double)json_integer_value(
			    json_object_get(figures, "pause_us")) /
		            1e3);
	if (sock >= 0)
		close(sock);
	json_decref(figures);
	free(folder);
	return rc;
}

static int create_here(const struct wish *w)
{
	struct error err = { 0 };
	struct snapshots s;
	int code;

	if (snapshots_open(&s, &w->of, true, &err) < 0)
		return say_error(&err);
	code = create(w, &s, &err) < 0 ? say_error(&err) : 0;
	if (!code)
		puts(w->name);
	snapshots_fini(&s);
	return code;
}

static int command_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "description", "TEXT", "what it is for", OPT_DESCRIPTION },
		{ "fast", NULL, "leave memory as it is: larger, reverts sooner",
		  OPT_FAST },
		SNAPSHOT_OPT_TASK,
		SNAPSHOT_OPTIONS,
		{ 0 },
	};
	struct wish w = { 0 };
	char name[32];
	bool remote;
	int code = parse(&w, specs, false, argc, argv, &remote,
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
	if (!remote)
		return create_here(&w);
	return snapshot_remote_create(&w.of, &w.remote,
	                              json_pack("{s:s,s:s*,s:b}", "name",
	                                        w.name, "description",
	                                        w.description, "fast", w.fast));
}

/* ---- list ---- */

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

static u64 bytes_of(const struct snapshots *s, json_t *one, const char *name)
{
	json_t *told = json_object_get(one, "bytes");

	return told ? (u64)json_integer_value(told) : folder_bytes(s, name);
}

static void print_one(const struct snapshots *s, json_t *one, unsigned depth)
{
	const char *name = saved_text(one, "name");
	time_t when =
	    (time_t)(json_integer_value(json_object_get(one, "time")) / 1000);
	char text[32], size[32];
	struct tm tm;

	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S",
	         localtime_r(&when, &tm));
	printf("%*s%s%-*s %s %10s  %s\n", (int)(depth * 2), "",
	       s->current && strcmp(s->current, name) == 0 ? "* " : "  ",
	       depth > 10 ? 4 : 24 - (int)depth * 2, name, text,
	       format_size(bytes_of(s, one, name), size, sizeof(size)),
	       saved_text(one, "description"));
}

/* Each once: a parent that is gone, or a circle, hides none. */
static void print_below(const struct snapshots *s, const char *parent,
                        unsigned depth, json_t *seen)
{
	const char *name;
	json_t *child;

	json_object_foreach(s->all, name, child)
	{
		const char *of = saved_text(child, "parent");
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

static void print_all(const struct wish *w, const struct snapshots *s)
{
	json_t *json;

	if (!w->remote.json) {
		print_list(s, w->tree);
		return;
	}
	json =
	    json_pack("{s:s?,s:O}", "current", s->current, "snapshots", s->all);
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(json);
}

static int command_snapshots(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "tree", NULL, "show which came of which", OPT_TREE },
		SNAPSHOT_OPT_JSON,
		SNAPSHOT_OPTIONS,
		{ 0 },
	};
	struct wish w = { 0 };
	struct snapshots s = { .lock_fd = -1 };
	struct error err = { 0 };
	bool remote;
	int code =
	    parse(&w, specs, false, argc, argv, &remote,
	          "atoll snapshot list [OPTION]... MACHINE",
	          "List snapshots; * is where the machine goes on from.");

	if (code)
		return code - 1;
	if (remote)
		code = snapshot_remote_list(&w.of, &w.remote, &s);
	else if (snapshots_open(&s, &w.of, false, &err) < 0)
		code = say_error(&err);
	if (code == 0)
		print_all(&w, &s);
	snapshots_fini(&s);
	return code;
}

/* ---- revert ---- */

static int revert(const struct wish *w, const struct snapshots *s,
                  struct error *err)
{
	struct named claim = { .lock_fd = -1, .listen_fd = -1 };
	struct disk_progress bar;
	int rc = snapshots_find(s, w->name, err) ? 0 : err->code;

	/* The daemon knows that its own do not run. */
	if (rc == 0 && !w->of.folder)
		rc = named_claim(&claim, w->of.machine, err);
	if (rc == -EEXIST)
		error_hint(err, "end it first: what it did since is lost by a "
		                "revert");
	if (rc == 0) {
		disk_progress_begin(&bar, "putting back", w->remote.quiet);
		if (w->of.folder)
			bar.progress.step = snapshot_tell_far;
		rc = snapshot_put_back(&w->of, s, w->name, &bar.progress, err);
		disk_progress_end(&bar);
		if (!w->of.folder)
			named_release(&claim);
	}
	return rc;
}

static int revert_here(const struct wish *w)
{
	struct error err = { 0 };
	struct snapshots s;
	int code;

	if (w->force || w->start) {
		error_set(&err, -EINVAL,
		          "--force and --start are for machines that a daemon "
		          "keeps");
		return say_error(&err);
	}
	if (snapshots_open(&s, &w->of, true, &err) < 0)
		return say_error(&err);
	code = revert(w, &s, &err) < 0 ? say_error(&err) : 0;
	if (!code && !w->of.folder)
		printf("atoll resume %s\n", w->of.machine);
	snapshots_fini(&s);
	return code;
}

static int command_revert(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "force", NULL, "of a daemon's: end it if it runs", OPT_KILL },
		{ "start", NULL, "of a daemon's: go on with it at once",
		  OPT_START },
		SNAPSHOT_OPT_TASK,
		SNAPSHOT_OPTIONS,
		{ 0 },
	};
	struct wish w = { 0 };
	bool remote;
	int code = parse(&w, specs, true, argc, argv, &remote,
	                 "atoll snapshot revert [OPTION]... MACHINE NAME",
	                 "Put a machine that has ended, and its disks, back to "
	                 "a snapshot; atoll resume goes on with it, of a "
	                 "daemon's atoll start.");

	if (code)
		return code - 1;
	if (!remote)
		return revert_here(&w);
	return snapshot_remote_revert(
	    &w.of, &w.remote, w.name,
	    json_pack("{s:b,s:b}", "force", w.force, "start", w.start));
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
		if (rc < 0 || strcmp(saved_text(child, "parent"), w->name) != 0)
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
	static const struct option_spec specs[] = {
		{ "yes", NULL, "don't ask", SNAPSHOT_YES },
		SNAPSHOT_OPT_TASK,
		SNAPSHOT_OPTIONS,
		{ 0 },
	};
	struct wish w = { 0 };
	struct snapshots s;
	struct error err = { 0 };
	bool remote;
	int code = parse(&w, specs, true, argc, argv, &remote,
	                 "atoll snapshot delete MACHINE NAME",
	                 "Delete a snapshot; those that came of it stay.");

	if (code)
		return code - 1;
	code = say_confirm(w.remote.yes, "Delete the snapshot %s of %s?",
	                   w.name, w.of.machine);
	if (code)
		return code;
	if (remote)
		return snapshot_remote_delete(&w.of, &w.remote, w.name);
	if (snapshots_open(&s, &w.of, true, &err) < 0)
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
		     "Moments of a machine, its memory and its disks, to go "
		     "back to. One that was started with --name here, or "
		     "one that a daemon keeps.\n\nVerbs:");
		command_list(verbs);
		return argc < 2 ? END_USAGE : 0;
	}
	c = command_find(verbs, "verb", argv[1]);
	return c ? c->fn(argc - 1, argv + 1) : END_USAGE;
}
