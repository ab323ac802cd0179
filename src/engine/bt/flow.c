/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow.c - the stack, and where a block goes.
 *
 * A jump inside the page is a direct host jump, made when its target has code.
 * All others go through the table of targets, with flags saved: a guest's page
 * may be mapped at many addresses, so no block knows its own.
 */
#include "engine/bt/xlate.h"

/* ---- the stack ---- */

/* Where the word at RSP + disp are. */
static struct where stack_reach(struct xlate *x, unsigned k, s32 disp,
                                bool write)
{
	struct access a = x_stack_access(x, x->pos[GPR_RSP] + disp, write);

	return x_reach(x, k, &a, write ? SLOT_STACK_WRITE : SLOT_STACK_READ);
}

void x_move_rsp(struct xlate *x, s32 by)
{
	bool kept = x_keeps(x);

	by += x->lag;
	if (by)
		asm_lea(&x->c, x->wide, H_GSP, H_GSP, NO_REG, 0, by);
	x->lag = 0;
	x_keep(x, kept);
}

static bool names_rsp(const struct insn *in)
{
	for (unsigned i = 0; i < in->count && i < ARRAY_SIZE(in->op); i++)
		if (in->op[i].kind == OPERAND_GPR && in->op[i].reg == GPR_RSP)
			return true;
	return false;
}

/*
 * Several pushes and pops move R13 once, behind the last. What reads or writes
 * RSP otherwise, or goes elsewhere, needs it right; addresses off it do not.
 */
bool x_may_lag(const struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];

	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_RET:
		return !names_rsp(in) && !x_moves_segment(in);
	case ZYDIS_MNEMONIC_LEA:
		return in->mem.base != GPR_RSP && !names_rsp(in);
	case ZYDIS_MNEMONIC_JMP:
		return x->join[k] == JOIN_ALWAYS;
	default:
		return !bt_can_system(x->block->key, in) &&
		       in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE &&
		       in->z.mnemonic != ZYDIS_MNEMONIC_LEAVE && !names_rsp(in);
	}
}

/* area.value = the memory operand of a word. */
static void load_value(struct xlate *x, unsigned k)
{
	struct where at = x_reach_operand(x, k);

	x_memory(x, x->wide, 0x8b, H_S1, at);
	asm_store_gs(&x->c, H_S1, AREA(value));
}

/* mov, imm */
static void store_imm(struct xlate *x, struct where at, u32 imm)
{
	x_memory(x, x->wide, 0xc7, 0, at);
	asm_32(&x->c, imm);
}

static void push(struct xlate *x, unsigned k)
{
	const struct insn_operand *op = &x->insn[k].op[0];
	unsigned reg = H_S1;
	struct where at;

	if (op->kind == OPERAND_MEM)
		load_value(x, k);
	at = stack_reach(x, k, -x_word(x), true);
	if (op->kind == OPERAND_IMM) {
		store_imm(x, at, (u32)op->value);
	} else {
		if (op->kind == OPERAND_MEM)
			asm_load_gs(&x->c, reg, AREA(value));
		else
			reg = x_read_gpr(x, op->reg, H_S1);
		x_memory(x, x->wide, 0x89, reg, at);
	}
	x->lag -= x_word(x);
}

static void pop(struct xlate *x, unsigned k)
{
	unsigned gpr = x->insn[k].op[0].reg;
	unsigned reg = x_in_memory(gpr) ? (unsigned)H_S1 : x_home(gpr);
	struct where at = stack_reach(x, k, 0, false);

	x_memory(x, x->wide, 0x8b, reg, at);
	if (x_in_memory(gpr))
		asm_store_gs(&x->c, H_S1, GPR(gpr));
	if (gpr != GPR_RSP)
		x->lag += x_word(x);
}

static void leave(struct xlate *x, unsigned k)
{
	struct access a =
	    x_stack_access(x, x->wide ? x->pos[GPR_RBP] : 0, false);
	struct where at;

	a.base = GPR_RBP;
	at = x_reach(x, k, &a, SLOT_STACK_READ);
	x_memory(x, x->wide, 0x8b, H_S1, at);
	asm_lea(&x->c, x->wide, H_GSP, H_RBP, NO_REG, 0, x_word(x));
	asm_mov_rr(&x->c, H_RBP, H_S1);
}

bool x_stack(struct xlate *x, unsigned k)
{
	void (*fn)(struct xlate *, unsigned);

	if (x_moves_segment(&x->insn[k]))
		return false;
	switch (x->insn[k].z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		fn = push;
		break;
	case ZYDIS_MNEMONIC_POP:
		fn = pop;
		break;
	case ZYDIS_MNEMONIC_LEAVE:
		fn = leave;
		break;
	default:
		return false;
	}
	fn(x, k);
	return true;
}

/* ---- targets ---- */

/*
 * The table of targets where nothing wants attention, and else what is no
 * address: whoever uses it faults.
 */
#define POLLED (CPU(attention) - 6)

static u8 *attention_jump(struct cursor *c)
{
	/* cmp dword gs:[attention], 0 */
	asm_bytes(c, "\x65\x83\x3c\x25", 4);
	asm_32(c, CPU(attention));
	asm_8(c, 0);
	return asm_jcc(c, CC_NE);
}

enum { TARGET_LOG = 4 };

/* R15 = the line of the table for R14, if it is R14's, which is its key now. */
static u8 *line_jump(struct cursor *c, u32 table)
{
	asm_gs(c, true, 0x03, H_S0, AREA(context)); /* add r14, */
	asm_bytes(c, "\x45\x69\xfe", 3);            /* imul r15d, r14d, */
	asm_32(c, TARGET_MIX);
	asm_shift(c, false, 5, H_S1, TARGET_SHIFT - TARGET_LOG);
	asm_alu_imm32(c, ALU_AND, H_S1, (TARGETS - 1) << TARGET_LOG);
	asm_gs(c, true, 0x03, H_S1, table); /* add r15, */
	asm_rm(c, true, 0x3b, H_S0, H_S1, offsetof(struct target, key));
	return asm_jcc(c, CC_NE);
}

/*
 * R14 is the key: without the context the address, and without the offset the
 * page's. It is stored only where it changes: the next return address, which is
 * made of it, would wait for all that led here.
 */
static void enter_target(struct cursor *c)
{
	u8 *same;

	asm_gs(c, true, 0x2b, H_S0, AREA(context)); /* sub r14, */
	asm_bytes(c, "\x49\x81\xe6", 3);            /* and r14, */
	asm_32(c, (u32)PAGE_MASK);
	asm_gs(c, true, 0x3b, H_S0, CPU(pcbase)); /* cmp r14, */
	same = asm_jcc(c, CC_E);
	asm_store_gs(c, H_S0, CPU(pcbase));
	asm_patch(c, same);
	asm_bytes(c, "\x41\xff\x67", 3); /* jmp [r15 + host] */
	asm_8(c, offsetof(struct target, host));
}

/* Equal if the address in a register is one. */
static void compare_canonical(struct cursor *c, unsigned reg, unsigned scratch)
{
	asm_mov_rr(c, scratch, reg);
	asm_shift(c, true, 4, scratch, 16);
	asm_shift(c, true, 7, scratch, 16);
	asm_rr(c, true, 0x3b, scratch, reg);
}

/*
 * To the address in R14, flags saved, with RSP moved by so much: the table's
 * line for it, or out. This is also where attention is paid: no loop gets by
 * without it or a poll. While somebody wants it there is no table, and the
 * fault leaves to instruction k, which begins anew. So it does, one way on, if
 * R14 is no address. k is -1 if it can't, or if there is none.
 */
static void go_to_target(struct xlate *x, int k, s32 by)
{
	struct cursor *c = &x->c;
	u8 *attention = NULL, *other;
	s32 lag = x->lag;

	_Static_assert(sizeof(struct target) == 1 << TARGET_LOG, "shifted");
	if (k >= 0)
		x_point(x, (unsigned)k);
	else
		attention = attention_jump(c);
	other = line_jump(c, k >= 0 ? POLLED : AREA(targets));
	x_move_rsp(x, by);
	enter_target(c);
	x->lag = lag;
	asm_patch(c, other);
	asm_gs(c, true, 0x2b, H_S0, AREA(context)); /* sub r14, */
	if (attention)
		asm_patch(c, attention);
	x_move_rsp(x, by);
	if (k < 0) {
		asm_jmp_to(c, x->bt->exit_rip);
		return;
	}
	x->code->out[k].moved = by;
	asm_mov_imm64(c, H_S1, (u64)((u8 *)&x->code->out[k] - x->bt->meta));
	asm_jmp_to(c, x->bt->exit_target);
}

void x_go_to_target(struct xlate *x)
{
	go_to_target(x, -1, 0);
}

/* ---- links ---- */

static struct cold *new_link(struct xlate *x, s64 off)
{
	unsigned n = x->links++;
	struct bt_link *link = &x->code->link[n];
	struct cold *cold = &x->cold[x->colds++];

	ASSERT(n < x_links(x));
	link->from = x->code;
	link->off = (u16)off;
	link->saved = x->at == FLAGS_SAVED;
	link->vector = x->code->vector;
	cold->kind = COLD_LINK;
	cold->link = (u16)n;
	cold->flags = (u8)x->at;
	return cold;
}

static void link_jump(struct xlate *x, s64 off)
{
	struct cold *cold = new_link(x, off);

	cold->jump = asm_jmp(&x->c);
	x->code->link[cold->link].jump = cold->jump;
}

/*
 * Attention before instruction k, which no loop gets by without: two loads and
 * no branch. While there is none the second loads from the table of targets;
 * else it faults, which leaves to the interpreter's k.
 */
static void poll(struct xlate *x, unsigned k)
{
	struct cursor *c = &x->c;

	_Static_assert(offsetof(struct icpu, attention) -
	                       offsetof(struct icpu, below_attention) ==
	                   8,
	               "six bytes of an address below it");
	x_point(x, k);
	asm_load_gs(c, H_S1, POLLED);
	asm_rm(c, true, 0x8b, H_S1, H_S1, 0);
}

/*
 * Surely in the same page? What begins near its end may go on in the next,
 * and what that is depends on the mappings: the table of targets knows.
 */
bool x_in_page(s64 off)
{
	return off >= 0 && off < PAGE_SIZE - 14;
}

void x_load_rip(struct xlate *x, unsigned reg, s64 off)
{
	if (!x->wide)
		off = (s32)off;
	if (off == (s32)off) {
		asm_load_gs(&x->c, reg, CPU(pcbase));
		asm_lea(&x->c, x->wide, reg, reg, NO_REG, 0, (s32)off);
	} else { /* the farthest jumps; flags are saved */
		asm_mov_imm64(&x->c, reg, (u64)off);
		asm_gs(&x->c, true, 0x03, reg, CPU(pcbase));
	}
}

/*
 * What goes round and round gets to the beginning of some host code from that
 * of one at the same place or behind it: there is the poll.
 */
static bool is_back(const struct xlate *x, s64 to)
{
	return x_in_page(to) && to <= x->block->off;
}

/* Does it leave by a link that needs a poll? */
static bool goes_back(const struct xlate *x, unsigned k)
{
	s64 end = x_end_of(x, k), to = end + (s64)x->insn[k].op[0].value;
	bool may_stay = bt_condition(&x->insn[k]) >= 0;

	switch ((enum join)x->join[k]) {
	case JOIN_ALWAYS:
		return false;
	case JOIN_TAKEN:
		return is_back(x, end);
	default:
		return is_back(x, to) ||
		       (may_stay && k + 1 == x->total && is_back(x, end));
	}
}

static void poll_if_backward(struct xlate *x, unsigned k)
{
	if (goes_back(x, k) && !x->polled)
		poll(x, k);
	x->polled = false;
}

/*
 * Before what sets the flags that a conditional jump back reads: the host takes
 * the two for one if nothing is between them.
 */
void x_poll_early(struct xlate *x, unsigned k)
{
	if (k + 1 >= x->count || bt_condition(&x->insn[k + 1]) < 0 ||
	    !goes_back(x, k + 1) || !x_flags_written(&x->insn[k]))
		return;
	poll(x, k);
	x->polled = true;
}

/* RSP moves by so much. k: as for go_to_target(). */
static void jump_to(struct xlate *x, int k, s64 off, s32 by)
{
	if (x_in_page(off)) {
		x_move_rsp(x, by);
		link_jump(x, off);
		return;
	}
	x_flags_clobber(x, RFLAGS_STATUS);
	x_load_rip(x, H_S0, off);
	go_to_target(x, k, by);
}

void x_go_on(struct xlate *x, s64 off)
{
	if (!is_back(x, off)) {
		jump_to(x, -1, off, 0);
		return;
	}
	/* Of a trace: attention has to be looked at. */
	x_flags_clobber(x, RFLAGS_STATUS);
	x_load_rip(x, H_S0, off);
	go_to_target(x, -1, 0);
}

/* ---- instructions ---- */

static void conditional(struct xlate *x, unsigned k, unsigned cc)
{
	s64 end = x_end_of(x, k), to = end + (s64)x->insn[k].op[0].value;
	enum flags_at at;
	u8 *over;

	x_flags_need(x);
	poll_if_backward(x, k);
	if (x->join[k] == JOIN_TAKEN) {
		cc ^= 1;
		to = end;
	}
	if (x_in_page(to)) {
		bool kept = x_keeps(x);
		struct cold *cold;

		cold = new_link(x, to);
		cold->jump = asm_jcc(&x->c, cc);
		x_keep(x, kept);
		x->code->link[cold->link].jump = cold->jump;
	} else {
		over = asm_jcc(&x->c, cc ^ 1);
		at = x->at;
		jump_to(x, (int)k, to, 0);
		x->at = at;
		asm_patch(&x->c, over);
	}
	/* There may be more behind it. */
	if (k + 1 == x->total)
		jump_to(x, (int)k, end, 0);
}

/* area.value = where an indirect call goes, if that is an address at all. */
static void load_target(struct xlate *x, unsigned k)
{
	const struct insn_operand *op = &x->insn[k].op[0];
	struct cursor *c = &x->c;

	if (op->kind == OPERAND_MEM)
		load_value(x, k);
	else
		asm_rr(c, x->wide, 0x8b, H_S1, x_read_gpr(x, op->reg, H_S1));
	x_lose_scratch(x);
	if (x->wide) {
		compare_canonical(c, H_S1, H_S0);
		x_leave_if(x, k, CC_NE);
	}
	asm_store_gs(c, H_S1, AREA(value));
}

static void call(struct xlate *x, unsigned k)
{
	const struct insn_operand *op = &x->insn[k].op[0];
	s64 end = x_end_of(x, k), to = end + (s64)op->value;
	bool direct = op->kind == OPERAND_REL;
	struct where at;

	if (direct)
		poll_if_backward(x, k);
	x_flags_clobber(x, x->live[k]);
	if (!direct)
		load_target(x, k);
	at = stack_reach(x, k, -x_word(x), true);
	x_load_rip(x, H_S1, end);
	x_memory(x, x->wide, 0x89, H_S1, at);
	if (x->join[k]) {
		x->lag -= x_word(x);
		return;
	}
	if (direct) {
		jump_to(x, (int)k, to, -x_word(x));
		return;
	}
	asm_load_gs(&x->c, H_S0, AREA(value));
	/* The operand may be where the return address is by now. */
	go_to_target(x, op->kind == OPERAND_MEM ? -1 : (int)k, -x_word(x));
}

static void jump(struct xlate *x, unsigned k)
{
	const struct insn_operand *op = &x->insn[k].op[0];
	s64 to = x_end_of(x, k) + (s64)op->value;
	struct where at;

	if (x->join[k])
		return;
	if (op->kind == OPERAND_REL) {
		poll_if_backward(x, k);
		jump_to(x, (int)k, to, 0);
		return;
	}
	x_flags_clobber(x, RFLAGS_STATUS);
	if (op->kind == OPERAND_MEM) {
		at = x_reach_operand(x, k);
		x_memory(x, x->wide, 0x8b, H_S0, at);
	} else {
		asm_rr(&x->c, x->wide, 0x8b, H_S0,
		       x_read_gpr(x, op->reg, H_S0));
	}
	go_to_target(x, (int)k, 0);
}

static void ret(struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];
	s32 extra = in->count ? (u16)in->op[0].value : 0;
	struct where at;

	x_flags_clobber(x, RFLAGS_STATUS);
	at = stack_reach(x, k, 0, false);
	x_memory(x, x->wide, 0x8b, H_S0, at);
	go_to_target(x, (int)k, x_word(x) + extra);
}

bool x_flow(struct xlate *x, unsigned k)
{
	int cc = bt_condition(&x->insn[k]);

	if (cc >= 0) {
		conditional(x, k, (unsigned)cc);
		return true;
	}
	switch (x->insn[k].z.mnemonic) {
	case ZYDIS_MNEMONIC_CALL:
		call(x, k);
		return true;
	case ZYDIS_MNEMONIC_JMP:
		jump(x, k);
		return true;
	case ZYDIS_MNEMONIC_RET:
		ret(x, k);
		return true;
	default:
		return false;
	}
}
