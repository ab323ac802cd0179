/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp_basic_test.c - code of each mode, flags, strings, devices.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "guest.h"

static void test_sum(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_sum);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 500500);
	/* 2 before the loop, 3 a round, HLT; translated code counts none. */
	assert_int_equal(g->type->vcpu_stat(g->vcpu, STAT_INSTRUCTIONS),
	                 strcmp(g->type->name, "bt") ? 2 + 3 * 1000 + 1 : 0);
}

static void test_call(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_call);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 55);
	assert_int_equal(g->s.gpr[GPR_RSP], GUEST_STACK);
}

static void test_flags(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_flags);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RBX] & RFLAGS_STATUS,
	                 RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF);
	assert_int_equal(g->s.gpr[GPR_RCX] & 0xff00 & RFLAGS_STATUS, 0);
	assert_int_equal(g->s.gpr[GPR_RDX] & 0xffff, 0x0101);
	assert_int_equal(g->s.gpr[GPR_R8], 1);
}

static void test_mix32(void **state)
{
	struct guest *g = *state;

	guest_flat32(g, false);
	GUEST_CODE_OF(g, snip32_mix);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RBX], 0x78563412);
	assert_int_equal(guest_peek(g, GUEST_DATA, 4), 0x78563412);
	assert_int_equal(g->s.gpr[GPR_RCX] & 0xffff, 0x3412);
	/* AAM: 0x12 is 18: AH 1, AL 8; DAA leaves 8. */
	assert_int_equal(g->s.gpr[GPR_RAX] & 0xffff, 0x0108);
	assert_int_equal(g->s.gpr[GPR_RSP], GUEST_STACK);
}

static void test_real(void **state)
{
	struct guest *g = *state;

	guest_real(g);
	GUEST_CODE_OF(g, snip16_real);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RBX], 12);
	assert_int_equal(g->s.gpr[GPR_RDX] & 0xffff, 0xbeef);
	assert_int_equal(g->s.gpr[GPR_RDI] & 0xffff, 0x504);
	assert_int_equal(g->s.gpr[GPR_RCX] & 0xffff, 0);
	assert_memory_equal(g->ram + 0x500, "\x83\xc3\x07\xcf", 4);
	assert_int_equal(g->s.gpr[GPR_RSP], GUEST_STACK);
}

static void test_real_wrap(void **state)
{
	struct guest *g = *state;

	guest_real(g);
	g->ram[0] = 0x22;
	g->ram[0xffff] = 0x11;
	GUEST_CODE_OF(g, snip16_wrap);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX] & 0xffff, 0x2211);
}

/* A word at offset 0xffff of a 64 KiB segment is beyond its limit. */
static void test_real_limit(void **state)
{
	struct guest *g = *state;
	static const u16 vector[2] = { 0x600, 0 };
	static const u8 hlt = 0xf4;

	guest_real(g);
	guest_poke(g, VEC_GP * 4, vector, 4);
	guest_poke(g, 0x600, &hlt, 1);
	GUEST_CODE_OF(g, snip16_limit);
	guest_run_to_halt(g);
	assert_int_equal(g->s.rip, 0x601);
	assert_int_equal(guest_peek(g, GUEST_STACK - 6, 2), GUEST_CODE + 3);
}

static void test_real_to_protected(void **state)
{
	struct guest *g = *state;

	guest_flat32(g, false); /* makes the GDT */
	guest_real(g);
	g->s.gdtr = (struct cpu_table){ .base = GUEST_GDT, .limit = 0x5f };
	GUEST_CODE_OF(g, snip16_to32);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RBX], 0x11223344);
	assert_true(g->s.cr0 & CR0_PE);
	assert_int_equal(g->s.seg[SEG_CS].selector, SEL_CODE0);
}

static void test_strings(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	for (unsigned i = 0; i < 0x3000; i++)
		g->ram[GUEST_DATA + i] = (u8)(i * 7);
	GUEST_CODE_OF(g, snip64_rep_movs);
	g->s.gpr[GPR_RSI] = GUEST_DATA + 0x123;
	g->s.gpr[GPR_RDI] = GUEST_DATA + 0x4321;
	g->s.gpr[GPR_RCX] = 0x2345;
	guest_run_to_halt(g);
	assert_memory_equal(g->ram + GUEST_DATA + 0x4321,
	                    g->ram + GUEST_DATA + 0x123, 0x2345);
	assert_int_equal(g->s.gpr[GPR_RSI], GUEST_DATA + 0x123 + 0x2345);
	assert_int_equal(g->s.gpr[GPR_RCX], 0);

	/* An overlap one byte ahead repeats that byte. */
	g->s.rip = GUEST_CODE;
	g->s.gpr[GPR_RSI] = GUEST_DATA;
	g->s.gpr[GPR_RDI] = GUEST_DATA + 1;
	g->s.gpr[GPR_RCX] = 500;
	g->ram[GUEST_DATA] = 0x5a;
	guest_run_to_halt(g);
	for (unsigned i = 0; i <= 500; i++)
		assert_int_equal(g->ram[GUEST_DATA + i], 0x5a);

	/* Backwards. */
	g->s.rip = GUEST_CODE;
	memcpy(g->ram + GUEST_DATA, "abcdefgh", 8);
	g->s.rflags |= RFLAGS_DF;
	g->s.gpr[GPR_RSI] = GUEST_DATA + 5;
	g->s.gpr[GPR_RDI] = GUEST_DATA + 7;
	g->s.gpr[GPR_RCX] = 6;
	guest_run_to_halt(g);
	assert_memory_equal(g->ram + GUEST_DATA, "ababcdef", 8);
	g->s.rflags &= ~(u64)RFLAGS_DF;

	GUEST_CODE_OF(g, snip64_rep_stos);
	g->s.rip = GUEST_CODE;
	g->s.gpr[GPR_RAX] = 0x1122334455667788;
	g->s.gpr[GPR_RDI] = GUEST_DATA + 0xffc;
	g->s.gpr[GPR_RCX] = 1000;
	guest_run_to_halt(g);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(guest_peek(g, GUEST_DATA + 0xffc + i * 8, 8),
		                 0x1122334455667788);
}

static void test_scans(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	memcpy(g->ram + GUEST_DATA, "hello, world", 12);
	memcpy(g->ram + GUEST_DATA + 0x100, "hello, there", 12);
	GUEST_CODE_OF(g, snip64_repe_cmps);
	g->s.gpr[GPR_RSI] = GUEST_DATA;
	g->s.gpr[GPR_RDI] = GUEST_DATA + 0x100;
	g->s.gpr[GPR_RCX] = 12;
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RCX], 4);
	assert_false(g->s.rflags & RFLAGS_ZF);

	GUEST_CODE_OF(g, snip64_repne_scas);
	g->s.rip = GUEST_CODE;
	g->s.gpr[GPR_RAX] = ',';
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	g->s.gpr[GPR_RCX] = 100;
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RDI], GUEST_DATA + 6);
	assert_true(g->s.rflags & RFLAGS_ZF);
}

static void test_mmio(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_mmio);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 0x11223344);
	assert_int_equal(g->s.gpr[GPR_RCX], 0x33);
	assert_int_equal(g->s.gpr[GPR_RDX], 0xffffffffffff0000);
	assert_int_equal(g->mmio_writes, 2);
	assert_int_equal(g->mmio_reads, 3);
}

static void test_ports(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_ports);
	g->in = 0x31;
	guest_run_to_halt(g);
	assert_int_equal(g->outs, 1);
	assert_int_equal(g->out_port[0], 0xe1);
	assert_int_equal(g->out[0], 0xabcd);
	assert_int_equal(g->s.gpr[GPR_RBX] & 0xff, 0x31);
	assert_memory_equal(g->ram + GUEST_DATA, "\x32\x33\x34", 3);
	assert_int_equal(g->s.gpr[GPR_RDI], GUEST_DATA + 3);
}

static void test_atomics(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_lock);
	/* Inside a page, misaligned, and across two pages. */
	for (unsigned i = 0; i < 3; i++) {
		static const u64 at[3] = { GUEST_DATA, GUEST_DATA + 3,
			                   GUEST_DATA + 0xffc };

		guest_poke(g, at[i], &(u64){ 0x1000000020 }, 8);
		g->s.rip = GUEST_CODE;
		g->s.gpr[GPR_RDI] = at[i];
		g->s.gpr[GPR_RAX] = 0x100000003;
		guest_run_to_halt(g);
		assert_int_equal(g->s.gpr[GPR_RAX], 0x1000000020);
		assert_int_equal(guest_peek(g, at[i], 8), 0x1100000023);
	}
	GUEST_CODE_OF(g, snip64_cmpxchg16b);
	guest_poke(g, GUEST_DATA, "0123456789abcdef", 16);
	g->s.rip = GUEST_CODE;
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	g->s.gpr[GPR_RAX] = 1;
	guest_run_to_halt(g);
	assert_false(g->s.rflags & RFLAGS_ZF);
	assert_memory_equal(&g->s.gpr[GPR_RAX], "01234567", 8);
	assert_memory_equal(&g->s.gpr[GPR_RDX], "89abcdef", 8);
	g->s.rip = GUEST_CODE;
	g->s.gpr[GPR_RBX] = 3;
	g->s.gpr[GPR_RCX] = 4;
	guest_run_to_halt(g);
	assert_true(g->s.rflags & RFLAGS_ZF);
	assert_int_equal(guest_peek(g, GUEST_DATA, 8), 3);
	assert_int_equal(guest_peek(g, GUEST_DATA + 8, 8), 4);
}

static void test_vectors(void **state)
{
	struct guest *g = *state;
	double sum;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_sse);
	for (u32 i = 0; i < 4; i++)
		guest_poke(g, GUEST_DATA + 0xff8 + i * 4, &(u32){ i + 1 }, 4);
	g->s.gpr[GPR_RDI] = GUEST_DATA + 0xff8;
	/* The last load is misaligned. */
	guest_expect_fault(g, VEC_GP, 0, GUEST_CODE + 13);
	for (u32 i = 0; i < 4; i++)
		assert_int_equal(guest_peek(g, GUEST_DATA + 0x1008 + i * 4, 4),
		                 2 * (i + 1));

	guest_long(g);
	GUEST_CODE_OF(g, snip64_x87);
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	guest_run_to_halt(g);
	memcpy(&sum, g->ram + GUEST_DATA, 8);
	assert_true(sum > 4.14159 && sum < 4.1416);
}

static void test_gather(void **state)
{
	struct guest *g = *state;

	if (!cpuid_has(g->cpuid, FEATURE_AVX2))
		skip();
	guest_long(g);
	g->s.cr4 |= CR4_OSXSAVE;
	GUEST_CODE_OF(g, snip64_gather);
	for (u32 i = 0; i < 8; i++) {
		guest_poke(g, GUEST_DATA + i * 4, &(u32){ 7 - i }, 4);
		guest_poke(g, GUEST_DATA + 0xff0 + i * 4, &(u32){ 100 + i }, 4);
	}
	g->s.gpr[GPR_RSI] = GUEST_DATA;
	g->s.gpr[GPR_RDI] = GUEST_DATA + 0xff0;
	g->s.gpr[GPR_RDX] = GUEST_DATA + 0x3000;
	guest_run_to_halt(g);
	for (u32 i = 0; i < 8; i++)
		assert_int_equal(guest_peek(g, GUEST_DATA + 0x3000 + i * 4, 4),
		                 107 - i);
}

#define TEST(name)                                                             \
	cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_sum),        TEST(test_call),
		TEST(test_flags),      TEST(test_mix32),
		TEST(test_real),       TEST(test_real_wrap),
		TEST(test_real_limit), TEST(test_real_to_protected),
		TEST(test_strings),    TEST(test_scans),
		TEST(test_mmio),       TEST(test_ports),
		TEST(test_atomics),    TEST(test_vectors),
		TEST(test_gather),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
