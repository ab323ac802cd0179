/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills all of its memory and then never stops writing all over it, with all of
 * its processors: the worst that a snapshot of a running machine meets
 * (tests/e2e/pause.py, bench/fork).
 *
 * Each processor has a share of the pages, and writes how many writes it has
 * done to the first word of one after the other, by strides that miss none. So
 * memory as it was at any moment can be told from a mixture of two.
 *
 *	v  looks whether memory is as it was at one moment     q  ends
 *	r  reads all over it from now on, and writes little    w  writes again
 *
 * Every 20 ms it says how many pages have been written to since the last time.
 */
#include "guest.h"

#define HPET ((volatile u64 *)0xfed00000)
#define LOW 0x1000000ul
#define HIGH 0x100000000ul

enum { PAGE = 4096, CPUS_MAX = 8, AP_PAGE = 0x8000, BURST = 64, LOOKS = 64 };

struct share {
	u64 first, pages, step; /* page numbers */
	u64 at, writes, look;
	volatile bool stopped;
} __attribute__((aligned(64)));

extern u32 start_info;
extern u8 ap_start[], ap_end[];
static struct share shares[CPUS_MAX];
static volatile u32 processors = 1;
static volatile bool go, stop, reads;
static u64 low_pages, high_pages,
    tables[16][512] __attribute__((aligned(4096)));

static u64 *word(u64 page)
{
	return (u64 *)(page < low_pages ? LOW + page * PAGE
	                                : HIGH + (page - low_pages) * PAGE);
}

/* The map of the PVH start structure. */
static void find_memory(void)
{
	const u8 *info = (const u8 *)(u64)start_info;
	const u64 *entry = (const u64 *)*(const u64 *)(info + 40);
	u32 count = *(const u32 *)(info + 48);

	for (u32 i = 0; i < count; i++, entry += 3) {
		u64 end = entry[0] + entry[1];

		if ((u32)entry[2] != 1)
			continue;
		if (entry[0] < HIGH && end > LOW)
			low_pages = (end - LOW) / PAGE;
		else if (entry[0] == HIGH)
			high_pages = entry[1] / PAGE;
	}
	for (u64 i = 0; i < 16 * 512; i++)
		tables[i / 512][i % 512] = (HIGH + (i << 21)) | 0x87;
	for (u64 i = 0; i < 16; i++)
		pdpt[4 + i] = (u64)tables[i] | 7;
}

static u64 next(u64 x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

/* Nothing that could be elided or that packs well. */
static void fill(void)
{
	u64 random = 88172645463325252;

	for (u64 page = 0; page < low_pages + high_pages; page++) {
		u64 *p = word(page);

		p[0] = 0;
		for (unsigned i = 1; i < PAGE / 8; i++)
			p[i] = random = next(random);
	}
}

static u64 common_divisor(u64 a, u64 b)
{
	while (b) {
		u64 c = a % b;

		a = b;
		b = c;
	}
	return a;
}

static void divide(void)
{
	u64 pages = (low_pages + high_pages) / processors;

	for (u32 i = 0; i < processors; i++) {
		struct share *s = &shares[i];

		s->first = i * pages;
		s->pages = pages;
		s->step = pages * 5 / 8 + 1;
		while (common_divisor(pages, s->step) != 1)
			s->step++;
	}
}

static void read_some(struct share *s)
{
	for (int i = 0; i < LOOKS * BURST; i++) {
		(void)*(volatile u64 *)word(s->first + s->look);
		s->look = s->look + 1 < s->pages ? s->look + 1 : 0;
	}
}

static void burst(struct share *s)
{
	int writes = reads ? 1 : BURST;

	if (reads)
		read_some(s);
	for (int i = 0; i < writes; i++) {
		*(volatile u64 *)word(s->first + s->at) = s->writes + 1;
		*(volatile u64 *)&s->writes = s->writes + 1;
		s->at += s->step;
		if (s->at >= s->pages)
			s->at -= s->pages;
	}
}

/* The last of all writes may be there and not counted yet. */
static u64 wrong_in(const struct share *s)
{
	u64 least = s->writes > s->pages ? s->writes - s->pages : 0;
	u64 at = least % s->pages * s->step % s->pages, wrong = 0;

	for (u64 n = least + 1; n <= s->writes; n++) {
		wrong += *word(s->first + at) != n;
		at += s->step;
		if (at >= s->pages)
			at -= s->pages;
	}
	return wrong;
}

static void verify(void)
{
	u64 wrong = 0;

	stop = true;
	for (u32 i = 1; i < processors; i++)
		while (!shares[i].stopped)
			__asm__ volatile("pause");
	for (u32 i = 0; i < processors; i++)
		wrong += wrong_in(&shares[i]);
	print("%lu wrong\n", wrong);
	stop = false;
}

void ap_main(void)
{
	u32 i = __atomic_fetch_add(&processors, 1, __ATOMIC_SEQ_CST);

	while (!go)
		__asm__ volatile("pause");
	for (;;) {
		burst(&shares[i]);
		while (stop) {
			shares[i].stopped = true;
			__asm__ volatile("pause");
		}
		shares[i].stopped = false;
	}
}

static u64 ticks_in(u64 ms)
{
	return ms * 1000000000000 / (HPET[0] >> 32);
}

static void wait(u64 ms)
{
	u64 end = HPET[0xf0 / 8] + ticks_in(ms);

	while (HPET[0xf0 / 8] < end)
		__asm__ volatile("pause");
}

static void start_others(void)
{
	u32 r[4], count;

	cpuid(1, 0, r);
	count = r[3] & 1u << 28 ? r[1] >> 16 & 0xff : 1;
	if (count < 2)
		return;
	for (u8 *p = ap_start; p < ap_end; p++)
		((u8 *)AP_PAGE)[p - ap_start] = *p;
	LAPIC[0x300 / 4] = 0xc4500; /* INIT, all but self */
	wait(20);
	LAPIC[0x300 / 4] = 0xc4600 | AP_PAGE >> 12;
	while (processors < count)
		__asm__ volatile("pause");
}

static u64 written(void)
{
	u64 sum = 0;

	for (u32 i = 0; i < processors; i++)
		sum += *(volatile u64 *)&shares[i].writes;
	return sum;
}

static bool told_to_end(void)
{
	u8 what = inb(0x3fd) & 1 ? inb(0x3f8) : 0;

	if (what == 'v')
		verify();
	if (what == 'r' || what == 'w')
		reads = what == 'r';
	return what == 'q';
}

int main(void)
{
	u64 last = 0, since, period;

	HPET[0x10 / 8] |= 1;
	LAPIC[0xf0 / 4] = 0x1ff;
	period = ticks_in(20);
	find_memory();
	fill();
	start_others();
	divide();
	go = true;
	print("%lu MiB\n", (low_pages + high_pages) >> 8);
	since = HPET[0xf0 / 8];
	do {
		u64 now;

		do {
			burst(&shares[0]);
			now = HPET[0xf0 / 8];
		} while (now - since < period);
		since = now;
		now = written();
		print("%lu\n", now - last);
		last = now;
	} while (!told_to_end());
	return failures();
}
