/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code32.c - what is special to 32-bit code, of legacy protected mode and of
 * compatibility mode.
 *
 * Host code is 64-bit: most of the bytes mean the same in it. Registers are as
 * wide there as their instructions make them, and addresses are cut to 32 bits
 * before they are looked up. What is shorter in 32-bit code alone - INC, DEC,
 * MOV of AL or EAX with an address - is written out; what 64-bit code has not,
 * or has something else for, is the interpreter's.
 *
 * ES, CS, SS and DS are flat, which the block's key says. FS and GS have a
 * base, and whether they reach all of memory is looked at where they are used.
 */
#include "engine/bt/xlate.h"
#include "engine/x86/segment.h"

/* ---- which code ---- */

enum {
	KEY_FLAT = KEY_FLAT_ES | KEY_FLAT_CS | KEY_FLAT_SS | KEY_FLAT_DS,
	KEY_FLAT32 = KEY_VALID | KEY_CODE32 | KEY_STACK32 | KEY_FLAT,
};

bool bt_translates(u32 key)
{
	if (key & (KEY_STEP | KEY_ALIGN | KEY_REAL))
		return false;
	return key & KEY_CODE64 || (key & KEY_FLAT32) == KEY_FLAT32;
}

enum insn_mode bt_mode(u32 key)
{
	return key & KEY_CODE64 ? INSN_64 : INSN_32;
}

/* ---- segments ---- */

/* Base aside it is flat: no access is refused. */
static bool is_whole(const struct cpu_segment *s)
{
	const u16 mask = SEG_ATTR_P | TYPE_RW | TYPE_CE | TYPE_CODE;

	return s->limit == 0xffffffff &&
	       (s->attr & mask) == (SEG_ATTR_P | TYPE_RW);
}

void bt_sync_segments(struct bt *bt)
{
	const struct icpu *cpu = bt->cpu;

	if (likely(cpu->key & KEY_CODE64))
		return;
	bt->area->whole[0] = is_whole(&cpu->seg[SEG_FS]);
	bt->area->whole[1] = is_whole(&cpu->seg[SEG_GS]);
}

void x_check_segment(struct xlate *x, unsigned k, const struct access *a)
{
	bool known = a->base == INSN_NO_REG && a->index == INSN_NO_REG;

	asm_gs_digit(&x->c, 0x83, ALU_CMP,
	             AREA(whole) + (a->seg - SEG_FS) * (u32)sizeof(u32));
	asm_8(&x->c, 0);
	x_leave_if(x, k, CC_E);
	if (known && (u64)(u32)a->at + a->size <= BIT(32))
		return;
	/* Nor does it begin anew past the last address. */
	asm_alu_imm32(&x->c, ALU_CMP, H_S0, -(u32)a->size);
	x_leave_if(x, k, CC_A);
}

/* ---- short forms ---- */

enum {
	MODRM_DISP = 0x05, /* of AL or EAX */
	MODRM_REG = 0xc0,
	MOV_AT = 0xa0, /* A0-A3: to and from AL, EAX */
	MOV_TO = 0x02, /* ...memory */
	INC_DEC = 0x40,
	ADD_ALIAS = 0x82, /* 80, in 32-bit code alone */
	GROUP5 = 0xff,
};

static bool is_one_byte_map(const struct insn *in)
{
	return in->z.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       in->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

static bool is_short_inc(const struct insn *in)
{
	return is_one_byte_map(in) && (in->z.opcode & 0xf0) == INC_DEC;
}

static bool is_short_mov(const struct insn *in)
{
	return is_one_byte_map(in) && (in->z.opcode & 0xfc) == MOV_AT;
}

bool bt_is_short32(const struct insn *in)
{
	return bt_word(in) == 4 && in->asize == 4 &&
	       in->length < sizeof(in->bytes) &&
	       (is_short_inc(in) || is_short_mov(in));
}

void x_make_plain(const struct insn_decoder *d, struct insn *in)
{
	u8 bytes[sizeof(in->bytes)], tail = 0, *p;
	enum insn_status st;

	if (!bt_is_short32(in))
		return;
	if (is_short_mov(in))
		tail = sizeof(u32);
	memcpy(bytes, in->bytes, in->length);
	p = bytes + in->length - tail - 1;
	memmove(p + 2, p + 1, tail);
	if (tail) {
		*p = (u8)(0x88 | (in->z.opcode & 1) |
		          (in->z.opcode & MOV_TO ? 0 : 2));
		p[1] = MODRM_DISP;
	} else {
		*p = GROUP5;
		p[1] = (u8)(MODRM_REG | (in->z.opcode & 15));
	}
	st = insn_decode(d, INSN_32, bytes, in->length + 1u, in);
	ASSERT(st == INSN_OK);
}

/* ---- which instructions ---- */

/* The vector registers that there are: eight. */
static bool clears_eight(const struct insn *in)
{
	return in->z.mnemonic == ZYDIS_MNEMONIC_VZEROALL ||
	       in->z.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER;
}

bool bt_may_copy32(const struct insn *in)
{
	/* Other address sizes, and operands of branches. */
	if (in->asize != 4 ||
	    (in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
	     in->opsize != 4))
		return false;
	if (is_short_inc(in) || is_short_mov(in))
		return false;
	if (is_one_byte_map(in) && in->z.opcode == ADD_ALIAS)
		return false;
	if (clears_eight(in))
		return false;
	/* CS may not be readable, and never is writable. */
	return !in->has_mem || in->mem.seg != SEG_CS || !x_touches_memory(in);
}

static bool is_flags(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_FLAGS;
}

bool bt_same_in_64(const struct insn_decoder *d, const struct insn *in)
{
	struct insn other;

	if (insn_decode(d, INSN_64, in->bytes, in->length, &other) != INSN_OK ||
	    other.length != in->length ||
	    other.z.operand_count != in->z.operand_count ||
	    other.z.mnemonic != in->z.mnemonic)
		return false;
	/* Those that are not written, too: EAX may have become RAX. */
	for (unsigned i = 0; i < in->z.operand_count; i++) {
		const ZydisDecodedOperand *a = &in->zop[i], *b = &other.zop[i];

		if (is_flags(a) && is_flags(b))
			continue;
		if (a->type != b->type || a->size != b->size ||
		    a->encoding != b->encoding || a->actions != b->actions)
			return false;
		if (a->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    a->reg.value != b->reg.value)
			return false;
	}
	return true;
}

bool bt_can_callout32(const struct insn *in)
{
	if (bt_word(in) != 4)
		return false;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_AAA:
	case ZYDIS_MNEMONIC_AAD:
	case ZYDIS_MNEMONIC_AAM:
	case ZYDIS_MNEMONIC_AAS:
	case ZYDIS_MNEMONIC_DAA:
	case ZYDIS_MNEMONIC_DAS:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_VZEROALL:
	case ZYDIS_MNEMONIC_VZEROUPPER:
		return true;
	case ZYDIS_MNEMONIC_PUSH:
		return in->op[0].kind == OPERAND_SEG;
	case ZYDIS_MNEMONIC_POP:
		return in->op[0].kind == OPERAND_SEG && in->op[0].reg != SEG_SS;
	default:
		/* Where programs of this age compute; 64-bit code does not. */
		return in->z.meta.category == ZYDIS_CATEGORY_X87_ALU ||
		       in->z.meta.category == ZYDIS_CATEGORY_FCMOV;
	}
}
