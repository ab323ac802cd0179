/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables: error codes, NX, WP, user pages, A and D bits, aliases. */
#include "guest.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, LARGE = 0x80 };
#define NX (1ul << 63)
#define TEST_LIN 0x8000000000ul /* the second line of the PML4 */

static u64 top[512] __attribute__((aligned(4096)));
static u64 middle[512] __attribute__((aligned(4096)));
static u64 table[512] __attribute__((aligned(4096)));
static u8 page[4][4096] __attribute__((aligned(4096)));
static u8 user_stack[4096] __attribute__((aligned(4096)));

static volatile u8 *at(unsigned i)
{
	return (volatile u8 *)(TEST_LIN + i * 4096ul);
}
static void map(unsigned i, unsigned n, u64 flags)
{
	table[i] = (u64)page[n] | flags;
	invlpg(at(i));
}

static void read0(void)
{
	(void)*at(0);
}
static void write0(void)
{
	*at(0) = 1;
}
static void run0(void)
{
	((void (*)(void))(u64)at(0))();
}
static void user_read(void)
{
	(void)*at(0);
	__asm__ volatile("int $0x80");
}
static void user_privileged(void)
{
	__asm__ volatile("hlt");
}
static void go_user_read(void)
{
	call_user(user_read, user_stack + sizeof(user_stack));
}
static void go_user_privileged(void)
{
	call_user(user_privileged, user_stack + sizeof(user_stack));
}

static void accessed_and_dirty(void)
{
	map(0, 0, P | W);
	check(!(table[0] & (A | D)));
	read0();
	check((table[0] & (A | D)) == A);
	write0();
	check((table[0] & (A | D)) == (A | D));
	table[0] &= ~(u64)(A | D);
	invlpg(at(0));
	write0();
	check((table[0] & (A | D)) == (A | D));
}

static void protections(void)
{
	table[0] = 0;
	invlpg(at(0));
	check(raised(read0) == 14 && caught.error == 0);
	check(read_cr(2) == TEST_LIN);
	check(raised(write0) == 14 && caught.error == 2);
	map(0, 0, P);
	check(raised(read0) == -1);
	check(raised(write0) == 14 && caught.error == 3);
	write_cr0(read_cr(0) & ~(1ul << 16)); /* WP off */
	check(raised(write0) == -1);
	write_cr0(read_cr(0) | 1ul << 16);
	check(raised(write0) == 14);
	page[0][0] = 0xc3;
	map(0, 0, P | W);
	check(raised(run0) == -1);
	map(0, 0, P | W | NX);
	check(raised(run0) == 14 && caught.error == 0x11);
	/* A reserved address bit. */
	table[0] = (u64)page[0] | P | 1ul << 51;
	invlpg(at(0));
	if (!excused("reserved-address"))
		check(raised(read0) == 14 && caught.error == 9);
}

static void users(void)
{
	map(0, 0, P | W);
	check(raised(go_user_read) == 14 && caught.error == 5);
	map(0, 0, P | W | U);
	check(raised(go_user_read) == -1);
	check(raised(go_user_privileged) == 13);
}

static void smap_and_smep(void)
{
	u32 r[4];

	cpuid(7, 0, r);
	if (!(r[1] & 1u << 20) || !(r[1] & 1u << 7))
		return;
	/* Our own pages are user pages: make the code's supervisor ones. */
	page_directories[0][0] &= ~4ul;
	write_cr3(read_cr(3));
	map(0, 0, P | W | U);
	page[0][0] = 0xc3;
	write_cr4(read_cr(4) | 1ul << 20 | 1ul << 21);
	check(raised(run0) == 14 && caught.error == 0x11);
	check(raised(read0) == 14 && caught.error == 1);
	__asm__ volatile("stac" : : : "memory");
	check(*at(0) == 0xc3);
	__asm__ volatile("clac" : : : "memory");
	check(raised(read0) == 14);
	write_cr4(read_cr(4) & ~(1ul << 20 | 1ul << 21));
	page_directories[0][0] |= 4ul;
	write_cr3(read_cr(3));
}

static void aliases_and_crossing(void)
{
	map(0, 0, P | W);
	map(1, 1, P | W);
	map(2, 0, P | W);
	*at(0) = 0x11;
	check(*at(2) == 0x11);
	*(volatile u64 *)(at(0) + 4092) = 0x1122334455667788;
	check(*(u32 *)(page[0] + 4092) == 0x55667788);
	check(*(u32 *)page[1] == 0x11223344);
	/* The second half faults: nothing of the first is written. */
	map(1, 1, P);
	*(u32 *)(page[0] + 4092) = 0;
	*(volatile u32 *)(page[0] + 4092) = 0;
}

static void write_across(void)
{
	*(volatile u64 *)(at(0) + 4092) = ~0ul;
}

/* Hundreds of places that read a page, and hundreds that write it. */
static void read_sites(void)
{
	__asm__ volatile(".rept 300\n\t"
	                 "movb (%0), %%al\n\t"
	                 "lea 0(%0), %0\n\t" /* each looks for itself */
	                 ".endr"
	                 :
	                 : "r"(at(0))
	                 : "rax", "memory");
}
extern u8 write_sites[], write_sites_end[];
__asm__("write_sites:\n"
        ".rept 300\n\t"
        "movb %al, (%rdi)\n\t"
        "lea 0(%rdi), %rdi\n\t"
        ".endr\n\t"
        "write_sites_end: ret");
static const u8 *write_site;
static void write_one(void)
{
	__asm__ volatile("call *%0"
	                 :
	                 : "r"(write_site), "D"(at(0))
	                 : "rax", "memory");
}

/*
 * That a page may be read says nothing of writing it, whatever an engine
 * remembers of the page, and for whom.
 */
static void read_only_everywhere(void)
{
	enum { TIMES = 12, STEP = 5 }; /* STEP: bytes of one write site */
	unsigned sites = (unsigned)(write_sites_end - write_sites) / STEP;
	unsigned faults = 0;

	check(sites == 300);
	map(0, 0, P | W);
	for (unsigned i = 0; i < TIMES; i++)
		for (write_site = write_sites; write_site < write_sites_end;
		     write_site += STEP * 30)
			write_one();
	page[0][0] = 0x5a;
	map(0, 0, P);
	for (unsigned i = 0; i < TIMES; i++)
		read_sites();
	for (unsigned i = 0; i < sites; i++) {
		write_site = write_sites + (size_t)i * STEP;
		read_sites();
		faults += raised(write_one) == 14 && caught.error == 3 &&
		          caught.rip == (u64)write_site;
	}
	check(faults == sites);
	check(page[0][0] == 0x5a);
}

/* Two large pages' worth of memory that is mapped one to one. */
#define BIG(n) ((u8 *)((32ul + 2 * (n)) << 20))

/* INVLPG anywhere in a large page drops all of it: SDM vol. 3 4.10.4.1. */
static void large_page_dropped(void)
{
	volatile u8 *lin = (volatile u8 *)(TEST_LIN + (2ul << 20));
	unsigned stale = 0;

	middle[1] = (u64)BIG(0) | P | W | LARGE;
	for (unsigned i = 0; i < 512; i++) {
		BIG(0)[i * 4096ul] = 1;
		BIG(1)[i * 4096ul] = 2;
		stale += lin[i * 4096ul] != 1;
	}
	check(stale == 0);
	middle[1] = (u64)BIG(1) | P | W | LARGE;
	invlpg(lin + 17 * 4096);
	for (unsigned i = 0; i < 512; i++)
		stale += lin[i * 4096ul] != 2;
	check(stale == 0);
	middle[1] = 0;
	invlpg(lin);
	check(raised(write0) == -1);
}

/* What a page of code answers, often enough to be remembered. */
static unsigned answer(unsigned i)
{
	unsigned r = 0;

	for (unsigned n = 0; n < 40; n++)
		r = ((unsigned (*)(void))(u64)at(i))();
	return r;
}

/* Jumps by address find what is mapped there now, whatever ran before. */
static void code_moves(void)
{
	for (u8 n = 0; n < 2; n++) {
		const u8 code[] = { 0xb8, (u8)(n + 1), 0, 0, 0, 0xc3 };

		for (unsigned i = 0; i < sizeof(code); i++)
			page[n][i] = code[i]; /* mov eax, n + 1; ret */
	}
	for (unsigned round = 0; round < 20; round++) {
		u64 global = round % 3 == 2 ? 0x100 : 0;

		map(0, round & 1, P | W | global);
		check(answer(0) == 1 + (round & 1));
		/* Nothing moved: a flush alone changes nothing. */
		write_cr3(read_cr(3));
		check(answer(0) == 1 + (round & 1));
		if (global)
			continue;
		table[0] = (u64)page[!(round & 1)] | P | W;
		write_cr3(read_cr(3));
		check(answer(0) == 1 + !(round & 1));
	}
	write_cr4(read_cr(4) ^ 0x80); /* PGE: everything goes */
	table[0] = (u64)page[0] | P | W;
	write_cr4(read_cr(4) ^ 0x80);
	check(answer(0) == 1);
}

int main(void)
{
	pml4[1] = (u64)top | P | W | U;
	top[0] = (u64)middle | P | W | U;
	middle[0] = (u64)table | P | W | U;
	write_cr3(read_cr(3));
	accessed_and_dirty();
	protections();
	users();
	smap_and_smep();
	read_only_everywhere();
	aliases_and_crossing();
	large_page_dropped();
	code_moves();
	map(0, 0, P | W);
	map(1, 1, P);
	check(raised(write_across) == 14 && caught.error == 3);
	check(read_cr(2) == TEST_LIN + 4096);
	check(*(u32 *)(page[0] + 4092) == 0);
	return failures();
}
