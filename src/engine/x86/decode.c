/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.c - from Zydis's words to ours.
 */
#include "engine/x86/decode.h"

#include <string.h>

#include "engine/x86/cpuid.h"

void insn_decoder_init(struct insn_decoder *d, bool amd)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
	} modes[4] = {
		[INSN_REAL16] = { ZYDIS_MACHINE_MODE_REAL_16,
		                  ZYDIS_STACK_WIDTH_16 },
		[INSN_16] = { ZYDIS_MACHINE_MODE_LEGACY_16,
		              ZYDIS_STACK_WIDTH_16 },
		[INSN_32] = { ZYDIS_MACHINE_MODE_LEGACY_32,
		              ZYDIS_STACK_WIDTH_32 },
		[INSN_64] = { ZYDIS_MACHINE_MODE_LONG_64,
		              ZYDIS_STACK_WIDTH_64 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		ZydisDecoder *z = &d->mode[i];

		ZydisDecoderInit(z, modes[i].mode, modes[i].stack);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_AMD_BRANCHES, amd);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, false);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, false);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_WBNOINVD, false);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, false);
	}
}

static u8 gpr_number(ZydisRegister reg)
{
	return reg == ZYDIS_REGISTER_NONE ? INSN_NO_REG
	       : reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP ||
	               reg == ZYDIS_REGISTER_IP
	           ? INSN_RIP
	           : (u8)ZydisRegisterGetId(reg);
}

static u8 seg_number(ZydisRegister reg)
{
	switch (reg) {
	case ZYDIS_REGISTER_ES:
		return SEG_ES;
	case ZYDIS_REGISTER_CS:
		return SEG_CS;
	case ZYDIS_REGISTER_SS:
		return SEG_SS;
	case ZYDIS_REGISTER_FS:
		return SEG_FS;
	case ZYDIS_REGISTER_GS:
		return SEG_GS;
	default:
		return SEG_DS;
	}
}

static void put_register(struct insn_operand *o, ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
		o->kind = OPERAND_GPR;
		/* Zydis numbers AH..BH 4-7 and SPL..R15B 8-19. */
		if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
			o->high = true;
			o->reg = (u8)(reg - ZYDIS_REGISTER_AH);
		} else if (reg >= ZYDIS_REGISTER_SPL) {
			o->reg = (u8)(reg - ZYDIS_REGISTER_SPL + 4);
		} else {
			o->reg = (u8)(reg - ZYDIS_REGISTER_AL);
		}
		break;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		o->kind = OPERAND_GPR;
		o->reg = (u8)ZydisRegisterGetId(reg);
		break;
	case ZYDIS_REGCLASS_SEGMENT:
		o->kind = OPERAND_SEG;
		o->reg = seg_number(reg);
		break;
	case ZYDIS_REGCLASS_CONTROL:
		o->kind = OPERAND_CR;
		o->reg = (u8)ZydisRegisterGetId(reg);
		break;
	case ZYDIS_REGCLASS_DEBUG:
		o->kind = OPERAND_DR;
		o->reg = (u8)ZydisRegisterGetId(reg);
		break;
	default:
		o->kind = OPERAND_OTHER;
		o->reg = (u8)ZydisRegisterGetId(reg);
		break;
	}
}

static void put_memory(struct insn *out, const ZydisDecodedOperand *z)
{
	u8 scale = z->mem.scale;

	out->has_mem = true;
	out->mem = (struct insn_mem){
		.seg = seg_number(z->mem.segment),
		.base = gpr_number(z->mem.base),
		.index = gpr_number(z->mem.index),
		.shift = scale == 8   ? 3
		         : scale == 4 ? 2
		         : scale == 2 ? 1
		                      : 0,
		.disp = z->mem.disp.value,
	};
	/* Zydis 4.0 takes base 5 with mod 0, which is a displacement alone,
	 * for R13 if REX.B is set and the address 32 bits wide. */
	if (out->z.raw.sib.offset && out->z.raw.modrm.mod == 0 &&
	    out->z.raw.sib.base == 5) {
		out->mem.base = INSN_NO_REG;
		out->mem.disp = out->z.raw.disp.value;
	}
}

static void put_operand(struct insn *out, struct insn_operand *o,
                        const ZydisDecodedOperand *z)
{
	o->size = (u8)(z->size / 8);
	switch (z->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		put_register(o, z->reg.value);
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		o->kind = OPERAND_MEM;
		put_memory(out, z);
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		o->kind = z->imm.is_relative ? OPERAND_REL : OPERAND_IMM;
		o->value = z->imm.value.u;
		break;
	case ZYDIS_OPERAND_TYPE_POINTER:
		o->kind = OPERAND_FAR;
		o->selector = z->ptr.segment;
		o->value = z->ptr.offset;
		break;
	default:
		o->kind = OPERAND_NONE;
		break;
	}
}

/*
 * F3 90 is PAUSE, but with REX.B it is XCHG R8, RAX, whatever Zydis says: let
 * it look at the same with prefixes that mean nothing.
 */
static void correct_pause(const ZydisDecoder *decoder, const u8 *bytes,
                          struct insn *out)
{
	u8 copy[15];

	if (out->z.mnemonic != ZYDIS_MNEMONIC_PAUSE ||
	    !(out->z.attributes & ZYDIS_ATTRIB_HAS_REX) || !out->z.raw.rex.B)
		return;
	memcpy(copy, bytes, out->z.length);
	for (u8 i = 0; i < out->z.length; i++)
		if (copy[i] == 0xf3)
			copy[i] = 0x3e;
	/* The same length, and no less valid. */
	(void)ZydisDecoderDecodeFull(decoder, copy, out->z.length, &out->z,
	                             out->zop);
}

enum insn_status insn_decode(const struct insn_decoder *d, enum insn_mode mode,
                             const u8 *bytes, size_t len, struct insn *out)
{
	size_t n = MIN(len, (size_t)15);
	ZyanStatus st;

	st =
	    ZydisDecoderDecodeFull(&d->mode[mode], bytes, n, &out->z, out->zop);
	if (st == ZYDIS_STATUS_NO_MORE_DATA)
		return n == 15 ? INSN_TOO_LONG : INSN_TRUNCATED;
	if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return INSN_TOO_LONG;
	if (ZYAN_FAILED(st))
		return INSN_INVALID;
	correct_pause(&d->mode[mode], bytes, out);

	out->length = out->z.length;
	out->opsize = (u8)(out->z.operand_width / 8);
	out->asize = (u8)(out->z.address_width / 8);
	out->count = MIN(out->z.operand_count_visible, (u8)4);
	out->lock = out->z.attributes & ZYDIS_ATTRIB_HAS_LOCK;
	out->rep =
	    out->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE);
	out->repne = out->z.attributes & ZYDIS_ATTRIB_HAS_REPNE;
	out->has_mem = false;
	memset(out->op, 0, sizeof(out->op));
	memset(&out->mem, 0, sizeof(out->mem));
	for (unsigned i = 0; i < out->count; i++)
		put_operand(out, &out->op[i], &out->zop[i]);
	if (!out->has_mem)
		for (unsigned i = out->count; i < out->z.operand_count; i++)
			if (out->zop[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
				put_memory(out, &out->zop[i]);
	out->flags_read = out->flags_written = 0;
	if (out->z.cpu_flags) {
		const ZydisAccessedFlags *f = out->z.cpu_flags;

		out->flags_read = f->tested;
		out->flags_written =
		    f->modified | f->set_0 | f->set_1 | f->undefined;
	}
	memcpy(out->bytes, bytes, out->length);
	return INSN_OK;
}

/* An absent row must not read as FEATURE_SSE3, which is 0. */
enum { ABSENT = 0, NONE = 1, FIRST = 2 };
#define FEATURE_NONE (NONE - FIRST)

static const u8 insn_feature[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define INSN(mnemonic, class, feature)                                         \
	[ZYDIS_MNEMONIC_##mnemonic] = (u8)(FEATURE_##feature + FIRST),
#include "engine/x86/isa.def"
};

static const u8 family_feature[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
#define FAMILY(set, feature)                                                   \
	[ZYDIS_ISA_SET_##set] = (u8)(FEATURE_##feature + FIRST),
#include "engine/x86/isa.def"
};

bool insn_allowed(const struct cpuid_model *cpuid, const struct insn *insn)
{
	u8 f = insn_feature[insn->z.mnemonic];

	if (f == ABSENT)
		f = family_feature[insn->z.meta.isa_set];
	if (f == ABSENT)
		return false;
	return f == NONE || cpuid_has(cpuid, (enum cpuid_feature)(f - FIRST));
}
