/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host - what a vCPU asks of its machine: ports, MMIO, MSRs, interrupts.
 *
 * Everything here runs on the vCPU's own thread, in the middle of a guest
 * instruction.
 */
#include "guest/cpu.h"
#include "machine/internal.h"
#include "machine/pv.h"

static u64 all_ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : BIT(size * 8) - 1;
}

static u64 pio_read(void *ctx, u16 port, unsigned size)
{
	struct machine_cpu *cpu = ctx;
	u64 value;

	if (!bus_read(cpu->machine->host.pio, port, size, &value))
		return all_ones(size);
	return value;
}

static void pio_write(void *ctx, u16 port, u64 value, unsigned size)
{
	struct machine_cpu *cpu = ctx;

	bus_write(cpu->machine->host.pio, port, size, value);
}

/* Every CPU sees its own LAPIC at the same address: it is not on the bus. */
static u64 mmio_read(void *ctx, gpa_t gpa, unsigned size)
{
	struct machine_cpu *cpu = ctx;
	u64 value;

	if (cpu->lapic && lapic_claims(cpu->lapic, gpa))
		return lapic_mmio_read(cpu->lapic, gpa & ~PAGE_MASK, size);
	if (!bus_read(cpu->machine->host.mmio, gpa, size, &value))
		return all_ones(size);
	return value;
}

static void mmio_write(void *ctx, gpa_t gpa, u64 value, unsigned size)
{
	struct machine_cpu *cpu = ctx;

	if (cpu->lapic && lapic_claims(cpu->lapic, gpa))
		lapic_mmio_write(cpu->lapic, gpa & ~PAGE_MASK, value, size);
	else
		bus_write(cpu->machine->host.mmio, gpa, size, value);
}

static bool is_lapic_msr(u32 msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

static bool msr_read(void *ctx, u32 msr, u64 *value)
{
	struct machine_cpu *cpu = ctx;

	if (!cpu->lapic)
		return false;
	if (is_lapic_msr(msr))
		return lapic_msr_read(cpu->lapic, msr, value);
	return pv_msr_read(cpu, msr, value);
}

static bool msr_write(void *ctx, u32 msr, u64 value)
{
	struct machine_cpu *cpu = ctx;

	if (!cpu->lapic)
		return false;
	if (is_lapic_msr(msr))
		return lapic_msr_write(cpu->lapic, msr, value);
	return pv_msr_write(cpu, msr, value);
}

static bool irq_pending(void *ctx)
{
	struct machine_cpu *cpu = ctx;

	return lapic_irq_pending(cpu->lapic);
}

static int irq_ack(void *ctx)
{
	struct machine_cpu *cpu = ctx;

	return lapic_ack(cpu->lapic);
}

static u8 tpr_get(void *ctx)
{
	struct machine_cpu *cpu = ctx;

	return lapic_tpr_get(cpu->lapic);
}

static void tpr_set(void *ctx, u8 tpr)
{
	struct machine_cpu *cpu = ctx;

	lapic_tpr_set(cpu->lapic, tpr);
}

static s64 hypercall(void *ctx, u64 number, const u64 arg[HYPERCALL_ARGS],
                     bool code64)
{
	return pv_hypercall(ctx, number, arg, code64);
}

const struct vcpu_host machine_vcpu_host = {
	.pio_read = pio_read,
	.pio_write = pio_write,
	.mmio_read = mmio_read,
	.mmio_write = mmio_write,
	.msr_read = msr_read,
	.msr_write = msr_write,
	.irq_pending = irq_pending,
	.irq_ack = irq_ack,
	.tpr_get = tpr_get,
	.tpr_set = tpr_set,
	.hypercall = hypercall,
};
