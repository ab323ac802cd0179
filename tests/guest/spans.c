/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a translator may do with one check for several accesses, or put off: the
 * stack over the end of a page, faults between pushes and pops, accesses behind
 * a branch that is not taken, one instruction that goes through many pages.
 */
#include "guest.h"

enum { P = 1, W = 2, D = 0x40, ROUNDS = 200, DEPTH = 40, PAGES = 400 };
#define TEST_LIN 0x8000000000ul /* the second line of the PML4 */

static u64 top[512] __attribute__((aligned(4096)));
static u64 middle[512] __attribute__((aligned(4096)));
static u64 table[512] __attribute__((aligned(4096)));
static u64 page[7][512] __attribute__((aligned(4096)));
static u8 stack[3 * 4096] __attribute__((aligned(4096)));
u64 entry_rsp;
volatile u64 *gate;

static volatile u64 *at(unsigned i)
{
	return (volatile u64 *)(TEST_LIN + i * 4096ul);
}
static void map(unsigned i, unsigned n, u64 flags)
{
	table[i] = flags ? (u64)page[n] | flags : 0;
	invlpg(at(i));
}

/* n + (2n + 1), and so on down to 0: with three registers kept at each level.
 */
u64 climb(u64 n);
void between_pushes(void);
void between_pops(void);
u64 maybe_write(volatile u64 *p, u64 write);
u64 at_the_end(const u64 *p, volatile u64 *sp);
__asm__(".globl climb\n"
        "climb: push %rbx; push %rbp; push %r12\n"
        "mov %rdi, %rbx; lea 1(%rdi,%rdi), %rbp; xor %r12d, %r12d\n"
        "test %rdi, %rdi; je 1f\n"
        "dec %rdi; call climb; add %rax, %r12\n"
        "1: lea (%rbx,%rbp), %rax; add %r12, %rax\n"
        "pop %r12; pop %rbp; pop %rbx; ret\n"
        ".globl between_pushes\n"
        "between_pushes: mov gate(%rip), %rax; mov %rsp, entry_rsp(%rip)\n"
        "push %rbx; push %rbp; mov (%rax), %rcx; push %r12\n"
        "pop %r12; pop %rbp; pop %rbx; ret\n"
        ".globl between_pops\n"
        "between_pops: mov gate(%rip), %rax; mov %rsp, entry_rsp(%rip)\n"
        "push %rbx; push %rbp; push %r12\n"
        "pop %r12; mov (%rax), %rcx; pop %rbp; pop %rbx; ret\n"
        ".globl maybe_write\n"
        "maybe_write: mov (%rdi), %rax; test %rsi, %rsi; je 1f\n"
        "mov %rsi, 8(%rdi)\n"
        "1: add 16(%rdi), %rax; ret\n"
        ".globl at_the_end\n"
        "at_the_end: mov %rsp, %r8; mov %rsi, %rsp\n"
        "mov %rdi, %rsi; sub %rsp, %rsi; sub $0x7ffffff8, %rsi\n"
        "push %rax; push %rax; jmp 1f\n"
        "1: pop %rdx; pop %rdx; mov 0x7ffffff8(%rsp, %rsi), %rax\n"
        "mov %r8, %rsp; ret\n");

static u64 on_stack(u8 *sp, u64 n)
{
	u64 sum;

	__asm__ volatile("mov %%rsp, %%rbx; mov %2, %%rsp; call climb\n"
	                 "mov %%rbx, %%rsp"
	                 : "=a"(sum), "+D"(n)
	                 : "r"(sp)
	                 : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11",
	                   "memory", "cc");
	return sum;
}

/* At every place that the end of a page can have in a frame. */
static void over_pages(void)
{
	for (unsigned place = 0; place < 40; place++)
		for (unsigned i = 0; i < ROUNDS; i++) {
			u64 n = i % DEPTH;

			check(on_stack(stack + 2 * 4096 + 16 * 32 + 8 * place,
			               n) == 3 * n * (n + 1) / 2 + n + 1);
		}
}

static void lagging(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		bool there = i % 50 != 49;

		map(0, 0, there ? P | W : 0);
		gate = at(0);
		check(raised(between_pushes) == (there ? -1 : 14));
		check(there || caught.rsp == entry_rsp - 16);
		check(raised(between_pops) == (there ? -1 : 14));
		check(there || caught.rsp == entry_rsp - 16);
	}
}

/* A displacement that can't be made any larger, with an index; without that it
 * leads to where there is memory, too. */
static void far_off(void)
{
	map(0, 0, P | W);
	top[2] = top[0];
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 value = i * 0x9e3779b97f4a7c15;

		check(at_the_end(&value, at(0) + 256) == value);
	}
	top[2] = 0;
}

static void write_there(void)
{
	maybe_write(at(0), 7);
}

static void behind_branches(void)
{
	map(0, 0, P);
	page[0][0] = 40;
	page[0][1] = 0;
	page[0][2] = 2;
	for (unsigned i = 0; i < ROUNDS; i++)
		check(maybe_write(at(0), 0) == 42);
	check(!(table[0] & D));
	map(0, 0, P | W);
	for (unsigned i = 0; i < ROUNDS; i++)
		check(maybe_write(at(0), 0) == 42);
	check(!(table[0] & D));
	write_there();
	check(table[0] & D && page[0][1] == 7);
	for (unsigned i = 0; i < ROUNDS; i++)
		check(maybe_write(at(0), i + 1) == 42 && page[0][1] == i + 1);
	map(0, 0, P);
	check(raised(write_there) == 14 && caught.error == 3);
	/* The last bytes of a page, with none behind it. */
	map(1, 0, 0);
	map(0, 0, P);
	page[0][511] = 9;
	check(raised(write_there) == 14);
}

static u64 sum_of(unsigned pages, unsigned word)
{
	u64 sum = 0;

	for (unsigned i = 0; i < pages; i++)
		sum += at(i)[word];
	return sum;
}

static void fill(unsigned pages, unsigned word, u64 v)
{
	for (unsigned i = 0; i < pages; i++)
		at(i)[word] = v + i % 6;
}

static void write_last(void)
{
	fill(20, 5, 1);
}

/* Few pages, or more than any small table holds; and one of them moves. */
static void through(unsigned pages)
{
	for (unsigned i = 0; i < 6; i++)
		page[i][3] = i;
	page[6][3] = 1000;
	for (unsigned i = 0; i < pages; i++)
		map(i, i % 6, P | W);
	for (unsigned round = 0; round < 24000 / pages && round < ROUNDS;
	     round++) {
		u64 sum = 0, moved = round % pages;

		for (unsigned i = 0; i < pages; i++)
			sum += i % 6;
		check(sum_of(pages, 3) == sum);
		map(moved, 6, P | W);
		check(sum_of(pages, 3) == sum - moved % 6 + 1000);
		map(moved, moved % 6, P | W);
		fill(pages, 4, round);
		check(page[5][4] == round + 5 && page[0][4] == round);
	}
	map(11, 5, P);
	check(raised(write_last) == 14 && read_cr(2) == (u64)&at(11)[5]);
	map(11, 5, P | W);
	check(raised(write_last) == -1);
}

int main(void)
{
	pml4[1] = (u64)top | P | W;
	top[0] = (u64)middle | P | W;
	middle[0] = (u64)table | P | W;
	write_cr0(read_cr(0) | 1u << 16); /* WP */
	over_pages();
	lagging();
	far_off();
	behind_branches();
	through(20);
	through(PAGES);
	return failures();
}
