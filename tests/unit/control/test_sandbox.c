/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_sandbox - what a confined machine cannot do, each in a process of its
 * own: open a path, reach the network, run a program, make memory both
 * writable and executable; and what it still can.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "vm/sandbox.h"

enum { ALLOWED = 0, REFUSED = 1, NOT_CONFINED = 2 };

static int open_path(void)
{
	return open("/etc/passwd", O_RDONLY) < 0 ? REFUSED : ALLOWED;
}

static int create_path(void)
{
	return open("/tmp/atoll-sandbox-test", O_RDWR | O_CREAT, 0600) < 0
	           ? REFUSED
	           : ALLOWED;
}

static int make_socket(void)
{
	return socket(AF_INET, SOCK_STREAM, 0) < 0 ? REFUSED : ALLOWED;
}

static int run_program(void)
{
	execl("/bin/true", "true", (char *)NULL);
	return REFUSED;
}

static int make_process(void)
{
	return fork() < 0 ? REFUSED : ALLOWED;
}

static int trace(void)
{
	return ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 ? REFUSED : ALLOWED;
}

static int signal_parent(void)
{
	return kill(getppid(), 0) < 0 ? REFUSED : ALLOWED;
}

static int mount_something(void)
{
	return syscall(SYS_mount, "none", "/mnt", "tmpfs", 0, NULL) < 0
	           ? REFUSED
	           : ALLOWED;
}

static int writable_code(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? REFUSED : ALLOWED;
}

static int unknown_ioctl(void)
{
	return syscall(SYS_ioctl, 0, 0x5412, "x") < 0 ? REFUSED : ALLOWED;
}

/* To hold the kernel in a copy of memory that is not the guest's would help
 * against the kernel. */
static int hold_faults(void)
{
	return syscall(SYS_userfaultfd, 0) < 0 ? REFUSED : ALLOWED;
}

static int hold_more_faults(void)
{
	struct uffdio_register r = { 0 };

	return ioctl(0, UFFDIO_REGISTER, &r) < 0 ? REFUSED : ALLOWED;
}

/* What it held before is answered: here, by who has no such descriptor. */
static int answer_faults(void)
{
	struct uffdio_copy copy = { 0 };

	return ioctl(-1, UFFDIO_COPY, &copy) < 0 && errno == EBADF &&
	               ioctl(-1, UFFDIO_ZEROPAGE, &copy) < 0 &&
	               ioctl(-1, UFFDIO_WAKE, &copy) < 0 &&
	               prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0
	           ? ALLOWED
	           : REFUSED;
}

static int change_process(void)
{
	int quietly = 0;

	for (int i = 1; i < 100; i++)
		if (i != PR_SET_NAME && i != PR_SET_THP_DISABLE)
			quietly += prctl(i, 0, 0, 0, 0) < 0 && errno == EPERM;
	return quietly == 97 && prctl(PR_SET_NAME, "x") == 0 ? REFUSED
	                                                     : ALLOWED;
}

static int plain_work(void)
{
	char *p = malloc(1 << 20);
	int ends[2] = { dup(0), dup(1) };

	memset(p, 1, 1 << 20);
	free(p);
	close(ends[0]);
	close(ends[1]);
	return getpid() > 0 ? ALLOWED : REFUSED;
}

static void *thread_main(void *ctx)
{
	*(int *)ctx = open_path();
	return NULL;
}

/* A later thread lives, and is confined too. */
static int thread_opens(void)
{
	pthread_t thread;
	int result = ALLOWED;

	if (pthread_create(&thread, NULL, thread_main, &result) != 0)
		return NOT_CONFINED;
	pthread_join(thread, NULL);
	return result;
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *waiting_thread(void *ctx)
{
	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
	return thread_main(ctx);
}

/* The status a child ends with: an exit code, or 128 and the signal. */
static int confined(int (*what)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct error err = { 0 };

		if (sandbox_enter(&err) < 0) {
			fprintf(stderr, "%s\n", err.text);
			_exit(NOT_CONFINED);
		}
		_exit(what());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void paths_and_sockets_are_refused(void **state)
{
	(void)state;
	assert_int_equal(confined(open_path), REFUSED);
	assert_int_equal(confined(create_path), REFUSED);
	assert_int_equal(confined(make_socket), REFUSED);
}

static void forbidden_calls_end_the_process(void **state)
{
	(void)state;
	assert_int_equal(confined(run_program), 128 + SIGSYS);
	assert_int_equal(confined(make_process), 128 + SIGSYS);
	assert_int_equal(confined(trace), 128 + SIGSYS);
	assert_int_equal(confined(signal_parent), 128 + SIGSYS);
	assert_int_equal(confined(mount_something), 128 + SIGSYS);
	assert_int_equal(confined(writable_code), 128 + SIGSYS);
	assert_int_equal(confined(unknown_ioctl), 128 + SIGSYS);
	assert_int_equal(confined(hold_faults), 128 + SIGSYS);
	assert_int_equal(confined(hold_more_faults), 128 + SIGSYS);
	assert_int_equal(confined(change_process), REFUSED);
}

static void work_goes_on(void **state)
{
	(void)state;
	assert_int_equal(confined(plain_work), ALLOWED);
	assert_int_equal(confined(answer_faults), ALLOWED);
	assert_int_equal(confined(thread_opens), REFUSED);
}

/* Threads that were there before are confined with the rest. */
static void earlier_threads_are_confined(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		pthread_t thread;
		int result = ALLOWED;

		pthread_mutex_lock(&gate);
		if (pthread_create(&thread, NULL, waiting_thread, &result) ||
		    sandbox_enter(NULL) < 0)
			_exit(NOT_CONFINED);
		pthread_mutex_unlock(&gate);
		pthread_join(thread, NULL);
		_exit(result);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths_and_sockets_are_refused),
		cmocka_unit_test(forbidden_calls_end_the_process),
		cmocka_unit_test(work_goes_on),
		cmocka_unit_test(earlier_threads_are_confined),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
