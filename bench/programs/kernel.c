/* SPDX-License-Identifier: Apache-2.0 */
/* What a kernel does all day, through system calls. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

extern char **environ;

static uint64_t null_call(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < 3000000; i++)
		sum += syscall(SYS_getppid) == -1;
	return sum;
}

static uint64_t page_fault(void)
{
	enum { BYTES = 16 << 20 };
	uint64_t sum = 0;

	for (int round = 0; round < 40; round++) {
		uint8_t *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
		                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		madvise(p, BYTES, MADV_NOHUGEPAGE);
		for (int i = 0; i < BYTES; i += 4096)
			sum += p[i]++;
		munmap(p, BYTES);
	}
	return sum;
}

static uint64_t fork_exec(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < 600; i++) {
		char *const args[] = { "bench", "--nothing", NULL };
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			execve("/proc/self/exe", args, environ);
			_exit(9);
		}
		waitpid(pid, &status, 0);
		sum += (uint64_t)status;
	}
	return sum;
}

static uint64_t ping_pong(int processes, int rounds)
{
	int pipes[16][2];
	uint64_t sum = 0;
	char c = 0;

	for (int i = 0; i < processes; i++)
		if (pipe(pipes[i]))
			return 1;
	for (int i = 1; i < processes; i++)
		if (fork() == 0) {
			for (int k = 0; k < rounds; k++)
				if (read(pipes[i - 1][0], &c, 1) != 1 ||
				    write(pipes[i][1], &c, 1) != 1)
					_exit(1);
			_exit(0);
		}
	for (int k = 0; k < rounds; k++) {
		if (write(pipes[0][1], &c, 1) != 1 ||
		    read(pipes[processes - 1][0], &c, 1) != 1)
			return 1;
		sum++;
	}
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < processes; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
	return sum;
}

static uint64_t pipe_pair(void)
{
	return ping_pong(2, 100000);
}

static uint64_t switches(void)
{
	return ping_pong(8, 25000);
}

static volatile uint64_t signals;

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static uint64_t signal_self(void)
{
	signals = 0;
	signal(SIGUSR1, on_signal);
	for (int i = 0; i < 400000; i++)
		kill(getpid(), SIGUSR1);
	return signals;
}

static uint64_t map_unmap(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < 250000; i++) {
		uint8_t *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE,
		                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		p[4096] = 1;
		sum += p[4096];
		munmap(p, 65536);
	}
	return sum;
}

static uint64_t files(void)
{
	uint64_t sum = 0;
	char name[64];

	for (int i = 0; i < 60000; i++) {
		int fd;

		snprintf(name, sizeof(name), "/dev/shm/bench-%d-%d", getpid(),
		         i % 100);
		fd = open(name, O_CREAT | O_RDWR | O_EXCL, 0600);
		if (fd < 0 || write(fd, name, 32) != 32)
			return 0;
		close(fd);
		unlink(name);
		sum++;
	}
	return sum;
}

const struct bench benches_kernel[] = {
	{ "null-syscall", "kernel", null_call },
	{ "page-fault", "kernel", page_fault },
	{ "fork-exec", "kernel", fork_exec },
	{ "pipe", "kernel", pipe_pair },
	{ "signal", "kernel", signal_self },
	{ "mmap", "kernel", map_unmap },
	{ "tmpfs-files", "kernel", files },
	{ "switch-8", "kernel", switches },
	{ 0 },
};
