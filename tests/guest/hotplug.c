/* SPDX-License-Identifier: Apache-2.0 */
/* Processors that are not there don't start, and those that come do, as the
 * register block says and its general event tells. */
#include "guest.h"

extern u8 ap_start[], ap_end[];
enum { AP_PAGE = 0x8000, LAST = 3 };
enum { GPE_STATUS = 0x620, GPE_CPU = 1 << 2 };
enum { SELECTOR = 0xcd8, FLAGS = 0xcdc, COMMAND = 0xcdd, DATA = 0xce0 };
enum { ENABLED = 1, INSERTED = 2 };

static volatile u64 counted[64];

void ap_main(void)
{
	u32 id = LAPIC[0x20 / 4] >> 24;

	for (;;)
		counted[id]++;
}

static void spin(u64 n)
{
	for (u64 end = rdtsc() + n; rdtsc() < end;)
		__asm__ volatile("pause");
}

/* Without a shorthand: those that run already are not to start anew. */
static void start_all(void)
{
	for (u32 id = ap_count + 1; id < 4; id++) {
		LAPIC[0x310 / 4] = id << 24;
		LAPIC[0x300 / 4] = 0x4500; /* INIT */
		spin(20000000);
		LAPIC[0x310 / 4] = id << 24;
		LAPIC[0x300 / 4] = 0x4600 | AP_PAGE >> 12;
		spin(50000000);
	}
}

static u32 enabled(void)
{
	u32 n = 0;

	for (u32 id = 0; id < 8; id++) {
		outl(SELECTOR, id);
		n += inb(FLAGS) & ENABLED;
	}
	return n;
}

/* Those of which the guest has yet to hear, each once. */
static u32 events(void)
{
	u32 found = 0;

	outl(SELECTOR, 0);
	for (outb(COMMAND, 0); inb(FLAGS) & INSERTED; outb(COMMAND, 0)) {
		found |= 1 << inl(DATA);
		outb(FLAGS, INSERTED);
	}
	return found;
}

static void all_count(void)
{
	for (u32 id = 1; id <= ap_count; id++) {
		u64 before = counted[id];

		while (counted[id] == before)
			__asm__ volatile("pause");
	}
}

int main(void)
{
	u32 heard = 0;

	LAPIC[0xf0 / 4] = 0x1ff;
	for (u8 *p = ap_start; p < ap_end; p++)
		((u8 *)AP_PAGE)[p - ap_start] = *p;
	check(enabled() == 1);
	check(events() == 0);
	start_all();
	check(ap_count == 0);
	print("alone\n");
	while (ap_count + 1 < LAST) {
		while (!(inb(GPE_STATUS) & GPE_CPU))
			__asm__ volatile("pause");
		outb(GPE_STATUS, GPE_CPU);
		heard |= events();
		check(heard == (1u << enabled()) - 2);
		start_all();
		check(ap_count + 1 == enabled());
		all_count();
		print("there are %lu\n", (u64)ap_count + 1);
	}
	/* One may still be missing: it can't be started. */
	check(enabled() == LAST);
	spin(20000000);
	all_count();
	print("done\n");
	return failures();
}
