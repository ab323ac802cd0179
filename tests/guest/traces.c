/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a translator may do with loops and calls that it runs as one piece: two
 * arrays at once over the ends of pages, a fault in some round of a loop, calls
 * and jumps that lead on in the same page, code that changes in the middle of
 * it, interrupts in what goes round without an end. In the kernel and for a
 * user.
 */
#include "guest.h"

enum {
	P = 1,
	W = 2,
	U = 4,
	PAGES = 6,
	WORDS = PAGES * 512,
	ROUNDS = 60,
	TIMER = 0x40,
};
#define TEST_LIN 0x8000000000ul /* the second line of the PML4 */

static u64 top[512] __attribute__((aligned(4096)));
static u64 middle[512] __attribute__((aligned(4096)));
static u64 table[512] __attribute__((aligned(4096)));
static u64 page[2 * PAGES][512] __attribute__((aligned(4096)));
static u8 user_stack[8192] __attribute__((aligned(16)));
static volatile u64 ticks, answer, argument;

static u8 *at(unsigned byte)
{
	return (u8 *)TEST_LIN + byte;
}

static void map(unsigned i, u64 flags)
{
	table[i] = flags ? (u64)page[i] | flags : 0;
	invlpg((volatile u64 *)at(i * 4096));
}

/* The sum of a[i] * b[i], both kept in a register that lives in memory, and
 * added to c[i] on the way. */
u64 product(const u64 *a, const u64 *b, u64 *c, u64 n);
/* Out and in again: jumps back and on, and calls, all in one page. */
u64 around(u64 n);
/* Adds what the instruction in the middle says, which it changes itself. */
u64 changing(u64 n);
/* For ever, until the byte is not 0. */
void wait_for(const volatile u64 *flag);
__asm__(".balign 4096\n"
        ".globl product\n"
        "product: push %r13; push %r14; push %r15; xor %eax, %eax\n"
        "xor %r13d, %r13d; mov %rdi, %r14; mov %rcx, %r15\n"
        "1: mov (%r14,%r13,8), %r8; imul (%rsi,%r13,8), %r8\n"
        "add %r8, %rax; add %r8, (%rdx); add $8, %rdx; inc %r13\n"
        "sub $1, %r15; jne 1b\n"
        "pop %r15; pop %r14; pop %r13; ret\n"
        ".globl around\n"
        "around: push %rbx; push %r13; xor %eax, %eax; mov %rdi, %r13\n"
        "jmp 3f\n"
        "1: call 5f; jmp 4f\n"
        "2: sub $1, %r13; jmp 3f\n"
        "3: test %r13, %r13; jne 1b; pop %r13; pop %rbx; ret\n"
        "4: add %rbx, %rax; cmp $100, %rax; jb 2b\n"
        "sub $100, %rax; jmp 2b\n"
        "5: push %rbp; mov %rsp, %rbp; lea 1(%r13), %rbx; leave; ret\n"
        ".globl wait_for\n"
        "wait_for: jmp 2f\n"
        "1: nop; jmp 3f\n"
        "2: cmpq $0, (%rdi); je 1b; ret\n"
        "3: nop; jmp 2b\n"
        ".balign 64\n"
        ".globl changing\n"
        "changing: xor %eax, %eax\n"
        "1: cmp $8, %rdi; jne 2f; addb $2, 3f+3(%rip)\n"
        "2: xor %ecx, %ecx; jmp 3f\n"
        "3: .byte 0x48, 0x83, 0xc0, 1\n" /* add rax, 1 */
        "sub $1, %rdi; jne 1b; movb $1, 3b+3(%rip); ret\n"
        ".balign 4096\n");

static u64 expected(unsigned from_a, unsigned from_b, unsigned n)
{
	u64 sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += (from_a + i) * (u64)((from_b + i) ^ 5);
	return sum;
}

/* At every place that the two arrays can have in their pages. */
static void arrays(void)
{
	const u64 *a = (u64 *)at(0);
	u64 *b = (u64 *)at(PAGES * 4096), c[64] = { 0 }, added = 0, sum = 0;

	for (unsigned i = 0; i < WORDS; i++) {
		((u64 *)at(0))[i] = i;
		b[i] = i ^ 5;
	}
	for (unsigned i = 0; i < 1400; i++) {
		unsigned n = 1 + i % 23, x = i % 1300, y = 3 * i % 1500;
		u64 got = product(a + x, b + y, c, n);

		check(got == expected(x, y, n));
		sum += got;
	}
	for (unsigned i = 0; i < 64; i++)
		added += c[i];
	check(added == sum);
	/* Words that lie over the end of a page. */
	for (unsigned i = 0; i < WORDS - 1; i++)
		check(product((const u64 *)(at(0) + 8 * i + 3), (u64[]){ 1 }, c,
		              1) == (i >> 24 | ((u64)i + 1) << 40));
}

static void too_far(void)
{
	static u64 c[64];

	product((u64 *)at(argument), (u64 *)at(PAGES * 4096), c, 40);
}

/* The page ends in one of the loop's rounds. */
static void faults(void)
{
	map(2, 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned words = i % 40;

		argument = 2 * 4096 - 8 * words;
		check(raised(too_far) == 14);
		check(read_cr(2) == (u64)at(2 * 4096));
		check(caught.r13 == words && caught.r15 == 40 - words);
	}
	map(2, P | W | U);
	check(raised(too_far) == -1);
}

static u64 around_and_around(u64 n)
{
	u64 sum = 0;

	for (; n; n--) {
		sum += n + 1;
		if (sum >= 100)
			sum -= 100;
	}
	return sum;
}

static void calls(void)
{
	for (unsigned i = 0; i < 20 * ROUNDS; i++)
		check(around(i % 90) == around_and_around(i % 90));
}

static void changes(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 n = 1 + i % 30;

		check(changing(n) == (n >= 8 ? n + 16 : n));
	}
}

static void on_timer(unsigned vector)
{
	if (vector == TIMER)
		ticks++;
	LAPIC[0xb0 / 4] = 0;
}

static void interrupted(void)
{
	for (unsigned i = 0; i < 10; i++) {
		ticks = 0;
		LAPIC[0x380 / 4] = 200000;
		wait_for(&ticks);
	}
}

static void all(void)
{
	arrays();
	calls();
	changes();
}

static void as_user(void)
{
	all();
	answer = 1;
	__asm__ volatile("int $0x80");
}

int main(void)
{
	pml4[1] = (u64)top | P | W | U;
	top[0] = (u64)middle | P | W | U;
	middle[0] = (u64)table | P | W | U;
	for (unsigned i = 0; i < 2 * PAGES; i++)
		map(i, P | W | U);
	all();
	faults();
	call_user(as_user, user_stack + sizeof(user_stack));
	check(answer == 1);
	on_interrupt = on_timer;
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x3e0 / 4] = 0xb;
	LAPIC[0x320 / 4] = TIMER;
	__asm__ volatile("sti");
	interrupted();
	return failures();
}
