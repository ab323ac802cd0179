/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_filter - the system calls of a confined machine, as a program for the
 * kernel; run when Atoll is built.
 *
 * The list holds what the event loop, the threads of vCPUs and disks, io_uring,
 * sockets and KVM need, each for the reason beside it. What must be refused
 * quietly (a C library that looks for a file) is EPERM; what has no business
 * here ends the process.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/filter_make.h"
#include "base/types.h"

static const int allowed[] = {
	/* Memory. */
	SCMP_SYS(brk),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(mincore),
	SCMP_SYS(membarrier),
	SCMP_SYS(fallocate),
	SCMP_SYS(memfd_create), /* guest memory that copies share */
	/* Descriptors that are open already. */
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(readv),
	SCMP_SYS(writev),
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(preadv),
	SCMP_SYS(pwritev),
	SCMP_SYS(preadv2),
	SCMP_SYS(pwritev2),
	SCMP_SYS(lseek),
	SCMP_SYS(close),
	SCMP_SYS(dup),
	SCMP_SYS(dup3),
	SCMP_SYS(fstat),
	SCMP_SYS(fstatfs),
	SCMP_SYS(newfstatat),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(ftruncate),
	SCMP_SYS(fcntl),
	SCMP_SYS(sync_file_range),
	/* The event loop. */
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(timerfd_gettime),
	SCMP_SYS(eventfd2),
	/* Threads: those of vCPUs start after this. */
	SCMP_SYS(futex),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_setaffinity),
	SCMP_SYS(gettid),
	SCMP_SYS(getpid),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	/* Signals: kicks of vCPUs, faults of translated code. */
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(rt_sigtimedwait),
	SCMP_SYS(restart_syscall),
	/* Time. */
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(getrusage),
	SCMP_SYS(getrandom),
	/* Sockets that were given: control, network, debugger. */
	SCMP_SYS(sendmsg),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendmmsg),
	SCMP_SYS(recvmmsg),
	SCMP_SYS(accept4),
	SCMP_SYS(shutdown),
	SCMP_SYS(getsockopt),
	/* Disks. */
	SCMP_SYS(io_uring_enter),
};

/* The C library asks for these and takes a refusal well. */
static const int refused[] = {
	SCMP_SYS(open),   SCMP_SYS(openat),   SCMP_SYS(openat2),
	SCMP_SYS(access), SCMP_SYS(readlink), SCMP_SYS(readlinkat),
	SCMP_SYS(socket), SCMP_SYS(uname),    SCMP_SYS(sysinfo),
	SCMP_SYS(statx),
};

/* ioctls by their request: terminals, KVM, TAP, block devices. */
static const unsigned long ioctls[] = {
	0x5401,     /* TCGETS: isatty */
	0x5413,     /* TIOCGWINSZ */
	0xc0606610, /* PAGEMAP_SCAN */
	0x1277,     /* BLKDISCARD */
	0x127f,     /* BLKZEROOUT */
	0x40049409, /* FICLONE */
	0x80081272, /* BLKGETSIZE64 */
	0x400454d0, /* TUNSETOFFLOAD */
	0x400454d9, /* TUNSETQUEUE */
	/* No UFFDIO_REGISTER: of guest memory alone, from before. */
	UFFDIO_COPY,
	UFFDIO_ZEROPAGE,
	UFFDIO_WAKE,
	KVM_RUN,
	KVM_GET_REGS,
	KVM_SET_REGS,
	KVM_GET_SREGS,
	KVM_SET_SREGS,
	KVM_GET_SREGS2,
	KVM_SET_SREGS2,
	KVM_GET_FPU,
	KVM_SET_FPU,
	KVM_GET_MSRS,
	KVM_SET_MSRS,
	KVM_GET_XSAVE,
	KVM_SET_XSAVE,
	KVM_GET_XCRS,
	KVM_SET_XCRS,
	KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS,
	KVM_GET_VCPU_EVENTS,
	KVM_SET_VCPU_EVENTS,
	KVM_GET_MP_STATE,
	KVM_SET_MP_STATE,
	KVM_GET_LAPIC,
	KVM_SET_LAPIC,
	KVM_SET_GUEST_DEBUG,
	KVM_TRANSLATE,
	KVM_NMI,
	KVM_INTERRUPT,
	KVM_GET_TSC_KHZ,
	KVM_SET_TSC_KHZ,
	KVM_KVMCLOCK_CTRL,
	KVM_IRQ_LINE,
	KVM_IRQ_LINE_STATUS,
	KVM_SIGNAL_MSI,
	KVM_SET_GSI_ROUTING,
	KVM_IRQFD,
	KVM_IOEVENTFD,
	KVM_GET_IRQCHIP,
	KVM_SET_IRQCHIP,
	KVM_GET_PIT2,
	KVM_SET_PIT2,
	KVM_GET_CLOCK,
	KVM_SET_CLOCK,
	KVM_GET_DIRTY_LOG,
	KVM_CLEAR_DIRTY_LOG,
	KVM_RESET_DIRTY_RINGS,
	KVM_SET_USER_MEMORY_REGION,
	KVM_SET_SIGNAL_MASK,
	KVM_HAS_DEVICE_ATTR,
	KVM_SET_DEVICE_ATTR,
	KVM_GET_DEVICE_ATTR,
	KVM_CHECK_EXTENSION,
	KVM_ENABLE_CAP,
	KVM_SMI,
	KVM_SET_CPUID2,
	KVM_GET_CPUID2,
};

static int add_lists(scmp_filter_ctx ctx)
{
	int rc =
	    filter_add_all(ctx, SCMP_ACT_ALLOW, allowed, ARRAY_SIZE(allowed));

	if (rc == 0)
		rc = filter_add_all(ctx, SCMP_ACT_ERRNO(EPERM), refused,
		                    ARRAY_SIZE(refused));
	/* Then the C library calls clone. */
	if (rc == 0)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS),
		                      SCMP_SYS(clone3), 0);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(ioctls); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
		                      SCMP_A1_32(SCMP_CMP_EQ, (u32)ioctls[i]));
	return rc;
}

static int add_prctl_rule(scmp_filter_ctx ctx, u32 action, enum scmp_compare is,
                          int option)
{
	return seccomp_rule_add(ctx, action, SCMP_SYS(prctl), 1,
	                        SCMP_A0_32(is, (u32)option));
}

/* Names of threads; huge pages again, once memory is whole. A rule has one
 * comparison of an argument. */
static int add_prctl(scmp_filter_ctx ctx)
{
	const int first = PR_SET_NAME, last = PR_SET_THP_DISABLE;
	const u32 no = SCMP_ACT_ERRNO(EPERM);
	int rc = add_prctl_rule(ctx, no, SCMP_CMP_LT, first);

	for (int i = first; rc == 0 && i <= last; i++)
		rc = add_prctl_rule(
		    ctx, i == first || i == last ? SCMP_ACT_ALLOW : no,
		    SCMP_CMP_EQ, i);
	return rc == 0 ? add_prctl_rule(ctx, no, SCMP_CMP_GT, last) : rc;
}

/* What is allowed with some arguments only. */
static int add_conditions(scmp_filter_ctx ctx)
{
	const u64 writable_code = PROT_WRITE | PROT_EXEC;
	int rc = 0;

	/* No memory is ever writable and executable (W^X). */
	for (u64 prot = 0; rc == 0 && prot < 8; prot++) {
		if ((prot & writable_code) == writable_code)
			continue;
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
		                      SCMP_A2_32(SCMP_CMP_EQ, (u32)prot));
		if (rc == 0)
			rc = seccomp_rule_add(
			    ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
			    SCMP_A2_32(SCMP_CMP_EQ, (u32)prot));
	}
	/* No peer that stalls stalls us. */
	for (int i = 0; rc == 0 && i < 2; i++)
		rc = seccomp_rule_add(
		    ctx, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2,
		    SCMP_A1_32(SCMP_CMP_EQ, SOL_SOCKET),
		    SCMP_A2_32(SCMP_CMP_EQ,
		               (u32)(i ? SO_RCVTIMEO : SO_SNDTIMEO)));
	/* Threads of this process, not processes. */
	if (rc == 0)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
		                      SCMP_A0_64(SCMP_CMP_MASKED_EQ,
		                                 (u64)CLONE_THREAD,
		                                 (u64)CLONE_THREAD));
	/* Translated code has the vCPU behind GS. */
	if (rc == 0)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(arch_prctl),
		                      1, SCMP_A0(SCMP_CMP_EQ, ARCH_SET_GS));
	return rc == 0 ? add_prctl(ctx) : rc;
}

int main(void)
{
	scmp_filter_ctx ctx = filter_begin(SCMP_ACT_KILL_PROCESS);
	int rc = add_lists(ctx);

	if (rc == 0)
		rc = add_conditions(ctx);
	return filter_print(ctx, rc, "vm_filter");
}
