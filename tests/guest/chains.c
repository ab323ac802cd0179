/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jumps, calls and returns from page to page, often enough that a translator
 * has tied them together; then what they lead to moves, changes, or was never
 * called from there.
 */
#include "guest.h"

enum { P = 1, W = 2, ROUNDS = 60, DEPTH = 20000 };
#define TEST_LIN 0x8000000000ul /* the second line of the PML4 */

static u64 top[512] __attribute__((aligned(4096)));
static u64 middle[512] __attribute__((aligned(4096)));
static u64 table[512] __attribute__((aligned(4096)));
static u64 far_middle[512] __attribute__((aligned(4096)));
static u64 far_table[512] __attribute__((aligned(4096)));
static u8 page[6][4096] __attribute__((aligned(4096)));
static u8 deep[DEPTH * 16 + 4096] __attribute__((aligned(16)));
u64 other_stack[64], other_rsp, thunk_hits;

enum { CALLS, JUMPS, ONE, TWO, HERE, THERE }; /* page[] */

static void map(unsigned i, unsigned n)
{
	table[i] = (u64)page[n] | P | W;
	invlpg((void *)(TEST_LIN + i * 4096ul));
}

static u64 run(unsigned i)
{
	return ((u64(*)(void))(TEST_LIN + i * 4096ul))();
}

static void put_at(unsigned n, unsigned at, const char *bytes, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		((volatile u8 *)page[n])[at + i] = (u8)bytes[i];
}

static void put(unsigned n, const char *bytes, unsigned count)
{
	put_at(n, 0, bytes, count);
}

static void make_pages(void)
{
	pml4[1] = (u64)top | P | W;
	top[0] = (u64)middle | P | W;
	middle[0] = (u64)table | P | W;
	put(CALLS, "\xe8\xfb\x0f\x00\x00\x83\xc0\x10\xc3", 9);
	put(JUMPS, "\xe9\xfb\x0f\x00\x00", 5);
	put(ONE, "\xb8\x01\x00\x00\x00\xc3", 6); /* mov $1, %eax; ret */
	put(TWO, "\xb8\x02\x00\x00\x00\xc3", 6);
}

/* The same code at two addresses: what follows it differs. */
static void aliases(unsigned n, u64 more)
{
	map(0, n);
	map(1, ONE);
	map(2, n);
	map(3, TWO);
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(run(0) == 1 + more);
		check(run(2) == 2 + more);
	}
}

static void moved(unsigned n, u64 more)
{
	map(0, n);
	for (unsigned i = 0; i < 4 * ROUNDS; i++) {
		bool one = i / 3 & 1;

		map(1, one ? ONE : TWO);
		check(run(0) == (one ? 1 : 2) + more);
	}
	/* By another top, and back. */
	for (unsigned i = 0; i < ROUNDS; i++) {
		table[1] = (u64)page[i & 1 ? ONE : TWO] | P | W;
		write_cr3(read_cr(3));
		check(run(0) == (i & 1 ? 1 : 2) + more);
	}
}

static void changed(unsigned n, u64 more)
{
	map(0, n);
	map(1, ONE);
	for (unsigned i = 0; i < 2 * ROUNDS; i++) {
		((volatile u8 *)page[ONE])[1] = (u8)(i / 2);
		check(run(0) == i / 2 + more);
	}
	((volatile u8 *)page[ONE])[1] = 1;
}

/* As far as a displacement reaches, from the end of a page. */
static void farthest(void)
{
	static const char three[] = "\xb8\x03\x00\x00\x00\xc3";
	const u64 at = TEST_LIN + 0xf00;

	put_at(HERE, 0xf00, "\xe8\xff\xff\xff\x7f\xc3", 6);
	put_at(HERE, 0xf80, "\xe9\xff\xff\xff\x7f", 5);
	put_at(THERE, 0xf04, three, 6);
	put_at(THERE, 0xf84, three, 6);
	top[2] = (u64)far_middle | P | W;
	far_middle[0] = (u64)far_table | P | W;
	far_table[0] = (u64)page[THERE] | P | W;
	map(0, HERE);
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(((u64(*)(void))at)() == 3);
		check(((u64(*)(void))(at + 0x80))() == 3);
	}
}

u64 recurse(u64 depth);
u64 where_am_i(void);
u64 by_thunk(u64 (*fn)(void));
u64 skip_two(void);
void switch_stack(void);
u64 forty_two(void);
__asm__(".text\n"
        "recurse:\n"
        "	test %rdi, %rdi\n"
        "	jz 1f\n"
        "	dec %rdi\n"
        "	call recurse\n"
        "	inc %rax\n"
        "	ret\n"
        "1:	xor %eax, %eax\n"
        "	ret\n"
        "where_am_i:\n"
        "	call 1f\n"
        "1:	pop %rax\n"
        "	sub $1b, %rax\n"
        "	ret\n"
        "forty_two:\n"
        "	mov $42, %eax\n"
        "	ret\n"
        /* As kernels call where prediction must not be trusted. */
        "by_thunk:\n"
        "	call 1f\n"
        "	incq thunk_hits\n"
        "	ret\n"
        "1:	call 2f\n"
        "	ud2\n"
        "2:	mov %rdi, (%rsp)\n"
        "	ret\n"
        /* The inner one returns to who called the outer one. */
        "skip_two:\n"
        "	call 1f\n"
        "	ud2\n"
        "1:	call 2f\n"
        "	ud2\n"
        "2:	add $16, %rsp\n"
        "	mov $7, %eax\n"
        "	ret\n"
        "switch_stack:\n"
        "	push %rbx\n"
        "	xchg %rsp, other_rsp\n"
        "	pop %rbx\n"
        "	ret\n");

static volatile u64 turns;

static void other_side(void)
{
	for (;;) {
		turns++;
		switch_stack();
	}
}

static u64 on_deep_stack(u64 depth)
{
	u64 result, rsp;

	__asm__ volatile("mov %%rsp, %1\n"
	                 "mov %4, %%rsp\n"
	                 "call *%3\n"
	                 "mov %1, %%rsp\n"
	                 : "=a"(result), "=&b"(rsp), "+D"(depth)
	                 : "r"(recurse), "r"(deep + sizeof(deep))
	                 : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11",
	                   "memory");
	return result;
}

static void returns(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(where_am_i() == 0);
		check(by_thunk(forty_two) == 42);
		check(skip_two() == 7);
	}
	check(thunk_hits == ROUNDS);
	for (unsigned i = 0; i < 4; i++)
		check(on_deep_stack(DEPTH) == DEPTH);
}

static void stacks(void)
{
	other_stack[62] = 0;
	other_stack[63] = (u64)other_side;
	other_rsp = (u64)&other_stack[62];
	for (unsigned i = 0; i < 3 * ROUNDS; i++) {
		switch_stack();
		check(turns == i + 1);
		check(recurse(i) == i);
	}
}

int main(void)
{
	make_pages();
	aliases(CALLS, 16);
	aliases(JUMPS, 0);
	moved(CALLS, 16);
	moved(JUMPS, 0);
	changed(CALLS, 16);
	changed(JUMPS, 0);
	farthest();
	returns();
	stacks();
	return failures();
}
