/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only an operating system asks of a processor, in the middle of code that
 * has everything else in use: registers, flags and vectors stay what they were.
 */
#include "guest.h"

enum { ROUNDS = 300, MSR_PAT = 0x277 };

static u8 area[4096] __attribute__((aligned(64)));
static u8 text[16] = "abcdefghijklmno";

/* Sixteen bits of a selector, and no more. */
static u64 part_of_register(void)
{
	u64 a = 0x1122334455667788, b = a;

	__asm__ volatile("mov %%ss, %w0; mov %1, %%r14; mov %%ss, %%r14w; "
	                 "mov %%r14, %1"
	                 : "+r"(a), "+r"(b)
	                 :
	                 : "r14");
	return a == b && (u16)a != 0x7788 ? a >> 16 : 0;
}

/* Everything that CPUID, MSRs, CR3 and the TLB leave alone. */
static bool registers_stay(void)
{
	u64 cr3 = read_cr(3), pat = rdmsr(MSR_PAT), sum;

	__asm__ volatile(
	    "mov $3, %%r8; mov $5, %%r12; mov $7, %%r13; mov $11, %%r14; "
	    "mov $13, %%r15; mov $17, %%rsi; mov $19, %%rdi; "
	    "mov %1, %%cr3; "
	    "xor %%eax, %%eax; xor %%ecx, %%ecx; cpuid; "
	    "mov %3, %%ecx; mov %k2, %%eax; mov %2, %%rdx; shr $32, %%rdx; "
	    "wrmsr; rdmsr; invlpg (%4); "
	    "lea (%%r8,%%r12), %0; add %%r13, %0; add %%r14, %0; "
	    "add %%r15, %0; add %%rsi, %0; add %%rdi, %0"
	    : "=&r"(sum)
	    : "r"(cr3), "r"(pat), "i"(MSR_PAT), "r"(text)
	    : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r12", "r13",
	      "r14", "r15", "memory");
	return sum == 75 && rdmsr(MSR_PAT) == pat;
}

static u64 vectors_stay(u64 v)
{
	u64 r;

	__asm__ volatile("movq %1, %%xmm5; movq %1, %%xmm6; "
	                 "paddq %%xmm5, %%xmm6; mov %%cr3, %%rax; "
	                 "mov %%rax, %%cr3; paddq %%xmm5, %%xmm6; "
	                 "movq %%xmm6, %0"
	                 : "=r"(r)
	                 : "r"(v)
	                 : "rax", "memory");
	return r;
}

/* What FXSAVE stores is what the code before it left, and comes back. */
static u64 saved_vectors(u64 v)
{
	u64 r;

	__asm__ volatile("movq %1, %%xmm7; fxsave64 (%2); "
	                 "pxor %%xmm7, %%xmm7; fxrstor64 (%2); "
	                 "movq %%xmm7, %0"
	                 : "=r"(r)
	                 : "r"(v), "r"(area)
	                 : "memory");
	return r;
}

/* IRETQ to what follows it, with other flags. */
static u64 return_here(void)
{
	u64 flags;

	__asm__ volatile("mov %%rsp, %%rax; mov %%ss, %%ecx; push %%rcx; "
	                 "push %%rax; pushfq; orq $1, (%%rsp); "
	                 "mov %%cs, %%ecx; push %%rcx; "
	                 "lea 1f(%%rip), %%rcx; push %%rcx; "
	                 "xor %%ecx, %%ecx; iretq; 1: pushfq; pop %0"
	                 : "=r"(flags)
	                 :
	                 : "rax", "rcx", "cc", "memory");
	return flags & 1;
}

static u64 flags_of_nothing(void)
{
	u64 flags;

	__asm__ volatile("mov %1, %%rsi; lea 1(%1), %%rdi; xor %%ecx, %%ecx; "
	                 "cmp %%rcx, %%rcx; stc; repe cmpsb; pushfq; pop %0"
	                 : "=r"(flags)
	                 : "r"(text)
	                 : "rcx", "rsi", "rdi", "cc", "memory");
	return flags & 0x41;
}

static u64 scanned(u8 wanted)
{
	u64 left = sizeof(text);
	u8 *at = text;

	__asm__ volatile("repne scasb"
	                 : "+D"(at), "+c"(left)
	                 : "a"(wanted)
	                 : "cc", "memory");
	return (u64)(at - text);
}

static bool moved(u8 v)
{
	u8 *from = text, *to = area;

	__asm__ volatile("lodsb; movsb; stosb; movsq"
	                 : "+S"(from), "+D"(to)
	                 : "a"(v)
	                 : "memory");
	return area[0] == 'b' && area[1] == 'a' && area[2] == 'c' &&
	       area[9] == 'j' && from == text + 10 && to == area + 10;
}

/* VERR says in ZF alone. */
static u64 verified(void)
{
	u64 flags;

	__asm__ volatile("mov %%ss, %%ecx; xor %%eax, %%eax; stc; inc %%eax; "
	                 "verr %%cx; pushfq; pop %0"
	                 : "=r"(flags)
	                 :
	                 : "rax", "rcx", "cc");
	return flags & 0x41;
}

static void bad_selector(void)
{
	__asm__ volatile("mov $0x123456789, %%r15; mov $0x77, %%ebx; "
	                 "mov %0, %%fs"
	                 :
	                 : "a"(0x1238)
	                 : "rbx", "r15", "memory");
}

static void bad_cr3(void)
{
	__asm__ volatile("mov $0x123456789, %%r15; mov $0x77, %%ebx; "
	                 "mov %0, %%cr3"
	                 :
	                 : "a"(1ul << 62)
	                 : "rbx", "r15", "memory");
}

static void bad_restore(void)
{
	__asm__ volatile("mov $0x987654321, %%r15; fxrstor64 1(%0)"
	                 :
	                 : "a"(area)
	                 : "r15", "memory");
}

int main(void)
{
	for (u64 i = 0; i < ROUNDS && !failures(); i++) {
		check(part_of_register() == 0x112233445566);
		check(registers_stay());
		check(vectors_stay(i) == 3 * i);
		check(saved_vectors(~i) == ~i);
		check(return_here() == 1);
		check(flags_of_nothing() == 0x41);
		check(scanned('e') == 5);
		check(moved((u8)i));
		check(verified() == 0x41);
		check(raised(bad_selector) == 13);
		check(caught.r15 == 0x123456789 && caught.rbx == 0x77);
		check(*(u8 *)caught.rip == 0x8e && caught.error == 0x1238);
		if (!excused("reserved-cr3")) {
			check(raised(bad_cr3) == 13);
			check(caught.r15 == 0x123456789 && caught.rbx == 0x77);
			check(*(u8 *)caught.rip == 0x0f &&
			      ((u8 *)caught.rip)[1] == 0x22);
		}
		check(raised(bad_restore) == 13);
		check(caught.r15 == 0x987654321);
	}
	return failures();
}
