/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_helper - the helper's work is started again when it dies, ever more
 * slowly; and what its filter refuses.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "helper/filter.h"
#include "helper/keeper.h"

/* ---- again and again ---- */

static void waits_grow_and_shrink(void **state)
{
	u64 wait = 0, sum = 0, last = 0;

	(void)state;
	for (int i = 0; i < 20; i++) {
		wait = keeper_wait_ms(3, wait);
		assert_true(wait > 0 && wait >= last);
		last = wait;
		sum += wait;
	}
	/* It dies at once for a minute: a handful of processes. */
	assert_in_range(sum, 60000, 200000);
	assert_true(keeper_wait_ms(10 * 60 * 1000, wait) < 100);
}

/* Dies twice, each time another way; then it is done. */
static int third_time(void *ctx)
{
	volatile int *runs = ctx;

	switch (++*runs) {
	case 1:
		kill(getpid(), SIGKILL);
		return 0;
	case 2:
		return 7;
	default:
		return 0;
	}
}

static void what_dies_is_started_again(void **state)
{
	int *runs = mmap(NULL, sizeof(*runs), PROT_READ | PROT_WRITE,
	                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_true(runs != MAP_FAILED);
	log_setup(-1, LOG_ERROR, "test");
	assert_int_equal(keeper_run(third_time, runs), 0);
	assert_int_equal(*runs, 3);
	munmap(runs, sizeof(*runs));
}

static int wait_long(void *ctx)
{
	volatile pid_t *self = ctx;

	*self = getpid();
	while (pause() < 0)
		;
	return 0;
}

static void the_work_ends_with_its_keeper(void **state)
{
	volatile pid_t *worker =
	    mmap(NULL, sizeof(*worker), PROT_READ | PROT_WRITE,
	         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t keeper;
	int status;

	(void)state;
	assert_true(worker != MAP_FAILED);
	/* Orphans come to us, to be seen ending. */
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	keeper = fork();
	if (keeper == 0)
		_exit(keeper_run(wait_long, (void *)(uintptr_t)worker) < 0);
	while (!*worker)
		usleep(1000);
	kill(keeper, SIGKILL);
	assert_int_equal(waitpid(keeper, &status, 0), keeper);
	assert_int_equal(waitpid(*worker, &status, 0), *worker);
	assert_true(WIFSIGNALED(status));
	munmap((void *)(uintptr_t)worker, sizeof(*worker));
}

/* ---- the filter ---- */

/* In a child: the first line that was not as it should be; 0: none. */
#define EXPECT(cond)                                                           \
	do {                                                                   \
		if (!(cond))                                                   \
			return __LINE__ % 256 ? __LINE__ % 256 : 1;            \
	} while (0)
#define REFUSED(call) EXPECT((errno = 0, (call) < 0 && errno == EPERM))

static int of_both(void)
{
	char *const argv[] = { (char[]){ "true" }, NULL };
	struct termios t;
	int fd;

	REFUSED(execv("/bin/true", argv));
	REFUSED(kill(getppid(), 0));
	REFUSED(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	REFUSED(setuid(1));
	REFUSED(chmod("/tmp", 0777));
	REFUSED(unlink("/tmp/none"));
	REFUSED(socket(AF_NETLINK, SOCK_RAW, 0));
	REFUSED(ioctl(0, TCGETS, &t));
	EXPECT(mmap(NULL, 4096, PROT_READ | PROT_EXEC,
	            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	fd = open("/proc/self/status", O_RDONLY);
	EXPECT(fd >= 0 && close(fd) == 0);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	EXPECT(fd >= 0 && close(fd) == 0);
	return 0;
}

/* A sanitizer would see to the stack before _exit(): by a call that the filter
 * forbids. */
static void leave(int code)
{
	syscall(SYS_exit_group, code);
}

static int as_keeper(void)
{
	int status = -1;
	pid_t pid;

	EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	EXPECT(filter_enter(&keeper_filter) == 0);
	EXPECT(of_both() == 0);
	pid = fork();
	if (pid == 0)
		leave(filter_enter(&worker_filter) < 0);
	EXPECT(waitpid(pid, &status, 0) == pid && status == 0);
	return 0;
}

static int as_worker(void)
{
	EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	EXPECT(filter_enter(&worker_filter) == 0);
	EXPECT(of_both() == 0);
	REFUSED(fork());
	REFUSED(prctl(PR_SET_DUMPABLE, 1));
	return 0;
}

static void in_child(int (*what)(void))
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0)
		leave(what());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void the_keeper_may_fork(void **state)
{
	(void)state;
	in_child(as_keeper);
}

static void the_worker_may_not(void **state)
{
	(void)state;
	in_child(as_worker);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waits_grow_and_shrink),
		cmocka_unit_test(what_dies_is_started_again),
		cmocka_unit_test(the_work_ends_with_its_keeper),
		cmocka_unit_test(the_keeper_may_fork),
		cmocka_unit_test(the_worker_may_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
