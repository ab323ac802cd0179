/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device notified hundreds of times: the entropy source, whose queue
 * we drive by hand (virtio 1.2 sections 2.7 and 4.1), its registers moved in
 * between. Where notifications cost no exit, tests/nested counts the exits.
 */
#include "guest.h"
#include "pci.h"

enum { /* BAR 4, as its capabilities say on every machine of ours */
       COMMON = 0x0000,
       NOTIFY = 0x3000,
       STATUS = COMMON + 0x14,
       QUEUE_SIZE = COMMON + 0x18,
       QUEUE_ENABLE = COMMON + 0x1c,
       QUEUE_NOTIFY_OFF = COMMON + 0x1e,
       QUEUE_RINGS = COMMON + 0x20,
};
enum { ENTROPY = 0x1044 << 16 | 0x1af4, BAR4 = 0x20, COMMAND = 4 };
enum { SIZE = 8, TIMES = 300, BYTES = 16, F_WRITE = 2 };

static struct {
	u64 at;
	u32 len;
	u16 flags, next;
} descriptors[SIZE] __attribute__((aligned(16)));
static volatile struct {
	u16 flags, idx, ring[SIZE];
} avail __attribute__((aligned(4)));
static volatile struct {
	u16 flags, idx;
	struct {
		u32 id, len;
	} ring[SIZE];
} used __attribute__((aligned(4)));
static volatile u8 data[BYTES];

static u8 *bar;

static volatile u16 *reg16(unsigned off)
{
	return (volatile u16 *)(bar + off);
}
static volatile u32 *reg32(unsigned off)
{
	return (volatile u32 *)(bar + off);
}

static void set_status(u8 v)
{
	*(volatile u8 *)(bar + STATUS) = v;
}

static unsigned find(void)
{
	for (unsigned slot = 0; slot < 32; slot++)
		if (pci_read(slot << 11) == ENTROPY)
			return slot;
	return 32;
}

static void place(unsigned slot, u32 where)
{
	bar = (u8 *)(u64)where;
	pci_write(slot << 11 | COMMAND, 0);
	pci_write(slot << 11 | BAR4, where);
	pci_write(slot << 11 | (BAR4 + 4), 0);
	pci_write(slot << 11 | COMMAND, 6); /* memory, bus master */
}

static void start(void)
{
	const u64 rings[] = { (u64)descriptors, (u64)&avail, (u64)&used };

	avail.idx = 0;
	used.idx = 0;
	set_status(0);
	while (*(volatile u8 *)(bar + STATUS))
		;
	set_status(1 | 2);
	*reg32(COMMON + 0x08) = 1; /* VERSION_1 and nothing else */
	*reg32(COMMON + 0x0c) = 1;
	set_status(1 | 2 | 8);
	*reg16(COMMON + 0x16) = 0;
	*reg16(QUEUE_SIZE) = SIZE;
	for (unsigned i = 0; i < 3; i++) {
		*reg32(QUEUE_RINGS + i * 8) = (u32)rings[i];
		*reg32(QUEUE_RINGS + i * 8 + 4) = (u32)(rings[i] >> 32);
	}
	*reg16(QUEUE_ENABLE) = 1;
	set_status(1 | 2 | 8 | 4);
	check(*(volatile u8 *)(bar + STATUS) == (1 | 2 | 8 | 4));
}

/* Each time one buffer, one write to the doorbell, and its answer. */
static void ring(void)
{
	volatile u16 *doorbell = reg16(NOTIFY + *reg16(QUEUE_NOTIFY_OFF) * 4u);
	unsigned zeros = 0;

	descriptors[0].at = (u64)data;
	descriptors[0].len = BYTES;
	descriptors[0].flags = F_WRITE;
	for (unsigned i = 0; i < TIMES; i++) {
		u16 idx = avail.idx;
		u8 any = 0;

		for (unsigned k = 0; k < BYTES; k++)
			data[k] = 0;
		avail.ring[idx % SIZE] = 0;
		__atomic_store_n(&avail.idx, (u16)(idx + 1), __ATOMIC_SEQ_CST);
		*doorbell = 0;
		while (__atomic_load_n(&used.idx, __ATOMIC_ACQUIRE) == idx)
			__builtin_ia32_pause();
		check(used.ring[idx % SIZE].len == BYTES);
		for (unsigned k = 0; k < BYTES; k++)
			any |= data[k];
		zeros += !any;
	}
	check(zeros == 0);
}

int main(void)
{
	unsigned slot = find();

	check(slot < 32);
	if (slot == 32)
		return failures();
	place(slot, 0xd0000000);
	start();
	ring();
	place(slot, 0xd0100000); /* the doorbells move along */
	start();
	ring();
	return failures();
}
