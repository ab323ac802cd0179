/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Garbage, written to all that a machine has: each port, each register of each
 * PCI function, each page of registers in memory, each virtqueue. The machine
 * answers as hardware does, and goes on; at last a device is reset and must
 * work. What would end the machine or this program by right is left out: reset
 * and power-off, the exit port, INIT and NMI to this CPU, DMA into the program.
 */
#include "guest.h"
#include "pci.h"

enum { BAR_WRITES = 600, QUEUE_ROUNDS = 10, QUEUES = 8 };
enum { VIRTIO = 0x1af4, ENTROPY = 0x1044, COMMAND = 4, BAR0 = 0x10 };
enum { BAR_MSIX = 1, BAR_VIRTIO = 4, NOTIFY = 0x3000, WINDOW = 0x4000 };
enum { STATUS = 0x14, QUEUE = 0x16, SIZE = 0x18, ENABLE = 0x1c, RINGS = 0x20 };
enum { COM1 = 0x3f8, DATA = 0x60, KEYBOARD = 0x64, PORT92 = 0x92 };
enum { EXIT = 0xf4, PM_CONTROL = 0x604, RESET = 0xcf9, FW_CFG_DMA = 0x514 };

#define MMIO_BASE 0xd0000000u /* of the BARs: nothing else is there */
#define MMIO_STEP 0x100000u
#define NO_DELIVERY_MODE (~0x700u) /* "fixed", wherever a vector may stand */
#define DMA_AREA 0x3000000u        /* 48 MiB: far from the program */
#define DMA_SIZE 0x100000u
#define MEMORY_END 0x4000000u
#define SCRATCH ((volatile u8 *)(u64)DMA_AREA)

static u64 seed = 0x9e3779b97f4a7c15;

static u64 random64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static u32 random32(void)
{
	switch (random64() % 8) {
	case 0:
		return 0;
	case 1:
		return 0xffffffff;
	case 2:
		return 1u << random64() % 32;
	default:
		return (u32)(random64() >> 16);
	}
}

/* ---- ports ---- */

static void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static u16 inw(u16 port)
{
	u16 v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/* Ports that one value more or less decides about: below. */
static bool delicate(u32 port, u32 size)
{
	static const struct {
		u16 at, size;
	} spans[] = {
		{ DATA, 1 }, { KEYBOARD, 1 },   { PORT92, 1 },     { EXIT, 4 },
		{ COM1, 8 }, { FW_CFG_DMA, 8 }, { PM_CONTROL, 2 }, { 0xcf8, 8 },
	};

	for (u32 i = 0; i < sizeof(spans) / sizeof(spans[0]); i++)
		if (port < (u32)spans[i].at + spans[i].size &&
		    port + size > spans[i].at)
			return true;
	return false;
}

static void one_port(u16 port, u32 size)
{
	u32 v = random32();

	if (size == 1)
		(void)inb(port);
	else if (size == 2)
		(void)inw(port);
	else
		(void)inl(port);
	if (delicate(port, size))
		return;
	if (size == 1)
		outb(port, (u8)v);
	else if (size == 2)
		outw(port, (u16)v);
	else
		outl(port, v);
}

static void delicate_ports(void)
{
	u8 v = (u8)random32();

	/* Not: pulse the reset line, write the output port. */
	if (v < 0xf0 && v != 0xd1) {
		outb(KEYBOARD, v);
		outb(DATA, (u8)random32());
	}
	outb(DATA, (u8)random32());
	outb(PORT92, (u8)random32() & 0xfe);
	outw(PM_CONTROL, (u16)random32() & 0xdfff); /* no SLP_EN */
	outb(RESET, (u8)random32() & 0xfb);
	/* The address of a transfer that asks for nothing. */
	outl(FW_CFG_DMA, 0);
	outl(FW_CFG_DMA + 4, __builtin_bswap32(DMA_AREA));
	outl(0xcf8, random32() & 0x7fffffff);
	outl(0xcfc, random32());
	for (u16 port = COM1 + 1; port < COM1 + 8; port++) {
		outb(port, (u8)random32());
		(void)inb(port);
	}
	outb(COM1 + 3, 3); /* 8 bits, no DLAB */
	outb(COM1 + 1, 0); /* no interrupts */
	outb(COM1 + 4, 3); /* no loop back */
}

static void ports(void)
{
	for (u32 port = 0; port < 0x10000; port++)
		/* Most of them are nobody's. */
		if (port < 0x1000 || port % 61 == 0)
			one_port((u16)port, 1u << random64() % 3);
	for (u32 round = 0; round < 64; round++)
		delicate_ports();
}

/* ---- PCI ---- */

static bool present(u32 at)
{
	return pci_read(at) != 0xffffffff;
}

static void config_space(void)
{
	u32 found = 0;

	for (u32 at = 0; at < 1u << 16; at += 1u << 8) {
		if (!present(at))
			continue;
		found++;
		for (u32 reg = 0; reg < 256; reg += 4)
			pci_write(at | reg, 0xffffffff);
		for (u32 i = 0; i < 128; i++) {
			pci_write(at | (u32)(random64() % 256), random32());
			(void)pci_read(at | (u32)(random64() % 256));
		}
		/* Decodes nothing, and owns no memory. */
		pci_write(at | COMMAND, 0);
		check(present(at));
	}
	check(found >= 3);
}

/* All BARs of a function at addresses of their own, or at none. */
static void place(u32 at, u32 where)
{
	pci_write(at | COMMAND, 0);
	for (u32 bar = 0; bar < 6; bar++) {
		u32 reg = at | (BAR0 + bar * 4);

		pci_write(reg, where + bar * MMIO_STEP / 8);
		if ((pci_read(reg) & 7) != 4)
			continue;
		pci_write(reg + 4, 0);
		bar++;
	}
	pci_write(at | COMMAND, 6);
}

/* ---- registers in memory ---- */

static void any_access(volatile u8 *p)
{
	u32 v = random32();

	switch (random64() % 6) {
	case 0:
		*p = (u8)v;
		break;
	case 1:
		*(volatile u16 *)p = (u16)v;
		break;
	case 2:
		*(volatile u32 *)p = v;
		break;
	case 3:
		*(volatile u64 *)p = (u64)v << 32 | random32();
		break;
	case 4:
		(void)*(volatile u32 *)p;
		break;
	default:
		(void)*(volatile u64 *)p;
	}
}

/* Whole aligned words, so that no vector of them is other than fixed. */
static void words(volatile u8 *base, u32 size)
{
	for (u32 i = 0; i < BAR_WRITES; i++) {
		volatile u32 *p =
		    (volatile u32 *)(base + random64() % size / 4 * 4);

		*p = random32() & NO_DELIVERY_MODE;
		(void)*p;
	}
}

static void bars(u32 at, u32 where)
{
	volatile u8 *window =
	    (volatile u8 *)(u64)(where + BAR_VIRTIO * MMIO_STEP / 8);

	place(at, where);
	words((volatile u8 *)(u64)(where + BAR_MSIX * MMIO_STEP / 8), 0x1000);
	for (u32 i = 0; i < BAR_WRITES; i++)
		any_access(window + random64() % (WINDOW - 8));
	window[STATUS] = 0;
}

static void chips(void)
{
	words((volatile u8 *)LAPIC, 0x1000);
	words((volatile u8 *)IOAPIC, 0x1000);
	words((volatile u8 *)0xfed00000, 0x400); /* HPET */
	for (u32 at = 0xe0000000; at < 0xe0100000; at += 4096)
		any_access((volatile u8 *)(u64)at); /* nobody's */
}

/* ---- virtqueues ---- */

/* Where a driver that is mad may let a device read or write. */
static u64 bad_address(void)
{
	switch (random64() % 8) {
	case 0:
		return MEMORY_END - random64() % 4096;
	case 1:
		return MEMORY_END + random64() % DMA_SIZE;
	case 2:
		return 0xfffffffffffff000 | random64() % 4096;
	case 3:
		return 0xfee00000 + random64() % 4096;
	case 4:
		return MMIO_BASE + random64() % (8 * MMIO_STEP);
	default:
		return DMA_AREA + random64() % DMA_SIZE;
	}
}

/* Half of it looks like descriptors, and half like an index of a ring. */
static void fill_area(void)
{
	for (u32 i = 0; i + 16 <= DMA_SIZE; i += 16) {
		*(volatile u64 *)(SCRATCH + i) =
		    random64() & 1 ? bad_address() : random64() % 64;
		*(volatile u32 *)(SCRATCH + i + 8) =
		    random64() % 4 ? (u32)(random64() % 8192) : random32();
		*(volatile u32 *)(SCRATCH + i + 12) =
		    (u32)(random64() % 8) | (u32)(random64() % 16) << 16;
	}
}

static void start_queue(volatile u8 *window, u16 queue)
{
	*(volatile u16 *)(window + QUEUE) = queue;
	*(volatile u16 *)(window + SIZE) =
	    random64() & 1 ? (u16)(1u << random64() % 9) : (u16)random32();
	for (u32 i = 0; i < 3; i++) {
		u64 where = random64() % 4
		                ? DMA_AREA + random64() % DMA_SIZE / 4096 * 4096
		                : bad_address();

		*(volatile u32 *)(window + RINGS + i * 8) = (u32)where;
		*(volatile u32 *)(window + RINGS + i * 8 + 4) =
		    (u32)(where >> 32);
	}
	*(volatile u16 *)(window + ENABLE) = 1;
}

static void queues(u32 where)
{
	volatile u8 *window =
	    (volatile u8 *)(u64)(where + BAR_VIRTIO * MMIO_STEP / 8);

	for (u32 round = 0; round < QUEUE_ROUNDS; round++) {
		window[STATUS] = 0;
		window[STATUS] = 1 | 2;
		for (u32 half = 0; half < 2; half++) {
			*(volatile u32 *)(window + 8) = half;
			*(volatile u32 *)(window + 12) = half ? 1 : random32();
		}
		window[STATUS] = 1 | 2 | 8;
		for (u16 q = 0; q < QUEUES; q++)
			start_queue(window, q);
		window[STATUS] = 1 | 2 | 8 | 4;
		for (u32 i = 0; i < 4 * QUEUES; i++) {
			*(volatile u16 *)(window + NOTIFY + i % QUEUES * 4) =
			    (u16)(i % QUEUES);
			SCRATCH[random64() % DMA_SIZE] = (u8)random32();
		}
		(void)window[STATUS];
	}
	window[STATUS] = 0;
	while (window[STATUS])
		__builtin_ia32_pause();
}

/* ---- and all is well ---- */

/* Sixteen bytes of entropy, by a queue of one. */
static void works(u32 where)
{
	volatile u8 *window =
	    (volatile u8 *)(u64)(where + BAR_VIRTIO * MMIO_STEP / 8);
	volatile u16 *used = (volatile u16 *)(SCRATCH + 0x2002);
	const u32 rings[] = { DMA_AREA, DMA_AREA + 0x1000, DMA_AREA + 0x2000 };
	u32 any = 0;

	for (u32 i = 0; i < 0x4000; i++)
		SCRATCH[i] = 0;
	window[STATUS] = 1 | 2;
	*(volatile u32 *)(window + 8) = 1;
	*(volatile u32 *)(window + 12) = 1;
	window[STATUS] = 1 | 2 | 8;
	*(volatile u16 *)(window + QUEUE) = 0;
	*(volatile u16 *)(window + SIZE) = 1;
	for (u32 i = 0; i < 3; i++) {
		*(volatile u32 *)(window + RINGS + i * 8) = rings[i];
		*(volatile u32 *)(window + RINGS + i * 8 + 4) = 0;
	}
	*(volatile u16 *)(window + ENABLE) = 1;
	window[STATUS] = 1 | 2 | 8 | 4;
	check(window[STATUS] == (1 | 2 | 8 | 4));
	*(volatile u64 *)SCRATCH = DMA_AREA + 0x3000;
	*(volatile u32 *)(SCRATCH + 8) = 16;
	*(volatile u16 *)(SCRATCH + 12) = 2; /* the device writes */
	__atomic_store_n((volatile u16 *)(SCRATCH + 0x1002), 1,
	                 __ATOMIC_SEQ_CST);
	*(volatile u16 *)(window + NOTIFY) = 0;
	while (__atomic_load_n(used, __ATOMIC_ACQUIRE) != 1)
		__builtin_ia32_pause();
	for (u32 i = 0; i < 16; i++)
		any |= SCRATCH[0x3000 + i];
	check(any != 0);
}

int main(void)
{
	u32 where = MMIO_BASE, entropy = 0, devices = 0;

	print("ports\n");
	ports();
	print("PCI\n");
	config_space();
	print("chips\n");
	chips();
	for (u32 at = 0; at < 1u << 16; at += 1u << 8) {
		if ((pci_read(at) & 0xffff) != VIRTIO)
			continue;
		print("device %lx\n", (u64)(pci_read(at) >> 16));
		bars(at, where);
		fill_area();
		queues(where);
		if (pci_read(at) >> 16 == ENTROPY)
			entropy = where;
		where += MMIO_STEP;
		devices++;
	}
	check(devices > 0 && entropy != 0);
	if (entropy)
		works(entropy);
	return failures();
}
