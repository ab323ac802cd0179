/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holder - the daemon's end of a machine's holder (hold/hold.c).
 *
 * The lock on the machine's folder says whether a holder is there: the daemon
 * takes it, and the holder inherits it locked, so that there is no moment at
 * which a machine that was started has no lock. The socket exists before the
 * holder runs. So a daemon that died anywhere in between is continued by the
 * next one, which looks at the lock, connects, or reads end.json.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "control/control.h"
#include "daemon/daemon.h"

enum { RETRY_MS = 10, PEER_WAIT_S = 5, BACKLOG = 8, FD_ABOVE = 20 };
enum { LOCK_AT = 3, LISTEN_AT = 4, DOCUMENT_AT = 5 };

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
};

/* ---- folder, lock, socket ---- */

/* Locked and open: nobody had it. -EWOULDBLOCK: somebody has. */
static int take_lock(int folder)
{
	int rc, fd = openat(folder, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

static bool is_held(struct vm *vm)
{
	struct error err;
	int folder = vm_folder(vm, &err), fd;

	if (folder < 0)
		return false;
	fd = take_lock(folder);
	close(folder);
	if (fd >= 0)
		close(fd);
	return fd == -EWOULDBLOCK;
}

/* A path of any length fits by way of the folder's descriptor. */
static int socket_name(struct vm *vm, struct sockaddr_un *name,
                       struct error *err)
{
	char *folder = xasprintf("%s/machines", vm->daemon->place.runtime);
	int fd, rc = place_make(folder, err);

	fd = rc < 0 ? rc : open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && rc == 0)
		fd = error_set(err, -errno, "%s: %s", folder, strerror(errno));
	free(folder);
	*name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(name->sun_path, sizeof(name->sun_path),
	         "/proc/self/fd/%d/%s.sock", fd, vm->id);
	return fd;
}

static int open_listener(struct vm *vm, struct error *err)
{
	struct sockaddr_un name;
	int fd, code, folder = socket_name(vm, &name, err);

	if (folder < 0)
		return folder;
	unlink(name.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && (bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0 ||
	                listen(fd, BACKLOG) < 0)) {
		code = errno;
		close(fd);
		fd = -1;
		errno = code;
	}
	if (fd < 0)
		fd = error_set(err, -errno, "a machine's socket: %s",
		               strerror(errno));
	close(folder);
	return fd;
}

static int connect_to(struct vm *vm)
{
	struct timeval wait = { PEER_WAIT_S, 0 };
	struct sockaddr_un name;
	int fd, rc, folder = socket_name(vm, &name, NULL);

	if (folder < 0)
		return folder;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	rc = fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0
	         ? -errno
	         : 0;
	close(folder);
	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		return rc;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
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

void holder_forget(struct vm *vm)
{
	struct holder *h = vm->holder;

	if (!h)
		return;
	vm->holder = NULL;
	disconnect(h);
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
	if (strcmp(state, "running") == 0)
		vm_came_up(vm, VM_RUNNING);
	else if (strcmp(state, "paused") == 0)
		vm_came_up(vm, VM_PAUSED);
	else if (strcmp(state, "starting") == 0)
		vm_set_state(vm, VM_STARTING);
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
	if (strcmp(event, "hello") == 0)
		vm->pid =
		    (pid_t)json_integer_value(json_object_get(message, "pid"));
	if (state && strcmp(event, "stopped"))
		take_state(vm, state);
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
	} else if (is_held(h->vm)) {
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

static int document_open(struct vm *vm, json_t *machine, struct error *err)
{
	json_t *document = json_pack("{s:I, s:O}", "run", (json_int_t)vm->run,
	                             "machine", machine);
	int fd = memfd_create("machine", MFD_CLOEXEC);

	if (fd < 0 || json_dumpfd(document, fd, JSON_COMPACT) < 0 ||
	    lseek(fd, 0, SEEK_SET) < 0) {
		error_set(err, -errno, "a machine's definition: %s",
		          strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = err->code;
	}
	json_decref(document);
	return fd;
}

/* Moves fd up, out of the way of the numbers that the child has for them. */
static int above(int fd)
{
	int up = fcntl(fd, F_DUPFD_CLOEXEC, FD_ABOVE);

	close(fd);
	return up;
}

static int spawn(const char *program, char *folder, int words, int lock,
                 int listener, int document, struct error *err)
{
	char *argv[] = { (char[]){ "atoll-hold" }, folder,
		         (char[]){ "3" },          (char[]){ "4" },
		         (char[]){ "5" },          NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, standard;
	pid_t pid;
	int code;

	sigemptyset(&none);
	sigemptyset(&standard);
	sigaddset(&standard, SIGPIPE);
	sigaddset(&standard, SIGXFSZ);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID |
	                                    POSIX_SPAWN_SETSIGMASK |
	                                    POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &standard);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, 0, 1);
	posix_spawn_file_actions_adddup2(&files, words, 2);
	posix_spawn_file_actions_adddup2(&files, lock, LOCK_AT);
	posix_spawn_file_actions_adddup2(&files, listener, LISTEN_AT);
	posix_spawn_file_actions_adddup2(&files, document, DOCUMENT_AT);
	code = posix_spawn(&pid, program, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (code)
		return error_set(err, -code, "cannot start %s: %s", program,
		                 strerror(code));
	/* It forks at once; what goes on is nobody's child. */
	while (waitpid(pid, &code, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(code) || WEXITSTATUS(code))
		return error_set(err, -ECHILD, "%s did not start", program);
	return 0;
}

static int start_in(struct vm *vm, int folder, int lock, json_t *machine,
                    struct error *err)
{
	char *program = place_program("atoll-hold", err), *path;
	int listener = -1, document = -1, words, rc;

	if (!program)
		return -ENOENT;
	unlinkat(folder, "end.json", 0);
	words = openat(folder, "hold.log",
	               O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	rc = words < 0 ? error_set(err, -errno, "hold.log: %s", strerror(errno))
	               : 0;
	if (rc == 0)
		rc = listener = open_listener(vm, err);
	if (rc >= 0)
		rc = document = document_open(vm, machine, err);
	if (rc >= 0) {
		path = vm_folder_path(vm);
		words = above(words);
		listener = above(listener);
		document = above(document);
		rc = spawn(program, path, words, lock, listener, document, err);
		free(path);
	}
	if (words >= 0)
		close(words);
	if (listener >= 0)
		close(listener);
	if (document >= 0)
		close(document);
	free(program);
	return rc;
}

int holder_start(struct vm *vm, json_t *machine, struct error *err)
{
	int folder = vm_folder(vm, err), lock, rc;

	if (folder < 0)
		return folder;
	lock = take_lock(folder);
	if (lock == -EWOULDBLOCK) {
		rc = error_set(err, -EBUSY, "the machine is held already");
	} else if (lock < 0) {
		rc = error_set(err, lock, "the machine's lock: %s",
		               strerror(-lock));
	} else {
		lock = above(lock);
		rc = start_in(vm, folder, lock, machine, err);
		close(lock);
	}
	close(folder);
	if (rc == 0)
		attach(holder_new(vm));
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

void holder_unask(struct vm *vm, void *ctx)
{
	if (!vm->holder)
		return;
	for (struct pending *p = vm->holder->pending; p; p = p->next)
		if (p->ctx == ctx)
			p->fn = NULL;
}
