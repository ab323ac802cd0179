/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_chips - what the kernel's interrupt controllers and PIT hold, from and
 * to the form that every engine saves (guest/irqchip.h).
 *
 * What the kernel does not tell or take:
 *
 * - The PIC's level mode (ICW1 bit 3): its inputs become level-triggered by
 *   ELCR, which comes to the same.
 * - Whether an edge-triggered pin of the IOAPIC is high, once the edge has
 *   been delivered: the PIC, which hangs on the same lines, knows.
 * - When a PIT count began: it begins anew, with what is left of one that
 *   runs once.
 */
#include "engine/kvm/kvm.h"

#include <string.h>

#include "base/loop.h"
#include "engine/kvm/kvm_irqchip.h"
#include "guest/irqchip.h"

enum {
	ICW1_ALWAYS = 1 << 4,
	ICW1_ICW4 = 1 << 0,
	ICW1_LEVEL = 1 << 3,
	CASCADE = 1 << 2,
	ELCR_MASTER = 0xf8, /* not timer, keyboard, cascade */
	ELCR_SLAVE = 0xde,  /* not RTC, coprocessor */
	PIT_PIN = 2,        /* of the IOAPIC; of the PIC it is 0 */
	IOAPIC_ID_SHIFT = 24,
};

/* ---- PIC ---- */

static void get_pic(struct pic_chip *to, const struct kvm_pic_state *from)
{
	*to = (struct pic_chip){
		.imr = from->imr,
		.irr = from->irr,
		.isr = from->isr,
		.lines = from->last_irr,
		.elcr = from->elcr,
		.base = from->irq_base,
		.lowest = (from->priority_add + 7) & 7,
		.icw1 = ICW1_ALWAYS | (from->init4 ? ICW1_ICW4 : 0),
		.expect = from->init_state & 3,
		.auto_eoi = !!from->auto_eoi,
		.auto_rotate = !!from->rotate_on_auto_eoi,
		.special_mask = !!from->special_mask,
		.special_nested = !!from->special_fully_nested_mode,
		.read_isr = !!from->read_reg_select,
		.poll = !!from->poll,
	};
}

static void set_pic(struct kvm_pic_state *to, const struct pic_chip *from,
                    bool master)
{
	const u8 elcr_mask = master ? ELCR_MASTER : ELCR_SLAVE;

	*to = (struct kvm_pic_state){
		/* The kernel pulses the cascade. */
		.last_irr = master ? from->lines & (u8)~CASCADE : from->lines,
		.irr = from->irr,
		.imr = from->imr,
		.isr = from->isr,
		.priority_add = (from->lowest + 1) & 7,
		.irq_base = from->base & 0xf8,
		.read_reg_select = !!from->read_isr,
		.poll = !!from->poll,
		.special_mask = !!from->special_mask,
		.init_state = from->expect & 3,
		.auto_eoi = !!from->auto_eoi,
		.rotate_on_auto_eoi = !!from->auto_rotate,
		.special_fully_nested_mode = !!from->special_nested,
		.init4 = !!(from->icw1 & ICW1_ICW4),
		.elcr = from->icw1 & ICW1_LEVEL ? elcr_mask
		                                : from->elcr & elcr_mask,
		.elcr_mask = elcr_mask,
	};
}

/* ---- IOAPIC ---- */

static u32 level_pins(const struct ioapic_state *io)
{
	u32 pins = 0;

	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		if (io->entry[i] & BIT(15))
			pins |= (u32)BIT(i);
	return pins;
}

static void get_ioapic(struct ioapic_state *to,
                       const struct kvm_ioapic_state *from,
                       const struct pic_state *pic)
{
	u32 lines = pic->chip[0].lines | (u32)pic->chip[1].lines << 8;

	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		to->entry[i] = from->redirtbl[i].bits;
	lines = (lines & ~(u32)(BIT(0) | BIT(PIT_PIN))) | (lines & 1)
	                                                      << PIT_PIN;
	to->levels = from->irr | (lines & ~level_pins(to));
	to->id = (from->id & 0xf) << IOAPIC_ID_SHIFT;
	to->index = (u8)from->ioregsel;
}

static void set_ioapic(struct kvm_ioapic_state *to,
                       const struct ioapic_state *from)
{
	memset(to, 0, sizeof(*to));
	to->base_address = 0xfec00000;
	to->ioregsel = from->index;
	to->id = from->id >> IOAPIC_ID_SHIFT & 0xf;
	/* An edge has been delivered: one that is told here would be again. */
	to->irr = from->levels & level_pins(from);
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		to->redirtbl[i].bits = from->entry[i];
}

/* ---- PIT ---- */

/* The kernel's words for the byte that is due next. */
enum { BYTE_LOW = 1, BYTE_HIGH, BYTE_BOTH_LOW, BYTE_BOTH_HIGH };
enum { ACCESS_BOTH = 3 };

static u64 ticks_of(u64 ns)
{
	return (u64)((unsigned __int128)ns * PIT_HZ / NSEC_PER_SEC);
}

static void get_channel(struct pit_channel *to,
                        const struct kvm_pit_channel_state *from, u64 tick)
{
	u64 now_ns = loop_now_ns(), then_ns = (u64)from->count_load_time;
	u64 elapsed = now_ns > then_ns ? ticks_of(now_ns - then_ns) : 0;
	bool once = from->mode == 0 || from->mode == 4;

	*to = (struct pit_channel){
		.mode = from->mode & 7,
		.bcd = from->bcd & 1,
		.access = from->rw_mode & 3,
		.gate = from->gate & 1,
		.loaded = from->count_load_time != 0,
		.triggered = from->gate & 1,
		.paused = once && !from->gate,
		.high_next = from->read_state == BYTE_BOTH_HIGH,
		.write_high_next = from->write_state == BYTE_BOTH_HIGH,
		.write_low = from->write_latch,
		.status_latched = !!from->status_latched,
		.status = from->status,
		.count_latched = !!from->count_latched,
		.latch = from->latched_count,
		.count = from->count ? from->count : 0x10000,
		.start = tick > elapsed ? tick - elapsed : 0,
		.elapsed = elapsed,
	};
	if (from->count_latched)
		to->high_next = from->count_latched == BYTE_HIGH &&
		                from->rw_mode == ACCESS_BOTH;
}

/* What is left of a count that runs once. One that is over comes again, as
 * late as it can: the kernel has no other way to hold it. */
static u32 count_left(const struct pit_channel *c, u64 tick)
{
	u64 elapsed = c->paused         ? c->elapsed
	              : tick > c->start ? tick - c->start
	                                : 0;

	if (c->mode == 2 || c->mode == 3)
		return c->next_count ? c->next_count : c->count;
	return elapsed < c->count ? c->count - (u32)elapsed : 0x10000;
}

static void set_channel(struct kvm_pit_channel_state *to,
                        const struct pit_channel *from, u64 tick)
{
	const bool both = from->access == ACCESS_BOTH;

	*to = (struct kvm_pit_channel_state){
		.count = MIN(count_left(from, tick), 0x10000u),
		.latched_count = from->latch,
		.status_latched = from->status_latched,
		.status = from->status,
		.rw_mode = from->access,
		.mode = from->mode,
		.bcd = from->bcd,
		.gate = from->gate,
		.write_latch = from->write_low,
		.read_state = from->access,
		.write_state = from->access,
	};
	if (both && from->write_high_next)
		to->write_state = BYTE_BOTH_HIGH;
	if (both && from->high_next && !from->count_latched)
		to->read_state = BYTE_BOTH_HIGH;
	if (from->count_latched)
		to->count_latched =
		    both && from->high_next ? BYTE_HIGH : from->access;
}

static void get_pit(struct pit_state *to, const struct kvm_pit_state2 *from,
                    u64 now_ns)
{
	u64 tick = ticks_of(now_ns);

	for (unsigned i = 0; i < ARRAY_SIZE(to->channel); i++)
		get_channel(&to->channel[i], &from->channels[i], tick);
	to->port61 = from->channels[2].gate & 1;
	if (from->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON)
		to->port61 |= 2;
	to->irq_tick = tick;
	to->routed = !(from->flags & KVM_PIT_FLAGS_HPET_LEGACY);
}

static void set_pit(struct kvm_pit_state2 *to, const struct pit_state *from,
                    u64 now_ns)
{
	u64 tick = ticks_of(now_ns);

	memset(to, 0, sizeof(*to));
	for (unsigned i = 0; i < ARRAY_SIZE(from->channel); i++)
		set_channel(&to->channels[i], &from->channel[i], tick);
	if (from->port61 & 2)
		to->flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	if (!from->routed)
		to->flags |= KVM_PIT_FLAGS_HPET_LEGACY;
}

/* ---- all of them ---- */

int kvm_canonical_get(struct engine *e, u64 now_ns, struct irqchip_state *state)
{
	struct kvm_chips_state kernel;
	int r = kvm_chips_get(e, &kernel);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < ARRAY_SIZE(kernel.pic); i++)
		get_pic(&state->pic.chip[i], &kernel.pic[i]);
	get_ioapic(&state->ioapic, &kernel.ioapic, &state->pic);
	get_pit(&state->pit, &kernel.pit, now_ns);
	state->pv_clock_ns = kernel.clock_ns;
	return 0;
}

int kvm_canonical_set(struct engine *e, u64 now_ns,
                      const struct irqchip_state *state)
{
	struct kvm_chips_state kernel = { .clock_ns = state->pv_clock_ns };

	for (unsigned i = 0; i < ARRAY_SIZE(kernel.pic); i++)
		set_pic(&kernel.pic[i], &state->pic.chip[i], i == 0);
	set_ioapic(&kernel.ioapic, &state->ioapic);
	set_pit(&kernel.pit, &state->pit, now_ns);
	return kvm_chips_set(e, &kernel);
}

int kvm_canonical_local_get(struct vcpu *v, struct irqchip_local *state)
{
	struct kvm_local_state kernel;
	int r = kvm_local_get(v, &kernel);

	if (r < 0)
		return r;
	_Static_assert(sizeof(kernel.regs) == LAPIC_PAGE_BYTES, "one page");
	memcpy(state->lapic.page, kernel.regs, sizeof(kernel.regs));
	state->lapic.apic_base = kernel.apic_base;
	state->lapic.tsc_deadline = kernel.tsc_deadline;
	state->pv_wall_clock = kernel.paravirt[KVM_PARAVIRT_WALL_CLOCK];
	state->pv_system_time = kernel.paravirt[KVM_PARAVIRT_SYSTEM_TIME];
	state->pv_steal_time = kernel.paravirt[KVM_PARAVIRT_STEAL_TIME];
	return 0;
}

int kvm_canonical_local_set(struct vcpu *v, const struct irqchip_local *state)
{
	struct kvm_local_state kernel = {
		.apic_base = state->lapic.apic_base,
		.tsc_deadline = state->lapic.tsc_deadline,
	};

	memcpy(kernel.regs, state->lapic.page, sizeof(kernel.regs));
	kernel.paravirt[KVM_PARAVIRT_WALL_CLOCK] = state->pv_wall_clock;
	kernel.paravirt[KVM_PARAVIRT_SYSTEM_TIME] = state->pv_system_time;
	kernel.paravirt[KVM_PARAVIRT_STEAL_TIME] = state->pv_steal_time;
	kernel.paravirt[KVM_PARAVIRT_POLL_CONTROL] = 1;
	return kvm_local_set(v, &kernel);
}
