/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostop_emit.c - the code of a stub.
 *
 *	entry(regs = RDI, buf = RSI):
 *	  save callee-saved registers; keep the host's MXCSR
 *	  load flags, vector registers, general registers, MXCSR or all of x87
 *	  the instruction, its memory operand being [buffer]
 *	  store general registers, flags, vector registers, MXCSR or x87
 *	  give back the host's state; return 0
 *	fault exit: as the end above, but only MXCSR, or all of x87, is stored;
 *	  RAX is returned
 *
 * Registers keep their own numbers, so implicit ones need no care; only the
 * guest's RSP gets another, for the host's stack must stay where it is when
 * a signal comes. What the stub needs for itself is chosen among registers
 * that the instruction does not name.
 */
#include <string.h>

#include "engine/interp/hostop_internal.h"
#include "guest/cpu.h"

enum { NONE = 0xff };

struct stub {
	const ZydisDecodedInstruction *insn;
	const ZydisDecodedOperand *operands;
	struct hostop_info *info;
	struct hostop_code *code;

	u16 gpr_used, gpr_written; /* by the guest's numbers */
	u16 host_used;             /* by the host's */
	u16 vec_load, vec_written;
	u16 ymm_load, ymm_written; /* their upper halves too */
	bool flags_load, flags_store, mxcsr;

	u8 sp;         /* stands for the guest's RSP */
	u8 p, g, x, b; /* regs, its gpr and xsave; the buffer */

	/* Numbers for the encoding's fields; NONE: not a register. */
	u8 reg, rm, vvvv, is4, in_opcode;
	bool need_rex, high_byte;
};

static void put(struct stub *s, u8 byte)
{
	struct hostop_code *c = s->code;

	if (c->used == sizeof(c->bytes)) {
		c->overflow = true;
		return;
	}
	c->bytes[c->used++] = byte;
}

static void put_le(struct stub *s, u64 value, unsigned bytes)
{
	for (; bytes; bytes--, value >>= 8)
		put(s, (u8)value);
}

static void put_bytes(struct stub *s, const char *bytes, size_t n)
{
	for (; n; n--)
		put(s, (u8)*bytes++);
}
#define PUT(s, lit) put_bytes(s, lit, sizeof(lit) - 1)

/* ModRM for [base + disp]; base is never one that needs a SIB byte. */
static void put_mem(struct stub *s, u8 reg, u8 base, u32 disp)
{
	put(s, (u8)(0x80 | (reg & 7) << 3 | (base & 7)));
	put_le(s, disp, 4);
}

/* [prefix] REX [0F] opcode reg, [base + disp] */
static void put_op(struct stub *s, u8 prefix, bool w, bool escape, u8 opcode,
                   u8 reg, u8 base, u32 disp)
{
	if (prefix)
		put(s, prefix);
	put(s, (u8)(0x40 | w << 3 | (reg >> 3) << 2 | base >> 3));
	if (escape)
		put(s, 0x0f);
	put(s, opcode);
	put_mem(s, reg, base, disp);
}

static void load64(struct stub *s, u8 reg, u8 base, u32 disp)
{
	put_op(s, 0, true, false, 0x8b, reg, base, disp);
}

static void store64(struct stub *s, u8 reg, u8 base, u32 disp)
{
	put_op(s, 0, true, false, 0x89, reg, base, disp);
}

static void move64(struct stub *s, u8 to, u8 from)
{
	put(s, (u8)(0x48 | (from >> 3) << 2 | to >> 3));
	put(s, 0x89);
	put(s, (u8)(0xc0 | (from & 7) << 3 | (to & 7)));
}

/* movups, or vmovups where legacy forms would meet dirty upper halves. */
static void move_xmm(struct stub *s, u8 opcode, u8 reg, u32 disp)
{
	if (!s->info->uses_avx) {
		put_op(s, 0, false, true, opcode, reg, s->x, disp);
		return;
	}
	put(s, 0xc4);
	put(s, (u8)((reg < 8) << 7 | 1 << 6 | (s->x < 8) << 5 | 1));
	put(s, 0x78);
	put(s, opcode);
	put_mem(s, reg, s->x, disp);
}

static void load_xmm(struct stub *s, u8 reg, u32 disp)
{
	move_xmm(s, 0x10, reg, disp);
}

static void store_xmm(struct stub *s, u8 reg, u32 disp)
{
	move_xmm(s, 0x11, reg, disp);
}

/* vinsertf128 reg, reg, [x + disp], 1 or vextractf128 [x + disp], reg, 1 */
static void move_upper(struct stub *s, bool store, u8 reg, u32 disp)
{
	u8 v = store ? 0xf : (u8)(~reg & 0xf);

	put(s, 0xc4);
	put(s, (u8)((reg < 8) << 7 | 1 << 6 | (s->x < 8) << 5 | 3));
	put(s, (u8)(v << 3 | 1 << 2 | 1));
	put(s, store ? 0x19 : 0x18);
	put_mem(s, reg, s->x, disp);
	put(s, 1);
}

static void move_mxcsr(struct stub *s, bool store)
{
	put_op(s, 0, false, true, 0xae, store ? 3 : 2, s->x, CPU_XSAVE_MXCSR);
}

#define HOST_MXCSR_LOAD "\x0f\xae\x14\x24"  /* ldmxcsr [rsp] */
#define HOST_MXCSR_STORE "\x0f\xae\x1c\x24" /* stmxcsr [rsp] */

static u8 gpr_number(ZydisRegister reg)
{
	ZydisRegister whole =
	    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

	return (u8)(whole - ZYDIS_REGISTER_RAX);
}

static bool is_gpr(ZydisRegister reg)
{
	ZydisRegisterClass c = ZydisRegisterGetClass(reg);

	return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 ||
	       c == ZYDIS_REGCLASS_GPR32 || c == ZYDIS_REGCLASS_GPR64;
}

static bool is_vector(ZydisRegister reg)
{
	ZydisRegisterClass c = ZydisRegisterGetClass(reg);

	return c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM;
}

static void note_vector(struct stub *s, const ZydisDecodedOperand *op)
{
	u16 bit = (u16)BIT(ZydisRegisterGetId(op->reg.value));
	bool ymm = ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_YMM;
	bool legacy = s->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;

	/* A legacy form may leave part of what it writes as it was. */
	if ((op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || legacy) {
		s->vec_load |= bit;
		if (ymm)
			s->ymm_load |= bit;
	}
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
		s->vec_written |= bit;
		/* VEX forms clear the upper half if they don't write it. */
		if (!legacy)
			s->ymm_written |= bit;
	}
}

static void note_registers(struct stub *s)
{
	size_t i;

	for (i = 0; i < s->insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &s->operands[i];

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		if (is_vector(op->reg.value)) {
			note_vector(s, op);
		} else if (is_gpr(op->reg.value)) {
			u16 bit = (u16)BIT(gpr_number(op->reg.value));

			s->gpr_used |= bit;
			if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
				s->gpr_written |= bit;
		}
	}
}

static bool leaves_some_flags(const ZydisDecodedInstruction *insn)
{
	const ZydisAccessedFlags *f = insn->cpu_flags;
	u32 set = f->modified | f->set_0 | f->set_1;

	/* A count of zero leaves them all. */
	return insn->meta.category == ZYDIS_CATEGORY_SHIFT ||
	       insn->meta.category == ZYDIS_CATEGORY_ROTATE ||
	       (set & RFLAGS_STATUS) != RFLAGS_STATUS;
}

static void note_flags(struct stub *s)
{
	const ZydisAccessedFlags *f = s->insn->cpu_flags;

	if (!f)
		return;
	s->flags_store = ((f->modified | f->set_0 | f->set_1 | f->undefined) &
	                  RFLAGS_STATUS) != 0;
	s->flags_load = (f->tested & RFLAGS_STATUS) != 0 ||
	                (s->flags_store && leaves_some_flags(s->insn));
}

static u8 choose(struct stub *s, const u8 *list, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (!(s->host_used & BIT(list[i]))) {
			s->host_used |= (u16)BIT(list[i]);
			return list[i];
		}
	}
	return NONE;
}

static bool choose_registers(struct stub *s)
{
	/* Below 8: a form with AH..BH may hold no REX prefix. */
	static const u8 for_sp[] = { 5, 3, 7, 2, 1 };
	static const u8 for_buffer[] = { 6, 7, 3, 1, 2 };
	/* Not R12: as a base it would need a SIB byte. Nor what the entry
	 * gets its arguments in. */
	static const u8 for_state[] = { 11, 10, 9, 8, 15, 14, 13 };

	s->host_used = s->gpr_used & (u16)~BIT(GPR_RSP);
	if (s->gpr_used & BIT(GPR_RSP)) {
		s->sp = choose(s, for_sp, sizeof(for_sp));
		if (s->sp == NONE)
			return false;
	}
	if (s->info->mem_size) {
		s->b = choose(s, for_buffer, sizeof(for_buffer));
		if (s->b == NONE)
			return false;
	}
	s->p = choose(s, for_state, sizeof(for_state));
	s->g = choose(s, for_state, sizeof(for_state));
	s->x = choose(s, for_state, sizeof(for_state));
	return s->x != NONE;
}

static u8 host_gpr(const struct stub *s, u8 guest)
{
	return guest == GPR_RSP ? s->sp : guest;
}

/* The number for an encoding field. */
static u8 field_number(struct stub *s, ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
		s->high_byte = true;
		return (u8)(4 + (reg - ZYDIS_REGISTER_AH));
	}
	if (is_gpr(reg)) {
		u8 n = host_gpr(s, gpr_number(reg));

		if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR8 && n >= 4)
			s->need_rex = true;
		return n;
	}
	return (u8)ZydisRegisterGetId(reg);
}

static bool note_fields(struct stub *s)
{
	size_t i;

	for (i = 0; i < s->insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &s->operands[i];
		u8 *field;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (op->encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG:
			field = &s->reg;
			break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM:
			field = &s->rm;
			break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD:
			field = &s->vvvv;
			break;
		case ZYDIS_OPERAND_ENCODING_IS4:
			field = &s->is4;
			break;
		case ZYDIS_OPERAND_ENCODING_OPCODE:
			field = &s->in_opcode;
			break;
		case ZYDIS_OPERAND_ENCODING_NONE:
			continue;
		default:
			return false;
		}
		*field = field_number(s, op->reg.value);
	}
	return true;
}

/* Does prefix 0x66 choose the operand's size here, and not the opcode? */
static bool scales(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_BMI1: /* TZCNT */
	case ZYDIS_ISA_EXT_RDRAND:
	case ZYDIS_ISA_EXT_RDSEED:
		return true;
	default:
		return insn->mnemonic == ZYDIS_MNEMONIC_CRC32 ||
		       insn->mnemonic == ZYDIS_MNEMONIC_POPCNT;
	}
}

static u8 mandatory_prefix(const ZydisDecodedInstruction *insn, bool size)
{
	size_t i;

	for (i = 0; i < insn->raw.prefix_count; i++) {
		u8 value = insn->raw.prefixes[i].value;

		if (insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY &&
		    (value == 0x66) == size)
			return value;
	}
	return 0;
}

static void put_escape(struct stub *s)
{
	switch (s->insn->opcode_map) {
	case ZYDIS_OPCODE_MAP_0F:
		PUT(s, "\x0f");
		break;
	case ZYDIS_OPCODE_MAP_0F38:
		PUT(s, "\x0f\x38");
		break;
	case ZYDIS_OPCODE_MAP_0F3A:
		PUT(s, "\x0f\x3a");
		break;
	default:
		break;
	}
}

/* Bits 3 of the fields; the buffer's register is always below 8. */
static u8 field_high(u8 n)
{
	return n == NONE ? 0 : (n >> 3) & 1;
}

static bool is_long(const struct stub *s)
{
	return s->insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
}

static bool put_legacy(struct stub *s)
{
	const ZydisDecodedInstruction *insn = s->insn;
	u8 opcode = insn->opcode, prefix, rex;
	u8 b = s->in_opcode != NONE ? s->in_opcode : s->rm;

	if (mandatory_prefix(insn, true) ||
	    (scales(insn) && insn->operand_width == 16))
		put(s, 0x66);
	prefix = mandatory_prefix(insn, false);
	if (prefix)
		put(s, prefix);
	rex = (u8)(field_high(s->reg) << 2 | field_high(b));
	if (is_long(s) && (insn->attributes & ZYDIS_ATTRIB_HAS_REX) &&
	    insn->raw.rex.W)
		rex |= 8;
	if (rex || s->need_rex) {
		if (s->high_byte)
			return false;
		put(s, 0x40 | rex);
	}
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    (opcode & 0xf0) == 0x40) {
		/* INC and DEC of 32-bit mode are REX prefixes in this one. */
		put(s, 0xff);
		put(s, (u8)(0xc0 | (opcode & 8) | (s->in_opcode & 7)));
		return true;
	}
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && opcode == 0x82)
		opcode = 0x80; /* its twin, gone from 64-bit mode */
	put_escape(s);
	if (s->in_opcode != NONE)
		opcode = (opcode & 0xf8) | (s->in_opcode & 7);
	put(s, opcode);
	return true;
}

static bool put_vex(struct stub *s)
{
	static const u8 maps[] = {
		[ZYDIS_OPCODE_MAP_0F] = 1,
		[ZYDIS_OPCODE_MAP_0F38] = 2,
		[ZYDIS_OPCODE_MAP_0F3A] = 3,
	};
	const ZydisDecodedInstruction *insn = s->insn;
	bool w = insn->raw.vex.W != 0;
	u8 v = s->vvvv == NONE ? 0 : s->vvvv;

	/* Outside 64-bit mode W widens no general register, and the forms
	 * that move one to or from a vector are the 32-bit ones. */
	if (!is_long(s)) {
		if (s->gpr_used || !(s->info->uses_avx))
			w = false;
		if (maps[insn->opcode_map] == 1 &&
		    (insn->opcode == 0x6e || insn->opcode == 0x7e ||
		     insn->opcode == 0x2a) &&
		    insn->raw.vex.pp)
			w = false;
		/* VPEXTRQ and VPINSRQ do not become VPEXTRD and VPINSRD. */
		if (maps[insn->opcode_map] == 3 && insn->raw.vex.W &&
		    (insn->opcode == 0x16 || insn->opcode == 0x22))
			return false;
	}
	put(s, 0xc4);
	put(s, (u8)((!field_high(s->reg)) << 7 | 1 << 6 |
	            (!field_high(s->rm)) << 5 | maps[insn->opcode_map]));
	put(s, (u8)(w << 7 | (~v & 0xf) << 3 | (insn->raw.vex.L & 1) << 2 |
	            insn->raw.vex.pp));
	put(s, insn->opcode);
	return true;
}

static bool has_modrm(const ZydisDecodedInstruction *insn)
{
	return (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
}

static void put_modrm(struct stub *s)
{
	const ZydisDecodedInstruction *insn = s->insn;
	u8 reg = s->reg != NONE ? s->reg : insn->raw.modrm.reg;

	if (s->info->mem_size) {
		put(s, (u8)((reg & 7) << 3 | s->b));
		return;
	}
	put(s, (u8)(0xc0 | (reg & 7) << 3 |
	            ((s->rm != NONE ? s->rm : insn->raw.modrm.rm) & 7)));
}

static bool put_instruction(struct stub *s)
{
	const ZydisDecodedInstruction *insn = s->insn;
	size_t i;

	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? !put_vex(s)
	                                                     : !put_legacy(s))
		return false;
	if (has_modrm(insn))
		put_modrm(s);
	if (s->is4 != NONE) {
		put(s, (u8)(s->is4 << 4 | (insn->raw.imm[0].value.u & 0xf)));
		return true;
	}
	for (i = 0; i < ARRAY_SIZE(insn->raw.imm); i++)
		put_le(s, insn->raw.imm[i].value.u, insn->raw.imm[i].size / 8);
	return true;
}

/* In the order of pushes; popped the other way round. */
static const u8 callee_saved[] = { 3, 5, 12, 13, 14, 15 };

static void put_prologue(struct stub *s)
{
	size_t i;

	for (i = 0; i < sizeof(callee_saved); i++) {
		u8 r = callee_saved[i];

		if (!(s->host_used & BIT(r)))
			continue;
		if (r >= 8)
			put(s, 0x41);
		put(s, 0x50 | (r & 7));
	}
	PUT(s, "\x50"); /* a place for MXCSR and FCW */
	move64(s, s->p, GPR_RDI);
	if (s->info->mem_size && s->b != GPR_RSI)
		move64(s, s->b, GPR_RSI);
	load64(s, s->g, s->p, offsetof(struct hostop_regs, gpr));
	load64(s, s->x, s->p, offsetof(struct hostop_regs, xsave));
}

/* RAX is the result. */
static void put_epilogue(struct stub *s)
{
	size_t i;

	PUT(s, "\x59"); /* pop rcx */
	for (i = sizeof(callee_saved); i-- > 0;) {
		u8 r = callee_saved[i];

		if (!(s->host_used & BIT(r)))
			continue;
		if (r >= 8)
			put(s, 0x41);
		put(s, 0x58 | (r & 7));
	}
	PUT(s, "\xc3");
}

static void put_loads(struct stub *s)
{
	u8 i;

	if (s->mxcsr || s->info->uses_x87)
		PUT(s, HOST_MXCSR_STORE);
	if (s->flags_load) {
		load64(s, GPR_RAX, s->p, offsetof(struct hostop_regs, flags));
		PUT(s, "\x0f\xb7\x00"); /* movzx eax, word [rax] */
		PUT(s, "\x04\x7f");     /* add al, 0x7f: OF */
		PUT(s, "\x9e");         /* sahf */
	}
	if (s->info->uses_x87) {
		put_op(s, 0, true, true, 0xae, 1, s->x, 0); /* fxrstor64 */
	} else {
		for (i = 0; i < 16; i++) {
			if (s->vec_load & BIT(i))
				load_xmm(s, i, CPU_XSAVE_XMM + 16 * i);
			if (s->ymm_load & BIT(i))
				move_upper(s, false, i,
				           CPU_XSAVE_YMMH + 16 * i);
		}
		if (s->mxcsr)
			move_mxcsr(s, false);
	}
	for (i = 0; i < GPR_COUNT; i++) {
		if (s->gpr_used & BIT(i))
			load64(s, host_gpr(s, i), s->g, 8 * i);
	}
}

/*
 * FXSAVE would leave the stub's own addresses in FIP and FDP. All registers
 * but p, g and x are free by now; the ones used here are none of these.
 */
static void store_x87(struct stub *s)
{
	load64(s, GPR_RCX, s->x, 8);
	load64(s, GPR_RDX, s->x, 16);
	put_op(s, 0, false, true, 0xb7, GPR_RDI, s->x, 6); /* movzx edi, m16 */
	put_op(s, 0, true, true, 0xae, 0, s->x, 0);        /* fxsave64 */
	store64(s, GPR_RCX, s->x, 8);
	store64(s, GPR_RDX, s->x, 16);
	put_op(s, 0x66, false, false, 0x89, GPR_RDI, s->x, 6);
}

static void store_vectors(struct stub *s)
{
	u8 i;

	for (i = 0; i < 16; i++) {
		if (s->vec_written & BIT(i))
			store_xmm(s, i, CPU_XSAVE_XMM + 16 * i);
		if (s->ymm_written & BIT(i))
			move_upper(s, true, i, CPU_XSAVE_YMMH + 16 * i);
	}
	if (s->mxcsr)
		move_mxcsr(s, true);
}

/* MMX instructions raise no x87 exceptions of their own. */
static bool is_mmx(const ZydisDecodedInstruction *insn)
{
	return insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT;
}

/*
 * The host's x87 is left empty and its control word what the ABI says, its
 * MXCSR as it was. FNINIT would take longer than all of this.
 */
static void put_host_state(struct stub *s, bool fault)
{
	if (s->info->uses_x87) {
		if (fault || !is_mmx(s->insn))
			PUT(s, "\xdb\xe2"); /* fnclex: EMMS would fault */
		PUT(s, "\x0f\x77");         /* emms */
		/* mov dword [rsp + 4], 0x37f; fldcw [rsp + 4] */
		PUT(s, "\xc7\x44\x24\x04\x7f\x03\0\0\xd9\x6c\x24\x04");
	}
	if (s->mxcsr || s->info->uses_x87)
		PUT(s, HOST_MXCSR_LOAD);
	if (s->info->uses_avx)
		PUT(s, "\xc5\xf8\x77"); /* vzeroupper */
}

static void put_stores(struct stub *s)
{
	u8 i;

	for (i = 0; i < GPR_COUNT; i++) {
		if (s->gpr_written & BIT(i))
			store64(s, host_gpr(s, i), s->g, 8 * i);
	}
	if (s->flags_store) {
		PUT(s, "\x9f\x0f\x90\xc0"); /* lahf; seto al */
		load64(s, GPR_RCX, s->p, offsetof(struct hostop_regs, flags));
		PUT(s, "\x66\x89\x01"); /* mov [rcx], ax */
	}
	if (s->info->uses_x87)
		store_x87(s);
	else
		store_vectors(s);
	put_host_state(s, false);
	PUT(s, "\x31\xc0"); /* xor eax, eax */
	put_epilogue(s);
}

static void put_fault_exit(struct stub *s)
{
	/* CVTPS2PI and its like have gone to MMX mode before they fault. */
	if (s->info->uses_x87)
		store_x87(s);
	else if (s->mxcsr)
		move_mxcsr(s, true);
	put_host_state(s, true);
	put_epilogue(s);
}

/* VZEROUPPER and VZEROALL are stores to the guest's area, no more. */
static void put_zero(struct stub *s)
{
	unsigned count = is_long(s) ? 16 : 8, i;

	PUT(s, "\x0f\x57\xc0"); /* xorps xmm0, xmm0 */
	for (i = 0; i < count; i++) {
		if (s->insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
			store_xmm(s, 0, CPU_XSAVE_XMM + 16 * i);
		store_xmm(s, 0, CPU_XSAVE_YMMH + 16 * i);
	}
}

bool hostop_translate(const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands,
                      struct hostop_code *code, struct hostop_info *info,
                      bool *waits)
{
	struct stub s = { .insn = insn,
		          .operands = operands,
		          .info = info,
		          .code = code,
		          .sp = NONE,
		          .b = NONE,
		          .reg = NONE,
		          .rm = NONE,
		          .vvvv = NONE,
		          .is4 = NONE,
		          .in_opcode = NONE };

	memset(code, 0, sizeof(*code));
	if (!hostop_allowed(insn, operands, info, waits))
		return false;
	note_registers(&s);
	note_flags(&s);
	s.mxcsr = (info->uses_sse || info->uses_avx) && hostop_uses_mxcsr(insn);
	if (!choose_registers(&s) || !note_fields(&s))
		return false;
	put_prologue(&s);
	if (insn->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
	    insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL) {
		code->insn = code->used;
		put_zero(&s);
	} else {
		put_loads(&s);
		code->insn = code->used;
		if (!put_instruction(&s))
			return false;
	}
	put_stores(&s);
	code->fault_exit = code->used;
	put_fault_exit(&s);
	return !code->overflow;
}
