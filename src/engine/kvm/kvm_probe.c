/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_probe - whether /dev/kvm really runs kernels, and how fast.
 *
 * A device that opens proves nothing: some hosts emulate supervisor code one
 * instruction at a time, hundreds of times slower than hardware, and refuse
 * some instructions. So a tiny guest in 64-bit supervisor mode first does
 * once what every kernel does, then runs a loop of a known length, whose
 * instructions are timed. A timer bounds both: what the loop did by then is
 * the figure. Processor time is measured, so that a busy host does not look
 * like a slow one.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/given.h"
#include "base/loop.h"

enum {
	GUEST_SIZE = 0x8000,
	GUEST_PML4 = 0x1000,
	GUEST_PDPT = 0x2000,
	GUEST_PD = 0x3000,
	GUEST_CODE = 0x4000,
	GUEST_STACK = 0x7000,

	PORT_READY = 0x10, /* what the loop touches is mapped */
	PORT_LOOPED = 0x11,
	PORT_DONE = 0x12,
	PORT_WRONG = 0x13,

	LOOPS = 500,
	LOOP_INSTRUCTIONS = 10,
	/* Hardware takes less than 2, and about 20 where that hardware is
	 * itself emulated; emulation in the kernel takes 600 and more. */
	LIMIT_NS = 100,

	WARM_UP_MS = 200,
	SLICE_MS = 10, /* the limit of one loop */
	SLICES = 20,
	SLICES_ENOUGH = 3, /* once they took this together: */
	SLOW_NS = 20000000,
	TRIES = 3,
};

/*
 * RDI points to the data page. The loop is what kernels do most of the time:
 * memory, flags, calls. The privileged instructions have their turn after it;
 * they may cost an exit each. PORT_WRONG: a wrong result.
 */
__asm__(".pushsection .rodata\n"
        "kvm_probe_code:\n"
        "	mov %rsp, 128(%rdi)\n"
        "	push %rdi\n"
        "	pop %rsi\n"
        "	out %al, $0x10\n"
        "4:	mov $500, %ecx\n"
        "1:	add %rcx, 128(%rdi)\n"
        "	mov 128(%rdi), %rax\n"
        "	pushfq\n"
        "	popfq\n"
        "	call 2f\n"
        "	xor %rax, %rdx\n"
        "	mov %rdx, 136(%rdi)\n"
        "	dec %rcx\n"
        "	jnz 1b\n"
        "	out %al, $0x11\n"
        "	jmp 4b\n"
        "kvm_probe_rest:\n"
        "	mov %cr0, %rax\n"
        "	mov %rax, %cr0\n"
        "	mov %cr3, %rax\n"
        "	mov %rax, %cr3\n"
        "	mov %cr4, %rax\n"
        "	mov %rax, %cr4\n"
        "	invlpg (%rdi)\n"
        "	sgdt (%rdi)\n"
        "	lgdt (%rdi)\n"
        "	xor %eax, %eax\n"
        "	cpuid\n"
        "	mov $0xc0000082, %ecx\n" /* LSTAR */
        "	mov $0x12345000, %eax\n"
        "	xor %edx, %edx\n"
        "	wrmsr\n"
        "	xor %eax, %eax\n"
        "	rdmsr\n"
        "	cmp $0x12345000, %eax\n"
        "	jne 3f\n"
        "	xor %eax, %eax\n"
        "	xor %edx, %edx\n"
        "	xor %ebx, %ebx\n"
        "	mov $7, %ecx\n"
        "	movq $0, 64(%rdi)\n"
        "	movq $0, 72(%rdi)\n"
        "	lock cmpxchg16b 64(%rdi)\n"
        "	jne 3f\n"
        "	cmpq $7, 72(%rdi)\n"
        "	jne 3f\n"
        "	out %al, $0x12\n"
        "2:	ret\n"
        "3:	out %al, $0x13\n"
        "	hlt\n"
        "kvm_probe_code_end:\n"
        ".popsection\n");

extern const u8 kvm_probe_code[], kvm_probe_rest[], kvm_probe_code_end[];

struct probe {
	int kvm, vm, vcpu;
	size_t run_size;
	u8 *guest;
	struct kvm_run *run;
	timer_t timer;
	bool has_timer;
};

static void close_probe(struct probe *p)
{
	if (p->has_timer)
		timer_delete(p->timer);
	if (p->run)
		munmap(p->run, p->run_size);
	if (p->vcpu >= 0)
		close(p->vcpu);
	if (p->vm >= 0)
		close(p->vm);
	if (p->kvm >= 0)
		close(p->kvm);
	if (p->guest)
		munmap(p->guest, GUEST_SIZE);
}

static int map_guest(struct probe *p)
{
	struct kvm_userspace_memory_region region = {
		.memory_size = GUEST_SIZE,
	};
	u64 *pml4, *pdpt, *pd;

	p->guest = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->guest == MAP_FAILED) {
		p->guest = NULL;
		return -errno;
	}
	memcpy(p->guest + GUEST_CODE, kvm_probe_code,
	       (size_t)(kvm_probe_code_end - kvm_probe_code));
	pml4 = (u64 *)(void *)(p->guest + GUEST_PML4);
	pdpt = (u64 *)(void *)(p->guest + GUEST_PDPT);
	pd = (u64 *)(void *)(p->guest + GUEST_PD);
	pml4[0] = GUEST_PDPT | 3;
	pdpt[0] = GUEST_PD | 3;
	pd[0] = 0x83; /* 2 MiB at 0, writable, supervisor */
	region.userspace_addr = (u64)(uintptr_t)p->guest;
	return kvm_call(p->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static int set_cpuid(struct probe *p)
{
	struct kvm_cpuid2 *table =
	    xalloc(sizeof(*table) + KVM_CPUID_MAX * sizeof(table->entries[0]));
	int r;

	table->nent = KVM_CPUID_MAX;
	r = kvm_call(p->kvm, KVM_GET_SUPPORTED_CPUID, table);
	if (r == 0)
		r = kvm_call(p->vcpu, KVM_SET_CPUID2, table);
	free(table);
	return r;
}

static int set_registers(struct probe *p)
{
	const struct kvm_segment code = { .limit = ~0u,
		                          .selector = 8,
		                          .type = 0xb,
		                          .present = 1,
		                          .s = 1,
		                          .l = 1,
		                          .g = 1 };
	const struct kvm_segment data = { .limit = ~0u,
		                          .selector = 16,
		                          .type = 3,
		                          .present = 1,
		                          .s = 1,
		                          .db = 1,
		                          .g = 1 };
	struct kvm_regs regs = {
		.rip = GUEST_CODE,
		.rsp = GUEST_STACK,
		.rdi = GUEST_STACK,
		.rflags = RFLAGS_FIXED,
	};
	struct kvm_sregs sregs;
	int r = kvm_call(p->vcpu, KVM_GET_SREGS, &sregs);

	if (r < 0)
		return r;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	sregs.cr3 = GUEST_PML4;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA | EFER_SCE;
	r = kvm_call(p->vcpu, KVM_SET_SREGS, &sregs);
	return r ? r : kvm_call(p->vcpu, KVM_SET_REGS, &regs);
}

static int create_timer(struct probe *p)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID };

	event.sigev_signo = kvm_kick_signal();
	event.sigev_value.sival_ptr = &p->run->immediate_exit;
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, &p->timer))
		return -errno;
	p->has_timer = true;
	return 0;
}

static int open_probe(struct probe *p)
{
	int r;

	p->vm = kvm_call_value(p->kvm, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return p->vm;
	p->vcpu = kvm_call_value(p->vm, KVM_CREATE_VCPU, 0);
	if (p->vcpu < 0)
		return p->vcpu;
	r = kvm_call_value(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < 0)
		return r;
	p->run_size = (size_t)r;
	p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
	              p->vcpu, 0);
	if (p->run == MAP_FAILED) {
		p->run = NULL;
		return -errno;
	}
	r = map_guest(p);
	if (r == 0)
		r = set_cpuid(p);
	if (r == 0)
		r = set_registers(p);
	if (r == 0)
		r = create_timer(p);
	return r;
}

/* The port the guest wrote to, 0 at the time limit, -errno. */
static int run_for(struct probe *p, unsigned limit_ms)
{
	struct itimerspec limit = { 0 }, none = { 0 };
	int r;

	limit.it_value.tv_sec = (time_t)(limit_ms / 1000);
	limit.it_value.tv_nsec =
	    (long)(limit_ms % 1000 * (unsigned)NSEC_PER_MSEC);
	p->run->immediate_exit = 0;
	timer_settime(p->timer, 0, &limit, NULL);
	do
		r = ioctl(p->vcpu, KVM_RUN, 0) ? -errno : 0;
	while (r == -EINTR && !p->run->immediate_exit);
	timer_settime(p->timer, 0, &none, NULL);
	if (r == -EINTR)
		return 0;
	if (r < 0)
		return r;
	return p->run->exit_reason == KVM_EXIT_IO ? p->run->io.port : -EIO;
}

/* run_for's answer where it is not the port that was to come. */
static int explain(struct probe *p, int port, struct error *err)
{
	if (port == 0)
		return error_set(err, -ETIMEDOUT,
		                 "/dev/kvm did not run 40 instructions in "
		                 "%d ms",
		                 WARM_UP_MS);
	if (port > 0)
		return error_set(err, -ENOTSUP,
		                 "/dev/kvm computes wrong results");
	if (port != -EIO)
		return error_set(err, port, "/dev/kvm cannot run a guest: %s",
		                 strerror(-port));
	return error_set(err, -ENOTSUP,
	                 "/dev/kvm refuses instructions that every kernel "
	                 "uses (exit %u)",
	                 p->run->exit_reason);
}

/*
 * Nanoseconds an instruction of the best loop. *last is RCX where the one
 * before was interrupted; a loop interrupted at its very beginning says
 * nothing. A port, 0 or -errno as run_for.
 */
static int slice(struct probe *p, u64 *last, double *best, u64 *spent)
{
	u64 begin = loop_now_ns(), took, loops, from = *last;
	struct kvm_regs regs;
	int port = run_for(p, SLICE_MS);

	took = loop_now_ns() - begin;
	*spent += took;
	if (port != 0 && port != PORT_LOOPED)
		return port;
	if (kvm_call(p->vcpu, KVM_GET_REGS, &regs))
		return -EIO;
	/* RCX is still 0 between a loop's end and the next one's begin. */
	*last = port || !regs.rcx ? LOOPS : MIN(regs.rcx, from);
	loops = port ? from : from - *last;
	if (loops)
		*best = MIN(*best,
		            (double)took / (double)(loops * LOOP_INSTRUCTIONS));
	return port;
}

static int measure(struct probe *p, double *figure, struct error *err)
{
	u64 last = LOOPS, spent = 0;
	int port = run_for(p, WARM_UP_MS);
	struct kvm_regs regs;

	if (port != PORT_READY)
		return explain(p, port, err);
	*figure = (double)SLICE_MS * 1e6; /* not even one instruction */
	for (int i = 0; i<SLICES && * figure> LIMIT_NS; i++) {
		if (i >= SLICES_ENOUGH && spent > SLOW_NS)
			break;
		port = slice(p, &last, figure, &spent);
		if (port != 0 && port != PORT_LOOPED)
			return explain(p, port, err);
	}
	if (*figure > LIMIT_NS) {
		error_set(err, -ENOTSUP,
		          "/dev/kvm emulates kernel code, %.0f ns an "
		          "instruction (usable: up to %d)",
		          *figure, LIMIT_NS);
		return error_hint(err, "there is no hardware virtualization "
		                       "behind it: --engine auto does "
		                       "without");
	}
	if (kvm_call(p->vcpu, KVM_GET_REGS, &regs))
		return explain(p, -EIO, err);
	regs.rip = GUEST_CODE + (u64)(kvm_probe_rest - kvm_probe_code);
	if (kvm_call(p->vcpu, KVM_SET_REGS, &regs))
		return explain(p, -EIO, err);
	port = run_for(p, WARM_UP_MS);
	return port == PORT_DONE ? 0 : explain(p, port, err);
}

static int try_once(double *figure, struct error *err)
{
	struct probe p = { .kvm = -1, .vm = -1, .vcpu = -1 };
	int r;

	p.kvm = given_open(GIVEN_KVM);
	if (p.kvm < 0) {
		r = p.kvm;
		error_set(err, r, "cannot open /dev/kvm: %s", strerror(-r));
		if (r == -EACCES)
			error_hint(err, "join the group that owns it: "
			                "adduser USER kvm");
		else if (r == -ENOENT)
			error_hint(err, "enable virtualization in the "
			                "firmware and load kvm_intel or "
			                "kvm_amd");
		return r;
	}
	r = open_probe(&p);
	if (r < 0)
		error_set(err, r, "/dev/kvm cannot create a guest: %s",
		          strerror(-r));
	else
		r = measure(&p, figure, err);
	close_probe(&p);
	return r;
}

int kvm_probe(struct error *err)
{
	double figure = 0;
	int r = kvm_kick_setup(err);

	if (r < 0)
		return r;
	kvm_kick_unblock();
	/* A time limit may have come of a host that is busy just now. */
	r = -ETIMEDOUT;
	for (int i = 0; i < TRIES && r == -ETIMEDOUT; i++)
		r = try_once(&figure, err);
	if (r < 0)
		return r;
	error_set(err, 0, "%.1f ns an instruction of kernel code", figure);
	return 0;
}
