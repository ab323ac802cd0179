/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lapic - local APICs: registers, and the priority of interrupts.
 *
 *	0x020 ID       0x030 version  0x080 TPR      0x0a0 PPR
 *	0x0b0 EOI      0x0d0 LDR      0x0e0 DFR      0x0f0 SVR
 *	0x100 ISR x 8  0x180 TMR x 8  0x200 IRR x 8  0x280 ESR
 *	0x300 ICR      0x310 ICR high
 *	0x320 LVT timer, thermal, performance, LINT0, LINT1, error
 *	0x380 initial count  0x390 current count  0x3e0 divide
 *	0x3f0 self IPI (x2APIC)
 *
 * Intel SDM vol. 3 ch. 10; x2APIC in 10.12. Messages between LAPICs are in
 * lapic_ipi.c, the timer in lapic_timer.c.
 */
#include "devices/chips/lapic_regs.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "guest/cpu.h"

enum {
	VERSION = 0x14,
	VERSION_MAX_LVT = 5 << 16, /* six entries */
	VERSION_DIRECTED_EOI = 1 << 24,
};

/* Which LVT there are, and their bits; reserved ones apart. */
static u32 lvt_valid(const struct lapic *l, u32 off)
{
	u32 fixed = LVT_VECTOR | LVT_PENDING | LVT_MASKED;

	switch (off) {
	case REG_LVT_TIMER:
		return fixed |
		       (l->set->config.tsc_deadline ? LVT_TIMER_MODE
		                                    : LVT_TIMER_PERIODIC);
	case REG_LVT_THERMAL:
	case REG_LVT_PERF:
		return fixed | LVT_MODE;
	case REG_LVT_LINT0:
	case REG_LVT_LINT1:
		return fixed | LVT_MODE | LVT_POLARITY | LVT_REMOTE_IRR |
		       LVT_LEVEL;
	case REG_LVT_ERROR:
		return fixed;
	default:
		return 0;
	}
}

static const u16 lvt_offsets[] = {
	REG_LVT_TIMER, REG_LVT_THERMAL, REG_LVT_PERF,
	REG_LVT_LINT0, REG_LVT_LINT1,   REG_LVT_ERROR,
};

/*
 * Priorities, SDM 10.8.3.
 */

/* The highest vector of eight words from off, or -1. */
static int highest(const struct lapic *l, u32 off)
{
	for (int word = 7; word >= 0; word--) {
		u32 bits = lapic_reg(l, off + (u32)word * 16);

		if (bits != 0)
			return word * 32 + 31 - __builtin_clz(bits);
	}
	return -1;
}

static u8 processor_priority(const struct lapic *l)
{
	u32 tpr = lapic_reg(l, REG_TPR) & 0xff;
	int vector = highest(l, REG_ISR);
	u32 service = vector < 0 ? 0 : (u32)vector & 0xf0;

	return (u8)((tpr & 0xf0) >= service ? tpr : service);
}

/* The highest vector requested, if above ppr, or -1. */
static int deliverable(struct lapic *l, u8 ppr)
{
	u32 words = atomic_load_explicit(&l->irr_summary, memory_order_acquire);

	while (words != 0) {
		u32 word = 31 - (u32)__builtin_clz(words);
		u32 bits = lapic_reg(l, REG_IRR + word * 16);

		if (bits != 0) {
			int v = (int)word * 32 + 31 - __builtin_clz(bits);

			return (v & 0xf0) > (ppr & 0xf0) ? v : -1;
		}
		words &= ~((u32)1 << word);
	}
	return -1;
}

/* SDM 10.5.1 and 10.4.3: LINT0 as ExtINT, or an APIC that is off, in which
 * case the pin is the processor's INTR. Only the BSP's INTR is wired. */
bool lapic_takes_pic(const struct lapic *l)
{
	u32 lvt = lapic_reg(l, REG_LVT_LINT0);

	if (!lapic_hw_enabled(l))
		return l->cpu == 0;
	return !(lvt & LVT_MASKED) &&
	       (lvt & LVT_MODE) >> LVT_MODE_SHIFT == MODE_EXTINT;
}

static bool extint_pending(struct lapic *l)
{
	return atomic_load_explicit(&l->extint, memory_order_acquire) ||
	       (atomic_load_explicit(&l->set->lint0, memory_order_acquire) &&
	        lapic_takes_pic(l));
}

bool lapic_irq_pending(struct lapic *l)
{
	u8 ppr = atomic_load_explicit(&l->ppr, memory_order_relaxed);

	return deliverable(l, ppr) >= 0 || extint_pending(l);
}

bool lapic_wakes(struct lapic *l)
{
	return lapic_irq_pending(l);
}

/* TPR or ISR changed; something may have become deliverable. */
static void update_ppr(struct lapic *l)
{
	atomic_store_explicit(&l->ppr, processor_priority(l),
	                      memory_order_relaxed);
	if (lapic_irq_pending(l))
		l->set->host.attention(l->set->host.ctx, l->cpu);
}

static void irr_clear(struct lapic *l, u32 vector)
{
	u32 word = vector / 32;
	u32 bit = (u32)1 << vector % 32;
	u32 summary = (u32)1 << word;
	_Atomic u32 *irr = &l->reg[REG_IRR / 16 + word];

	if ((atomic_fetch_and(irr, ~bit) & ~bit) != 0)
		return;
	/* Others set the word, then the summary; look again after clearing,
	 * so that the summary never stays clear over a set word. */
	atomic_fetch_and(&l->irr_summary, ~summary);
	if (atomic_load(irr) != 0)
		atomic_fetch_or(&l->irr_summary, summary);
}

int lapic_ack(struct lapic *l)
{
	const struct lapic_host *host = &l->set->host;
	u32 word;
	int vector;

	if (extint_pending(l)) {
		atomic_store(&l->extint, false);
		return host->pic_ack(host->ctx);
	}
	vector = deliverable(l, atomic_load(&l->ppr));
	if (vector < 0)
		return -1;
	word = REG_ISR + (u32)vector / 32 * 16;
	irr_clear(l, (u32)vector);
	lapic_reg_set(l, word, lapic_reg(l, word) | (u32)1 << vector % 32);
	atomic_store_explicit(&l->ppr, processor_priority(l),
	                      memory_order_relaxed);
	return vector;
}

/* SDM 10.8.5. */
static void eoi(struct lapic *l)
{
	const struct lapic_set *set = l->set;
	int vector = highest(l, REG_ISR);
	u32 word, bit;
	bool level;

	if (vector < 0)
		return;
	word = (u32)vector / 32 * 16;
	bit = (u32)1 << vector % 32;
	lapic_reg_set(l, REG_ISR + word, lapic_reg(l, REG_ISR + word) & ~bit);
	level = lapic_reg(l, REG_TMR + word) & bit;
	if (level && !(lapic_reg(l, REG_SVR) & SVR_NO_EOI_BROADCAST))
		set->host.eoi(set->host.ctx, (u8)vector);
	update_ppr(l);
}

static void set_tpr(struct lapic *l, u8 tpr)
{
	lapic_reg_set(l, REG_TPR, tpr);
	update_ppr(l);
}

u8 lapic_tpr_get(struct lapic *l)
{
	return (u8)(lapic_reg(l, REG_TPR) >> 4 & 0xf);
}

void lapic_tpr_set(struct lapic *l, u8 cr8)
{
	set_tpr(l, (u8)(cr8 << 4));
}

/*
 * Registers.
 */

static u32 version(const struct lapic *l)
{
	return VERSION | VERSION_MAX_LVT |
	       (l->set->config.directed_eoi ? VERSION_DIRECTED_EOI : 0);
}

static u32 x2apic_ldr(const struct lapic *l)
{
	return (l->cpu / 16) << 16 | (u32)1 << l->cpu % 16;
}

/* false: no such register. off is a multiple of 16 below LAPIC_PAGE_BYTES. */
static bool reg_read(struct lapic *l, u32 off, u32 *value)
{
	bool x2apic = lapic_is_x2apic(l);

	switch (off) {
	case REG_ID:
		*value = x2apic ? l->cpu : l->cpu << 24;
		return true;
	case REG_VERSION:
		*value = version(l);
		return true;
	case REG_PPR:
		*value = atomic_load(&l->ppr);
		return true;
	case REG_LDR:
		*value = x2apic ? x2apic_ldr(l) : lapic_reg(l, REG_LDR);
		return true;
	case REG_CURRENT_COUNT:
		*value = lapic_timer_current(l);
		return true;
	case REG_APR:
	case REG_EOI:
	case REG_DFR:
	case REG_ICR_HIGH:
		*value = lapic_reg(l, off);
		return !x2apic;
	case REG_TPR:
	case REG_SVR:
	case REG_ISR ... REG_IRR + 0x70:
	case REG_ESR:
	case REG_ICR:
	case REG_LVT_TIMER ... REG_INITIAL_COUNT:
	case REG_DIVIDE:
		*value = lapic_reg(l, off);
		return true;
	default:
		return false;
	}
}

/* SDM 10.4.7.2: all LVTs stay masked while the APIC is disabled. */
static void write_lvt(struct lapic *l, u32 off, u32 value)
{
	value &= lvt_valid(l, off) & ~(u32)(LVT_PENDING | LVT_REMOTE_IRR);
	if (!(lapic_reg(l, REG_SVR) & SVR_ENABLED))
		value |= LVT_MASKED;
	if (off == REG_LVT_TIMER)
		lapic_timer_set_lvt(l, value);
	else
		lapic_reg_set(l, off, value);
	if (off == REG_LVT_LINT0 && lapic_irq_pending(l))
		l->set->host.attention(l->set->host.ctx, l->cpu);
}

static u32 svr_valid(const struct lapic *l)
{
	return 0x3ff | (l->set->config.directed_eoi ? SVR_NO_EOI_BROADCAST : 0);
}

static void write_svr(struct lapic *l, u32 value)
{
	lapic_reg_set(l, REG_SVR, value & svr_valid(l));
	if (value & SVR_ENABLED)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(lvt_offsets); i++)
		write_lvt(l, lvt_offsets[i], lapic_reg(l, lvt_offsets[i]));
}

/* false: not a register to be written. Reserved bits are dropped here; that
 * x2APIC mode refuses them is msr_write's. */
static bool reg_write(struct lapic *l, u32 off, u32 value)
{
	bool x2apic = lapic_is_x2apic(l);

	switch (off) {
	case REG_TPR:
		set_tpr(l, (u8)value);
		return true;
	case REG_EOI:
		eoi(l);
		return true;
	case REG_LDR:
		lapic_reg_set(l, off, value & 0xff000000);
		return !x2apic;
	case REG_DFR:
		lapic_reg_set(l, off, value | 0x0fffffff);
		return !x2apic;
	case REG_SVR:
		write_svr(l, value);
		return true;
	case REG_ESR: /* SDM 10.5.3: a write brings the errors since the last */
		lapic_reg_set(l, off, atomic_exchange(&l->esr_pending, 0));
		return true;
	case REG_ICR:
		lapic_icr_write(l, value, lapic_reg(l, REG_ICR_HIGH));
		return true;
	case REG_ICR_HIGH:
		lapic_reg_set(l, off, value & 0xff000000);
		return !x2apic;
	case REG_INITIAL_COUNT:
		lapic_timer_set_initial(l, value);
		return true;
	case REG_DIVIDE:
		lapic_timer_set_divide(l, value & 0xb);
		return true;
	case REG_ID: /* read-only, as on recent processors */
		return !x2apic;
	default:
		if (lvt_valid(l, off) == 0)
			return false;
		write_lvt(l, off, value);
		return true;
	}
}

bool lapic_claims(const struct lapic *l, gpa_t gpa)
{
	u64 base = lapic_base(l);

	return (base & (APIC_BASE_ENABLED | APIC_BASE_X2APIC)) ==
	           APIC_BASE_ENABLED &&
	       ((gpa ^ base) & ~(u64)0xfff) == 0;
}

u64 lapic_mmio_read(struct lapic *l, u32 off, unsigned size)
{
	u32 value = 0;

	if (off >= LAPIC_PAGE_BYTES || off % 16 + MIN(size, 4) > 4)
		return 0;
	if (!reg_read(l, off & ~(u32)15, &value)) {
		lapic_error(l, ESR_ILLEGAL_REGISTER);
		return 0;
	}
	value >>= off % 4 * 8;
	return size >= 4 ? value : value & (BIT(size * 8) - 1);
}

void lapic_mmio_write(struct lapic *l, u32 off, u64 value, unsigned size)
{
	if (off >= LAPIC_PAGE_BYTES || off % 16 != 0 || size < 4)
		return;
	if (!reg_write(l, off, (u32)value))
		lapic_error(l, ESR_ILLEGAL_REGISTER);
}

/*
 * MSRs.
 */

/* SDM 10.12.5: xAPIC to x2APIC and either to off are legal, off to x2APIC and
 * x2APIC to xAPIC are not. */
static bool write_base(struct lapic *l, u64 value)
{
	u64 old = lapic_base(l);
	u64 mode = APIC_BASE_ENABLED | APIC_BASE_X2APIC;
	u64 valid = (BIT(l->set->config.phys_bits) - 1) & ~(u64)0xfff;
	u64 from = old & mode;
	u64 to = value & mode;

	valid |= APIC_BASE_BSP | APIC_BASE_ENABLED;
	if (l->set->config.x2apic)
		valid |= APIC_BASE_X2APIC;
	if (value & ~valid)
		return false;
	if (to == APIC_BASE_X2APIC || (from == 0 && to == mode) ||
	    (from == mode && to == APIC_BASE_ENABLED))
		return false;
	/* SDM 10.4.3: off and on again is like a reset. */
	if (to == 0 && from != 0)
		lapic_init_reset(l);
	atomic_store(&l->apic_base, value);
	if (lapic_irq_pending(l))
		l->set->host.attention(l->set->host.ctx, l->cpu);
	return true;
}

static bool x2apic_read(struct lapic *l, u32 off, u64 *value)
{
	u32 low = 0;

	if (off == REG_ICR) {
		*value = (u64)lapic_reg(l, REG_ICR_HIGH) << 32 |
		         lapic_reg(l, REG_ICR);
		return true;
	}
	if (!reg_read(l, off, &low))
		return false;
	*value = low;
	return true;
}

/* Bits that may be set in a write, SDM table 10-6 and 10.12.1.3. */
static u64 x2apic_valid(const struct lapic *l, u32 off)
{
	switch (off) {
	case REG_TPR:
	case REG_SELF_IPI:
		return 0xff;
	case REG_EOI:
	case REG_ESR:
		return 0;
	case REG_SVR:
		return svr_valid(l);
	case REG_ICR:
		return 0xffffffff000cdfff;
	case REG_INITIAL_COUNT:
		return 0xffffffff;
	case REG_DIVIDE:
		return 0xb;
	default:
		return lvt_valid(l, off);
	}
}

static bool x2apic_write(struct lapic *l, u32 off, u64 value)
{
	if (value & ~x2apic_valid(l, off))
		return false;
	if (off == REG_ICR) {
		lapic_reg_set(l, REG_ICR_HIGH, (u32)(value >> 32));
		lapic_icr_write(l, (u32)value, (u32)(value >> 32));
		return true;
	}
	if (off == REG_SELF_IPI) {
		lapic_self_ipi(l, (u8)value);
		return true;
	}
	return reg_write(l, off, (u32)value);
}

static bool is_x2apic_msr(u32 msr, u32 *off)
{
	*off = (msr - MSR_X2APIC_FIRST) * 16;
	return msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST &&
	       *off < LAPIC_PAGE_BYTES;
}

bool lapic_msr_read(struct lapic *l, u32 msr, u64 *value)
{
	u32 off;

	if (msr == MSR_APIC_BASE) {
		*value = lapic_base(l);
		return true;
	}
	if (msr == MSR_TSC_DEADLINE && l->set->config.tsc_deadline) {
		*value = lapic_timer_deadline(l);
		return true;
	}
	return is_x2apic_msr(msr, &off) && lapic_is_x2apic(l) &&
	       x2apic_read(l, off, value);
}

bool lapic_msr_write(struct lapic *l, u32 msr, u64 value)
{
	u32 off;

	if (msr == MSR_APIC_BASE)
		return write_base(l, value);
	if (msr == MSR_TSC_DEADLINE && l->set->config.tsc_deadline) {
		lapic_timer_set_deadline(l, value);
		return true;
	}
	return is_x2apic_msr(msr, &off) && lapic_is_x2apic(l) &&
	       x2apic_write(l, off, value);
}

/*
 * Life cycle and state.
 */

void lapic_init_reset(struct lapic *l)
{
	lapic_timer_stop(l);
	for (size_t i = 0; i < ARRAY_SIZE(l->reg); i++)
		atomic_store(&l->reg[i], 0);
	atomic_store(&l->irr_summary, 0);
	atomic_store(&l->extint, false);
	atomic_store(&l->esr_pending, 0);
	atomic_store(&l->ppr, 0);
	lapic_reg_set(l, REG_DFR, 0xffffffff);
	lapic_reg_set(l, REG_SVR, 0xff);
	for (size_t i = 0; i < ARRAY_SIZE(lvt_offsets); i++)
		lapic_reg_set(l, lvt_offsets[i], LVT_MASKED);
	/* Virtual wire mode, which a BIOS would have set up and a directly
	 * booted kernel expects (MultiProcessor Specification 3.6.2.2). */
	if (l->cpu == 0)
		lapic_reg_set(l, REG_LVT_LINT0, MODE_EXTINT << LVT_MODE_SHIFT);
}

void lapic_reset(struct lapic *l)
{
	lapic_init_reset(l);
	atomic_store(&l->apic_base, APIC_BASE_DEFAULT | APIC_BASE_ENABLED |
	                                (l->cpu == 0 ? APIC_BASE_BSP : 0));
}

struct lapic_set *lapic_set_create(const struct lapic_host *host,
                                   const struct lapic_config *config)
{
	struct lapic_set *set =
	    xalloc(sizeof(*set) + config->cpus * sizeof(set->cpu[0]));

	set->host = *host;
	set->config = *config;
	set->count = config->cpus;
	for (unsigned i = 0; i < set->count; i++) {
		struct lapic *l = &set->cpu[i];

		l->set = set;
		l->cpu = i;
		lapic_timer_init(l);
		lapic_reset(l);
	}
	return set;
}

void lapic_set_destroy(struct lapic_set *set)
{
	if (set == NULL)
		return;
	for (unsigned i = 0; i < set->count; i++)
		lapic_timer_fini(&set->cpu[i]);
	free(set);
}

struct lapic *lapic_set_cpu(struct lapic_set *set, unsigned cpu)
{
	ASSERT(cpu < set->count);
	return &set->cpu[cpu];
}

static void page_put(struct lapic_state *state, u32 off, u32 value)
{
	memcpy(&state->page[off], &value, sizeof(value));
}

static u32 page_get(const struct lapic_state *state, u32 off)
{
	u32 value;

	memcpy(&value, &state->page[off], sizeof(value));
	return value;
}

void lapic_save(struct lapic *l, struct lapic_state *state)
{
	memset(state, 0, sizeof(*state));
	state->tsc_deadline = lapic_timer_deadline(l);
	state->apic_base = lapic_base(l);
	for (u32 off = 0; off < LAPIC_PAGE_BYTES; off += 16)
		page_put(state, off, lapic_reg(l, off));
	page_put(state, REG_ID, l->cpu << 24);
	page_put(state, REG_VERSION, version(l));
	page_put(state, REG_PPR, atomic_load(&l->ppr));
	page_put(state, REG_CURRENT_COUNT, lapic_timer_current(l));
	if (lapic_is_x2apic(l))
		page_put(state, REG_LDR, x2apic_ldr(l));
}

static u64 legal_base(const struct lapic *l, u64 base)
{
	base &= (BIT(l->set->config.phys_bits) - 1) & ~(u64)0x2ff;
	if (!l->set->config.x2apic || !(base & APIC_BASE_ENABLED))
		base &= ~(u64)APIC_BASE_X2APIC;
	return base;
}

/* Vectors 0-15 cannot be requested. */
static void load_vectors(struct lapic *l, const struct lapic_state *state,
                         u32 off)
{
	for (u32 word = 0; word < 8; word++) {
		u32 bits = page_get(state, off + word * 16);

		lapic_reg_set(l, off + word * 16,
		              word == 0 ? bits & 0xffff0000 : bits);
	}
}

void lapic_load(struct lapic *l, const struct lapic_state *state)
{
	static const struct {
		u16 off;
		u32 keep;
	} plain[] = {
		{ REG_TPR, 0xff },
		{ REG_LDR, 0xff000000 },
		{ REG_DFR, 0xf0000000 },
		{ REG_ESR, 0xff },
		{ REG_ICR, 0x000ccfff },
		{ REG_ICR_HIGH, 0xffffffff },
		{ REG_INITIAL_COUNT, 0xffffffff },
		{ REG_DIVIDE, 0xb },
	};
	u32 summary = 0;

	lapic_init_reset(l);
	atomic_store(&l->apic_base, legal_base(l, state->apic_base));
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		lapic_reg_set(l, plain[i].off,
		              page_get(state, plain[i].off) & plain[i].keep);
	lapic_reg_set(l, REG_DFR, lapic_reg(l, REG_DFR) | 0x0fffffff);
	lapic_reg_set(l, REG_SVR, page_get(state, REG_SVR) & svr_valid(l));
	for (size_t i = 0; i < ARRAY_SIZE(lvt_offsets); i++)
		lapic_reg_set(l, lvt_offsets[i],
		              page_get(state, lvt_offsets[i]) &
		                  lvt_valid(l, lvt_offsets[i]) &
		                  ~(u32)(LVT_PENDING | LVT_REMOTE_IRR));
	load_vectors(l, state, REG_ISR);
	load_vectors(l, state, REG_TMR);
	load_vectors(l, state, REG_IRR);
	for (u32 word = 0; word < 8; word++)
		if (lapic_reg(l, REG_IRR + word * 16) != 0)
			summary |= (u32)1 << word;
	atomic_store(&l->irr_summary, summary);
	atomic_store(&l->ppr, processor_priority(l));
	lapic_timer_resume(l, page_get(state, REG_CURRENT_COUNT),
	                   state->tsc_deadline);
}
