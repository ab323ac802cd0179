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
	if (!named_valid(value))
		return error_set(err, -EINVAL,
		                 "%s: not 1 to 63 letters, digits and dashes",
		                 value);
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
		rc = image_copy_sparse(from, to, st.st_size);
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

struct creation {
	const char *folder;
	json_t *disks; /* what snapshot.json says of them */
};

/* Is all that the guest sees in this file, and is it one that can be put in
 * the place of another? */
static int check_disk(json_t *disk, int fd, struct error *err)
{
	const char *format = json_string_value(json_object_get(disk, "format"));
	const char *path = json_string_value(json_object_get(disk, "path"));
	struct block_open how = { .path = path,
		                  .format = "qcow2",
		                  .flags = BLOCK_OPEN_READONLY |
		                           BLOCK_OPEN_NO_LOCK |
		                           IMAGE_OPEN_NO_BACKING |
		                           IMAGE_OPEN_NO_DATA };
	struct image_details d;
	struct block *b;
	struct stat st;
	int rc = 0;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(err, -ENOTSUP,
		                 "%s is no file: it can't be in a snapshot",
		                 path);
	if (!format || strcmp(format, "qcow2") != 0)
		return 0;
	how.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	rc = block_open(&b, &how, err);
	if (rc < 0)
		return rc;
	image_details(b, &d);
	if (d.data_file)
		rc = error_set(err, -ENOTSUP,
		               "%s has its data in another file: it can't be "
		               "in a snapshot",
		               path);
	image_details_free(&d);
	block_close(b);
	return rc;
}

/* The folder that a path was meant from may be another than ours. */
static void note_path(json_t *disk, int fd)
{
	char link[64], target[4096];
	ssize_t n;

	if (json_is_true(json_object_get(disk, "private")))
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target) - 1);
	if (n <= 0)
		return;
	target[n] = '\0';
	json_object_set_new(disk, "path", json_string(target));
}

static int copy_disk(void *ctx, json_t *disk, int fd, struct error *err)
{
	struct creation *c = ctx;
	json_int_t i = json_integer_value(json_object_get(disk, "disk"));
	char *path = xasprintf("%s/disk%d", c->folder, (int)i);
	int rc = check_disk(disk, fd, err);

	if (rc == 0)
		rc = copy_to(fd, path, false, err);
	if (rc == 0)
		rc = image_claim(path, err);
	json_object_del(disk, "fd");
	note_path(disk, fd);
	json_array_append(c->disks, disk);
	free(path);
	return rc;
}

/* The machine runs again by now. */
static int sync_disks(const struct creation *c, struct error *err)
{
	json_t *disk;
	size_t k;
	int rc = 0;

	json_array_foreach(c->disks, k, disk)
	{
		json_int_t i =
		    json_integer_value(json_object_get(disk, "disk"));
		char *path = xasprintf("%s/disk%d", c->folder, (int)i);
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || fsync(fd) < 0)
			rc = error_set(err, -errno, "cannot write %s: %s", path,
			               strerror(errno));
		if (fd >= 0)
			close(fd);
		free(path);
	}
	return rc;
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

static int create(const struct wish *w, struct snapshots *s, struct error *err)
{
	char *folder = snapshots_path(s, w->name, NULL);
	char *state = xasprintf("%s/state", folder);
	struct creation c = { folder, json_array() };
	const struct saved_how how = { .plain = w->fast,
		                       .stay = true,
		                       .go_early = true,
		                       .disk = copy_disk,
		                       .ctx = &c };
	json_t *figures = NULL;
	int sock = -1, rc = 0;

	if (json_object_get(s->all, w->name))
		rc = error_set(err, -EEXIST, "there is a snapshot %s already",
		               w->name);
	if (rc == 0)
		rc = named_check_lasting(w->machine, err);
	if (rc == 0)
		rc = sock = named_connect(w->machine, err);
	if (rc >= 0 && mkdir(folder, 0700) < 0)
		rc = error_set(err, -errno, "cannot make %s: %s", folder,
		               strerror(errno));
	else if (rc >= 0) {
		rc = saved_write(sock, state, &how, &figures, err);
		if (rc == 0)
			rc = sync_disks(&c, err);
		if (rc == 0)
			rc = describe(w, s, folder, c.disks, figures, err);
		if (rc == 0)
			rc = snapshots_sync(s->folder, err);
		if (rc == 0)
			rc = snapshots_set_current(s, w->name, err);
		if (rc < 0) {
			struct error ignored;

			if (snapshots_erase(folder, &ignored) < 0)
				fprintf(stderr, "%s\n", ignored.text);
		}
	}
	if (rc == 0)
		fprintf(stderr, "%s stood still for %lld ms\n", w->machine,
		        (long long)json_integer_value(
			    json_object_get(figures, "held_ms")));
	/* If it did not already, the machine goes on when it is closed. */
	if (sock >= 0)
		close(sock);
	json_decref(figures);
	json_decref(c.disks);
	free(state);
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

static int copy_back(const struct snapshots *s, const char *name, json_t *disk,
                     const char *suspended, struct error *err)
{
	bool private = json_is_true(json_object_get(disk, "private"));
	json_int_t i = json_integer_value(json_object_get(disk, "disk"));
	char *file = xasprintf("disk%d", (int)i);
	char *from = snapshots_path(s, name, file);
	char *to = private ? xasprintf("%s.disk", suspended)
	                   : xstrdup(text_of(disk, "path"));
	int fd = open(from, O_RDONLY | O_CLOEXEC), rc;

	if (fd < 0)
		rc = error_set(err, -errno, "cannot read %s: %s", from,
		               strerror(errno));
	else
		rc = copy_to(fd, to, true, err);
	if (fd >= 0)
		close(fd);
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
