/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_shift.c - shifts and rotates. All flags go in, since a count of zero
 * leaves every one as it was.
 */
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

#define FLAGS_IN "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

#define PURE(name, insn, bits, sfx)                                            \
	static inline u##bits name##bits(u##bits a, u8 count, u16 *fl)         \
	{                                                                      \
		u16 f = *fl;                                                   \
                                                                               \
		__asm__(FLAGS_IN insn sfx " %%cl, %[a]" FLAGS_OUT              \
		        : [a] "+r"(a), "+a"(f)                                 \
		        : "c"(count)                                           \
		        : "cc");                                               \
		*fl = f;                                                       \
		return a;                                                      \
	}
#define FORMS(name, insn, bits, sfx)                                           \
	PURE(name, insn, bits, sfx)                                            \
	static struct block *name##bits##_ri(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		SET##bits(op->dst, name##bits(REG##bits(op->dst), (u8)op->imm, \
		                              &cpu->flags));                   \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_rc(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		SET##bits(op->dst,                                             \
		          name##bits(REG##bits(op->dst),                       \
		                     REG8(GPR_OFF(GPR_RCX)), &cpu->flags));    \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_mem(struct icpu *cpu,                \
	                                      struct iop *op)                  \
	{                                                                      \
		u8 count = op->aux ? REG8(GPR_OFF(GPR_RCX)) : (u8)op->imm;     \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_WRITE);        \
		void *p = rmw##bits(cpu, lin);                                 \
                                                                               \
		if (likely(p)) {                                               \
			guest_put##bits(p, name##bits(guest_get##bits(p),      \
			                              count, &cpu->flags));    \
		} else {                                                       \
			u16 fl = cpu->flags;                                   \
			u##bits v = (u##bits)slow_load(cpu, op, lin,           \
			                               bits / 8 | HOW_WRITE);  \
                                                                               \
			v = name##bits(v, count, &fl);                         \
			slow_store(cpu, op, lin, bits / 8, v);                 \
			cpu->flags = fl;                                       \
		}                                                              \
		NEXT;                                                          \
	}
#define BY_SIZE(name, insn)                                                    \
	FORMS(name, insn, 8, "b")                                              \
	FORMS(name, insn, 16, "w")                                             \
	FORMS(name, insn, 32, "l")                                             \
	FORMS(name, insn, 64, "q")

BY_SIZE(rol, "rol")
BY_SIZE(ror, "ror")
BY_SIZE(rcl, "rcl")
BY_SIZE(rcr, "rcr")
BY_SIZE(shl, "shl")
BY_SIZE(shr, "shr")
BY_SIZE(sar, "sar")

#define ROW(name, bits)                                                        \
	{                                                                      \
		name##bits##_ri, name##bits##_rc, name##bits##_mem             \
	}
#define TABLE(name)                                                            \
	{                                                                      \
		ROW(name, 8), ROW(name, 16), ROW(name, 32), ROW(name, 64)      \
	}

static iop_fn *const shifts[7][4][3] = {
	TABLE(rol), TABLE(ror), TABLE(rcl), TABLE(rcr),
	TABLE(shl), TABLE(shr), TABLE(sar),
};

static unsigned shift_index(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ROL:
		return 0;
	case ZYDIS_MNEMONIC_ROR:
		return 1;
	case ZYDIS_MNEMONIC_RCL:
		return 2;
	case ZYDIS_MNEMONIC_RCR:
		return 3;
	case ZYDIS_MNEMONIC_SHL:
		return 4;
	case ZYDIS_MNEMONIC_SHR:
		return 5;
	default:
		return 6;
	}
}

bool build_shift(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	unsigned kind = shift_index(i->z.mnemonic);
	unsigned s = size_index(i->op[0].size);
	bool by_cl = i->op[1].kind == OPERAND_GPR;

	op->imm = i->op[1].kind == OPERAND_IMM ? i->op[1].value : 1;
	op->aux = by_cl;
	if (i->op[0].kind == OPERAND_MEM) {
		build_address(b, op);
		op->fn = shifts[kind][s][2];
	} else {
		op->dst = build_reg(b, 0);
		op->fn = shifts[kind][s][by_cl];
	}
	return true;
}

/* ---- SHLD, SHRD ---- */
#define DOUBLE(name, insn, bits, sfx)                                          \
	static inline u##bits name##bits(u##bits a, u##bits v, u8 count,       \
	                                 u16 *fl)                              \
	{                                                                      \
		u16 f = *fl;                                                   \
                                                                               \
		__asm__(FLAGS_IN insn sfx " %%cl, %[v], %[a]" FLAGS_OUT        \
		        : [a] "+r"(a), "+a"(f)                                 \
		        : "c"(count), [v] "r"(v)                               \
		        : "cc");                                               \
		*fl = f;                                                       \
		return a;                                                      \
	}
DOUBLE(shld, "shld", 16, "w")
DOUBLE(shld, "shld", 32, "l")
DOUBLE(shld, "shld", 64, "q")
DOUBLE(shrd, "shrd", 16, "w")
DOUBLE(shrd, "shrd", 32, "l")
DOUBLE(shrd, "shrd", 64, "q")

enum { BY_CL = 1, RIGHT = 2 };

static u64 shift_double(const struct iop *op, u64 a, u64 v, u8 count, u16 *fl)
{
	bool right = op->aux & RIGHT;

	switch (op->opsize) {
	case 2:
		return right ? shrd16((u16)a, (u16)v, count, fl)
		             : shld16((u16)a, (u16)v, count, fl);
	case 4:
		return right ? shrd32((u32)a, (u32)v, count, fl)
		             : shld32((u32)a, (u32)v, count, fl);
	default:
		return right ? shrd64(a, v, count, fl)
		             : shld64(a, v, count, fl);
	}
}

static u8 shld_count(const struct icpu *cpu, const struct iop *op)
{
	return op->aux & BY_CL ? (u8)cpu->gpr[GPR_RCX] : (u8)op->imm;
}

static struct block *op_shld_reg(struct icpu *cpu, struct iop *op)
{
	reg_set(cpu, op->dst, op->opsize,
	        shift_double(op, REG64(op->dst), REG64(op->src),
	                     shld_count(cpu, op), &cpu->flags));
	NEXT;
}

static struct block *op_shld_mem(struct icpu *cpu, struct iop *op)
{
	u16 fl = cpu->flags;
	gva_t lin;
	u64 v;

	ENTER;
	lin = op_linear(cpu, op, op->opsize, ACCESS_WRITE);
	v = slow_load(cpu, op, lin, op->opsize | HOW_WRITE);
	v = shift_double(op, v, REG64(op->src), shld_count(cpu, op), &fl);
	icpu_store(cpu, lin, v, op->opsize, cpu->priv);
	cpu->flags = fl;
	NEXT;
}

bool build_shld(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;

	op->opsize = i->op[0].size;
	op->src = build_reg(b, 1);
	op->imm = i->op[2].value;
	op->aux = i->op[2].kind == OPERAND_GPR ? BY_CL : 0;
	if (i->z.mnemonic == ZYDIS_MNEMONIC_SHRD)
		op->aux |= RIGHT;
	if (i->op[0].kind == OPERAND_MEM) {
		build_address(b, op);
		op->fn = op_shld_mem;
	} else {
		op->dst = build_reg(b, 0);
		op->fn = op_shld_reg;
	}
	return true;
}
