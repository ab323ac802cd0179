/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll run - one machine in the foreground, with no daemon.
 */
#include "cli/run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/command.h"
#include "cli/named.h"
#include "cli/saved.h"
#include "cli/say.h"
#include "control/control.h"
#include "launch/launch.h"

/* The worker takes over all descriptors: our copies would keep pipes and
 * cables open after its end. */
static int start(struct worker *w, struct run_machine *m,
                 const struct run_options *o, struct error *err)
{
	/* perf looks for the names in the host's /tmp, by the host's pid. */
	bool traced =
	    o->engine_options && strstr(o->engine_options, "perf-map");
	json_t *message =
	    json_pack("{s:s, s:O}", "op", "start", "machine", m->file);
	const char *name = json_string_value(json_object_get(m->file, "name"));
	int rc = worker_start(w, traced ? NULL : name ? name : "machine", err);

	if (rc == 0) {
		rc =
		    control_send(w->control, message, m->fds, m->fd_count, err);
		if (rc < 0) {
			close(w->control);
			close(w->messages);
			launch_end(w->pid, 1000);
		}
	}
	json_decref(message);
	for (unsigned i = 0; i < m->fd_count; i++)
		close(m->fds[i]);
	m->fd_count = 0;
	return rc;
}

/* Its disks are open by now; they are those whose names they have. */
static int enter(struct named *named, struct run_machine *m,
                 const struct run_options *o, struct error *err)
{
	int rc = 0;

	if (!o->name)
		return run_machine_check_disks(m, err);
	if (!o->restore_move)
		rc = named_fresh(o->name, err);
	if (rc == 0 && o->saved && o->restore_move &&
	    !saved_is_at(o->saved, o->saved->path)) {
		rc = error_set(err, -EBUSY,
		               "%s has been gone on from, or put back, just "
		               "now",
		               o->name);
		error_hint(err, "ask again");
	}
	if (rc == 0)
		rc = run_machine_check_disks(m, err);
	if (rc == 0)
		rc = named_publish(named, json_object_get(m->file, "disks"),
		                   m->disk_paths, o->disposable, err);
	if (rc < 0)
		return rc;
	run_machine_set_fd(m, m->file, "listen", named->listen_fd);
	named->listen_fd = -1;
	return 0;
}

/* Its codes are of how machines end, not those of other verbs. */
static int did_not_start(const struct error *err)
{
	say_error(err);
	return err->code == -EINVAL ? END_USAGE : END_FAILURE;
}

/* Where the worker asks for what control/record.h does. */
static int open_records(struct run_machine *m, int *ours, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "a socket: %s", strerror(errno));
	run_machine_set_fd(m, m->file, "records", pair[1]);
	*ours = pair[0];
	return 0;
}

static int run(const struct run_options *o)
{
	struct session_config session = { .records = -1 };
	struct named named = { .lock_fd = -1, .listen_fd = -1 };
	struct run_machine m;
	struct error err = { 0 };
	int code;

	/* First: who had the name until now may still have the disks. */
	if (o->name && named_claim(&named, o->name, &err) < 0) {
		say_error(&err);
		return END_FAILURE;
	}
	if (run_machine_prepare(&m, o, &err) < 0) {
		named_release(&named);
		return did_not_start(&err);
	}
	if (enter(&named, &m, o, &err) < 0 ||
	    open_records(&m, &session.records, &err) < 0 ||
	    start(&session.worker, &m, o, &err) < 0) {
		run_machine_fini(&m);
		named_release(&named);
		if (session.records >= 0)
			close(session.records);
		say_error(&err);
		return END_FAILURE;
	}
	session.console_in = m.console_in;
	session.console_out = m.console_out;
	m.console_in = m.console_out = -1;
	session.name = o->name;
	session.timeout_ns = o->timeout_ns;
	session.disk_paths = m.disk_paths;
	session.disk_count = m.disk_count;
	if (o->restore_move && o->saved) {
		session.unlink_started = o->saved->path;
		session.disks_ended = o->saved->path;
		session.saved = o->saved;
	}
	code = session_run(&session);
	if (o->disposable && o->name)
		named_forget(o->name);
	run_machine_fini(&m);
	named_release(&named);
	return code;
}

/* What a saved machine was started with comes before what is said now. */
static int parse_restored(struct run_options *o, struct saved *saved,
                          char ***words, struct error *err)
{
	int argc = o->argc, count, rc = saved_open(saved, o->restore, err);
	char **argv = o->argv;

	if (rc < 0)
		return rc;
	*words = saved_command(saved, argc, argv, &count);
	run_options_fini(o);
	rc = run_options_parse(o, count, *words, err);
	if (rc == 0)
		rc = saved_enter_folder(saved, err);
	o->saved = saved;
	return rc;
}

int command_run(int argc, char **argv)
{
	struct run_options o;
	struct saved saved = { .fd = -1 };
	struct error err = { 0 };
	char **words = NULL;
	int rc, code = 0;

	signal(SIGPIPE, SIG_IGN);
	rc = run_options_parse(&o, argc, argv, &err);
	if (rc < 0) {
		say_error(&err);
		code = END_USAGE;
	} else if (rc == 0 && o.restore) {
		rc = parse_restored(&o, &saved, &words, &err);
		if (rc < 0)
			code = did_not_start(&err);
	}
	if (rc == 0)
		code = run(&o);
	run_options_fini(&o);
	saved_fini(&saved);
	free(words);
	return code;
}
