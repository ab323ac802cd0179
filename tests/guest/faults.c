/* SPDX-License-Identifier: Apache-2.0 */
/* Each exception, with the error code and the RIP that hardware gives. */
#include "guest.h"

static void divide(void)
{
	__asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx"
	                 :
	                 :
	                 : "eax", "ecx", "edx");
}
static void undefined(void)
{
	__asm__ volatile("ud2");
}
static void breakpoint(void)
{
	__asm__ volatile("int3");
}
static void bad_selector(void)
{
	__asm__ volatile("mov %0, %%fs" : : "r"(0x1238));
}
static void non_canonical(void)
{
	*(volatile u64 *)0x8000000000000000 = 1;
}
static void non_canonical_stack(void)
{
	__asm__ volatile("push %%rbp; mov %0, %%rbp; mov (%%rbp), %%rax; "
	                 "pop %%rbp"
	                 :
	                 : "r"(0x8000000000000000)
	                 : "rax");
}
static void bad_msr(void)
{
	rdmsr(0xdeadbeef);
}
static void misaligned_sse(void)
{
	static u8 buf[32] __attribute__((aligned(16)));

	__asm__ volatile("movaps (%0), %%xmm0" : : "r"(buf + 1));
}
static void divide_overflow(void)
{
	__asm__ volatile("idivl %%ecx"
	                 :
	                 : "a"(0x80000000), "d"(0xffffffff), "c"(-1));
}
static void reserved_cr4(void)
{
	write_cr4(read_cr(4) | 1ul << 63);
}
static void reserved_cr4_low(void)
{
	write_cr4(read_cr(4) | 1ul << 15);
}
static void simd(void)
{
	u32 mxcsr = 0x1f80 & ~(1u << 9);
	double zero = 0;

	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	__asm__ volatile("divsd %1, %%xmm0; divsd %1, %%xmm0"
	                 :
	                 : "m"(mxcsr), "m"(zero));
}

/*
 * Transfers to no address: the instruction itself faults, RSP is as before
 * it; also once a translator has seen them often.
 */
u64 nowhere = 0x8000000000000000, stack_before, stack_words[1024];
extern u8 bad_ret[], bad_ret_more[], bad_jmp[], bad_jmp_mem[], bad_call[],
    bad_call_mem[];

#define TRANSFER(name, insn)                                                   \
	static void do_##name(void)                                            \
	{                                                                      \
		__asm__ volatile("mov nowhere, %%rax\n"                        \
		                 "mov %%rsp, %%rcx\n"                          \
		                 "mov $stack_words + 8000, %%rsp\n"            \
		                 "mov %%rsp, stack_before\n" #name ":\n" insn  \
		                 "\n"                                          \
		                 "mov %%rcx, %%rsp\n"                          \
		                 :                                             \
		                 :                                             \
		                 : "rax", "rcx", "memory");                    \
	}
TRANSFER(bad_ret, "ret")
TRANSFER(bad_ret_more, "ret $24")
TRANSFER(bad_jmp, "jmp *%%rax")
TRANSFER(bad_jmp_mem, "jmp *nowhere")
TRANSFER(bad_call, "call *%%rax")
TRANSFER(bad_call_mem, "call *nowhere")

static void transfers(void)
{
	static const struct {
		void (*fn)(void);
		const u8 *at;
	} each[] = {
		{ do_bad_ret, bad_ret },   { do_bad_ret_more, bad_ret_more },
		{ do_bad_jmp, bad_jmp },   { do_bad_jmp_mem, bad_jmp_mem },
		{ do_bad_call, bad_call }, { do_bad_call_mem, bad_call_mem },
	};

	for (unsigned i = 0; i < 30; i++)
		for (unsigned k = 0; k < sizeof(each) / sizeof(each[0]); k++) {
			stack_words[1000] = nowhere;
			check(raised(each[k].fn) == 13);
			check(caught.error == 0);
			check(caught.rip == (u64)each[k].at);
			check(caught.rsp == stack_before);
		}
}

int main(void)
{
	u32 mxcsr = 0x1f80;
	double one = 1;

	check(raised(divide) == 0);
	check(*(u8 *)caught.rip == 0xf7);
	check(raised(divide_overflow) == 0);
	check(raised(undefined) == 6);
	check(caught.rip == (u64)undefined || *(u16 *)caught.rip == 0x0b0f);
	check(raised(breakpoint) == 3);
	check(*(u8 *)(caught.rip - 1) == 0xcc);
	check(raised(bad_selector) == 13);
	check(caught.error == 0x1238);
	check(raised(non_canonical) == 13);
	check(caught.error == 0);
	if (!excused("non-canonical-stack"))
		check(raised(non_canonical_stack) == 12);
	if (!excused("bad-msr"))
		check(raised(bad_msr) == 13);
	check(raised(misaligned_sse) == 13);
	if (!excused("reserved-cr4-low"))
		check(raised(reserved_cr4_low) == 13);
	if (!excused("reserved-cr4-high"))
		check(raised(reserved_cr4) == 13);
	__asm__ volatile("movsd %0, %%xmm0" : : "m"(one));
	if (!excused("simd"))
		check(raised(simd) == 19);
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	if (!excused("transfers"))
		transfers();
	return failures();
}
