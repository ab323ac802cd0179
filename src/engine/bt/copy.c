/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c - an instruction as it was, its operands elsewhere.
 *
 * Prefixes, REX or VEX, opcode, ModRM and immediate are taken apart and put
 * together again: guest RSP is R13, R13-R15 come through scratch registers,
 * a memory operand is named as the probe left it: off R14, or R14 added.
 */
#include "engine/bt/xlate.h"

/* Where in the encoding a general register stands. */
enum place { IN_REG, IN_RM, IN_VVVV, IN_OPCODE, PLACES };

struct moved {
	bool used; /* a general register stands there */
	bool in_memory, read, written;
	bool high; /* AH to BH, beside memory: what names R14 can't name it */
	u8 guest;
	u8 host; /* the register to encode there */
};

static int place_of(const ZydisDecodedOperand *op)
{
	switch (op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		return IN_REG;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		return IN_RM;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		return IN_VVVV;
	case ZYDIS_OPERAND_ENCODING_OPCODE:
		return IN_OPCODE;
	default:
		return -1;
	}
}

static bool writes_whole(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_MOV || m == ZYDIS_MNEMONIC_MOVZX ||
	       m == ZYDIS_MNEMONIC_MOVSX || m == ZYDIS_MNEMONIC_MOVSXD;
}

/* false: there are not enough scratch registers. */
static bool find_registers(const struct insn *in, struct moved m[PLACES])
{
	/* R15 first: R14 may hold the address of a span. */
	static const u8 scratch[] = { H_S1, H_S0 };
	unsigned used = 0, room = in->has_mem ? 1 : 2;

	memset(m, 0, sizeof(*m) * PLACES);
	for (unsigned i = 0; i < in->count && i < ARRAY_SIZE(in->op); i++) {
		const ZydisDecodedOperand *op = &in->zop[i];
		int p = place_of(op);

		if (in->op[i].kind != OPERAND_GPR || p < 0)
			continue;
		m[p].used = true;
		m[p].guest = in->op[i].reg;
		m[p].in_memory = x_in_memory(m[p].guest) && !in->op[i].high;
		m[p].high = in->op[i].high && in->has_mem;
		m[p].host = (u8)(m[p].high        ? (unsigned)H_S1
		                 : in->op[i].high ? m[p].guest + 4u
		                                  : x_home(m[p].guest));
		/* A narrow write keeps the rest, and some keep it all (BSF
		 * of zero): only of these is it known that they don't. */
		m[p].read = !writes_whole(in->z.mnemonic) ||
		            (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) ||
		            (op->size < 32 && !m[p].high);
		m[p].written = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	}
	for (int p = 0; p < PLACES; p++) {
		int q;

		if (!m[p].in_memory)
			continue;
		for (q = 0; q < p; q++)
			if (m[q].in_memory && m[q].guest == m[p].guest)
				break;
		if (q < p)
			m[p].host = m[q].host;
		else if (used == room)
			return false;
		else
			m[p].host = scratch[used++];
	}
	return true;
}

bool bt_registers_fit(const struct insn *in)
{
	struct moved m[PLACES];

	return find_registers(in, m);
}

bool bt_needs_both_scratch(const struct insn *in)
{
	struct moved m[PLACES];

	find_registers(in, m);
	for (int p = 0; p < PLACES; p++)
		if (m[p].in_memory && m[p].host == H_S0)
			return true;
	return false;
}

/* ---- encoding ---- */

struct parts {
	u8 r, x, b; /* fourth bits of reg, index, rm */
	u8 modrm;
	bool has_modrm, has_mem;
	bool sib;
	struct where at;
};

static void find_memory(struct parts *p, const struct where *at, u8 *mod,
                        u8 *rm)
{
	*mod = asm_mod(at->base, at->disp);
	p->has_mem = true;
	p->at = *at;
	p->sib = at->index != NO_REG || (at->base & 7) == 4;
	*rm = p->sib ? 4 : at->base & 7;
	p->b = at->base >> 3;
	p->x = at->index == NO_REG ? 0 : at->index >> 3;
}

static void find_parts(const struct insn *in, const struct moved m[PLACES],
                       const struct where *at, struct parts *p)
{
	const ZydisDecodedInstruction *z = &in->z;
	u8 reg = z->raw.modrm.reg, rm = z->raw.modrm.rm;
	u8 mod = 0xc0;

	memset(p, 0, sizeof(*p));
	p->has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		const u8 *vex = in->bytes + z->raw.vex.offset;

		/* Stored inverted. The two-byte form has no B. */
		p->r = !(vex[1] & 0x80);
		p->b = z->raw.vex.size == 3 && !(vex[1] & 0x20);
	} else if (z->attributes & ZYDIS_ATTRIB_HAS_REX) {
		p->r = z->raw.rex.R;
		p->b = z->raw.rex.B;
	}
	if (m[IN_REG].used) {
		reg = m[IN_REG].host & 7;
		p->r = m[IN_REG].host >> 3;
	}
	if (in->has_mem) {
		find_memory(p, at, &mod, &rm);
	} else if (m[IN_RM].used) {
		rm = m[IN_RM].host & 7;
		p->b = m[IN_RM].host >> 3;
	} else if (m[IN_OPCODE].used) {
		p->b = m[IN_OPCODE].host >> 3;
	}
	p->modrm = (u8)(mod | reg << 3 | rm);
}

/* What follows opcode, ModRM, SIB and displacement: immediates. */
static void tail(struct cursor *c, const struct insn *in)
{
	const ZydisDecodedInstruction *z = &in->z;
	size_t at = in->length;

	if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		at = z->raw.modrm.offset + 1u + (z->raw.sib.offset != 0) +
		     z->raw.disp.size / 8;
	else if (z->raw.imm[0].size)
		at = z->raw.imm[0].offset;
	asm_bytes(c, in->bytes + at, in->length - at);
}

static void put_modrm(struct cursor *c, const struct parts *p)
{
	if (!p->has_modrm)
		return;
	asm_8(c, p->modrm);
	if (p->sib)
		asm_sib_byte(c, p->at.base, p->at.index, p->at.shift);
	if (p->has_mem)
		asm_disp(c, p->modrm & 0xc0, p->at.disp);
}

static void encode_legacy(struct cursor *c, const struct insn *in,
                          const struct moved m[PLACES], const struct parts *p)
{
	const ZydisDecodedInstruction *z = &in->z;
	bool rex = z->attributes & ZYDIS_ATTRIB_HAS_REX;
	u8 w = rex ? z->raw.rex.W : 0, byte, start, end;

	end = p->has_modrm         ? z->raw.modrm.offset
	      : z->raw.imm[0].size ? z->raw.imm[0].offset
	                           : in->length;
	start = (u8)(end - (z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 1
	                    : z->opcode_map == ZYDIS_OPCODE_MAP_0F    ? 2
	                                                              : 3));
	for (u8 i = 0; i < start; i++) {
		byte = in->bytes[i];
		if (byte == 0x66 || byte == 0xf2 || byte == 0xf3 ||
		    byte == 0xf0)
			asm_8(c, byte);
	}
	if (rex || p->r || p->x || p->b)
		asm_8(c, (u8)(0x40 | w << 3 | p->r << 2 | p->x << 1 | p->b));
	asm_bytes(c, in->bytes + start, (size_t)(end - start - 1));
	byte = in->bytes[end - 1];
	if (m[IN_OPCODE].used)
		byte = (u8)((byte & 0xf8) | (m[IN_OPCODE].host & 7));
	asm_8(c, byte);
	put_modrm(c, p);
}

/* Always in the three-byte form. */
static void encode_vex(struct cursor *c, const struct insn *in,
                       const struct moved m[PLACES], const struct parts *p)
{
	const ZydisDecodedInstruction *z = &in->z;
	const u8 *vex = in->bytes + z->raw.vex.offset;
	bool three = z->raw.vex.size == 3;
	u8 map = three ? vex[1] & 0x1f : 1;
	u8 last = three ? vex[2] : vex[1] & 0x7f;

	if (m[IN_VVVV].used)
		last = (u8)((last & 0x87) | (~m[IN_VVVV].host & 15) << 3);
	asm_8(c, 0xc4);
	asm_8(c, (u8)(!p->r << 7 | !p->x << 6 | !p->b << 5 | map));
	asm_8(c, last);
	asm_8(c, z->opcode);
	put_modrm(c, p);
}

static void encode(struct cursor *c, const struct insn *in,
                   const struct moved m[PLACES], const struct where *at)
{
	struct parts p;

	find_parts(in, m, at, &p);
	if (in->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		encode_vex(c, in, m, &p);
	else
		encode_legacy(c, in, m, &p);
	tail(c, in);
}

/* Off registers that are at hand, LEA is LEA. */
bool x_lea_is_simple(const struct insn *in)
{
	const struct insn_mem *m = &in->mem;

	return m->base != INSN_RIP && in->op[0].size >= 4 &&
	       in->asize == bt_word(in) && m->disp == (s32)m->disp &&
	       !x_in_memory(in->op[0].reg) &&
	       (m->base == INSN_NO_REG || !x_in_memory(m->base)) &&
	       (m->index == INSN_NO_REG || !x_in_memory(m->index));
}

static bool copy_simple_lea(struct xlate *x, const struct insn *in)
{
	const struct insn_mem *m = &in->mem;
	unsigned dst = in->op[0].reg;

	bool kept = x_keeps(x);

	if (!x_lea_is_simple(in))
		return false;
	asm_lea(&x->c, in->op[0].size == 8, x_home(dst),
	        m->base == INSN_NO_REG ? (unsigned)NO_REG : x_home(m->base),
	        m->index == INSN_NO_REG ? (unsigned)NO_REG : x_home(m->index),
	        m->shift, (s32)m->disp);
	x_keep(x, kept);
	return true;
}

/* Segment bases do not count. */
static void copy_lea(struct xlate *x, unsigned k)
{
	struct insn *in = &x->insn[k];
	unsigned dst = in->op[0].reg, size = in->op[0].size;

	if (copy_simple_lea(x, in))
		return;
	in->mem.seg = SEG_DS;
	x_address(x, k);
	if (x_in_memory(dst)) {
		if (size == 2) {
			asm_8(&x->c, 0x66);
			asm_gs(&x->c, false, 0x89, H_S0, GPR(dst));
			return;
		}
		if (size == 4)
			asm_rr(&x->c, false, 0x8b, H_S0, H_S0);
		asm_store_gs(&x->c, H_S0, GPR(dst));
		return;
	}
	if (size == 2)
		asm_8(&x->c, 0x66);
	asm_rr(&x->c, size == 8, 0x8b, x_home(dst), H_S0);
}

bool x_touches_memory(const struct insn *in)
{
	return in->z.mnemonic != ZYDIS_MNEMONIC_LEA &&
	       in->z.mnemonic != ZYDIS_MNEMONIC_NOP;
}

static bool nothing(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_NOP || m == ZYDIS_MNEMONIC_ENDBR64;
}

/* The halves of AX, or CX, DX, BX, change places. */
static void swap_halves(struct cursor *c, unsigned reg)
{
	asm_8(c, 0x86); /* xchg */
	asm_8(c, (u8)(0xc0 | reg << 3 | (reg + 4)));
}

/* R15's low byte = the high one. Changes no flags, and no register that a
 * fault would find. */
static void take_high(struct cursor *c, unsigned reg)
{
	if (__builtin_cpu_supports("bmi2")) {
		asm_bytes(c, "\xc4\x63\x7b\xf0", 4); /* rorx r15d, reg, 8 */
		asm_8(c, (u8)(0xf8 | reg));
		asm_8(c, 8);
		return;
	}
	swap_halves(c, reg);
	asm_rr(c, false, 0x8b, H_S1, reg);
	swap_halves(c, reg);
}

static void put_high(struct cursor *c, unsigned reg)
{
	swap_halves(c, reg);
	asm_rex(c, false, H_S1, 0, reg);
	asm_8(c, 0x88); /* mov reg, r15b */
	asm_8(c, (u8)(0xc0 | (H_S1 & 7) << 3 | reg));
	swap_halves(c, reg);
}

/*
 * What comes through scratch registers. Returns whether R15 has a guest's value
 * afterwards, once it is stored: its next reader need not wait for memory.
 */
static bool load_registers(struct xlate *x, const struct moved m[PLACES],
                           bool kept)
{
	const struct moved *last = NULL;

	for (int p = 0; p < PLACES; p++) {
		if (m[p].high) {
			if (m[p].read)
				take_high(&x->c, m[p].guest);
			kept = false;
		}
		if (!m[p].in_memory)
			continue;
		if (m[p].host == H_S1)
			last = &m[p];
		if (m[p].read &&
		    !(m[p].host == H_S1 && kept && m[p].guest == x->kept))
			asm_load_gs(&x->c, m[p].host, GPR(m[p].guest));
	}
	if (!last)
		return kept;
	x->kept = last->guest;
	return true;
}

static void store_registers(struct xlate *x, const struct moved m[PLACES])
{
	for (int p = 0; p < PLACES; p++) {
		if (m[p].in_memory && m[p].written)
			asm_store_gs(&x->c, m[p].host, GPR(m[p].guest));
		if (m[p].high && m[p].written)
			put_high(&x->c, m[p].guest);
	}
}

void x_copy(struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];
	u32 written = x_flags_written(in), read = x_flags_read(in);
	struct moved m[PLACES];
	struct where at = { 0 };
	bool fit, kept;

	if (nothing(in->z.mnemonic))
		return;
	if (in->z.mnemonic == ZYDIS_MNEMONIC_LEA) {
		copy_lea(x, k);
		return;
	}
	if (in->has_mem)
		at = x_reach_operand(x, k);
	if (read || (written && (x->live[k + 1] & ~x_flags_killed(x, in))))
		x_flags_need(x);
	fit = find_registers(in, m);
	ASSERT(fit); /* bt_can looked */
	if (!in->has_mem && bt_needs_both_scratch(in))
		x_lose_scratch(x);
	kept = load_registers(x, m, x_keeps(x));
	x_point(x, k);
	encode(&x->c, in, m, &at);
	store_registers(x, m);
	x_keep(x, kept);
	if (written)
		x->at = FLAGS_HOST;
}
