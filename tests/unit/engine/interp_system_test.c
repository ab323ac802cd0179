/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp_system_test.c - interrupts, tasks, V86, segments, self-modifying
 * code, debugging.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/interp/icpu.h"
#include "guest.h"

/* ---- self-modifying code ---- */
static void test_smc(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_smc_next);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 2);

	guest_long(g);
	GUEST_CODE_OF(g, snip64_smc_call);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RSI], 1);
	assert_int_equal(g->s.gpr[GPR_RDI], 7);
}

/* Another mapping of the code, and a write from outside (DMA). */
static void test_smc_outside(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_sum);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 500500);
	/* mov $1000 becomes mov $10. */
	guest_poke(g, GUEST_CODE + 3, &(u32){ 10 }, 4);
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 55);

	/* By the guest, through another linear address. */
	guest_long(g);
	GUEST_CODE_OF(g, snip64_sum);
	guest_run_to_halt(g);
	guest_poke(g, 0x9000, "\x66\x89\x07\xf4", 4); /* mov %ax,(%rdi); hlt */
	*guest_pte(g, GUEST_DATA) = (GUEST_CODE & ~0xfffu) | 3;
	g->s.rip = 0x9000;
	g->s.gpr[GPR_RAX] = 4;
	g->s.gpr[GPR_RDI] = GUEST_DATA + (GUEST_CODE & 0xfff) + 3;
	guest_run_to_halt(g);
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 10);
}

/* ---- interrupts ---- */
static void test_interrupt(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_sti_shadow);
	g->irq = 0x55;
	guest_run_to_halt(g);
	assert_int_equal(g->out[0], 0x55);
	/* One instruction after STI has run. */
	assert_int_equal(guest_peek(g, g->s.gpr[GPR_RSP], 8), GUEST_CODE + 6);
	assert_int_equal(g->irq, -1);
}

static void test_tpr(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_cr8);
	g->irq = 0x45;
	guest_run_to_halt(g);
	assert_int_equal(g->out[0], 0x45);
	assert_int_equal(g->tpr, 0);
	/* Not before the second write to CR8. */
	assert_true(guest_peek(g, g->s.gpr[GPR_RSP], 8) >= GUEST_CODE + 17);
}

static void test_halt(void **state)
{
	struct guest *g = *state;
	struct error *none = NULL;

	guest_long(g);
	guest_poke(g, GUEST_CODE, "\xfb\xf4\xf4", 3); /* sti; hlt; hlt */
	guest_run_to_halt(g);
	assert_int_equal(g->s.mp_state, CPU_HALTED);
	/* Nothing came: still halted. */
	g->type->vcpu_run(g->vcpu, &g->exit);
	assert_int_equal(g->exit.reason, EXIT_HALT);
	g->type->vcpu_get(g->vcpu, &g->s);
	assert_int_equal(g->s.rip, GUEST_CODE + 2);
	g->irq = 0x31;
	g->type->vcpu_attention(g->vcpu);
	g->type->vcpu_run(g->vcpu, &g->exit);
	g->type->vcpu_get(g->vcpu, &g->s);
	assert_int_equal(g->out[0], 0x31);
	assert_int_equal(guest_peek(g, g->s.gpr[GPR_RSP], 8), GUEST_CODE + 2);

	/* An NMI wakes whatever IF says. */
	g->s.rip = GUEST_CODE + 1;
	g->s.rflags &= ~(u64)RFLAGS_IF;
	g->s.mp_state = CPU_RUNNING;
	g->outs = 0;
	assert_int_equal(g->type->vcpu_set(g->vcpu, &g->s, none), 0);
	g->type->vcpu_run(g->vcpu, &g->exit);
	assert_int_equal(g->exit.reason, EXIT_HALT);
	g->type->vcpu_nmi(g->vcpu);
	g->type->vcpu_run(g->vcpu, &g->exit);
	assert_int_equal(g->out[0], VEC_NMI);
	g->type->vcpu_get(g->vcpu, &g->s);
	assert_true(g->s.events.nmi_masked);
}

static void *kicker(void *ctx)
{
	struct guest *g = ctx;
	struct timespec t = { .tv_nsec = 20000000 };

	nanosleep(&t, NULL);
	g->type->vcpu_kick(g->vcpu);
	return NULL;
}

static void test_kick(void **state)
{
	struct guest *g = *state;
	pthread_t thread;

	guest_long(g);
	guest_poke(g, GUEST_CODE, "\xeb\xfe", 2); /* jmp . */
	assert_int_equal(pthread_create(&thread, NULL, kicker, g), 0);
	guest_run(g);
	assert_int_equal(g->exit.reason, EXIT_KICK);
	assert_int_equal(g->s.rip, GUEST_CODE);
	pthread_join(thread, NULL);
	/* Sticky. */
	g->type->vcpu_kick(g->vcpu);
	guest_run(g);
	assert_int_equal(g->exit.reason, EXIT_KICK);
}

/* ---- segments and tasks ---- */
static void test_segments(void **state)
{
	struct guest *g = *state;

	guest_flat32(g, false);
	guest_poke(g, GUEST_GDT + 0x58, &(u64){ 0x004093040000000f }, 8);
	guest_poke(g, GUEST_DATA + 12, &(u32){ 77 }, 4);
	GUEST_CODE_OF(g, snip32_limit);
	guest_expect_fault(g, VEC_GP, 0, GUEST_CODE + 12);
	assert_int_equal(g->s.gpr[GPR_RBX], 77);

	guest_flat32(g, false);
	GUEST_CODE_OF(g, snip32_null);
	guest_expect_fault(g, VEC_GP, 0, GUEST_CODE + 4);

	/* A segment that is not present. */
	guest_flat32(g, false);
	guest_poke(g, GUEST_GDT + 0x58, &(u64){ 0x004013040000000f }, 8);
	GUEST_CODE_OF(g, snip32_limit);
	guest_expect_fault(g, VEC_NP, 0x58, GUEST_CODE + 4);
}

static void test_user32(void **state)
{
	struct guest *g = *state;
	extern const u8 user32_int80[], user32_int80_end[];

	guest_flat32(g, true);
	GUEST_CODE_OF(g, snip32_user);
	guest_poke(g, GUEST_USER, user32_int80,
	           (size_t)(user32_int80_end - user32_int80));
	guest_run_to_halt(g);
	assert_int_equal(g->out[0], 0x80);
	assert_int_equal(g->s.gpr[GPR_RSP], GUEST_STACK0 - 20);
	assert_int_equal(guest_peek(g, GUEST_STACK0 - 20, 4), GUEST_USER + 7);
	assert_int_equal(guest_peek(g, GUEST_STACK0 - 8, 4),
	                 GUEST_USER + 0x8000);
	assert_int_equal(guest_peek(g, GUEST_STACK0 - 4, 4), SEL_DATA3);
}

static void test_task_switch(void **state)
{
	struct guest *g = *state;
	extern const u8 task32[], task32_end[];
	u32 tss[26] = { 0 };
	u64 base = GUEST_TSS + 0x800;

	guest_flat32(g, false);
	GUEST_CODE_OF(g, snip32_task);
	guest_poke(g, 0x9000, task32, (size_t)(task32_end - task32));
	tss[8] = 0x9000;                         /* EIP */
	tss[9] = 2;                              /* EFLAGS */
	tss[14] = 0xe000;                        /* ESP */
	tss[18] = tss[20] = tss[21] = SEL_DATA0; /* ES SS DS */
	tss[19] = SEL_CODE0;
	guest_poke(g, base, tss, sizeof(tss));
	guest_run_to_halt(g);
	assert_int_equal(g->out_port[0], 0xe2);
	assert_int_equal(g->s.gpr[GPR_RBX], 0x77);
	assert_int_equal(g->s.tr.selector, SEL_TSS);
	assert_true(g->s.cr0 & CR0_TS);
	/* The link, and the new task not busy any more. */
	assert_int_equal(guest_peek(g, base, 2), SEL_TSS);
	assert_int_equal(guest_peek(g, GUEST_GDT + SEL_TSS2 + 5, 1), 0x89);
	/* Its EIP is saved after the IRET. */
	assert_int_equal(guest_peek(g, base + 0x20, 4), 0x9005);
}

static void test_v86(void **state)
{
	struct guest *g = *state;
	extern const u8 v86_code[], v86_code_end[];
	extern const u8 v86_cli[], v86_cli_end[];
	u64 sp;

	guest_flat32(g, false);
	GUEST_CODE_OF(g, snip32_v86);
	guest_poke(g, 0x20000, v86_code, (size_t)(v86_code_end - v86_code));
	guest_run_to_halt(g);
	assert_int_equal(g->out[0], 0x80);
	assert_int_equal(g->s.gpr[GPR_RBX] & 0xffff, 0x1234);
	assert_int_equal(guest_peek(g, 0x40000, 2), 0x1234);
	sp = g->s.gpr[GPR_RSP];
	assert_int_equal(sp, GUEST_STACK0 - 36);
	assert_int_equal(guest_peek(g, sp + 4, 4), 0x2000); /* CS */
	assert_true(guest_peek(g, sp + 8, 4) & RFLAGS_VM);
	assert_int_equal(guest_peek(g, sp + 12, 4), 0xfff0);
	assert_int_equal(guest_peek(g, sp + 16, 4), 0x3000);
	assert_int_equal(guest_peek(g, sp + 24, 4), 0x4000); /* DS */
	assert_false(g->s.rflags & RFLAGS_VM);
	assert_int_equal(g->s.seg[SEG_DS].selector, 0);

	/* IOPL below 3: CLI and INT n are the monitor's business. */
	guest_flat32(g, false);
	GUEST_CODE_OF(g, snip32_v86_iopl0);
	guest_poke(g, 0x20000, v86_cli, (size_t)(v86_cli_end - v86_cli));
	guest_expect_fault(g, VEC_GP, 0, 0);

	/* VME: CLI clears VIF instead. */
	guest_flat32(g, false);
	g->s.cr4 |= CR4_VME;
	GUEST_CODE_OF(g, snip32_v86_iopl0);
	guest_poke(g, 0x20000, "\xfb\xcc", 2); /* sti; int3 */
	guest_run_to_halt(g);
	assert_int_equal(g->out[0], VEC_BP);
	sp = g->s.gpr[GPR_RSP];
	assert_true(guest_peek(g, sp + 8, 4) & RFLAGS_VIF);
}

/* ---- debugging ---- */
static void test_single_step(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_tf);
	guest_expect_fault(g, VEC_DB, -1, GUEST_CODE + 10);
	assert_true(g->s.dr[6] & BIT(14));
	assert_false(g->s.rflags & RFLAGS_TF);
}

static void test_debug_registers(void **state)
{
	struct guest *g = *state;

	/* Execution: a fault at the instruction. */
	guest_long(g);
	GUEST_CODE_OF(g, snip64_sum);
	g->s.dr[0] = GUEST_CODE + 7;
	g->s.dr[7] = 0x402;
	guest_expect_fault(g, VEC_DB, -1, GUEST_CODE + 7);
	assert_int_equal(g->s.dr[6] & 15, 1);

	/* A write: a trap after it. */
	guest_long(g);
	GUEST_CODE_OF(g, snip64_store);
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	g->s.dr[1] = GUEST_DATA + 4;
	g->s.dr[7] = 0x400 | 8 | 0xd << 20;
	guest_expect_fault(g, VEC_DB, -1, GUEST_CODE + 3);
	assert_int_equal(g->s.dr[6] & 15, 2);
}

static void test_debugger(void **state)
{
	struct guest *g = *state;
	struct vcpu_breakpoint p = { .kind = BREAK_EXEC, .size = 1 };

	guest_long(g);
	GUEST_CODE_OF(g, snip64_sum);
	p.address = GUEST_CODE + 10;
	g->type->vcpu_debug(g->vcpu, &p, 1, false);
	guest_run(g);
	assert_int_equal(g->exit.reason, EXIT_DEBUG);
	assert_false(g->exit.debug.step);
	assert_int_equal(g->exit.debug.address, p.address);
	assert_int_equal(g->s.rip, p.address);
	assert_int_equal(g->s.gpr[GPR_RAX], 1000);
	/* On from there: once round the loop. */
	guest_run(g);
	assert_int_equal(g->exit.reason, EXIT_DEBUG);
	assert_int_equal(g->s.gpr[GPR_RAX], 1999);
	/* Two steps. */
	g->type->vcpu_debug(g->vcpu, NULL, 0, true);
	guest_run(g);
	assert_true(g->exit.debug.step);
	assert_int_equal(g->s.rip, GUEST_CODE + 12);
	guest_run(g);
	assert_int_equal(g->s.rip, GUEST_CODE + 7);

	guest_long(g);
	GUEST_CODE_OF(g, snip64_store);
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	p = (struct vcpu_breakpoint){ BREAK_WRITE, GUEST_DATA + 2, 1 };
	g->type->vcpu_debug(g->vcpu, &p, 1, false);
	guest_run(g);
	assert_int_equal(g->exit.reason, EXIT_DEBUG);
	assert_int_equal(g->exit.debug.address, GUEST_DATA + 2);
	assert_int_equal(g->s.rip, GUEST_CODE + 3);
	g->type->vcpu_debug(g->vcpu, NULL, 0, false);
	guest_run_to_halt(g);
}

static void test_translate(void **state)
{
	struct guest *g = *state;
	gpa_t gpa = 0;

	guest_long(g);
	*guest_pte(g, GUEST_DATA) = 0x123000 | 1;
	GUEST_CODE_OF(g, snip64_sum);
	guest_run_to_halt(g);
	assert_true(g->type->vcpu_translate(g->vcpu, GUEST_DATA + 5, &gpa));
	assert_int_equal(gpa, 0x123005);
	/* Looking sets no accessed bit. */
	assert_int_equal(*guest_pte(g, GUEST_DATA), 0x123000 | 1);
	assert_false(g->type->vcpu_translate(g->vcpu, (u64)1 << 40, &gpa));
}

/* A page cleared in the log is seen written again. */
static void test_dirty_log(void **state)
{
	struct guest *g = *state;
	_Atomic u8 *flags;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_store);
	g->s.gpr[GPR_RDI] = GUEST_DATA;
	guest_run_to_halt(g);
	flags = memory_page_flags(g->memory, GUEST_DATA);
	assert_true(*flags & PAGE_DIRTY);
	assert_int_equal(g->type->dirty_start(g->engine), 0);
	atomic_fetch_and(flags, (u8)~PAGE_DIRTY);
	g->type->dirty_sync(g->engine);
	g->s.rip = GUEST_CODE;
	guest_run_to_halt(g);
	assert_true(*flags & PAGE_DIRTY);
	g->type->dirty_stop(g->engine);
}

/* What is set comes back. */
static void test_state(void **state)
{
	struct guest *g = *state;
	struct cpu_state got;

	guest_long(g);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		g->s.gpr[i] = 0x0101010101010101 * i;
	g->s.rflags = 0x202 | RFLAGS_STATUS | RFLAGS_AC;
	g->s.dr[3] = 0x1234;
	g->s.kernel_gs_base = 0xffff800000001000;
	g->s.pat = 0x0007010600070106;
	g->s.mtrr.fixed[3] = 0x0606060606060606;
	g->s.events.nmi_masked = true;
	g->s.xsave[CPU_XSAVE_XMM] = 0x42;
	g->s.xsave[CPU_XSAVE_HEADER] = 7;
	assert_int_equal(g->type->vcpu_set(g->vcpu, &g->s, NULL), 0);
	g->type->vcpu_get(g->vcpu, &got);
	assert_true(got.tsc >= g->s.tsc);
	got.tsc = g->s.tsc;
	assert_memory_equal(got.gpr, g->s.gpr, sizeof(got.gpr));
	assert_memory_equal(got.seg, g->s.seg, sizeof(got.seg));
	assert_int_equal(got.rflags, g->s.rflags);
	assert_int_equal(got.dr[3], 0x1234);
	assert_int_equal(got.kernel_gs_base, g->s.kernel_gs_base);
	assert_int_equal(got.pat, g->s.pat);
	assert_memory_equal(&got.mtrr, &g->s.mtrr, sizeof(got.mtrr));
	assert_true(got.events.nmi_masked);
	assert_memory_equal(got.xsave + CPU_XSAVE_XMM,
	                    g->s.xsave + CPU_XSAVE_XMM,
	                    sizeof(got.xsave) - CPU_XSAVE_XMM);
}

/* Who posts an NMI counts it first, and calls for attention when it may have
 * been taken already. */
static void test_nmi_once(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_code(g, "\xf4", 1);
	icpu_attend((struct icpu *)g->vcpu, ATTEND_NMI);
	guest_run_to_halt(g);
	assert_int_equal(g->outs, 0);
	assert_int_equal(g->s.rip, GUEST_CODE + 1);
	assert_false(g->s.events.nmi_masked);
}

static u64 cpuid_edx(struct guest *g, u64 apic_base)
{
	guest_long(g);
	guest_code(g, "\xb8\x01\x00\x00\x00\x0f\xa2\xf4", 8);
	g->apic_base = apic_base;
	guest_run_to_halt(g);
	return g->s.gpr[GPR_RDX];
}

static void test_apic_off(void **state)
{
	struct guest *g = *state;

	assert_true(cpuid_edx(g, 0xfee00900) & BIT(9));
	assert_false(cpuid_edx(g, 0xfee00100) & BIT(9));
}

static void test_hypercall(void **state)
{
	static const u64 want[] = { 10, ~(u64)0, 2, 3, 4 };
	struct guest *g = *state;

	guest_long(g);
	guest_code(g, "\x0f\x01\xd9\xf4", 4); /* vmmcall; hlt */
	g->s.gpr[GPR_RAX] = want[0];
	g->s.gpr[GPR_RBX] = want[1];
	g->s.gpr[GPR_RCX] = want[2];
	g->s.gpr[GPR_RDX] = want[3];
	g->s.gpr[GPR_RSI] = want[4];
	guest_run_to_halt(g);
	assert_memory_equal(g->hypercall, want, sizeof(want));
	assert_int_equal(g->s.gpr[GPR_RAX], (u64)-22);
}

#define TEST(name)                                                             \
	cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_smc),         TEST(test_smc_outside),
		TEST(test_interrupt),   TEST(test_tpr),
		TEST(test_halt),        TEST(test_kick),
		TEST(test_segments),    TEST(test_user32),
		TEST(test_task_switch), TEST(test_v86),
		TEST(test_single_step), TEST(test_debug_registers),
		TEST(test_debugger),    TEST(test_translate),
		TEST(test_dirty_log),   TEST(test_state),
		TEST(test_nmi_once),    TEST(test_apic_off),
		TEST(test_hypercall),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
