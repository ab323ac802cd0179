/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "devices/chips/lapic.h"
#include "fake_clock.h"
#include "guest/cpu.h"

enum { CPUS = 20, TSC_HZ = 2000000000 };
enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVT_TIMER = 0x320,
	LVT_LINT0 = 0x350,
	LVT_LINT1 = 0x360,
	LVT_ERROR = 0x370,
	INITIAL = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0
};
enum { LEVEL = 0xc000 }; /* in MSI data: level, asserted */

static struct {
	struct clock *clock;
	struct lapic_set *set;
	struct lapic *cpu[CPUS];
	_Atomic unsigned attention[CPUS];
	unsigned nmi[CPUS], init[CPUS], sipi[CPUS];
	u8 sipi_vector;
	unsigned eois;
	u8 eoi_vector;
	u64 tsc_offset;
} t;

static void on_attention(void *ctx, unsigned cpu)
{
	(void)ctx;
	t.attention[cpu]++;
}

static void on_nmi(void *ctx, unsigned cpu)
{
	(void)ctx;
	t.nmi[cpu]++;
}

static void on_init(void *ctx, unsigned cpu)
{
	(void)ctx;
	t.init[cpu]++;
}

static void on_sipi(void *ctx, unsigned cpu, u8 vector)
{
	(void)ctx;
	t.sipi[cpu]++;
	t.sipi_vector = vector;
}

static void on_eoi(void *ctx, u8 vector)
{
	(void)ctx;
	t.eois++;
	t.eoi_vector = vector;
}

static int on_pic_ack(void *ctx)
{
	(void)ctx;
	return 0x77;
}

static u64 guest_tsc(void *ctx, unsigned cpu)
{
	(void)ctx;
	(void)cpu;
	return clock_now_ns(t.clock) * 2 + t.tsc_offset;
}

static int setup_with(bool directed_eoi)
{
	struct lapic_host host = {
		NULL,    on_attention, on_nmi,     on_init,
		on_sipi, on_eoi,       on_pic_ack, guest_tsc
	};
	struct lapic_config config = {
		.cpus = CPUS,
		.phys_bits = 40,
		.tsc_hz = TSC_HZ,
		.x2apic = true,
		.tsc_deadline = true,
		.directed_eoi = directed_eoi,
	};

	memset(&t, 0, sizeof(t));
	ASSERT(clock_create(&t.clock, NULL) == 0);
	config.clock = t.clock;
	t.set = lapic_set_create(&host, &config);
	for (unsigned i = 0; i < CPUS; i++) {
		t.cpu[i] = lapic_set_cpu(t.set, i);
		lapic_mmio_write(t.cpu[i], SVR, 0x1ff, 4);
	}
	return 0;
}

static int setup(void **state)
{
	(void)state;
	return setup_with(false);
}

static int setup_directed(void **state)
{
	(void)state;
	return setup_with(true);
}

static int teardown(void **state)
{
	(void)state;
	lapic_set_destroy(t.set);
	clock_destroy(t.clock);
	return 0;
}

static u32 get(unsigned cpu, u32 off)
{
	return (u32)lapic_mmio_read(t.cpu[cpu], off, 4);
}

static void put(unsigned cpu, u32 off, u32 value)
{
	lapic_mmio_write(t.cpu[cpu], off, value, 4);
}

static u64 msr(unsigned cpu, u32 index)
{
	u64 value = 0xdead;

	assert_true(lapic_msr_read(t.cpu[cpu], index, &value));
	return value;
}

static bool set_msr(unsigned cpu, u32 index, u64 value)
{
	return lapic_msr_write(t.cpu[cpu], index, value);
}

static void x2apic(unsigned cpu)
{
	assert_true(
	    set_msr(cpu, MSR_APIC_BASE, msr(cpu, MSR_APIC_BASE) | 0x400));
}

static void icr(unsigned cpu, u8 dest, u32 low)
{
	put(cpu, ICR_HIGH, (u32)dest << 24);
	put(cpu, ICR, low);
}

static void interrupt(unsigned cpu, u8 vector)
{
	lapic_deliver_msi(t.set, 0xfee00000 | (u64)cpu << 12, vector);
}

/* Bit set of CPUs that had attention since the last call. */
static u32 woken(void)
{
	u32 set = 0;

	for (unsigned i = 0; i < CPUS; i++)
		if (atomic_exchange(&t.attention[i], 0))
			set |= 1u << i;
	return set;
}

static void test_reset(void **state)
{
	(void)state;
	lapic_reset(t.cpu[0]);
	lapic_reset(t.cpu[3]);
	assert_int_equal(msr(0, MSR_APIC_BASE), 0xfee00900);
	assert_int_equal(msr(3, MSR_APIC_BASE), 0xfee00800);
	assert_int_equal(get(3, ID), 3 << 24);
	assert_int_equal(get(3, VERSION), 0x50014);
	assert_int_equal(get(3, SVR), 0xff);
	assert_int_equal(get(3, DFR), 0xffffffff);
	assert_int_equal(get(3, LVT_LINT0), 0x10000);
	assert_int_equal(get(0, LVT_LINT0), 0x700);
}

static void test_priority(void **state)
{
	(void)state;
	assert_int_equal(lapic_ack(t.cpu[0]), -1);
	interrupt(0, 0x41);
	interrupt(0, 0x61);
	assert_int_equal(woken(), 1);
	assert_int_equal(get(0, IRR + 0x20), 2);
	assert_int_equal(get(0, IRR + 0x30), 2);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x61);
	assert_int_equal(get(0, ISR + 0x30), 2);
	assert_int_equal(get(0, PPR), 0x60);
	assert_false(lapic_irq_pending(t.cpu[0]));
	interrupt(0, 0x6f); /* the same class waits */
	assert_false(lapic_irq_pending(t.cpu[0]));
	interrupt(0, 0x71);
	assert_true(lapic_irq_pending(t.cpu[0]));
	assert_int_equal(lapic_ack(t.cpu[0]), 0x71);
	put(0, EOI, 0);
	assert_false(lapic_irq_pending(t.cpu[0]));
	woken();
	put(0, EOI, 0);
	assert_int_equal(woken(), 1); /* 6f can be delivered now */
	assert_int_equal(lapic_ack(t.cpu[0]), 0x6f);
	put(0, EOI, 0);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x41);
	put(0, EOI, 0);
	put(0, EOI, 0); /* of nothing */
	assert_int_equal(get(0, PPR), 0);
}

static void test_tpr(void **state)
{
	(void)state;
	put(0, TPR, 0x50);
	assert_int_equal(lapic_tpr_get(t.cpu[0]), 5);
	interrupt(0, 0x5f);
	assert_false(lapic_irq_pending(t.cpu[0]));
	assert_false(lapic_wakes(t.cpu[0]));
	lapic_tpr_set(t.cpu[0], 4);
	assert_int_equal(get(0, TPR), 0x40);
	assert_true(lapic_wakes(t.cpu[0]));
	assert_int_equal(lapic_ack(t.cpu[0]), 0x5f);
	put(0, TPR, 0x5a);
	assert_int_equal(get(0, PPR), 0x5a);
	put(0, TPR, 0x4a);
	assert_int_equal(get(0, PPR), 0x50);
}

static void test_coalesced_requests(void **state)
{
	(void)state;
	interrupt(0, 0x41);
	interrupt(0, 0x41);
	assert_int_equal(t.attention[0], 1);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x41);
	interrupt(0, 0x41); /* one in service, one requested */
	put(0, EOI, 0);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x41);
	put(0, EOI, 0);
	assert_false(lapic_irq_pending(t.cpu[0]));
}

static void test_level_eoi(void **state)
{
	(void)state;
	lapic_deliver_msi(t.set, 0xfee00000, LEVEL | 0x51);
	assert_int_equal(get(0, TMR + 0x20), 1 << 17);
	lapic_ack(t.cpu[0]);
	put(0, EOI, 0);
	assert_int_equal(t.eois, 1);
	assert_int_equal(t.eoi_vector, 0x51);
	interrupt(0, 0x51); /* as an edge now */
	assert_int_equal(get(0, TMR + 0x20), 0);
	lapic_ack(t.cpu[0]);
	put(0, EOI, 0);
	assert_int_equal(t.eois, 1);
	/* Without directed EOI, bit 12 of SVR is reserved. */
	put(0, SVR, 0x11ff);
	assert_int_equal(get(0, SVR), 0x1ff);
}

static void test_eoi_suppression(void **state)
{
	(void)state;
	assert_int_equal(get(0, VERSION), 0x1050014);
	put(0, SVR, 0x11ff);
	lapic_deliver_msi(t.set, 0xfee00000, LEVEL | 0x51);
	lapic_ack(t.cpu[0]);
	put(0, EOI, 0);
	assert_int_equal(t.eois, 0);
}

static void test_ipi_physical(void **state)
{
	(void)state;
	icr(0, 5, 0x4041);
	assert_int_equal(woken(), 1 << 5);
	assert_int_equal(lapic_ack(t.cpu[5]), 0x41);
	icr(0, 200, 0x4041); /* nobody */
	assert_int_equal(woken(), 0);
	icr(0, 0xff, 0x4042);
	assert_int_equal(woken(), (1 << CPUS) - 1);
	assert_int_equal(get(0, ICR), 0x4042);
}

static void test_ipi_shorthands(void **state)
{
	(void)state;
	icr(2, 0, 0x44051); /* self */
	assert_int_equal(woken(), 1 << 2);
	icr(2, 0, 0x84052);
	assert_int_equal(woken(), (1 << CPUS) - 1);
	icr(2, 0, 0xc4053);
	assert_int_equal(woken(), ((1 << CPUS) - 1) & ~(1 << 2));
}

static void test_ipi_logical_flat(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 8; i++)
		put(i, LDR, 1u << (24 + i));
	icr(0, 0x0a, 0x4841);
	assert_int_equal(woken(), 0x0a);
}

static void test_ipi_logical_cluster(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		put(i, DFR, 0x0fffffff);
		put(i, LDR, (i / 4 << 4 | 1u << i % 4) << 24);
	}
	icr(0, 0x15, 0x4841); /* cluster 1, members 0 and 2 */
	assert_int_equal(woken() & 0xff, 0x50);
	icr(0, 0x05, 0x4842);
	assert_int_equal(woken() & 0xff, 0x05);
}

static void test_ipi_lowest_priority(void **state)
{
	u32 chosen = 0;

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		put(i, LDR, 1u << (24 + i));
	for (unsigned n = 0; n < 4; n++) {
		icr(0, 0x0f, 0x4941 + n);
		chosen = woken();
		assert_int_equal(__builtin_popcount(chosen), 1);
	}
	put(0, TPR, 0x80);
	put(1, TPR, 0x80);
	put(3, TPR, 0x80);
	icr(0, 0x0f, 0x4961);
	assert_int_equal(woken(), 1 << 2);
}

static void test_ipi_nmi_init_sipi(void **state)
{
	(void)state;
	icr(0, 1, 0x4400);
	assert_int_equal(t.nmi[1], 1);
	icr(0, 1, 0xc500); /* INIT, level, assert */
	assert_int_equal(t.init[1], 1);
	icr(0, 1, 0x8500); /* de-assert */
	assert_int_equal(t.init[1], 1);
	icr(0, 1, 0x4608);
	assert_int_equal(t.sipi[1], 1);
	assert_int_equal(t.sipi_vector, 8);
	icr(0, 0, 0xc4500); /* all others */
	assert_int_equal(t.init[0], 0);
	assert_int_equal(t.init[19], 1);
	icr(0, 1, 0x4200); /* SMI: there is none */
	assert_int_equal(woken(), 0);
}

static void test_errors(void **state)
{
	(void)state;
	put(0, LVT_ERROR, 0xfe);
	icr(0, 1, 0x4005); /* vector below 16 */
	assert_int_equal(lapic_ack(t.cpu[0]), 0xfe);
	assert_int_equal(get(0, ESR), 0); /* until written */
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), 0x20);
	interrupt(0, 0x03);
	get(0, 0x40); /* no such register */
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), 0xc0);
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), 0);
}

static void test_disabled(void **state)
{
	(void)state;
	put(1, LVT_LINT1, 0x400);
	put(1, SVR, 0xff);
	assert_int_equal(get(1, LVT_LINT1), 0x10400); /* masked */
	put(1, LVT_LINT1, 0x400);
	assert_int_equal(get(1, LVT_LINT1), 0x10400); /* and stays so */
	interrupt(1, 0x41);
	assert_false(lapic_irq_pending(t.cpu[1]));
	icr(0, 1, 0x4400);
	assert_int_equal(t.nmi[1], 1); /* NMI, INIT, SIPI are taken */
}

static void test_lint(void **state)
{
	(void)state;
	lapic_set_lint0(t.set, true);
	assert_int_equal(woken(), 1);
	assert_true(lapic_irq_pending(t.cpu[0]));
	assert_false(lapic_irq_pending(t.cpu[1]));
	interrupt(0, 0x41);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x77); /* ExtINT first */
	lapic_set_lint0(t.set, false);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x41);
	put(0, EOI, 0);
	put(0, LVT_LINT0, 0x10700);
	lapic_set_lint0(t.set, true);
	assert_false(lapic_irq_pending(t.cpu[0]));
	woken();
	put(0, LVT_LINT0, 0x700);
	assert_int_equal(woken(), 1); /* unmasked while high */
	lapic_set_lint0(t.set, false);
	put(0, LVT_LINT0, 0x59); /* fixed */
	lapic_set_lint0(t.set, true);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x59);
	put(1, LVT_LINT1, 0x400);
	lapic_pulse_lint1(t.set);
	assert_int_equal(t.nmi[1], 1);
	assert_int_equal(t.nmi[0], 0);
}

static void test_timer_one_shot(void **state)
{
	(void)state;
	put(0, DIVIDE, 0xb); /* by 1 */
	put(0, LVT_TIMER, 0x40);
	put(0, INITIAL, 1000000);
	assert_int_equal(get(0, CURRENT), 1000000);
	fake_clock_advance(t.clock, 400000);
	assert_int_equal(get(0, CURRENT), 600000);
	fake_clock_advance(t.clock, 599999);
	assert_false(lapic_irq_pending(t.cpu[0]));
	fake_clock_advance(t.clock, 1);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x40);
	assert_int_equal(get(0, CURRENT), 0);
	fake_clock_advance(t.clock, 5000000);
	put(0, EOI, 0);
	assert_false(lapic_irq_pending(t.cpu[0]));
	put(0, DIVIDE, 0x3); /* by 16 */
	put(0, INITIAL, 1000);
	fake_clock_advance(t.clock, 8000);
	assert_int_equal(get(0, CURRENT), 500);
	put(0, INITIAL, 0); /* stops */
	assert_int_equal(get(0, CURRENT), 0);
	fake_clock_advance(t.clock, 100000);
	assert_false(lapic_irq_pending(t.cpu[0]));
}

static unsigned count_timer(u64 ns, u64 step)
{
	unsigned n = 0;

	for (u64 at = 0; at < ns; at += step) {
		fake_clock_advance(t.clock, step);
		while (lapic_ack(t.cpu[0]) == 0x40) {
			put(0, EOI, 0);
			n++;
		}
	}
	return n;
}

static void test_timer_periodic(void **state)
{
	(void)state;
	put(0, DIVIDE, 0xb);
	put(0, LVT_TIMER, 0x20040);
	put(0, INITIAL, 1000000);
	assert_int_equal(count_timer(100000000, 500000), 100);
	/* Late by many periods: one interrupt, then on time again. */
	fake_clock_advance(t.clock, 10500000);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x40);
	put(0, EOI, 0);
	assert_int_equal(get(0, CURRENT), 500000);
	/* Masked, no host timer runs for long, and time goes on. */
	put(0, LVT_TIMER, 0x30040);
	assert_in_range(fake_clock_advance(t.clock, 1000000000), 0, 1);
	assert_int_equal(get(0, CURRENT), 500000);
	put(0, LVT_TIMER, 0x20040);
	assert_int_equal(count_timer(10000000, 500000), 10);
}

static void test_timer_storm_is_bounded(void **state)
{
	(void)state;
	put(0, DIVIDE, 0xb);
	put(0, LVT_TIMER, 0x20040);
	put(0, INITIAL, 1);
	assert_in_range(fake_clock_advance(t.clock, NSEC_PER_SEC), 5000, 10001);
}

static void test_timer_deadline(void **state)
{
	(void)state;
	put(0, LVT_TIMER, 0x40040);
	assert_true(set_msr(0, MSR_TSC_DEADLINE, 2000000)); /* 1 ms */
	assert_int_equal(msr(0, MSR_TSC_DEADLINE), 2000000);
	fake_clock_advance(t.clock, 999999);
	assert_false(lapic_irq_pending(t.cpu[0]));
	fake_clock_advance(t.clock, 1);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x40);
	put(0, EOI, 0);
	assert_int_equal(msr(0, MSR_TSC_DEADLINE), 0);
	/* In the past: at once. */
	set_msr(0, MSR_TSC_DEADLINE, 1);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x40);
	put(0, EOI, 0);
	/* Moved to later, then away. */
	set_msr(0, MSR_TSC_DEADLINE, 4000000);
	set_msr(0, MSR_TSC_DEADLINE, 8000000);
	fake_clock_advance(t.clock, 2000000);
	assert_false(lapic_irq_pending(t.cpu[0]));
	set_msr(0, MSR_TSC_DEADLINE, 0);
	fake_clock_advance(t.clock, 9000000);
	assert_false(lapic_irq_pending(t.cpu[0]));
	/* The initial count does nothing here; the mode change disarms. */
	put(0, INITIAL, 1000);
	assert_int_equal(get(0, INITIAL), 0);
	set_msr(0, MSR_TSC_DEADLINE, UINT64_MAX);
	put(0, LVT_TIMER, 0x40);
	assert_int_equal(msr(0, MSR_TSC_DEADLINE), 0);
	assert_true(set_msr(0, MSR_TSC_DEADLINE, 5)); /* ignored */
	assert_int_equal(msr(0, MSR_TSC_DEADLINE), 0);
}

static void test_timer_deadline_tsc_jump(void **state)
{
	(void)state;
	put(0, LVT_TIMER, 0x40040);
	set_msr(0, MSR_TSC_DEADLINE, 2000000000);
	t.tsc_offset = 2000000000;
	lapic_tsc_changed(t.cpu[0]);
	assert_int_equal(lapic_ack(t.cpu[0]), 0x40);
}

static void test_base_transitions(void **state)
{
	u64 base = 0xfee00800;
	u64 value;

	(void)state;
	assert_false(set_msr(1, MSR_APIC_BASE, base | 1));
	assert_false(set_msr(1, MSR_APIC_BASE, base | BIT(40)));
	assert_false(set_msr(1, MSR_APIC_BASE, 0xfee00400)); /* invalid */
	assert_true(set_msr(1, MSR_APIC_BASE, base | 0x400));
	assert_false(set_msr(1, MSR_APIC_BASE, base)); /* back to xAPIC */
	assert_false(set_msr(1, MSR_APIC_BASE, 0xfee00400));
	assert_true(set_msr(1, MSR_APIC_BASE, 0xfee00000)); /* off */
	assert_false(lapic_claims(t.cpu[1], 0xfee00000));
	assert_false(set_msr(1, MSR_APIC_BASE, base | 0x400)); /* from off */
	assert_true(set_msr(1, MSR_APIC_BASE, base));
	assert_int_equal(get(1, SVR), 0xff); /* as after a reset */
	assert_false(lapic_msr_read(t.cpu[1], 0x802, &value)); /* xAPIC */
	/* The page moves. */
	assert_true(set_msr(1, MSR_APIC_BASE, 0x12345800));
	assert_true(lapic_claims(t.cpu[1], 0x12345fff));
	assert_false(lapic_claims(t.cpu[1], 0xfee00000));
}

static void test_x2apic_registers(void **state)
{
	u64 value;

	(void)state;
	x2apic(17);
	assert_false(lapic_claims(t.cpu[17], 0xfee00000));
	assert_int_equal(msr(17, 0x802), 17);
	assert_int_equal(msr(17, 0x80d), 0x10002); /* cluster 1, member 1 */
	assert_int_equal(msr(17, 0x803), 0x50014);
	assert_false(set_msr(17, 0x802, 1)); /* read-only */
	assert_false(set_msr(17, 0x80d, 1));
	assert_false(set_msr(17, 0x803, 1));
	assert_false(set_msr(17, 0x839, 1));
	assert_false(set_msr(17, 0x810, 0));
	assert_false(lapic_msr_read(t.cpu[17], 0x80b, &value)); /* wo */
	assert_false(lapic_msr_read(t.cpu[17], 0x83f, &value));
	assert_false(lapic_msr_read(t.cpu[17], 0x80e, &value)); /* no DFR */
	assert_false(lapic_msr_read(t.cpu[17], 0x831, &value)); /* ICR high */
	assert_false(lapic_msr_read(t.cpu[17], 0x800, &value));
	assert_false(lapic_msr_read(t.cpu[17], 0x840, &value));
	assert_false(lapic_msr_read(t.cpu[17], 0x8ff, &value));
	assert_false(set_msr(17, 0x808, 0x100)); /* reserved bits */
	assert_true(set_msr(17, 0x808, 0x20));
	assert_int_equal(lapic_tpr_get(t.cpu[17]), 2);
	assert_false(set_msr(17, 0x80b, 1)); /* EOI takes 0 */
	assert_true(set_msr(17, 0x80b, 0));
	assert_false(set_msr(17, 0x828, 1)); /* ESR too */
	assert_false(set_msr(17, 0x832, BIT(32)));
	assert_false(set_msr(17, 0x83f, 0x100));
	assert_true(set_msr(17, 0x83f, 0x44));
	assert_int_equal(lapic_ack(t.cpu[17]), 0x44);
	assert_false(set_msr(17, 0x830, BIT(20)));
}

static void test_x2apic_ipi(void **state)
{
	(void)state;
	for (unsigned i = 0; i < CPUS; i++)
		x2apic(i);
	set_msr(0, 0x830, (u64)18 << 32 | 0x4041);
	assert_int_equal(woken(), 1 << 18);
	assert_int_equal(msr(0, 0x830), (u64)18 << 32 | 0x4041);
	set_msr(0, 0x830, (u64)0x0001000a << 32 | 0x4842); /* cluster 1 */
	assert_int_equal(woken(), 1 << 17 | 1 << 19);
	set_msr(0, 0x830, (u64)0x00000005 << 32 | 0x4843);
	assert_int_equal(woken(), 5);
	set_msr(0, 0x830, (u64)0xffffffff << 32 | 0x4044);
	assert_int_equal(woken(), (1 << CPUS) - 1);
	/* 255 is an APIC ID there, but a broadcast in a message. */
	set_msr(0, 0x830, (u64)255 << 32 | 0x4045);
	assert_int_equal(woken(), 0);
	lapic_deliver_msi(t.set, 0xfeeff000, 0x46);
	assert_int_equal(woken(), (1 << CPUS) - 1);
	lapic_deliver_msi(t.set, 0xfee06004, 0x47); /* logical 6, cluster 0 */
	assert_int_equal(woken(), 6);
}

static void test_mmio_access_sizes(void **state)
{
	(void)state;
	put(0, TPR, 0x35);
	assert_int_equal(lapic_mmio_read(t.cpu[0], TPR, 1), 0x35);
	assert_int_equal(lapic_mmio_read(t.cpu[0], VERSION + 2, 1), 5);
	assert_int_equal(lapic_mmio_read(t.cpu[0], TPR + 4, 4), 0);
	assert_int_equal(lapic_mmio_read(t.cpu[0], 0xffc, 8), 0);
	lapic_mmio_write(t.cpu[0], TPR, 0x77, 1);
	lapic_mmio_write(t.cpu[0], TPR + 1, 0x77, 4);
	lapic_mmio_write(t.cpu[0], 0xff0, 0x77, 4);
	assert_int_equal(get(0, TPR), 0x35);
}

/* What INIT does, and that a busy LAPIC survives it. */
static void test_init_reset(void **state)
{
	(void)state;
	x2apic(1);
	set_msr(1, 0x808, 0x20);
	interrupt(1, 0x41);
	lapic_init_reset(t.cpu[1]);
	assert_int_equal(msr(1, 0x808), 0);
	assert_int_equal(msr(1, 0x80f), 0xff);
	assert_int_equal(msr(1, MSR_APIC_BASE), 0xfee00c00);
	assert_false(lapic_irq_pending(t.cpu[1]));
}

static u32 page_word(const struct lapic_state *s, u32 off)
{
	u32 value;

	memcpy(&value, &s->page[off], sizeof(value));
	return value;
}

static void test_state(void **state)
{
	struct lapic_state saved, again;

	(void)state;
	x2apic(5);
	set_msr(5, 0x83e, 0xb);
	set_msr(5, 0x832, 0x20040);
	set_msr(5, 0x838, 1000000);
	set_msr(5, 0x830, (u64)7 << 32 | 0x4061);
	interrupt(5, 0x71);
	interrupt(5, 0x51);
	lapic_deliver_msi(t.set, 0xfee05000, LEVEL | 0x81);
	lapic_ack(t.cpu[5]);
	fake_clock_advance(t.clock, 300000);
	lapic_save(t.cpu[5], &saved);
	assert_int_equal(page_word(&saved, ID), 5 << 24);
	assert_int_equal(page_word(&saved, LDR), 1 << 5);
	assert_int_equal(page_word(&saved, ICR), 0x4061);
	assert_int_equal(page_word(&saved, ICR_HIGH), 7);
	assert_int_equal(page_word(&saved, CURRENT), 700000);
	assert_int_equal(saved.apic_base, 0xfee00c00);
	assert_int_equal(page_word(&saved, PPR), 0x80);

	lapic_reset(t.cpu[5]);
	lapic_load(t.cpu[5], &saved);
	lapic_save(t.cpu[5], &again);
	assert_memory_equal(&saved, &again, sizeof(saved));
	set_msr(5, 0x80b, 0);
	assert_int_equal(t.eoi_vector, 0x81); /* TMR came along */
	assert_int_equal(lapic_ack(t.cpu[5]), 0x71);
	fake_clock_advance(t.clock, 699999);
	assert_int_equal(msr(5, 0x822) & 1, 0);
	fake_clock_advance(t.clock, 1);
	assert_int_equal(msr(5, 0x822) & 1, 1); /* the timer's 0x40 */
}

/* Saved in the moment in which a periodic count is over: it goes on. */
static void test_periodic_at_zero(void **state)
{
	struct lapic_state saved;
	const u32 zero = 0;

	(void)state;
	x2apic(5);
	set_msr(5, 0x83e, 0xb);
	set_msr(5, 0x832, 0x20040);
	set_msr(5, 0x838, 1000000);
	lapic_save(t.cpu[5], &saved);
	memcpy(&saved.page[CURRENT], &zero, sizeof(zero));
	lapic_reset(t.cpu[5]);
	lapic_load(t.cpu[5], &saved);
	for (unsigned i = 0; i < 3; i++) {
		fake_clock_advance(t.clock, i ? 1000000 : 1);
		assert_int_equal(lapic_ack(t.cpu[5]), 0x40);
		set_msr(5, 0x80b, 0);
	}
	/* One that runs once is over, and one that was stopped stands still. */
	set_msr(5, 0x832, 0x40);
	fake_clock_advance(t.clock, 2000000);
	lapic_ack(t.cpu[5]);
	set_msr(5, 0x80b, 0);
	lapic_save(t.cpu[5], &saved);
	lapic_reset(t.cpu[5]);
	lapic_load(t.cpu[5], &saved);
	fake_clock_advance(t.clock, 3000000);
	assert_false(lapic_irq_pending(t.cpu[5]));
}

static void test_load_hostile(void **state)
{
	struct lapic_state s, saved;

	(void)state;
	memset(&s, 0xff, sizeof(s));
	lapic_load(t.cpu[0], &s);
	lapic_save(t.cpu[0], &saved);
	assert_int_equal(page_word(&saved, IRR), 0xffff0000);
	assert_int_equal(page_word(&saved, SVR), 0x3ff);
	assert_int_equal(saved.apic_base & 0x2ff, 0);
	s.apic_base = 0xfee00400; /* x2APIC without enable */
	lapic_load(t.cpu[0], &s);
	assert_int_equal(msr(0, MSR_APIC_BASE), 0xfee00000);
}

/* Any register, any value: nothing breaks, and other CPUs stay reachable. */
static void test_noise(void **state)
{
	u64 seed = 12345, value;

	(void)state;
	for (unsigned n = 0; n < 300000; n++) {
		unsigned cpu = (unsigned)(seed >> 20) % CPUS;
		u32 where = (u32)(seed >> 32) % 0x440;

		seed = seed * 6364136223846793005 + 1442695040888963407;
		switch (seed >> 60) {
		case 0 ... 4:
			lapic_mmio_write(t.cpu[cpu], where, seed >> 13,
			                 1u << (seed >> 5) % 4);
			break;
		case 5 ... 8:
			set_msr(cpu, 0x800 + where % 0x100,
			        seed >> (seed % 64));
			break;
		case 9:
			set_msr(cpu, MSR_APIC_BASE,
			        0xfee00000 | (seed & 0xd00));
			break;
		case 10:
			set_msr(cpu, MSR_TSC_DEADLINE, seed >> 30);
			break;
		case 11:
			lapic_deliver_msi(t.set, seed >> 8, (u32)(seed >> 3));
			break;
		case 12:
			lapic_mmio_read(t.cpu[cpu], where, 4);
			lapic_msr_read(t.cpu[cpu], 0x800 + where % 0x100,
			               &value);
			break;
		case 13:
			fake_clock_advance(t.clock, seed % 100000);
			break;
		case 14:
			lapic_set_lint0(t.set, seed & 4);
			break;
		default:
			lapic_ack(t.cpu[cpu]);
		}
	}
	lapic_set_lint0(t.set, false);
	for (unsigned i = 0; i < CPUS; i++) {
		lapic_reset(t.cpu[i]);
		put(i, SVR, 0x1ff);
		interrupt(i, 0x41);
		assert_int_equal(lapic_ack(t.cpu[i]), 0x41);
	}
}

/* Each sender waits for its own interrupt to be handled before the next: one
 * that gets lost is waited for in vain. */
enum { SENDERS = 3, ROUNDS = 3000 };

static _Atomic u32 posted[SENDERS], handled[SENDERS];

static void *send_interrupts(void *arg)
{
	unsigned n = (unsigned)(uintptr_t)arg;

	for (u32 round = 1; round <= ROUNDS; round++) {
		atomic_store(&posted[n], round);
		interrupt(0, (u8)(0x40 + n));
		while (atomic_load(&handled[n]) != round)
			sched_yield();
	}
	return NULL;
}

static void test_no_interrupt_is_lost(void **state)
{
	pthread_t sender[SENDERS];
	u32 left = SENDERS * ROUNDS;

	(void)state;
	for (uintptr_t n = 0; n < SENDERS; n++)
		assert_int_equal(pthread_create(&sender[n], NULL,
		                                send_interrupts, (void *)n),
		                 0);
	while (left > 0) {
		int vector;
		unsigned n;

		if (!lapic_irq_pending(t.cpu[0])) {
			sched_yield();
			continue;
		}
		vector = lapic_ack(t.cpu[0]);
		n = (unsigned)vector - 0x40;
		assert_in_range(n, 0, SENDERS - 1);
		atomic_store(&handled[n], atomic_load(&posted[n]));
		put(0, EOI, 0);
		left--;
	}
	for (unsigned n = 0; n < SENDERS; n++)
		pthread_join(sender[n], NULL);
	assert_false(lapic_irq_pending(t.cpu[0]));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reset),
		TEST(test_priority),
		TEST(test_tpr),
		TEST(test_coalesced_requests),
		TEST(test_level_eoi),
		cmocka_unit_test_setup_teardown(test_eoi_suppression,
		                                setup_directed, teardown),
		TEST(test_ipi_physical),
		TEST(test_ipi_shorthands),
		TEST(test_ipi_logical_flat),
		TEST(test_ipi_logical_cluster),
		TEST(test_ipi_lowest_priority),
		TEST(test_ipi_nmi_init_sipi),
		TEST(test_errors),
		TEST(test_disabled),
		TEST(test_lint),
		TEST(test_timer_one_shot),
		TEST(test_timer_periodic),
		TEST(test_timer_storm_is_bounded),
		TEST(test_timer_deadline),
		TEST(test_timer_deadline_tsc_jump),
		TEST(test_base_transitions),
		TEST(test_x2apic_registers),
		TEST(test_x2apic_ipi),
		TEST(test_mmio_access_sizes),
		TEST(test_init_reset),
		TEST(test_state),
		TEST(test_periodic_at_zero),
		TEST(test_load_hostile),
		TEST(test_noise),
		TEST(test_no_interrupt_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
