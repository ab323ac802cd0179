/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp_fault_test.c - paging and exceptions: vectors, error codes, where
 * they return to, and that nothing was changed.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "guest.h"

static void start(struct guest *g, u64 rdi)
{
	guest_long(g);
	g->s.gpr[GPR_RDI] = rdi;
	g->s.gpr[GPR_RAX] = 0x1122334455667788;
}

static void test_not_present(void **state)
{
	struct guest *g = *state;

	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = 0;
	GUEST_CODE_OF(g, snip64_load);
	guest_expect_fault(g, VEC_PF, 0, GUEST_CODE);
	assert_int_equal(g->s.cr2, GUEST_DATA);

	start(g, GUEST_DATA + 5);
	*guest_pte(g, GUEST_DATA) = 0;
	GUEST_CODE_OF(g, snip64_store);
	guest_expect_fault(g, VEC_PF, PF_W, GUEST_CODE);
	assert_int_equal(g->s.cr2, GUEST_DATA + 5);

	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = 0;
	GUEST_CODE_OF(g, snip64_jump);
	guest_expect_fault(g, VEC_PF, PF_I, GUEST_DATA);
}

static void test_rights(void **state)
{
	struct guest *g = *state;

	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = GUEST_DATA | 1;
	GUEST_CODE_OF(g, snip64_store);
	guest_expect_fault(g, VEC_PF, PF_W | PF_P, GUEST_CODE);

	/* A read-modify-write faults as a write, and reads nothing. */
	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = GUEST_DATA | 1;
	GUEST_CODE_OF(g, snip64_rmw);
	guest_expect_fault(g, VEC_PF, PF_W | PF_P, GUEST_CODE);

	/* CR0.WP clear: the supervisor writes where it likes. */
	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = GUEST_DATA | 1;
	g->s.cr0 &= ~CR0_WP;
	GUEST_CODE_OF(g, snip64_store);
	guest_run_to_halt(g);
	assert_int_equal(guest_peek(g, GUEST_DATA, 8), 0x1122334455667788);

	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = GUEST_DATA | 3 | BIT(63);
	GUEST_CODE_OF(g, snip64_jump);
	guest_expect_fault(g, VEC_PF, PF_I | PF_P, GUEST_DATA);

	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = GUEST_DATA | 3 | BIT(51);
	GUEST_CODE_OF(g, snip64_load);
	guest_expect_fault(g, VEC_PF, PF_RSVD | PF_P, GUEST_CODE);
}

static void test_supervisor_protection(void **state)
{
	struct guest *g = *state;
	static const u8 hlt = 0xf4;

	start(g, GUEST_USER);
	guest_poke(g, GUEST_USER, &hlt, 1);
	g->s.cr4 |= CR4_SMEP;
	GUEST_CODE_OF(g, snip64_jump);
	guest_expect_fault(g, VEC_PF, PF_I | PF_P, GUEST_USER);

	start(g, GUEST_USER);
	g->s.cr4 |= CR4_SMAP;
	GUEST_CODE_OF(g, snip64_stac);
	guest_expect_fault(g, VEC_PF, PF_P, GUEST_CODE);

	start(g, GUEST_USER);
	g->s.cr4 |= CR4_SMAP;
	GUEST_CODE_OF(g, snip64_stac_ok);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RBX], guest_peek(g, GUEST_USER, 8));
	assert_false(g->s.rflags & RFLAGS_AC);
}

static void test_accessed_dirty(void **state)
{
	struct guest *g = *state;
	u64 *pte;

	start(g, GUEST_DATA);
	pte = guest_pte(g, GUEST_DATA);
	GUEST_CODE_OF(g, snip64_load);
	guest_run_to_halt(g);
	assert_int_equal(*pte & 0xfff, 0x23);
	GUEST_CODE_OF(g, snip64_store);
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
	assert_int_equal(*pte & 0xfff, 0x63);
	assert_true(*memory_page_flags(g->memory, GUEST_DATA) & PAGE_DIRTY);
}

/* Across two pages, the second bad: the first is not written. */
static void test_crossing(void **state)
{
	struct guest *g = *state;
	u64 at = GUEST_DATA + 0xffd, before;

	start(g, at);
	*guest_pte(g, GUEST_DATA + 0x1000) = 0;
	before = guest_peek(g, GUEST_DATA + 0xff8, 8);
	GUEST_CODE_OF(g, snip64_store);
	guest_expect_fault(g, VEC_PF, PF_W, GUEST_CODE);
	assert_int_equal(g->s.cr2, GUEST_DATA + 0x1000);
	assert_int_equal(guest_peek(g, GUEST_DATA + 0xff8, 8), before);

	start(g, at);
	GUEST_CODE_OF(g, snip64_store);
	guest_run_to_halt(g);
	assert_int_equal(guest_peek(g, at, 8), 0x1122334455667788);

	start(g, at);
	*guest_pte(g, GUEST_DATA + 0x1000) = 0;
	GUEST_CODE_OF(g, snip64_lock);
	guest_expect_fault(g, VEC_PF, PF_W, GUEST_CODE);
	assert_int_equal(g->s.gpr[GPR_RAX] & 0xff, VEC_PF);
}

/* PUSH that faults leaves RSP; so does one that is not canonical. */
static void test_push(void **state)
{
	struct guest *g = *state;

	start(g, 0);
	*guest_pte(g, GUEST_DATA) = 0;
	g->s.gpr[GPR_RSP] = GUEST_DATA + 0x1000;
	GUEST_CODE_OF(g, snip64_push);
	/* IST 1, for the stack is bad. */
	guest_poke(g, GUEST_IDT + VEC_PF * 16 + 4, &(u8){ 1 }, 1);
	guest_expect_fault(g, VEC_PF, PF_W, GUEST_CODE);
	assert_int_equal(guest_peek(g, g->s.gpr[GPR_RSP] + 32, 8),
	                 GUEST_DATA + 0x1000);

	start(g, 0x0000800000000000);
	GUEST_CODE_OF(g, snip64_load);
	guest_expect_fault(g, VEC_GP, 0, GUEST_CODE);

	start(g, 0);
	g->s.gpr[GPR_RSP] = 0x0000800000000008;
	guest_poke(g, GUEST_IDT + VEC_SS * 16 + 4, &(u8){ 1 }, 1);
	GUEST_CODE_OF(g, snip64_push);
	guest_expect_fault(g, VEC_SS, 0, GUEST_CODE);
}

/* A repeated string stops at the bad page, ready to go on. */
static void test_rep_fault(void **state)
{
	struct guest *g = *state;
	u64 frame;

	start(g, GUEST_DATA + 0xff0);
	g->s.gpr[GPR_RSI] = GUEST_DATA + 0x8000;
	g->s.gpr[GPR_RCX] = 100;
	*guest_pte(g, GUEST_DATA + 0x1000) = 0;
	memset(g->ram + GUEST_DATA + 0x8000, 0x77, 100);
	GUEST_CODE_OF(g, snip64_rep_movs);
	guest_expect_fault(g, VEC_PF, PF_W, GUEST_CODE);
	assert_int_equal(g->s.gpr[GPR_RCX], 84);
	assert_int_equal(g->s.gpr[GPR_RDI], GUEST_DATA + 0x1000);
	assert_int_equal(g->s.gpr[GPR_RSI], GUEST_DATA + 0x8010);
	assert_int_equal(g->ram[GUEST_DATA + 0xfff], 0x77);
	frame = g->s.gpr[GPR_RSP];
	assert_true(guest_peek(g, frame + 24, 8) & RFLAGS_RF);
}

static void test_exceptions(void **state)
{
	struct guest *g = *state;

	start(g, 0);
	GUEST_CODE_OF(g, snip64_divide);
	guest_expect_fault(g, VEC_DE, -1, GUEST_CODE + 9);
	start(g, 0);
	GUEST_CODE_OF(g, snip64_ud);
	guest_expect_fault(g, VEC_UD, -1, GUEST_CODE);
	start(g, 0);
	GUEST_CODE_OF(g, snip64_int3);
	guest_expect_fault(g, VEC_BP, -1, GUEST_CODE + 1);
	start(g, 0);
	g->s.gpr[GPR_RCX] = 0x12345678;
	GUEST_CODE_OF(g, snip64_wrmsr);
	guest_expect_fault(g, VEC_GP, 0, GUEST_CODE);
	start(g, 0);
	g->s.gpr[GPR_RAX] = BIT(22) | CR4_PAE;
	GUEST_CODE_OF(g, snip64_mov_cr4);
	guest_expect_fault(g, VEC_GP, 0, GUEST_CODE);
	start(g, 0);
	g->s.gpr[GPR_RAX] = CR0_PG;
	GUEST_CODE_OF(g, snip64_mov_cr0);
	guest_expect_fault(g, VEC_GP, 0, GUEST_CODE);
	/* An absent gate: #NP with its index. */
	start(g, 0);
	guest_poke(g, GUEST_IDT + VEC_UD * 16 + 5, &(u8){ 0x0e }, 1);
	GUEST_CODE_OF(g, snip64_ud);
	guest_expect_fault(g, VEC_NP, VEC_UD * 8 + 3, GUEST_CODE);
}

static void test_double_fault(void **state)
{
	struct guest *g = *state;

	/* #PF, whose handler's gate is absent: #DF. */
	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = 0;
	guest_poke(g, GUEST_IDT + VEC_PF * 16 + 5, &(u8){ 0x0e }, 1);
	GUEST_CODE_OF(g, snip64_load);
	guest_expect_fault(g, VEC_DF, 0, GUEST_CODE);

	/* And with that absent too, the end. */
	start(g, GUEST_DATA);
	*guest_pte(g, GUEST_DATA) = 0;
	g->s.idtr.limit = 0;
	GUEST_CODE_OF(g, snip64_load);
	guest_run(g);
	assert_int_equal(g->exit.reason, EXIT_SHUTDOWN);
	assert_non_null(g->exit.words);
	assert_int_equal(g->s.rip, GUEST_CODE);
}

static void poke_user(struct guest *g, const u8 *from, const u8 *to)
{
	guest_poke(g, GUEST_USER, from, (size_t)(to - from));
}
#define USER_CODE(g, name)                                                     \
	do {                                                                   \
		extern const u8 name[], name##_end[];                          \
		poke_user(g, name, name##_end);                                \
	} while (0)

static void test_user(void **state)
{
	struct guest *g = *state;
	u64 sp;

	start(g, 0);
	GUEST_CODE_OF(g, snip64_to_user);
	USER_CODE(g, user64_int80);
	guest_run_to_halt(g);
	assert_int_equal(g->out[0], 0x80);
	sp = g->s.gpr[GPR_RSP];
	assert_int_equal(sp, GUEST_STACK0 - 40);
	assert_int_equal(guest_peek(g, sp, 8), GUEST_USER + 7);
	assert_int_equal(guest_peek(g, sp + 8, 8), SEL_CODE3);
	assert_int_equal(guest_peek(g, sp + 24, 8), GUEST_USER + 0x8000);
	assert_int_equal(guest_peek(g, sp + 32, 8), SEL_DATA3);
	assert_int_equal(g->s.seg[SEG_SS].selector, 0);
	assert_int_equal(cpu_state_cpl(&g->s), 0);

	start(g, 0);
	GUEST_CODE_OF(g, snip64_to_user);
	USER_CODE(g, user64_privileged);
	guest_expect_fault(g, VEC_GP, 0, GUEST_USER);

	/* A supervisor page is not the user's. */
	start(g, GUEST_DATA);
	GUEST_CODE_OF(g, snip64_to_user);
	USER_CODE(g, user64_store);
	guest_expect_fault(g, VEC_PF, PF_U | PF_W | PF_P, GUEST_USER);
}

static void test_syscall(void **state)
{
	struct guest *g = *state;
	extern const u8 snip64_syscall_entry[], snip64_syscall_entry_end[];

	start(g, 0);
	GUEST_CODE_OF(g, snip64_to_user);
	USER_CODE(g, user64_syscall);
	guest_poke(g, 0x9000, snip64_syscall_entry,
	           (size_t)(snip64_syscall_entry_end - snip64_syscall_entry));
	g->s.lstar = 0x9000;
	g->s.star = (u64)SEL_CODE0 << 32;
	g->s.sfmask = RFLAGS_IF;
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_R14], GUEST_USER + 2);
	assert_true(g->s.gpr[GPR_R11] & RFLAGS_IF);
	assert_false(g->s.rflags & RFLAGS_IF);
	assert_int_equal(g->s.seg[SEG_SS].selector, SEL_DATA0);
	assert_int_equal(g->s.gpr[GPR_RSP], GUEST_USER + 0x8000);
}

static void test_umip(void **state)
{
	struct guest *g = *state;
	extern const u8 snip64_sgdt[], snip64_sgdt_end[];

	start(g, GUEST_USER + 0x100);
	GUEST_CODE_OF(g, snip64_to_user);
	poke_user(g, snip64_sgdt, snip64_sgdt_end);
	g->s.cr4 |= CR4_UMIP;
	guest_expect_fault(g, VEC_GP, 0, GUEST_USER);
}

#define TEST(name)                                                             \
	cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_not_present),
		TEST(test_rights),
		TEST(test_supervisor_protection),
		TEST(test_accessed_dirty),
		TEST(test_crossing),
		TEST(test_push),
		TEST(test_rep_fault),
		TEST(test_exceptions),
		TEST(test_double_fault),
		TEST(test_user),
		TEST(test_syscall),
		TEST(test_umip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
