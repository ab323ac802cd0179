/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole state of a vCPU and of the kernel's chips, out and in again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/kvm/kvm_irqchip.h"
#include "engine/x86/cpuid.h"
#include "kvm_harness.h"
#include "kvm_tests.h"

enum { PML4 = 0x10000, PDPT = 0x11000, PD = 0x12000, PT = 0x13000 };

static void put_u64(struct harness *h, gpa_t at, u64 value)
{
	assert_true(memory_write(h->memory, at, &value, sizeof(value)));
}

/* 2 MiB at 0; page 0x400000 is page 0x5000, the next is not present. */
static void make_tables(struct harness *h)
{
	put_u64(h, PML4, PDPT | 3);
	put_u64(h, PDPT, PD | 3);
	put_u64(h, PD, 0x83);
	put_u64(h, PD + 16, PT | 3);
	put_u64(h, PT, 0x5000 | 3);
}

static void segment(struct cpu_segment *s, u16 selector, u64 base, u16 attr)
{
	*s = (struct cpu_segment){ .selector = selector,
		                   .base = base,
		                   .limit = 0xffffffff,
		                   .attr = attr };
}

/* A 64-bit kernel in the middle of its work, each register with a value that
 * no other has. */
static void fill_state(struct cpu_state *cpu, bool avx)
{
	u32 mxcsr = 0x1fa0;
	u64 bv = XCR0_X87 | XCR0_SSE | (avx ? XCR0_AVX : 0);

	cpu_state_reset(cpu, true, 0);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		cpu->gpr[i] = 0x1111000000000000 + i * 0x0001000100010001;
	cpu->rip = 0xffffffff81000123;
	cpu->rflags = RFLAGS_FIXED | RFLAGS_CF | RFLAGS_DF | RFLAGS_ID;
	segment(&cpu->seg[SEG_CS], 0x10, 0, 0xa09b);
	segment(&cpu->seg[SEG_SS], 0x18, 0, 0xc093);
	segment(&cpu->seg[SEG_DS], 0x18, 0, 0xc093);
	segment(&cpu->seg[SEG_ES], 0x2b, 0, 0xc0f3);
	segment(&cpu->seg[SEG_FS], 0, 0x00007f0012345000, 0xc093);
	segment(&cpu->seg[SEG_GS], 0, 0xffff888000001000, 0xc093);
	segment(&cpu->ldtr, 0x50, 0xffff888000002000, 0x0082);
	cpu->ldtr.limit = 0x27;
	segment(&cpu->tr, 0x40, 0xffff888000003000, 0x008b);
	cpu->tr.limit = 0x206f;
	cpu->gdtr = (struct cpu_table){ 0xffff888000004000, 0x7f };
	cpu->idtr = (struct cpu_table){ 0xffff888000005000, 0xfff };
	cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	cpu->cr2 = 0x7f00deadbeef;
	cpu->cr3 = PML4;
	cpu->cr4 =
	    CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	cpu->cr8 = 5;
	cpu->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	cpu->xcr0 = bv;
	for (unsigned i = 0; i < 4; i++)
		cpu->dr[i] = 0xffffffff82000000 + i * 8;
	cpu->dr[6] = 0xffff0ff1;
	cpu->dr[7] = 0x402;
	cpu->star = 0x0023001000000000;
	cpu->lstar = 0xffffffff81800000;
	cpu->cstar = 0xffffffff81800100;
	cpu->sfmask = 0x47700;
	cpu->kernel_gs_base = 0x00007f0012340000;
	cpu->sysenter_cs = 0x10;
	/* AMD keeps 32 bits of these. */
	cpu->sysenter_esp = 0xc0006000;
	cpu->sysenter_eip = 0xc1800200;
	cpu->tsc_aux = 0x1003;
	cpu->pat = 0x0407050600070106;
	cpu->tsc = 0x123456789abc;
	cpu->mtrr.def_type = 0xc06;
	for (unsigned i = 0; i < ARRAY_SIZE(cpu->mtrr.fixed); i++)
		cpu->mtrr.fixed[i] = 0x0606060606060600 + i % 2;
	cpu->mtrr.base[0] = 0x80000000;
	cpu->mtrr.mask[0] = 0xf80000800;
	cpu->mtrr.base[7] = 0xc0000006;
	cpu->mtrr.mask[7] = 0xff0000800;
	for (unsigned i = 0; i < 256; i++)
		cpu->xsave[CPU_XSAVE_XMM + i] = (u8)(i * 3 + 1);
	for (unsigned i = 0; avx && i < 256; i++)
		cpu->xsave[CPU_XSAVE_YMMH + i] = (u8)(i * 5 + 2);
	memcpy(cpu->xsave + CPU_XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
	memcpy(cpu->xsave + CPU_XSAVE_HEADER, &bv, sizeof(bv));
}

/* MXCSR_MASK is the processor's, and the TSC runs. */
static void forget_moving(struct cpu_state *cpu)
{
	memset(cpu->xsave + 28, 0, 4);
	cpu->tsc = 0;
	cpu->tsc_adjust = 0;
}

#define EXPECT_SAME(a, b, field)                                               \
	do {                                                                   \
		if (memcmp(&(a).field, &(b).field, sizeof((a).field)))         \
			fail_msg("%s differs", #field);                        \
	} while (0)

static void expect_same(const struct cpu_state *in, const struct cpu_state *out)
{
	struct cpu_state a = *in, b = *out;

	forget_moving(&a);
	forget_moving(&b);
	EXPECT_SAME(a, b, gpr);
	EXPECT_SAME(a, b, rip);
	EXPECT_SAME(a, b, rflags);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		EXPECT_SAME(a, b, seg[i]);
	EXPECT_SAME(a, b, ldtr);
	EXPECT_SAME(a, b, tr);
	EXPECT_SAME(a, b, gdtr.base);
	EXPECT_SAME(a, b, gdtr.limit);
	EXPECT_SAME(a, b, idtr.base);
	EXPECT_SAME(a, b, idtr.limit);
	EXPECT_SAME(a, b, cr0);
	EXPECT_SAME(a, b, cr2);
	EXPECT_SAME(a, b, cr3);
	EXPECT_SAME(a, b, cr4);
	EXPECT_SAME(a, b, cr8);
	EXPECT_SAME(a, b, efer);
	EXPECT_SAME(a, b, xcr0);
	EXPECT_SAME(a, b, dr);
	EXPECT_SAME(a, b, star);
	EXPECT_SAME(a, b, lstar);
	EXPECT_SAME(a, b, cstar);
	EXPECT_SAME(a, b, sfmask);
	EXPECT_SAME(a, b, kernel_gs_base);
	EXPECT_SAME(a, b, sysenter_cs);
	EXPECT_SAME(a, b, sysenter_esp);
	EXPECT_SAME(a, b, sysenter_eip);
	EXPECT_SAME(a, b, tsc_aux);
	EXPECT_SAME(a, b, pat);
	EXPECT_SAME(a, b, misc_enable);
	EXPECT_SAME(a, b, xss);
	EXPECT_SAME(a, b, mtrr);
	EXPECT_SAME(a, b, mp_state);
	EXPECT_SAME(a, b, events.exception_pending);
	EXPECT_SAME(a, b, events.exception_has_error);
	EXPECT_SAME(a, b, events.exception_vector);
	EXPECT_SAME(a, b, events.exception_error);
	EXPECT_SAME(a, b, events.nmi_pending);
	EXPECT_SAME(a, b, events.nmi_masked);
	EXPECT_SAME(a, b, events.interrupt_shadow);
	EXPECT_SAME(a, b, events.soft_interrupt);
	assert_memory_equal(a.xsave, b.xsave, sizeof(a.xsave));
}

static void round_trip(struct harness *h, const struct cpu_state *in)
{
	struct error err = { 0 };
	struct cpu_state out;

	if (kvm->vcpu_set(h->vcpus[0], in, &err))
		fail_msg("%s", err.text);
	memset(&out, 0xff, sizeof(out));
	kvm->vcpu_get(h->vcpus[0], &out);
	expect_same(in, &out);
	assert_true(out.tsc >= in->tsc);
}

static void test_round_trip(void **state)
{
	struct harness *h = *state;
	struct cpu_state cpu;

	make_tables(h);
	fill_state(&cpu, cpuid_has(h->cpuid, FEATURE_AVX));
	round_trip(h, &cpu);
	cpu.events.exception_pending = true;
	cpu.events.exception_vector = VEC_PF;
	cpu.events.exception_has_error = true;
	cpu.events.exception_error = PF_W | PF_U;
	cpu.events.nmi_masked = true;
	cpu.events.interrupt_shadow = true;
	round_trip(h, &cpu);
	cpu.events = (struct cpu_events){ .exception_pending = true,
		                          .exception_vector = 0xd1,
		                          .nmi_pending = true };
	round_trip(h, &cpu);
	cpu.events = (struct cpu_events){ 0 };
	cpu.mp_state = CPU_HALTED;
	round_trip(h, &cpu);
	cpu_state_reset(&cpu, true, 0x800f12);
	round_trip(h, &cpu);
	cpu_state_reset(&cpu, false, 0x800f12);
	round_trip(h, &cpu);
	cpu.mp_state = CPU_WAIT_SIPI;
	round_trip(h, &cpu);
}

/* What comes from a damaged snapshot is refused in words. */
static void test_bad_state(void **state)
{
	struct harness *h = *state;
	struct error err = { 0 };
	struct cpu_state cpu;

	make_tables(h);
	fill_state(&cpu, false);
	cpu.lstar = 0x8000000000000000; /* not canonical */
	assert_true(kvm->vcpu_set(h->vcpus[0], &cpu, &err) < 0);
	assert_non_null(strstr(err.text, "0xc0000082"));
	fill_state(&cpu, false);
	cpu.cr4 = 0; /* long mode without PAE */
	assert_true(kvm->vcpu_set(h->vcpus[0], &cpu, &err) < 0);
	fill_state(&cpu, false);
	memset(cpu.xsave + CPU_XSAVE_HEADER, 0xff, 8);
	assert_true(kvm->vcpu_set(h->vcpus[0], &cpu, &err) < 0);
	fill_state(&cpu, false);
	round_trip(h, &cpu);
}

static void test_translate(void **state)
{
	struct harness *h = *state;
	struct error err = { 0 };
	struct cpu_state cpu;
	gpa_t gpa = 0;

	make_tables(h);
	fill_state(&cpu, false);
	assert_int_equal(kvm->vcpu_set(h->vcpus[0], &cpu, &err), 0);
	assert_true(kvm->vcpu_translate(h->vcpus[0], 0x1234, &gpa));
	assert_int_equal(gpa, 0x1234);
	assert_true(kvm->vcpu_translate(h->vcpus[0], 0x400321, &gpa));
	assert_int_equal(gpa, 0x5321);
	assert_false(kvm->vcpu_translate(h->vcpus[0], 0x401000, &gpa));
	assert_int_equal(gpa, 0x5321);
}

/* SSE and AVX registers of the state are the guest's. */
GUEST(64, vector_code,
      "movdqu %xmm3, 0x6000; mov %cr8, %rax; mov %rax, 0x6010\n"
      "rdfsbase %rax; mov %rax, 0x6018; out %al, $0xf4; hlt\n");

static void test_long_mode_runs(void **state)
{
	struct harness *h = *state;
	struct error err = { 0 };
	struct vcpu_exit exit;
	struct cpu_state cpu;
	u64 got[4];

	make_tables(h);
	LOAD(h, CODE, vector_code);
	fill_state(&cpu, false);
	cpu.rip = CODE;
	cpu.cr4 |= CR4_FSGSBASE;
	if (!cpuid_has(h->cpuid, FEATURE_FSGSBASE))
		skip();
	assert_int_equal(kvm->vcpu_set(h->vcpus[0], &cpu, &err), 0);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
	assert_true(memory_read(h->memory, 0x6000, got, sizeof(got)));
	assert_memory_equal(got, cpu.xsave + CPU_XSAVE_XMM + 48, 16);
	assert_int_equal(got[2], 5);
	assert_int_equal(got[3], cpu.seg[SEG_FS].base);
}

GUEST(16, xcr_code,
      "mov %cr4, %eax; or $0x40600, %eax; mov %eax, %cr4\n"
      "xor %ecx, %ecx; mov $0xd, %eax; cpuid\n"
      "mov $0x80, %dx; mov %ebx, %eax; out %eax, %dx\n"
      "xor %ecx, %ecx; xor %edx, %edx; mov $7, %eax; xsetbv\n"
      "xor %ecx, %ecx; mov $0xd, %eax; cpuid\n"
      "mov $0x80, %dx; mov %ebx, %eax; out %eax, %dx\n"
      "out %al, $0xf4; hlt\n");

/* CPUID's size of the XSAVE area follows the guest's XCR0. */
static void test_xcr0(void **state)
{
	struct harness *h = *state;
	struct cpu_state cpu;

	if (!cpuid_has(h->cpuid, FEATURE_AVX))
		skip();
	if (host_is_tcg()) {
		/* 7.2 does not tell a hypervisor of its guest's XSETBV. */
		print_message("QEMU's TCG does not intercept XSETBV\n");
		skip();
	}
	RUN(h, xcr_code);
	kvm->vcpu_get(h->vcpus[0], &cpu);
	assert_int_equal(cpu.xcr0, XCR0_X87 | XCR0_SSE | XCR0_AVX);
	expect_access(h, 0, PIO_WRITE, 0x80, CPU_XSAVE_YMMH, 4);
	expect_access(h, 1, PIO_WRITE, 0x80, CPU_XSAVE_SIZE, 4);
}

static u64 host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static void test_chips(void **state)
{
	struct harness *h = *state;
	struct kvm_chips_state first, in, out;
	struct kvm_local_state local_first, local_in, local_out;
	u64 begin = host_ns();

	harness_start(h, 0);
	assert_int_equal(kvm_chips_get(h->engine, &first), 0);
	in = first;
	in.pic[0].irq_base = 0x20;
	in.pic[0].imr = 0xfb;
	in.pic[1].irq_base = 0x28;
	in.ioapic.redirtbl[4].bits = 0x0000000000010034;
	in.pit.channels[2].count = 0x1234;
	in.clock_ns = 3600 * NSEC_PER_SEC;
	assert_int_equal(kvm_chips_set(h->engine, &in), 0);
	assert_int_equal(kvm_chips_get(h->engine, &out), 0);
	assert_memory_equal(in.pic, out.pic, sizeof(in.pic));
	assert_memory_equal(&in.ioapic, &out.ioapic, sizeof(in.ioapic));
	assert_int_equal(out.pit.channels[2].count, 0x1234);
	assert_true(out.clock_ns >= in.clock_ns);
	assert_true(out.clock_ns <
	            in.clock_ns + 10 * NSEC_PER_SEC + (host_ns() - begin));

	assert_int_equal(kvm_local_get(h->vcpus[0], &local_first), 0);
	local_in = local_first;
	local_in.apic_base |= 1 << 10; /* x2APIC */
	local_in.regs[0xf0] = 0xff;    /* enabled, spurious vector 0xff */
	local_in.regs[0xf1] = 0x01;
	local_in.regs[0x350] = 0x45; /* LVT LINT0 */
	local_in.regs[0x352] = 0x01;
	assert_int_equal(kvm_local_set(h->vcpus[0], &local_in), 0);
	assert_int_equal(kvm_local_get(h->vcpus[0], &local_out), 0);
	assert_int_equal(local_out.apic_base, local_in.apic_base);
	assert_int_equal(local_out.regs[0xf0], 0xff);
	assert_int_equal(local_out.regs[0x350], 0x45);

	kvm->irqchip->reset(h->engine);
	assert_int_equal(kvm_chips_get(h->engine, &out), 0);
	assert_memory_equal(first.pic, out.pic, sizeof(first.pic));
	assert_memory_equal(&first.ioapic, &out.ioapic, sizeof(first.ioapic));
	assert_int_equal(kvm_local_get(h->vcpus[0], &local_out), 0);
	assert_int_equal(local_out.apic_base, local_first.apic_base);
	assert_memory_equal(local_out.regs, local_first.regs,
	                    sizeof(local_first.regs));
	assert_memory_equal(local_out.paravirt, local_first.paravirt,
	                    sizeof(local_first.paravirt));
}

static void test_clock_stands_still(void **state)
{
	struct harness *h = *state;
	struct kvm_chips_state before, after;
	u64 ran;

	kvm->irqchip->clock_stop(h->engine);
	assert_int_equal(kvm_chips_get(h->engine, &before), 0);
	sleep(1);
	ran = host_ns();
	kvm->irqchip->clock_start(h->engine);
	assert_int_equal(kvm_chips_get(h->engine, &after), 0);
	ran = host_ns() - ran;
	assert_true(after.clock_ns >= before.clock_ns);
	assert_true(after.clock_ns - before.clock_ns <
	            900 * NSEC_PER_MSEC + ran);
}

#define WITH_MACHINE(test)                                                     \
	cmocka_unit_test_setup_teardown(test, harness_create, harness_destroy)

int kvm_state_tests(void)
{
	const struct CMUnitTest tests[] = {
		WITH_MACHINE(test_round_trip),
		WITH_MACHINE(test_bad_state),
		WITH_MACHINE(test_translate),
		WITH_MACHINE(test_long_mode_runs),
		WITH_MACHINE(test_xcr0),
		WITH_MACHINE(test_chips),
		WITH_MACHINE(test_clock_stands_still),
	};

	return cmocka_run_group_tests_name("kvm-state", tests, NULL, NULL);
}
