/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_flow.c - jumps, calls and returns, interrupts by instruction.
 *
 * Blocks go on past a conditional jump that is not taken.
 */
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"
#include "engine/x86/event.h"
#include "engine/x86/stack.h"
#include "engine/x86/transfer.h"

enum { INSIDE_PAGE = 1 }; /* op->aux: the target may be linked */

/* Instructions after op in its block are not run after all. */
static inline void leave_early(struct icpu *cpu, const struct iop *op)
{
	cpu->icount -= (u64)(cpu->block->count - op->n - 1);
}

static inline struct block *linked(struct icpu *cpu, struct iop *op)
{
	struct block *n = op->link;

	if (likely(n && n->key == cpu->key))
		return n;
	if (op->aux & INSIDE_PAGE) {
		cpu->link = &op->link;
		return NULL;
	}
	return known_block(cpu);
}

struct block *op_end(struct icpu *cpu, struct iop *op)
{
	cpu->rip = (cpu->pcbase + op->off) & icpu_ip_mask(cpu);
	return linked(cpu, op);
}

/* The block was overwritten by its own instruction before this one. */
struct block *op_stale(struct icpu *cpu, struct iop *op)
{
	cpu->rip = (cpu->pcbase + op->off) & icpu_ip_mask(cpu);
	cpu->icount -= (u64)(cpu->block->count - op->n);
	return NULL;
}

struct block *op_undefined(struct icpu *cpu, struct iop *op)
{
	ENTER;
	icpu_ud(cpu);
}

struct block *op_too_long(struct icpu *cpu, struct iop *op)
{
	ENTER;
	icpu_gp(cpu);
}

static void check_target(struct icpu *cpu, struct iop *op, u64 rip)
{
	if (icpu_code64(cpu) ? !icpu_canonical(rip)
	                     : rip > cpu->seg[SEG_CS].limit) {
		ENTER;
		icpu_gp(cpu);
	}
}

/* ---- direct ---- */
static inline struct block *jump(struct icpu *cpu, struct iop *op)
{
	u64 rip = (cpu->pcbase + op->imm) & op->amask;

	if (unlikely(op->check))
		check_target(cpu, op, rip);
	cpu->rip = rip;
	leave_early(cpu, op);
	return linked(cpu, op);
}

static struct block *op_jmp(struct icpu *cpu, struct iop *op)
{
	return jump(cpu, op);
}

#define JCC(cc)                                                                \
	static struct block *jcc##cc(struct icpu *cpu, struct iop *op)         \
	{                                                                      \
		if (condition(cpu->flags, cc))                                 \
			return jump(cpu, op);                                  \
		NEXT;                                                          \
	}
/* It takes them for declarations. */
/* clang-format off */
JCC(0) JCC(1) JCC(2) JCC(3) JCC(4) JCC(5) JCC(6) JCC(7)
JCC(8) JCC(9) JCC(10) JCC(11) JCC(12) JCC(13) JCC(14) JCC(15)
    /* clang-format on */

    /* op->imm from a relative operand; amask is what RIP is cut to. */
    static void build_target(struct build *b, struct iop *op)
{
	op->imm = (u64)op->off + op->len + b->insn->op[0].value;
	op->amask = build_ip_mask(b);
	op->check = b->key & KEY_CODE64 ? op->imm >= PAGE_SIZE
	                                : !(b->key & KEY_FLAT_CS);
	op->aux = op->imm < PAGE_SIZE && op->amask != 0xffff && b->max > 1
	              ? INSIDE_PAGE
	              : 0;
}

bool build_jcc(struct build *b, struct iop *op)
{
	static iop_fn *const fn[16] = { jcc0,  jcc1,  jcc2,  jcc3, jcc4,  jcc5,
		                        jcc6,  jcc7,  jcc8,  jcc9, jcc10, jcc11,
		                        jcc12, jcc13, jcc14, jcc15 };

	build_target(b, op);
	op->fn = fn[b->insn->z.opcode & 15];
	return true;
}

static struct block *op_jcxz(struct icpu *cpu, struct iop *op)
{
	if (!(cpu->gpr[GPR_RCX] & (u64)op->disp))
		return jump(cpu, op);
	NEXT;
}

bool build_jcxz(struct build *b, struct iop *op)
{
	build_target(b, op);
	op->disp = (s64)size_mask(b->insn->asize);
	op->fn = op_jcxz;
	return true;
}

enum { LOOP_ALWAYS, LOOP_Z, LOOP_NZ };

static struct block *op_loop(struct icpu *cpu, struct iop *op)
{
	u64 mask = (u64)op->disp;
	u64 count = (cpu->gpr[GPR_RCX] - 1) & mask;
	bool go = count != 0;

	if (op->src == LOOP_Z)
		go = go && cpu->flags & FL_ZF;
	else if (op->src == LOOP_NZ)
		go = go && !(cpu->flags & FL_ZF);
	if (go && op->check)
		check_target(cpu, op, (cpu->pcbase + op->imm) & op->amask);
	reg_set(cpu, GPR_OFF(GPR_RCX), op->opsize, count);
	if (go)
		return jump(cpu, op);
	NEXT;
}

bool build_loop(struct build *b, struct iop *op)
{
	build_target(b, op);
	op->disp = (s64)size_mask(b->insn->asize);
	op->opsize = b->insn->asize;
	op->src = b->insn->z.mnemonic == ZYDIS_MNEMONIC_LOOP    ? LOOP_ALWAYS
	          : b->insn->z.mnemonic == ZYDIS_MNEMONIC_LOOPE ? LOOP_Z
	                                                        : LOOP_NZ;
	op->fn = op_loop;
	return true;
}

/* ---- indirect ---- */
static struct block *go(struct icpu *cpu, struct iop *op, u64 rip)
{
	if (unlikely(op->dst || !icpu_canonical(rip)))
		check_target(cpu, op, rip);
	cpu->rip = rip;
	return known_block(cpu);
}

static struct block *op_jmp_reg(struct icpu *cpu, struct iop *op)
{
	return go(cpu, op, reg_get(cpu, op->src, op->opsize));
}

static struct block *op_jmp_mem64(struct icpu *cpu, struct iop *op)
{
	return go(cpu, op, load64(cpu, op, op_linear(cpu, op, 8, ACCESS_READ)));
}

static struct block *op_jmp_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	return go(cpu, op, op_load(cpu, op, op->opsize));
}

/* Far pointer in memory: offset, then selector. */
static void load_far(struct icpu *cpu, struct iop *op, u64 *off, u16 *sel)
{
	u64 ea = op_ea(cpu, op);
	gva_t lin = ea_linear(cpu, op, ea, op->opsize, ACCESS_READ);

	*off = icpu_load(cpu, lin, op->opsize, cpu->priv);
	lin = ea_linear(cpu, op, (ea + op->opsize) & op->amask, 2, ACCESS_READ);
	*sel = (u16)icpu_load(cpu, lin, 2, cpu->priv);
}

static struct block *op_jmp_far(struct icpu *cpu, struct iop *op)
{
	u64 off = op->imm;
	u16 sel = op->aux;

	ENTER;
	if (op->seg != 0xff)
		load_far(cpu, op, &off, &sel);
	transfer_jump(cpu, sel, off, op->opsize, op_next_rip(cpu, op));
	return NULL;
}

static bool build_far(struct build *b, struct iop *op, iop_fn *fn)
{
	const struct insn *i = b->insn;

	op->opsize = i->opsize;
	if (i->op[0].kind == OPERAND_MEM) {
		build_address(b, op);
	} else {
		op->imm = i->op[0].value & size_mask(op->opsize);
		op->aux = i->op[0].selector;
	}
	op->fn = fn;
	return true;
}

bool build_jmp(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;

	b->ended = true;
	if (i->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return build_far(b, op, op_jmp_far);
	op->opsize = i->op[0].size;
	switch (i->op[0].kind) {
	case OPERAND_REL:
		build_target(b, op);
		op->fn = op_jmp;
		break;
	case OPERAND_GPR:
		op->src = build_reg(b, 0);
		op->dst = !(b->key & (KEY_CODE64 | KEY_FLAT_CS));
		op->fn = op_jmp_reg;
		break;
	default:
		build_address(b, op);
		op->dst = !(b->key & (KEY_CODE64 | KEY_FLAT_CS));
		op->fn = op->opsize == 8 ? op_jmp_mem64 : op_jmp_mem;
		break;
	}
	return true;
}

/* ---- calls and returns ---- */
static inline void push64(struct icpu *cpu, struct iop *op, u64 v)
{
	gva_t lin = cpu->gpr[GPR_RSP] - 8;

	store64(cpu, op, lin, v);
	cpu->gpr[GPR_RSP] = lin;
}

static void push_any(struct icpu *cpu, struct iop *op, u64 v)
{
	struct stack s;

	ENTER;
	stack_current(cpu, &s);
	stack_push(cpu, &s, op->opsize, v);
	stack_commit(cpu, &s);
}

static struct block *op_call64(struct icpu *cpu, struct iop *op)
{
	u64 rip = cpu->pcbase + op->imm;

	if (op->check)
		check_target(cpu, op, rip);
	push64(cpu, op, cpu->pcbase + op->off + op->len);
	cpu->rip = rip;
	return linked(cpu, op);
}

static struct block *op_call(struct icpu *cpu, struct iop *op)
{
	u64 rip = (cpu->pcbase + op->imm) & op->amask;

	check_target(cpu, op, rip);
	push_any(cpu, op, op_next_rip(cpu, op));
	cpu->rip = rip;
	return linked(cpu, op);
}

static struct block *call_to(struct icpu *cpu, struct iop *op, u64 rip)
{
	check_target(cpu, op, rip);
	if (op->opsize == 8 && !(cpu->key & KEY_ALIGN))
		push64(cpu, op, op_next_rip(cpu, op));
	else
		push_any(cpu, op, op_next_rip(cpu, op));
	cpu->rip = rip;
	return known_block(cpu);
}

static struct block *op_call_reg(struct icpu *cpu, struct iop *op)
{
	ENTER;
	return call_to(cpu, op, reg_get(cpu, op->src, op->opsize));
}

static struct block *op_call_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	return call_to(cpu, op, op_load(cpu, op, op->opsize));
}

static struct block *op_call_far(struct icpu *cpu, struct iop *op)
{
	u64 off = op->imm;
	u16 sel = op->aux;

	ENTER;
	if (op->seg != 0xff)
		load_far(cpu, op, &off, &sel);
	transfer_call(cpu, sel, off, op->opsize, op_next_rip(cpu, op));
	return NULL;
}

bool build_call(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;

	b->ended = true;
	if (i->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return build_far(b, op, op_call_far);
	switch (i->op[0].kind) {
	case OPERAND_REL:
		build_target(b, op);
		op->opsize = i->opsize;
		if (b->key & KEY_CODE64 && op->opsize == 4)
			op->opsize = 8;
		op->seg = SEG_SS;
		op->fn = op->opsize == 8 && !(b->key & KEY_ALIGN) ? op_call64
		                                                  : op_call;
		break;
	case OPERAND_GPR:
		op->opsize = i->op[0].size;
		op->src = build_reg(b, 0);
		op->seg = SEG_SS;
		op->fn = op_call_reg;
		break;
	default:
		op->opsize = i->op[0].size;
		build_address(b, op);
		op->fn = op_call_mem;
		break;
	}
	return true;
}

static struct block *op_ret64(struct icpu *cpu, struct iop *op)
{
	u64 rsp = cpu->gpr[GPR_RSP];
	u64 rip = load64(cpu, op, rsp);

	if (unlikely(!icpu_canonical(rip)))
		check_target(cpu, op, rip);
	cpu->gpr[GPR_RSP] = rsp + 8 + op->imm;
	cpu->rip = rip;
	return known_block(cpu);
}

static struct block *op_ret(struct icpu *cpu, struct iop *op)
{
	struct stack s;
	u64 rip;

	ENTER;
	stack_current(cpu, &s);
	rip = stack_pop(cpu, &s, op->opsize);
	check_target(cpu, op, rip);
	s.sp = (s.sp & ~s.mask) | ((s.sp + op->imm) & s.mask);
	stack_commit(cpu, &s);
	cpu->rip = rip;
	return known_block(cpu);
}

static struct block *op_ret_far(struct icpu *cpu, struct iop *op)
{
	ENTER;
	transfer_return(cpu, op->opsize, (u16)op->imm);
	return NULL;
}

bool build_ret(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;

	b->ended = true;
	op->imm = i->op[0].kind == OPERAND_IMM ? i->op[0].value & 0xffff : 0;
	op->seg = SEG_SS;
	op->opsize = i->opsize;
	if (i->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
		op->fn = op_ret_far;
		return true;
	}
	if (b->key & KEY_CODE64 && op->opsize == 4)
		op->opsize = 8;
	op->fn = op->opsize == 8 && !(b->key & KEY_ALIGN) ? op_ret64 : op_ret;
	return true;
}

static struct block *op_iret(struct icpu *cpu, struct iop *op)
{
	ENTER;
	transfer_iret(cpu, op->opsize, op_next_rip(cpu, op));
	return NULL;
}

bool build_iret(struct build *b, struct iop *op)
{
	switch (b->insn->z.mnemonic) {
	case ZYDIS_MNEMONIC_IRET:
		op->opsize = 2;
		break;
	case ZYDIS_MNEMONIC_IRETD:
		op->opsize = 4;
		break;
	default:
		op->opsize = 8;
		break;
	}
	op->seg = SEG_SS;
	op->fn = op_iret;
	b->ended = true;
	return true;
}

/* ---- interrupts by instruction ---- */
static struct block *op_int(struct icpu *cpu, struct iop *op)
{
	ENTER;
	/* INT1 takes along what MOV SS held back. */
	if (op->aux == EVENT_INT1) {
		cpu->dr[6] |= cpu->pending_db;
		cpu->pending_db = 0;
	}
	event_deliver(cpu, (u8)op->imm, (enum event_kind)op->aux, false, 0,
	              op_next_rip(cpu, op) & icpu_ip_mask(cpu));
	return NULL;
}

static struct block *op_into(struct icpu *cpu, struct iop *op)
{
	if (cpu->flags & FL_OF)
		return op_int(cpu, op);
	LEAVE;
}

bool build_int(struct build *b, struct iop *op)
{
	op->aux = EVENT_SOFT;
	op->fn = op_int;
	b->ended = true;
	switch (b->insn->z.mnemonic) {
	case ZYDIS_MNEMONIC_INT:
		op->imm = b->insn->op[0].value & 0xff;
		op->aux = EVENT_INTN;
		break;
	case ZYDIS_MNEMONIC_INT3:
		op->imm = VEC_BP;
		break;
	case ZYDIS_MNEMONIC_INTO:
		op->imm = VEC_OF;
		op->fn = op_into;
		break;
	default:
		op->imm = VEC_DB;
		op->aux = EVENT_INT1;
		break;
	}
	return true;
}

static struct block *op_bound(struct icpu *cpu, struct iop *op)
{
	unsigned size = op->opsize;
	u64 ea = op_ea(cpu, op);
	s64 low, high, v = (s64)sign_extend(REG64(op->dst), size);

	ENTER;
	low = (s64)sign_extend(
	    icpu_load(cpu, ea_linear(cpu, op, ea, size, ACCESS_READ), size,
	              cpu->priv),
	    size);
	ea = (ea + size) & op->amask;
	high = (s64)sign_extend(
	    icpu_load(cpu, ea_linear(cpu, op, ea, size, ACCESS_READ), size,
	              cpu->priv),
	    size);
	if (v < low || v > high)
		icpu_fault(cpu, VEC_BR);
	NEXT;
}

bool build_bound(struct build *b, struct iop *op)
{
	op->opsize = b->insn->op[0].size;
	op->dst = build_reg(b, 0);
	build_address(b, op);
	op->fn = op_bound;
	return true;
}

bool build_ud(struct build *b, struct iop *op)
{
	op->fn = op_undefined;
	b->ended = true;
	return true;
}

/* ---- fast system calls ---- */
static struct block *op_syscall(struct icpu *cpu, struct iop *op)
{
	ENTER;
	transfer_syscall(cpu, op_next_rip(cpu, op));
	return NULL;
}
static struct block *op_sysret(struct icpu *cpu, struct iop *op)
{
	ENTER;
	transfer_sysret(cpu, op->opsize);
	return NULL;
}
static struct block *op_sysenter(struct icpu *cpu, struct iop *op)
{
	ENTER;
	transfer_sysenter(cpu);
	return NULL;
}
static struct block *op_sysexit(struct icpu *cpu, struct iop *op)
{
	ENTER;
	transfer_sysexit(cpu, op->opsize);
	return NULL;
}

static bool build_last(struct build *b, struct iop *op, iop_fn *fn)
{
	op->fn = fn;
	op->opsize = b->insn->z.raw.rex.W ? 8 : 4;
	b->ended = true;
	return true;
}
bool build_syscall(struct build *b, struct iop *op)
{
	return build_last(b, op, op_syscall);
}
bool build_sysret(struct build *b, struct iop *op)
{
	return build_last(b, op, op_sysret);
}
bool build_sysenter(struct build *b, struct iop *op)
{
	return build_last(b, op, op_sysenter);
}
bool build_sysexit(struct build *b, struct iop *op)
{
	return build_last(b, op, op_sysexit);
}
