/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that somebody else writes, after it ran so often that a translator has
 * made its own of it: another processor, and a device that writes to memory
 * itself. Who runs it next, with CPUID in front as the manuals ask for, gets
 * what is there now.
 */
#include "guest.h"

extern u8 ap_start[], ap_end[];
enum {
	AP_PAGE = 0x8000,
	ROUNDS = 60,
	OFTEN = 12,
	FW_CFG_DMA = 0x514,
	DMA_READ = 2,
	DMA_SELECT = 8,
	SIGNATURE = 0, /* of fw_cfg's items */
	PROCESSORS = 5,
	QEMU = 0x554d4551,
};

static u8 code[4096] __attribute__((aligned(4096)));
static volatile u32 turn, want, answered, wrong;

static struct {
	u32 control, length;
	u64 address;
} transfer __attribute__((aligned(16)));

typedef u32 fn(void);

/* Two ways to give a number back; it lies at the same place in both. */
static volatile u32 *put_code(bool by_sum, u32 value)
{
	static const u8 moved[] = { 0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0xc3 };
	static const u8 summed[] = { 0x31, 0xc0, 0x90, 0x05, 0, 0, 0, 0, 0xc3 };

	for (unsigned i = 0; i < sizeof(moved); i++)
		((volatile u8 *)code)[i] = by_sum ? summed[i] : moved[i];
	*(volatile u32 *)(code + 4) = value;
	return (volatile u32 *)(code + 4);
}

static void run_it(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	for (unsigned i = 0; i < OFTEN; i++)
		if (((fn *)(u64)code)() != want)
			__asm__ volatile("lock incl %0" : "+m"(wrong));
}

void ap_main(void)
{
	for (u32 seen = 0;; seen++) {
		while (turn == seen)
			__asm__ volatile("pause");
		run_it();
		__asm__ volatile("lock incl %0" : "+m"(answered));
	}
}

static void all_run_it(u32 value)
{
	want = value;
	answered = 0;
	turn++;
	run_it();
	while (answered < ap_count)
		__asm__ volatile("pause");
}

/* An item of fw_cfg, which the device writes. */
static void read_item(u32 key, volatile void *at, u32 length)
{
	transfer.control = __builtin_bswap32(DMA_READ | DMA_SELECT | key << 16);
	transfer.length = __builtin_bswap32(length);
	transfer.address = __builtin_bswap64((u64)at);
	__asm__ volatile("" : : : "memory");
	outl(FW_CFG_DMA, 0);
	outl(FW_CFG_DMA + 4, __builtin_bswap32((u32)(u64)&transfer));
	while (*(volatile u32 *)&transfer.control)
		;
}

static void start_others(void)
{
	volatile u16 count;

	LAPIC[0xf0 / 4] = 0x1ff;
	for (u8 *p = ap_start; p < ap_end; p++)
		((u8 *)AP_PAGE)[p - ap_start] = *p;
	LAPIC[0x300 / 4] = 0xc4500; /* INIT, all but self */
	for (u64 end = rdtsc() + 20000000; rdtsc() < end;)
		;
	LAPIC[0x300 / 4] = 0xc4600 | AP_PAGE >> 12;
	read_item(PROCESSORS, &count, sizeof(count));
	while (ap_count + 1 < count)
		__asm__ volatile("pause");
}

int main(void)
{
	start_others();
	print("%lu application processors\n", (u64)ap_count);
	for (unsigned i = 0; i < ROUNDS; i++) {
		volatile u32 *number = put_code(i & 1, i);

		all_run_it(i);
		read_item(SIGNATURE, number, 4);
		all_run_it(QEMU);
		*number = ~i;
		all_run_it(~i);
	}
	check(wrong == 0);
	return failures();
}
