/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child.c - the processes of a machine. They die with the holder, so that a
 * holder that was killed leaves nothing behind.
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
#include "daemon/hold/hold.h"

enum { ARGS_MAX = 80, NET_READY_MS = 20000 };

/* In the child, after fork: only keep[] and the standard three stay open. */
static NORETURN void become(const char *path, char **argv, const int *keep,
                            size_t count, int error_fd, pid_t parent)
{
	sigset_t none;
	int null;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* It may have died before that call. */
	if (getppid() != parent)
		_exit(127);
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

pid_t hold_start_vm(int log_fd, int *control, struct error *err)
{
	char *path = place_program("atoll-vm", err), number[16];
	char *argv[] = { path, (char[]){ "--control-fd" }, number, NULL };
	int pair[2], code;
	pid_t pid, self = getpid();

	if (!path)
		return -ENOENT;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		code = errno;
		free(path);
		return error_set(err, -code, "cannot talk to a process: %s",
		                 strerror(code));
	}
	snprintf(number, sizeof(number), "%d", pair[1]);
	pid = fork();
	if (pid == 0)
		become(path, argv, &pair[1], 1, log_fd, self);
	code = errno;
	close(pair[1]);
	free(path);
	if (pid < 0) {
		close(pair[0]);
		return error_set(err, -code, "cannot start a process: %s",
		                 strerror(code));
	}
	*control = pair[0];
	return pid;
}

/* What atoll-net said: "ok", or code, words and hint, a line each. */
static int read_ready(int fd, struct error *err)
{
	char text[1024], *words, *hint = NULL, *end;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t used = 0;
	ssize_t n = 1;

	while (n > 0 && used < sizeof(text) - 1 &&
	       poll(&p, 1, NET_READY_MS) > 0) {
		n = read(fd, text + used, sizeof(text) - 1 - used);
		used += n > 0 ? (size_t)n : 0;
	}
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
	error_set(err, -EIO, "%s", words);
	error_hint(err, "%s", hint);
	return -EIO;
}

static size_t net_arguments(char **argv, json_t *nic, const char *hostname)
{
	json_t *publish = json_object_get(nic, "publish"), *one;
	json_int_t mtu = json_integer_value(json_object_get(nic, "mtu"));
	size_t n = 0, i;

	argv[n++] = xstrdup("atoll-net");
	argv[n++] = xstrdup("--hostname");
	argv[n++] = xstrdup(hostname);
	if (mtu) {
		argv[n++] = xstrdup("--mtu");
		argv[n++] = xasprintf("%" PRIu64, (u64)mtu);
	}
	json_array_foreach(publish, i, one)
	{
		if (n + 8 > ARGS_MAX)
			break;
		argv[n++] = xstrdup("--publish");
		argv[n++] = xstrdup(json_string_value(one));
	}
	return n;
}

pid_t hold_start_net(json_t *nic, const char *hostname, int *link,
                     struct error *err)
{
	char *path = place_program("atoll-net", err), *argv[ARGS_MAX] = { 0 };
	int pair[2] = { -1, -1 }, ready[2] = { -1, -1 }, keep[2], rc;
	pid_t pid, self = getpid();
	size_t n;

	if (!path)
		return -ENOENT;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    pipe2(ready, O_CLOEXEC) < 0) {
		free(path);
		return error_set(err, -errno, "cannot make a network: %s",
		                 strerror(errno));
	}
	n = net_arguments(argv, nic, hostname);
	argv[n++] = xstrdup("--link-fd");
	argv[n++] = xasprintf("%d", pair[1]);
	argv[n++] = xstrdup("--ready-fd");
	argv[n++] = xasprintf("%d", ready[1]);
	keep[0] = pair[1];
	keep[1] = ready[1];
	pid = fork();
	if (pid == 0)
		become(path, argv, keep, 2, -1, self);
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
		hold_end_child(pid, 1000);
	return rc;
}

int hold_end_child(pid_t pid, unsigned wait_ms)
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
