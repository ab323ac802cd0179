/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit code under a 64-bit kernel, in both rings, often enough to be
 * translated: calls on stacks that lie over the end of a page, segments with a
 * base and with a limit, addresses that go round 4 GiB, faults in the middle,
 * code that is changed, and what only 32-bit code can say.
 */
#include "guest.h"

enum { P = 1, W = 2, ROUNDS = 200, DEPTH = 40, WORDS = 1024 };
enum { CODE32 = 0x18, SEL_BASE = 0x58, SEL_LIMIT = 0x60, LIMIT = 0x7ff };
#define TOP 0xfffff000u
#define GATE 0xffffd000u

extern u64 gdt[];
static u64 descriptors[16] __attribute__((aligned(16)));
static u64 table[512] __attribute__((aligned(4096)));
static u8 top_page[4096] __attribute__((aligned(4096)));
static u32 words[WORDS] __attribute__((aligned(4096)));
static u8 stack[3 * 4096] __attribute__((aligned(4096)));

/* What each of these takes and leaves is said where it is called. */
extern u8 climb[], sum_base[], sum_limit[], read_around[], call_around[],
    patched[], patch[], adjusted[], kept_carry[], frames[], shorts[],
    between_pushes[], user64[];
u32 entry_esp, around, gate_at = GATE, user_sum;
struct {
	u32 offset;
	u16 selector;
} __attribute__((packed)) far, user_far;

__asm__(".code32\n"
        /* n + (2n + 1), and so on down to 0, in EAX */
        "climb: call 1f; lret\n"
        "1: push %ebx; push %ebp; push %esi\n"
        "mov %edi, %ebx; lea 1(%edi,%edi), %ebp; xor %esi, %esi\n"
        "test %edi, %edi; je 2f\n"
        "dec %edi; call 1b; add %eax, %esi\n"
        "2: lea (%ebx,%ebp), %eax; add %esi, %eax\n"
        "pop %esi; pop %ebp; pop %ebx; ret\n"
        /* EDI words of FS from its end on, and those before its base */
        "sum_base: xor %eax, %eax; mov %edi, %ecx\n"
        "1: add %fs:-4(,%ecx,4), %eax\n"
        "dec %ecx; jne 1b; mov %edi, %ecx; neg %ecx\n"
        "1: sub %fs:(,%ecx,4), %eax\n"
        "inc %ecx; jne 1b; mov %fs:0xfffffffc, %edx; lret\n"
        /* EDI words of GS, where the limit may be in the way */
        "sum_limit: xor %eax, %eax; xor %ecx, %ecx\n"
        "1: add %gs:(,%ecx,4), %eax; inc %ecx\n"
        "cmp %edi, %ecx; jb 1b; lret\n"
        "read_around: mov $0x10, %ebx; mov -0x20(%ebx), %eax\n"
        "mov $0x80000000, %ecx; add 0x7ffffff4(%ebx,%ecx), %eax; lret\n"
        "call_around: mov around, %ecx; mov %edi, %eax; call *%ecx; lret\n"
        ".globl add_three\n"
        "add_three: add $3, %eax; ret\n"
        "patched: mov $0x11111111, %eax; lret\n"
        "patch: mov %edi, patched + 1; lret\n"
        /* DAA, AAM and kin of AL */
        "adjusted: mov %edi, %eax; add $0, %al; daa; mov %al, %dl\n"
        "mov %edi, %eax; aam $10; mov %eax, %ecx; aad $10\n"
        "cmp %edi, %eax; jne 1f; movzx %dl, %eax; lret\n"
        "1: mov $-1, %eax; lret\n"
        /* INC and DEC of one byte keep the carry */
        "kept_carry: mov %edi, %ecx; xor %eax, %eax; xor %edx, %edx\n"
        "1: stc; .byte 0x40; adc $0, %edx; clc; .byte 0x49; jne 1b\n"
        "shl $16, %edx; or %edx, %eax; lret\n"
        /* ENTER, LEAVE, PUSHA, POPA */
        "frames: enter $16, $0; mov %edi, -4(%ebp); mov %edi, %eax; pusha\n"
        "mov $1, %eax; mov $2, %edi; add %eax, 28(%esp); popa\n"
        "add -4(%ebp), %eax; leave; lret\n"
        /* MOV with an address, both ways */
        "shorts: mov %edi, %eax; .byte 0xa3; .long words\n"
        "mov $0, %eax; .byte 0xa0; .long words; movzx %al, %eax\n"
        ".byte 0x66, 0xa1; .long words + 2; lret\n"
        "between_pushes: mov gate_at, %eax; mov %esp, entry_esp\n"
        "push %ebx; push %ebp; mov (%eax), %ecx; push %esi\n"
        "pop %esi; pop %ebp; pop %ebx; lret\n"
        /* In ring 3; interrupt 80h ends it */
        "user32: push $0x33; pop %ds; push $0x33; pop %es\n"
        "xor %eax, %eax; mov $1000, %ecx\n"
        "1: push %ecx; add (%esp), %eax; pop %edx; loop 1b\n"
        "mov %eax, user_sum; int $0x80\n"
        ".code64\n"
        "user64: ljmp *user_far\n");
extern u8 user32[], add_three[];

/* EDI is n; what it leaves in EAX. */
static u32 call32(const u8 *code, u32 n, void *sp)
{
	u64 a, d = n;

	far.offset = (u32)(u64)code;
	far.selector = CODE32;
	__asm__ volatile("mov %%rsp, %%r12; mov %2, %%rsp; lcall *far\n"
	                 "mov %%r12, %%rsp"
	                 : "=a"(a), "+D"(d)
	                 : "r"(sp)
	                 : "rbx", "rcx", "rdx", "rsi", "rbp", "r8", "r9", "r10",
	                   "r11", "r12", "memory", "cc");
	return (u32)a;
}

static u32 run(const u8 *code, u32 n)
{
	return call32(code, n, stack + sizeof(stack) - 64);
}

/* At every place that the end of a page can have in a frame. */
static void over_pages(void)
{
	for (unsigned place = 0; place < 40; place++)
		for (unsigned i = 0; i < ROUNDS; i++) {
			u32 n = i % DEPTH;

			check(call32(climb, n,
			             stack + 2 * 4096 + 16 * 20 + 4 * place) ==
			      3 * n * (n + 1) / 2 + n + 1);
		}
}

static void set_segment(unsigned selector, u32 base, u64 limit)
{
	u64 pages = limit >> 20 ? 1 : 0;

	if (pages)
		limit >>= 12;
	descriptors[selector / 8] =
	    (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)0xf3 << 40 |
	    (limit >> 16) << 48 | (pages << 3 | 4) << 52 |
	    (u64)(base >> 24) << 56;
}

static void load_segments(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed))
	p = { sizeof(descriptors) - 1, (u64)descriptors };

	for (unsigned i = 0; i < SEL_BASE / 8; i++)
		descriptors[i] = gdt[i];
	set_segment(SEL_BASE, (u32)(u64)(words + WORDS / 2), 0xffffffff);
	set_segment(SEL_LIMIT, (u32)(u64)words, LIMIT);
	__asm__ volatile("lgdt %0" : : "m"(p));
	__asm__ volatile("mov %w0, %%fs; mov %w1, %%gs"
	                 :
	                 : "r"(SEL_BASE), "r"(SEL_LIMIT));
}

static void past_limit(void)
{
	run(sum_limit, LIMIT / 4 + 2);
}

static void segments(void)
{
	u32 half = WORDS / 2, above = 0, below = 0, limited = 0;

	load_segments();
	for (u32 i = 0; i < WORDS; i++)
		words[i] = i * 2654435761u;
	for (u32 i = 0; i < half; i++) {
		above += words[half + i];
		below += words[half - 1 - i];
	}
	for (u32 i = 0; i < (LIMIT + 1) / 4; i++)
		limited += words[i];
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(run(sum_base, half) == above - below);
		check(run(sum_limit, (LIMIT + 1) / 4) == limited);
	}
	if (excused("limits"))
		return;
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(raised(past_limit) == 13);
		check(caught.rcx == (LIMIT + 1) / 4 && caught.cs == CODE32);
		check((u32)caught.rax == limited);
	}
}

static void map_top(void)
{
	for (u64 i = 0; i < 512; i++)
		table[i] = 0;
	table[511] = (u64)top_page | P | W;
	page_directories[3][511] = (u64)table | P | W;
	write_cr3(read_cr(3));
}

static void jump_to(u8 *p, u32 from, const u8 *to)
{
	u32 rel = (u32)(u64)to - (from + 5);

	p[0] = 0xe9;
	__builtin_memcpy(p + 1, &rel, 4);
}

static void round_the_end(void)
{
	volatile u64 low = 4;
	u32 a = 0x12345678, b;

	map_top();
	b = *(volatile u32 *)low;
	__builtin_memcpy(top_page + 0xff0, &a, 4);
	/* inc %eax; jmp add_three */
	top_page[0x800] = 0x40;
	jump_to(top_page + 0x801, TOP + 0x801, add_three);
	around = TOP + 0x800;
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(run(read_around, 0) == a + b);
		check(run(call_around, i) == i + 4);
	}
}

static void faulting(void)
{
	run(between_pushes, 0);
}

static void faults(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		check(raised(faulting) == 14);
		check(caught.rsp == entry_esp - 8 && read_cr(2) == GATE);
	}
}

static void changes(void)
{
	for (u32 i = 0; i < ROUNDS; i++) {
		u32 v = i / 20 * 77;

		if (i % 20 == 0)
			run(patch, v);
		check(run(patched, 0) == v);
	}
}

static u32 decimal(u32 al)
{
	u32 v = al;

	if ((al & 15) > 9)
		v += 6;
	if (al > 0x99)
		v += 0x60;
	return v & 0xff;
}

static void special(void)
{
	for (u32 i = 0; i < ROUNDS; i++) {
		check(run(adjusted, i) == decimal(i));
		check(run(kept_carry, i + 1) == ((i + 1) << 16 | (i + 1)));
		check(run(frames, i) == 2 * i + 1);
		check(run(shorts, i << 16 | 5) == i);
	}
}

static void user(void)
{
	/* Its pages are the user's already: all of them are. */
	user_far.offset = (u32)(u64)user32;
	user_far.selector = 0x23;
	for (unsigned i = 0; i < ROUNDS; i++) {
		user_sum = 0;
		call_user((void (*)(void))(u64)user64,
		          stack + sizeof(stack) - 64);
		check(user_sum == 500500);
	}
}

int main(void)
{
	over_pages();
	segments();
	round_the_end();
	faults();
	changes();
	special();
	user();
	print("compat: %lu failures\n", (u64)failures());
	return failures();
}
