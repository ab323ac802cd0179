/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_muldiv.c - MUL IMUL DIV IDIV, CBW and kin, and decimal adjustment.
 */
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

#define FLAGS_IN "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"
/*
 * With flags in CX, as they are before and after: what these instructions leave
 * undefined is as the host's leave it, in translated code and here.
 */
#define WITH_FLAGS(insn)                                                       \
	"xchg %%rax, %%rcx\n\t" FLAGS_IN "xchg %%rax, %%rcx\n\t" insn          \
	"\n\tmov %%rax, %%rcx" FLAGS_OUT "\n\txchg %%rax, %%rcx"
#define RAX GPR_OFF(GPR_RAX)
#define RDX GPR_OFF(GPR_RDX)

/* ---- RDX:RAX, and an operand of that size ---- */
#define WIDE(name, insn, bits, sfx)                                            \
	static void name##bits(struct icpu *cpu, u64 v)                        \
	{                                                                      \
		u##bits lo = REG##bits(RAX), hi = REG##bits(RDX);              \
		u16 f = cpu->flags;                                            \
                                                                               \
		__asm__(WITH_FLAGS(insn sfx " %[v]")                           \
		        : "+a"(lo), "+&d"(hi), "+&c"(f)                        \
		        : [v] "r"((u##bits)v)                                  \
		        : "cc");                                               \
		SET##bits(RAX, lo);                                            \
		SET##bits(RDX, hi);                                            \
		cpu->flags = f;                                                \
	}
#define BYTE(name, insn)                                                       \
	static void name##8(struct icpu * cpu, u64 v)                          \
	{                                                                      \
		u16 r = REG16(RAX), f = cpu->flags;                            \
                                                                               \
		__asm__(WITH_FLAGS(insn "b %b[v]")                             \
		        : "+a"(r), "+&c"(f)                                    \
		        : [v] "r"((u32)v)                                      \
		        : "cc");                                               \
		SET16(RAX, r);                                                 \
		cpu->flags = f;                                                \
	}
#define SIZES(name, insn)                                                      \
	BYTE(name, insn)                                                       \
	WIDE(name, insn, 16, "w")                                              \
	WIDE(name, insn, 32, "l")                                              \
	WIDE(name, insn, 64, "q")
SIZES(mul, "mul")
SIZES(imul, "imul")
SIZES(divide, "div")
SIZES(idivide, "idiv")

typedef void muldiv_fn(struct icpu *cpu, u64 v);
static muldiv_fn *const muls[2][4] = {
	{ mul8, mul16, mul32, mul64 },
	{ imul8, imul16, imul32, imul64 },
};

static struct block *op_mul_reg(struct icpu *cpu, struct iop *op)
{
	muls[op->aux][size_index(op->opsize)](
	    cpu, reg_get(cpu, op->src, op->opsize));
	NEXT;
}
static struct block *op_mul_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	muls[op->aux][size_index(op->opsize)](cpu,
	                                      op_load(cpu, op, op->opsize));
	NEXT;
}

/* ---- IMUL with two or three operands ---- */
#define IMUL2(bits, sfx)                                                       \
	static inline u##bits times##bits(u##bits a, u##bits v, u16 *fl)       \
	{                                                                      \
		u16 f = *fl;                                                   \
                                                                               \
		__asm__(FLAGS_IN "imul" sfx " %[v], %[a]" FLAGS_OUT            \
		        : [a] "+r"(a), "+&a"(f)                                \
		        : [v] "r"(v)                                           \
		        : "cc");                                               \
		*fl = f;                                                       \
		return a;                                                      \
	}                                                                      \
	static struct block *imul##bits##_rr(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		SET##bits(op->dst,                                             \
		          times##bits(REG##bits(op->dst), REG##bits(op->src),  \
		                      &cpu->flags));                           \
		NEXT;                                                          \
	}                                                                      \
	static struct block *imul##bits##_rm(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
		u##bits v = load##bits(cpu, op, lin);                          \
                                                                               \
		SET##bits(op->dst,                                             \
		          times##bits(REG##bits(op->dst), v, &cpu->flags));    \
		NEXT;                                                          \
	}                                                                      \
	static struct block *imul##bits##_rri(struct icpu *cpu,                \
	                                      struct iop *op)                  \
	{                                                                      \
		SET##bits(op->dst,                                             \
		          times##bits(REG##bits(op->src), (u##bits)op->imm,    \
		                      &cpu->flags));                           \
		NEXT;                                                          \
	}                                                                      \
	static struct block *imul##bits##_rmi(struct icpu *cpu,                \
	                                      struct iop *op)                  \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
		u##bits v = load##bits(cpu, op, lin);                          \
                                                                               \
		SET##bits(op->dst,                                             \
		          times##bits(v, (u##bits)op->imm, &cpu->flags));      \
		NEXT;                                                          \
	}
IMUL2(16, "w")
IMUL2(32, "l")
IMUL2(64, "q")

#define IMUL_ROW(bits)                                                         \
	{                                                                      \
		imul##bits##_rr, imul##bits##_rm, imul##bits##_rri,            \
		    imul##bits##_rmi                                           \
	}

bool build_mul(struct build *b, struct iop *op)
{
	static iop_fn *const imuls[4][4] = {
		{ 0 }, IMUL_ROW(16), IMUL_ROW(32), IMUL_ROW(64)
	};
	const struct insn *i = b->insn;
	/* The source is the last operand but an immediate. */
	unsigned src = i->count >= 2 ? 1 : 0;
	bool mem = i->op[src].kind == OPERAND_MEM;

	op->opsize = i->op[0].size;
	if (mem)
		build_address(b, op);
	else
		op->src = build_reg(b, src);
	if (i->count < 2) {
		op->aux = i->z.mnemonic == ZYDIS_MNEMONIC_IMUL;
		op->fn = mem ? op_mul_mem : op_mul_reg;
		return true;
	}
	op->dst = build_reg(b, 0);
	op->imm = i->op[2].value;
	op->fn = imuls[size_index(op->opsize)][(i->count > 2) * 2 + mem];
	return op->fn != NULL;
}

/* ---- DIV, IDIV: the quotient must fit, or #DE ---- */
static NORETURN void divide_error(struct icpu *cpu)
{
	icpu_fault(cpu, VEC_DE);
}

static void div8(struct icpu *cpu, u64 v)
{
	u16 a = REG16(RAX);
	u8 d = (u8)v;

	if (!d || a / d > 0xff)
		divide_error(cpu);
	divide8(cpu, v);
}
static void idiv8(struct icpu *cpu, u64 v)
{
	s16 a = (s16)REG16(RAX);
	s8 d = (s8)v;

	if (!d || a / d != (s8)(a / d))
		divide_error(cpu);
	idivide8(cpu, v);
}

#define DIVIDE(bits, wide, swide)                                              \
	static void div##bits(struct icpu *cpu, u64 v)                         \
	{                                                                      \
		if (REG##bits(RDX) >= (u##bits)v)                              \
			divide_error(cpu);                                     \
		divide##bits(cpu, v);                                          \
	}                                                                      \
	static void idiv##bits(struct icpu *cpu, u64 v)                        \
	{                                                                      \
		swide a =                                                      \
		    (swide)((wide)REG##bits(RDX) << bits | REG##bits(RAX));    \
		s##bits d = (s##bits)v;                                        \
		swide q;                                                       \
                                                                               \
		/* The most negative dividend by -1 overflows C too. */        \
		if (!d ||                                                      \
		    (d == -1 && a == (swide)((wide)1 << (2 * bits - 1))))      \
			divide_error(cpu);                                     \
		q = a / d;                                                     \
		if (q != (s##bits)q)                                           \
			divide_error(cpu);                                     \
		idivide##bits(cpu, v);                                         \
	}
typedef unsigned __int128 u128;
typedef __int128 s128;
DIVIDE(16, u32, s32)
DIVIDE(32, u64, s64)
DIVIDE(64, u128, s128)

static muldiv_fn *const divs[2][4] = {
	{ div8, div16, div32, div64 },
	{ idiv8, idiv16, idiv32, idiv64 },
};

static struct block *op_div_reg(struct icpu *cpu, struct iop *op)
{
	ENTER;
	divs[op->aux][size_index(op->opsize)](
	    cpu, reg_get(cpu, op->src, op->opsize));
	NEXT;
}
static struct block *op_div_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	divs[op->aux][size_index(op->opsize)](cpu,
	                                      op_load(cpu, op, op->opsize));
	NEXT;
}

bool build_div(struct build *b, struct iop *op)
{
	bool mem = b->insn->op[0].kind == OPERAND_MEM;

	op->opsize = b->insn->op[0].size;
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_IDIV;
	if (mem)
		build_address(b, op);
	else
		op->src = build_reg(b, 0);
	op->fn = mem ? op_div_mem : op_div_reg;
	return true;
}

/* ---- CBW CWDE CDQE CWD CDQ CQO ---- */
static struct block *op_widen_ax(struct icpu *cpu, struct iop *op)
{
	unsigned half = op->opsize / 2;

	reg_set(cpu, RAX, op->opsize, sign_extend(cpu->gpr[GPR_RAX], half));
	NEXT;
}
static struct block *op_widen_dx(struct icpu *cpu, struct iop *op)
{
	bool negative = cpu->gpr[GPR_RAX] >> (op->opsize * 8 - 1) & 1;

	reg_set(cpu, RDX, op->opsize, negative ? ~(u64)0 : 0);
	NEXT;
}

bool build_widen(struct build *b, struct iop *op)
{
	switch (b->insn->z.mnemonic) {
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWD:
		op->opsize = 2;
		break;
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQ:
		op->opsize = 4;
		break;
	default:
		op->opsize = 8;
		break;
	}
	/* 98 and 99 */
	op->fn = b->insn->z.opcode == 0x98 ? op_widen_ax : op_widen_dx;
	return true;
}

/* ---- decimal adjustment: SDM vol. 2 AAA, DAA, ... ---- */
static u16 result_flags(u8 v, bool cf, bool af)
{
	u16 fl = (u16)(v & 0x80 ? FL_SF : 0);

	if (!v)
		fl |= FL_ZF;
	if (!__builtin_parity(v))
		fl |= FL_PF;
	if (cf)
		fl |= FL_CF;
	if (af)
		fl |= FL_AF;
	return fl;
}

static void daa(struct icpu *cpu, bool subtract)
{
	u8 al = REG8(RAX), old = al;
	bool cf = cpu->flags & FL_CF, af = cpu->flags & FL_AF, carry = false;

	if ((al & 0xf) > 9 || af) {
		carry = cf || (subtract ? al < 6 : al > 0xf9);
		al = (u8)(subtract ? al - 6 : al + 6);
		af = true;
	}
	if (old > 0x99 || cf) {
		al = (u8)(subtract ? al - 0x60 : al + 0x60);
		carry = true;
	}
	SET8(RAX, al);
	cpu->flags = result_flags(al, carry, af);
}

static void aaa(struct icpu *cpu, bool subtract)
{
	u16 ax = REG16(RAX);
	bool adjust = (ax & 0xf) > 9 || cpu->flags & FL_AF;

	if (adjust)
		ax = (u16)(subtract ? ax - 0x106 : ax + 0x106);
	ax &= 0xff0f;
	SET16(RAX, ax);
	cpu->flags = result_flags((u8)ax, adjust, adjust);
}

static struct block *op_decimal(struct icpu *cpu, struct iop *op)
{
	u8 al = REG8(RAX), base = (u8)op->imm;

	ENTER;
	switch (op->aux) {
	case ZYDIS_MNEMONIC_DAA:
		daa(cpu, false);
		break;
	case ZYDIS_MNEMONIC_DAS:
		daa(cpu, true);
		break;
	case ZYDIS_MNEMONIC_AAA:
		aaa(cpu, false);
		break;
	case ZYDIS_MNEMONIC_AAS:
		aaa(cpu, true);
		break;
	case ZYDIS_MNEMONIC_AAM:
		if (!base)
			divide_error(cpu);
		SET16(RAX, (al / base) << 8 | al % base);
		cpu->flags = result_flags(REG8(RAX), false, false);
		break;
	default:
		SET16(RAX, (u8)(al + REG8(RAX + 1) * base));
		cpu->flags = result_flags(REG8(RAX), false, false);
		break;
	}
	NEXT;
}

bool build_decimal(struct build *b, struct iop *op)
{
	op->aux = (u16)b->insn->z.mnemonic;
	op->imm = b->insn->count ? b->insn->op[0].value : 10;
	op->fn = op_decimal;
	return true;
}
