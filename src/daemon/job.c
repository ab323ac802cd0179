/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/daemon.h"

enum { ARGUMENTS_MAX = 24, SAID_MAX = 4096 };

struct job {
	pid_t pid;
	int process, words; /* pidfd; what it says on standard error */
	struct loop_fd *watch;
	job_fn *done;
	void *ctx;
};

/* arguments[0] is the program, one of ours. */
static int spawn(const char *const *arguments, int out, int words, pid_t *pid,
                 struct error *err)
{
	char *program = place_program(arguments[0], err);
	char *argv[ARGUMENTS_MAX] = { NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	int code;

	if (!program)
		return -ENOENT;
	for (size_t i = 0; arguments[i] && i + 1 < ARGUMENTS_MAX; i++)
		argv[i] = xstrdup(arguments[i]);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, out >= 0 ? out : 0, 1);
	posix_spawn_file_actions_adddup2(&files, words >= 0 ? words : 0, 2);
	/* The daemon waits for signals in its loop; they are to reach this. */
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attr, &none);
	code = posix_spawn(pid, program, &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	for (size_t i = 0; argv[i]; i++)
		free(argv[i]);
	if (code)
		error_set(err, -code, "cannot start %s: %s", program,
		          strerror(code));
	free(program);
	return -code;
}

static void job_free(struct job *job)
{
	loop_fd_remove(job->watch);
	close(job->process);
	close(job->words);
	free(job);
}

/* The line that begins so, without that; NULL: there is none. */
static const char *line_of(const char *said, const char *begins)
{
	size_t n = strlen(begins);

	while (said && strncmp(said, begins, n) != 0) {
		said = strchr(said, '\n');
		said = said ? said + 1 : NULL;
	}
	return said ? said + n : NULL;
}

/* As say_words() of the cli writes it; what has other programs do the work may
 * have their words before its own. */
static void understand(const char *said, struct error *failed)
{
	const char *words = line_of(said, "error: ");
	const char *hint = line_of(words, "hint: ");

	if (!words)
		words = said;
	if (!words[0])
		words = "the work was cut short";
	error_set(failed, -EIO, "%.*s", (int)strcspn(words, "\n"), words);
	if (hint)
		error_hint(failed, "%.*s", (int)strcspn(hint, "\n"), hint);
}

static void ended(void *ctx, unsigned events)
{
	struct job *job = ctx;
	struct error failed = { 0 };
	char said[SAID_MAX] = "";
	job_fn *done = job->done;
	void *owner = job->ctx;
	int status = 0;
	ssize_t n;

	(void)events;
	if (waitpid(job->pid, &status, WNOHANG) <= 0)
		return;
	n = read(job->words, said, sizeof(said) - 1);
	said[n > 0 ? n : 0] = '\0';
	understand(said, &failed);
	job_free(job);
	done(owner,
	     WIFEXITED(status) && WEXITSTATUS(status) == 0 ? NULL : &failed);
}

const char *job_code(const struct error *failed)
{
	return error_no_room(failed->text) ? "storage" : "conflict";
}

struct job *job_start(struct loop *loop, const char *const *arguments,
                      job_fn *done, void *ctx, struct error *err)
{
	return job_start_to(loop, arguments, -1, done, ctx, err);
}

struct job *job_start_to(struct loop *loop, const char *const *arguments,
                         int out, job_fn *done, void *ctx, struct error *err)
{
	struct job *job = xalloc(sizeof(*job));
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) {
		error_set(err, -errno, "pipe: %s", strerror(errno));
		free(job);
		return NULL;
	}
	if (spawn(arguments, out, ends[1], &job->pid, err) < 0) {
		close(ends[0]);
		close(ends[1]);
		free(job);
		return NULL;
	}
	close(ends[1]);
	job->words = ends[0];
	job->process = (int)syscall(SYS_pidfd_open, job->pid, 0);
	job->done = done;
	job->ctx = ctx;
	job->watch = loop_fd_add(loop, job->process, LOOP_READ, ended, job);
	return job;
}

void job_end(struct job *job)
{
	kill(job->pid, SIGTERM);
}

void job_kill(struct job *job)
{
	kill(job->pid, SIGKILL);
}

void job_forget(struct job *job)
{
	if (!job)
		return;
	kill(job->pid, SIGKILL);
	waitpid(job->pid, NULL, 0);
	job_free(job);
}

void job_remove_folder(const char *path)
{
	const char *arguments[] = { "atoll-hold", "--remove", path, NULL };
	struct error err;
	pid_t pid;

	/* It forks at once; what goes on is nobody's child. */
	if (spawn(arguments, -1, -1, &pid, &err) == 0)
		waitpid(pid, NULL, 0);
}
