/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lapic_ipi - messages that reach local APICs: from each other, from IOAPICs
 * and devices (MSI), and over the LINT wires.
 *
 * ICR, Intel SDM vol. 3 10.6.1:
 *
 *	bits 7-0 vector       10-8 delivery mode   11 logical destination
 *	bit 14 assert         15 level             19-18 shorthand
 *	high half: destination, in bits 31-24, or all of them in x2APIC mode
 *
 * Runs on the sender's thread: of a destination it reads a few registers and
 * sets bits that are set by atomic operations only.
 */
#include "devices/chips/lapic_regs.h"

enum {
	ICR_LOGICAL = 1 << 11,
	ICR_PENDING = 1 << 12,
	ICR_ASSERT = 1 << 14,
	ICR_LEVEL = 1 << 15,
	ICR_SHORTHAND_SHIFT = 18,
};

enum shorthand { TO_DEST, TO_SELF, TO_ALL, TO_OTHERS };

enum { VECTOR_FIRST = 16, DEST_ALL_NARROW = 0xff };
#define DEST_ALL_WIDE 0xffffffffu

struct message {
	enum delivery_mode mode;
	u8 vector;
	bool level; /* trigger mode */
	bool logical;
	bool wide; /* a 32-bit destination, from an x2APIC */
	u32 dest;
};

/*
 * Reception.
 */

static void accept_vector(struct lapic *l, u8 vector, bool level)
{
	u32 word = vector / 32;
	u32 bit = (u32)1 << vector % 32;
	_Atomic u32 *tmr = &l->reg[REG_TMR / 16 + word];

	if (level)
		atomic_fetch_or(tmr, bit);
	else if (atomic_load(tmr) & bit)
		atomic_fetch_and(tmr, ~bit);
	/* A full barrier even if the bit is set already: what the sender wrote
	 * before is seen by the handler that clears this bit. */
	if (atomic_fetch_or(&l->reg[REG_IRR / 16 + word], bit) & bit)
		return; /* who set it calls, or has called, attention */
	atomic_fetch_or(&l->irr_summary, (u32)1 << word);
	l->set->host.attention(l->set->host.ctx, l->cpu);
}

void lapic_error(struct lapic *l, u32 bit)
{
	u32 lvt = lapic_reg(l, REG_LVT_ERROR);

	atomic_fetch_or(&l->esr_pending, bit);
	/* An illegal error vector is not an error again, without end. */
	if (!(lvt & LVT_MASKED) && (lvt & LVT_VECTOR) >= VECTOR_FIRST)
		accept_vector(l, (u8)lvt, false);
}

static bool accepts_vectors(const struct lapic *l)
{
	return lapic_hw_enabled(l) && (lapic_reg(l, REG_SVR) & SVR_ENABLED);
}

static void accept(struct lapic *l, enum delivery_mode mode, u8 vector,
                   bool level)
{
	const struct lapic_host *host = &l->set->host;

	if (!lapic_hw_enabled(l))
		return;
	switch (mode) {
	case MODE_FIXED:
	case MODE_LOWEST:
		if (!accepts_vectors(l))
			break;
		if (vector < VECTOR_FIRST)
			lapic_error(l, ESR_RECEIVE_ILLEGAL);
		else
			accept_vector(l, vector, level);
		break;
	case MODE_NMI:
		host->nmi(host->ctx, l->cpu);
		break;
	case MODE_INIT:
		host->init(host->ctx, l->cpu);
		break;
	case MODE_SIPI:
		host->sipi(host->ctx, l->cpu, vector);
		break;
	case MODE_EXTINT:
		atomic_store(&l->extint, true);
		host->attention(host->ctx, l->cpu);
		break;
	case MODE_SMI: /* there is no system management mode */
	case MODE_RESERVED:
		break;
	}
}

void lapic_deliver_lvt(struct lapic *l, u32 off)
{
	u32 lvt = lapic_reg(l, off);
	bool lint = off == REG_LVT_LINT0 || off == REG_LVT_LINT1;

	if (lvt & LVT_MASKED)
		return;
	accept(l, lint ? (lvt & LVT_MODE) >> LVT_MODE_SHIFT : MODE_FIXED,
	       (u8)lvt, false);
}

/*
 * Destinations, SDM 10.6.2 and 10.12.10.2.
 */

static bool matches_logical(const struct lapic *l, const struct message *m)
{
	u32 ldr = lapic_reg(l, REG_LDR) >> 24;

	if (lapic_is_x2apic(l))
		return m->dest >> 16 == l->cpu / 16 &&
		       (m->dest & (u32)1 << l->cpu % 16);
	if (m->dest > 0xff)
		return false;
	if (lapic_reg(l, REG_DFR) >> 28 == 0xf) /* flat */
		return m->dest & ldr;
	return m->dest >> 4 == ldr >> 4 && (m->dest & ldr & 0xf);
}

static bool matches(const struct lapic *l, const struct message *m)
{
	if (m->dest == (m->wide ? DEST_ALL_WIDE : DEST_ALL_NARROW))
		return true;
	return m->logical ? matches_logical(l, m) : m->dest == l->cpu;
}

/* SDM 10.6.2.4: of those with the lowest processor priority, the next in
 * turn. */
static void deliver_lowest(struct lapic_set *set, const struct message *m)
{
	u32 turn = atomic_load(&set->lowest_turn);
	struct lapic *best = NULL;
	u32 best_priority = 0;

	for (u32 i = 1; i <= set->count; i++) {
		struct lapic *l = &set->cpu[(turn + i) % set->count];
		u32 priority = atomic_load(&l->ppr) >> 4;

		if (!accepts_vectors(l) || !matches(l, m))
			continue;
		if (best == NULL || priority < best_priority) {
			best = l;
			best_priority = priority;
		}
	}
	if (best == NULL)
		return;
	atomic_store(&set->lowest_turn, best->cpu);
	accept(best, MODE_FIXED, m->vector, m->level);
}

static void deliver(struct lapic_set *set, const struct message *m)
{
	u32 all = m->wide ? DEST_ALL_WIDE : DEST_ALL_NARROW;

	if (m->mode == MODE_LOWEST) {
		deliver_lowest(set, m);
	} else if (!m->logical && m->dest != all) {
		if (m->dest < set->count)
			accept(&set->cpu[m->dest], m->mode, m->vector,
			       m->level);
	} else {
		for (u32 i = 0; i < set->count; i++)
			if (matches(&set->cpu[i], m))
				accept(&set->cpu[i], m->mode, m->vector,
				       m->level);
	}
}

/*
 * Sending.
 */

void lapic_self_ipi(struct lapic *l, u8 vector)
{
	if (vector < VECTOR_FIRST)
		lapic_error(l, ESR_SEND_ILLEGAL);
	else
		accept(l, MODE_FIXED, vector, false);
}

void lapic_icr_write(struct lapic *l, u32 low, u32 high)
{
	struct message m = {
		.mode = low >> 8 & 7,
		.vector = (u8)low,
		.logical = low & ICR_LOGICAL,
		.wide = lapic_is_x2apic(l),
	};
	enum shorthand to = low >> ICR_SHORTHAND_SHIFT & 3;
	bool vectored = m.mode == MODE_FIXED || m.mode == MODE_LOWEST;

	m.dest = m.wide ? high : high >> 24;
	lapic_reg_set(l, REG_ICR, low & 0x000ccfff & ~(u32)ICR_PENDING);

	if (m.mode == MODE_RESERVED || m.mode == MODE_EXTINT)
		return;
	/* INIT level de-assert only synchronises arbitration IDs, which no
	 * processor has had since the Pentium III (SDM 10.6.1). */
	if (m.mode == MODE_INIT && (low & ICR_LEVEL) && !(low & ICR_ASSERT))
		return;
	if (vectored && m.vector < VECTOR_FIRST) {
		lapic_error(l, ESR_SEND_ILLEGAL);
		return;
	}
	if (to == TO_DEST) {
		deliver(l->set, &m);
	} else if (to == TO_SELF) {
		accept(l, m.mode, m.vector, false);
	} else {
		for (u32 i = 0; i < l->set->count; i++)
			if (to == TO_ALL || i != l->cpu)
				accept(&l->set->cpu[i], m.mode, m.vector,
				       false);
	}
}

/* SDM 10.11: address bits 19-12 destination, 2 logical; data bits 7-0 vector,
 * 10-8 mode, 15 level, 14 assert. The redirection hint says no more than mode
 * does. */
void lapic_deliver_msi(struct lapic_set *set, u64 addr, u32 data)
{
	struct message m = {
		.mode = data >> 8 & 7,
		.vector = (u8)data,
		.level = data & BIT(15),
		.logical = addr & BIT(2),
		.dest = addr >> 12 & 0xff,
	};

	if (m.level && !(data & BIT(14)))
		return; /* de-assertion of a level: nothing to be done */
	deliver(set, &m);
}

void lapic_set_lint0(struct lapic_set *set, bool high)
{
	if (atomic_exchange(&set->lint0, high) == high || !high)
		return;
	for (u32 i = 0; i < set->count; i++) {
		struct lapic *l = &set->cpu[i];

		if (lapic_takes_pic(l))
			set->host.attention(set->host.ctx, i);
		else
			lapic_deliver_lvt(l, REG_LVT_LINT0);
	}
}

void lapic_pulse_lint1(struct lapic_set *set)
{
	for (u32 i = 0; i < set->count; i++)
		lapic_deliver_lvt(&set->cpu[i], REG_LVT_LINT1);
}
