/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_stack.c - PUSH, POP and kin. RSP moves only after the last possible
 * fault.
 */
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"
#include "engine/x86/segment.h"
#include "engine/x86/stack.h"

/* ---- 64-bit mode ---- */
static inline void push64(struct icpu *cpu, struct iop *op, u64 v)
{
	gva_t lin = cpu->gpr[GPR_RSP] - 8;

	store64(cpu, op, lin, v);
	cpu->gpr[GPR_RSP] = lin;
}

static struct block *push64_r(struct icpu *cpu, struct iop *op)
{
	push64(cpu, op, REG64(op->src));
	NEXT;
}
static struct block *push64_i(struct icpu *cpu, struct iop *op)
{
	push64(cpu, op, op->imm);
	NEXT;
}
static struct block *pop64_r(struct icpu *cpu, struct iop *op)
{
	u64 rsp = cpu->gpr[GPR_RSP];
	u64 v = load64(cpu, op, rsp);

	cpu->gpr[GPR_RSP] = rsp + 8;
	REG64(op->dst) = v;
	NEXT;
}

/* ---- 32-bit flat stack ---- */
static struct block *push32_r(struct icpu *cpu, struct iop *op)
{
	u32 lin = (u32)cpu->gpr[GPR_RSP] - 4;

	store32(cpu, op, lin, REG32(op->src));
	cpu->gpr[GPR_RSP] = lin;
	NEXT;
}
static struct block *push32_i(struct icpu *cpu, struct iop *op)
{
	u32 lin = (u32)cpu->gpr[GPR_RSP] - 4;

	store32(cpu, op, lin, (u32)op->imm);
	cpu->gpr[GPR_RSP] = lin;
	NEXT;
}
static struct block *pop32_r(struct icpu *cpu, struct iop *op)
{
	u32 lin = (u32)cpu->gpr[GPR_RSP];
	u32 v = load32(cpu, op, lin);

	cpu->gpr[GPR_RSP] = (u32)(lin + 4);
	SET32(op->dst, v);
	NEXT;
}

/* ---- any stack ---- */
static void push(struct icpu *cpu, unsigned size, u64 v)
{
	struct stack s;

	stack_current(cpu, &s);
	stack_push(cpu, &s, size, v);
	stack_commit(cpu, &s);
}

static struct block *push_r(struct icpu *cpu, struct iop *op)
{
	ENTER;
	push(cpu, op->opsize, reg_get(cpu, op->src, op->opsize));
	NEXT;
}
static struct block *push_i(struct icpu *cpu, struct iop *op)
{
	ENTER;
	push(cpu, op->opsize, op->imm);
	NEXT;
}
static struct block *push_m(struct icpu *cpu, struct iop *op)
{
	ENTER;
	push(cpu, op->opsize, op_load(cpu, op, op->opsize));
	NEXT;
}
/* A selector is pushed as 16 bits of its slot in legacy mode. */
static struct block *push_seg(struct icpu *cpu, struct iop *op)
{
	ENTER;
	push(cpu, op->opsize, cpu->seg[op->aux].selector);
	NEXT;
}

static struct block *pop_r(struct icpu *cpu, struct iop *op)
{
	struct stack s;
	u64 v;

	ENTER;
	stack_current(cpu, &s);
	v = stack_pop(cpu, &s, op->opsize);
	stack_commit(cpu, &s);
	reg_set(cpu, op->dst, op->opsize, v);
	NEXT;
}

/* An address with RSP in it uses the value after the pop. */
static struct block *pop_m(struct icpu *cpu, struct iop *op)
{
	u64 old = cpu->gpr[GPR_RSP], new, v;
	struct stack s;
	gva_t lin;

	ENTER;
	stack_current(cpu, &s);
	v = stack_pop(cpu, &s, op->opsize);
	stack_commit(cpu, &s);
	new = cpu->gpr[GPR_RSP];
	lin = op_ea(cpu, op);
	cpu->gpr[GPR_RSP] = old;
	lin = ea_linear(cpu, op, lin, op->opsize, ACCESS_WRITE);
	icpu_store(cpu, lin, v, op->opsize, cpu->priv);
	cpu->gpr[GPR_RSP] = new;
	NEXT;
}

static struct block *pop_seg(struct icpu *cpu, struct iop *op)
{
	struct stack s;
	u16 sel;

	ENTER;
	stack_current(cpu, &s);
	sel = (u16)stack_pop(cpu, &s, op->opsize);
	segment_load(cpu, op->aux, sel);
	stack_commit(cpu, &s);
	if (op->aux == SEG_SS) {
		cpu->shadow = cpu->shadow_ss = true;
		icpu_update(cpu);
		LEAVE;
	}
	if (icpu_code64(cpu))
		NEXT;
	LEAVE;
}

static unsigned stack_size(const struct build *b)
{
	unsigned size = b->insn->opsize;

	if (b->key & KEY_CODE64 && size == 4)
		return 8;
	return size;
}

static bool flat32(const struct build *b)
{
	return !(b->key & (KEY_CODE64 | KEY_ALIGN)) &&
	       (b->key & (KEY_STACK32 | KEY_FLAT_SS)) ==
	           (KEY_STACK32 | KEY_FLAT_SS);
}

static bool flat64(const struct build *b)
{
	return b->key & KEY_CODE64 && !(b->key & KEY_ALIGN);
}

bool build_push(struct build *b, struct iop *op)
{
	const struct insn_operand *o = &b->insn->op[0];
	unsigned size = stack_size(b);
	bool f64 = flat64(b) && size == 8, f32 = flat32(b) && size == 4;

	op->seg = SEG_SS;
	op->opsize = (u8)size;
	switch (o->kind) {
	case OPERAND_GPR:
		op->src = build_reg(b, 0);
		op->fn = f64 ? push64_r : f32 ? push32_r : push_r;
		return true;
	case OPERAND_IMM:
		op->imm = o->value;
		op->fn = f64 ? push64_i : f32 ? push32_i : push_i;
		return true;
	case OPERAND_MEM:
		build_address(b, op);
		op->fn = push_m;
		return true;
	case OPERAND_SEG:
		op->aux = o->reg;
		op->fn = push_seg;
		return true;
	default:
		return false;
	}
}

bool build_pop(struct build *b, struct iop *op)
{
	const struct insn_operand *o = &b->insn->op[0];
	unsigned size = stack_size(b);
	bool f64 = flat64(b) && size == 8, f32 = flat32(b) && size == 4;

	op->seg = SEG_SS;
	op->opsize = (u8)size;
	switch (o->kind) {
	case OPERAND_GPR:
		op->dst = build_reg(b, 0);
		op->fn = f64 ? pop64_r : f32 ? pop32_r : pop_r;
		return true;
	case OPERAND_MEM:
		build_address(b, op);
		op->fn = pop_m;
		return true;
	case OPERAND_SEG:
		op->aux = o->reg;
		op->fn = pop_seg;
		b->ended = !(b->key & KEY_CODE64) || o->reg == SEG_SS;
		return true;
	default:
		return false;
	}
}

/* ---- PUSHA, POPA ---- */
static struct block *op_pusha(struct icpu *cpu, struct iop *op)
{
	struct stack s;

	ENTER;
	stack_current(cpu, &s);
	for (unsigned r = GPR_RAX; r <= GPR_RDI; r++)
		stack_push(cpu, &s, op->opsize, cpu->gpr[r]);
	stack_commit(cpu, &s);
	NEXT;
}

static struct block *op_popa(struct icpu *cpu, struct iop *op)
{
	u64 v[8];
	struct stack s;

	ENTER;
	stack_current(cpu, &s);
	for (unsigned r = 8; r-- > 0;)
		v[r] = stack_pop(cpu, &s, op->opsize);
	stack_commit(cpu, &s);
	for (unsigned r = 0; r < 8; r++)
		if (r != GPR_RSP)
			reg_set(cpu, GPR_OFF(r), op->opsize, v[r]);
	NEXT;
}

bool build_pusha(struct build *b, struct iop *op)
{
	op->opsize = b->insn->opsize;
	op->seg = SEG_SS;
	op->fn = op_pusha;
	return true;
}
bool build_popa(struct build *b, struct iop *op)
{
	op->opsize = b->insn->opsize;
	op->seg = SEG_SS;
	op->fn = op_popa;
	return true;
}

/* ---- PUSHF, POPF ---- */
static struct block *op_pushf(struct icpu *cpu, struct iop *op)
{
	u64 fl = icpu_rflags(cpu) & ~(u64)(RFLAGS_RF | RFLAGS_VM);

	ENTER;
	if (icpu_v86(cpu) && icpu_iopl(cpu) < 3) {
		/* VME: the program sees VIF as IF, and IOPL 3. */
		if (op->opsize != 2 || !(cpu->cr4 & CR4_VME))
			icpu_gp(cpu);
		fl |= RFLAGS_IOPL;
		fl &= ~(u64)RFLAGS_IF;
		if (fl & RFLAGS_VIF)
			fl |= RFLAGS_IF;
	}
	push(cpu, op->opsize, fl);
	NEXT;
}

static void popf_vme(struct icpu *cpu, u64 fl)
{
	u64 now = icpu_rflags(cpu);
	u64 mask = RFLAGS_STATUS | RFLAGS_DF | RFLAGS_NT;

	if ((fl & RFLAGS_IF && now & RFLAGS_VIP) || fl & RFLAGS_TF)
		icpu_gp(cpu);
	now = (now & ~(mask | RFLAGS_VIF)) | (fl & mask);
	if (fl & RFLAGS_IF)
		now |= RFLAGS_VIF;
	icpu_set_rflags(cpu, now);
}

static struct block *op_popf(struct icpu *cpu, struct iop *op)
{
	u64 mask = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT, fl;
	bool v86 = icpu_v86(cpu);
	struct stack s;

	ENTER;
	stack_current(cpu, &s);
	if (v86 && icpu_iopl(cpu) < 3 &&
	    (op->opsize != 2 || !(cpu->cr4 & CR4_VME)))
		icpu_gp(cpu);
	fl = stack_pop(cpu, &s, op->opsize);
	if (v86 && icpu_iopl(cpu) < 3) {
		popf_vme(cpu, fl);
	} else {
		if (op->opsize > 2)
			mask |= RFLAGS_AC | RFLAGS_ID;
		if (cpu->cpl == 0)
			mask |= RFLAGS_IOPL;
		if (cpu->cpl <= icpu_iopl(cpu))
			mask |= RFLAGS_IF;
		icpu_set_rflags(cpu, (icpu_rflags(cpu) & ~(mask | RFLAGS_RF)) |
		                         (fl & mask));
	}
	stack_commit(cpu, &s);
	icpu_update(cpu);
	LEAVE;
}

bool build_pushf(struct build *b, struct iop *op)
{
	op->opsize = (u8)stack_size(b);
	op->seg = SEG_SS;
	op->fn = op_pushf;
	return true;
}
bool build_popf(struct build *b, struct iop *op)
{
	op->opsize = (u8)stack_size(b);
	op->seg = SEG_SS;
	op->fn = op_popf;
	b->ended = true;
	return true;
}

/* ---- ENTER, LEAVE ---- */
static struct block *op_enter(struct icpu *cpu, struct iop *op)
{
	unsigned size = op->opsize, level = op->aux;
	u64 frame, rbp = cpu->gpr[GPR_RBP], sp;
	struct stack s, frames;

	ENTER;
	stack_current(cpu, &s);
	stack_push(cpu, &s, size, rbp);
	frame = s.sp;
	if (level) {
		/* The enclosing frames' pointers, read below RBP. */
		frames = s;
		for (unsigned i = 1; i < level; i++) {
			struct stack at = frames;

			rbp = (rbp & ~s.mask) | ((rbp - size) & s.mask);
			at.sp = rbp;
			stack_push(cpu, &s, size, stack_pop(cpu, &at, size));
		}
		stack_push(cpu, &s, size, frame);
	}
	sp = (s.sp & ~s.mask) | ((s.sp - op->imm) & s.mask);
	if (unlikely(cpu->key & KEY_ALIGN) && sp & (size - 1))
		icpu_fault_error(cpu, VEC_AC, 0);
	/* The last write of the new frame must be possible. */
	icpu_probe(cpu, s.flat ? sp : s.ss.base + (sp & s.mask), 1,
	           ACCESS_WRITE, cpu->priv);
	s.sp = sp;
	stack_commit(cpu, &s);
	reg_set(cpu, GPR_OFF(GPR_RBP), size, frame);
	NEXT;
}

bool build_enter(struct build *b, struct iop *op)
{
	op->opsize = (u8)stack_size(b);
	op->imm = b->insn->op[0].value & 0xffff;
	op->aux = b->insn->op[1].value & 31;
	op->seg = SEG_SS;
	op->fn = op_enter;
	return true;
}

static struct block *op_leave64(struct icpu *cpu, struct iop *op)
{
	u64 rbp = cpu->gpr[GPR_RBP];
	u64 v = load64(cpu, op, rbp);

	cpu->gpr[GPR_RSP] = rbp + 8;
	cpu->gpr[GPR_RBP] = v;
	NEXT;
}

static struct block *op_leave(struct icpu *cpu, struct iop *op)
{
	struct stack s;
	u64 v;

	ENTER;
	stack_current(cpu, &s);
	s.sp = (s.sp & ~s.mask) | (cpu->gpr[GPR_RBP] & s.mask);
	v = stack_pop(cpu, &s, op->opsize);
	stack_commit(cpu, &s);
	reg_set(cpu, GPR_OFF(GPR_RBP), op->opsize, v);
	NEXT;
}

bool build_leave(struct build *b, struct iop *op)
{
	op->opsize = (u8)stack_size(b);
	op->seg = SEG_SS;
	op->fn = flat64(b) && op->opsize == 8 ? op_leave64 : op_leave;
	return true;
}
