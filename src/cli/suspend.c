/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suspend - a machine in the foreground, held, put away, and gone on with.
 */
#include "cli/suspend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
#include "cli/snapshot.h"
#include "control/control.h"

struct wish {
	struct snapshot_of of;
	struct snapshot_remote remote;
	const char *to;
	bool fast;
};

enum { OPT_TO = 1, OPT_FAST };

static const struct option_spec pause_options[] = {
	SNAPSHOT_OPT_TASK,
	{ "remote", "WHERE", "a daemon's: unix:PATH or https://HOST:PORT",
	  SNAPSHOT_REMOTE },
	{ 0 },
};
static const struct option_spec suspend_options[] = {
	{ "to", "FILE", "write it there (atoll run --restore FILE)", OPT_TO },
	{ "fast", NULL, "leave memory as it is: larger, resumes at once",
	  OPT_FAST },
	SNAPSHOT_OPT_TASK,
	SNAPSHOT_OPTIONS,
	{ 0 },
};

static int one(void *ctx, int id, const char *value, struct error *err)
{
	struct wish *w = ctx;

	if (id == OPT_TO)
		w->to = value;
	else if (id == OPT_FAST)
		w->fast = true;
	else if (id)
		return snapshot_where_option(&w->of, &w->remote, id, value,
		                             err);
	else if (w->of.machine)
		return error_set(err, -EINVAL,
		                 "one machine at a time: %s or %s",
		                 w->of.machine, value);
	else
		w->of.machine = value;
	return 0;
}

/* 0, or the exit code plus one. remote: the daemon is to be asked. */
static int parse(struct wish *w, const struct option_spec *specs, int argc,
                 char **argv, bool *remote, const char *usage,
                 const char *summary)
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
	if (snapshot_is_remote(&w->of, &w->remote, remote, &err) < 0)
		return say_error(&err) + 1;
	return 0;
}

static int simple(const char *name, const char *op, struct error *err)
{
	int sock = named_connect(name, err), fds[CONTROL_FDS_MAX], rc;
	json_t *answer = NULL;
	size_t count = 0;

	if (sock < 0)
		return sock;
	rc = saved_request(sock, json_pack("{s:s}", "op", op), NULL, 0, &answer,
	                   fds, &count, err);
	if (rc == 0)
		json_decref(answer);
	close(sock);
	return rc;
}

int command_pause(int argc, char **argv)
{
	struct wish w = { 0 };
	struct error err = { 0 };
	bool remote;
	int code =
	    parse(&w, pause_options, argc, argv, &remote, "atoll pause NAME",
	          "Hold a running machine; atoll resume lets it go on.");

	if (code)
		return code - 1;
	if (remote)
		return snapshot_remote_act(&w.of, &w.remote, "pause", NULL);
	return simple(w.of.machine, "pause", &err) < 0 ? say_error(&err) : 0;
}

static void tell(json_t *figures, const char *path)
{
	json_int_t pages = 0, zero = 0, duplicate = 0, stored = 0, ms = 0;
	char all[32], less[32];

	json_unpack(figures, "{s:I,s:I,s:I,s:I,s:I}", "pages", &pages, "zero",
	            &zero, "duplicate", &duplicate, "stored_bytes", &stored,
	            "ms", &ms);
	printf("%s: %s of memory in %s, %lld ms\n", path,
	       format_size((u64)pages * 4096, all, sizeof(all)),
	       format_size((u64)stored, less, sizeof(less)), (long long)ms);
}

/* Its last words, or its end. */
static void wait_for_end(int sock)
{
	int fds[CONTROL_FDS_MAX];
	struct error err = { 0 };
	json_t *message;
	size_t count;

	while (control_receive(sock, &message, fds, CONTROL_FDS_MAX, &count,
	                       &err) == 0) {
		while (count)
			close(fds[--count]);
		json_decref(message);
	}
}

/* Of one that never had a state, or that we failed to save. */
static void unlink_copies(json_t *list)
{
	json_t *disk;
	size_t i;

	json_array_foreach(list, i, disk) unlink(saved_text(disk, "copy"));
}

/* A disk that a fork has left on top of others, with a name for none: its
 * contents are written out. The list is empty for every other machine. */
static int list_shared(int sock, const char *path, json_t *status, json_t **out,
                       struct error *err)
{
	json_t *answer = NULL, *disk, *list, *origin;
	int fds[CONTROL_FDS_MAX], rc;
	bool shared = false;
	size_t count, i;

	rc = saved_request(sock, json_pack("{s:s}", "op", "disks"), NULL, 0,
	                   &answer, fds, &count, err);
	if (rc < 0)
		return rc;
	list = json_array();
	origin = json_object_get(status, "origin");
	json_array_foreach(json_object_get(answer, "disks"), i, disk)
	{
		char *copy;

		if (!json_is_true(json_object_get(disk, "private")))
			continue;
		shared |= json_is_true(json_object_get(disk, "shared"));
		copy =
		    saved_disk_path(path, (unsigned)i, saved_has_image(origin));
		json_object_set_new(disk, "copy", json_string(copy));
		json_object_set_new(disk, "stored",
		                    json_string(saved_stored(disk, status)));
		json_array_append(list, disk);
		free(copy);
	}
	if (!shared)
		json_array_clear(list);
	unlink_copies(list);
	json_decref(answer);
	*out = list;
	return 0;
}

/* All at one moment, after which it stays. */
static int put_shared_away(int sock, const char *path,
                           const struct saved_how *how, json_t *shared,
                           json_t **figures, struct error *err)
{
	json_int_t us;
	int rc = saved_moment(sock, path, how, shared, figures, err);

	if (rc < 0) {
		unlink_copies(shared);
		return rc;
	}
	us = json_integer_value(json_object_get(*figures, "pause_us"));
	json_object_set_new(*figures, "ms", json_integer(us / 1000));
	return 0;
}

static int put_away(int sock, const char *path, struct saved_how *how,
                    json_t **figures, struct error *err)
{
	struct saved_place place = { .path = path };
	json_t *shared = NULL, *status = NULL;
	int fds[CONTROL_FDS_MAX], rc;
	size_t count;

	rc = saved_request(sock, json_pack("{s:s}", "op", "status"), NULL, 0,
	                   &status, fds, &count, err);
	if (rc < 0)
		return rc;
	place.image = saved_has_image(json_object_get(status, "origin"));
	how->ctx = &place;
	rc = list_shared(sock, path, status, &shared, err);
	if (rc == 0 && json_array_size(shared))
		rc = put_shared_away(sock, path, how, shared, figures, err);
	else if (rc == 0)
		rc = saved_write(sock, path, how, figures, err);
	json_decref(shared);
	json_decref(status);
	return rc;
}

static int reach(const struct wish *w, struct error *err)
{
	json_t *definition = NULL;
	int rc, sock;

	if (!w->of.socket) {
		rc = named_check_lasting(w->of.machine, err);
		return rc < 0 ? rc : named_connect(w->of.machine, err);
	}
	sock = live_connect(w->of.socket, err);
	rc = sock < 0 ? sock : snapshot_definition(sock, &definition, err);
	if (rc == 0)
		rc = snapshot_write_saved(&w->of, definition, false, err);
	if (rc < 0 && sock >= 0)
		close(sock);
	json_decref(definition);
	return rc < 0 ? rc : sock;
}

static int suspend(const struct wish *w, const char *path, struct error *err)
{
	int rc, sock = reach(w, err);
	json_t *figures = NULL, *quit;
	struct disk_progress bar;
	struct saved_how how = { .plain = w->fast,
		                 .progress = &bar.progress,
		                 .stay = true,
		                 .disk = saved_keep_disk };

	if (sock < 0)
		return sock;
	disk_progress_begin(&bar, "saving", w->remote.quiet);
	rc = put_away(sock, path, &how, &figures, err);
	disk_progress_end(&bar);
	if (rc == 0) {
		quit = json_pack("{s:s,s:b}", "op", "quit", "suspended", 1);
		rc = control_send(sock, quit, NULL, 0, err);
		json_decref(quit);
		if (rc == 0)
			wait_for_end(sock);
		tell(figures, path);
		json_decref(figures);
	}
	close(sock);
	return rc;
}

static int suspend_here(const struct wish *w)
{
	struct error err = { 0 };
	char *path = NULL, *folder = NULL;
	int code;

	/* Its disk would be replaced a moment before it is. */
	if (w->to && access(w->to, F_OK) == 0) {
		error_set(&err, -EEXIST, "%s exists already", w->to);
	} else if (w->to) {
		path = xstrdup(w->to);
	} else if (w->of.folder) {
		path = xasprintf("%s/saving.state", w->of.folder);
	} else {
		folder = named_folder(w->of.machine, true, &err);
		if (folder)
			path = snapshot_suspended(&w->of, &err);
	}
	code = !path || suspend(w, path, &err) < 0 ? say_error(&err) : 0;
	free(folder);
	free(path);
	return code;
}

int command_suspend(int argc, char **argv)
{
	struct wish w = { 0 };
	bool remote;
	int code = parse(&w, suspend_options, argc, argv, &remote,
	                 "atoll suspend [OPTION]... NAME",
	                 "Save a running machine and end it; atoll resume goes "
	                 "on with it.");

	if (code)
		return code - 1;
	if (!remote)
		return suspend_here(&w);
	if (w.to)
		return say_usage("--to is for machines that were started "
		                 "here; the daemon keeps its own");
	return snapshot_remote_act(&w.of, &w.remote, "suspend",
	                           json_pack("{s:b}", "fast", w.fast));
}

/* Options are not those of atoll run then. */
static int resume_remote(int argc, char **argv)
{
	struct wish w = { 0 };
	bool remote;
	int code = parse(&w, pause_options, argc, argv, &remote,
	                 "atoll resume NAME", "");

	return code ? code - 1
	            : snapshot_remote_act(&w.of, &w.remote, "resume", NULL);
}

/* One that is held goes on; one that was put away starts here. */
int command_resume(int argc, char **argv)
{
	struct wish w = { 0 };
	struct error err = { 0 };
	char *path, **all;
	int code, n = 0;
	bool remote;

	if (argc < 2 || options_want_help(argc, argv)) {
		options_help("atoll resume NAME [OPTION]...",
		             "Go on with a machine that was paused or "
		             "suspended. Options are those of atoll run.",
		             pause_options);
		return argc < 2 ? END_USAGE : 0;
	}
	if (argv[1][0] == '-')
		return say_usage("atoll resume NAME: the name comes first");
	w.of.machine = argv[1];
	if (snapshot_is_remote(&w.of, &w.remote, &remote, &err) < 0)
		return say_error(&err);
	if (remote)
		return resume_remote(argc, argv);
	path = named_suspended(argv[1], &err);
	if (!path)
		return say_error(&err);
	if (!saved_is_there(path)) {
		code =
		    simple(argv[1], "resume", &err) < 0 ? say_error(&err) : 0;
		free(path);
		return code;
	}
	all = xalloc((size_t)(argc + 4) * sizeof(*all));
	all[n++] = argv[0];
	for (int i = 2; i < argc; i++)
		all[n++] = argv[i];
	all[n++] = (char[]){ "--restore" };
	all[n++] = path;
	all[n++] = (char[]){ "--move" };
	code = command_run(n, all);
	free(all);
	free(path);
	return code;
}
