/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network.c - keeps the two processes of a network: its switch, and the stack
 * or tap device that leads out of it.
 *
 * Both look at what machines send, and are confined; this one does neither. It
 * holds the lock and the listening socket, so that a switch that died is
 * replaced while those who connect wait, daemon or no daemon. Each pause before
 * the next try is twice as long as the last, until one has run for a while.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/control.h"
#include "daemon/hold/hold.h"
#include "launch/launch.h"

enum { RETRY_FIRST_MS = 20, RETRY_MOST_MS = 5000, GOOD_RUN_S = 10 };
enum { CHILD_END_MS = 2000, FDS = 4 };

struct child {
	pid_t pid; /* 0: none */
	int process;
	struct loop_fd *watch;
};

struct keeper {
	const struct hold_config *config;
	struct loop *loop;
	json_t *network;
	struct child sw, stack;
	int control, signals; /* to the switch */
	struct loop_fd *control_watch, *signal_watch;
	struct loop_timer retry;
	u64 started_ns;
	unsigned failures; /* in a row */
	bool was_ready;
};

static const char *text_of(const struct keeper *k, const char *key)
{
	const char *s = json_string_value(json_object_get(k->network, key));

	return s ? s : "";
}

static u64 mtu_of(const struct keeper *k)
{
	json_int_t n = json_integer_value(json_object_get(k->network, "mtu"));

	return n > 0 ? (u64)n : 1500;
}

/* Why there is no network, for the daemon that finds the lock free. */
static void write_why(struct keeper *k, const char *words, const char *hint)
{
	json_t *why = json_pack("{s:s, s:s}", "words", words, "hint", hint);
	int fd = openat(k->config->folder, "why.json",
	                O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || json_dumpfd(why, fd, JSON_COMPACT) < 0)
		log_warn("hold", "why.json: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	json_decref(why);
}

/* ---- children ---- */

static void child_watch(struct keeper *k, struct child *c, pid_t pid,
                        loop_fd_fn *fn)
{
	c->pid = pid;
	c->process = (int)syscall(SYS_pidfd_open, pid, 0);
	c->watch = loop_fd_add(k->loop, c->process, LOOP_READ, fn, k);
}

/* Its wait status. */
static int child_stop(struct child *c, unsigned wait_ms)
{
	int status;

	if (!c->pid)
		return 0;
	loop_fd_remove(c->watch);
	close(c->process);
	status = launch_end(c->pid, wait_ms);
	memset(c, 0, sizeof(*c));
	return status;
}

static void drop_switch(struct keeper *k)
{
	loop_fd_remove(k->control_watch);
	k->control_watch = NULL;
	if (k->control >= 0)
		close(k->control);
	k->control = -1;
}

static void try_again(struct keeper *k)
{
	u64 wait_ms = RETRY_FIRST_MS, now = loop_now_ns();

	if (now - k->started_ns > GOOD_RUN_S * NSEC_PER_SEC)
		k->failures = 0;
	for (unsigned i = 0; i < k->failures && wait_ms < RETRY_MOST_MS; i++)
		wait_ms *= 2;
	k->failures++;
	loop_timer_arm(&k->retry,
	               now + MIN(wait_ms, (u64)RETRY_MOST_MS) * NSEC_PER_MSEC);
}

/* Its state is lost, and with it what the stack knows of ports: both begin
 * anew. Machines connect again by themselves. */
static void switch_ended(void *ctx, unsigned events)
{
	struct keeper *k = ctx;
	int status = child_stop(&k->sw, 0);

	(void)events;
	drop_switch(k);
	child_stop(&k->stack, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		loop_quit(k->loop, 0);
		return;
	}
	log_warn("hold", "the switch ended: %s",
	         WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "failure");
	if (k->was_ready)
		try_again(k);
	else
		loop_quit(k->loop, 1);
}

static void stack_ended(void *ctx, unsigned events)
{
	struct keeper *k = ctx;

	(void)events;
	child_stop(&k->stack, 0);
	log_warn("hold", "the uplink ended");
	try_again(k);
}

/* ---- starting them ---- */

/* fds: the cable's end, and that of its control. */
static int start_stack(struct keeper *k, int fds[2], struct error *err)
{
	struct launch_net net = {
		.hostname = text_of(k, "name"),
		.mtu = mtu_of(k),
		.network = text_of(k, "cidr"),
	};
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "a socket: %s", strerror(errno));
	net.control = pair[1];
	pid = launch_net(&net, &fds[0], err);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return pid;
	}
	fds[1] = pair[0];
	child_watch(k, &k->stack, pid, stack_ended);
	return 0;
}

/* What leads out, as the message's further descriptors. */
static int add_uplink(struct keeper *k, json_t *message, int *fds,
                      size_t *count, struct error *err)
{
	const char *kind = text_of(k, "uplink");
	int rc = 0;

	if (strcmp(kind, "bridge") == 0) {
		rc = launch_bridge(text_of(k, "bridge"), mtu_of(k), err);
		if (rc < 0)
			return rc;
		json_object_set_new(message, "uplink",
		                    json_integer((json_int_t)*count));
		fds[(*count)++] = rc;
	} else if (strcmp(kind, "nat") == 0) {
		rc = start_stack(k, fds + *count, err);
		if (rc < 0)
			return rc;
		json_object_set_new(message, "uplink",
		                    json_integer((json_int_t)(*count)++));
		json_object_set_new(message, "stack",
		                    json_integer((json_int_t)(*count)++));
	}
	return 0;
}

static int start_switch(struct keeper *k, struct error *err)
{
	char number[16];
	char *argv[] = { (char[]){ "atoll-net" }, (char[]){ "--switch" },
		         (char[]){ "--control-fd" }, number, NULL };
	struct launch l = { .program = "atoll-net",
		            .argv = argv,
		            .keep_count = 1,
		            .error_fd = -1 };
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "a socket: %s", strerror(errno));
	snprintf(number, sizeof(number), "%d", pair[1]);
	l.keep = &pair[1];
	pid = launch_start(&l, err);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return pid;
	}
	k->control = pair[0];
	child_watch(k, &k->sw, pid, switch_ended);
	return 0;
}

static void switch_says(void *ctx, unsigned events)
{
	struct keeper *k = ctx;
	int fds[CONTROL_FDS_MAX];
	json_t *message;
	struct error err;
	const char *event, *words, *hint;
	size_t count;

	(void)events;
	if (control_receive(k->control, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		drop_switch(k); /* its end comes next */
		return;
	}
	while (count)
		close(fds[--count]);
	event = json_string_value(json_object_get(message, "event"));
	if (event && strcmp(event, "ready") == 0) {
		k->was_ready = true;
	} else if (json_unpack(message, "{s:s, s:s}", "words", &words, "hint",
	                       &hint) == 0) {
		log_warn("hold", "%s", words);
		write_why(k, words, hint);
	}
	json_decref(message);
}

static int send_with(struct keeper *k, json_t *message, bool first,
                     struct error *err)
{
	int fds[FDS], rc;
	size_t count = 0, own = 0;

	if (first) { /* these two stay ours as well */
		fds[count++] = k->config->listener;
		fds[count++] = k->config->folder;
		own = count;
	}
	rc = add_uplink(k, message, fds, &count, err);
	if (rc == 0)
		rc = control_send(k->control, message, fds, count, err);
	while (count > own)
		close(fds[--count]);
	return rc;
}

static int start_all(struct keeper *k, struct error *err)
{
	json_t *message =
	    json_pack("{s:s, s:O, s:i, s:i}", "op", "open", "network",
	              k->network, "listener", 0, "folder", 1);
	int rc = start_switch(k, err);

	if (rc == 0)
		rc = send_with(k, message, true, err);
	json_decref(message);
	if (rc == 0) {
		k->control_watch =
		    loop_fd_add(k->loop, k->control, LOOP_READ, switch_says, k);
		return 0;
	}
	child_stop(&k->sw, 0);
	child_stop(&k->stack, 0);
	drop_switch(k);
	return rc;
}

static void retry_due(void *ctx)
{
	struct keeper *k = ctx;
	struct error err = { 0 };
	json_t *message;
	int rc;

	k->started_ns = loop_now_ns();
	if (!k->sw.pid) {
		rc = start_all(k, &err);
	} else {
		message = json_pack("{s:s}", "op", "uplink");
		rc = send_with(k, message, false, &err);
		json_decref(message);
	}
	if (rc == 0)
		return;
	log_warn("hold", "%s", err.text);
	try_again(k);
}

/* ---- begin and end ---- */

static void signal_ready(void *ctx, unsigned events)
{
	struct keeper *k = ctx;

	(void)events;
	loop_quit(k->loop, 0);
}

static void watch_signals(struct keeper *k)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	k->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	k->signal_watch =
	    loop_fd_add(k->loop, k->signals, LOOP_READ, signal_ready, k);
}

void hold_network(const struct hold_config *config)
{
	struct keeper *k = calloc(1, sizeof(*k));
	struct error err = { 0 };

	if (!k || loop_create(&k->loop, &err) < 0) {
		free(k);
		return;
	}
	k->config = config;
	k->network = json_object_get(config->document, "network");
	k->control = -1;
	loop_timer_init(&k->retry, k->loop, retry_due, k);
	watch_signals(k);
	unlinkat(config->folder, "why.json", 0);
	k->started_ns = loop_now_ns();
	if (start_all(k, &err) < 0)
		write_why(k, err.text, err.hint);
	else
		loop_run(k->loop);
	drop_switch(k);
	child_stop(&k->sw, CHILD_END_MS);
	child_stop(&k->stack, CHILD_END_MS);
	loop_fd_remove(k->signal_watch);
	loop_timer_fini(&k->retry);
	close(k->signals);
	loop_destroy(k->loop);
	free(k);
}
