/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_string.c - MOVS STOS LODS CMPS SCAS, and the ports.
 *
 * A repeated instruction keeps its registers current after every step, so
 * that a fault, an interrupt or a single step finds it ready to go on. MOVS
 * and STOS run over whole spans of host memory where they can.
 */
#include "engine/interp/debug.h"
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"
#include "engine/x86/task.h"

enum { REP = 1, REPNE = 2, CHECK_ES = 4 };

#define RCX GPR_OFF(GPR_RCX)
#define RSI GPR_OFF(GPR_RSI)
#define RDI GPR_OFF(GPR_RDI)

/* op->dst: address size in bytes. */
static u64 index_get(const struct icpu *cpu, const struct iop *op, u16 reg)
{
	return reg_get(cpu, reg, op->dst);
}

static void index_add(struct icpu *cpu, const struct iop *op, u16 reg, u64 n)
{
	reg_set(cpu, reg, op->dst, index_get(cpu, op, reg) + n);
}

static u64 step_of(const struct icpu *cpu, const struct iop *op)
{
	return cpu->sysflags & RFLAGS_DF ? -(u64)op->opsize : op->opsize;
}

static gva_t source(struct icpu *cpu, struct iop *op)
{
	return ea_linear(cpu, op, index_get(cpu, op, RSI), op->opsize,
	                 ACCESS_READ);
}

static gva_t es_address(struct icpu *cpu, struct iop *op,
                        enum icpu_access access)
{
	u64 ea = index_get(cpu, op, RDI);

	if (op->aux & CHECK_ES)
		return icpu_linear(cpu, SEG_ES, ea, op->opsize, access);
	return ea;
}

/* More to do: come back to this instruction after a look around. */
static struct block *again(struct icpu *cpu, struct iop *op)
{
	cpu->rip = (cpu->pcbase + op->off) & icpu_ip_mask(cpu);
	/* Counted when it ends. */
	cpu->icount -= (u64)(cpu->block->count - op->n);
	return NULL;
}

static bool interrupted(const struct icpu *cpu)
{
	return atomic_load_explicit(&cpu->attention, memory_order_relaxed) ||
	       cpu->key & KEY_STEP;
}

/* Elements in one go: to the end of the page at lin, forward only. */
static u64 span(const struct iop *op, gva_t lin, u64 n)
{
	u64 room = (PAGE_SIZE - (lin & ~PAGE_MASK)) / op->opsize;

	return MIN(n, room);
}

static bool can_span(const struct icpu *cpu, const struct iop *op)
{
	return !(cpu->sysflags & RFLAGS_DF) && !op->check &&
	       !(op->aux & CHECK_ES) && op->dst >= 4;
}

/* ---- MOVS ---- */
static u64 movs_span(struct icpu *cpu, struct iop *op, u64 count)
{
	gva_t from = source(cpu, op);
	gva_t to = es_address(cpu, op, ACCESS_WRITE);
	u64 n = span(op, to, span(op, from, count));
	u64 bytes = n * op->opsize;
	u8 *s, *d;

	if (n < 2)
		return 0;
	s = icpu_host(cpu, from, ACCESS_READ, cpu->priv);
	d = icpu_host(cpu, to, ACCESS_WRITE, cpu->priv);
	/* What is written may not be read again in the same span. */
	if (!s || !d || (u64)(d - s) < bytes)
		return 0;
	guest_copy(d, s, bytes);
	index_add(cpu, op, RSI, bytes);
	index_add(cpu, op, RDI, bytes);
	return n;
}

static void movs_one(struct icpu *cpu, struct iop *op)
{
	gva_t from = source(cpu, op);
	u64 v = icpu_load(cpu, from, op->opsize, cpu->priv);
	u64 n = step_of(cpu, op);

	icpu_store(cpu, es_address(cpu, op, ACCESS_WRITE), v, op->opsize,
	           cpu->priv);
	index_add(cpu, op, RSI, n);
	index_add(cpu, op, RDI, n);
}

static struct block *op_movs(struct icpu *cpu, struct iop *op)
{
	ENTER;
	movs_one(cpu, op);
	NEXT;
}

static struct block *op_rep_movs(struct icpu *cpu, struct iop *op)
{
	bool spans = can_span(cpu, op);
	u64 count;

	ENTER;
	while ((count = index_get(cpu, op, RCX))) {
		u64 n = 0;

		if (spans && !(cpu->key & KEY_STEP))
			n = movs_span(cpu, op, count);
		if (!n) {
			movs_one(cpu, op);
			n = 1;
		}
		reg_set(cpu, RCX, op->dst, count - n);
		if (count != n && interrupted(cpu))
			return again(cpu, op);
	}
	NEXT;
}

/* ---- STOS ---- */
static u64 stos_span(struct icpu *cpu, struct iop *op, u64 count)
{
	gva_t to = es_address(cpu, op, ACCESS_WRITE);
	u64 n = span(op, to, count);
	u8 *d;

	if (n < 2)
		return 0;
	d = icpu_host(cpu, to, ACCESS_WRITE, cpu->priv);
	if (!d)
		return 0;
	guest_fill_n(d, cpu->gpr[GPR_RAX], size_index(op->opsize), n);
	index_add(cpu, op, RDI, n * op->opsize);
	return n;
}

static void stos_one(struct icpu *cpu, struct iop *op)
{
	icpu_store(cpu, es_address(cpu, op, ACCESS_WRITE), cpu->gpr[GPR_RAX],
	           op->opsize, cpu->priv);
	index_add(cpu, op, RDI, step_of(cpu, op));
}

static struct block *op_stos(struct icpu *cpu, struct iop *op)
{
	ENTER;
	stos_one(cpu, op);
	NEXT;
}

static struct block *op_rep_stos(struct icpu *cpu, struct iop *op)
{
	bool spans = can_span(cpu, op);
	u64 count;

	ENTER;
	while ((count = index_get(cpu, op, RCX))) {
		u64 n = 0;

		if (spans && !(cpu->key & KEY_STEP))
			n = stos_span(cpu, op, count);
		if (!n) {
			stos_one(cpu, op);
			n = 1;
		}
		reg_set(cpu, RCX, op->dst, count - n);
		if (count != n && interrupted(cpu))
			return again(cpu, op);
	}
	NEXT;
}

/* ---- LODS, CMPS, SCAS ---- */
static void lods_one(struct icpu *cpu, struct iop *op)
{
	u64 v = icpu_load(cpu, source(cpu, op), op->opsize, cpu->priv);

	reg_set(cpu, GPR_OFF(GPR_RAX), op->opsize, v);
	index_add(cpu, op, RSI, step_of(cpu, op));
}

#define COMPARE(bits, sfx)                                                     \
	static u16 compare##bits(u##bits a, u##bits b)                         \
	{                                                                      \
		u16 f;                                                         \
                                                                               \
		__asm__("cmp" sfx " %[b], %[a]\n\tlahf\n\tseto %%al"           \
		        : "=&a"(f)                                             \
		        : [a] "r"(a), [b] "r"(b)                               \
		        : "cc");                                               \
		return f;                                                      \
	}
COMPARE(8, "b")
COMPARE(16, "w")
COMPARE(32, "l")
COMPARE(64, "q")

static u16 compare(u64 a, u64 b, unsigned size)
{
	switch (size) {
	case 1:
		return compare8((u8)a, (u8)b);
	case 2:
		return compare16((u16)a, (u16)b);
	case 4:
		return compare32((u32)a, (u32)b);
	default:
		return compare64(a, b);
	}
}

static void cmps_one(struct icpu *cpu, struct iop *op)
{
	/* When both would fault, processors report ES:rDI. */
	u64 b = icpu_load(cpu, es_address(cpu, op, ACCESS_READ), op->opsize,
	                  cpu->priv);
	u64 a = icpu_load(cpu, source(cpu, op), op->opsize, cpu->priv);
	u64 n = step_of(cpu, op);

	cpu->flags = compare(a, b, op->opsize);
	index_add(cpu, op, RSI, n);
	index_add(cpu, op, RDI, n);
}

static void scas_one(struct icpu *cpu, struct iop *op)
{
	u64 b = icpu_load(cpu, es_address(cpu, op, ACCESS_READ), op->opsize,
	                  cpu->priv);

	cpu->flags = compare(cpu->gpr[GPR_RAX], b, op->opsize);
	index_add(cpu, op, RDI, step_of(cpu, op));
}

typedef void one_fn(struct icpu *cpu, struct iop *op);

static struct block *once_or_rep(struct icpu *cpu, struct iop *op, one_fn *one,
                                 bool compares)
{
	u64 count;

	ENTER;
	if (!(op->aux & (REP | REPNE))) {
		one(cpu, op);
		NEXT;
	}
	while ((count = index_get(cpu, op, RCX))) {
		one(cpu, op);
		reg_set(cpu, RCX, op->dst, count - 1);
		if (compares) {
			bool equal = cpu->flags & FL_ZF;

			if (op->aux & REPNE ? equal : !equal)
				break;
		}
		if (count != 1 && interrupted(cpu))
			return again(cpu, op);
	}
	NEXT;
}

static struct block *op_lods(struct icpu *cpu, struct iop *op)
{
	return once_or_rep(cpu, op, lods_one, false);
}
static struct block *op_cmps(struct icpu *cpu, struct iop *op)
{
	return once_or_rep(cpu, op, cmps_one, true);
}
static struct block *op_scas(struct icpu *cpu, struct iop *op)
{
	return once_or_rep(cpu, op, scas_one, true);
}

static void build_string_common(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;

	op->opsize = i->opsize;
	/* The source's segment may be overridden, ES never is. */
	op->dst = i->asize;
	op->amask = size_mask(i->asize);
	build_segment(b, op, build_override(b));
	op->aux = 0;
	/* The source's check stands for both where 4 GiB is passed: mem.c. */
	if (!(b->key & (KEY_CODE64 | KEY_FLAT_ES)) || b->key & KEY_ALIGN ||
	    (op->check && !(b->key & KEY_CODE64)))
		op->aux |= CHECK_ES;
	/* Both prefixes repeat whatever does not compare. */
	if (i->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
	                       ZYDIS_ATTRIB_HAS_REPZ))
		op->aux |= REP;
	if (i->z.attributes & (ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_REPNZ))
		op->aux |= REPNE;
}

bool build_string(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	bool rep;

	/* MOVSD and CMPSD are SSE2's too. */
	if (i->z.meta.category != ZYDIS_CATEGORY_STRINGOP)
		return build_host(b, op);
	build_string_common(b, op);
	rep = op->aux & (REP | REPNE);
	switch (i->z.opcode & 0xfe) {
	case 0xa4:
		op->fn = rep ? op_rep_movs : op_movs;
		break;
	case 0xa6:
		op->fn = op_cmps;
		break;
	case 0xaa:
		op->fn = rep ? op_rep_stos : op_stos;
		break;
	case 0xac:
		op->fn = op_lods;
		break;
	default:
		op->fn = op_scas;
		break;
	}
	return true;
}

/* ---- ports ---- */
static void allow_port(struct icpu *cpu, u16 port, unsigned size)
{
	if (icpu_protected(cpu) &&
	    (icpu_v86(cpu) || cpu->cpl > icpu_iopl(cpu)) &&
	    !task_io_allowed(cpu, port, size))
		icpu_gp(cpu);
}

static void check_port(struct icpu *cpu, u16 port, unsigned size)
{
	allow_port(cpu, port, size);
	if (unlikely(cpu->key & KEY_STEP))
		debug_io(cpu, port, size);
}

static u64 port_read(struct icpu *cpu, u16 port, unsigned size)
{
	u64 v;

	cpu->stats[STAT_PIO]++;
	icpu_leave_guest(cpu);
	v = cpu->host.pio_read(cpu->host.ctx, port, size) & size_mask(size);
	icpu_enter_guest(cpu);
	return v;
}

static void port_write(struct icpu *cpu, u16 port, u64 v, unsigned size)
{
	cpu->stats[STAT_PIO]++;
	icpu_leave_guest(cpu);
	cpu->host.pio_write(cpu->host.ctx, port, v & size_mask(size), size);
	icpu_enter_guest(cpu);
}

enum { PORT_DX = 1 };

static u16 port_of(const struct icpu *cpu, const struct iop *op)
{
	return op->aux & PORT_DX ? (u16)cpu->gpr[GPR_RDX] : (u16)op->imm;
}

static struct block *op_in(struct icpu *cpu, struct iop *op)
{
	u16 port = port_of(cpu, op);

	ENTER;
	check_port(cpu, port, op->opsize);
	reg_set(cpu, GPR_OFF(GPR_RAX), op->opsize,
	        port_read(cpu, port, op->opsize));
	NEXT;
}

static struct block *op_out(struct icpu *cpu, struct iop *op)
{
	u16 port = port_of(cpu, op);

	ENTER;
	check_port(cpu, port, op->opsize);
	port_write(cpu, port, cpu->gpr[GPR_RAX], op->opsize);
	LEAVE;
}

static void ins_one(struct icpu *cpu, struct iop *op)
{
	u16 port = (u16)cpu->gpr[GPR_RDX];
	gva_t to;

	check_port(cpu, port, op->opsize);
	/* Nothing is read from the port that cannot be stored. */
	to = es_address(cpu, op, ACCESS_WRITE);
	icpu_probe(cpu, to, op->opsize, ACCESS_WRITE, cpu->priv);
	icpu_store(cpu, to, port_read(cpu, port, op->opsize), op->opsize,
	           cpu->priv);
	index_add(cpu, op, RDI, step_of(cpu, op));
}

static void outs_one(struct icpu *cpu, struct iop *op)
{
	u16 port = (u16)cpu->gpr[GPR_RDX];
	u64 v;

	check_port(cpu, port, op->opsize);
	v = icpu_load(cpu, source(cpu, op), op->opsize, cpu->priv);
	port_write(cpu, port, v, op->opsize);
	index_add(cpu, op, RSI, step_of(cpu, op));
}

static struct block *op_ins(struct icpu *cpu, struct iop *op)
{
	ENTER;
	allow_port(cpu, (u16)cpu->gpr[GPR_RDX], op->opsize);
	return once_or_rep(cpu, op, ins_one, false);
}
static struct block *op_outs(struct icpu *cpu, struct iop *op)
{
	ENTER;
	/* Even if RCX is zero. */
	allow_port(cpu, (u16)cpu->gpr[GPR_RDX], op->opsize);
	return once_or_rep(cpu, op, outs_one, false);
}

bool build_portio(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	bool in;

	if (i->z.mnemonic != ZYDIS_MNEMONIC_IN &&
	    i->z.mnemonic != ZYDIS_MNEMONIC_OUT) {
		build_string_common(b, op);
		if (op->opsize == 8)
			op->opsize = 4;
		op->fn = (i->z.opcode & 0xfe) == 0x6c ? op_ins : op_outs;
		return true;
	}
	in = i->z.mnemonic == ZYDIS_MNEMONIC_IN;
	op->opsize = i->op[in ? 0 : 1].size;
	if (i->op[in ? 1 : 0].kind == OPERAND_IMM)
		op->imm = i->op[in ? 1 : 0].value & 0xff;
	else
		op->aux = PORT_DX;
	op->fn = in ? op_in : op_out;
	b->ended = !in;
	return true;
}
