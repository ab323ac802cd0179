/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/place.h"
#include "launch/launch.h"

/* In the child, after fork: only keep[] and the standard three stay open. */
static NORETURN void become(const char *path, const struct launch *l,
                            pid_t parent)
{
	sigset_t none;
	int null;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (l->own_group)
		setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* It may have died before that call. */
	if (getppid() != parent)
		_exit(127);
	null = open("/dev/null", O_RDWR);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (l->error_fd >= 0)
		dup2(l->error_fd, STDERR_FILENO);
	for (size_t i = 0; i < l->keep_count; i++)
		fcntl(l->keep[i], F_SETFD, 0);
	execv(path, l->argv);
	dprintf(STDERR_FILENO, "error: cannot start %s: %s\n", path,
	        strerror(errno));
	_exit(127);
}

pid_t launch_start(const struct launch *l, struct error *err)
{
	char *path = place_program(l->program, err);
	pid_t pid, self = getpid();
	int code;

	if (!path)
		return -ENOENT;
	pid = fork();
	if (pid == 0)
		become(path, l, self);
	code = errno;
	free(path);
	if (pid < 0)
		return error_set(err, -code, "cannot start a process: %s",
		                 strerror(code));
	return pid;
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
