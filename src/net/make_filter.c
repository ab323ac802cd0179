/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_filter - the system calls of a confined atoll-net, as programs for the
 * kernel; run when Atoll is built.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/filter_make.h"
#include "base/types.h"

/* Of both. */
static const int common[] = {
	SCMP_SYS(getsockopt),
	SCMP_SYS(recvfrom),
	SCMP_SYS(recvmmsg),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendmmsg),
	SCMP_SYS(sendmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(setsockopt),
	/* descriptors */
	SCMP_SYS(close),
	SCMP_SYS(fcntl),
	SCMP_SYS(fstat),
	SCMP_SYS(lseek),
	SCMP_SYS(newfstatat),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	/* memory, time, ending */
	SCMP_SYS(brk),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(futex),
	SCMP_SYS(getpid),
	SCMP_SYS(getrandom),
	SCMP_SYS(gettid),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(madvise),
	SCMP_SYS(mremap),
	SCMP_SYS(munmap),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
};

static const int of_stack[] = {
	SCMP_SYS(accept),  SCMP_SYS(accept4),     SCMP_SYS(bind),
	SCMP_SYS(connect), SCMP_SYS(getpeername), SCMP_SYS(getsockname),
	SCMP_SYS(ioctl),   SCMP_SYS(listen),      SCMP_SYS(shutdown),
	SCMP_SYS(stat),
};

static const int of_switch[] = {
	SCMP_SYS(accept4),         SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_wait),      SCMP_SYS(openat),    SCMP_SYS(renameat),
	SCMP_SYS(timerfd_settime),
};

/* Memory that holds no code. */
static int allow_data(scmp_filter_ctx ctx)
{
	int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
	                          SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

	if (rc == 0)
		rc =
		    seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
		                     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return rc;
}

static int allow_sockets(scmp_filter_ctx ctx)
{
	int rc =
	    filter_add_all(ctx, SCMP_ACT_ALLOW, of_stack, ARRAY_SIZE(of_stack));

	if (rc == 0)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
		                      SCMP_A0(SCMP_CMP_EQ, AF_INET));
	if (rc == 0)
		rc = seccomp_rule_add(
		    ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
		    SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE, O_RDONLY));
	return rc;
}

static int make(bool stack)
{
	scmp_filter_ctx ctx = filter_begin(SCMP_ACT_ERRNO(EPERM));
	int rc =
	    filter_add_all(ctx, SCMP_ACT_ALLOW, common, ARRAY_SIZE(common));

	if (rc == 0)
		rc = allow_data(ctx);
	if (rc == 0)
		rc = stack ? allow_sockets(ctx)
		           : filter_add_all(ctx, SCMP_ACT_ALLOW, of_switch,
		                            ARRAY_SIZE(of_switch));
	return filter_print(ctx, rc, stack ? "stack_filter" : "switch_filter");
}

int main(void)
{
	int rc = make(true);

	return rc ? rc : make(false);
}
