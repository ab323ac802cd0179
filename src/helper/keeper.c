/* SPDX-License-Identifier: Apache-2.0 */
#include "helper/keeper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"

enum { WAIT_FIRST_MS = 50, WAIT_MAX_MS = 5000, GOOD_RUN_MS = 60000 };

u64 keeper_wait_ms(u64 ran_ms, u64 waited_ms)
{
	if (ran_ms >= GOOD_RUN_MS || waited_ms == 0)
		return WAIT_FIRST_MS;
	return MIN(waited_ms * 2, (u64)WAIT_MAX_MS);
}

static NORETURN void child(pid_t keeper, int (*work)(void *), void *ctx)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != keeper)
		_exit(1);
	_exit(work(ctx));
}

static void sleep_ms(u64 ms)
{
	struct timespec left = { .tv_sec = (time_t)(ms / 1000),
		                 .tv_nsec = (long)(ms % 1000) * 1000000 };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

static void tell(int status, u64 wait_ms)
{
	if (WIFSIGNALED(status))
		log_warn("helper",
		         "ended by signal %d; started again in %" PRIu64 " ms",
		         WTERMSIG(status), wait_ms);
	else
		log_warn("helper",
		         "ended with %d; started again in %" PRIu64 " ms",
		         WEXITSTATUS(status), wait_ms);
}

int keeper_run(int (*work)(void *ctx), void *ctx)
{
	pid_t self = getpid(), pid;
	u64 wait_ms = 0, begun;
	int status;

	for (;;) {
		begun = loop_now_ns();
		pid = fork();
		if (pid == 0)
			child(self, work, ctx);
		status = -1;
		while (pid > 0 && waitpid(pid, &status, 0) < 0)
			if (errno != EINTR)
				return -errno;
		if (status == 0)
			return 0;
		wait_ms = keeper_wait_ms(
		    (loop_now_ns() - begun) / NSEC_PER_MSEC, wait_ms);
		tell(status, wait_ms);
		sleep_ms(wait_ms);
	}
}
