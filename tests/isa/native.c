/* SPDX-License-Identifier: Apache-2.0 */
/*
 * native.c - a snippet on the host's own CPU.
 *
 * All registers are loaded, the snippet is jumped to, and its end jumps to
 * isa_native_exit, which stores them. A fault comes as a signal on a stack of
 * its own; the handler takes the registers from the signal's frame.
 */
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "tests/isa/isa.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

enum { CS64 = 0x33, CS32 = 0x23, DATA_SELECTOR = 0x2b };

/* Where the assembly below keeps things; order is known to it. */
struct native {
	_Alignas(64) u8 xsave[CPU_XSAVE_SIZE + 4096];
	u64 gpr[GPR_COUNT]; /* 0x1340 */
	u64 rflags;         /* 0x13c0 */
	u64 gs_base;        /* 0x13c8 */
	u64 target;         /* 0x13d0 */
	u32 far_offset;     /* 0x13d8 */
	u16 far_selector;
	u64 host_rsp;   /* 0x13e0 */
	u32 host_mxcsr; /* 0x13e8 */
	u32 mode32;     /* 0x13ec */
	u64 host_gs;    /* 0x13f0 */
};
_Static_assert(offsetof(struct native, gpr) == 0x1340, "known to assembly");
_Static_assert(offsetof(struct native, host_gs) == 0x13f0, "known to assembly");

struct native isa_native;
void isa_native_enter(void);
extern const char isa_native_exit[], isa_native_fault_exit[];
void isa_native_on_signal(int sig, siginfo_t *info, void *context);

__asm__(".text\n"
        ".macro isa_gpr op, n, reg\n"
        ".ifc \\op, load\n"
        "	mov isa_native+0x1340+8*\\n(%rip), %\\reg\n"
        ".else\n"
        "	mov %\\reg, isa_native+0x1340+8*\\n(%rip)\n"
        ".endif\n"
        ".endm\n"
        ".macro isa_gprs op\n"
        "	isa_gpr \\op, 0, rax\n"
        "	isa_gpr \\op, 1, rcx\n"
        "	isa_gpr \\op, 2, rdx\n"
        "	isa_gpr \\op, 3, rbx\n"
        "	isa_gpr \\op, 5, rbp\n"
        "	isa_gpr \\op, 6, rsi\n"
        "	isa_gpr \\op, 7, rdi\n"
        "	isa_gpr \\op, 8, r8\n"
        "	isa_gpr \\op, 9, r9\n"
        "	isa_gpr \\op, 10, r10\n"
        "	isa_gpr \\op, 11, r11\n"
        "	isa_gpr \\op, 12, r12\n"
        "	isa_gpr \\op, 13, r13\n"
        "	isa_gpr \\op, 14, r14\n"
        "	isa_gpr \\op, 15, r15\n"
        "	isa_gpr \\op, 4, rsp\n"
        ".endm\n"
        ".globl isa_native_enter\n"
        "isa_native_enter:\n"
        "	push %rbx\n"
        "	push %rbp\n"
        "	push %r12\n"
        "	push %r13\n"
        "	push %r14\n"
        "	push %r15\n"
        "	mov %rsp, isa_native+0x13e0(%rip)\n"
        "	stmxcsr isa_native+0x13e8(%rip)\n"
        "	rdgsbase %rax\n"
        "	mov %rax, isa_native+0x13f0(%rip)\n"
        "	mov isa_native+0x13c8(%rip), %rax\n"
        "	wrgsbase %rax\n"
        "	mov $0x2b, %eax\n"
        "	mov %eax, %ds\n"
        "	mov %eax, %es\n"
        "	mov $7, %eax\n"
        "	xor %edx, %edx\n"
        "	xrstor64 isa_native(%rip)\n"
        "	pushq isa_native+0x13c0(%rip)\n"
        "	testl $0, isa_native+0x13ec(%rip)\n"
        "	cmpl $0, isa_native+0x13ec(%rip)\n"
        "	jne 1f\n"
        "	popfq\n"
        "	isa_gprs load\n"
        "	jmp *isa_native+0x13d0(%rip)\n"
        "1:	popfq\n"
        "	isa_gprs load\n"
        "	ljmpl *isa_native+0x13d8(%rip)\n"
        ".globl isa_native_exit\n"
        "isa_native_exit:\n"
        "	isa_gprs store\n"
        "	mov isa_native+0x13e0(%rip), %rsp\n"
        "	pushfq\n"
        "	popq isa_native+0x13c0(%rip)\n"
        "	pushq $2\n"
        "	popfq\n"
        "	rdgsbase %rax\n"
        "	mov %rax, isa_native+0x13c8(%rip)\n"
        "	mov $7, %eax\n"
        "	xor %edx, %edx\n"
        "	xsave64 isa_native(%rip)\n"
        ".globl isa_native_fault_exit\n"
        "isa_native_fault_exit:\n"
        "	vzeroupper\n"
        "	fninit\n"
        "	ldmxcsr isa_native+0x13e8(%rip)\n"
        "	mov isa_native+0x13f0(%rip), %rax\n"
        "	wrgsbase %rax\n"
        "	pop %r15\n"
        "	pop %r14\n"
        "	pop %r13\n"
        "	pop %r12\n"
        "	pop %rbp\n"
        "	pop %rbx\n"
        "	ret\n"
        /* The guest's AC flag may be set: clear it before any C. */
        ".globl isa_native_signal\n"
        "isa_native_signal:\n"
        "	pushfq\n"
        "	andl $~0x40000, (%rsp)\n"
        "	popfq\n"
        "	jmp isa_native_on_signal\n");
void isa_native_signal(int sig, siginfo_t *info, void *context);

static u8 *code;
/* The engine's own, for faults that are not a snippet's. */
static struct sigaction engine_action[NSIG];
static struct isa_state *result; /* where the handler puts it */

static void take_vector_state(const ucontext_t *uc, struct isa_state *out)
{
	const u8 *frame = (const u8 *)uc->uc_mcontext.fpregs;
	u32 magic;

	memcpy(&magic, frame + 464, sizeof(magic));
	memset(out->xsave, 0, sizeof(out->xsave));
	memcpy(out->xsave, frame, 416);
	if (magic == 0x46505853) /* FP_XSTATE_MAGIC1 */
		memcpy(out->xsave + 512, frame + 512, sizeof(out->xsave) - 512);
}

void isa_native_on_signal(int sig, siginfo_t *info, void *context)
{
	static const u8 order[GPR_COUNT] = {
		REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
		REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
		REG_R12, REG_R13, REG_R14, REG_R15,
	};
	ucontext_t *uc = context;
	greg_t *r = uc->uc_mcontext.gregs;
	u64 rip = (u64)r[REG_RIP];
	size_t i;

	if (!result ||
	    (rip > 0xffffffff && (rip >> 40) != 0 && (rip >> 47) == 0)) {
		if (engine_action[sig].sa_flags & SA_SIGINFO)
			engine_action[sig].sa_sigaction(sig, info, context);
		else /* the test itself is at fault */
			signal(sig, SIG_DFL);
		return;
	}
	for (i = 0; i < GPR_COUNT; i++)
		result->gpr[i] = (u64)r[order[i]];
	result->rip = rip;
	result->rflags = (u64)r[REG_EFL];
	result->vector = (int)r[REG_TRAPNO];
	result->error = (u32)r[REG_ERR];
	result->cr2 = (u64)r[REG_CR2];
	__asm__ volatile("rdgsbase %0" : "=r"(result->gs_base));
	take_vector_state(uc, result);
	r[REG_RIP] = (greg_t)(uintptr_t)isa_native_fault_exit;
	r[REG_RSP] = (greg_t)isa_native.host_rsp;
	r[REG_EFL] = 0x202;
	r[REG_CSGSFS] = (r[REG_CSGSFS] & ~(greg_t)0xffff) | CS64;
}

static bool map_at(u64 at, size_t size, int prot)
{
	void *p =
	    mmap((void *)(uintptr_t)at, size, prot,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	return p == (void *)(uintptr_t)at;
}

static bool has_fsgsbase_and_xsave(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return false;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1);
}

bool isa_native_catch(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL,
		                       SIGTRAP };
	stack_t stack = { .ss_size = 256 * KIB };
	struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_ONSTACK };
	size_t i;

	stack.ss_sp = malloc(stack.ss_size);
	if (!stack.ss_sp || sigaltstack(&stack, NULL) < 0)
		return false;
	sa.sa_sigaction = isa_native_signal;
	for (i = 0; i < ARRAY_SIZE(signals); i++) {
		if (sigaction(signals[i], &sa, &engine_action[signals[i]]) < 0)
			return false;
	}
	return true;
}

bool isa_native_init(u8 **data)
{
	u64 exit_at = (u64)(uintptr_t)isa_native_exit;
	u8 *exit_page;

#if defined(__SANITIZE_ADDRESS__)
	fprintf(stderr, "isa: ASan keeps its shadow where snippets run\n");
	return false;
#endif
	if (!has_fsgsbase_and_xsave()) {
		fprintf(stderr, "isa: no FSGSBASE or XSAVE on this host\n");
		return false;
	}
	if (!map_at(ISA_CODE, ISA_CODE_SIZE, PROT_READ | PROT_WRITE) ||
	    !map_at(ISA_EXIT, 4096, PROT_READ | PROT_WRITE) ||
	    !map_at(ISA_DATA, ISA_DATA_SIZE, PROT_READ | PROT_WRITE)) {
		perror("isa: cannot lay out the host's side");
		return false;
	}
	code = (u8 *)(uintptr_t)ISA_CODE;
	memset(code, 0xcc, ISA_CODE_SIZE);
	/* jmp [rip + 2], and the pointer aligned: AC may be set. */
	exit_page = (u8 *)(uintptr_t)ISA_EXIT;
	memcpy(exit_page, "\xff\x25\2\0\0\0", 6);
	memcpy(exit_page + 8, &exit_at, sizeof(exit_at));
	mprotect(exit_page, 4096, PROT_READ | PROT_EXEC);
	*data = (u8 *)(uintptr_t)ISA_DATA;
	memset(*data, 0, ISA_DATA_SIZE);
	return mprotect(*data + ISA_DATA_WRITABLE,
	                ISA_DATA_SIZE - ISA_DATA_WRITABLE, PROT_READ) == 0;
}

static void write_code(const struct isa_snippet *s)
{
	u8 *p = (u8 *)(uintptr_t)s->start;
	u32 exit_at = ISA_EXIT;

	mprotect(code, ISA_CODE_SIZE, PROT_READ | PROT_WRITE);
	memset(code, 0xcc, ISA_CODE_SIZE);
	memcpy(p, s->bytes, s->length);
	p += s->length;
	if (s->exact) {
		/* INT3 is there. */
	} else if (s->mode32) {
		*p++ = 0xea; /* jmp far 0x33:exit */
		memcpy(p, &exit_at, 4);
		p[4] = CS64;
		p[5] = 0;
	} else {
		exit_at -= (u32)(s->start + s->length + 5);
		*p++ = 0xe9; /* jmp exit */
		memcpy(p, &exit_at, 4);
	}
	mprotect(code, ISA_CODE_SIZE, PROT_READ | PROT_EXEC);
}

void isa_native_run(const struct isa_snippet *snippet,
                    const struct isa_state *in, struct isa_state *out)
{
	struct native *n = &isa_native;

	write_code(snippet);
	memcpy(n->xsave, in->xsave, CPU_XSAVE_SIZE);
	memcpy(n->gpr, in->gpr, sizeof(n->gpr));
	n->rflags = in->rflags;
	n->gs_base = in->gs_base;
	n->target = snippet->start;
	n->far_offset = (u32)snippet->start;
	n->far_selector = CS32;
	n->mode32 = snippet->mode32;

	memset(out, 0, sizeof(*out));
	out->vector = ISA_NO_VECTOR;
	result = out;
	isa_native_enter();
	result = NULL;
	if (snippet->exact && out->vector == VEC_BP &&
	    out->rip == snippet->start + snippet->length + 1) {
		out->vector = ISA_NO_VECTOR;
		out->rip--;
		return;
	}
	if (out->vector != ISA_NO_VECTOR)
		return;
	memcpy(out->xsave, n->xsave, CPU_XSAVE_SIZE);
	memcpy(out->gpr, n->gpr, sizeof(n->gpr));
	out->rip = snippet->start + snippet->length;
	out->rflags = n->rflags;
	out->gs_base = n->gs_base;
}
