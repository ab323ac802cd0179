/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Protection keys: PKRU for user pages, IA32_PKRS for supervisor ones. Rights
 * are given and taken often enough that a translator has made code of it.
 */
#include "guest.h"

enum { P = 1, W = 2, U = 4, LARGE = 0x80 };
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_PK = 0x20 };
enum { NO_ACCESS = 1, NO_WRITE = 2 };
enum { ROUNDS = 60, TABLES = 4, PKRS = 0x6e1 };
#define NX (1ul << 63)
#define CR0_WP (1ul << 16)
#define CR4_PCIDE (1ul << 17)
#define CR4_OSXSAVE (1ul << 18)
#define CR4_PKE (1ul << 22)
#define CR4_PKS (1ul << 24)
#define KEEP (1ul << 63)
#define TEST_LIN 0x8000000000ul /* the second line of the PML4 */
#define LARGE_LIN (TEST_LIN + TABLES * 0x200000ul)

static u64 top[512] __attribute__((aligned(4096)));
static u64 middle[512] __attribute__((aligned(4096)));
static u64 table[TABLES][512] __attribute__((aligned(4096)));
static u8 page[4096] __attribute__((aligned(4096)));
static u8 user_stack[4096] __attribute__((aligned(4096)));
static u8 area[4096] __attribute__((aligned(64)));
static u32 pkru_ecx, pkru_edx; /* of a write that is to be refused */
static volatile u64 target;    /* what the functions below access */

static u64 rights(unsigned key, unsigned bits)
{
	return (u64)bits << 2 * key;
}

static u64 keyed(unsigned key)
{
	return (u64)key << 59;
}

static u32 read_pkru(void)
{
	u32 a, d;

	__asm__ volatile("rdpkru" : "=a"(a), "=d"(d) : "c"(0));
	check(d == 0);
	return a;
}

static void write_pkru(u64 v)
{
	__asm__ volatile("wrpkru" : : "a"((u32)v), "c"(0), "d"(0) : "memory");
}

static void set_wp(bool on)
{
	write_cr0(on ? read_cr(0) | CR0_WP : read_cr(0) & ~CR0_WP);
}

static void map(unsigned i, u64 flags)
{
	table[i / 512][i % 512] = (u64)page | flags;
	invlpg((void *)(TEST_LIN + i * 4096ul));
}

/* ---- accesses ---- */

static void do_rdpkru(void)
{
	u32 a, d;

	__asm__ volatile("rdpkru" : "=a"(a), "=d"(d) : "c"(pkru_ecx));
}
static void do_wrpkru(void)
{
	__asm__ volatile("wrpkru" : : "a"(0), "c"(pkru_ecx), "d"(pkru_edx));
}
static void do_read(void)
{
	(void)*(volatile u64 *)target;
}
static void do_write(void)
{
	*(volatile u64 *)target = 0xc3c3c3c3c3c3c3c3;
}
static void do_run(void)
{
	((void (*)(void))target)();
}
static void user_read(void)
{
	do_read();
	__asm__ volatile("int $0x80");
}
static void user_write(void)
{
	do_write();
	__asm__ volatile("int $0x80");
}
static void user_run(void)
{
	do_run();
	__asm__ volatile("int $0x80");
}
static void go_user_read(void)
{
	call_user(user_read, user_stack + sizeof(user_stack));
}
static void go_user_write(void)
{
	call_user(user_write, user_stack + sizeof(user_stack));
}
static void go_user_run(void)
{
	call_user(user_run, user_stack + sizeof(user_stack));
}

/* The error code that fn faults with, or -1. */
static int error_of(void (*fn)(void))
{
	int vector = raised(fn);

	if (vector < 0)
		return -1;
	check(vector == 14);
	check(read_cr(2) == target);
	return (int)caught.error;
}

/* All that may be done to the page at target, with these rights of its key. */
static void all_accesses(unsigned bits, bool wp)
{
	bool read = !(bits & NO_ACCESS);
	bool write = read && !(bits & NO_WRITE);
	bool super_write = read && (write || !wp);
	int error = PF_P | PF_PK;

	check(error_of(do_read) == (read ? -1 : error));
	check(error_of(do_write) == (super_write ? -1 : error | PF_W));
	check(error_of(go_user_read) == (read ? -1 : error | PF_U));
	check(error_of(go_user_write) == (write ? -1 : error | PF_U | PF_W));
	check(error_of(do_run) == -1);
	check(error_of(go_user_run) == -1);
}

/* ---- PKRU ---- */

static void instructions(void)
{
	u32 r[4];

	cpuid(7, 0, r);
	check(!(r[2] & 1u << 4));
	check(raised(do_rdpkru) == 6);
	check(raised(do_wrpkru) == 6);
	write_cr4(read_cr(4) | CR4_PKE);
	cpuid(7, 0, r);
	check(r[2] & 1u << 4);
	check(read_pkru() == 0);
	pkru_ecx = 1;
	check(raised(do_rdpkru) == 13);
	check(raised(do_wrpkru) == 13);
	pkru_ecx = 0;
	pkru_edx = 1;
	check(raised(do_wrpkru) == 13);
	pkru_edx = 0;
	for (u32 v = 0; v < 1000; v++) {
		write_pkru(v << 2 | 0x55550000);
		check(read_pkru() == (v << 2 | 0x55550000));
	}
	write_pkru(0);
}

static void user_keys(void)
{
	static const u8 keys[] = { 1, 2, 8, 15 };

	target = TEST_LIN;
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned key = keys[i % sizeof(keys)];
		bool wp = i / 4 & 1;

		map(0, P | W | U | keyed(key));
		set_wp(wp);
		do_write();
		/* Without a flush in between: all are as they are told. */
		for (unsigned bits = 0; bits < 8; bits++) {
			write_pkru(rights(key, bits & 3));
			all_accesses(bits & 3, wp);
			write_pkru(~rights(key, 3) & ~3u);
			check(error_of(do_read) == -1);
		}
		write_pkru(0);
	}
	set_wp(true);
	/* Other rights count besides; key 0 is one like the others. */
	map(0, P | U | keyed(3));
	check(error_of(do_write) == (PF_P | PF_W));
	write_pkru(rights(3, NO_WRITE));
	check(error_of(do_write) == (PF_P | PF_W | PF_PK));
	write_pkru(rights(3, NO_ACCESS));
	map(0, P | W | U | NX | keyed(3));
	check(error_of(do_run) == (PF_P | 0x10));
	map(0, 0);
	check(error_of(do_read) == 0);
	/* A supervisor's page is none of PKRU's. */
	map(0, P | W | keyed(3));
	check(error_of(do_write) == -1);
	check(error_of(go_user_read) == (PF_P | PF_U));
	write_pkru(0);
}

/* A right that is taken by XRSTOR is gone as well. */
static void extended_state(void)
{
	u32 r[4], at, low, high;

	cpuid(1, 0, r);
	if (!(r[2] & 1u << 26))
		return;
	write_cr4(read_cr(4) | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" : : "a"(0x203), "d"(0), "c"(0));
	cpuid(0xd, 9, r);
	check(r[0] == 8);
	at = r[1];
	cpuid(0xd, 0, r);
	check(r[0] & 1u << 9 && r[1] == at + 8 && r[2] >= at + 8);
	map(0, P | W | U | keyed(5));
	target = TEST_LIN;
	for (unsigned i = 0; i < ROUNDS; i++) {
		u32 v = (u32)rights(5, i % 4) | 4;

		write_pkru(v);
		__asm__ volatile("xsave %0" : "+m"(area) : "a"(0x200), "d"(0));
		check(*(u32 *)(area + at) == v);
		check(area[513] & 2);
		write_pkru(0);
		do_write();
		__asm__ volatile("xrstor %0" : : "m"(area), "a"(0x200), "d"(0));
		check(read_pkru() == v);
		check((error_of(do_read) == -1) == !(v >> 10 & NO_ACCESS));
		check((error_of(do_write) == -1) == !(v >> 10 & 3));
		area[513] &= (u8)~2;
		__asm__ volatile("xrstor %0" : : "m"(area), "a"(0x200), "d"(0));
		check(read_pkru() == 0);
		/* Of initial state nothing is written. */
		*(u32 *)(area + at) = 0x1234;
		__asm__ volatile("xsaveopt %0"
		                 : "+m"(area)
		                 : "a"(0x200), "d"(0));
		check(!(area[513] & 2) && *(u32 *)(area + at) == 0x1234);
	}
	cpuid(0xd, 1, r);
	if (r[0] & 2) { /* XSAVEC */
		check(r[1] == 576 + 8);
		write_pkru(rights(9, 3));
		__asm__ volatile("xsavec %0" : "+m"(area) : "a"(0x200), "d"(0));
		check(*(u64 *)(area + 576) == rights(9, 3));
		check(*(u64 *)(area + 520) == (KEEP | 0x200));
		write_pkru(0);
		__asm__ volatile("xrstor %0" : : "m"(area), "a"(0x200), "d"(0));
		check(read_pkru() == rights(9, 3));
	}
	if (r[0] & 4) { /* XGETBV 1: what is in use */
		__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
		check(low & 0x200);
		write_pkru(0);
		__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
		check(!(low & 0x200));
	}
	write_pkru(0);
}

static void large_page(void)
{
	middle[TABLES] = 0x200000 | P | W | U | LARGE | keyed(6);
	target = LARGE_LIN + 0x123000;
	for (unsigned i = 0; i < ROUNDS; i++) {
		write_pkru(rights(6, i % 3));
		check(error_of(do_read) ==
		      (i % 3 == NO_ACCESS ? PF_P | PF_PK : -1));
		check(error_of(do_write) == (i % 3 ? PF_P | PF_W | PF_PK : -1));
	}
	write_pkru(0);
}

/* More pages than anybody remembers one by one. */
static void many_pages(void)
{
	const unsigned n = TABLES * 512;

	for (unsigned i = 0; i < n; i++)
		map(i, P | W | U | keyed(i % 3));
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < n; i++)
			*(volatile u8 *)(TEST_LIN + i * 4096ul) = 0xc3;
		write_pkru(rights(1, NO_ACCESS) | rights(2, NO_WRITE));
		for (unsigned i = 0; i < n; i += 7) {
			target = TEST_LIN + i * 4096ul;
			check(error_of(do_read) ==
			      (i % 3 == 1 ? PF_P | PF_PK : -1));
			check(error_of(do_write) ==
			      (i % 3 ? PF_P | PF_W | PF_PK : -1));
		}
		write_pkru(0);
	}
}

/* What an address space's TLB knows was allowed when it was last current. */
static void other_spaces(void)
{
	u64 cr3 = read_cr(3);
	u32 r[4];

	cpuid(1, 0, r);
	if (!(r[2] & 1u << 17))
		return;
	write_cr4(read_cr(4) | CR4_PCIDE);
	map(0, P | W | U | keyed(4));
	target = TEST_LIN;
	for (unsigned i = 0; i < ROUNDS; i++) {
		write_cr3(cr3 | 1 | KEEP);
		do_write();
		write_cr3(cr3 | 2 | KEEP);
		write_pkru(rights(4, NO_ACCESS));
		write_cr3(cr3 | 1 | KEEP);
		check(error_of(do_read) == (PF_P | PF_PK));
		check(error_of(do_write) == (PF_P | PF_W | PF_PK));
		write_pkru(0);
	}
	write_cr3(cr3);
	write_cr4(read_cr(4) & ~CR4_PCIDE);
}

/* ---- IA32_PKRS ---- */

static void bad_pkrs(void)
{
	wrmsr(PKRS, 1ul << 32);
}

static void super_keys(void)
{
	write_cr4(read_cr(4) | CR4_PKS);
	check(rdmsr(PKRS) == 0);
	check(raised(bad_pkrs) == 13);
	target = TEST_LIN;
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned key = 1 + i % 15, bits = i / 2 % 4;
		bool wp = i & 1, read = !(bits & NO_ACCESS);

		map(0, P | W | keyed(key));
		set_wp(wp);
		do_write();
		write_pkru(~3u);
		wrmsr(PKRS, rights(key, bits));
		check(rdmsr(PKRS) == rights(key, bits));
		check(error_of(do_read) == (read ? -1 : PF_P | PF_PK));
		check(error_of(do_write) ==
		      (read && (!wp || !bits) ? -1 : PF_P | PF_W | PF_PK));
		check(error_of(do_run) == -1);
		/* A user's page is none of PKRS's. */
		map(0, P | W | U | keyed(key));
		write_pkru(0);
		check(error_of(do_write) == -1);
		check(error_of(go_user_write) == -1);
		wrmsr(PKRS, 0);
	}
	set_wp(true);
}

struct {
	u16 limit;
	u64 base;
} __attribute__((packed)) gdt_first, gdt_own;
static u64 own_table[16];

static void load_fs(void)
{
	__asm__ volatile("mov %0, %%fs" : : "r"(0xf)); /* LDT, 8, RPL 3 */
}
static void user_load_fs(void)
{
	load_fs();
	__asm__ volatile("int $0x80");
}
static void go_user_load_fs(void)
{
	call_user(user_load_fs, user_stack + sizeof(user_stack));
}

/* A local descriptor table in a page with a key. */
static void make_ldt(void)
{
	u64 base = TEST_LIN;

	__asm__ volatile("sgdt %0" : "=m"(gdt_first));
	for (unsigned i = 0; i < 11; i++)
		own_table[i] = ((u64 *)gdt_first.base)[i];
	own_table[12] = 0x00008200000000ff | (base & 0xffffff) << 16 |
	                (base >> 24 & 0xff) << 56;
	own_table[13] = base >> 32;
	gdt_own.base = (u64)own_table;
	gdt_own.limit = sizeof(own_table) - 1;
	__asm__ volatile("lgdt %0" : : "m"(gdt_own));
	__asm__ volatile("lldt %w0" : : "r"(12 * 8));
}

/* Descriptors are read as the supervisor, whoever it is for, and written. */
static void implicit_accesses(void)
{
	static const u64 accessed = 0x00cff3000000ffff;

	make_ldt();
	map(0, P | W | keyed(7));
	target = TEST_LIN + 8;
	for (unsigned i = 0; i < ROUNDS; i++) {
		((u64 *)page)[1] = accessed;
		check(error_of(load_fs) == -1);
		wrmsr(PKRS, rights(7, NO_ACCESS));
		check(error_of(load_fs) == (PF_P | PF_PK));
		check(error_of(go_user_load_fs) == (PF_P | PF_PK));
		wrmsr(PKRS, rights(7, NO_WRITE));
		check(error_of(go_user_load_fs) == -1);
		((u64 *)page)[1] = accessed & ~(1ul << 40);
		/* Which of its bytes is written is the processor's affair. */
		check(raised(go_user_load_fs) == 14);
		check(caught.error == (PF_P | PF_W | PF_PK));
		wrmsr(PKRS, 0);
		check(error_of(go_user_load_fs) == -1);
		check(((u64 *)page)[1] == accessed);
	}
	__asm__ volatile("lldt %w0" : : "r"(0));
	__asm__ volatile("lgdt %0" : : "m"(gdt_first));
}

int main(void)
{
	u32 r[4];

	cpuid(7, 0, r);
	if (!(r[2] & 1u << 3) || !(r[2] & 1u << 31)) {
		check(excused("keys"));
		return failures();
	}
	pml4[1] = (u64)top | P | W | U;
	top[0] = (u64)middle | P | W | U;
	for (unsigned i = 0; i < TABLES; i++)
		middle[i] = (u64)table[i] | P | W | U;
	instructions();
	user_keys();
	extended_state();
	large_page();
	many_pages();
	other_spaces();
	super_keys();
	implicit_accesses();
	/* Without the bits in CR4 keys are bits to ignore. */
	write_pkru(~0u & ~3u);
	write_cr4(read_cr(4) & ~(CR4_PKE | CR4_PKS));
	map(0, P | W | U | keyed(7));
	target = TEST_LIN;
	check(error_of(do_write) == -1);
	check(error_of(go_user_write) == -1);
	return failures();
}
