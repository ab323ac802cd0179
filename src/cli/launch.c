/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch.c - the processes that atoll run starts: the machine's own and its
 * user-mode networks. Each gets a process group of its own, so that Ctrl-C on
 * the terminal reaches atoll alone, and dies with atoll.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "base/units.h"
#include "cli/run.h"

enum { ARGS_MAX = 2 * RUN_PUBLISH_MAX + 16 };

/* In the child, after fork: only keep[] and the standard three stay open. */
static NORETURN void become(const char *path, char **argv, const int *keep,
                            size_t count, int error_fd)
{
	sigset_t none;
	int null;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	null = open("/dev/null", O_RDWR);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (error_fd >= 0)
		dup2(error_fd, STDERR_FILENO);
	for (size_t i = 0; i < count; i++)
		fcntl(keep[i], F_SETFD, 0);
	execv(path, argv);
	dprintf(STDERR_FILENO, "error: cannot start %s: %s\n", path,
	        strerror(errno));
	_exit(127);
}

int worker_start(struct worker *w, struct error *err)
{
	char *path = place_program("atoll-vm", err), number[16];
	int pair[2] = { -1, -1 }, text[2] = { -1, -1 };
	char *argv[] = { path, (char[]){ "--control-fd" }, number, NULL };

	if (!path)
		return err->code;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    pipe2(text, O_CLOEXEC) < 0) {
		error_set(err, -errno, "cannot talk to a process: %s",
		          strerror(errno));
		goto fail;
	}
	snprintf(number, sizeof(number), "%d", pair[1]);
	w->pid = fork();
	if (w->pid == 0)
		become(path, argv, &pair[1], 1, text[1]);
	if (w->pid < 0) {
		error_set(err, -errno, "cannot start a process: %s",
		          strerror(errno));
		goto fail;
	}
	close(pair[1]);
	close(text[1]);
	w->control = pair[0];
	w->messages = text[0];
	free(path);
	return 0;
fail:
	free(path);
	for (int i = 0; i < 2; i++) {
		if (pair[i] >= 0)
			close(pair[i]);
		if (text[i] >= 0)
			close(text[i]);
	}
	return err->code;
}

/* What atoll-net said: "ok", or code, words and hint, a line each. */
static int read_ready(int fd, struct error *err)
{
	char text[1024], *words, *hint = NULL, *end;
	size_t used = 0;
	ssize_t n;

	while (used < sizeof(text) - 1 &&
	       (n = read(fd, text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)n;
	text[used] = '\0';
	if (strcmp(text, "ok\n") == 0)
		return 0;
	words = strchr(text, '\n');
	if (words)
		hint = strchr(++words, '\n');
	if (!hint)
		return error_set(err, -ECHILD,
		                 "the network process ended before it was "
		                 "ready");
	*hint++ = '\0';
	end = strchr(hint, '\n');
	if (end)
		*end = '\0';
	error_set(err, text[0] == '2' ? -EINVAL : -EIO, "%s", words);
	if (*hint)
		error_hint(err, "%s", hint);
	return err->code;
}

static size_t net_arguments(char **argv, const struct run_options *o,
                            bool first)
{
	size_t n = 0;

	argv[n++] = xstrdup("atoll-net");
	argv[n++] = xstrdup("--hostname");
	argv[n++] = xstrdup("atoll");
	if (o->mtu) {
		argv[n++] = xstrdup("--mtu");
		argv[n++] = xasprintf("%" PRIu64, o->mtu);
	}
	/* Ports lead to the first user network. */
	for (unsigned i = 0; first && i < o->publish_count; i++) {
		argv[n++] = xstrdup("--publish");
		argv[n++] = xstrdup(o->publish[i]);
	}
	return n;
}

pid_t net_start(const struct run_options *o, bool first, int *link,
                struct error *err)
{
	char *path = place_program("atoll-net", err), *argv[ARGS_MAX] = { 0 };
	int pair[2] = { -1, -1 }, ready[2] = { -1, -1 }, keep[2], rc;
	size_t n;
	pid_t pid;

	if (!path)
		return err->code;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    pipe2(ready, O_CLOEXEC) < 0) {
		free(path);
		return error_set(err, -errno, "cannot make a network: %s",
		                 strerror(errno));
	}
	n = net_arguments(argv, o, first);
	argv[n++] = xstrdup("--link-fd");
	argv[n++] = xasprintf("%d", pair[1]);
	argv[n++] = xstrdup("--ready-fd");
	argv[n++] = xasprintf("%d", ready[1]);
	keep[0] = pair[1];
	keep[1] = ready[1];
	pid = fork();
	if (pid == 0)
		become(path, argv, keep, 2, -1);
	close(pair[1]);
	close(ready[1]);
	rc = pid < 0 ? error_set(err, -errno, "cannot start a process: %s",
	                         strerror(errno))
	             : read_ready(ready[0], err);
	close(ready[0]);
	for (size_t i = 0; i < n; i++)
		free(argv[i]);
	free(path);
	if (rc == 0) {
		*link = pair[0];
		return pid;
	}
	close(pair[0]);
	if (pid > 0)
		child_end(pid, 1000);
	return rc;
}

int child_end(pid_t pid, unsigned wait_ms)
{
	struct pollfd p = { .events = POLLIN };
	int status = 0;

	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd >= 0) {
		if (poll(&p, 1, (int)wait_ms) <= 0)
			kill(pid, SIGKILL);
		close(p.fd);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}
