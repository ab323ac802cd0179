/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an idle vCPU filled when it was busy goes back to the host. The clock
 * that it looks at is made to go faster.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "guest.h"

enum {
	ADDS = 32000,                       /* of two bytes each */
	ROUNDS = 400,                       /* enough for host code */
	OTHER = GUEST_USER + 2 * ADDS + 16, /* code that never ran */
	STORES = 100000,                    /* of two bytes each */
	LARGE = GUEST_USER + 0x20000,
	LOOK_MS = 1100,
	TIMES = 10,
};

static u64 skipped_ns;

u64 __real_loop_now_ns(void);
u64 __wrap_loop_now_ns(void);
u64 __wrap_loop_now_ns(void)
{
	return __real_loop_now_ns() + skipped_ns;
}

static void pass(u64 ms)
{
	skipped_ns += ms * NSEC_PER_MSEC;
}

static size_t resident(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	unsigned long size, pages;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu %lu", &size, &pages), 2);
	fclose(f);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* A figure of the vCPU's; an interpreter keeps none. */
static json_int_t figure(struct guest *g, const char *name)
{
	char *text =
	    g->type->stats_json ? g->type->stats_json(g->engine) : NULL;
	json_t *o = text ? json_loads(text, 0, NULL) : NULL;
	json_t *list = json_object_get(o, "vcpus"), *one = NULL;
	json_int_t n;

	if (list)
		one = json_array_get(list, 0);
	n = json_integer_value(json_object_get(one ? one : o, name));
	json_decref(o);
	free(text);
	return n;
}

/* Times that everything was given up. */
static json_int_t flushes(struct guest *g)
{
	return figure(g, "flushes");
}

static void put_loop(struct guest *g, u64 of)
{
	/* mov ecx, ROUNDS; 1: call of; dec ecx; jnz 1b; hlt */
	static const u8 loop[] = {
		0xb9, ROUNDS & 0xff, ROUNDS >> 8, 0,    0,    0xe8, 0, 0, 0,
		0,    0xff,          0xc9,        0x75, 0xf7, 0xf4
	};
	s32 to = (s32)(of - (GUEST_CODE + 10));

	guest_code(g, loop, sizeof(loop));
	guest_poke(g, GUEST_CODE + 6, &to, 4);
}

static void put_code(struct guest *g)
{
	put_loop(g, GUEST_USER);
	for (unsigned i = 0; i < ADDS; i++) /* inc eax */
		guest_poke(g, GUEST_USER + 2 * i, "\xff\xc0", 2);
	guest_poke(g, GUEST_USER + 2 * ADDS, "\xc3", 1);
}

static void run_all(struct guest *g)
{
	g->s.gpr[GPR_RAX] = 0;
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], (u32)(ADDS * ROUNDS));
}

static void begin(struct guest *g)
{
	guest_long(g);
	put_code(g);
	run_all(g);
}

/* A block that is not known: where a vCPU looks whether it is idle. */
static void run_other(struct guest *g, unsigned n)
{
	guest_poke(g, OTHER + 16 * n, "\xf4", 1);
	g->s.rip = OTHER + 16 * n;
	guest_run_to_halt(g);
}

static void test_handed_back(void **state)
{
	struct guest *g = *state;
	json_int_t before;
	size_t had;

	begin(g);
	/* The time before this is one in which it was not idle. */
	pass(LOOK_MS);
	run_other(g, 0);
	before = flushes(g);
	had = resident();
	pass(LOOK_MS);
	run_other(g, 1);
	assert_true(resident() + ADDS * 48 < had);
	assert_true(flushes(g) > before || !g->type->stats_json);
	run_all(g);
}

/* One that computes in code that it has for long keeps what that was made of.
 */
static void test_kept(void **state)
{
	struct guest *g = *state;
	json_int_t before;
	u64 end;

	begin(g);
	run_other(g, 0);
	before = flushes(g);
	end = loop_now_ns() + (u64)LOOK_MS * NSEC_PER_MSEC;
	while (loop_now_ns() < end)
		run_all(g);
	run_other(g, 1);
	assert_int_equal(flushes(g), before);
	run_all(g);
}

/* ---- asleep ---- */

/* Sleeps as a machine has it sleep, so long at most. */
static void sleep_for(struct guest *g, u64 ms)
{
	u64 end = loop_now_ns() + ms * NSEC_PER_MSEC, now, wait;

	while ((now = loop_now_ns()) < end) {
		wait = g->type->vcpu_rest(g->vcpu);
		if (!wait || wait > end - now)
			wait = end - now;
		pass(wait / NSEC_PER_MSEC + 1);
	}
}

/* Much more host code than code: stores to two pages in turn. */
static void put_large(struct guest *g)
{
	put_loop(g, LARGE);
	for (unsigned i = 0; i < STORES; i++) /* add [rdi or rsi], eax */
		guest_poke(g, LARGE + 2 * i, i % 2 ? "\x01\x07" : "\x01\x06",
		           2);
	guest_poke(g, LARGE + 2 * STORES, "\xc3", 1);
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	g->s.gpr[GPR_RSI] = GUEST_DATA + PAGE_SIZE;
}

static void run_large(struct guest *g)
{
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
}

/* However much it is, and although nothing wakes it. */
static void test_large(void **state)
{
	struct guest *g = *state;
	json_int_t before;
	size_t had;

	guest_long(g);
	put_large(g);
	run_large(g);
	before = flushes(g);
	had = resident();
	sleep_for(g, LOOK_MS);
	assert_int_equal(flushes(g), before);
	sleep_for(g, 60 * 1000);
	assert_true(flushes(g) == before + 1 || !g->type->stats_json);
	assert_true(resident() + STORES * 48 < had);
	run_large(g);
}

/* What is made again and again stays, but for the first times. */
static void test_periodic(void **state)
{
	struct guest *g = *state;
	json_int_t once, made;

	if (!g->type->stats_json)
		skip();
	guest_long(g);
	put_large(g);
	run_large(g);
	once = figure(g, "blocks");
	for (unsigned i = 0; i < TIMES; i++) {
		sleep_for(g, 20 * 1000);
		run_large(g);
	}
	made = figure(g, "blocks") - once;
	assert_in_range(made, 0, (TIMES / 2 + 1) * once);
	assert_in_range(once, STORES / 100, STORES);
}

/* ---- pages that come when they are asked for ---- */

struct source {
	struct guest *g;
	u8 data[16]; /* of GUEST_DATA */
	u8 code[16]; /* of GUEST_CODE */
	unsigned asked;
};

static void come(void *ctx, u8 *host)
{
	struct source *s = ctx;
	u64 gpa = (u64)(host - s->g->ram);

	s->asked++;
	if (gpa == GUEST_DATA)
		memcpy(host, s->data, sizeof(s->data));
	if (gpa == GUEST_CODE)
		memcpy(host, s->code, sizeof(s->code));
	atomic_fetch_and(memory_page_flags(s->g->memory, gpa),
	                 (u8)~PAGE_MISSING);
}

/* One that has let go asks for each page again: for what it read and ran, for
 * its stack and for its tables. */
static void test_lets_go(void **state)
{
	/* 1: mov eax, [rdi]; push rax; pop rbx; dec ecx; jnz 1b; hlt */
	static const u8 loop[] = { 0x8b, 0x07, 0x50, 0x5b, 0xff,
		                   0xc9, 0x75, 0xf8, 0xf4 };
	struct guest *g = *state;
	struct source s = { .g = g, .data = "new" };

	guest_long(g);
	guest_code(g, loop, sizeof(loop));
	guest_poke(g, GUEST_DATA, "old", 4);
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	g->s.gpr[GPR_RCX] = ROUNDS;
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
	assert_int_equal((u32)g->s.gpr[GPR_RBX], 'o' | 'l' << 8 | 'd' << 16);

	g->type->let_go(g->engine);
	memcpy(s.code, loop, sizeof(loop));
	s.code[4] = 0x90; /* once only: nop; hlt */
	s.code[5] = 0xf4;
	memset(g->ram + GUEST_DATA, 0xee, PAGE_SIZE);
	memset(g->ram + GUEST_CODE, 0xcc, PAGE_SIZE);
	memory_set_source(g->memory, come, &s);
	for (u64 gpa = 0; gpa < GUEST_RAM; gpa += PAGE_SIZE)
		atomic_fetch_or(memory_page_flags(g->memory, gpa),
		                PAGE_MISSING);
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
	assert_int_equal(g->s.rip, GUEST_CODE + 6);
	assert_int_equal((u32)g->s.gpr[GPR_RBX], 'n' | 'e' << 8 | 'w' << 16);
	/* Data, code, stack and four tables, at least, and not all. */
	assert_in_range(s.asked, 7, 40);
	memory_set_source(g->memory, NULL, NULL);
}

/* What is made after that is good, and more than there is room for at first. */
static void test_goes_on(void **state)
{
	struct guest *g = *state;
	size_t before, full = resident();

	begin(g);
	full = resident() - full;
	for (unsigned i = 0; i < 2; i++) {
		before = resident();
		g->type->let_go(g->engine);
		assert_true(resident() + full / 2 < before);
		run_all(g);
		run_all(g);
	}
}

/* Code that is written to after nobody has any is seen to be new. */
static void test_code_after_that(void **state)
{
	/* 1: inc eax; mov byte [rdi], 0x90; loop 1b; hlt, which becomes a nop
	 * before it runs. */
	static const u8 code[] = { 0xff, 0xc0, 0xc6, 0x07,
		                   0x90, 0xe2, 0xf9, 0xf4 };
	struct guest *g = *state;

	guest_long(g);
	for (unsigned i = 0; i < 3; i++) {
		guest_code(g, code, sizeof(code));
		g->s.gpr[GPR_RAX] = 0;
		g->s.gpr[GPR_RCX] = 1;
		g->s.gpr[GPR_RDI] = GUEST_CODE + 7;
		g->s.rip = GUEST_CODE;
		guest_poke(g, GUEST_CODE + 8, "\xf4", 1);
		guest_run_to_halt(g);
		assert_int_equal(g->s.gpr[GPR_RAX], 1);
		assert_int_equal(g->s.rip, GUEST_CODE + 9);
		g->type->let_go(g->engine);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_handed_back, guest_setup,
		                                guest_teardown),
		cmocka_unit_test_setup_teardown(test_kept, guest_setup,
		                                guest_teardown),
		cmocka_unit_test_setup_teardown(test_large, guest_setup,
		                                guest_teardown),
		cmocka_unit_test_setup_teardown(test_periodic, guest_setup,
		                                guest_teardown),
		cmocka_unit_test_setup_teardown(test_lets_go, guest_setup,
		                                guest_teardown),
		cmocka_unit_test_setup_teardown(test_goes_on, guest_setup,
		                                guest_teardown),
		cmocka_unit_test_setup_teardown(test_code_after_that,
		                                guest_setup, guest_teardown),
	};

	return cmocka_run_group_tests_name("engine idle", tests, NULL, NULL);
}
