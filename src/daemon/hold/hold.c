/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hold.c - one machine while it runs.
 *
 * The daemon connects to the listener, as often as it likes: it is told where
 * the machine stands, then what happens; what it asks is passed on to
 * atoll-vm and the answer back. Nothing here waits for it. What the guest
 * prints goes to the console log, whoever listens. When the machine has ended,
 * end.json says how, and only then does this process go and with it the lock
 * that says that the machine runs.
 *
 *	{"event":"hello","run":N,"state":...,"since":TIME,"pid":N,
 *	 "console":OFFSET}
 *	{"event":"state","state":"running"}     {"event":"console","end":OFFSET}
 *	{"event":"stopped", ... as in end.json}
 *	{"op":"input","data":HEX}   {"op":"kill"}   others: to atoll-vm
 *	{"op":"agent"}: the answer brings the guest agent's line
 *	{"op":"definition"}: what it was started by
 *	{"op":"adopt","restore":{...}}: of a copy, which waits for that
 *
 * A machine that goes on from a saved state uses that up: the state has another
 * name while the machine is built, and none once its guest runs.
 */
#include "daemon/hold/hold.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/cable.h"
#include "control/control.h"
#include "control/record.h"
#include "daemon/hold/console.h"
#include "daemon/hold/end.h"
#include "launch/launch.h"

enum { CLIENTS_MAX = 8, REQUESTS_MAX = 32 };
enum { PEER_WAIT_S = 5, NOTICE_MS = 10, LAST_BYTES_MS = 3000 };
enum { QUIT_MS = 5000, LOG_LIMIT = 4 << 20, ADOPT_MS = 60000 };

struct client {
	struct hold *hold;
	int fd;
	u64 number;   /* by which atoll-vm knows it */
	bool relayed; /* it does, then */
	struct loop_fd *watch;
};

/* One that atoll-vm has not answered yet. */
struct request {
	u64 id;                /* ours; 0: free */
	struct client *client; /* NULL: gone meanwhile */
	json_t *theirs;
	const char *state; /* the machine's, once it was granted; or NULL */
	bool snapshot;     /* in vain if the client goes away */
};

struct hold {
	const struct hold_config *config;
	struct loop *loop;
	struct hold_files files;
	struct console console;
	struct client clients[CLIENTS_MAX];
	struct client *stayer;  /* the machine stands still for it; or NULL */
	struct client *adopter; /* waits for a copy to run; or NULL */
	json_t *adopter_id;
	struct request requests[REQUESTS_MAX];
	u64 last_id, last_client;

	pid_t vm;
	int control, signals;
	struct loop_fd *control_watch, *listen_watch, *signal_watch;
	struct loop_fd *records_watch;
	struct loop_timer notice, deadline;
	u64 noticed_ns, noticed_end;

	const char *state;
	time_t since; /* it is in that state */
	json_t *end;  /* how it ended, when atoll-vm said so */
	bool killed, began, waits;
};

/* ---- to the daemon ---- */

/* To the machine, for a client that is gone: it knows us alone. */
static void tell_machine(struct hold *h, json_t *message)
{
	struct error err;

	if (h->control >= 0 &&
	    control_send(h->control, message, NULL, 0, &err) < 0)
		log_debug("hold", "%s", err.text);
	json_decref(message);
}

static void say_for(struct hold *h, const char *op)
{
	tell_machine(h, json_pack("{s:s}", "op", op));
}

/* Whatever it was its turn with is for the next one. */
static void say_left(const struct client *c)
{
	if (c->relayed)
		tell_machine(c->hold,
		             json_pack("{s:s,s:I}", "op", "left", "client",
		                       (json_int_t)c->number));
}

static void client_drop(struct client *c)
{
	for (size_t i = 0; i < REQUESTS_MAX; i++) {
		struct request *r = &c->hold->requests[i];

		if (r->client != c)
			continue;
		r->client = NULL;
		if (r->id && r->snapshot)
			say_for(c->hold, "snapshot-cancel");
	}
	say_left(c);
	/* Nobody is there any more to say what becomes of the machine. */
	if (c->hold->stayer == c) {
		c->hold->stayer = NULL;
		say_for(c->hold, "go");
	}
	if (c->hold->adopter == c)
		c->hold->adopter = NULL;
	loop_fd_remove(c->watch);
	close(c->fd);
	c->watch = NULL;
	c->fd = -1;
}

static void client_send_with(struct client *c, json_t *message, const int *fds,
                             size_t count)
{
	struct error err;

	if (c->fd >= 0 && control_send(c->fd, message, fds, count, &err) < 0)
		client_drop(c);
}

static void client_send(struct client *c, json_t *message)
{
	client_send_with(c, message, NULL, 0);
}

static void tell_all(struct hold *h, json_t *message)
{
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		client_send(&h->clients[i], message);
	json_decref(message);
}

static void set_state(struct hold *h, const char *state)
{
	if (strcmp(h->state, state) == 0)
		return;
	h->state = state;
	h->since = time(NULL);
	tell_all(h, json_pack("{s:s, s:s}", "event", "state", "state", state));
}

/* A peer that has not read the last notice gets the next one later. */
static void notice_console(void *ctx)
{
	struct hold *h = ctx;
	u64 now = loop_now_ns();
	int unread = 0;

	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (h->clients[i].fd >= 0)
			ioctl(h->clients[i].fd, SIOCOUTQ, &unread);
	if (unread || now - h->noticed_ns < NSEC_PER_MSEC) {
		loop_timer_arm(&h->notice, now + NOTICE_MS * NSEC_PER_MSEC);
		return;
	}
	if (h->noticed_end == h->console.log.end)
		return;
	h->noticed_ns = now;
	h->noticed_end = h->console.log.end;
	tell_all(h, json_pack("{s:s, s:I}", "event", "console", "end",
	                      (json_int_t)h->console.log.end));
}

/* ---- requests ---- */

static void answer(struct client *c, json_t *id, const char *refusal)
{
	json_t *message = json_pack("{s:b}", "ok", refusal == NULL);

	if (refusal)
		json_object_set_new(message, "words", json_string(refusal));
	if (id)
		json_object_set(message, "id", id);
	client_send(c, message);
	json_decref(message);
}

/* The descriptor itself: what the agent says is for the daemon to read. */
static void answer_agent(struct client *c, json_t *id)
{
	struct hold *h = c->hold;
	struct error err;
	json_t *message;

	if (h->files.agent < 0) {
		answer(c, id, "the machine has no line to an agent");
		return;
	}
	message = json_pack("{s:b, s:i}", "ok", 1, "agent", 0);
	if (id)
		json_object_set(message, "id", id);
	if (control_send(c->fd, message, &h->files.agent, 1, &err) < 0)
		client_drop(c);
	json_decref(message);
}

static void answer_definition(struct client *c, json_t *id)
{
	json_t *document = c->hold->config->document;
	json_t *message = json_pack(
	    "{s:b, s:O?, s:O?, s:O?}", "ok", 1, "spec",
	    json_object_get(document, "spec"), "revision",
	    json_object_get(document, "revision"), "disks",
	    json_object_get(json_object_get(document, "machine"), "disks"));

	if (id)
		json_object_set(message, "id", id);
	client_send(c, message);
	json_decref(message);
}

static void kill_vm(struct hold *h)
{
	h->killed = true;
	if (h->vm > 0)
		kill(h->vm, SIGKILL);
}

static const char *relay(struct hold *h, struct client *c, json_t *message,
                         const char *op, const int *fds, size_t count)
{
	struct request *r = h->requests;
	json_t *id = json_object_get(message, "id");
	struct error err;
	int rc;

	if (h->control < 0)
		return "the machine does not run";
	while (r < h->requests + REQUESTS_MAX && r->id)
		r++;
	if (r == h->requests + REQUESTS_MAX)
		return "too many requests wait for the machine";
	*r = (struct request){ .id = ++h->last_id, .client = c };
	r->theirs = json_incref(id);
	if (strcmp(op, "pause") == 0)
		r->state = "paused";
	else if (strcmp(op, "resume") == 0)
		r->state = "running";
	r->snapshot = strcmp(op, "snapshot") == 0 || strcmp(op, "save") == 0;
	message = json_copy(message);
	json_object_set_new(message, "id", json_integer((json_int_t)r->id));
	json_object_set_new(message, "client",
	                    json_integer((json_int_t)c->number));
	rc = control_send(h->control, message, fds, count, &err);
	json_decref(message);
	c->relayed = true;
	if (rc == 0)
		return NULL;
	json_decref(r->theirs);
	r->id = 0;
	return "the machine does not listen";
}

/* ---- a copy of another machine ---- */

static int send_start(struct hold *h, struct error *err);

static void adopted(struct hold *h, const char *refusal)
{
	if (h->adopter)
		answer(h->adopter, h->adopter_id, refusal);
	h->adopter = NULL;
	json_decref(h->adopter_id);
	h->adopter_id = NULL;
}

/* Its disks are there now, and what it goes on from came along. */
static void adopt(struct client *c, json_t *message, const int *fds,
                  size_t count)
{
	struct hold *h = c->hold;
	json_t *machine = json_object_get(h->config->document, "machine");
	json_t *restore = json_object_get(message, "restore");
	struct error err = { 0 };
	int rc;

	if (!h->waits) {
		answer(c, json_object_get(message, "id"),
		       "this machine is no copy that waits");
		return;
	}
	h->waits = false;
	loop_timer_cancel(&h->deadline);
	h->adopter = c;
	h->adopter_id = json_incref(json_object_get(message, "id"));
	rc = hold_files_open(&h->files, machine, &err);
	if (rc == 0)
		rc = hold_files_adopt(&h->files, restore, fds, count, &err);
	if (rc == 0)
		rc = send_start(h, &err);
	if (rc == 0)
		return;
	adopted(h, err.text);
	json_decref(h->end);
	h->end = end_of("failure", END_FAILURE, err.text, err.hint);
	kill(h->vm, SIGKILL);
}

/* To atoll-vm all of our clients are one. */
static void note_stay(struct client *c, json_t *message, const char *op)
{
	struct hold *h = c->hold;

	if (json_is_true(json_object_get(message, "stay")))
		h->stayer = c;
	else if (h->stayer == c &&
	         (strcmp(op, "go") == 0 || strcmp(op, "quit") == 0))
		h->stayer = NULL;
}

static void do_request(struct client *c, json_t *message, const int *fds,
                       size_t count)
{
	const char *op = json_string_value(json_object_get(message, "op"));
	json_t *id = json_object_get(message, "id");
	struct hold *h = c->hold;
	const char *refusal;

	if (!op)
		op = "";
	if (strcmp(op, "kill") == 0) {
		kill_vm(h);
		answer(c, id, NULL);
		return;
	}
	if (strcmp(op, "agent") == 0) {
		answer_agent(c, id);
		return;
	}
	if (strcmp(op, "definition") == 0) {
		answer_definition(c, id);
		return;
	}
	if (strcmp(op, "adopt") == 0) {
		adopt(c, message, fds, count);
		return;
	}
	if (strcmp(op, "input") == 0) {
		const char *hex =
		    json_string_value(json_object_get(message, "data"));

		answer(c, id, console_type(&h->console, hex));
		return;
	}
	refusal = relay(h, c, message, op, fds, count);
	if (!refusal)
		note_stay(c, message, op);
	if (refusal)
		answer(c, id, refusal);
	else if (strcmp(op, "quit") == 0)
		loop_timer_arm(&h->deadline,
		               loop_now_ns() + QUIT_MS * NSEC_PER_MSEC);
}

static void client_ready(void *ctx, unsigned events)
{
	struct client *c = ctx;
	int fds[CONTROL_FDS_MAX];
	json_t *message;
	struct error err;
	size_t count;

	(void)events;
	if (control_receive(c->fd, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		client_drop(c);
		return;
	}
	do_request(c, message, fds, count);
	while (count)
		close(fds[--count]);
	json_decref(message);
}

static void greet(struct client *c)
{
	struct hold *h = c->hold;
	json_t *run = json_object_get(h->config->document, "run");
	json_t *hello = json_pack(
	    "{s:s, s:O, s:s, s:I, s:i, s:I}", "event", "hello", "run", run,
	    "state", h->state, "since", (json_int_t)h->since, "pid", (int)h->vm,
	    "console", (json_int_t)h->console.log.end);

	client_send(c, hello);
	json_decref(hello);
}

static void listener_ready(void *ctx, unsigned events)
{
	struct hold *h = ctx;
	struct client *c = h->clients;
	struct timeval wait = { PEER_WAIT_S, 0 };
	int fd = accept4(h->config->listener, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return;
	while (c < h->clients + CLIENTS_MAX && c->fd >= 0)
		c++;
	if (c == h->clients + CLIENTS_MAX) {
		close(fd);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	c->fd = fd;
	c->number = ++h->last_client;
	c->relayed = false;
	c->watch = loop_fd_add(h->loop, fd, LOOP_READ, client_ready, c);
	greet(c);
}

/* ---- from the machine ---- */

static void take_answer(struct hold *h, json_t *message, const int *fds,
                        size_t count)
{
	json_int_t id = json_integer_value(json_object_get(message, "id"));

	for (size_t i = 0; i < REQUESTS_MAX; i++) {
		struct request *r = &h->requests[i];

		if (r->id == 0 || r->id != (u64)id)
			continue;
		if (r->state && json_is_true(json_object_get(message, "ok")))
			set_state(h, r->state);
		if (r->theirs)
			json_object_set(message, "id", r->theirs);
		else
			json_object_del(message, "id");
		if (r->client)
			client_send_with(r->client, message, fds, count);
		json_decref(r->theirs);
		r->theirs = NULL;
		r->id = 0;
		return;
	}
}

/* Another image is about to take a disk's place. */
static json_t *record(struct hold *h, json_t *message)
{
	json_t *disks = json_object_get(
	    json_object_get(h->config->document, "machine"), "disks");
	const char *name = "", *path;
	struct error err = { 0 };
	int disk = -1, rc;

	json_unpack(message, "{s:i, s:s}", "disk", &disk, "name", &name);
	path = json_string_value(json_object_get(
	    disk < 0 ? NULL : json_array_get(disks, (size_t)disk), "path"));
	rc = path ? record_take(path, name, &err) : -EPERM;
	if (rc < 0)
		log_warn("hold", "disk %d: %s", disk, err.text);
	return json_pack("{s:i}", "result", rc);
}

static void records_end(struct hold *h)
{
	loop_fd_remove(h->records_watch);
	h->records_watch = NULL;
}

static void records_ready(void *ctx, unsigned events)
{
	struct hold *h = ctx;
	int fds[CONTROL_FDS_MAX];
	json_t *message, *answer;
	size_t count;

	(void)events;
	if (control_receive(h->files.records, &message, fds, CONTROL_FDS_MAX,
	                    &count, NULL) < 0) {
		records_end(h);
		return;
	}
	while (count)
		close(fds[--count]);
	answer = record(h, message);
	if (control_send(h->files.records, answer, NULL, 0, NULL) < 0)
		records_end(h);
	json_decref(answer);
	json_decref(message);
}

static void vm_gone(struct hold *h)
{
	loop_fd_remove(h->control_watch);
	h->control_watch = NULL;
	close(h->control);
	h->control = -1;
	if (!h->console.out_watch)
		loop_quit(h->loop, 0);
	else /* what it printed last is still in the pipe */
		loop_timer_arm(&h->deadline,
		               loop_now_ns() + LAST_BYTES_MS * NSEC_PER_MSEC);
}

static void control_ready(void *ctx, unsigned events)
{
	struct hold *h = ctx;
	int fds[CONTROL_FDS_MAX];
	const char *event;
	json_t *message;
	struct error err;
	size_t count;

	(void)events;
	if (control_receive(h->control, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		vm_gone(h);
		return;
	}
	event = json_string_value(json_object_get(message, "event"));
	if (!event) {
		take_answer(h, message, fds, count);
	} else if (strcmp(event, "started") == 0) {
		h->began = true;
		adopted(h, NULL);
		unlinkat(h->config->folder, HOLD_RESUMING, 0);
		set_state(h, "running");
	} else if (strcmp(event, "stopped") == 0) {
		json_decref(h->end);
		h->end = json_incref(message);
		adopted(h,
		        json_string_value(json_object_get(message, "words")));
	}
	while (count)
		close(fds[--count]);
	json_decref(message);
}

static void console_closed(void *ctx)
{
	struct hold *h = ctx;

	if (h->control < 0)
		loop_quit(h->loop, 0);
}

/* Out of patience: with a machine that was told to quit, or with its pipes. */
static void out_of_time(void *ctx)
{
	struct hold *h = ctx;

	if (h->control < 0) {
		loop_quit(h->loop, 0);
		return;
	}
	kill(h->vm, SIGKILL);
}

static void signal_ready(void *ctx, unsigned events)
{
	struct hold *h = ctx;
	struct signalfd_siginfo info;

	(void)events;
	if (read(h->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		kill_vm(h);
}

/* ---- begin and end ---- */

/* A signal that ends us ends the machine first, and is written down. */
static void watch_signals(struct hold *h)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	h->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	h->signal_watch =
	    loop_fd_add(h->loop, h->signals, LOOP_READ, signal_ready, h);
}

/* A network's switch is another: the machine gets a cable into that one. */
static void new_cable(void *ctx, unsigned nic, int fd)
{
	json_t *message = json_pack("{s:s, s:i, s:i}", "op", "cable", "nic",
	                            (int)nic, "fd", 0);
	struct hold *h = ctx;
	struct error err;

	if (h->control >= 0 &&
	    control_send(h->control, message, &fd, 1, &err) < 0)
		log_warn("hold", "%s", err.text);
	json_decref(message);
	close(fd);
}

static int start_vm(struct hold *h, struct error *err)
{
	struct launch_vm how = { .machine = h->config->id };
	int log =
	    openat(h->config->folder, "vm.log",
	           O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);

	how.error_fd = log;
	h->vm = launch_vm(&how, &h->control, err);
	if (log >= 0)
		close(log);
	if (h->vm < 0)
		return h->vm;
	h->control_watch =
	    loop_fd_add(h->loop, h->control, LOOP_READ, control_ready, h);
	return 0;
}

/* All that it is made of, and its console from here on. */
static int send_start(struct hold *h, struct error *err)
{
	json_t *message =
	    json_pack("{s:s, s:O}", "op", "start", "machine", h->files.file);
	int rc = control_send(h->control, message, h->files.fds,
	                      h->files.fd_count, err);

	json_decref(message);
	hold_files_sent(&h->files);
	console_begin(&h->console, h->loop, h->files.console_in,
	              h->files.console_out);
	h->records_watch =
	    loop_fd_add(h->loop, h->files.records, LOOP_READ, records_ready, h);
	for (unsigned i = 0; i < h->files.cable_count; i++)
		cable_watch(h->files.cables[i], h->loop, new_cable, h);
	return rc;
}

static int start(struct hold *h, struct error *err)
{
	json_t *document = h->config->document;
	json_t *machine = json_object_get(document, "machine");
	int rc;

	if (json_object_get(document, "fork")) {
		h->waits = true;
		loop_timer_arm(&h->deadline,
		               loop_now_ns() + ADOPT_MS * NSEC_PER_MSEC);
		return start_vm(h, err);
	}
	rc = hold_files_open(&h->files, machine, err);
	if (rc == 0 && json_object_get(document, "restore"))
		rc = hold_files_restore(&h->files, h->config, err);
	if (rc == 0)
		rc = start_vm(h, err);
	return rc == 0 ? send_start(h, err) : rc;
}

static json_t *how_it_ended(struct hold *h, int status)
{
	if (h->killed)
		return end_of("killed", END_QUIT, "the machine was killed", "");
	if (h->end) {
		json_object_del(h->end, "event");
		return json_incref(h->end);
	}
	return end_of_status(status);
}

/* A start that failed can be tried again. What a machine ended for, it goes on
 * from; of one that went on, what was written is nothing. */
static void settle_saved(struct hold *h, json_t *end)
{
	const char *cause = json_string_value(json_object_get(end, "cause"));
	int folder = h->config->folder;

	if (h->files.restores && !h->began)
		renameat(folder, HOLD_RESUMING, folder, HOLD_SAVED);
	if (!h->began)
		return;
	if (cause && strcmp(cause, "suspended") == 0 && !h->killed)
		renameat(folder, HOLD_SAVING, folder, HOLD_SAVED);
	else
		unlinkat(folder, HOLD_SAVING, 0);
}

static void finish(struct hold *h, json_t *end)
{
	json_object_set(end, "run",
	                json_object_get(h->config->document, "run"));
	settle_saved(h, end);
	end_write(h->config->folder, end);
	h->state = "stopped";
	if (h->noticed_end != h->console.log.end)
		tell_all(h, json_pack("{s:s, s:I}", "event", "console", "end",
		                      (json_int_t)h->console.log.end));
	json_object_set_new(end, "event", json_string("stopped"));
	tell_all(h, end);
}

static void hold_fini(struct hold *h)
{
	loop_fd_remove(h->records_watch);
	hold_files_fini(&h->files);
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (h->clients[i].fd >= 0)
			client_drop(&h->clients[i]);
	for (size_t i = 0; i < REQUESTS_MAX; i++)
		json_decref(h->requests[i].theirs);
	loop_fd_remove(h->listen_watch);
	loop_fd_remove(h->control_watch);
	loop_fd_remove(h->signal_watch);
	loop_timer_fini(&h->notice);
	loop_timer_fini(&h->deadline);
	console_end(&h->console);
	json_decref(h->end);
	json_decref(h->adopter_id);
	loop_destroy(h->loop);
	free(h);
}

void hold_run(const struct hold_config *config)
{
	struct hold *h = calloc(1, sizeof(*h));
	struct error err = { 0 };
	int status = 0;
	json_t *end;

	if (!h || loop_create(&h->loop, &err) < 0)
		return;
	h->config = config;
	h->control = -1;
	h->state = "starting";
	h->since = time(NULL);
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		h->clients[i] = (struct client){ .hold = h, .fd = -1 };
	h->console.printed = notice_console;
	h->console.closed = console_closed;
	h->console.ctx = h;
	loop_timer_init(&h->notice, h->loop, notice_console, h);
	loop_timer_init(&h->deadline, h->loop, out_of_time, h);
	watch_signals(h);
	h->listen_watch = loop_fd_add(h->loop, config->listener, LOOP_READ,
	                              listener_ready, h);
	h->files.console_in = h->files.console_out = -1;
	h->files.agent = h->files.records = -1;
	if (console_log_open(&h->console.log, config->folder, LOG_LIMIT, &err) <
	        0 ||
	    start(h, &err) < 0) {
		end = end_of("failure", END_FAILURE, err.text, err.hint);
		if (h->vm > 0)
			launch_end(h->vm, 0);
		/* Those who wait at the door hear of it. */
		listener_ready(h, 0);
	} else {
		loop_run(h->loop);
		status = launch_end(h->vm, QUIT_MS);
		end = how_it_ended(h, status);
	}
	finish(h, end);
	hold_fini(h);
}
