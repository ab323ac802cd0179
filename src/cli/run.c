/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll run - one machine in the foreground, with no daemon.
 */
#include "cli/run.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/command.h"
#include "cli/say.h"
#include "control/control.h"

/* The worker takes over all descriptors: our copies would keep pipes and
 * cables open after its end. */
static int start(struct worker *w, struct run_machine *m, struct error *err)
{
	json_t *message =
	    json_pack("{s:s, s:O}", "op", "start", "machine", m->file);
	int rc = worker_start(w, err);

	if (rc == 0) {
		rc =
		    control_send(w->control, message, m->fds, m->fd_count, err);
		if (rc < 0) {
			close(w->control);
			close(w->messages);
			child_end(w->pid, 1000);
		}
	}
	json_decref(message);
	for (unsigned i = 0; i < m->fd_count; i++)
		close(m->fds[i]);
	m->fd_count = 0;
	return rc;
}

static int run(const struct run_options *o)
{
	struct session_config session = { 0 };
	struct run_machine m;
	struct error err = { 0 };
	int code;

	if (run_machine_prepare(&m, o, &err) < 0)
		return say_error(&err);
	if (start(&session.worker, &m, &err) < 0) {
		run_machine_fini(&m);
		say_error(&err);
		return END_FAILURE;
	}
	session.console_in = m.console_in;
	session.console_out = m.console_out;
	m.console_in = m.console_out = -1;
	session.name = o->name;
	session.timeout_ns = o->timeout_ns;
	code = session_run(&session);
	run_machine_fini(&m);
	return code;
}

int command_run(int argc, char **argv)
{
	struct run_options o;
	struct error err = { 0 };
	int rc, code = 0;

	signal(SIGPIPE, SIG_IGN);
	rc = run_options_parse(&o, argc, argv, &err);
	if (rc < 0) {
		say_error(&err);
		code = END_USAGE;
	} else if (rc == 0) {
		code = run(&o);
	}
	run_options_fini(&o);
	return code;
}
