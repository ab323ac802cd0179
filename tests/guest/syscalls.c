/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL and SYSRET with all kinds of flags, and what kernels do around them:
 * often enough that a translator has made code of it, and with what it leaves
 * to others in between.
 */
#include "guest.h"

enum {
	ROUNDS = 40,
	CF = 1,
	STATUS = 0x8d5,
	IF = 0x200,
	DF = 0x400,
	IOPL = 0x3000,
	AC = 1 << 18,
	ID = 1 << 21,
	FIXED = 2,
	STAR = 0xc0000081,
	LSTAR,
	CSTAR,
	SFMASK,
};

struct seen {
	u64 r11, rcx, kernel_flags, user_flags;
	u64 kernel_cs, kernel_ss, user_cs, user_ss;
} seen[ROUNDS];

u64 want_flags, give_r11, user_rsp, round_count;
u8 user_stack[4096] __attribute__((aligned(16)));
u8 entry_stack[4096] __attribute__((aligned(16)));
u16 writable = 16, ds_seen;
extern u8 system_entry[], after_call[];
void user_rounds(void);

__asm__(".text\n"
        "system_entry:\n"
        "	mov %rsp, user_rsp\n"
        "	lea entry_stack + 4096, %rsp\n"
        "	pushfq\n"
        "	popq 16(%rdi)\n"
        "	mov %r11, (%rdi)\n"
        "	mov %rcx, 8(%rdi)\n"
        "	mov %cs, %eax\n"
        "	mov %rax, 32(%rdi)\n"
        "	mov %ss, %eax\n"
        "	mov %rax, 40(%rdi)\n"
        "	mov give_r11, %r11\n"
        "	push user_rsp\n"
        "	verw writable\n"
        "	pop %rsp\n"
        "	sysretq\n"
        "user_rounds:\n"
        "	mov $seen, %rdi\n"
        "	mov round_count, %rbx\n"
        "1:	push want_flags\n"
        "	popfq\n"
        "	syscall\n"
        "after_call:\n"
        "	pushfq\n"
        "	popq 24(%rdi)\n"
        "	mov %cs, %eax\n"
        "	mov %rax, 48(%rdi)\n"
        "	mov %ss, %eax\n"
        "	mov %rax, 56(%rdi)\n"
        "	add $64, %rdi\n"
        "	dec %rbx\n"
        "	jnz 1b\n"
        "	int $0x80\n");

static void flags_once(u64 user, u64 mask, u64 back)
{
	unsigned right = 0;

	want_flags = user;
	give_r11 = back;
	wrmsr(SFMASK, mask);
	call_user(user_rounds, user_stack + sizeof(user_stack));
	for (unsigned i = 0; i < round_count; i++) {
		const struct seen *s = &seen[i];

		/* A user's POPF leaves IF and IOPL alone. */
		right +=
		    s->r11 == (i && !(back & IF) ? user & ~(u64)IF : user) &&
		    s->rcx == (u64)after_call &&
		    s->kernel_flags == ((s->r11 & ~mask) | FIXED) &&
		    s->user_flags == (back & 0x3c7fd7) && s->kernel_cs == 8 &&
		    s->kernel_ss == 16 && s->user_cs == 0x2b &&
		    s->user_ss == 0x23;
	}
	if (right != round_count)
		print("flags %lx mask %lx back %lx: %lu of %lu right\n", user,
		      mask, back, (u64)right, round_count);
	check(right == round_count);
}

static void flags(void)
{
	static const u64 some[] = { 0,  CF,           STATUS,     DF,
		                    AC, AC | DF | CF, ID | STATUS };
	static const u64 masks[] = { 0x257fd5, 0, IF, AC | STATUS };
	static const u64 backs[] = {
		FIXED | IF, FIXED | STATUS | IF,  FIXED | IF | AC,
		FIXED,      FIXED | ID | DF | IF,
	};

	const bool drops = excused("unmasked-flags");

	round_count = ROUNDS;
	for (unsigned u = 0; u < sizeof(some) / sizeof(some[0]); u++)
		for (unsigned m = 0; m < sizeof(masks) / sizeof(masks[0]); m++)
			for (unsigned b = 0;
			     b < sizeof(backs) / sizeof(backs[0]); b++)
				if (!drops ||
				    !(some[u] & (STATUS | DF) & ~masks[m]))
					flags_once(some[u] | FIXED | IF,
					           masks[m], backs[b]);
}

/* The ways there and back change while the code stays. */
static void changed(void)
{
	round_count = 1;
	for (unsigned i = 0; i < 3 * ROUNDS; i++) {
		write_cr3(read_cr(3));
		flags_once(FIXED | IF, 0x257fd5, FIXED | IF);
		if (i % 3 == 0)
			write_cr4(read_cr(4) ^ 0x80); /* PGE: all goes */
		/* CS and SS come from STAR, whatever is in it now. */
		wrmsr(STAR, (u64)(i & 1 ? 0x18 : 0x1b) << 48 | 8ul << 32);
	}
}

static void user_call(void)
{
	__asm__ volatile("mov $seen, %%rdi; syscall" ::
	                     : "rcx", "r11", "rdi", "rax", "memory");
}

static void user_call_off(void)
{
	call_user(user_call, user_stack + sizeof(user_stack));
}

/* No SYSCALL without EFER.SCE, hot or not. */
static void switched_off(void)
{
	u64 efer = rdmsr(0xc0000080);

	wrmsr(0xc0000080, efer & ~1ul);
	check(raised(user_call_off) == 6);
	check(caught.cs == 0x2b);
	wrmsr(0xc0000080, efer);
}

static bool verw(u16 selector, bool carry)
{
	u8 byte = carry;
	u64 f;

	__asm__ volatile("add $-1, %1; verw %w2; pushfq; pop %0"
	                 : "=r"(f), "+q"(byte)
	                 : "r"(selector));
	check((f & CF) == carry);
	return f & 0x40;
}

static void selectors(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(verw(0x10, i & 1));
		check(!verw(0x08, i & 1));
		check(!verw(0, i & 1));
		check(verw(0x33, i & 1));
		check(verw(0x30, i & 1));
		check(!verw(0x2b, i & 1));
		check(!verw(0x38, i & 1));
		check(!verw(0xfff8, i & 1));
		check(!verw(0x14, i & 1)); /* there is no LDT */
		ds_seen = 0xffff;
		__asm__ volatile("mov %%ds, %0" : "=m"(ds_seen));
		check(ds_seen == 16);
	}
}

static void stack_popped(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 before, popped, after;

		__asm__ volatile("mov %%rsp, %0\n"
		                 "push $0x1234\n"
		                 "lea -64(%0), %1\n"
		                 "push %1\n"
		                 "pop %%rsp\n"
		                 "mov %%rsp, %1\n"
		                 "mov %0, %%rsp\n"
		                 "mov %%rsp, %2\n"
		                 : "=&r"(before), "=&r"(popped), "=&r"(after)
		                 :
		                 : "memory");
		check(popped == before - 64 && after == before);
	}
}

int main(void)
{
	wrmsr(STAR, 0x18ul << 48 | 8ul << 32);
	wrmsr(LSTAR, (u64)system_entry);
	selectors();
	stack_popped();
	flags();
	changed();
	switched_off();
	flags_once(FIXED | IF, 0x257fd5, FIXED | IF);
	return failures();
}
