/* SPDX-License-Identifier: Apache-2.0 */
/* Application processors come up, count together, take IPIs, and change code
 * under each other's feet. */
#include "guest.h"

extern u8 ap_start[], ap_end[];
enum { AP_PAGE = 0x8000, ROUNDS = 100000 };

static volatile u32 go, done, ipis, stop_loop;
static volatile u64 counter, wide[2] __attribute__((aligned(16)));
static u8 code[4096] __attribute__((aligned(4096)));

static void count_up(void)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		__asm__ volatile("lock incq %0" : "+m"(counter) : : "cc");
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		u64 old = wide[0], high = wide[1];
		bool ok;

		do
			__asm__ volatile("lock cmpxchg16b %1; sete %0"
			                 : "=q"(ok), "+m"(wide[0]), "+a"(old),
			                   "+d"(high)
			                 : "b"(old + 1), "c"(high + 2)
			                 : "memory", "cc");
		while (!ok);
	}
}

static void take(unsigned vector)
{
	(void)vector;
	__asm__ volatile("lock incl %0" : "+m"(ipis));
	LAPIC[0xb0 / 4] = 0;
}

void ap_main(void)
{
	LAPIC[0xf0 / 4] = 0x1ff;
	while (!go)
		__asm__ volatile("pause");
	count_up();
	__asm__ volatile("lock incl %0; sti" : "+m"(done));
	/* Runs what the first processor writes. */
	while (!stop_loop)
		((u32(*)(void))(u64)code)();
	__asm__ volatile("lock incl %0" : "+m"(done));
	for (;;)
		__asm__ volatile("hlt");
}

static void spin(u64 n)
{
	for (u64 end = rdtsc() + n; rdtsc() < end;)
		__asm__ volatile("pause");
}

int main(void)
{
	u32 others;

	on_interrupt = take;
	LAPIC[0xf0 / 4] = 0x1ff;
	for (u8 *p = ap_start; p < ap_end; p++)
		((u8 *)AP_PAGE)[p - ap_start] = *p;
	code[0] = 0xb8;
	code[5] = 0xc3;
	LAPIC[0x300 / 4] = 0xc4500; /* INIT, all but self */
	spin(20000000);
	LAPIC[0x300 / 4] = 0xc4600 | AP_PAGE >> 12;
	/* A busy host starts them one after the other: until no more come. */
	do {
		others = ap_count;
		spin(100000000);
	} while (others != ap_count);
	print("%lu application processors\n", (u64)others);
	go = 1;
	count_up();
	while (done < others)
		__asm__ volatile("pause");
	check(counter == (u64)ROUNDS * (others + 1));
	check(wide[0] == (u64)(ROUNDS / 10) * (others + 1));
	check(wide[1] == 2ul * (ROUNDS / 10) * (others + 1));
	for (unsigned i = 0; i < 1000; i++)
		*(volatile u32 *)(code + 1) = i;
	LAPIC[0x300 / 4] = 0xc0000 | 0x70; /* fixed, all but self */
	while (ipis < others)
		__asm__ volatile("pause");
	stop_loop = 1;
	while (done < 2 * others)
		__asm__ volatile("pause");
	check(ipis == others);
	return failures();
}
