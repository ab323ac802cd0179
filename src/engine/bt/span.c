/* SPDX-License-Identifier: Apache-2.0 */
/*
 * span.c - accesses near each other off the same registers share one probe.
 *
 * Registers that move by known amounts, as RSP does by pushes, keep their
 * spans: positions are counted from where a register was when it was last not
 * known. In a user's code the slot of a span still has its delta when R14 is
 * used for another, so several are known at a time: a slot is filled by its own
 * site alone, by copies of that in a trace and, of two slots, by the stack's,
 * and each of them ends the span that was there. A supervisor's slot may not be
 * the one that was looked at, while AC is set (stubs.c); there only R14 knows.
 * A block whose spans often lie over the end of a page has a second body
 * without any.
 */
#include "engine/bt/xlate.h"

enum {
	SPAN_MAX = 256,
	SPAN_MAYBE = 64, /* with what may never be accessed, but off RSP */
	POS_MAX = 1 << 24,
};

bool x_slots_last(const struct xlate *x)
{
	return x->block->key & KEY_USER;
}

/* ---- what instructions do to registers ---- */

/* Registers that the instruction writes. */
static u32 written_gprs(const struct insn *in)
{
	u32 mask = 0;

	for (unsigned i = 0; i < in->z.operand_count; i++) {
		const ZydisDecodedOperand *op = &in->zop[i];
		ZydisRegister r;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
		                                     op->reg.value);
		if (ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_GPR64)
			mask |= 1u << ZydisRegisterGetId(r);
	}
	return mask;
}

/* The register that moves by a known amount, or INSN_NO_REG. */
static u8 known_move(const struct insn *in, s64 *by)
{
	const struct insn_operand *op = in->op;
	unsigned word = bt_word(in);
	bool whole =
	    op[0].kind == OPERAND_GPR && op[0].size == word && !op[0].high;

	if (x_moves_segment(in))
		return INSN_NO_REG;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_CALL:
		*by = -(s64)word;
		return GPR_RSP;
	case ZYDIS_MNEMONIC_POP:
		*by = word;
		return whole && op[0].reg == GPR_RSP ? INSN_NO_REG : GPR_RSP;
	case ZYDIS_MNEMONIC_INC:
		*by = 1;
		return whole ? op[0].reg : INSN_NO_REG;
	case ZYDIS_MNEMONIC_DEC:
		*by = -1;
		return whole ? op[0].reg : INSN_NO_REG;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (!whole || op[1].kind != OPERAND_IMM)
			return INSN_NO_REG;
		*by = in->z.mnemonic == ZYDIS_MNEMONIC_ADD ? (s64)op[1].value
		                                           : -(s64)op[1].value;
		return op[0].reg;
	case ZYDIS_MNEMONIC_LEA:
		if (!whole || in->mem.base != op[0].reg ||
		    in->mem.index != INSN_NO_REG || in->asize != word)
			return INSN_NO_REG;
		*by = in->mem.disp;
		return op[0].reg;
	default:
		return INSN_NO_REG;
	}
}

void x_find_effects(struct xlate *x)
{
	for (unsigned k = 0; k < x->total; k++) {
		struct effect *e = &x->effect[k];

		e->written = written_gprs(&x->insn[k]);
		e->moved = known_move(&x->insn[k], &e->by);
		if (e->moved != INSN_NO_REG)
			e->written &= ~(1u << e->moved);
		/* POP of RBX writes one and moves the other. */
	}
}

static bool depends(const struct access *a, u32 written)
{
	return (a->base < GPR_COUNT && written & 1u << a->base) ||
	       (a->index < GPR_COUNT && written & 1u << a->index);
}

/* The registers that are not known after it; pos follows those that are. */
static u32 apply(const struct effect *e, s64 *pos)
{
	u32 lost = e->written;

	if (e->moved != INSN_NO_REG) {
		pos[e->moved] += e->by;
		if (pos[e->moved] > POS_MAX || pos[e->moved] < -POS_MAX)
			lost |= 1u << e->moved;
	}
	for (u32 left = lost; left; left &= left - 1)
		pos[__builtin_ctz(left)] = 0;
	return lost;
}

/* ...and those that an access can't follow. */
static u32 lost_to(const struct access *a, const struct effect *e, u32 lost)
{
	if (e->moved != INSN_NO_REG && !x_counted(a, e->moved))
		lost |= 1u << e->moved;
	return lost;
}

/* ---- how far a probe reaches ---- */

static bool same_place(const struct access *a, const struct access *b)
{
	return a->base == b->base && a->index == b->index &&
	       a->shift == b->shift && a->seg == b->seg && a->wide == b->wide;
}

/* The one plain access of an instruction, if it has just one. */
static bool plain_access(const struct xlate *x, unsigned k, const s64 *pos,
                         struct access *a)
{
	const struct insn *in = &x->insn[k];
	const struct insn_operand *op = &in->op[0];

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		if (op->kind == OPERAND_MEM || x_moves_segment(in))
			return false;
		*a = x_stack_access(x, pos[GPR_RSP] - x_word(x), true);
		return true;
	case ZYDIS_MNEMONIC_CALL:
		if (op->kind == OPERAND_MEM)
			return false;
		*a = x_stack_access(x, pos[GPR_RSP] - x_word(x), true);
		return true;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_RET:
		if (x_moves_segment(in))
			return false;
		*a = x_stack_access(x, pos[GPR_RSP], false);
		return true;
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_JMP:
		return false;
	default:
		if (!in->has_mem || !x_touches_memory(in))
			return false;
		x_operand_access(x, k, pos, a);
		return true;
	}
}

/* Does it use R14 for something else than one plain access? */
static bool needs_scratch(const struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_LEAVE:
		return true;
	case ZYDIS_MNEMONIC_LEA:
		return !x_lea_is_simple(in);
	case ZYDIS_MNEMONIC_PUSH:
		return in->op[0].kind == OPERAND_MEM;
	default:
		return !in->has_mem && bt_needs_both_scratch(in);
	}
}

/* May a probe for what is at k serve the same place after j as well? */
static bool goes_on(const struct xlate *x, unsigned j, bool *sure)
{
	const struct insn *in = &x->insn[j];

	/* What is behind a branch may never run: it is no reason to ask for a
	 * page that can be written. */
	if (bt_condition(in) >= 0)
		*sure = false;
	else if (x->join[j])
		return true;
	else if (in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return false;
	return true;
}

void x_look_ahead(const struct xlate *x, unsigned k, struct access *a)
{
	s64 pos[GPR_COUNT], low = a->at, high = a->at + a->size;
	s64 max = SPAN_MAX;
	bool sure = true; /* it runs whenever k does */
	bool lasts = x_slots_last(x) && a->wide && a->seg == SEG_DS;

	memcpy(pos, x->pos, sizeof(pos));
	for (unsigned j = k; j < x->count; j++) {
		const struct effect *e = &x->effect[j];
		struct access b;

		if (j > k && plain_access(x, j, pos, &b)) {
			bool same = same_place(a, &b);

			if (same &&
			    ((b.write && !a->write && !sure) ||
			     MAX(high, b.at + b.size) - MIN(low, b.at) > max))
				break;
			if (same) {
				low = MIN(low, b.at);
				high = MAX(high, b.at + b.size);
				a->write |= b.write;
			} else if (!lasts) {
				break;
			}
		} else if (j > k && !lasts && needs_scratch(x, j)) {
			break;
		}
		if (!goes_on(x, j, &sure))
			break;
		if (!sure && a->base != GPR_RSP)
			max = SPAN_MAYBE;
		if (depends(a, lost_to(a, e, apply(e, pos))))
			break;
	}
	a->at = low;
	a->size = (u16)(high - low);
}

/* ---- spans that are known ---- */

unsigned x_covering(const struct xlate *x, const struct access *a)
{
	for (unsigned i = 0; i < SPANS; i++) {
		const struct access *s = &x->span[i].access;

		if (x->span[i].valid && same_place(s, a) && a->at >= s->at &&
		    a->at + a->size <= s->at + s->size &&
		    (s->write || !a->write))
			return i;
	}
	return SPANS;
}

unsigned x_new_span(struct xlate *x, const struct access *a, u32 slot)
{
	unsigned n = x->next_span++ % SPANS;

	/* What was in it is another page, maybe. */
	for (unsigned i = 0; i < SPANS; i++)
		if (x->span[i].slot == slot)
			x->span[i].valid = false;
	x->span[n] = (struct span){
		.valid = x->merge,
		.access = *a,
		.slot = x_slots_last(x) ? slot : 0,
	};
	return n;
}

void x_hold(struct xlate *x, unsigned span, enum held held, s64 at)
{
	if (x->held && x->held_span != span && !x->span[x->held_span].slot)
		x->span[x->held_span].valid = false;
	x->held = held;
	x->held_span = span;
	x->held_at = at;
}

void x_lose_spans(struct xlate *x)
{
	for (unsigned i = 0; i < SPANS; i++)
		x->span[i].valid = false;
	x->held = HELD_NOTHING;
}

void x_after(struct xlate *x, unsigned k)
{
	const struct effect *e = &x->effect[k];
	u32 lost = apply(e, x->pos);

	for (unsigned i = 0; i < SPANS; i++)
		if (depends(&x->span[i].access,
		            lost_to(&x->span[i].access, e, lost)))
			x->span[i].valid = false;
}
