/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init - the first and only program of the nested rig's machine.
 *
 * Loads the modules named in /modules, runs each line of /tests (NAME SECONDS
 * PROGRAM ARGUMENT..., a tab between them), says on the console how each
 * ended, and powers the machine off. rig.py reads the lines that begin with
 * "nested:"; in the guest inside it is "guest:", the word in /tag.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORDS_MAX = 64 };

static char tag[16] = "nested";

static void read_tag(void)
{
	FILE *f = fopen("/tag", "r");

	if (f && fgets(tag, sizeof(tag), f))
		tag[strcspn(tag, "\n")] = '\0';
	if (f)
		fclose(f);
}

static void say_errno(const char *what)
{
	printf("%s: error: %s: %s\n", tag, what, strerror(errno));
}

static void mount_one(const char *type, const char *where)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, NULL) && errno != EBUSY)
		say_errno(where);
}

static void load_modules(void)
{
	FILE *list = fopen("/modules", "r");
	char line[256];

	while (list && fgets(line, sizeof(line), list)) {
		char *parameters;
		int fd;

		line[strcspn(line, "\n")] = '\0';
		parameters = strchr(line, ' ');
		if (parameters)
			*parameters++ = '\0';
		fd = open(line, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd,
		                      parameters ? parameters : "", 0))
			say_errno(line);
		if (fd >= 0)
			close(fd);
	}
	if (list)
		fclose(list);
}

/* "PATH VALUE" a line: what to write into /sys and /proc. */
static void apply_settings(void)
{
	FILE *list = fopen("/settings", "r");
	char line[256];

	while (list && fgets(line, sizeof(line), list)) {
		char *value = strchr(line, ' ');
		FILE *f;

		if (!value)
			continue;
		*value++ = '\0';
		f = fopen(line, "w");
		if (!f || fputs(value, f) < 0 || fclose(f))
			say_errno(line);
	}
	if (list)
		fclose(list);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static pid_t start(char **argv)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	setpgid(0, 0);
	dup2(STDOUT_FILENO, STDERR_FILENO);
	execv(argv[0], argv);
	say_errno(argv[0]);
	_exit(127);
}

/* The exit code, 128 + signal, or -1 after the time limit. */
static int wait_for(pid_t pid, double until)
{
	const struct timespec nap = { .tv_nsec = 10 * 1000 * 1000 };
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now() > until) {
			kill(-pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -1;
		}
		nanosleep(&nap, NULL);
	}
	if (WIFSIGNALED(status))
		return 128 + WTERMSIG(status);
	return WEXITSTATUS(status);
}

static void run_test(char *line)
{
	char *words[WORDS_MAX + 1] = { NULL };
	size_t n = 0;
	double begin = now();
	int code;

	for (char *w = strtok(line, "\t\n"); w && n < WORDS_MAX;
	     w = strtok(NULL, "\t\n"))
		words[n++] = w;
	if (n < 3)
		return;
	printf("%s: begin %s\n", tag, words[0]);
	code = wait_for(start(words + 2), begin + atof(words[1]));
	if (code < 0)
		printf("%s: fail %s: still running after %s s\n", tag, words[0],
		       words[1]);
	else if (code)
		printf("%s: fail %s: exit code %d\n", tag, words[0], code);
	else
		printf("%s: pass %s %.2f s\n", tag, words[0], now() - begin);
}

int main(void)
{
	FILE *tests;
	char line[1024];

	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("devtmpfs", "/dev");
	mount_one("tmpfs", "/tmp");
	read_tag();
	printf("%s: up\n", tag);
	load_modules();
	apply_settings();
	tests = fopen("/tests", "r");
	while (tests && fgets(line, sizeof(line), tests))
		run_test(line);
	printf("%s: end\n", tag);
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
