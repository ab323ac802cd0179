/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/given.h"
#include "base/log.h"
#include "base/place.h"
#include "launch/helper.h"
#include "launch/isolate.h"
#include "launch/launch.h"
#include "launch/uid.h"

/* All that the child needs, allocated before there is one. */
struct program {
	const struct launch *launch;
	char *path;
	int fd;      /* of path */
	char **argv; /* as told, with room for one more */
	size_t argc;
	char **variables;       /* our environment, with room for more */
	size_t own;             /* the first of ours at its end */
	int given[GIVEN_COUNT]; /* base/given.h; -1: none */
};

/* In the child, in our memory: only keep[] and the standard three stay open. */
static int become(void *ctx, enum isolate_kind kind)
{
	static char own_root[] = "--own-root";
	const struct program *p = ctx;
	const struct launch *l = p->launch;
	int null;

	if (l->own_group)
		setpgid(0, 0);
	null = open("/dev/null", O_RDWR);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (l->error_fd >= 0)
		dup2(l->error_fd, STDERR_FILENO);
	for (size_t i = 0; i < l->keep_count; i++)
		fcntl(l->keep[i], F_SETFD, 0);
	for (size_t i = 0; i < GIVEN_COUNT; i++)
		if (p->given[i] >= 0)
			fcntl(p->given[i], F_SETFD, 0);
	p->argv[p->argc] = kind == ISOLATE_NOTHING ? NULL : own_root;
	execve(p->path, p->argv, p->variables);
	/* A folder above it may be closed to the machine's user. */
	if (errno == EACCES)
		syscall(SYS_execveat, p->fd, "", p->argv, p->variables,
		        AT_EMPTY_PATH);
	return errno;
}

static size_t length(char *const *list)
{
	size_t n = 0;

	while (list[n])
		n++;
	return n;
}

static void program_fini(struct program *p)
{
	for (size_t i = p->own; p->variables && p->variables[i]; i++)
		free(p->variables[i]);
	for (size_t i = 0; i < GIVEN_COUNT; i++)
		if (p->given[i] >= 0)
			close(p->given[i]);
	if (p->fd >= 0)
		close(p->fd);
	free(p->path);
	free(p->argv);
	free(p->variables);
}

/* What the host does not have, or not for us, it will not have. */
static void give_devices(struct program *p)
{
	for (size_t i = 0, at = p->own; i < GIVEN_COUNT; i++) {
		p->given[i] = open(given_devices[i].path, O_RDWR | O_CLOEXEC);
		if (p->given[i] >= 0)
			p->variables[at++] = xasprintf(
			    "%s=%d", given_devices[i].variable, p->given[i]);
	}
}

static int program_init(struct program *p, const struct launch *l,
                        struct error *err)
{
	size_t count = length(environ);

	*p = (struct program){ .launch = l, .fd = -1, .own = count };
	for (size_t i = 0; i < GIVEN_COUNT; i++)
		p->given[i] = -1;
	p->path = place_program(l->program, err);
	if (!p->path)
		return -ENOENT;
	p->fd = open(p->path, O_PATH | O_CLOEXEC);
	p->argc = length(l->argv);
	p->argv = xalloc((p->argc + 2) * sizeof(*p->argv));
	memcpy(p->argv, l->argv, p->argc * sizeof(*p->argv));
	p->variables =
	    xalloc((count + GIVEN_COUNT + 1) * sizeof(*p->variables));
	memcpy(p->variables, environ, count * sizeof(*p->variables));
	if (l->machine)
		give_devices(p);
	return 0;
}

/* As much as the host allows, the best first. */
static pid_t start_isolated(struct isolate *how, bool *less)
{
	bool own = how->own_uid;
	pid_t pid = -EPERM;

	*less = false;
	for (int kind = ISOLATE_ALL; pid < 0 && kind < ISOLATE_KINDS; kind++) {
		how->kind = (enum isolate_kind)kind;
		for (int other = own; pid < 0 && other >= 0; other--) {
			how->own_uid = other;
			pid = isolate_start(how);
			*less = *less || pid < 0;
		}
	}
	return pid;
}

static pid_t start_machine(struct program *p, const char *machine)
{
	struct isolate how = {
		.become = become, .ctx = p, .helper = -1, .machine = machine
	};
	struct error err = { 0 };
	int uid = -1;
	bool less;
	pid_t pid;

	if (geteuid() == 0) {
		uid = uid_take(UID_FOLDER, machine, &how.uid, &err);
		how.own_uid = uid >= 0;
		if (uid < 0)
			log_info("launch", "%s", err.text);
	} else {
		uid = how.helper = helper_connect(&err);
		how.own_uid = uid >= 0;
	}
	pid = start_isolated(&how, &less);
	if (pid > 0 && less)
		log_info("launch",
		         "%s: the host refuses %s; the rest confines it "
		         "(atoll host check)",
		         machine,
		         how.kind == ISOLATE_ALL    ? "a user id of its own"
		         : how.kind == ISOLATE_ROOT ? "a user namespace"
		                                    : "namespaces");
	/* Else its number is its own for as long as we are there to keep it. */
	if (pid < 0 && uid >= 0)
		close(uid);
	return pid;
}

pid_t launch_start(const struct launch *l, struct error *err)
{
	struct isolate plain = { .kind = ISOLATE_NOTHING,
		                 .become = become,
		                 .helper = -1 };
	struct program p;
	pid_t pid;
	int rc = program_init(&p, l, err);

	if (rc == 0) {
		plain.ctx = &p;
		pid = l->machine ? start_machine(&p, l->machine)
		                 : isolate_start(&plain);
		rc = pid;
	}
	if (rc < 0 && p.path)
		error_set(err, rc, "cannot start %s: %s", p.path,
		          strerror(-rc));
	program_fini(&p);
	return rc;
}

int launch_end(pid_t pid, unsigned wait_ms)
{
	struct pollfd p = { .events = POLLIN };
	int status = 0;

	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0 || poll(&p, 1, (int)wait_ms) <= 0)
		kill(pid, SIGKILL);
	if (p.fd >= 0)
		close(p.fd);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}
