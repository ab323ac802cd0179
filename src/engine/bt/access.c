/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.c - guest addresses to host addresses.
 *
 * Each site has a slot that caches the last page it touched:
 *
 *	lea  r15, [address]
 *	sub  r15, gs:[slot.tag]
 *	cmp  r15, 4096 - size         one test: right page, not crossing
 *	ja   cold
 *	mov  r14, gs:[slot.delta]
 *
 * and the instruction names [base + r14 + displacement] itself: its address
 * waits for nothing but the base. With an index the base is added to R14, and
 * it is [r14 + index * scale + displacement]; where neither is in a register
 * R14 has all of it.
 * A miss asks the TLB, out of line, and fills the slot; a miss there leaves
 * the instruction to the interpreter, which walks the tables or faults.
 * A site that goes from page to page looks into a table of lines instead, one
 * that goes all over memory into the TLB; R14 is then the host address.
 */
#include "engine/bt/xlate.h"

enum { NAMED_MAX = 1 << 30 };

/* ---- addresses ---- */

/* By how much the access's registers are off what access.at is counted from.
 * What lags behind does not in R13. */
static s64 moved_by(const struct xlate *x, const struct access *a)
{
	s64 by = 0;

	if (x_counted(a, a->base))
		by = x->pos[a->base];
	if (a->base == GPR_RSP)
		by -= x->lag;
	if (x_counted(a, a->index))
		by += x->pos[a->index] * (1 << a->shift);
	return by;
}

/* R14 = base + index << shift + disp, linear. */
static void address(struct xlate *x, unsigned k, const struct access *a,
                    s64 disp)
{
	unsigned base = NO_REG, index = NO_REG;

	x_lose_scratch(x);
	disp -= moved_by(x, a);
	if (a->base == INSN_RIP) {
		/* In terms of the page: the same page may be anywhere. */
		asm_load_gs(&x->c, H_S0, CPU(pcbase));
		base = H_S0;
	} else if (a->base != INSN_NO_REG) {
		base = x_read_gpr(x, a->base, H_S0);
	}
	if (a->index != INSN_NO_REG)
		index = x_read_gpr(x, a->index, H_S1);
	if (!a->wide)
		disp = (s32)disp;
	if (disp == (s32)disp) {
		asm_lea(&x->c, a->wide, H_S0, base, index, a->shift, (s32)disp);
	} else {
		/* RIP-relative, or by what RSP lags: beyond 32 bits. */
		asm_mov_imm64(&x->c, H_S1, (u64)disp);
		asm_lea(&x->c, true, H_S0, base, H_S1, 0, 0);
		if (index != NO_REG) {
			index = x_read_gpr(x, a->index, H_S1);
			asm_lea(&x->c, true, H_S0, H_S0, index, a->shift, 0);
		}
	}
	if (a->seg == SEG_DS)
		return;
	if (!x->wide)
		x_check_segment(x, k, a);
	asm_gs(&x->c, x->wide, 0x03, H_S0, SEG_FIELD(a->seg, base));
}

/* [a + b], where only one of the two has a register of the host's: that is the
 * index. */
static void swap_unscaled(struct access *a)
{
	u8 base = a->base;

	if (a->shift || base >= GPR_COUNT || base == GPR_RSP ||
	    a->index >= GPR_COUNT || x_in_memory(base) ||
	    !x_in_memory(a->index))
		return;
	a->base = a->index;
	a->index = base;
}

void x_operand_access(const struct xlate *x, unsigned k, const s64 *pos,
                      struct access *a)
{
	const struct insn *in = &x->insn[k];
	const struct insn_mem *m = &in->mem;

	*a = (struct access){
		.base = m->base,
		.index = m->index,
		.shift = m->shift,
		.seg = m->seg == SEG_FS || m->seg == SEG_GS ? m->seg : SEG_DS,
		.wide = in->asize == 8,
		.at = m->disp,
		.write = in->lock, /* a locked one writes what it reads */
	};
	if (m->base == INSN_RIP)
		a->at += x_end_of(x, k);
	if (x_counted(a, m->base))
		a->at += pos[m->base];
	if (x_counted(a, m->index))
		a->at += pos[m->index] * (1 << m->shift);
	for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
		const ZydisDecodedOperand *op = &in->zop[i];

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		a->size = op->size / 8;
		a->write |=
		    (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
	}
	swap_unscaled(a);
}

void x_address(struct xlate *x, unsigned k)
{
	struct access a;

	x_operand_access(x, k, x->pos, &a);
	address(x, k, &a, a.at);
}

/* ---- probes ---- */

/*
 * Sites share slots, but never those that read with those that write: a page
 * which may be read may not therefore be written.
 */
static unsigned next_slot(struct bt *bt, bool write)
{
	return SLOT_FIRST +
	       bt->next_slot[write]++ % ((SLOTS - SLOT_FIRST) / 2) * 2 + write;
}

/* Instruction k's probe may miss: what is to be done then. Without a slot, and
 * for a host address; jump and resume are yet to come. */
static struct cold *may_miss(struct xlate *x, unsigned k, int kind,
                             unsigned size, bool write, bool now)
{
	struct cold *cold = &x->cold[x->colds++];

	*cold = (struct cold){
		.kind = kind,
		.size = (u16)size,
		.write = write,
		.now = now,
		.flags = (u8)x->at,
		.lag = (s16)x->lag,
		.nth = x->nth,
		.insn = (u16)k,
	};
	return cold;
}

/* Out, unless a register is an offset that leaves room for so many bytes. */
static u8 *leave_page(struct cursor *c, unsigned reg, unsigned size)
{
	asm_rex(c, true, 0, 0, reg);
	asm_8(c, 0x81); /* cmp reg, imm32 */
	asm_8(c, (u8)(0xc0 | ALU_CMP << 3 | (reg & 7)));
	asm_32(c, PAGE_SIZE - size);
	return asm_jcc(c, CC_A);
}

/*
 * The slot of instruction k's probe. What is there several times, as the body
 * of a loop in a trace, has it together: one of them misses at a new page, not
 * all.
 */
static unsigned own_slot(struct xlate *x, unsigned k, bool write)
{
	u16 *slot;

	if (x->nth >= PROBES)
		return next_slot(x->bt, write);
	slot = &x->site[k].slot[x->nth][write];
	for (unsigned j = 0; j < k && !*slot; j++)
		if (x->off[j] == x->off[k] && x->of[j] == x->of[k])
			*slot = x->site[j].slot[x->nth][write];
	if (!*slot)
		*slot = (u16)next_slot(x->bt, write);
	return *slot;
}

static u32 find_slot(struct xlate *x, unsigned k, bool write, int stack_slot)
{
	bool user = x->block->key & KEY_USER;
	unsigned n = stack_slot < 0 ? own_slot(x, k, write)
	             : write        ? SLOT_STACK_WRITE
	                            : SLOT_STACK_READ;

	return AREA(slot) + (u32)((user * SLOTS + n) * sizeof(struct slot));
}

/* R14: linear to host address. */
static void probe(struct xlate *x, unsigned k, unsigned size, bool write,
                  bool now, int stack_slot)
{
	u32 slot = find_slot(x, k, write, stack_slot);
	struct cold *cold = may_miss(x, k, COLD_FILL, size, write, now);

	asm_mov_rr(&x->c, H_S1, H_S0);
	asm_gs(&x->c, true, 0x2b, H_S1, slot + offsetof(struct slot, tag));
	cold->jump = leave_page(&x->c, H_S1, size);
	asm_gs(&x->c, true, 0x03, H_S0, slot + offsetof(struct slot, delta));
	cold->resume = cursor_x(&x->c);
	cold->slot = slot;
}

/* R15 = R14 >> LINE_SHIFT, its low half */
static void line_number(struct cursor *c)
{
	if (__builtin_cpu_supports("bmi2")) {
		asm_bytes(c, "\xc4\x43\x7b\xf0\xfe", 5); /* rorx r15d, r14d, */
		asm_8(c, LINE_SHIFT);
		return;
	}
	asm_rr(c, false, 0x8b, H_S1, H_S0);
	asm_shift(c, false, 5, H_S1, LINE_SHIFT);
}

/* op r14, gs:[r15 + off] */
static void line_field(struct cursor *c, u8 op, u32 off)
{
	asm_8(c, 0x65);
	asm_rm(c, true, op, H_S0, H_S1, (s32)off);
}

/*
 * For sites that go from page to page: a page has a line in a table that all
 * such share. The address of a tag hangs on that of the access, so it takes
 * some cycles more than a slot.
 */
static void probe_line(struct xlate *x, unsigned k, unsigned size, bool write,
                       bool now)
{
	bool user = x->block->key & KEY_USER;
	u32 table = AREA(line) +
	            (u32)((user * 2 + write) * PAGES * sizeof(struct slot));
	struct cold *cold = may_miss(x, k, COLD_LINE, size, write, now);
	struct cursor *c = &x->c;

	_Static_assert(sizeof(struct slot) == 16, "LINE_SHIFT, LINE_MASK");
	line_number(c);
	asm_alu_imm32(c, ALU_AND, H_S1, LINE_MASK);
	line_field(c, 0x2b, table + offsetof(struct slot, tag)); /* sub */
	cold->jump = leave_page(c, H_S0, size);
	line_field(c, 0x03, table + offsetof(struct slot, host)); /* add */
	cold->resume = cursor_x(c);
	cold->slot = table;
}

/*
 * For sites that go all over memory: nine instructions, and every page that the
 * TLB holds is as good as the last one.
 */
static void probe_direct(struct xlate *x, unsigned k, unsigned size, bool write,
                         bool now)
{
	struct cold *cold = may_miss(x, k, COLD_WALK, size, write, now);
	struct cursor *c = &x->c;
	u32 tag = write ? offsetof(struct tlb_entry, wtag)
	                : offsetof(struct tlb_entry, rtag);

	_Static_assert(sizeof(struct tlb_entry) == 32, "shifted by 5 below");
	cold->resume = cursor_x(c);
	asm_rr(c, false, 0x8b, H_S1, H_S0);
	asm_bytes(c, "\x41\xc1\xef\x07", 4); /* shr r15d, 12 - 5 */
	asm_bytes(c, "\x41\x81\xe7", 3);     /* and r15d, */
	asm_32(c, (TLB_ENTRIES - 1) << 5);
	asm_gs(c, true, 0x03, H_S1, CPU(tlb));
	asm_rm(c, true, 0x2b, H_S0, H_S1, (s32)tag); /* sub r14, */
	cold->jump = leave_page(c, H_S0, size);
	asm_rm(c, true, 0x03, H_S0, H_S1, (s32)tag);
	asm_rm(c, true, 0x03, H_S0, H_S1, offsetof(struct tlb_entry, addend));
}

/* ---- what the instruction names itself ---- */

/*
 * How much of the address R14 is to have. HELD_NOTHING: nothing can be named,
 * it is to be the host address.
 */
static enum held naming(const struct xlate *x, const struct access *a)
{
	s64 disp = a->at - moved_by(x, a);

	/* What else is in the span, and later, has to be in reach, too. */
	if (!a->wide || a->seg != SEG_DS || disp < -NAMED_MAX ||
	    disp > NAMED_MAX)
		return HELD_NOTHING;
	if (a->index != INSN_NO_REG)
		return x_in_memory(a->index) ? HELD_NOTHING : HELD_BASE;
	if (a->base < GPR_COUNT && !x_in_memory(a->base))
		return HELD_DELTA;
	return HELD_ALL;
}

/* R15 = the address, named as above. */
static void address_to_check(struct xlate *x, const struct access *a)
{
	s32 disp = (s32)(a->at - moved_by(x, a));
	unsigned base = NO_REG, index = NO_REG;
	struct cursor *c = &x->c;

	if (a->base == INSN_RIP) {
		asm_load_gs(c, H_S1, CPU(pcbase));
		base = H_S1;
	} else if (a->base != INSN_NO_REG) {
		base = x_keeps(x) && x->kept == a->base
		           ? (unsigned)H_S1
		           : x_read_gpr(x, a->base, H_S1);
	}
	if (a->index != INSN_NO_REG)
		index = x_home(a->index);
	if (base != NO_REG && index == NO_REG && !disp)
		asm_mov_rr(c, H_S1, base);
	else
		asm_lea(c, true, H_S1, base, index, a->shift, disp);
}

/*
 * R14 has the delta, and gets what naming() says. Returns the positions of the
 * registers that are in it. No flags change if they are somebody's.
 */
static s64 add_up(struct xlate *x, const struct access *a, enum held held)
{
	struct cursor *c = &x->c;
	u32 from = a->base == INSN_RIP ? CPU(pcbase) : GPR(a->base);

	if (held == HELD_DELTA || a->base == INSN_NO_REG)
		return 0;
	if (a->base < GPR_COUNT && !x_in_memory(a->base)) {
		asm_lea(c, true, H_S0, H_S0, x_home(a->base), 0, 0);
	} else if (x->at == FLAGS_HOST) {
		asm_load_gs(c, H_S1, from);
		asm_lea(c, true, H_S0, H_S0, H_S1, 0, 0);
	} else {
		asm_gs(c, true, 0x03, H_S0, from);
	}
	if (a->base == INSN_RIP)
		return 0;
	return x->pos[a->base] - (a->base == GPR_RSP ? x->lag : 0);
}

static u32 probe_named(struct xlate *x, unsigned k, const struct access *a,
                       bool now, int stack_slot)
{
	u32 slot = find_slot(x, k, a->write, stack_slot);
	struct cold *cold = may_miss(x, k, COLD_FILL, a->size, a->write, now);
	struct cursor *c = &x->c;

	address_to_check(x, a);
	asm_gs(c, true, 0x2b, H_S1, slot + offsetof(struct slot, tag));
	cold->jump = leave_page(c, H_S1, a->size);
	asm_load_gs(c, H_S0, slot + offsetof(struct slot, delta));
	cold->delta = true;
	cold->resume = cursor_x(c);
	cold->slot = slot;
	return slot;
}

/* Where an access of a span is, with R14 as it is now. */
static struct where named(const struct xlate *x, const struct access *a)
{
	struct where at = { .base = H_S0, .index = NO_REG };
	s64 disp = a->at - x->held_at;

	if (x->held == HELD_DELTA) {
		at.base = (u8)x_home(a->base);
		at.index = H_S0;
		disp = a->at - moved_by(x, a);
	} else if (x->held == HELD_BASE) {
		at.index = (u8)x_home(a->index);
		at.shift = a->shift;
		disp -= x->pos[a->index] * (1 << a->shift);
	}
	at.disp = (s32)disp;
	return at;
}

/* ---- accesses ---- */

/* The span's delta comes from its slot, if R14 is not its own already. */
static void take_span(struct xlate *x, unsigned i)
{
	const struct span *s = &x->span[i];
	bool kept = x_keeps(x);
	enum held held;

	if (x->held && x->held_span == i)
		return;
	held = naming(x, &s->access);
	asm_load_gs(&x->c, H_S0, s->slot + offsetof(struct slot, delta));
	x_keep(x, kept && held == HELD_DELTA);
	x_hold(x, i, held, add_up(x, &s->access, held));
}

static void probe_access(struct xlate *x, unsigned k, const struct access *a,
                         int stack_slot)
{
	struct access whole = *a;
	enum held held;
	u32 slot = 0;

	x_flags_clobber(x, x->live[k]);
	if (x->merge)
		x_look_ahead(x, k, &whole);
	else
		x->kept_at = NULL;
	if (!x->merge && x->nth < PROBES)
		x->entrance[k][x->nth] = (struct entrance){
			.host = cursor_x(&x->c),
			.flags = (u8)x->at,
		};
	held = naming(x, &whole);
	x_lose_scratch(x);
	if (held && !((x->direct | x->paged) & BIT(k))) {
		slot = probe_named(x, k, &whole, a->write, stack_slot);
		x_hold(x, x_new_span(x, &whole, slot), held,
		       add_up(x, &whole, held));
	} else {
		address(x, k, &whole, whole.at);
		if (x->direct & BIT(k))
			probe_direct(x, k, whole.size, whole.write, a->write);
		else if (x->paged & BIT(k))
			probe_line(x, k, whole.size, whole.write, a->write);
		else
			probe(x, k, whole.size, whole.write, a->write,
			      stack_slot);
		x_hold(x, x_new_span(x, &whole, 0), HELD_ALL, whole.at);
	}
	x->code->out[k].span = whole.size;
}

struct where x_reach(struct xlate *x, unsigned k, const struct access *a,
                     int stack_slot)
{
	unsigned i = x_covering(x, a);

	if (i < SPANS)
		take_span(x, i);
	else
		probe_access(x, k, a, stack_slot);
	x->nth++;
	/* An empty slot leads where no memory is: that fault is k's, too. */
	x_point(x, k);
	return named(x, a);
}

void x_reach_at(struct xlate *x, unsigned k, unsigned size, bool write)
{
	x_lose_scratch(x);
	if (x->direct & BIT(k))
		probe_direct(x, k, size, write, write);
	else if (x->paged & BIT(k))
		probe_line(x, k, size, write, write);
	else
		probe(x, k, size, write, write, -1);
	x->code->out[k].span = (u16)size;
	x_point(x, k);
}

struct where x_reach_operand(struct xlate *x, unsigned k)
{
	struct access a;

	x_operand_access(x, k, x->pos, &a);
	return x_reach(x, k, &a, -1);
}
