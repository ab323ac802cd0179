/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_bit.c - bit tests, bit scans, and the locked exchanges.
 */
#include "engine/interp/ops.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/decode.h"

#define FLAGS_IN "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

/* ---- BT, BTS, BTR, BTC ---- */
enum { BT, BTS, BTR, BTC, BIT_IMM = 4, BIT_LOCK = 8 };

static u64 bit_apply(unsigned kind, u64 v, u64 bit)
{
	switch (kind & 3) {
	case BTS:
		return v | bit;
	case BTR:
		return v & ~bit;
	case BTC:
		return v ^ bit;
	default:
		return v;
	}
}

static u64 bit_number(const struct icpu *cpu, const struct iop *op)
{
	if (op->aux & BIT_IMM)
		return op->imm & (op->opsize * 8u - 1);
	return sign_extend(reg_get(cpu, op->src, op->opsize), op->opsize);
}

static void set_carry(struct icpu *cpu, bool carry)
{
	cpu->flags = (u16)((cpu->flags & ~FL_CF) | (carry ? FL_CF : 0));
}

static struct block *op_bit_reg(struct icpu *cpu, struct iop *op)
{
	u64 bit = BIT(bit_number(cpu, op) & (op->opsize * 8u - 1));
	u64 v = REG64(op->dst);

	set_carry(cpu, v & bit);
	if ((op->aux & 3) != BT)
		reg_set(cpu, op->dst, op->opsize, bit_apply(op->aux, v, bit));
	NEXT;
}

/* A register's bit number reaches beyond the operand, as a bit string. */
static u64 bit_ea(const struct icpu *cpu, const struct iop *op, u64 *bit)
{
	u64 n = bit_number(cpu, op);
	unsigned shift = op->opsize == 8 ? 6 : op->opsize == 4 ? 5 : 4;
	u64 word = (u64)((s64)n >> shift);

	*bit = BIT(n & (op->opsize * 8u - 1));
	return (op_ea(cpu, op) + word * op->opsize) & op->amask;
}

static struct block *op_bit_mem(struct icpu *cpu, struct iop *op)
{
	u64 bit, v, ea = bit_ea(cpu, op, &bit);
	bool write = (op->aux & 3) != BT;
	gva_t lin;

	ENTER;
	lin = ea_linear(cpu, op, ea, op->opsize,
	                write ? ACCESS_WRITE : ACCESS_READ);
	v = write ? slow_load(cpu, op, lin, op->opsize | HOW_WRITE)
	          : icpu_load(cpu, lin, op->opsize, cpu->priv);
	if (write)
		icpu_store(cpu, lin, bit_apply(op->aux, v, bit), op->opsize,
		           cpu->priv);
	set_carry(cpu, v & bit);
	NEXT;
}

#define LOCKED(bits)                                                           \
	static u64 bit_locked##bits(void *at, unsigned kind, u64 bit)          \
	{                                                                      \
		u##bits *p = at;                                               \
		u##bits old = guest_get##bits(p);                              \
                                                                               \
		while (!__atomic_compare_exchange_n(                           \
		    p, &old, (u##bits)bit_apply(kind, old, bit), false,        \
		    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))                       \
			;                                                      \
		return old;                                                    \
	}
LOCKED(16)
LOCKED(32)
LOCKED(64)

static struct block *op_bit_lock(struct icpu *cpu, struct iop *op)
{
	u64 bit, v, ea = bit_ea(cpu, op, &bit);
	struct icpu_rmw rmw;
	gva_t lin;

	ENTER;
	lin = ea_linear(cpu, op, ea, op->opsize, ACCESS_WRITE);
	icpu_rmw_begin(cpu, lin, op->opsize, &rmw);
	v = op->opsize == 8   ? bit_locked64(rmw.p, op->aux, bit)
	    : op->opsize == 4 ? bit_locked32(rmw.p, op->aux, bit)
	                      : bit_locked16(rmw.p, op->aux, bit);
	icpu_rmw_end(cpu, &rmw);
	set_carry(cpu, v & bit);
	NEXT;
}

bool build_bit(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;

	switch (i->z.mnemonic) {
	case ZYDIS_MNEMONIC_BT:
		op->aux = BT;
		break;
	case ZYDIS_MNEMONIC_BTS:
		op->aux = BTS;
		break;
	case ZYDIS_MNEMONIC_BTR:
		op->aux = BTR;
		break;
	default:
		op->aux = BTC;
		break;
	}
	op->opsize = i->op[0].size;
	if (i->op[1].kind == OPERAND_IMM) {
		op->aux |= BIT_IMM;
		op->imm = i->op[1].value & 0xff;
	} else {
		op->src = build_reg(b, 1);
	}
	if (i->op[0].kind == OPERAND_MEM) {
		build_address(b, op);
		op->fn = i->lock ? op_bit_lock : op_bit_mem;
	} else {
		op->dst = build_reg(b, 0);
		op->fn = op_bit_reg;
	}
	return true;
}

/* ---- BSF, BSR, TZCNT, LZCNT, POPCNT ---- */
#define SCAN(name, insn, bits, sfx)                                            \
	static u##bits name##bits(u##bits d, u##bits v, u16 *fl)               \
	{                                                                      \
		u16 f = *fl;                                                   \
                                                                               \
		__asm__(FLAGS_IN insn sfx " %[v], %[d]" FLAGS_OUT              \
		        : [d] "+r"(d), "+a"(f)                                 \
		        : [v] "r"(v)                                           \
		        : "cc");                                               \
		*fl = f;                                                       \
		return d;                                                      \
	}
#define SCANS(name, insn)                                                      \
	SCAN(name, insn, 16, "w")                                              \
	SCAN(name, insn, 32, "l")                                              \
	SCAN(name, insn, 64, "q")                                              \
	static u64 name(u64 d, u64 v, unsigned size, u16 *fl)                  \
	{                                                                      \
		return size == 8   ? name##64(d, v, fl)                        \
		       : size == 4 ? name##32((u32)d, (u32)v, fl)              \
		                   : name##16((u16)d, (u16)v, fl);             \
	}
SCANS(bsf, "bsf")
SCANS(bsr, "bsr")
SCANS(tzcnt, "tzcnt")
SCANS(lzcnt, "lzcnt")
SCANS(popcnt, "popcnt")

enum { BSF, BSR, TZCNT, LZCNT, POPCNT };

static struct block *scan(struct icpu *cpu, struct iop *op, u64 v)
{
	static u64 (*const fn[])(u64, u64, unsigned, u16 *) = { bsf, bsr, tzcnt,
		                                                lzcnt, popcnt };
	bool untouched = op->aux <= BSR && !(v & size_mask(op->opsize));
	u64 d = fn[op->aux](REG64(op->dst), v, op->opsize, &cpu->flags);

	/* BSF and BSR of zero leave all of the register as it was. */
	if (!untouched)
		reg_set(cpu, op->dst, op->opsize, d);
	NEXT;
}

static struct block *op_scan_reg(struct icpu *cpu, struct iop *op)
{
	return scan(cpu, op, REG64(op->src));
}
static struct block *op_scan_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	return scan(cpu, op, op_load(cpu, op, op->opsize));
}

bool build_scan(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	const struct cpuid_model *m = b->cpu->cpuid;

	/* Without their feature these are BSF and BSR with a prefix. */
	switch (i->z.mnemonic) {
	case ZYDIS_MNEMONIC_BSF:
		op->aux = BSF;
		break;
	case ZYDIS_MNEMONIC_BSR:
		op->aux = BSR;
		break;
	case ZYDIS_MNEMONIC_TZCNT:
		op->aux = cpuid_has(m, FEATURE_BMI1) ? TZCNT : BSF;
		break;
	case ZYDIS_MNEMONIC_LZCNT:
		op->aux = cpuid_has(m, FEATURE_LZCNT) ? LZCNT : BSR;
		break;
	default:
		op->aux = POPCNT;
		break;
	}
	op->opsize = i->op[0].size;
	op->dst = build_reg(b, 0);
	if (i->op[1].kind == OPERAND_MEM) {
		build_address(b, op);
		op->fn = op_scan_mem;
	} else {
		op->src = build_reg(b, 1);
		op->fn = op_scan_reg;
	}
	return true;
}

/* ---- XADD, CMPXCHG ---- */
#define FLAGGED(name, insn, bits, sfx)                                         \
	static u##bits name##bits(u##bits a, u##bits v, u16 *fl)               \
	{                                                                      \
		u16 f;                                                         \
                                                                               \
		__asm__(insn sfx " %[v], %[a]" FLAGS_OUT                       \
		        : [a] "+r"(a), "=&a"(f)                                \
		        : [v] "r"(v)                                           \
		        : "cc");                                               \
		*fl = f;                                                       \
		return a;                                                      \
	}
#define EXCHANGES(bits, sfx)                                                   \
	FLAGGED(sum, "add", bits, sfx)                                         \
	FLAGGED(difference, "cmp", bits, sfx)                                  \
	static void xadd##bits(struct icpu *cpu, struct iop *op, void *at)     \
	{                                                                      \
		u##bits v = REG##bits(op->src);                                \
		u##bits old =                                                  \
		    __atomic_fetch_add((u##bits *)at, v, __ATOMIC_SEQ_CST);    \
                                                                               \
		sum##bits(old, v, &cpu->flags);                                \
		SET##bits(op->src, old);                                       \
	}                                                                      \
	static void cmpxchg##bits(struct icpu *cpu, struct iop *op, void *at)  \
	{                                                                      \
		u##bits want = REG##bits(GPR_OFF(GPR_RAX)), old = want;        \
		bool done = __atomic_compare_exchange_n(                       \
		    (u##bits *)at, &old, REG##bits(op->src), false,            \
		    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
                                                                               \
		difference##bits(want, old, &cpu->flags);                      \
		if (!done)                                                     \
			SET##bits(GPR_OFF(GPR_RAX), old);                      \
	}                                                                      \
	static void xadd_reg##bits(struct icpu *cpu, struct iop *op)           \
	{                                                                      \
		u##bits v = REG##bits(op->src), old = REG##bits(op->dst);      \
		u##bits r = sum##bits(old, v, &cpu->flags);                    \
                                                                               \
		SET##bits(op->src, old);                                       \
		SET##bits(op->dst, r);                                         \
	}                                                                      \
	static void cmpxchg_reg##bits(struct icpu *cpu, struct iop *op)        \
	{                                                                      \
		u##bits want = REG##bits(GPR_OFF(GPR_RAX));                    \
		u##bits old = REG##bits(op->dst);                              \
                                                                               \
		difference##bits(want, old, &cpu->flags);                      \
		if (want == old)                                               \
			SET##bits(op->dst, REG##bits(op->src));                \
		else                                                           \
			SET##bits(GPR_OFF(GPR_RAX), old);                      \
	}
EXCHANGES(8, "b")
EXCHANGES(16, "w")
EXCHANGES(32, "l")
EXCHANGES(64, "q")

typedef void exchange_fn(struct icpu *cpu, struct iop *op, void *at);
typedef void exchange_reg_fn(struct icpu *cpu, struct iop *op);

static struct block *exchange(struct icpu *cpu, struct iop *op, exchange_fn *fn)
{
	struct icpu_rmw rmw;
	gva_t lin;

	ENTER;
	lin = op_linear(cpu, op, op->opsize, ACCESS_WRITE);
	icpu_rmw_begin(cpu, lin, op->opsize, &rmw);
	fn(cpu, op, rmw.p);
	icpu_rmw_end(cpu, &rmw);
	NEXT;
}

static struct block *op_xadd_mem(struct icpu *cpu, struct iop *op)
{
	static exchange_fn *const fn[4] = { xadd8, xadd16, xadd32, xadd64 };

	return exchange(cpu, op, fn[size_index(op->opsize)]);
}
static struct block *op_cmpxchg_mem(struct icpu *cpu, struct iop *op)
{
	static exchange_fn *const fn[4] = { cmpxchg8, cmpxchg16, cmpxchg32,
		                            cmpxchg64 };

	return exchange(cpu, op, fn[size_index(op->opsize)]);
}
static struct block *op_xadd_reg(struct icpu *cpu, struct iop *op)
{
	static exchange_reg_fn *const fn[4] = { xadd_reg8, xadd_reg16,
		                                xadd_reg32, xadd_reg64 };

	fn[size_index(op->opsize)](cpu, op);
	NEXT;
}
static struct block *op_cmpxchg_reg(struct icpu *cpu, struct iop *op)
{
	static exchange_reg_fn *const fn[4] = { cmpxchg_reg8, cmpxchg_reg16,
		                                cmpxchg_reg32, cmpxchg_reg64 };

	fn[size_index(op->opsize)](cpu, op);
	NEXT;
}

static bool build_exchange(struct build *b, struct iop *op, iop_fn *mem,
                           iop_fn *reg)
{
	const struct insn *i = b->insn;

	op->opsize = i->op[0].size;
	op->src = build_reg(b, 1);
	if (i->op[0].kind == OPERAND_MEM) {
		build_address(b, op);
		op->fn = mem;
	} else {
		op->dst = build_reg(b, 0);
		op->fn = reg;
	}
	return true;
}

bool build_xadd(struct build *b, struct iop *op)
{
	return build_exchange(b, op, op_xadd_mem, op_xadd_reg);
}

bool build_cmpxchg(struct build *b, struct iop *op)
{
	return build_exchange(b, op, op_cmpxchg_mem, op_cmpxchg_reg);
}

/* ---- CMPXCHG8B, CMPXCHG16B ---- */
static struct block *op_cmpxchg8b(struct icpu *cpu, struct iop *op)
{
	u64 want = (u32)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32;
	u64 new = (u32)cpu->gpr[GPR_RBX] | cpu->gpr[GPR_RCX] << 32;
	struct icpu_rmw rmw;
	gva_t lin;
	bool done;

	ENTER;
	lin = op_linear(cpu, op, 8, ACCESS_WRITE);
	icpu_rmw_begin(cpu, lin, 8, &rmw);
	done = __atomic_compare_exchange_n((u64 *)rmw.p, &want, new, false,
	                                   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	icpu_rmw_end(cpu, &rmw);
	cpu->flags = (u16)((cpu->flags & ~FL_ZF) | (done ? FL_ZF : 0));
	if (!done) {
		cpu->gpr[GPR_RAX] = (u32)want;
		cpu->gpr[GPR_RDX] = want >> 32;
	}
	NEXT;
}

static struct block *op_cmpxchg16b(struct icpu *cpu, struct iop *op)
{
	u64 lo = cpu->gpr[GPR_RAX], hi = cpu->gpr[GPR_RDX];
	struct icpu_rmw rmw;
	gva_t lin;
	bool done;

	ENTER;
	lin = op_linear(cpu, op, 16, ACCESS_WRITE);
	if (lin & 15)
		icpu_gp(cpu);
	icpu_rmw_begin(cpu, lin, 16, &rmw);
	__asm__ volatile("lock cmpxchg16b %[p]"
	                 : [p] "+m"(*(unsigned __int128 *)rmw.p), "+a"(lo),
	                   "+d"(hi), "=@ccz"(done)
	                 : "b"(cpu->gpr[GPR_RBX]), "c"(cpu->gpr[GPR_RCX])
	                 : "memory");
	icpu_rmw_end(cpu, &rmw);
	cpu->flags = (u16)((cpu->flags & ~FL_ZF) | (done ? FL_ZF : 0));
	if (!done) {
		cpu->gpr[GPR_RAX] = lo;
		cpu->gpr[GPR_RDX] = hi;
	}
	NEXT;
}

bool build_cmpxchg8b(struct build *b, struct iop *op)
{
	if (b->insn->op[0].kind != OPERAND_MEM)
		return false;
	build_address(b, op);
	op->fn = b->insn->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B
	             ? op_cmpxchg16b
	             : op_cmpxchg8b;
	return true;
}
