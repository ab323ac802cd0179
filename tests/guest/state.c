/* SPDX-License-Identifier: Apache-2.0 */
/* Says "ready", goes on until it gets a byte, and then looks whether it is
 * still the same machine: memory, registers, time, interrupts. Whoever runs it
 * saves it in between (tests/e2e/state.py). Other processors halt, but for
 * their own timers and an interrupt that the first one sends them at each of
 * its ticks, and waits for. */
#include "guest.h"

#define HPET ((volatile u64 *)0xfed00000)
#define FILL ((u64 *)0x1000000)

enum {
	FILL_WORDS = 12 << 17, /* 12 MiB */
	VECTOR = 0x40,
	OTHERS_VECTOR = 0x41, /* of their timers */
	CALL_VECTOR = 0x42,
	AP_PAGE = 0x8000,
};

extern u8 ap_start[], ap_end[];
static volatile u64 ticks, others_ticks;
static volatile u32 calls, calls_due, others;

static void tick(unsigned vector)
{
	if (vector == VECTOR)
		ticks++;
	else if (vector == OTHERS_VECTOR)
		__asm__ volatile("lock incq %0" : "+m"(others_ticks));
	else if (vector == CALL_VECTOR)
		__asm__ volatile("lock incl %0" : "+m"(calls));
	LAPIC[0xb0 / 4] = 0;
}

static u64 next(u64 x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

/* A third is zeroes, a third the same page again, a third like nothing. */
static u64 fill_word(u64 i, u64 random)
{
	switch (i / 512 % 3) {
	case 0:
		return 0;
	case 1:
		return i % 512 * 0x9e3779b97f4a7c15;
	default:
		return random;
	}
}

static u64 fill(bool look)
{
	u64 random = 88172645463325252, wrong = 0;

	for (u64 i = 0; i < FILL_WORDS; i++) {
		random = next(random);
		if (!look)
			FILL[i] = fill_word(i, random);
		else
			wrong += FILL[i] != fill_word(i, random);
	}
	return wrong;
}

static bool typed(void)
{
	return inb(0x3fd) & 1;
}

/* "p": print at every tick from now on (bench/restore). */
static bool told_to_end(void)
{
	static bool prints;

	if (typed()) {
		if (inb(0x3f8) != 'p')
			return true;
		prints = true;
	}
	if (prints)
		print(".");
	return false;
}

static void start_timer(unsigned vector)
{
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x80 / 4] = 0;
	LAPIC[0x3e0 / 4] = 3; /* divide by 16 */
	LAPIC[0x320 / 4] = vector | 1u << 17;
	LAPIC[0x380 / 4] = 200000; /* 3.2 ms */
}

static void start_ticks(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	start_timer(VECTOR);
	HPET[0x10 / 8] |= 1;
}

void ap_main(void)
{
	start_timer(OTHERS_VECTOR);
	__asm__ volatile("lock incl %0" : "+m"(others));
	for (;;)
		__asm__ volatile("sti; hlt; cli");
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
	for (u64 end = ticks + 4; ticks < end;)
		__asm__ volatile("sti; hlt; cli");
	LAPIC[0x300 / 4] = 0xc4600 | AP_PAGE >> 12;
	while (others < count - 1)
		__asm__ volatile("sti; hlt; cli");
}

/* One that is lost hangs us. */
static void call_others(void)
{
	if (!others)
		return;
	LAPIC[0x300 / 4] = 0xc0000 | CALL_VECTOR; /* fixed, all but self */
	calls_due += others;
	while (calls < calls_due)
		__asm__ volatile("sti; pause");
}

/* Both clocks at one moment: the tightest of a few readings, since the host
 * may take its processor away between two of them. */
struct moment {
	u64 tsc, hpet;
};

static struct moment look(void)
{
	struct moment best = { 0 };
	u64 least = ~0ull;

	for (int i = 0; i < 20; i++) {
		u64 before = rdtsc(), hpet = HPET[0xf0 / 8];
		u64 took = rdtsc() - before;

		if (took < least) {
			least = took;
			best = (struct moment){ before + took / 2, hpet };
		}
	}
	return best;
}

/* The ratio of the two in units of 1/1000, since then. */
static u64 ratio(struct moment since)
{
	struct moment now = look();
	u64 passed = now.hpet - since.hpet;

	return (now.tsc - since.tsc) * 1000 / (passed ? passed : 1);
}

static void wait_ticks(u64 n)
{
	for (u64 end = ticks + n; ticks < end;)
		__asm__ volatile("sti; hlt; cli");
}

enum { PKRU_WORD = 0x55554554, PKRS_WORD = 0x2a8, PKRS = 0x6e1 };
#define CR4_KEYS (1ul << 22 | 1ul << 24)

/* Rights by protection key, where the processor has both kinds. */
static bool set_keys(void)
{
	u32 r[4];

	cpuid(7, 0, r);
	if (!(r[2] & 1u << 3) || !(r[2] & 1u << 31))
		return false;
	write_cr4(read_cr(4) | CR4_KEYS);
	__asm__ volatile("wrpkru" : : "a"(PKRU_WORD), "c"(0), "d"(0));
	wrmsr(PKRS, PKRS_WORD);
	return true;
}

static void check_keys(void)
{
	u32 a, d;

	check((read_cr(4) & CR4_KEYS) == CR4_KEYS);
	__asm__ volatile("rdpkru" : "=a"(a), "=d"(d) : "c"(0));
	check(a == PKRU_WORD);
	check(rdmsr(PKRS) == PKRS_WORD);
	print("with keys, ");
}

int main(void)
{
	static const u64 words[4] = { 1, 2, 3, 4 };
	u64 before, after, out[4] = { 0 };
	struct moment begin;
	bool keys;
	u32 r[4];

	on_interrupt = tick;
	fill(false);
	start_ticks();
	start_others();
	begin = look();
	wait_ticks(60);
	before = ratio(begin);
	cpuid(1, 0, r);
	keys = set_keys();
	print("ready\n");
	/* Neither memory nor the stack holds these meanwhile. */
	__asm__ volatile("movdqu %0, %%xmm6; movdqu %1, %%xmm7"
	                 :
	                 : "m"(words[0]), "m"(words[2]));
	while (!told_to_end()) {
		__asm__ volatile("sti; hlt; cli");
		call_others();
	}
	__asm__ volatile("movdqu %%xmm6, %0; movdqu %%xmm7, %1"
	                 : "=m"(out[0]), "=m"(out[2])
	                 :
	                 : "memory");
	after = ratio(begin);
	check(out[0] == 1 && out[1] == 2 && out[2] == 3 && out[3] == 4);
	check(fill(true) == 0);
	/* Both stood still, and both go on as before. */
	check(after > before - before / 10 && after < before + before / 10);
	u64 others_before = others_ticks;

	wait_ticks(5);
	call_others();
	while (others && others_ticks == others_before)
		__asm__ volatile("sti; pause");
	check(calls == calls_due);
	u32 now[4];
	cpuid(1, 0, now);
	check(now[0] == r[0] && now[2] == r[2] && now[3] == r[3]);
	if (keys)
		check_keys();
	print("same after %u ticks\n", (unsigned)ticks);
	return failures();
}
