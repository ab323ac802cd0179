/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ends of the two halves of memory: a branch to what is no address faults
 * itself, with nothing done; what runs off the end faults where it would go on.
 * Often enough that a translator has made code of it.
 */
#include "guest.h"

enum { P = 1, W = 2, U = 4, ROUNDS = 40, PAGE = 4096 };
#define END 0x800000000000ul /* of the lower half */
#define LAST (END - PAGE)
#define FIRST 0xffff800000000000ul

static u64 tops[2][512] __attribute__((aligned(4096)));
static u64 middles[2][512] __attribute__((aligned(4096)));
static u64 tables[2][512] __attribute__((aligned(4096)));
static u8 page[PAGE] __attribute__((aligned(4096)));
static u8 page_before[PAGE] __attribute__((aligned(4096)));
static u8 user_stack[4096] __attribute__((aligned(16)));
u64 run_at, run_rcx, run_rsp;
u64 stack[64] __attribute__((aligned(16)));
static bool as_user;

/* Jumps to run_at with a stack of its own, on which the way back is. */
__asm__(".text\n"
        "run_there:\n"
        "	push %rbx\n"
        "	mov %rsp, %rbx\n"
        "	mov run_rcx, %rcx\n"
        "	mov run_at, %rax\n"
        "	lea stack + 256, %rsp\n"
        "	mov %rsp, run_rsp\n"
        "	cmp %eax, %eax\n"
        "	jmp *%rax\n"
        "run_back:\n"
        "	mov %rbx, %rsp\n"
        "	pop %rbx\n"
        "	ret\n");
void run_there(void);
extern u8 run_back[];

static void user_run(void)
{
	run_there();
	__asm__ volatile("int $0x80");
}

static void run(void)
{
	if (as_user)
		call_user(user_run, user_stack + sizeof(user_stack));
	else
		run_there();
}

static void put(u64 at, const char *code, unsigned n)
{
	u8 *to = (at & ~4095ul) == LAST - PAGE ? page_before : page;

	for (unsigned i = 0; i < n; i++)
		to[(at + i) % PAGE] = (u8)code[i];
	run_at = at;
	run_rcx = 5;
	for (unsigned i = 0; i < 64; i++)
		stack[i] = 0x1111;
	stack[32] = (u64)run_back;
}

/* n bytes of code at an address fault at another, having done nothing. */
static void faults(u64 at, const char *code, unsigned n, u64 rip)
{
	put(at, code, n);
	for (unsigned i = 0; i < ROUNDS; i++) {
		as_user = i & 1;
		stack[31] = 0x1111;
		check(raised(run) == 13);
		check(caught.error == 0);
		check(caught.rip == rip);
		check(caught.rsp == run_rsp);
		check(caught.rcx == 5);
		/* A frame without a stack of its own goes there. */
		check(!as_user || stack[31] == 0x1111);
	}
}
#define FAULTS(at, code, more) faults(at, code, sizeof(code) - 1, (at) + (more))

static void branches(u64 at)
{
	/* By 1 MiB, over the end. */
	const bool up = at < END;

	if (up) {
		FAULTS(at, "\xe9\x00\x00\x10\x00", 0);
		FAULTS(at, "\xe8\x00\x00\x10\x00", 0);
		FAULTS(at, "\x0f\x84\x00\x00\x10\x00", 0);
		FAULTS(at, "\x90\x90\x0f\x84\x00\x00\x10\x00", 2);
		FAULTS(at, "\x48\x89\xc0\xe8\x00\x00\x10\x00", 3);
	} else {
		FAULTS(at, "\xe9\x00\x00\xf0\xff", 0);
		FAULTS(at, "\xe8\x00\x00\xf0\xff", 0);
		FAULTS(at, "\x0f\x84\x00\x00\xf0\xff", 0);
	}
}

static void short_branches(void)
{
	u64 at = END - 16;

	FAULTS(at, "\xeb\x20", 0); /* jmp */
	FAULTS(at, "\x74\x20", 0); /* je */
	FAULTS(at, "\xe2\x20", 0); /* loop: RCX is as it was */
	FAULTS(at, "\xe1\x20", 0); /* loope */
	FAULTS(at, "\x90\xe2\x20", 1);
	at = FIRST + 4;
	FAULTS(at, "\xeb\xe0", 0);
	FAULTS(at, "\x74\xe0", 0);
	FAULTS(at, "\xe2\xe0", 0);
}

static void indirect(void)
{
	FAULTS(LAST, "\x48\xb8\0\0\0\0\0\0\0\x80\xff\xe0", 10);
	FAULTS(LAST, "\x48\xb8\0\0\0\0\0\0\0\x80\xff\xd0", 10);
}

/* What is not taken goes on. */
static void not_taken(void)
{
	put(LAST, "\x0f\x85\x00\x00\x10\x00\xc3", 7); /* jne; ret */
	for (unsigned i = 0; i < ROUNDS; i++)
		check(raised(run_there) == -1);
}

static void off_the_end(void)
{
	FAULTS(END - 1, "\x90", 1);
	FAULTS(END - 3, "\x90\x90\x90", 3);
	FAULTS(END - 2, "\x75\x20", 2);                 /* jne, not taken */
	FAULTS(END - 6, "\x0f\x85\x00\x00\x10\x00", 6); /* likewise */
	FAULTS(END - 6, "\x90\x90\x90\x90\xb8\x00", 4); /* half a mov */
	FAULTS(END - 5, "\x90\x90\x90\x90\x0f", 4);
	/* From the page before, in one go. */
	for (unsigned i = 0; i < PAGE; i++)
		page[i] = 0x90;
	FAULTS(LAST - 4, "\x90\x90\x90\x90", PAGE + 4);
}

/* A call that returns to no address: its RET faults. */
static void call_at_end(void)
{
	put(LAST, "\xc3", 1);
	put(END - 5, "\xe8\x00\xf0\xff\xff", 5); /* to the page's start */
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(raised(run_there) == 13);
		check(caught.rip == LAST);
		check(caught.rsp == run_rsp - 8);
		check(stack[31] == END);
	}
}

int main(void)
{
	pml4[255] = (u64)tops[0] | P | W | U;
	tops[0][511] = (u64)middles[0] | P | W | U;
	middles[0][511] = (u64)tables[0] | P | W | U;
	tables[0][511] = (u64)page | P | W | U;
	tables[0][510] = (u64)page_before | P | W | U;
	pml4[256] = (u64)tops[1] | P | W | U;
	tops[1][0] = (u64)middles[1] | P | W | U;
	middles[1][0] = (u64)tables[1] | P | W | U;
	tables[1][0] = (u64)page | P | W | U;
	if (excused("edge"))
		return failures();
	branches(LAST);
	branches(FIRST);
	branches(LAST + 64);
	short_branches();
	indirect();
	not_taken();
	off_the_end();
	call_at_end();
	return failures();
}
