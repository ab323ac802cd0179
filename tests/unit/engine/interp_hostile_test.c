/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp_hostile_test.c - garbage for code, tables and state: the engine may
 * raise what it likes, but must come back, and never leave guest memory.
 *
 * ATOLL_HOSTILE=N runs N cases instead of a few hundred; ATOLL_HOSTILE_SEED
 * starts elsewhere.
 */
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/error.h"
#include "guest.h"

static u64 random_state;

static u64 rnd(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static bool one_in(unsigned n)
{
	return rnd() % n == 0;
}

/* Addresses that mean something more often than not. */
static u64 address(void)
{
	switch (rnd() % 8) {
	case 0:
		return rnd();
	case 1:
		return (u64)(s64)(s32)rnd();
	case 2:
		return GUEST_RAM - rnd() % 32;
	case 3:
		return GUEST_MMIO + rnd() % 4096;
	default:
		return rnd() % 0x120000;
	}
}

static void scramble(struct guest *g, u64 at, size_t size, unsigned rate)
{
	for (size_t i = 0; i < size; i++)
		if (one_in(rate))
			g->ram[at + i] = (u8)rnd();
}

static void random_code(struct guest *g, u64 at)
{
	/* Opcodes that lead to the interesting corners. */
	static const u8 spice[][4] = {
		{ 0x0f, 0x01 }, { 0x0f, 0x00 }, { 0x0f, 0x22 }, { 0x0f, 0x20 },
		{ 0x0f, 0x23 }, { 0x0f, 0x30 }, { 0x0f, 0x32 }, { 0xcf },
		{ 0x48, 0xcf }, { 0x8e },       { 0x9d },       { 0xcd },
		{ 0x0f, 0xae }, { 0x0f, 0xc7 }, { 0xff },       { 0xea },
		{ 0x9a },       { 0xca },       { 0xf3, 0xa4 }, { 0xf3, 0xab },
		{ 0x0f, 0x05 }, { 0x0f, 0x07 }, { 0xc8 },       { 0xd9 },
		{ 0xf0, 0x0f }, { 0x6c },       { 0xf3, 0x6e }, { 0x62 },
		{ 0xc5 },       { 0xc4, 0xe2 }, { 0x8f },       { 0xfb },
	};

	for (unsigned i = 0; i < 256; i++)
		g->ram[at + i] = (u8)rnd();
	for (unsigned i = 0; i < 24; i++)
		memcpy(g->ram + at + rnd() % 250,
		       spice[rnd() % ARRAY_SIZE(spice)], 1 + rnd() % 2);
}

static void random_registers(struct guest *g)
{
	static const u64 cr4[] = { CR4_SMAP,     CR4_SMEP, CR4_UMIP,
		                   CR4_PCIDE,    CR4_TSD,  CR4_VME,
		                   CR4_PVI,      CR4_PGE,  CR4_OSXSAVE,
		                   CR4_FSGSBASE, CR4_DE,   CR4_PSE };

	for (unsigned i = 0; i < GPR_COUNT; i++)
		if (i != GPR_RSP || one_in(4))
			g->s.gpr[i] = address();
	for (size_t i = 0; i < ARRAY_SIZE(cr4); i++)
		if (one_in(4))
			g->s.cr4 |= cr4[i];
	if (!(g->s.efer & EFER_LMA))
		g->s.cr4 &= ~CR4_PCIDE;
	if (one_in(8))
		g->s.cr0 ^= CR0_TS;
	g->s.rflags ^= rnd() & (RFLAGS_STATUS | RFLAGS_DF | RFLAGS_IF |
	                        RFLAGS_NT | RFLAGS_AC | RFLAGS_IOPL);
	if (one_in(8))
		g->s.rflags |= RFLAGS_TF;
	if (one_in(8)) {
		g->s.dr[0] = address();
		g->s.dr[7] = rnd() & 0xffff00ff;
	}
	if (one_in(6))
		g->s.seg[rnd() % SEG_COUNT].limit = (u32)rnd();
	if (one_in(6))
		g->s.seg[rnd() % SEG_COUNT].attr ^= (u16)rnd() & 0xd0ff;
	if (one_in(6))
		g->s.gdtr.limit = (u16)rnd();
	if (one_in(6))
		g->s.idtr.limit = (u16)rnd();
	if (one_in(10))
		g->s.tr.base = address();
}

/*
 * The guest may loop for ever: only the kick is sure to end it. An engine that
 * is not back GIVE_UP ticks after the first one is stuck.
 */
enum { FIRST_US = 500, TICK_US = 100000, GIVE_UP = 300, STEPS = 200 };
static struct guest *volatile kicked;
static volatile sig_atomic_t ticks;
static unsigned long running; /* the case */

static void on_alarm(int sig)
{
	struct guest *g = kicked;

	(void)sig;
	if (!g)
		return;
	g->type->vcpu_kick(g->vcpu);
	if (++ticks > GIVE_UP) {
		/* Not safe in a handler, but nothing comes after it. */
		fprintf(stderr, "stuck in case %lu\n", running);
		abort();
	}
}

static void timer(time_t first_us, time_t again_us)
{
	struct itimerval t = {
		.it_value.tv_usec = first_us,
		.it_interval.tv_usec = again_us,
	};

	setitimer(ITIMER_REAL, &t, NULL);
}

static enum vcpu_exit_reason run(struct guest *g)
{
	struct vcpu_exit exit;

	ticks = 0;
	kicked = g;
	timer(FIRST_US, TICK_US);
	g->type->vcpu_run(g->vcpu, &exit);
	kicked = NULL;
	timer(0, 0);
	assert_int_not_equal(exit.reason, EXIT_ERROR);
	return exit.reason;
}

/* Instruction by instruction, which takes other ways through the engine. */
static void run_stepping(struct guest *g)
{
	assert_int_equal(g->type->vcpu_debug(g->vcpu, NULL, 0, true), 0);
	for (unsigned i = 0; i < STEPS; i++)
		if (run(g) != EXIT_DEBUG)
			break;
	assert_int_equal(g->type->vcpu_debug(g->vcpu, NULL, 0, false), 0);
}

static void one_case(struct guest *g)
{
	struct error err;

	memset(g->ram, 0, 0x120000);
	switch (rnd() % 5) {
	case 0:
		guest_real(g);
		break;
	case 1:
		guest_flat32(g, false);
		break;
	case 2:
		guest_flat32(g, true);
		break;
	default:
		guest_long(g);
		break;
	}
	if (one_in(3)) {
		scramble(g, GUEST_GDT, 0x60, 6);
		scramble(g, GUEST_IDT, 0x1000, 24);
		scramble(g, GUEST_TSS, 0x1000, 24);
	}
	if (one_in(3))
		scramble(g, GUEST_TABLES, 0x5000, 200);
	random_code(g, GUEST_CODE);
	random_code(g, GUEST_USER);
	random_registers(g);
	if (one_in(4)) {
		/* At CPL 3. */
		g->s.seg[SEG_CS].selector |= 3;
		g->s.seg[SEG_CS].attr |= SEG_ATTR_DPL;
		g->s.seg[SEG_SS].selector |= 3;
		g->s.seg[SEG_SS].attr |= SEG_ATTR_DPL;
		g->s.rip = GUEST_USER;
		g->s.gpr[GPR_RSP] = GUEST_USER + 0x8000;
	}
	g->irq = one_in(3) ? (int)(rnd() & 0xff) : -1;
	if (g->type->vcpu_set(g->vcpu, &g->s, &err) < 0)
		return;
	if (one_in(4))
		g->type->vcpu_nmi(g->vcpu);
	if (one_in(2))
		run_stepping(g);
	else
		run(g);
	g->type->vcpu_get(g->vcpu, &g->s);
}

static void test_hostile(void **state)
{
	struct guest *g = *state;
	const char *count = getenv("ATOLL_HOSTILE");
	const char *seed = getenv("ATOLL_HOSTILE_SEED");
	unsigned long n = count ? strtoul(count, NULL, 0) : 1500;
	unsigned long first = seed ? strtoul(seed, NULL, 0) : 1;

	signal(SIGALRM, on_alarm);
	for (unsigned long i = 0; i < n; i++) {
		running = first + i;
		random_state = running * 0x9e3779b97f4a7c15u | 1;
		for (unsigned j = 0; j < 4; j++)
			rnd();
		one_case(g);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_hostile, guest_setup,
		                                guest_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
