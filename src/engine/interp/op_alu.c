/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_alu.c - ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT.
 *
 * The host's own instruction computes result and flags.
 */
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

#define FLAGS_OUT "\n\tlahf\n\tseto %%al"
#define CARRY_IN "btw $8, %[in]\n\t"

#define PURE(name, prefix, insn, bits, sfx)                                    \
	static inline u##bits name##bits(u##bits a, u##bits b, u16 *fl)        \
	{                                                                      \
		u16 f;                                                         \
                                                                               \
		__asm__(prefix insn sfx " %[b], %[a]" FLAGS_OUT                \
		        : [a] "+r"(a), "=&a"(f)                                \
		        : [b] "r"(b), [in] "r"(*fl)                            \
		        : "cc");                                               \
		*fl = f;                                                       \
		return a;                                                      \
	}
#define PURE_UNARY(name, prefix, insn, bits, sfx)                              \
	static inline u##bits name##bits(u##bits a, u##bits b, u16 *fl)        \
	{                                                                      \
		u16 f;                                                         \
                                                                               \
		(void)b;                                                       \
		__asm__(prefix insn sfx " %[a]" FLAGS_OUT                      \
		        : [a] "+r"(a), "=&a"(f)                                \
		        : [in] "r"(*fl)                                        \
		        : "cc");                                               \
		*fl = f;                                                       \
		return a;                                                      \
	}
#define BY_SIZE(M, name, prefix, insn)                                         \
	M(name, prefix, insn, 8, "b")                                          \
	M(name, prefix, insn, 16, "w")                                         \
	M(name, prefix, insn, 32, "l")                                         \
	M(name, prefix, insn, 64, "q")

BY_SIZE(PURE, add, "", "add")
BY_SIZE(PURE, or, "", "or")
BY_SIZE(PURE, adc, CARRY_IN, "adc")
BY_SIZE(PURE, sbb, CARRY_IN, "sbb")
BY_SIZE(PURE, and, "", "and")
BY_SIZE(PURE, sub, "", "sub")
BY_SIZE(PURE, xor, "", "xor")
BY_SIZE(PURE, cmp, "", "cmp")
BY_SIZE(PURE, test, "", "test")
BY_SIZE(PURE_UNARY, inc, CARRY_IN, "inc")
BY_SIZE(PURE_UNARY, dec, CARRY_IN, "dec")
BY_SIZE(PURE_UNARY, neg, "", "neg")

#define NOT(bits)                                                              \
	static inline u##bits not ##bits(u##bits a, u##bits b, u16 * fl)       \
	{                                                                      \
		(void)b;                                                       \
		(void)fl;                                                      \
		return (u##bits) ~a;                                           \
	}
NOT(8)
NOT(16)
NOT(32)
NOT(64)

#define REG_FORMS(name, bits)                                                  \
	static struct block *name##bits##_rr(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		SET##bits(op->dst,                                             \
		          name##bits(REG##bits(op->dst), REG##bits(op->src),   \
		                     &cpu->flags));                            \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_ri(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		SET##bits(op->dst, name##bits(REG##bits(op->dst),              \
		                              (u##bits)op->imm, &cpu->flags)); \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_rm(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
		u##bits v = load##bits(cpu, op, lin);                          \
                                                                               \
		SET##bits(op->dst,                                             \
		          name##bits(REG##bits(op->dst), v, &cpu->flags));     \
		NEXT;                                                          \
	}

#define RMW_FORM(name, bits, form, operand)                                    \
	static struct block *name##bits##_##form(struct icpu *cpu,             \
	                                         struct iop *op)               \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_WRITE);        \
		void *p = rmw##bits(cpu, lin);                                 \
                                                                               \
		if (likely(p)) {                                               \
			guest_put##bits(p, name##bits(guest_get##bits(p),      \
			                              (u##bits)(operand),      \
			                              &cpu->flags));           \
		} else {                                                       \
			u16 fl = cpu->flags;                                   \
			u##bits v = (u##bits)slow_load(cpu, op, lin,           \
			                               bits / 8 | HOW_WRITE);  \
                                                                               \
			v = name##bits(v, (u##bits)(operand), &fl);            \
			slow_store(cpu, op, lin, bits / 8, v);                 \
			cpu->flags = fl;                                       \
		}                                                              \
		NEXT;                                                          \
	}
/* A locked operand may be misaligned: x86 does not mind, clang's library
 * calls for misaligned atomics would, so the plain type it is. */
#define LOCK_FORM(name, bits, form, operand)                                   \
	static struct block *name##bits##_##form(struct icpu *cpu,             \
	                                         struct iop *op)               \
	{                                                                      \
		struct icpu_rmw rmw;                                           \
		u##bits *p;                                                    \
		u##bits old, new;                                              \
		u16 fl;                                                        \
		gva_t lin;                                                     \
                                                                               \
		ENTER;                                                         \
		lin = op_linear(cpu, op, bits / 8, ACCESS_WRITE);              \
		icpu_rmw_begin(cpu, lin, bits / 8, &rmw);                      \
		p = rmw.p;                                                     \
		old = guest_get##bits(p);                                      \
		do {                                                           \
			fl = cpu->flags;                                       \
			new = name##bits(old, (u##bits)(operand), &fl);        \
		} while (!__atomic_compare_exchange_n(                         \
		    p, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)); \
		icpu_rmw_end(cpu, &rmw);                                       \
		cpu->flags = fl;                                               \
		NEXT;                                                          \
	}
#define ALL_FORMS(name, bits)                                                  \
	REG_FORMS(name, bits)                                                  \
	RMW_FORM(name, bits, mr, REG##bits(op->src))                           \
	RMW_FORM(name, bits, mi, op->imm)                                      \
	LOCK_FORM(name, bits, lr, REG##bits(op->src))                          \
	LOCK_FORM(name, bits, li, op->imm)

/* CMP and TEST: nothing is written. */
#define READ_FORMS(name, bits)                                                 \
	static struct block *name##bits##_rr(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		name##bits(REG##bits(op->dst), REG##bits(op->src),             \
		           &cpu->flags);                                       \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_ri(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		name##bits(REG##bits(op->dst), (u##bits)op->imm, &cpu->flags); \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_rm(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
                                                                               \
		name##bits(REG##bits(op->dst), load##bits(cpu, op, lin),       \
		           &cpu->flags);                                       \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_mr(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
                                                                               \
		name##bits(load##bits(cpu, op, lin), REG##bits(op->src),       \
		           &cpu->flags);                                       \
		NEXT;                                                          \
	}                                                                      \
	static struct block *name##bits##_mi(struct icpu *cpu, struct iop *op) \
	{                                                                      \
		gva_t lin = op_linear(cpu, op, bits / 8, ACCESS_READ);         \
                                                                               \
		name##bits(load##bits(cpu, op, lin), (u##bits)op->imm,         \
		           &cpu->flags);                                       \
		NEXT;                                                          \
	}

#define UNARY_FORMS(name, bits)                                                \
	static struct block *name##bits##_r(struct icpu *cpu, struct iop *op)  \
	{                                                                      \
		SET##bits(op->dst,                                             \
		          name##bits(REG##bits(op->dst), 0, &cpu->flags));     \
		NEXT;                                                          \
	}                                                                      \
	RMW_FORM(name, bits, m, 0)                                             \
	LOCK_FORM(name, bits, l, 0)

#define SIZES(M, name) M(name, 8) M(name, 16) M(name, 32) M(name, 64)

SIZES(ALL_FORMS, add)
SIZES(ALL_FORMS, or)
SIZES(ALL_FORMS, adc)
SIZES(ALL_FORMS, sbb)
SIZES(ALL_FORMS, and)
SIZES(ALL_FORMS, sub)
SIZES(ALL_FORMS, xor)
SIZES(READ_FORMS, cmp)
SIZES(READ_FORMS, test)
SIZES(UNARY_FORMS, inc)
SIZES(UNARY_FORMS, dec)
SIZES(UNARY_FORMS, neg)
SIZES(UNARY_FORMS, not )

enum form { RR, RI, RM, MR, MI, LR, LI, FORMS };

#define ROW(name, bits)                                                        \
	{                                                                      \
		name##bits##_rr, name##bits##_ri, name##bits##_rm,             \
		    name##bits##_mr, name##bits##_mi, name##bits##_lr,         \
		    name##bits##_li                                            \
	}
#define READ_ROW(name, bits)                                                   \
	{                                                                      \
		name##bits##_rr, name##bits##_ri, name##bits##_rm,             \
		    name##bits##_mr, name##bits##_mi, NULL, NULL               \
	}
#define TABLE(M, name)                                                         \
	{                                                                      \
		M(name, 8), M(name, 16), M(name, 32), M(name, 64)              \
	}

enum { ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST };

static iop_fn *const alu[9][4][FORMS] = {
	[ADD] = TABLE(ROW, add),        [OR] = TABLE(ROW, or),
	[ADC] = TABLE(ROW, adc),        [SBB] = TABLE(ROW, sbb),
	[AND] = TABLE(ROW, and),        [SUB] = TABLE(ROW, sub),
	[XOR] = TABLE(ROW, xor),        [CMP] = TABLE(READ_ROW, cmp),
	[TEST] = TABLE(READ_ROW, test),
};

static unsigned alu_index(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ADD:
		return ADD;
	case ZYDIS_MNEMONIC_OR:
		return OR;
	case ZYDIS_MNEMONIC_ADC:
		return ADC;
	case ZYDIS_MNEMONIC_SBB:
		return SBB;
	case ZYDIS_MNEMONIC_AND:
		return AND;
	case ZYDIS_MNEMONIC_SUB:
		return SUB;
	case ZYDIS_MNEMONIC_XOR:
		return XOR;
	case ZYDIS_MNEMONIC_CMP:
		return CMP;
	default:
		return TEST;
	}
}

/* XOR r, r and SUB r, r of 32 and 64 bits: zero, known flags. */
static struct block *op_clear(struct icpu *cpu, struct iop *op)
{
	REG64(op->dst) = 0;
	cpu->flags = FL_ZF | FL_PF | 1 << 9;
	NEXT;
}

bool build_alu(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	unsigned kind = alu_index(i->z.mnemonic);
	unsigned size = i->op[0].size, s = size_index(size);
	enum form form;

	op->imm = i->op[1].value;
	if (i->op[0].kind == OPERAND_MEM) {
		bool imm = i->op[1].kind == OPERAND_IMM;

		build_address(b, op);
		if (!imm)
			op->src = build_reg(b, 1);
		form = i->lock ? (imm ? LI : LR) : (imm ? MI : MR);
	} else {
		op->dst = build_reg(b, 0);
		if (i->op[1].kind == OPERAND_IMM) {
			form = RI;
		} else if (i->op[1].kind == OPERAND_MEM) {
			build_address(b, op);
			form = RM;
		} else {
			op->src = build_reg(b, 1);
			form = RR;
		}
	}
	op->fn = alu[kind][s][form];
	if (form == RR && op->dst == op->src && size >= 4 && kind == XOR)
		op->fn = op_clear;
	return op->fn != NULL;
}

#define UNARY_ROW(name, bits)                                                  \
	{                                                                      \
		name##bits##_r, name##bits##_m, name##bits##_l                 \
	}

static iop_fn *const unary[4][4][3] = {
	TABLE(UNARY_ROW, inc),
	TABLE(UNARY_ROW, dec),
	TABLE(UNARY_ROW, neg),
	TABLE(UNARY_ROW, not ),
};

bool build_unary(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	ZydisMnemonic m = i->z.mnemonic;
	unsigned kind = m == ZYDIS_MNEMONIC_INC   ? 0
	                : m == ZYDIS_MNEMONIC_DEC ? 1
	                : m == ZYDIS_MNEMONIC_NEG ? 2
	                                          : 3;
	unsigned s = size_index(i->op[0].size);

	if (i->op[0].kind == OPERAND_MEM) {
		build_address(b, op);
		op->fn = unary[kind][s][i->lock ? 2 : 1];
	} else {
		op->dst = build_reg(b, 0);
		op->fn = unary[kind][s][0];
	}
	return true;
}
