/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that uses all its processors: "s" lets them spin, "i" has them idle,
 * and it says which when they do. It begins idle, with all of them up.
 */
#include "../guest/guest.h"

extern u8 ap_start[], ap_end[];
enum { AP_PAGE = 0x8000, WORK = 2000000, VECTOR = 0x40 };

static volatile bool spinning;

static void eoi(unsigned vector)
{
	(void)vector;
	LAPIC[0xb0 / 4] = 0;
}

/* Arithmetic: pausing would tell the host that it may have the processor. */
static void work(void)
{
	for (volatile unsigned i = 0; i < WORK; i++)
		;
}

/* A timer of its own wakes each, so that none waits for another. */
static void sleep_a_bit(void)
{
	LAPIC[0x380 / 4] = 300000;
	__asm__ volatile("sti; hlt; cli");
}

static void start_timer(void)
{
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x80 / 4] = 0;
	LAPIC[0x3e0 / 4] = 3;
	LAPIC[0x320 / 4] = VECTOR;
}

static void do_as_told(void)
{
	if (spinning)
		work();
	else
		sleep_a_bit();
}

void ap_main(void)
{
	start_timer();
	for (;;)
		do_as_told();
}

static void wait_ticks(u64 n)
{
	for (u64 end = rdtsc() + n; rdtsc() < end;)
		__asm__ volatile("pause");
}

static void start_others(void)
{
	for (u8 *p = ap_start; p < ap_end; p++)
		((u8 *)AP_PAGE)[p - ap_start] = *p;
	LAPIC[0x300 / 4] = 0xc4500; /* INIT, all but self */
	wait_ticks(20000000);
	LAPIC[0x300 / 4] = 0xc4600 | AP_PAGE >> 12;
	while (!ap_count)
		sleep_a_bit();
}

int main(void)
{
	char c;

	on_interrupt = eoi;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	start_timer();
	start_others();
	print("up\n");
	for (;;) {
		while (inb(0x3fd) & 1) {
			c = (char)inb(0x3f8);
			spinning = c == 's';
			print(spinning ? "told s\n" : "told i\n");
		}
		do_as_told();
	}
}
