/* SPDX-License-Identifier: Apache-2.0 */
/* x87, SSE and AVX state, and that interrupts and faults leave it alone. */
#include "guest.h"

static u8 area[1024] __attribute__((aligned(64)));

static void x87(void)
{
	double pi, two = 2;
	u16 cw = 0x37f, status;

	__asm__ volatile("fninit; fldcw %0" : : "m"(cw));
	__asm__ volatile("fldpi; fmull %1; fstpl %0" : "=m"(pi) : "m"(two));
	check(*(u64 *)&pi == 0x401921fb54442d18);
	__asm__ volatile("fnstsw %0" : "=a"(status));
	check((status & 0x3800) == 0);
}

static void sse(void)
{
	u64 a[2] __attribute__((aligned(16))) = { 1, 2 }, b[2];

	__asm__ volatile("movdqa %1, %%xmm7; paddq %%xmm7, %%xmm7; "
	                 "movdqu %%xmm7, %0"
	                 : "=m"(b)
	                 : "m"(a)
	                 : "xmm7");
	check(b[0] == 2 && b[1] == 4);
}

static void avx(void)
{
	u32 r[4];
	u64 in[4] = { 1, 2, 3, 4 }, out[4] = { 0 };

	cpuid(1, 0, r);
	if (!(r[2] & 1u << 28) || !(r[2] & 1u << 26))
		return;
	write_cr4(read_cr(4) | 1ul << 18);
	__asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
	__asm__ volatile("vmovdqu %1, %%ymm3; vmovdqu %%ymm3, %0"
	                 : "=m"(out)
	                 : "m"(in)
	                 : "xmm3");
	check(out[3] == 4);
	__asm__ volatile("xsave (%0)" : : "r"(area), "a"(7), "d"(0) : "memory");
	check(*(u64 *)(area + 160 + 3 * 16) == 1);
	check(*(u64 *)(area + 576 + 3 * 16 + 8) == 4);
	__asm__ volatile("vpxor %%xmm3, %%xmm3, %%xmm3" : : : "xmm3");
	__asm__ volatile("xrstor (%0)" : : "r"(area), "a"(7), "d"(0));
	__asm__ volatile("vmovdqu %%ymm3, %0" : "=m"(out));
	check(out[0] == 1 && out[3] == 4);
}

static volatile unsigned hits;

static void clobber(unsigned vector)
{
	(void)vector;
	hits++;
	LAPIC[0xb0 / 4] = 0;
}

/* Sums in vector registers while a timer fires. */
static void sums(void)
{
	double sum = 0;

	on_interrupt = clobber;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x3e0 / 4] = 3;
	LAPIC[0x320 / 4] = 0x40 | 1u << 17;
	LAPIC[0x380 / 4] = 5000;
	__asm__ volatile("sti");
	for (unsigned i = 0; i < 200000 || hits < 3; i++) {
		sum = i < 200000 ? sum + (double)i : sum;
	}
	__asm__ volatile("cli");
	LAPIC[0x380 / 4] = 0;
	check(sum == 199999.0 * 100000.0);
}

static void no_fpu(void)
{
	__asm__ volatile("movaps %%xmm0, %%xmm1" : : : "xmm1");
}

int main(void)
{
	x87();
	sse();
	avx();
	sums();
	write_cr0(read_cr(0) | 8); /* TS */
	check(raised(no_fpu) == 7);
	write_cr0(read_cr(0) & ~8ul);
	check(raised(no_fpu) == -1);
	return failures();
}
