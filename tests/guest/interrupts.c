/* SPDX-License-Identifier: Apache-2.0 */
/* The local APIC's timer, HLT, STI's shadow, TPR, NMI, the PIT through the
 * IOAPIC, single step, and loops that only an interrupt can end. */
#include "guest.h"

static volatile unsigned count, last;

static void eoi_and_count(unsigned vector)
{
	count++;
	last = vector;
	LAPIC[0xb0 / 4] = 0;
}

static void timer(unsigned vector, u32 ticks, bool periodic)
{
	LAPIC[0x3e0 / 4] = 3; /* divide by 16 */
	LAPIC[0x320 / 4] = vector | (periodic ? 1u << 17 : 0);
	LAPIC[0x380 / 4] = ticks;
}

static void enable_apic(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x80 / 4] = 0;
}

static void self_ipi(unsigned vector)
{
	LAPIC[0x300 / 4] = 1u << 18 | vector;
}

static void halts_and_loops(void)
{
	count = 0;
	timer(0x40, 1000, false);
	__asm__ volatile("sti; hlt; cli");
	check(count == 1 && last == 0x40);
	/* No I/O and no HLT: a loop that the engine must get out of. */
	count = 0;
	timer(0x41, 100000, false);
	__asm__ volatile("sti");
	while (!count)
		;
	__asm__ volatile("cli");
	check(last == 0x41);
	/* What goes back is a CALL. */
	count = 0;
	timer(0x43, 100000, false);
	__asm__ volatile("sti\n"
	                 "push %%rax\n"
	                 "jmp 2f\n"
	                 "1:	cmpl $0, %0\n"
	                 "	jne 3f\n"
	                 "	add $8, %%rsp\n"
	                 "2:	call 1b\n"
	                 "3:	pop %%rax\n"
	                 "	pop %%rax\n"
	                 "	cli"
	                 :
	                 : "m"(count)
	                 : "rax", "memory");
	check(last == 0x43);
	/* Registers and flags survive a storm of interrupts. */
	count = 0;
	timer(0x42, 2000, true);
	u64 a = 0, b = 1;
	__asm__ volatile("sti");
	for (u64 i = 0; i < 3000000 || count < 5; i++) {
		u64 t = a + b;

		a = b;
		b = t * 3 + (t >> 7);
		__asm__ volatile("stc; inc %0; dec %0; adc $0, %0"
		                 : "+r"(a)
		                 :
		                 : "cc");
		a--;
	}
	__asm__ volatile("cli");
	timer(0x42, 0, false);
	/* One may wait already: let it come now. */
	__asm__ volatile("sti; nop; nop; cli");
	u64 c = 0, d = 1;
	for (u64 i = 0; i < 1000; i++) {
		u64 t = c + d;

		c = d;
		d = t * 3 + (t >> 7);
	}
	check(c != 0);
}

static void shadow_and_priority(void)
{
	u64 flags;

	count = 0;
	self_ipi(0x50);
	/* One instruction runs after STI before the interrupt. */
	__asm__ volatile("sti; cli; pushf; pop %0" : "=r"(flags));
	check(count == 0 && !(flags & 0x200));
	__asm__ volatile("sti; nop; cli");
	check(count == 1);
	/* TPR holds it back, CR8 is the same register. */
	LAPIC[0x80 / 4] = 0x60;
	count = 0;
	self_ipi(0x55);
	__asm__ volatile("sti; nop; nop; cli");
	check(count == 0);
	__asm__ volatile("mov %0, %%cr8" : : "r"(0ul));
	check(LAPIC[0x80 / 4] == 0);
	__asm__ volatile("sti; nop; nop; cli");
	check(count == 1 && last == 0x55);
}

static void pit_through_ioapic(void)
{
	IOAPIC[0] = 0x10 + 2 * 2;
	IOAPIC[4] = 0x61; /* edge, physical, to us */
	IOAPIC[0] = 0x11 + 2 * 2;
	IOAPIC[4] = LAPIC[0x20 / 4] & 0xff000000;
	count = 0;
	outb(0x43, 0x34); /* channel 0, rate generator */
	outb(0x40, 0x00);
	outb(0x40, 0x10);
	__asm__ volatile("sti");
	while (count < 3)
		__asm__ volatile("hlt");
	__asm__ volatile("cli");
	check(last == 0x61);
	IOAPIC[0] = 0x10 + 2 * 2;
	IOAPIC[4] = 1u << 16;
}

static void trap_flag(void)
{
	__asm__ volatile("pushf; orl $0x100, (%%rsp); popf; nop; nop"
	                 :
	                 :
	                 : "memory");
}

int main(void)
{
	on_interrupt = eoi_and_count;
	enable_apic();
	halts_and_loops();
	shadow_and_priority();
	pit_through_ioapic();
	check(raised(trap_flag) == 1);
	__asm__ volatile("pushf; andl $~0x100, (%%rsp); popf" : : : "memory");
	return failures();
}
