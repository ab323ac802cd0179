/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_irqchip - PIC, IOAPIC, LAPICs, PIT and paravirtual clock in the kernel.
 */
#include "engine/kvm/kvm_irqchip.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "engine/kvm/kvm.h"

/* asm/kvm_para.h; Linux Documentation/virt/kvm/x86/msr.rst. */
static const struct {
	u32 msr, reset;
} paravirt[KVM_PARAVIRT_MSRS] = {
	{ 0x11, 0 }, /* wall clock and system time: the old numbers */
	{ 0x12, 0 },       { 0x4b564d00, 0 }, /* and the new ones */
	{ 0x4b564d01, 0 }, { 0x4b564d02, 0 }, /* asynchronous page faults */
	{ 0x4b564d03, 0 },                    /* steal time */
	{ 0x4b564d04, 0 },                    /* paravirtual EOI */
	{ 0x4b564d05, 1 }, /* poll control: the host may poll at HLT */
	{ 0x4b564d06, 0 }, /* asynchronous page faults by interrupt */
	{ 0x4b564d07, 0 }, { 0x4b564d08, 0 }, /* migration control */
};

static int get_chips(struct engine *e,
                     struct kvm_irqchip chips[KVM_NR_IRQCHIPS])
{
	for (u32 i = 0; i < KVM_NR_IRQCHIPS; i++) {
		int r;

		memset(&chips[i], 0, sizeof(chips[i]));
		chips[i].chip_id = i;
		r = kvm_call(e->vm, KVM_GET_IRQCHIP, &chips[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int set_chips(struct engine *e,
                     const struct kvm_irqchip chips[KVM_NR_IRQCHIPS])
{
	for (u32 i = 0; i < KVM_NR_IRQCHIPS; i++) {
		struct kvm_irqchip chip = chips[i];
		int r = kvm_call(e->vm, KVM_SET_IRQCHIP, &chip);

		if (r < 0)
			return r;
	}
	return 0;
}

int kvm_irqchip_create(struct engine *e, struct error *err)
{
	/* Port 0x61 is served beside the PIT: Linux measures the TSC by it. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int r = kvm_call(e->vm, KVM_CREATE_IRQCHIP, NULL);

	if (r == 0)
		r = kvm_call(e->vm, KVM_CREATE_PIT2, &pit);
	if (r == 0)
		r = get_chips(e, e->chips);
	if (r == 0)
		r = kvm_call(e->vm, KVM_GET_PIT2, &e->pit);
	if (r < 0)
		return error_set(err, r,
		                 "kvm: cannot create interrupt controllers: "
		                 "%s",
		                 strerror(-r));
	return kvm_routes_create(e, err);
}

static void set_gsi(struct engine *e, unsigned gsi, bool high)
{
	struct kvm_irq_level level = { .irq = gsi, .level = high };

	kvm_call(e->vm, KVM_IRQ_LINE, &level);
}

/* A message to nobody is refused, and lost as on hardware. */
static void send_msi(struct engine *e, u64 addr, u32 data)
{
	struct kvm_msi msi = {
		.address_lo = (u32)addr,
		.address_hi = (u32)(addr >> 32),
		.data = data,
	};

	kvm_call(e->vm, KVM_SIGNAL_MSI, &msi);
}

static void reset_local(struct vcpu *v)
{
	struct kvm_sregs sregs;

	if (kvm_call(v->fd, KVM_GET_SREGS, &sregs) == 0) {
		sregs.apic_base = v->apic_base;
		kvm_call(v->fd, KVM_SET_SREGS, &sregs);
	}
	kvm_call(v->fd, KVM_SET_LAPIC, &v->lapic);
	for (size_t i = 0; i < KVM_PARAVIRT_MSRS; i++)
		kvm_msr_write(v, paravirt[i].msr, paravirt[i].reset);
}

/* The kernel gave these very values: it cannot refuse them. */
static void reset_chips(struct engine *e)
{
	set_chips(e, e->chips);
	kvm_call(e->vm, KVM_SET_PIT2, &e->pit);
	for (unsigned i = 0; i < e->cpus; i++)
		if (e->vcpus[i])
			reset_local(e->vcpus[i]);
}

static void clock_stop(struct engine *e)
{
	if (!e->clock_stopped)
		e->clock_stopped =
		    kvm_call(e->vm, KVM_GET_CLOCK, &e->clock) == 0;
}

static void clock_start(struct engine *e)
{
	struct kvm_clock_data clock = { .clock = e->clock.clock };

	if (!e->clock_stopped)
		return;
	kvm_call(e->vm, KVM_SET_CLOCK, &clock);
	e->clock_stopped = false;
	/* Tells the guest's watchdogs that time was lost; refused where the
	 * guest has no clock page. */
	for (unsigned i = 0; i < e->cpus; i++)
		if (e->vcpus[i])
			kvm_call(e->vcpus[i]->fd, KVM_KVMCLOCK_CTRL, NULL);
}

const struct engine_irqchip kvm_irqchip_ops = {
	.set_gsi = set_gsi,
	.msi = send_msi,
	.reset = reset_chips,
	.clock_stop = clock_stop,
	.clock_start = clock_start,
	.get = kvm_canonical_get,
	.set = kvm_canonical_set,
	.local_get = kvm_canonical_local_get,
	.local_set = kvm_canonical_local_set,
};

int kvm_chips_get(struct engine *e, struct kvm_chips_state *state)
{
	struct kvm_irqchip chips[KVM_NR_IRQCHIPS];
	struct kvm_clock_data clock = { 0 };
	struct kvm_pit_state2 pit;
	int r = get_chips(e, chips);

	if (r == 0)
		r = kvm_call(e->vm, KVM_GET_PIT2, &pit);
	if (r == 0 && e->clock_stopped)
		clock = e->clock;
	else if (r == 0)
		r = kvm_call(e->vm, KVM_GET_CLOCK, &clock);
	if (r < 0)
		return r;
	state->pic[0] = chips[KVM_IRQCHIP_PIC_MASTER].chip.pic;
	state->pic[1] = chips[KVM_IRQCHIP_PIC_SLAVE].chip.pic;
	state->ioapic = chips[KVM_IRQCHIP_IOAPIC].chip.ioapic;
	state->pit = pit;
	state->clock_ns = clock.clock;
	return 0;
}

int kvm_chips_set(struct engine *e, const struct kvm_chips_state *state)
{
	struct kvm_irqchip chips[KVM_NR_IRQCHIPS] = { 0 };
	struct kvm_clock_data clock = { .clock = state->clock_ns };
	struct kvm_pit_state2 pit = state->pit;
	int r;

	for (u32 i = 0; i < KVM_NR_IRQCHIPS; i++)
		chips[i].chip_id = i;
	chips[KVM_IRQCHIP_PIC_MASTER].chip.pic = state->pic[0];
	chips[KVM_IRQCHIP_PIC_SLAVE].chip.pic = state->pic[1];
	chips[KVM_IRQCHIP_IOAPIC].chip.ioapic = state->ioapic;
	r = set_chips(e, chips);
	if (r == 0)
		r = kvm_call(e->vm, KVM_SET_PIT2, &pit);
	if (r == 0 && e->clock_stopped)
		e->clock = clock;
	else if (r == 0)
		r = kvm_call(e->vm, KVM_SET_CLOCK, &clock);
	return r;
}

int kvm_local_get(struct vcpu *v, struct kvm_local_state *state)
{
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;
	u64 deadline = 0;
	int r = kvm_call(v->fd, KVM_GET_SREGS, &sregs);

	if (r == 0)
		r = kvm_call(v->fd, KVM_GET_LAPIC, &lapic);
	if (r < 0)
		return r;
	kvm_msr_read(v, MSR_TSC_DEADLINE, &deadline);
	state->apic_base = sregs.apic_base;
	state->tsc_deadline = deadline;
	memcpy(state->regs, lapic.regs, sizeof(state->regs));
	for (size_t i = 0; i < KVM_PARAVIRT_MSRS; i++) {
		state->paravirt[i] = 0;
		kvm_msr_read(v, paravirt[i].msr, &state->paravirt[i]);
	}
	return 0;
}

int kvm_local_set(struct vcpu *v, const struct kvm_local_state *state)
{
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;
	int r = kvm_call(v->fd, KVM_GET_SREGS, &sregs);

	if (r < 0)
		return r;
	/* The mode first: it says how the registers are read. */
	sregs.apic_base = state->apic_base;
	r = kvm_call(v->fd, KVM_SET_SREGS, &sregs);
	if (r < 0)
		return r;
	memcpy(lapic.regs, state->regs, sizeof(state->regs));
	r = kvm_call(v->fd, KVM_SET_LAPIC, &lapic);
	/* The timer's mode must be there before its deadline. */
	if (r == 0 && state->tsc_deadline)
		r = kvm_msr_write(v, MSR_TSC_DEADLINE, state->tsc_deadline);
	/* An MSR that this kernel lacks matters only if the guest used it. */
	for (size_t i = 0; r == 0 && i < KVM_PARAVIRT_MSRS; i++) {
		r = kvm_msr_write(v, paravirt[i].msr, state->paravirt[i]);
		if (r < 0 && !state->paravirt[i])
			r = 0;
	}
	return r;
}
