/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.c - guest addresses to host addresses.
 *
 * Each site has a slot that caches the last page it touched:
 *
 *	lea  r14, [address]
 *	mov  r15, r14
 *	sub  r15, gs:[slot.tag]
 *	cmp  r15, 4096 - size         one test: right page, not crossing
 *	ja   cold
 *	add  r14, gs:[slot.delta]
 *
 * A miss asks the TLB, out of line, and fills the slot; a miss there leaves
 * the instruction to the interpreter, which walks the tables or faults.
 * A site that goes from page to page looks into a table of lines instead, one
 * that goes all over memory into the TLB.
 *
 * Accesses near each other off the same registers share one such probe: R14
 * then holds the host address of a span, until one of the registers changes
 * or R14 is needed. Pushes and pops move RSP by known amounts, so positions
 * off RSP are counted from where it was when the block began. A block whose
 * spans often lie over the end of a page has a second body without any.
 */
#include "engine/bt/xlate.h"

enum {
	SPAN_MAX = 256,
	SPAN_MAYBE = 64, /* with what may never be accessed, but off RSP */
};

/* ---- addresses ---- */

/* R14 = base + index << shift + disp, linear. */
static void address(struct xlate *x, unsigned k, const struct access *a,
                    s64 disp)
{
	unsigned base = NO_REG, index = NO_REG;

	x->span.valid = false;
	if (a->base == INSN_RIP) {
		/* In terms of the page: the same page may be anywhere. */
		asm_load_gs(&x->c, H_S0, CPU(pcbase));
		base = H_S0;
	} else if (a->base != INSN_NO_REG) {
		base = x_read_gpr(x, a->base, H_S0);
		if (a->base == GPR_RSP)
			disp -= x->rsp - x->lag;
	}
	if (a->index != INSN_NO_REG)
		index = x_read_gpr(x, a->index, H_S1);
	if (!a->wide)
		disp = (s32)disp;
	if (disp == (s32)disp) {
		asm_lea(&x->c, a->wide, H_S0, base, index, a->shift, (s32)disp);
	} else {
		/* Only RIP-relative operands reach beyond 32 bits. */
		asm_mov_imm64(&x->c, H_S1, (u64)disp);
		asm_lea(&x->c, a->wide, H_S0, base, H_S1, 0, 0);
	}
	if (a->seg == SEG_DS)
		return;
	if (!x->wide)
		x_check_segment(x, k, a);
	asm_gs(&x->c, x->wide, 0x03, H_S0, SEG_FIELD(a->seg, base));
}

static void operand_access(const struct xlate *x, unsigned k, s64 rsp,
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
	else if (m->base == GPR_RSP)
		a->at += rsp;
	for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
		const ZydisDecodedOperand *op = &in->zop[i];

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		a->size = op->size / 8;
		a->write |=
		    (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
	}
}

void x_address(struct xlate *x, unsigned k)
{
	struct access a;

	operand_access(x, k, x->rsp, &a);
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

static void common_cold(const struct xlate *x, unsigned k, struct cold *cold)
{
	cold->flags = (u8)x->at;
	cold->lag = (s16)x->lag;
	cold->nth = x->nth;
	cold->insn = (u16)k;
}

static void probe(struct xlate *x, unsigned k, unsigned size, bool write,
                  bool now, int stack_slot)
{
	struct bt *bt = x->bt;
	bool user = x->block->key & KEY_USER;
	unsigned n =
	    stack_slot >= 0 ? (unsigned)stack_slot : next_slot(bt, write);
	u32 slot = AREA(slot) + (u32)((user * SLOTS + n) * sizeof(struct slot));
	struct cold *cold = &x->cold[x->colds++];

	asm_mov_rr(&x->c, H_S1, H_S0);
	asm_gs(&x->c, true, 0x2b, H_S1, slot + offsetof(struct slot, tag));
	asm_bytes(&x->c, "\x49\x81\xff", 3); /* cmp r15, imm32 */
	asm_32(&x->c, PAGE_SIZE - size);
	cold->jump = asm_jcc(&x->c, CC_A);
	asm_gs(&x->c, true, 0x03, H_S0, slot + offsetof(struct slot, delta));
	cold->kind = COLD_FILL;
	cold->resume = cursor_x(&x->c);
	cold->slot = slot;
	cold->write = write;
	cold->now = now;
	cold->size = (u16)size;
	common_cold(x, k, cold);
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
	struct cold *cold = &x->cold[x->colds++];
	struct cursor *c = &x->c;

	_Static_assert(sizeof(struct slot) == 16, "LINE_SHIFT, LINE_MASK");
	line_number(c);
	asm_alu_imm32(c, ALU_AND, H_S1, LINE_MASK);
	line_field(c, 0x2b, table + offsetof(struct slot, tag)); /* sub */
	asm_bytes(c, "\x49\x81\xfe", 3);                         /* cmp r14, */
	asm_32(c, PAGE_SIZE - size);
	cold->jump = asm_jcc(c, CC_A);
	line_field(c, 0x03, table + offsetof(struct slot, host)); /* add */
	cold->kind = COLD_LINE;
	cold->resume = cursor_x(c);
	cold->slot = table;
	cold->write = write;
	cold->now = now;
	cold->size = (u16)size;
	common_cold(x, k, cold);
}

/*
 * For sites that go all over memory: nine instructions, and every page that the
 * TLB holds is as good as the last one.
 */
static void probe_direct(struct xlate *x, unsigned k, unsigned size, bool write,
                         bool now)
{
	struct cold *cold = &x->cold[x->colds++];
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
	asm_bytes(c, "\x49\x81\xfe", 3);             /* cmp r14, */
	asm_32(c, PAGE_SIZE - size);
	cold->jump = asm_jcc(c, CC_A);
	asm_rm(c, true, 0x03, H_S0, H_S1, (s32)tag);
	asm_rm(c, true, 0x03, H_S0, H_S1, offsetof(struct tlb_entry, addend));
	cold->kind = COLD_WALK;
	cold->slot = 0;
	cold->write = write;
	cold->now = now;
	cold->size = (u16)size;
	common_cold(x, k, cold);
}

/* ---- spans ---- */

static bool same_place(const struct access *a, const struct access *b)
{
	return a->base == b->base && a->index == b->index &&
	       a->shift == b->shift && a->seg == b->seg && a->wide == b->wide;
}

/* The one plain access of an instruction, if it has just one. */
static bool plain_access(const struct xlate *x, unsigned k, s64 rsp,
                         struct access *a)
{
	const struct insn *in = &x->insn[k];
	const struct insn_operand *op = &in->op[0];

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		if (op->kind == OPERAND_MEM || x_moves_segment(in))
			return false;
		*a = x_stack_access(x, rsp - x_word(x), true);
		return true;
	case ZYDIS_MNEMONIC_CALL:
		if (op->kind == OPERAND_MEM)
			return false;
		*a = x_stack_access(x, rsp - x_word(x), true);
		return true;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_RET:
		if (x_moves_segment(in))
			return false;
		*a = x_stack_access(x, rsp, false);
		return true;
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_JMP:
		return false;
	default:
		if (!in->has_mem || !x_touches_memory(in))
			return false;
		operand_access(x, k, rsp, a);
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

/* Registers that the instruction writes, RSP's known moves aside. */
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

/* By how much RSP moves; false if that is not known. */
static bool rsp_move(const struct insn *in, s64 *by)
{
	const struct insn_operand *op = in->op;
	unsigned word = bt_word(in);
	bool to_rsp = op[0].kind == OPERAND_GPR && op[0].reg == GPR_RSP &&
	              op[0].size == word && !op[0].high;

	*by = 0;
	if (x_moves_segment(in))
		return false;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_CALL:
		*by = -(s64)word;
		return true;
	case ZYDIS_MNEMONIC_POP:
		*by = word;
		return !to_rsp;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (!to_rsp || op[1].kind != OPERAND_IMM)
			return false;
		*by = in->z.mnemonic == ZYDIS_MNEMONIC_ADD ? (s64)op[1].value
		                                           : -(s64)op[1].value;
		return true;
	case ZYDIS_MNEMONIC_LEA:
		if (!to_rsp || in->mem.base != GPR_RSP ||
		    in->mem.index != INSN_NO_REG || in->asize != word)
			return false;
		*by = in->mem.disp;
		return true;
	default:
		return false;
	}
}

/* What instruction k does to the registers that spans are made of. */
static void effects(const struct insn *in, s64 *rsp, u32 *written)
{
	s64 by;

	*written = written_gprs(in);
	if (*written & 1u << GPR_RSP && rsp_move(in, &by)) {
		*rsp += by;
		*written &= ~(1u << GPR_RSP);
	}
}

static bool depends(const struct access *a, u32 written)
{
	return (a->base < GPR_COUNT && written & 1u << a->base) ||
	       (a->index < GPR_COUNT && written & 1u << a->index);
}

/* How far one probe for the access at k may reach. */
static void look_ahead(const struct xlate *x, unsigned k, struct access *a)
{
	s64 rsp = x->rsp, low = a->at, high = a->at + a->size;
	s64 max = SPAN_MAX;
	bool sure = true; /* it runs whenever k does */

	for (unsigned j = k; j < x->count; j++) {
		const struct insn *in = &x->insn[j];
		struct access b;
		u32 written;

		if (j > k && plain_access(x, j, rsp, &b)) {
			if (!same_place(a, &b) ||
			    (b.write && !a->write && !sure) ||
			    MAX(high, b.at + b.size) - MIN(low, b.at) > max)
				break;
			low = MIN(low, b.at);
			high = MAX(high, b.at + b.size);
			a->write |= b.write;
		} else if (j > k && needs_scratch(x, j)) {
			break;
		}
		/* What is behind a branch may never run: it is no reason to
		 * ask for a page that can be written. */
		if (bt_condition(in) >= 0)
			sure = false;
		else if (in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
			break;
		if (!sure && a->base != GPR_RSP)
			max = SPAN_MAYBE;
		effects(in, &rsp, &written);
		if (depends(a, written))
			break;
	}
	a->at = low;
	a->size = (u16)(high - low);
}

static bool covers(const struct xlate *x, const struct access *a)
{
	const struct access *s = &x->span.access;

	return x->span.valid && same_place(s, a) && a->at >= s->at &&
	       a->at + a->size <= s->at + s->size && (s->write || !a->write);
}

s32 x_reach(struct xlate *x, unsigned k, const struct access *a, int stack_slot)
{
	struct access whole = *a;

	if (!covers(x, a)) {
		x_flags_clobber(x, x->live[k]);
		if (x->merge)
			look_ahead(x, k, &whole);
		else if (x->nth < PROBES)
			x->entrance[k][x->nth] = (struct entrance){
				.host = cursor_x(&x->c),
				.flags = (u8)x->at,
			};
		address(x, k, &whole, whole.at);
		if (x->direct & BIT(k))
			probe_direct(x, k, whole.size, whole.write, a->write);
		else if (x->paged & BIT(k))
			probe_line(x, k, whole.size, whole.write, a->write);
		else
			probe(x, k, whole.size, whole.write, a->write,
			      stack_slot < 0 ? stack_slot
			      : whole.write  ? SLOT_STACK_WRITE
			                     : SLOT_STACK_READ);
		x->span.access = whole;
		x->span.valid = x->merge;
		x->code->out[k].span = whole.size;
	}
	x->nth++;
	/* An empty slot leads where no memory is: that fault is k's, too. */
	x_point(x, k);
	return x->span.valid ? (s32)(a->at - x->span.access.at) : 0;
}

void x_reach_at(struct xlate *x, unsigned k, unsigned size, bool write)
{
	x->span.valid = false;
	if (x->direct & BIT(k))
		probe_direct(x, k, size, write, write);
	else if (x->paged & BIT(k))
		probe_line(x, k, size, write, write);
	else
		probe(x, k, size, write, write, -1);
	x->code->out[k].span = (u16)size;
	x_point(x, k);
}

s32 x_reach_operand(struct xlate *x, unsigned k)
{
	struct access a;

	operand_access(x, k, x->rsp, &a);
	return x_reach(x, k, &a, -1);
}

void x_after(struct xlate *x, unsigned k)
{
	u32 written;

	effects(&x->insn[k], &x->rsp, &written);
	if (depends(&x->span.access, written))
		x->span.valid = false;
	/* Positions off RSP are counted anew. */
	if (written & 1u << GPR_RSP)
		x->rsp = 0;
}
