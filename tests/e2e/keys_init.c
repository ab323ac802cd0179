/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys_init.c - the one program of a Linux guest with protection keys: what
 * pkeys(7) promises of memory, system calls, signals, fork and execute-only
 * pages. Says how many checks failed and powers off.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, ROUNDS = 400 };

static sigjmp_buf env;
static volatile int code, key;
static int bad;

#define CHECK(x)                                                               \
	do {                                                                   \
		if (!(x)) {                                                    \
			bad++;                                                 \
			printf("line %d: %s\n", __LINE__, #x);                 \
		}                                                              \
	} while (0)

static void caught(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	code = info->si_code;
	key = (int)info->si_pkey;
	siglongjmp(env, 1);
}

/* 0, or why it was refused. */
static int touch(volatile char *p, int write)
{
	code = 0;
	if (sigsetjmp(env, 1))
		return code;
	if (write)
		*p = 1;
	else
		(void)*p;
	return 0;
}

static int same_in_child(char *p, int k)
{
	pid_t child = fork();
	int status = 1;

	if (child == 0)
		_exit(pkey_get(k) != PKEY_DISABLE_ACCESS ||
		      touch(p, 0) != SEGV_PKUERR);
	return waitpid(child, &status, 0) == child && status == 0;
}

static void rounds(char *p, int k)
{
	int ends[2];

	CHECK(pipe(ends) == 0);
	for (int i = 0; i < ROUNDS; i++) {
		pkey_set(k, PKEY_DISABLE_ACCESS);
		CHECK(touch(p, 0) == SEGV_PKUERR && key == k);
		CHECK(touch(p + PAGE, 1) == 0);
		/* The kernel is refused on our behalf. */
		CHECK(write(ends[1], p, 1) == -1);
		CHECK(write(ends[1], p + PAGE, 1) == 1);
		if (i % 50 == 0)
			CHECK(same_in_child(p, k));
		CHECK(pkey_get(k) == PKEY_DISABLE_ACCESS);
		pkey_set(k, PKEY_DISABLE_WRITE);
		CHECK(touch(p, 0) == 0);
		CHECK(touch(p, 1) == SEGV_PKUERR);
		CHECK(read(ends[0], p, 1) == -1);
		pkey_set(k, 0);
		CHECK(touch(p, 1) == 0);
		CHECK(read(ends[0], p, 1) == 1);
	}
}

/* Linux takes a key of its own for these. */
static void execute_only(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p[0] = (char)0xc3; /* ret */
	CHECK(mprotect(p, PAGE, PROT_EXEC) == 0);
	((void (*)(void))p)();
	CHECK(touch(p, 0) == SEGV_PKUERR);
}

static void tests(void)
{
	struct sigaction sa = { .sa_sigaction = caught,
		                .sa_flags = SA_SIGINFO | SA_NODEFER };
	char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int k = pkey_alloc(0, 0);

	sigaction(SIGSEGV, &sa, NULL);
	CHECK(k > 0);
	CHECK(pkey_mprotect(p, PAGE, PROT_READ | PROT_WRITE, k) == 0);
	rounds(p, k);
	execute_only();
	printf("keys: %d failed\n", bad);
}

int main(void)
{
	/* Not as the first process, whose faults the kernel tells of. */
	if (fork() == 0) {
		tests();
		exit(0);
	}
	wait(NULL);
	reboot(RB_POWER_OFF);
	return 0;
}
