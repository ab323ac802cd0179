/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_filter - the system calls of atoll-helper, as programs for the kernel;
 * run when Atoll is built. What is refused is EPERM. No program is started, no
 * code is made, no other process is traced or sent a signal; sockets are for
 * asking a bridge.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/filter_make.h"
#include "base/types.h"

/* A call, and, if op is not 0, what one argument of it must be. */
struct rule {
	int call;
	struct scmp_arg_cmp arg;
};

#define REQUEST(value)                                                         \
	{                                                                      \
		1, SCMP_CMP_MASKED_EQ, 0xffffffff, (value)                     \
	}
#define WITHOUT(n, bits)                                                       \
	{                                                                      \
		(n), SCMP_CMP_MASKED_EQ, (bits), 0                             \
	}

static const struct rule worker[] = {
	/* requests */
	{ .call = SCMP_SYS(accept4) },
	{ .call = SCMP_SYS(getsockopt) },
	{ .call = SCMP_SYS(recvfrom) },
	{ .call = SCMP_SYS(sendmsg) },
	/* files: of control groups, of /proc, of user ids */
	{ .call = SCMP_SYS(access) },
	{ .call = SCMP_SYS(close) },
	{ .call = SCMP_SYS(faccessat) },
	{ .call = SCMP_SYS(faccessat2) },
	{ .call = SCMP_SYS(fcntl) },
	{ .call = SCMP_SYS(flock) },
	{ .call = SCMP_SYS(fstat) },
	{ .call = SCMP_SYS(lseek) },
	{ .call = SCMP_SYS(mkdir) },
	{ .call = SCMP_SYS(newfstatat) },
	{ .call = SCMP_SYS(open) },
	{ .call = SCMP_SYS(openat) },
	{ .call = SCMP_SYS(pread64) },
	{ .call = SCMP_SYS(read) },
	{ .call = SCMP_SYS(rmdir) },
	{ .call = SCMP_SYS(stat) },
	{ .call = SCMP_SYS(write) },
	{ .call = SCMP_SYS(writev) },
	/* whose namespace it is; tap devices and bridges */
	{ SCMP_SYS(ioctl), REQUEST(NS_GET_OWNER_UID) },
	{ SCMP_SYS(ioctl), REQUEST(NS_GET_PARENT) },
	{ SCMP_SYS(ioctl), REQUEST(TUNSETIFF) },
	{ SCMP_SYS(ioctl), REQUEST(TUNSETVNETHDRSZ) },
	{ SCMP_SYS(ioctl), REQUEST(TUNSETOFFLOAD) },
	{ SCMP_SYS(ioctl), REQUEST(SIOCGIFINDEX) },
	{ SCMP_SYS(ioctl), REQUEST(SIOCBRADDIF) },
	{ SCMP_SYS(ioctl), REQUEST(SIOCSIFMTU) },
	{ SCMP_SYS(ioctl), REQUEST(SIOCGIFFLAGS) },
	{ SCMP_SYS(ioctl), REQUEST(SIOCSIFFLAGS) },
	{ SCMP_SYS(socket), { 0, SCMP_CMP_EQ, AF_UNIX, 0 } },
	{ SCMP_SYS(socket), { 0, SCMP_CMP_EQ, AF_INET, 0 } },
	/* the loop, time, memory without code, ending */
	{ .call = SCMP_SYS(brk) },
	{ .call = SCMP_SYS(clock_gettime) },
	{ .call = SCMP_SYS(epoll_create1) },
	{ .call = SCMP_SYS(epoll_ctl) },
	{ .call = SCMP_SYS(epoll_pwait) },
	{ .call = SCMP_SYS(epoll_wait) },
	{ .call = SCMP_SYS(eventfd2) },
	{ .call = SCMP_SYS(exit) },
	{ .call = SCMP_SYS(exit_group) },
	{ .call = SCMP_SYS(futex) },
	{ .call = SCMP_SYS(geteuid) },
	{ .call = SCMP_SYS(getpid) },
	{ .call = SCMP_SYS(getrandom) },
	{ .call = SCMP_SYS(gettid) },
	{ .call = SCMP_SYS(madvise) },
	{ SCMP_SYS(mmap), WITHOUT(2, PROT_EXEC) },
	{ SCMP_SYS(mprotect), WITHOUT(2, PROT_EXEC) },
	{ .call = SCMP_SYS(mremap) },
	{ .call = SCMP_SYS(munmap) },
	{ .call = SCMP_SYS(restart_syscall) },
	{ .call = SCMP_SYS(rt_sigaction) },
	{ .call = SCMP_SYS(rt_sigprocmask) },
	{ .call = SCMP_SYS(rt_sigreturn) },
	{ .call = SCMP_SYS(timerfd_create) },
	{ .call = SCMP_SYS(timerfd_settime) },
};

static const struct rule keeper[] = {
	/* A process, with nothing of its own but its memory. */
	{ SCMP_SYS(clone),
	  WITHOUT(0, ~(scmp_datum_t)(CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID |
	                             CSIGNAL)) },
	{ .call = SCMP_SYS(clock_nanosleep) },
	{ .call = SCMP_SYS(getppid) },
	{ .call = SCMP_SYS(prctl) },
	{ .call = SCMP_SYS(seccomp) },
	{ .call = SCMP_SYS(set_robust_list) },
	{ .call = SCMP_SYS(wait4) },
};

static int allow(scmp_filter_ctx ctx, const struct rule *rules, size_t count)
{
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++)
		rc = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, rules[i].call,
		                            rules[i].arg.op ? 1 : 0,
		                            &rules[i].arg);
	return rc;
}

static int make(bool of_keeper)
{
	scmp_filter_ctx ctx = filter_begin(SCMP_ACT_ERRNO(EPERM));
	int rc = allow(ctx, worker, ARRAY_SIZE(worker));

	if (rc == 0 && of_keeper)
		rc = allow(ctx, keeper, ARRAY_SIZE(keeper));
	return filter_print(ctx, rc,
	                    of_keeper ? "keeper_filter" : "worker_filter");
}

int main(void)
{
	int rc = make(true);

	return rc ? rc : make(false);
}
