/* SPDX-License-Identifier: Apache-2.0 */
/* Writes to its first disk for ever: the nth write goes to a 64 KiB slot that
 * follows from n, says n, and is flushed; then n is printed. Reads slots back
 * meanwhile. Says "size N" when the disk's size changes; ends when it gets a
 * byte. Whoever runs it looks into the image (tests/e2e/live.py). */
#include "guest.h"
#include "pci.h"

enum { VENDOR = 0x1af4, BLOCK_DEVICE = 0x1042, BAR = 4 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4 };
enum { STATUS = 0x14, QUEUE_SIZE = 0x18, QUEUE_ENABLE = 0x1c };
enum { ACK = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
enum { FEATURE_FLUSH = 1 << 9, NEXT = 1, DEVICE_WRITES = 2 };
enum { READ = 0, WRITE = 1, FLUSH = 4, ENTRIES = 4 };
enum { SLOT_SECTORS = 128, SLOTS_MAX = 1024, WORDS = 512, STEP = 37 };

static volatile struct {
	u64 addr;
	u32 len;
	u16 flags, next;
} desc[ENTRIES] __attribute__((aligned(16)));
static volatile struct {
	u16 flags, index, ring[ENTRIES];
} avail __attribute__((aligned(16)));
static volatile struct {
	u16 flags, index;
	struct {
		u32 id, len;
	} ring[ENTRIES];
} used __attribute__((aligned(16)));
static volatile struct {
	u32 type, zero;
	u64 sector;
} header __attribute__((aligned(16)));
static volatile u8 answer;
static u64 data[WORDS] __attribute__((aligned(4096)));
static u64 last[SLOTS_MAX]; /* the number of the last write to a slot */

static volatile u8 *common, *notify, *isr, *config;

static bool find_device(u32 *out)
{
	for (u32 slot = 0; slot < 32; slot++) {
		*out = slot << 11;
		if (pci_read(*out) == (VENDOR | (u32)BLOCK_DEVICE << 16))
			return true;
	}
	return false;
}

static void find_windows(u32 dev)
{
	u64 low = pci_read(dev | (0x10 + 4 * BAR)) & ~0xfu;
	u64 high = pci_read(dev | (0x14 + 4 * BAR));
	volatile u8 *bar = (volatile u8 *)(low | high << 32);

	for (u8 at = pci_byte(dev | 0x34); at; at = pci_byte(dev | (at + 1u))) {
		volatile u8 *window = bar + pci_read(dev | (at + 8u));

		if (pci_byte(dev | at) != 9 || pci_byte(dev | (at + 4u)) != BAR)
			continue;
		switch (pci_byte(dev | (at + 3u))) {
		case CAP_COMMON:
			common = window;
			break;
		case CAP_NOTIFY:
			notify = window;
			break;
		case CAP_ISR:
			isr = window;
			break;
		case CAP_DEVICE:
			config = window;
			break;
		}
	}
}

static void put32(unsigned at, u32 v)
{
	*(volatile u32 *)(common + at) = v;
}

static void put64(unsigned at, u64 v)
{
	put32(at, (u32)v);
	put32(at + 4, (u32)(v >> 32));
}

static bool start_device(void)
{
	u32 dev;

	if (!find_device(&dev))
		return false;
	pci_write(dev | 4, pci_read(dev | 4) | 6);
	find_windows(dev);
	common[STATUS] = 0;
	common[STATUS] = ACK | DRIVER;
	put32(8, 0);
	put32(12, FEATURE_FLUSH);
	put32(8, 1);
	put32(12, 1); /* VERSION_1 */
	common[STATUS] = ACK | DRIVER | FEATURES_OK;
	*(volatile u16 *)(common + QUEUE_SIZE) = ENTRIES;
	put64(0x20, (u64)desc);
	put64(0x28, (u64)&avail);
	put64(0x30, (u64)&used);
	*(volatile u16 *)(common + QUEUE_ENABLE) = 1;
	common[STATUS] = ACK | DRIVER | FEATURES_OK | DRIVER_OK;
	return true;
}

static u64 capacity(void)
{
	return *(volatile u32 *)config | (u64) * (volatile u32 *)(config + 4)
	                                     << 32;
}

static bool request(u32 type, u64 sector)
{
	u16 before = used.index;
	unsigned n = 0;

	header.type = type;
	header.sector = sector;
	answer = 0xff;
	desc[n].addr = (u64)&header;
	desc[n].len = sizeof(header);
	desc[n].flags = NEXT;
	desc[n].next = (u16)(n + 1);
	n++;
	if (type != FLUSH) {
		desc[n].addr = (u64)data;
		desc[n].len = sizeof(data);
		desc[n].flags = NEXT | (type == READ ? DEVICE_WRITES : 0);
		desc[n].next = (u16)(n + 1);
		n++;
	}
	desc[n].addr = (u64)&answer;
	desc[n].len = 1;
	desc[n].flags = DEVICE_WRITES;
	avail.ring[avail.index % ENTRIES] = 0;
	__asm__ volatile("" : : : "memory");
	avail.index++;
	__asm__ volatile("mfence" : : : "memory");
	*(volatile u16 *)notify = 0;
	while (used.index == before)
		__asm__ volatile("pause");
	return answer == 0;
}

static void one_write(u64 n, u64 slots)
{
	u64 slot = n * STEP % slots, other = n * 11 % slots, wrong = 0;

	for (unsigned i = 0; i < WORDS; i++)
		data[i] = n << 16 | slot;
	check(request(WRITE, slot * SLOT_SECTORS));
	last[slot] = n;
	check(request(FLUSH, 0));
	print("%lu\n", n);
	if (!last[other])
		return;
	check(request(READ, other * SLOT_SECTORS));
	for (unsigned i = 0; i < WORDS; i++)
		wrong += data[i] != (last[other] << 16 | other);
	check(wrong == 0);
}

int main(void)
{
	u64 slots;

	if (!start_device()) {
		print("no disk\n");
		return 1;
	}
	slots = capacity() / SLOT_SECTORS;
	if (slots > SLOTS_MAX)
		slots = SLOTS_MAX;
	print("slots %lu\n", slots);
	for (u64 n = 1; !(inb(0x3fd) & 1) && !failures(); n++) {
		one_write(n, slots);
		if (*isr & 2)
			print("size %lu\n", capacity() * 512);
	}
	return failures();
}
