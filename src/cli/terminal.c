/* SPDX-License-Identifier: Apache-2.0 */
/*
 * terminal.c - raw mode with a guardian.
 *
 * A process that dies by SIGKILL, or by a fault in its own code, cannot clean
 * up behind itself. So a small child holds a pipe from us: when the pipe ends
 * without the word that all is well, the child restores the terminal.
 */
#include "cli/terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static NORETURN void guard(const struct terminal *t, int pipe_fd)
{
	sigset_t all;
	char done;

	/* Ctrl-C and a closing terminal are not meant for it, and a process
	 * in the background sets a terminal only with SIGTTOU blocked. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	setpgid(0, 0);
	prctl(PR_SET_NAME, "atoll-terminal");
	if (read(pipe_fd, &done, 1) <= 0)
		tcsetattr(t->fd, TCSAFLUSH, &t->saved);
	_exit(0);
}

static void start_guardian(struct terminal *t)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	t->guardian_pid = fork();
	if (t->guardian_pid == 0) {
		close(ends[1]);
		/* Keep only the terminal: others wait for our other copies
		 * of their descriptors to close. */
		if (ends[0] != 3)
			dup2(ends[0], 3);
		close_range(4, ~0U, 0);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		guard(t, 3);
	}
	close(ends[0]);
	if (t->guardian_pid < 0)
		close(ends[1]);
	else
		t->guardian = ends[1];
}

void terminal_open(struct terminal *t, int fd)
{
	memset(t, 0, sizeof(*t));
	t->fd = t->guardian = -1;
	if (!isatty(fd) || tcgetpgrp(fd) != getpgrp() ||
	    tcgetattr(fd, &t->saved) < 0)
		return;
	t->fd = fd;
	t->guest = t->saved;
	cfmakeraw(&t->guest);
	start_guardian(t);
	terminal_resume(t);
}

void terminal_restore(struct terminal *t)
{
	if (t->raw)
		tcsetattr(t->fd, TCSADRAIN, &t->saved);
	t->raw = false;
}

void terminal_resume(struct terminal *t)
{
	if (t->fd >= 0 && !t->raw)
		t->raw = tcsetattr(t->fd, TCSADRAIN, &t->guest) == 0;
}

void terminal_close(struct terminal *t)
{
	terminal_restore(t);
	if (t->guardian < 0)
		return;
	if (write(t->guardian, "", 1) == 1)
		waitpid(t->guardian_pid, NULL, 0);
	close(t->guardian);
	t->guardian = -1;
}
