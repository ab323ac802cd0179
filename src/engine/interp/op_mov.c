/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_mov.c - MOV, MOVZX, MOVSX, LEA, XCHG, CMOV, SETcc, BSWAP, MOVBE, XLAT.
 */
#include "engine/interp/ops.h"
#include "engine/x86/control.h"
#include "engine/x86/decode.h"
#include "engine/x86/segment.h"

/* ---- MOV ---- */
#define MOV_FORMS(bits)                                                        \
	static struct block *mov##bits##_rr(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		SET##bits(op->dst, REG##bits(op->src));                        \
		NEXT;                                                          \
	}                                                                      \
	static struct block *mov##bits##_ri(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		SET##bits(op->dst, op->imm);                                   \
		NEXT;                                                          \
	}                                                                      \
	static struct block *mov##bits##_rm(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
                                                                               \
		SET##bits(op->dst, load##bits(cpu, op, lin));                  \
		NEXT;                                                          \
	}                                                                      \
	static struct block *mov##bits##_mr(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_WRITE);        \
                                                                               \
		store##bits(cpu, op, lin, REG##bits(op->src));                 \
		NEXT;                                                          \
	}                                                                      \
	static struct block *mov##bits##_mi(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_WRITE);        \
                                                                               \
		store##bits(cpu, op, lin, (u##bits)op->imm);                   \
		NEXT;                                                          \
	}
MOV_FORMS(8)
MOV_FORMS(16)
MOV_FORMS(32)
MOV_FORMS(64)

#define MOV_ROW(bits)                                                          \
	{                                                                      \
		mov##bits##_rr, mov##bits##_ri, mov##bits##_rm,                \
		    mov##bits##_mr, mov##bits##_mi                             \
	}
static iop_fn *const mov[4][5] = { MOV_ROW(8), MOV_ROW(16), MOV_ROW(32),
	                           MOV_ROW(64) };

static struct block *mov_from_seg_reg(struct icpu *cpu, struct iop *op)
{
	reg_set(cpu, op->dst, op->opsize, cpu->seg[op->aux].selector);
	NEXT;
}

static struct block *mov_from_seg_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	op_store(cpu, op, 2, cpu->seg[op->aux].selector);
	NEXT;
}

static struct block *after_segment(struct icpu *cpu, struct iop *op)
{
	if (op->aux == SEG_SS) {
		cpu->shadow = cpu->shadow_ss = true;
		icpu_update(cpu);
		LEAVE;
	}
	if (icpu_code64(cpu))
		NEXT;
	LEAVE;
}

static struct block *mov_to_seg_reg(struct icpu *cpu, struct iop *op)
{
	ENTER;
	segment_load(cpu, op->aux, REG16(op->src));
	return after_segment(cpu, op);
}

static struct block *mov_to_seg_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	segment_load(cpu, op->aux, (u16)op_load(cpu, op, 2));
	return after_segment(cpu, op);
}

static struct block *mov_from_cr(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (cpu->cpl)
		icpu_gp(cpu);
	reg_set(cpu, op->dst, op->opsize, control_read(cpu, op->aux));
	NEXT;
}

static struct block *mov_to_cr(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (cpu->cpl)
		icpu_gp(cpu);
	control_write(cpu, op->aux, reg_get(cpu, op->src, op->opsize));
	LEAVE;
}

static struct block *mov_from_dr(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (cpu->cpl)
		icpu_gp(cpu);
	reg_set(cpu, op->dst, op->opsize, control_read_debug(cpu, op->aux));
	NEXT;
}

static struct block *mov_to_dr(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (cpu->cpl)
		icpu_gp(cpu);
	control_write_debug(cpu, op->aux, reg_get(cpu, op->src, op->opsize));
	LEAVE;
}

static bool build_mov_special(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	bool to = i->op[0].kind != OPERAND_GPR && i->op[0].kind != OPERAND_MEM;
	const struct insn_operand *special = &i->op[to ? 0 : 1];
	const struct insn_operand *other = &i->op[to ? 1 : 0];

	op->aux = special->reg;
	if (other->kind == OPERAND_MEM)
		build_address(b, op);
	else
		op->dst = op->src = build_reg(b, to ? 1 : 0);
	switch (special->kind) {
	case OPERAND_SEG:
		if (to && special->reg == SEG_CS)
			return false;
		if (to)
			op->fn = other->kind == OPERAND_MEM ? mov_to_seg_mem
			                                    : mov_to_seg_reg;
		else
			op->fn = other->kind == OPERAND_MEM ? mov_from_seg_mem
			                                    : mov_from_seg_reg;
		op->opsize = other->size;
		b->ended =
		    to && (!(b->key & KEY_CODE64) || special->reg == SEG_SS);
		return true;
	case OPERAND_CR:
		op->opsize = b->key & KEY_CODE64 ? 8 : 4;
		op->fn = to ? mov_to_cr : mov_from_cr;
		b->ended = to;
		return true;
	case OPERAND_DR:
		op->opsize = b->key & KEY_CODE64 ? 8 : 4;
		op->fn = to ? mov_to_dr : mov_from_dr;
		b->ended = to;
		return true;
	default:
		return false;
	}
}

bool build_mov(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	unsigned s = size_index(i->op[0].size);

	op->imm = i->op[1].value;
	if (i->op[0].kind == OPERAND_MEM && i->op[1].kind == OPERAND_GPR) {
		build_address(b, op);
		op->src = build_reg(b, 1);
		op->fn = mov[s][3];
	} else if (i->op[0].kind == OPERAND_MEM &&
	           i->op[1].kind == OPERAND_IMM) {
		build_address(b, op);
		op->fn = mov[s][4];
	} else if (i->op[0].kind != OPERAND_GPR) {
		return build_mov_special(b, op);
	} else if (i->op[1].kind == OPERAND_MEM) {
		build_address(b, op);
		op->dst = build_reg(b, 0);
		op->fn = mov[s][2];
	} else if (i->op[1].kind == OPERAND_IMM) {
		op->dst = build_reg(b, 0);
		op->fn = mov[s][1];
	} else if (i->op[1].kind == OPERAND_GPR) {
		op->dst = build_reg(b, 0);
		op->src = build_reg(b, 1);
		op->fn = mov[s][0];
	} else {
		return build_mov_special(b, op);
	}
	return true;
}

bool build_movnti(struct build *b, struct iop *op)
{
	return build_mov(b, op);
}

/* ---- MOVZX, MOVSX ---- */
#define EXTEND(name, from, to, cast)                                           \
	static struct block *name##_r(struct icpu *cpu, struct iop *op)        \
	{                                                                      \
		SET##to(op->dst, (u##to)(cast)REG##from(op->src));             \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##_m(struct icpu *cpu, struct iop *op)        \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, from / 8, ACCESS_READ);         \
                                                                               \
		SET##to(op->dst, (u##to)(cast)load##from(cpu, op, lin));       \
		NEXT;                                                          \
	}
EXTEND(movzx8_16, 8, 16, u8)
EXTEND(movzx8_32, 8, 32, u8)
EXTEND(movzx8_64, 8, 64, u8)
EXTEND(movzx16_32, 16, 32, u16)
EXTEND(movzx16_64, 16, 64, u16)
EXTEND(movsx8_16, 8, 16, s8)
EXTEND(movsx8_32, 8, 32, s8)
EXTEND(movsx8_64, 8, 64, s8)
EXTEND(movsx16_32, 16, 32, s16)
EXTEND(movsx16_64, 16, 64, s16)
EXTEND(movsx32_64, 32, 64, s32)
EXTEND(mov16_16, 16, 16, u16)
EXTEND(mov32_32, 32, 32, u32)

/* Rows by source size, columns by destination size; pairs reg, mem. */
static iop_fn *const movzx[3][4][2] = {
	{ { 0 },
	  { movzx8_16_r, movzx8_16_m },
	  { movzx8_32_r, movzx8_32_m },
	  { movzx8_64_r, movzx8_64_m } },
	{ { 0 },
	  { mov16_16_r, mov16_16_m },
	  { movzx16_32_r, movzx16_32_m },
	  { movzx16_64_r, movzx16_64_m } },
	{ { 0 }, { mov16_16_r, mov16_16_m }, { mov32_32_r, mov32_32_m } },
};
static iop_fn *const movsx[3][4][2] = {
	{ { 0 },
	  { movsx8_16_r, movsx8_16_m },
	  { movsx8_32_r, movsx8_32_m },
	  { movsx8_64_r, movsx8_64_m } },
	{ { 0 },
	  { mov16_16_r, mov16_16_m },
	  { movsx16_32_r, movsx16_32_m },
	  { movsx16_64_r, movsx16_64_m } },
	{ { 0 },
	  { mov16_16_r, mov16_16_m },
	  { mov32_32_r, mov32_32_m },
	  { movsx32_64_r, movsx32_64_m } },
};

bool build_movx(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	bool mem = i->op[1].kind == OPERAND_MEM;
	unsigned from = size_index(i->op[1].size);
	unsigned to = size_index(i->op[0].size);

	if (from > 2)
		return false;
	if (mem)
		build_address(b, op);
	else
		op->src = build_reg(b, 1);
	op->dst = build_reg(b, 0);
	op->fn = i->z.mnemonic == ZYDIS_MNEMONIC_MOVZX ? movzx[from][to][mem]
	                                               : movsx[from][to][mem];
	return op->fn != NULL;
}

/* ---- LEA ---- */
static struct block *lea16(struct icpu *cpu, struct iop *op)
{
	SET16(op->dst, op_ea(cpu, op));
	NEXT;
}
static struct block *lea32(struct icpu *cpu, struct iop *op)
{
	SET32(op->dst, op_ea(cpu, op));
	NEXT;
}
static struct block *lea64(struct icpu *cpu, struct iop *op)
{
	SET64(op->dst, op_ea(cpu, op));
	NEXT;
}

bool build_lea(struct build *b, struct iop *op)
{
	unsigned size = b->insn->op[0].size;

	build_address(b, op);
	op->dst = build_reg(b, 0);
	op->fn = size == 8 ? lea64 : size == 4 ? lea32 : lea16;
	return true;
}

/* ---- XCHG, XADD, CMPXCHG ---- */
static struct block *xchg_reg(struct icpu *cpu, struct iop *op)
{
	u64 a = reg_get(cpu, op->dst, op->opsize);
	u64 v = reg_get(cpu, op->src, op->opsize);

	reg_set(cpu, op->dst, op->opsize, v);
	reg_set(cpu, op->src, op->opsize, a);
	NEXT;
}

#define XCHG_MEM(bits)                                                         \
	static struct block *xchg##bits##_mem(struct icpu *cpu,                \
	                                      struct iop *op)                  \
	{                                                                      \
		struct icpu_rmw rmw;                                           \
		gva_t lin;                                                     \
		u##bits old;                                                   \
                                                                               \
		ENTER;                                                         \
		lin = op_linear(cpu, op, bits / 8, ACCESS_WRITE);              \
		icpu_rmw_begin(cpu, lin, bits / 8, &rmw);                      \
		old = __atomic_exchange_n(                                     \
		    (u##bits *)rmw.p, REG##bits(op->src), __ATOMIC_SEQ_CST);   \
		icpu_rmw_end(cpu, &rmw);                                       \
		SET##bits(op->src, old);                                       \
		NEXT;                                                          \
	}
XCHG_MEM(8)
XCHG_MEM(16)
XCHG_MEM(32)
XCHG_MEM(64)

bool build_xchg(struct build *b, struct iop *op)
{
	static iop_fn *const mem[4] = { xchg8_mem, xchg16_mem, xchg32_mem,
		                        xchg64_mem };
	const struct insn *i = b->insn;

	op->opsize = i->op[0].size;
	if (i->op[0].kind == OPERAND_MEM || i->op[1].kind == OPERAND_MEM) {
		build_address(b, op);
		op->src = build_reg(b, i->op[0].kind == OPERAND_MEM ? 1 : 0);
		op->fn = mem[size_index(op->opsize)];
		return true;
	}
	op->dst = build_reg(b, 0);
	op->src = build_reg(b, 1);
	op->fn = xchg_reg;
	return true;
}

/* ---- conditional moves and sets ---- */
#define CMOV(bits)                                                             \
	static struct block *cmov##bits##_r(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		u##bits v = REG##bits(op->src), old = REG##bits(op->dst);      \
                                                                               \
		SET##bits(op->dst, condition(cpu->flags, op->aux) ? v : old);  \
		NEXT;                                                          \
	}                                                                      \
	static struct block *cmov##bits##_m(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
		u##bits v = load##bits(cpu, op, lin);                          \
		u##bits old = REG##bits(op->dst);                              \
                                                                               \
		SET##bits(op->dst, condition(cpu->flags, op->aux) ? v : old);  \
		NEXT;                                                          \
	}
CMOV(16)
CMOV(32)
CMOV(64)

/* The low four opcode bits are the condition in Jcc, SETcc and CMOVcc. */
bool build_cmov(struct build *b, struct iop *op)
{
	static iop_fn *const fn[4][2] = { { 0 },
		                          { cmov16_r, cmov16_m },
		                          { cmov32_r, cmov32_m },
		                          { cmov64_r, cmov64_m } };
	const struct insn *i = b->insn;
	bool mem = i->op[1].kind == OPERAND_MEM;

	op->aux = i->z.opcode & 15;
	op->dst = build_reg(b, 0);
	if (mem)
		build_address(b, op);
	else
		op->src = build_reg(b, 1);
	op->fn = fn[size_index(i->op[0].size)][mem];
	return op->fn != NULL;
}

static struct block *setcc_r(struct icpu *cpu, struct iop *op)
{
	SET8(op->dst, condition(cpu->flags, op->aux));
	NEXT;
}
static struct block *setcc_m(struct icpu *cpu, struct iop *op)
{
	gva_t lin = op_linear(cpu, op, 1, ACCESS_WRITE);

	store8(cpu, op, lin, condition(cpu->flags, op->aux));
	NEXT;
}

bool build_setcc(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.opcode & 15;
	if (b->insn->op[0].kind == OPERAND_MEM) {
		build_address(b, op);
		op->fn = setcc_m;
	} else {
		op->dst = build_reg(b, 0);
		op->fn = setcc_r;
	}
	return true;
}

/* ---- byte order ---- */
static u64 swap(u64 v, unsigned size)
{
	return size == 8   ? __builtin_bswap64(v)
	       : size == 4 ? __builtin_bswap32((u32)v)
	                   : __builtin_bswap16((u16)v);
}

static struct block *op_bswap(struct icpu *cpu, struct iop *op)
{
	/* BSWAP r16 is undefined; processors zero it. */
	reg_set(cpu, op->dst, op->opsize,
	        op->opsize == 2 ? 0 : swap(REG64(op->dst), op->opsize));
	NEXT;
}

bool build_bswap(struct build *b, struct iop *op)
{
	op->dst = build_reg(b, 0);
	op->opsize = b->insn->op[0].size;
	op->fn = op_bswap;
	return true;
}

static struct block *op_movbe_load(struct icpu *cpu, struct iop *op)
{
	ENTER;
	reg_set(cpu, op->dst, op->opsize,
	        swap(op_load(cpu, op, op->opsize), op->opsize));
	NEXT;
}
static struct block *op_movbe_store(struct icpu *cpu, struct iop *op)
{
	ENTER;
	op_store(cpu, op, op->opsize, swap(REG64(op->dst), op->opsize));
	NEXT;
}

bool build_movbe(struct build *b, struct iop *op)
{
	bool store = b->insn->op[0].kind == OPERAND_MEM;

	build_address(b, op);
	op->opsize = b->insn->op[0].size;
	op->dst = build_reg(b, store ? 1 : 0);
	op->fn = store ? op_movbe_store : op_movbe_load;
	return true;
}

static struct block *op_xlat(struct icpu *cpu, struct iop *op)
{
	u64 ea;

	ENTER;
	ea = (REG64(GPR_OFF(GPR_RBX)) + REG8(GPR_OFF(GPR_RAX))) & op->amask;
	SET8(GPR_OFF(GPR_RAX),
	     icpu_load(cpu, ea_linear(cpu, op, ea, 1, ACCESS_READ), 1,
	               cpu->priv));
	NEXT;
}

bool build_xlat(struct build *b, struct iop *op)
{
	build_address(b, op);
	op->fn = op_xlat;
	return true;
}
