/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that stays: it says that it is up, gives back what is typed, counts
 * lines when "c" is typed, remembers how often "n" was, uses 128 MiB of memory
 * on "m", ends badly on "x", and shuts down when the power button is pressed,
 * unless "d" made it deaf.
 */
#include "../guest/guest.h"

/* ACPI 6.4 section 4.8.3; where the firmware of this board puts the block. */
enum { PM1_STATUS = 0x600, PM1_CONTROL = 0x604 };
enum { USED_FROM = 16 << 20, USED_TO = 144 << 20, PAGE_SIZE = 4096 };
enum { POWER_BUTTON = 1 << 8, SLP_EN = 1 << 13, S5 = 0 << 10 };

static inline u16 inw(u16 port)
{
	u16 v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static void eoi(unsigned vector)
{
	(void)vector;
	LAPIC[0xb0 / 4] = 0;
}

static void sleep_a_bit(void)
{
	LAPIC[0x380 / 4] = 300000;
	__asm__ volatile("sti; hlt; cli");
}

static void use_memory(void)
{
	for (u64 at = USED_FROM; at < USED_TO; at += PAGE_SIZE)
		*(volatile u8 *)at = 1;
	print("all of it is used\n");
}

static void typed(char c, bool *deaf)
{
	static int times;

	if (c == 'n')
		print("n came %d times\n", ++times);
	if (c == 'm')
		use_memory();
	if (c == 'x')
		guest_exit(3); /* 7, as atoll sees it */
	if (c == 'd')
		*deaf = true;
	if (c == 'c')
		for (int i = 0; i < 2000; i++)
			print("line %d of a guest that counts\n", i);
	print("[%d]\n", c);
}

int main(void)
{
	bool deaf = false;

	on_interrupt = eoi;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x80 / 4] = 0;
	LAPIC[0x3e0 / 4] = 3;
	LAPIC[0x320 / 4] = 0x40;
	print("resident is up\n");
	for (;;) {
		while (inb(0x3fd) & 1)
			typed((char)inb(0x3f8), &deaf);
		if ((inw(PM1_STATUS) & POWER_BUTTON) && !deaf) {
			print("going down\n");
			outw(PM1_CONTROL, SLP_EN | S5);
		}
		sleep_a_bit();
	}
}
