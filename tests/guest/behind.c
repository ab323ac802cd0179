/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an instruction of the operating system changes is so for the very next
 * one, in the same run of code, however often that ran before: which code and
 * data the addresses mean, which instructions there are, what traps.
 */
#include "guest.h"

enum {
	P = 1,
	W = 2,
	U = 4,
	GLOBAL = 0x100,
	ROUNDS = 120,
	PATTERN = 8, /* pages whose places are remembered at a time */
	PGE = 1 << 7,
	OSFXSR = 1 << 9,
	PCIDE = 1 << 17,
	SMEP = 1 << 20,
	TS = 1 << 3,
	TF = 1 << 8,
	EFER = 0xc0000080,
};
#define CODE_LIN 0x8000000000ul /* the second line of the PML4 */
#define DATA_LIN (CODE_LIN + 64 * 4096ul)

static u64 top[512] __attribute__((aligned(4096)));
static u64 middle[512] __attribute__((aligned(4096)));
static u64 table[512] __attribute__((aligned(4096)));
/* The same again, for a second address space. */
static u64 other_pml4[512] __attribute__((aligned(4096)));
static u64 other_top[512] __attribute__((aligned(4096)));
static u64 other_middle[512] __attribute__((aligned(4096)));
static u64 other_table[512] __attribute__((aligned(4096)));
static u8 code[2][4096] __attribute__((aligned(4096)));
static u64 data[2][PATTERN][512] __attribute__((aligned(4096)));

typedef u64 routine(u64 a, volatile void *b, u64 c, u64 d);

static bool has(u32 leaf, unsigned reg, unsigned bit)
{
	u32 r[4];

	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}

static void put(u8 *to, const u8 *from, const u8 *end)
{
	while (from < end)
		*to++ = *from++;
}

/* Both pages of code: first, and at the same place 1 or 2 in EAX. */
static routine *make(const u8 *from, const u8 *end)
{
	for (u8 i = 0; i < 2; i++) {
		const u8 tail[] = { 0xb8, (u8)(i + 1), 0, 0, 0, 0xc3 };

		put(code[i], from, end);
		put(code[i] + (end - from), tail, tail + sizeof(tail));
	}
	return (routine *)CODE_LIN;
}

#define ROUTINE(name, text)                                                    \
	extern const u8 name[], name##_end[];                                  \
	__asm__(".section .rodata; " #name ": " text "; " #name "_end: "       \
	        ".previous")

/* ---- where the code lies ---- */

ROUTINE(by_cr3, "mov %rdi, %cr3");
ROUTINE(by_invlpg, "mov %rdi, (%rsi); invlpg (%rip)");
ROUTINE(by_cr4, "mov %rdi, (%rsi); mov %rdx, %cr4; mov %rcx, %cr4");
ROUTINE(by_invpcid, "mov %rdi, (%rsi); invpcid (%rdx), %rcx");

static void map_code(u64 flags)
{
	table[0] = (u64)code[0] | P | W | flags;
	other_table[0] = (u64)code[1] | P | W | flags;
	write_cr4(read_cr(4) ^ PGE);
	write_cr4(read_cr(4) ^ PGE);
}

static void code_by_cr3(u64 bits)
{
	routine *f = make(by_cr3, by_cr3_end);
	u64 here = read_cr(3), there = (u64)other_pml4 | bits;
	unsigned right = 0;

	map_code(0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		right += f(there, NULL, 0, 0) == 2;
		right += f(here, NULL, 0, 0) == 1;
	}
	check(right == 2 * ROUNDS);
	check(f(here, NULL, 0, 0) == 1);
}

static void code_by_pcid(void)
{
	if (!has(1, 2, 17))
		return;
	write_cr4(read_cr(4) | PCIDE);
	code_by_cr3(1);
	/* Without a flush the old place may be meant still, but in the space
	 * that it was so in alone. */
	code_by_cr3(1ul << 63 | 1);
	write_cr4(read_cr(4) & ~(u64)PCIDE);
}

/* The page's entry is another now, and the flush follows. */
static void code_flushed(const char *name, routine *f, u64 flags, u64 c, u64 d)
{
	unsigned right = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		map_code(flags);
		right += f((u64)code[0] | P | W | flags, table, c, d) == 1;
		right += f((u64)code[1] | P | W | flags, table, c, d) == 2;
	}
	if (right != 2 * ROUNDS)
		print("%s: %lu\n", name, (u64)right);
	check(right == 2 * ROUNDS);
}

static void code_by_flush(void)
{
	static u64 descriptor[2];
	u64 cr4 = read_cr(4);

	code_flushed("INVLPG", make(by_invlpg, by_invlpg_end), 0, 0, 0);
	code_flushed("global", make(by_invlpg, by_invlpg_end), GLOBAL, 0, 0);
	code_flushed("PGE", make(by_cr4, by_cr4_end), GLOBAL, cr4 ^ PGE, cr4);
	if (has(7, 1, 10))
		code_flushed("INVPCID", make(by_invpcid, by_invpcid_end),
		             GLOBAL, (u64)descriptor, 2);
}

static routine *gone_code;
static void run_gone(void)
{
	gone_code(0, table, 0, 0);
}
static void run_smep(void)
{
	gone_code(read_cr(4) | SMEP, NULL, 0, 0);
}

ROUTINE(to_cr4, "mov %rdi, %cr4; nop");

/* It may be nowhere, or a user's. */
static void code_gone(void)
{
	unsigned right = 0;

	gone_code = make(by_invlpg, by_invlpg_end);
	for (unsigned i = 0; i < ROUNDS; i++) {
		map_code(0);
		right +=
		    raised(run_gone) == 14 && !(caught.error & 1) &&
		    caught.rip == CODE_LIN + (u64)(by_invlpg_end - by_invlpg);
	}
	check(right == ROUNDS);
	if (!has(7, 1, 7))
		return;
	/* Our own pages are user pages: make the code's supervisor ones. */
	page_directories[0][0] &= ~(u64)U;
	gone_code = make(to_cr4, to_cr4_end);
	for (unsigned i = 0; i < ROUNDS; i++) {
		map_code(U);
		right += raised(run_smep) == 14 && caught.error == 0x11 &&
		         caught.rip == CODE_LIN + 3;
		write_cr4(read_cr(4) & ~(u64)SMEP);
	}
	check(right == 2 * ROUNDS);
	page_directories[0][0] |= U;
	write_cr3(read_cr(3));
}

/* ---- where data lie ---- */

static void map_data(u64 flags)
{
	for (unsigned i = 0; i < PATTERN; i++) {
		table[64 + i] = (u64)data[0][i] | P | W | flags;
		other_table[64 + i] = (u64)data[1][i] | P | W | flags;
	}
	write_cr4(read_cr(4) ^ PGE);
	write_cr4(read_cr(4) ^ PGE);
}

/* Eight pages, each by places of its own, before and behind. */
#define EACH(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7)
#define LOAD(n) "mov " #n "*4096(%%r8), %%r9; lea (%%r9,%%r10), %%r10; "
#define STORE(n) "mov %%r9, " #n "*4096+8(%%r8); lea 0(%%r8), %%r8; "
#define AROUND(instruction)                                                    \
	"mov %[data], %%r8; xor %%r10, %%r10; " EACH(LOAD)                     \
	    EACH(STORE) "mov %%r10, %0; " instruction                          \
			"; xor %%r10, %%r10; " EACH(LOAD)                      \
			    EACH(STORE) "mov %%r10, %1"

/* Our own pages are of all spaces: code is where it was. */
static void own_global(bool on)
{
	for (unsigned i = 0; i < 512; i++)
		if (on)
			page_directories[0][i] |= GLOBAL;
		else
			page_directories[0][i] &= ~(u64)GLOBAL;
	write_cr4(read_cr(4) ^ PGE);
	write_cr4(read_cr(4) ^ PGE);
}

static void data_by_cr3(void)
{
	const u64 space[2] = { read_cr(3), (u64)other_pml4 };
	unsigned right = 0;

	map_data(0);
	for (unsigned i = 0; i < 2 * ROUNDS; i++) {
		u64 before, behind;

		__asm__ volatile(AROUND("mov %2, %%cr3")
		                 : "=&r"(before), "=&r"(behind)
		                 : "r"(space[!(i & 1)]), [data] "r"(DATA_LIN)
		                 : "r8", "r9", "r10", "memory");
		right += before == PATTERN * (1 + (i & 1)) &&
		         behind == PATTERN * (2 - (i & 1));
	}
	check(right == 2 * ROUNDS);
}

/* Page after page moves there, and then back. */
static void data_by_invlpg(u64 flags)
{
	unsigned right = 0, there = 0;

	map_data(flags);
	for (unsigned i = 0; i < 2 * ROUNDS; i++) {
		unsigned n = i % PATTERN;
		bool back = i / PATTERN & 1;
		u64 before, behind, pte = (u64)data[!back][n] | P | W | flags;

		__asm__ volatile(
		    AROUND("mov %2, (%3); invlpg (%4)")
		    : "=&r"(before), "=&r"(behind)
		    : "r"(pte), "r"(&table[64 + n]),
		      "r"(DATA_LIN + n * 4096ul), [data] "r"(DATA_LIN)
		    : "r8", "r9", "r10", "memory");
		right += before == PATTERN + there;
		there = back ? there - 1 : there + 1;
		right += behind == PATTERN + there;
	}
	check(right == 4 * ROUNDS);
}

extern u8 store_behind[];
static void write_protected(void)
{
	__asm__ volatile("movq $1, 16(%0); mov %1, (%2); invlpg (%0); "
	                 "store_behind: movq $2, 16(%0)"
	                 :
	                 : "r"(DATA_LIN), "r"((u64)data[0][0] | P),
	                   "r"(&table[64])
	                 : "memory");
}

static void data_protected(u64 flags)
{
	unsigned right = 0;

	map_data(flags);
	for (unsigned i = 0; i < ROUNDS; i++) {
		data[0][0][2] = 0;
		right += raised(write_protected) == 14 && caught.error == 3 &&
		         caught.rip == (u64)store_behind && data[0][0][2] == 1;
		table[64] = (u64)data[0][0] | P | W | flags;
		invlpg((void *)DATA_LIN);
	}
	check(right == ROUNDS);
}

/* ---- which instructions there are ---- */

extern u8 no_vectors[], no_fxsave[], after_step[], after_break[];

static void vectors_trapped(void)
{
	__asm__ volatile("mov %0, %%cr0; no_vectors: paddq %%xmm0, %%xmm0"
	                 :
	                 : "r"(read_cr(0) | TS));
}
static void vectors_undefined(void)
{
	__asm__ volatile("mov %0, %%cr4; no_fxsave: paddq %%xmm0, %%xmm0"
	                 :
	                 : "r"(read_cr(4) & ~(u64)OSFXSR));
}
static void vectors_allowed(void)
{
	write_cr0(read_cr(0) | TS);
	__asm__ volatile("clts; paddq %%xmm0, %%xmm0" : : : "memory");
}

static void modes(void)
{
	unsigned right = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		right += raised(vectors_trapped) == 7 &&
		         caught.rip == (u64)no_vectors;
		write_cr0(read_cr(0) & ~(u64)TS);
		right += raised(vectors_undefined) == 6 &&
		         caught.rip == (u64)no_fxsave;
		write_cr4(read_cr(4) | OSFXSR);
		right += raised(vectors_allowed) == -1;
	}
	check(right == 3 * ROUNDS);
}

/* SYSCALL goes with EFER.SCE: the WRMSR stands right before it. */
extern u8 no_syscall[];
static void syscall_off(void)
{
	__asm__ volatile("wrmsr; no_syscall: syscall"
	                 :
	                 : "c"(EFER), "a"((u32)rdmsr(EFER) & ~1u),
	                   "d"((u32)(rdmsr(EFER) >> 32))
	                 : "memory");
}

/* ---- what traps ---- */

static void single_step(void)
{
	__asm__ volatile("mov %%rsp, %%rax; mov %%ss, %%ecx; push %%rcx; "
	                 "push %%rax; pushfq; orq %0, (%%rsp); "
	                 "mov %%cs, %%ecx; push %%rcx; "
	                 "lea 1f(%%rip), %%rcx; push %%rcx; iretq; "
	                 "1: nop; after_step: nop; nop"
	                 :
	                 : "i"(TF)
	                 : "rax", "rcx", "cc", "memory");
}
static void breakpoint(void)
{
	__asm__ volatile("mov %0, %%dr0; mov %1, %%dr7; nop; "
	                 "after_break: nop; nop"
	                 :
	                 : "r"(after_break), "r"(2ul)
	                 : "memory");
}

static void traps(void)
{
	unsigned right = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		right +=
		    raised(single_step) == 1 && caught.rip == (u64)after_step;
		__asm__ volatile("pushfq; andl %0, (%%rsp); popfq"
		                 :
		                 : "i"(~TF)
		                 : "cc", "memory");
		right +=
		    raised(breakpoint) == 1 && caught.rip == (u64)after_break;
		__asm__ volatile("mov %0, %%dr7" : : "r"(0ul));
		right +=
		    raised(syscall_off) == 6 && caught.rip == (u64)no_syscall;
		wrmsr(EFER, rdmsr(EFER) | 1);
	}
	check(right == 3 * ROUNDS);
}

/* ---- code that changes behind itself ---- */

/* What follows STOSB or MOVSB begins 5 bytes behind the routine's start, and
 * its immediate with the next byte. */
ROUTINE(store_ahead, "mov %edi, %eax; mov %rsi, %rdi; .org store_ahead + 5; "
                     "stosb; mov $0, %al; ret");
ROUTINE(move_ahead, "xchg %rsi, %rdi; nop; nop; .org move_ahead + 5; "
                    "movsb; mov $0, %al; ret");
/* FXSAVE into the same page, beside it. */
ROUTINE(save_beside, "fxsave64 (%rsi); mov %edi, %eax; ret");

static void own_code(void)
{
	static u8 elsewhere[512] __attribute__((aligned(16)));
	volatile void *ahead = (volatile u8 *)CODE_LIN + 7;
	unsigned right = 0;
	routine *f = NULL;

	map_code(0);
	for (u64 i = 1; i < ROUNDS; i++) {
		bool self = i % 12 == 0;

		if (i % 12 == 1)
			f = make(store_ahead, store_ahead_end);
		right +=
		    (u8)f(i, self ? ahead : elsewhere, 0, 0) == (self ? i : 0);
	}
	for (u64 i = 1; i < ROUNDS; i++) {
		bool self = i % 12 == 0;
		u8 byte = (u8)i;

		if (i % 12 == 1)
			f = make(move_ahead, move_ahead_end);
		right += (u8)f((u64)&byte, self ? ahead : elsewhere, 0, 0) ==
		         (self ? i : 0);
	}
	f = make(save_beside, save_beside_end);
	for (u64 i = 1; i < ROUNDS; i++)
		right += f(i, i % 12 ? elsewhere : (void *)(CODE_LIN + 1024), 0,
		           0) == i;
	check(right == 3 * (ROUNDS - 1));
}

/* ---- flags ---- */

static u64 around(u64 flags)
{
	static u8 area[512] __attribute__((aligned(16)));
	u64 r;

	__asm__ volatile("push %1; popfq; xor %%ecx, %%ecx; push %1; popfq; "
	                 "mov $0x277, %%ecx; rdmsr; wrmsr; invlpg (%2); "
	                 "fxsave64 (%2); fxrstor64 (%2); mov %%ds, %%ecx; "
	                 "mov %%ecx, %%ds; mov %%cr3, %%rcx; mov %%rcx, %%cr3; "
	                 "mov $0, %%eax; cpuid; in $0x80, %%al; "
	                 "pushfq; pop %0"
	                 : "=r"(r)
	                 : "r"(flags), "r"(area)
	                 : "rax", "rbx", "rcx", "rdx", "cc", "memory");
	return r;
}

static void flags_stay(void)
{
	static const u64 status[] = { 0, 1, 4, 0x10, 0x40, 0x80, 0x800, 0x8d5 };
	unsigned right = 0;

	for (unsigned i = 0; i < ROUNDS; i++)
		right += (around(status[i % 8] | 2) & 0x8d5) == status[i % 8];
	check(right == ROUNDS);
}

static void make_spaces(void)
{
	pml4[1] = (u64)top | P | W | U;
	top[0] = (u64)middle | P | W | U;
	middle[0] = (u64)table | P | W | U;
	other_pml4[0] = pml4[0];
	other_pml4[1] = (u64)other_top | P | W | U;
	other_top[0] = (u64)other_middle | P | W | U;
	other_middle[0] = (u64)other_table | P | W | U;
	for (unsigned i = 0; i < PATTERN; i++) {
		data[0][i][0] = 1;
		data[1][i][0] = 2;
	}
	write_cr4(read_cr(4) | PGE);
}

int main(void)
{
	make_spaces();
	code_by_cr3(0);
	code_by_pcid();
	code_by_flush();
	code_gone();
	for (unsigned i = 0; i < 2; i++) {
		own_global(i);
		data_by_cr3();
		data_by_invlpg(i ? GLOBAL : 0);
		data_protected(i ? GLOBAL : 0);
	}
	modes();
	traps();
	if (!excused("own-code"))
		own_code();
	flags_stay();
	return failures();
}
