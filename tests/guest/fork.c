/* SPDX-License-Identifier: Apache-2.0 */
/* Does what it is told, byte by byte, and says what it finds: who it is, what
 * its memory holds. Copies of it are told different things (tests/e2e/fork.py).
 *
 *	w X  writes X all over 8 MiB of memory     r  what stands there
 *	m    the address of its network card       v  its VM generation
 *	q    ends */
#include "guest.h"

#define FILL ((volatile u64 *)0x1000000)
#define GENERATION ((volatile u8 *)0xff000)

enum { WORDS = 8 << 17 /* 8 MiB */ };
enum { VENDOR = 0x1af4, NET_DEVICE = 0x1041, BAR = 4, CAP_DEVICE = 4 };

static u32 pci_read(u32 at)
{
	outl(0xcf8, 0x80000000 | (at & ~3u));
	return inl(0xcfc);
}

static void pci_write(u32 at, u32 v)
{
	outl(0xcf8, 0x80000000 | (at & ~3u));
	outl(0xcfc, v);
}

static u8 pci_byte(u32 at)
{
	return (u8)(pci_read(at) >> (at & 3) * 8);
}

static volatile u8 *net_config(void)
{
	for (u32 dev = 0; dev < 32 << 11; dev += 1 << 11) {
		u64 bar;

		if (pci_read(dev) != (VENDOR | (u32)NET_DEVICE << 16))
			continue;
		pci_write(dev | 4, pci_read(dev | 4) | 6);
		bar = (pci_read(dev | (0x10 + 4 * BAR)) & ~0xfu) |
		      (u64)pci_read(dev | (0x14 + 4 * BAR)) << 32;
		for (u8 at = pci_byte(dev | 0x34); at;
		     at = pci_byte(dev | (at + 1u)))
			if (pci_byte(dev | at) == 9 &&
			    pci_byte(dev | (at + 3u)) == CAP_DEVICE)
				return (volatile u8 *)bar +
				       pci_read(dev | (at + 8u));
	}
	return 0;
}

static void print_byte(u8 b)
{
	char text[3] = { "0123456789abcdef"[b >> 4], "0123456789abcdef"[b & 15],
		         0 };

	print(text);
}

static void print_bytes(const volatile u8 *p, unsigned n)
{
	for (unsigned i = 0; p && i < n; i++)
		print_byte(p[i]);
	print("\n");
}

static void tick(unsigned vector)
{
	(void)vector;
	LAPIC[0xb0 / 4] = 0;
}

/* Many copies wait at once: none may keep a processor busy. */
static void start_ticks(void)
{
	on_interrupt = tick;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x3e0 / 4] = 3; /* divide by 16 */
	LAPIC[0x320 / 4] = 0x40 | 1u << 17;
	LAPIC[0x380 / 4] = 1250000; /* 20 ms */
}

static u8 typed(void)
{
	while (!(inb(0x3fd) & 1))
		__asm__ volatile("sti; hlt; cli");
	return inb(0x3f8);
}

static void fill(u8 what)
{
	for (u64 i = 0; i < WORDS; i++)
		FILL[i] = what * 0x0101010101010101u + i;
}

/* What was written, or 0 if it is not the same everywhere. */
static u8 look(void)
{
	u8 what = (u8)FILL[0];

	for (u64 i = 0; i < WORDS; i++)
		if (FILL[i] != what * 0x0101010101010101u + i)
			return 0;
	return what;
}

int main(void)
{
	u8 what;

	fill('0');
	start_ticks();
	print("ready\n");
	for (;;) {
		switch (typed()) {
		case 'w':
			fill(typed());
			print("written\n");
			break;
		case 'r':
			what = look();
			print_bytes(&what, 1);
			break;
		case 'm':
			print_bytes(net_config(), 6);
			break;
		case 'v':
			print_bytes(GENERATION, 16);
			break;
		case 'q':
			return 0;
		}
	}
}
