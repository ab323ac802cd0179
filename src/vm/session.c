/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session - talks to the starter, and does what it says.
 */
#include "vm/session.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/control.h"
#include "machine/machine.h"
#include "vm/config.h"
#include "vm/sandbox.h"

/* A peer that stalls in the middle of a message must not stall us. */
enum { PEER_WAIT_S = 5 };

struct session {
	int sock;
	int signal_fd;
	struct loop *loop;
	struct machine *machine;
	struct loop_fd *watch, *signal_watch;
	struct vm_config config;
	bool paused;
};

static void send_json(struct session *s, json_t *message)
{
	struct error err = { 0 };

	if (!message)
		return;
	if (s->sock >= 0 && control_send(s->sock, message, NULL, 0, &err) < 0)
		log_debug("vm", "%s", err.text);
	json_decref(message);
}

/* Words may hold what a guest or a file put there: made valid UTF-8. */
static json_t *json_words(const char *words)
{
	char clean[2048];
	size_t n = 0;

	for (; words[n] && n + 1 < sizeof(clean); n++)
		clean[n] = (u8)words[n] < 0x80 ? words[n] : '?';
	clean[n] = 0;
	return json_string(clean);
}

static void send_stopped(struct session *s, const char *cause, int code,
                         const char *words, const char *hint)
{
	send_json(s, json_pack("{s:s,s:s,s:i,s:o,s:o}", "event", "stopped",
	                       "cause", cause, "code", code, "words",
	                       json_words(words), "hint", json_words(hint)));
}

static int failed(struct session *s, const struct error *err)
{
	send_stopped(s, "failure", END_FAILURE, err->text, err->hint);
	return END_FAILURE;
}

/* ---- requests while it runs ---- */

static void answer(struct session *s, json_t *id, json_t *body)
{
	if (id)
		json_object_set(body, "id", id);
	send_json(s, body);
}

static json_t *ok(void)
{
	return json_pack("{s:b}", "ok", 1);
}

static json_t *refusal(const char *words)
{
	return json_pack("{s:b,s:s}", "ok", 0, "words", words);
}

static json_t *do_status(struct session *s)
{
	char *report = machine_report(s->machine);
	json_t *figures = json_loads(report, 0, NULL);

	free(report);
	return json_pack("{s:b,s:s,s:o}", "ok", 1, "state",
	                 s->paused ? "paused" : "running", "report",
	                 figures ? figures : json_object());
}

static json_t *do_resize(struct session *s, json_t *message)
{
	json_t *columns = json_object_get(message, "columns");
	json_t *rows = json_object_get(message, "rows");
	json_int_t c = json_integer_value(columns);
	json_int_t r = json_integer_value(rows);

	if (c < 1 || c > UINT16_MAX || r < 1 || r > UINT16_MAX)
		return refusal("resize needs columns and rows");
	machine_console_resize(s->machine, (u16)c, (u16)r);
	return ok();
}

static json_t *do_op(struct session *s, const char *op, json_t *message)
{
	if (!strcmp(op, "powerdown")) {
		machine_power_button(s->machine);
	} else if (!strcmp(op, "reset")) {
		machine_reset(s->machine, "asked for");
	} else if (!strcmp(op, "pause")) {
		machine_pause(s->machine);
		s->paused = true;
	} else if (!strcmp(op, "resume")) {
		machine_resume(s->machine);
		s->paused = false;
	} else if (!strcmp(op, "quit")) {
		machine_quit(s->machine, END_QUIT, "quit",
		             "the machine was told to quit");
	} else if (!strcmp(op, "status")) {
		return do_status(s);
	} else if (!strcmp(op, "resize")) {
		return do_resize(s, message);
	} else {
		return refusal("no such request");
	}
	return ok();
}

static void peer_gone(struct session *s)
{
	loop_fd_remove(s->watch);
	s->watch = NULL;
	close(s->sock);
	s->sock = -1;
	machine_quit(s->machine, END_QUIT, "quit",
	             "whoever started the machine has gone");
}

static void sock_ready(void *ctx, unsigned events)
{
	struct session *s = ctx;
	struct error err = { 0 };
	int fds[CONTROL_FDS_MAX];
	size_t count;
	json_t *message;
	const char *op;

	(void)events;
	if (control_receive(s->sock, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		log_debug("vm", "%s", err.text);
		peer_gone(s);
		return;
	}
	while (count)
		close(fds[--count]); /* no request brings any */
	op = json_string_value(json_object_get(message, "op"));
	answer(s, json_object_get(message, "id"),
	       do_op(s, op ? op : "", message));
	json_decref(message);
}

static void signal_ready(void *ctx, unsigned events)
{
	struct session *s = ctx;

	(void)events;
	loop_fd_set(s->signal_watch, 0);
	machine_quit(s->machine, END_QUIT, "quit",
	             "the machine's process was told to end");
}

/* ---- start and end ---- */

/* Before any thread exists, so that all inherit the mask. */
static int watch_signals(struct session *s, struct error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return error_set(err, -errno, "signals: %s", strerror(errno));
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0)
		return error_set(err, -errno, "signals: %s", strerror(errno));
	return 0;
}

static int receive_start(struct session *s, struct error *err)
{
	int fds[CONTROL_FDS_MAX];
	size_t count = 0;
	json_t *message = NULL;
	const char *op;
	int rc = control_receive(s->sock, &message, fds, CONTROL_FDS_MAX,
	                         &count, err);

	if (rc < 0)
		return rc;
	op = json_string_value(json_object_get(message, "op"));
	if (!op || strcmp(op, "start"))
		rc = error_set(err, -EPROTO,
		               "the first message is not a "
		               "start message");
	else
		rc = vm_config_parse(json_object_get(message, "machine"), fds,
		                     count, &s->config, err);
	json_decref(message);
	return rc;
}

static int build(struct session *s, struct error *err)
{
	struct timeval wait = { PEER_WAIT_S, 0 };
	int rc = receive_start(s, err);

	if (rc == 0)
		rc = watch_signals(s, err);
	if (rc == 0)
		rc = loop_create(&s->loop, err);
	if (rc < 0)
		return rc;
	log_setup(STDERR_FILENO, log_level(), s->config.machine.name);
	setsockopt(s->sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(s->sock, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	rc = machine_create(&s->machine, &s->config.machine, s->loop, err);
	if (rc < 0)
		return rc;
	s->watch = loop_fd_add(s->loop, s->sock, LOOP_READ, sock_ready, s);
	s->signal_watch =
	    loop_fd_add(s->loop, s->signal_fd, LOOP_READ, signal_ready, s);
	return sandbox_enter(err);
}

static void write_report(struct session *s)
{
	char *text;
	size_t size, done = 0;

	if (s->config.report_fd < 0)
		return;
	text = machine_report(s->machine);
	size = strlen(text);
	text[size] = '\n'; /* in place of the NUL */
	while (done <= size) {
		ssize_t n =
		    write(s->config.report_fd, text + done, size + 1 - done);

		if (n < 0 && errno != EINTR) {
			log_warn("vm", "report: %s", strerror(errno));
			break;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	free(text);
}

static int run(struct session *s)
{
	struct machine_outcome outcome;

	send_json(s, json_pack("{s:s}", "event", "started"));
	machine_run(s->machine, &outcome);
	write_report(s);
	send_stopped(s, outcome.cause, outcome.code, outcome.words, "");
	return outcome.code;
}

static void session_fini(struct session *s)
{
	loop_fd_remove(s->watch);
	loop_fd_remove(s->signal_watch);
	machine_destroy(s->machine);
	loop_destroy(s->loop);
	if (s->signal_fd >= 0)
		close(s->signal_fd);
	if (s->sock >= 0)
		close(s->sock);
	vm_config_fini(&s->config);
}

int vm_session(int sock)
{
	struct session s = { .sock = sock, .signal_fd = -1 };
	struct error err = { 0 };
	int code;

	if (build(&s, &err) < 0)
		code = failed(&s, &err);
	else
		code = run(&s);
	session_fini(&s);
	return code;
}
