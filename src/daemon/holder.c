/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holder - the daemon's end of a machine's holder (hold/hold.c).
 *
 * The lock on the machine's folder says whether a holder is there: the daemon
 * takes it, and the holder inherits it locked, so that there is no moment at
 * which a machine that was started has no lock. The socket exists before the
 * holder runs. So a daemon that died anywhere in between is continued by the
 * next one, which looks at the lock, connects, or reads end.json.
 *
 * A holder that is killed takes its machine with it; but that has its disks
 * open until it is gone, so that its end is waited for, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "control/control.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"
#include "daemon/held.h"
#include "daemon/limits/limits.h"

enum { RETRY_MS = 10 };

struct pending {
	struct pending *next;
	s64 id;
	holder_answer_fn *fn;
	void *ctx;
};

struct holder {
	struct vm *vm;
	int fd; /* -1: not connected */
	struct loop_fd *watch;
	struct loop_timer retry;
	struct pending *pending;
	s64 last_id;
	bool was_connected;
	int machine; /* its process, by a pidfd; -1: not known */
};

/* ---- folder, lock, socket ---- */

static bool is_held(struct vm *vm)
{
	struct error err;
	int folder = vm_folder(vm, &err), fd;

	if (folder < 0)
		return false;
	fd = held_lock(folder);
	close(folder);
	if (fd >= 0)
		close(fd);
	return fd == -EWOULDBLOCK;
}

static void take_process(struct holder *h, pid_t pid)
{
	if (h->machine >= 0)
		close(h->machine);
	h->machine = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

/* The machine's process, which says when it is gone. */
static bool machine_lives(const struct holder *h)
{
	struct pollfd p = { .fd = h->machine, .events = POLLIN };

	return h->machine >= 0 && poll(&p, 1, 0) == 0;
}

/* Where the sockets of holders are. */
static char *sockets(struct vm *vm)
{
	return xasprintf("%s/machines", vm->daemon->place.runtime);
}

static int connect_to(struct vm *vm)
{
	char *folder = sockets(vm);
	int fd = held_connect(folder, vm->id);

	free(folder);
	return fd;
}

/* How run vm->run ended, if it says so. */
static json_t *read_end(struct vm *vm)
{
	struct error err;
	int folder = vm_folder(vm, &err), fd;
	json_t *end = NULL;

	if (folder < 0)
		return NULL;
	fd = openat(folder, "end.json", O_RDONLY | O_CLOEXEC);
	close(folder);
	if (fd < 0)
		return NULL;
	end = json_loadfd(fd, 0, NULL);
	close(fd);
	if (json_integer_value(json_object_get(end, "run")) != vm->run) {
		json_decref(end);
		return NULL;
	}
	return end;
}

static json_t *died(struct vm *vm)
{
	return json_pack("{s:s, s:i, s:s, s:s, s:I}", "cause", "died", "code",
	                 END_WORKER_DIED, "words",
	                 "the process that held the machine is gone without "
	                 "a word",
	                 "hint", "it was killed, or the host was restarted",
	                 "run", (json_int_t)vm->run);
}

/* ---- the connection ---- */

static void answer_pending(struct holder *h, json_t *message)
{
	s64 id = json_integer_value(json_object_get(message, "id"));
	bool ok = json_is_true(json_object_get(message, "ok"));
	const char *words =
	    json_string_value(json_object_get(message, "words"));
	struct pending **at = &h->pending, *p;

	while (*at && (*at)->id != id)
		at = &(*at)->next;
	p = *at;
	if (!p)
		return;
	*at = p->next;
	if (p->fn)
		p->fn(p->ctx, ok, words ? words : "", message);
	free(p);
}

static void disconnect(struct holder *h)
{
	struct pending *p;

	loop_fd_remove(h->watch);
	h->watch = NULL;
	if (h->fd >= 0)
		close(h->fd);
	h->fd = -1;
	while ((p = h->pending)) {
		h->pending = p->next;
		if (p->fn)
			p->fn(p->ctx, false, "the machine has ended", NULL);
		free(p);
	}
}

/* What it runs by. */
static void take_definition(struct vm *vm, json_t *spec, json_t *disks)
{
	json_decref(vm->run_spec);
	json_decref(vm->run_disks);
	vm->run_spec = json_incref(spec);
	vm->run_disks = json_incref(disks);
}

void holder_forget(struct vm *vm)
{
	struct holder *h = vm->holder;

	if (!h)
		return;
	vm->holder = NULL;
	take_definition(vm, NULL, NULL);
	disconnect(h);
	take_process(h, 0);
	loop_timer_fini(&h->retry);
	free(h);
}

static void ended(struct holder *h)
{
	struct vm *vm = h->vm;
	json_t *end = read_end(vm);

	holder_forget(vm);
	vm_ended(vm, end ? end : died(vm));
}

static void take_state(struct vm *vm, const char *state)
{
	if (strcmp(state, "running") == 0) {
		vm->clock_late |= vm->state == VM_PAUSED;
		vm_came_up(vm, VM_RUNNING);
	} else if (strcmp(state, "paused") == 0) {
		vm_came_up(vm, VM_PAUSED);
	} else if (strcmp(state, "starting") == 0) {
		vm_set_state(vm, VM_STARTING);
	}
}

/* Of one that an earlier daemon started. A holder of an earlier version does
 * not say it. */
static void take_since(struct vm *vm, json_t *message)
{
	json_t *since = json_object_get(message, "since");

	if (json_is_integer(since))
		time_text(json_integer_value(since), vm->since);
}

static void take_event(struct vm *vm, const char *event, json_t *message)
{
	const char *state =
	    json_string_value(json_object_get(message, "state"));
	json_t *end = json_object_get(
	    message, strcmp(event, "hello") == 0 ? "console" : "end");

	if (json_is_integer(end) &&
	    (u64)json_integer_value(end) != vm->console_end)
		vm_console_grew(vm, (u64)json_integer_value(end));
	if (strcmp(event, "hello") == 0) {
		vm->pid =
		    (pid_t)json_integer_value(json_object_get(message, "pid"));
		take_process(vm->holder, vm->pid);
	}
	if (state && strcmp(event, "stopped"))
		take_state(vm, state);
	if (strcmp(event, "hello") == 0) {
		take_since(vm, message);
		limits_begin(vm);
	}
}

/* Of one that an earlier daemon started. */
static void defined(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct vm *vm = ctx;

	if (ok)
		take_definition(vm, json_object_get(answer, "spec"),
		                json_object_get(answer, "disks"));
	else
		log_debug("daemon", "%s: %s", vm->name, words);
}

static void connect_again(struct holder *h)
{
	loop_timer_arm(&h->retry, loop_now_ns() + RETRY_MS * NSEC_PER_MSEC);
}

static void readable(void *ctx, unsigned events)
{
	struct holder *h = ctx;
	struct vm *vm = h->vm;
	int fds[CONTROL_FDS_MAX];
	const char *event;
	json_t *message;
	struct error err;
	size_t count;

	(void)events;
	if (control_receive(h->fd, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		disconnect(h);
		connect_again(
		    h); /* it has ended, as soon as its lock is free */
		return;
	}
	/* The one descriptor that an answer may bring. */
	if (count == 1 && json_object_get(message, "agent"))
		guest_line(vm, fds[--count]);
	while (count)
		close(fds[--count]);
	event = json_string_value(json_object_get(message, "event"));
	if (event)
		take_event(vm, event, message);
	else
		answer_pending(h, message);
	json_decref(message);
}

static void attach(void *ctx)
{
	struct holder *h = ctx;
	int fd = h->was_connected ? -ENOTCONN : connect_to(h->vm);

	if (fd >= 0) {
		h->fd = fd;
		h->was_connected = true;
		h->watch = loop_fd_add(h->vm->daemon->loop, fd, LOOP_READ,
		                       readable, h);
		if (!h->vm->run_disks)
			holder_request(h->vm,
			               json_pack("{s:s}", "op", "definition"),
			               defined, h->vm);
	} else if (is_held(h->vm) || machine_lives(h)) {
		/* Between its lock and its socket, or on its way out. */
		h->was_connected = false;
		connect_again(h);
	} else {
		ended(h);
	}
}

static struct holder *holder_new(struct vm *vm)
{
	struct holder *h = xalloc(sizeof(*h));

	h->vm = vm;
	h->fd = -1;
	h->machine = -1;
	loop_timer_init(&h->retry, vm->daemon->loop, attach, h);
	vm->holder = h;
	return h;
}

void holder_find(struct vm *vm)
{
	struct holder *h;
	json_t *end;
	s64 known = json_integer_value(json_object_get(vm->last_end, "run"));

	if (is_held(vm)) {
		h = holder_new(vm);
		vm->state = VM_STARTING;
		attach(h);
		return;
	}
	if (vm->run == 0 || known == vm->run)
		return;
	end = read_end(vm);
	vm_ended(vm, end ? end : died(vm));
}

/* ---- starting one ---- */

static int start_in(struct vm *vm, int folder, int lock,
                    const struct holder_start *what, struct error *err)
{
	json_t *document =
	    json_pack("{s:I, s:O, s:O, s:I, s:O*}", "run", (json_int_t)vm->run,
	              "machine", what->machine, "spec", what->spec, "revision",
	              (json_int_t)what->revision, "restore", what->restore);
	char *path = vm_folder_path(vm), *runtime = sockets(vm);
	const struct held_start how = {
		.path = path,
		.folder = folder,
		.lock = lock,
		.sockets = runtime,
		.id = vm->id,
		.document = document,
	};
	int rc;

	if (what->fork)
		json_object_set_new(document, "fork", json_true());
	unlinkat(folder, "end.json", 0);
	/* Of one that was killed with its holder: how far it came, nobody
	 * knows. */
	unlinkat(folder, "resuming.state", 0);
	rc = held_start(&how, err);
	free(path);
	free(runtime);
	json_decref(document);
	return rc;
}

int holder_start(struct vm *vm, const struct holder_start *how,
                 struct error *err)
{
	int folder = vm_folder(vm, err), lock, rc;

	if (folder < 0)
		return folder;
	lock = held_lock(folder);
	if (lock == -EWOULDBLOCK) {
		rc = error_set(err, -EBUSY, "the machine is held already");
	} else if (lock < 0) {
		rc = error_set(err, lock, "the machine's lock: %s",
		               strerror(-lock));
	} else {
		rc = start_in(vm, folder, lock, how, err);
	}
	close(folder);
	if (rc == 0) {
		struct holder *h = holder_new(vm);

		vm->clock_late = how->restore != NULL;
		take_definition(vm, how->spec,
		                json_object_get(how->machine, "disks"));
		attach(h);
	}
	return rc;
}

void holder_request(struct vm *vm, json_t *message, holder_answer_fn *fn,
                    void *ctx)
{
	struct holder *h = vm->holder;
	struct pending *p;
	struct error err;

	if (!h || h->fd < 0) {
		json_decref(message);
		if (fn)
			fn(ctx, false, "the machine does not run", NULL);
		return;
	}
	p = xalloc(sizeof(*p));
	p->id = ++h->last_id;
	p->fn = fn;
	p->ctx = ctx;
	p->next = h->pending;
	h->pending = p;
	json_object_set_new(message, "id", json_integer(p->id));
	if (control_send(h->fd, message, NULL, 0, &err) < 0)
		/* Its end is read soon, and answers this. */
		log_debug("daemon", "%s: %s", vm->name, err.text);
	json_decref(message);
}

const char *holder_hint(json_t *answer)
{
	const char *hint = json_string_value(json_object_get(answer, "hint"));

	return hint ? hint : "";
}

void holder_unask(struct vm *vm, void *ctx)
{
	if (!vm->holder)
		return;
	for (struct pending *p = vm->holder->pending; p; p = p->next)
		if (p->ctx == ctx)
			p->fn = NULL;
}
