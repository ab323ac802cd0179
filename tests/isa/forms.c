/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forms.c - every user-level encoding that CPUID may advertise.
 *
 * The opcode maps are walked with all prefixes, and the decoder says what is
 * there. Encodings that differ only in registers, displacement or immediate
 * are one form.
 */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "engine/x86/cpuid.h"
#include "tests/isa/isa.h"

struct walk {
	struct isa_forms *forms;
	u64 *seen; /* open hash of keys */
	size_t slots;
};

static bool mnemonic_excluded(ZydisMnemonic m)
{
	switch (m) {
	/* Different each time, or on each machine. */
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	/* They would leave the sandbox, or take the host's TLS away. */
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
	case ZYDIS_MNEMONIC_VMFUNC:
	case ZYDIS_MNEMONIC_UMONITOR:
	/* POPF comes with a value that was chosen: generate.c. */
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		return true;
	default:
		return false;
	}
}

/* Sets by their feature; -1: none of ours. FEATURE_COUNT: all have it. */
static int feature_of(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_POPCNT:
		return FEATURE_POPCNT;
	case ZYDIS_ISA_SET_CMPXCHG16B:
		return FEATURE_CX16;
	case ZYDIS_ISA_SET_SSE42:
		return FEATURE_SSE42;
	default:
		break;
	}
	switch (insn->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_X87:
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_PAUSE:
	case ZYDIS_ISA_EXT_CLFSH:
		return FEATURE_COUNT;
	case ZYDIS_ISA_EXT_SSE3:
		return FEATURE_SSE3;
	case ZYDIS_ISA_EXT_SSSE3:
		return FEATURE_SSSE3;
	case ZYDIS_ISA_EXT_SSE4:
		return FEATURE_SSE41;
	case ZYDIS_ISA_EXT_SSE4A:
		return FEATURE_SSE4A;
	case ZYDIS_ISA_EXT_AVX:
		return FEATURE_AVX;
	case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_AVX2GATHER:
		return FEATURE_AVX2;
	case ZYDIS_ISA_EXT_FMA:
		return FEATURE_FMA;
	case ZYDIS_ISA_EXT_F16C:
		return FEATURE_F16C;
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_AVXAES:
		return FEATURE_AES;
	case ZYDIS_ISA_EXT_VAES:
		return FEATURE_VAES;
	case ZYDIS_ISA_EXT_PCLMULQDQ:
		return FEATURE_PCLMUL;
	case ZYDIS_ISA_EXT_VPCLMULQDQ:
		return FEATURE_VPCLMUL;
	case ZYDIS_ISA_EXT_SHA:
		return FEATURE_SHA;
	case ZYDIS_ISA_EXT_BMI1:
		return FEATURE_BMI1;
	case ZYDIS_ISA_EXT_BMI2:
		return FEATURE_BMI2;
	case ZYDIS_ISA_EXT_LZCNT:
		return FEATURE_LZCNT;
	case ZYDIS_ISA_EXT_ADOX_ADCX:
		return FEATURE_ADX;
	case ZYDIS_ISA_EXT_MOVBE:
		return FEATURE_MOVBE;
	case ZYDIS_ISA_EXT_RDRAND:
		return FEATURE_RDRAND;
	case ZYDIS_ISA_EXT_RDSEED:
		return FEATURE_RDSEED;
	case ZYDIS_ISA_EXT_RDWRFSGS:
		return FEATURE_FSGSBASE;
	case ZYDIS_ISA_EXT_AMD3DNOW_PREFETCH:
		return FEATURE_PREFETCHW;
	case ZYDIS_ISA_EXT_CLFLUSHOPT:
		return FEATURE_CLFLUSHOPT;
	case ZYDIS_ISA_EXT_CLWB:
		return FEATURE_CLWB;
	case ZYDIS_ISA_EXT_CLZERO:
		return FEATURE_CLZERO;
	case ZYDIS_ISA_EXT_XSAVE:
		return FEATURE_XSAVE;
	case ZYDIS_ISA_EXT_XSAVEOPT:
		return FEATURE_XSAVEOPT;
	case ZYDIS_ISA_EXT_XSAVEC:
		return FEATURE_XSAVEC;
	default:
		return -1;
	}
}

static bool touches_segment(const ZydisDecodedInstruction *insn,
                            const ZydisDecodedOperand *ops)
{
	size_t i;

	for (i = 0; i < insn->operand_count; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_POINTER)
			return true;
		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(ops[i].reg.value) ==
		        ZYDIS_REGCLASS_SEGMENT &&
		    (ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return true;
	}
	return false;
}

bool isa_insn_wanted(const struct cpuid_model *cpuid,
                     const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *ops)
{
	int feature = feature_of(insn);

	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (feature < 0 || mnemonic_excluded(insn->mnemonic))
		return false;
	if (feature != FEATURE_COUNT &&
	    !cpuid_has(cpuid, (enum cpuid_feature)feature))
		return false;
	if (insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return false;
	/* What 0x66 does to a near branch differs between vendors; where it
	 * cuts RIP short there is nothing to go on with. */
	if (insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
	    (insn->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE))
		return false;
	return !touches_segment(insn, ops);
}

static u64 mix(u64 h, u64 v)
{
	h ^= v + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
	return h * 0xff51afd7ed558ccdu;
}

static bool encoded_in(const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops,
                       ZydisOperandEncoding encoding)
{
	size_t i;

	for (i = 0; i < insn->operand_count; i++) {
		if (ops[i].encoding == encoding &&
		    (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER ||
		     ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY))
			return true;
	}
	return false;
}

static bool has_memory(const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops)
{
	size_t i;

	for (i = 0; i < insn->operand_count; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return true;
	}
	return false;
}

u64 isa_form_key(const ZydisDecodedInstruction *insn,
                 const ZydisDecodedOperand *ops)
{
	const u64 prefixes = ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP |
	                     ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE |
	                     ZYDIS_ATTRIB_HAS_OPERANDSIZE;
	u64 h = mix(insn->mnemonic, insn->attributes & prefixes);
	bool in_opcode = encoded_in(insn, ops, ZYDIS_OPERAND_ENCODING_OPCODE);
	size_t i;

	h = mix(h, insn->machine_mode);
	h = mix(h, insn->encoding);
	h = mix(h, insn->opcode_map);
	h = mix(h, in_opcode ? insn->opcode & 0xf8 : insn->opcode);
	h = mix(h, insn->operand_width);
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		h = mix(h, insn->raw.vex.pp);
		h = mix(h, insn->raw.vex.L * 2u + insn->raw.vex.W);
	}
	if ((insn->opcode & 0xf8) == 0xd8 &&
	    insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
		h = mix(h,
		        insn->raw.modrm.reg * 4u + (insn->raw.modrm.mod == 3));
	for (i = 0; i < insn->operand_count_visible; i++) {
		h = mix(h, ops[i].type);
		h = mix(h, ops[i].size);
		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			h = mix(h, ZydisRegisterGetClass(ops[i].reg.value));
	}
	return h;
}

static bool is_new(struct walk *w, u64 key)
{
	size_t i = key & (w->slots - 1);

	while (w->seen[i]) {
		if (w->seen[i] == key)
			return false;
		i = (i + 1) & (w->slots - 1);
	}
	w->seen[i] = key;
	return true;
}

static void append(struct isa_forms *forms, const struct isa_form *form)
{
	if (forms->count == forms->room) {
		forms->room = forms->room ? forms->room * 2 : 4096;
		forms->form =
		    realloc(forms->form, forms->room * sizeof(*forms->form));
		if (!forms->form)
			abort();
	}
	forms->form[forms->count++] = *form;
}

static size_t put_candidate(const struct isa_form *f, u8 *p)
{
	static const u8 filler[] = { 0x0b, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
	size_t n = 0, i;

	for (i = 0; i < f->prefixes; i++)
		p[n++] = f->prefix[i];
	if (f->vex) {
		p[n++] = 0xc4;
		p[n++] = 0xe0 | f->map;
		p[n++] = (u8)(f->vex_w << 7 | 0x78 | f->vex_l << 2 | f->vex_pp);
	} else {
		if (f->rex_w)
			p[n++] = 0x48;
		if (f->map)
			p[n++] = 0x0f;
		if (f->map == 2)
			p[n++] = 0x38;
		if (f->map == 3)
			p[n++] = 0x3a;
	}
	p[n++] = f->opcode;
	p[n++] = (u8)((f->memory ? 0 : 0xc0) | f->reg << 3 | f->rm);
	memcpy(p + n, filler, sizeof(filler));
	return MIN(n + sizeof(filler), (size_t)15);
}

/* false: there is no ModRM byte, so its other values are the same. */
static bool try(struct walk *w, struct isa_form f)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	u8 bytes[32];
	size_t n = put_candidate(&f, bytes);

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&w->forms->decoder[f.mode32],
	                                         bytes, n, &insn, ops)))
		return true;
	f.modrm = (insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
	/* MOV to and from CR has ModRM, but its mod says nothing. */
	if (!f.modrm || !has_memory(&insn, ops))
		f.memory = false;
	if (!isa_insn_wanted(w->forms->cpuid, &insn, ops))
		return f.modrm;
	f.mnemonic = insn.mnemonic;
	f.key = isa_form_key(&insn, ops);
	f.vsib = f.memory && f.rm == 4;
	f.branch = insn.meta.category == ZYDIS_CATEGORY_COND_BR ||
	           insn.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
	           insn.meta.category == ZYDIS_CATEGORY_CALL ||
	           insn.meta.category == ZYDIS_CATEGORY_RET;
	f.in_opcode = encoded_in(&insn, ops, ZYDIS_OPERAND_ENCODING_OPCODE);
	if (encoded_in(&insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_REG))
		f.reg = -1;
	if (f.memory || encoded_in(&insn, ops, ZYDIS_OPERAND_ENCODING_MODRM_RM))
		f.rm = -1;
	/* Forms that name registers in the opcode are met as one. */
	if (is_new(w, f.key + (u64)(f.reg + 1) * 3 + (u64)(f.rm + 1) * 59))
		append(w->forms, &f);
	return f.modrm;
}

/* In 64-bit mode these bytes are prefixes, and 0F the way to other maps. */
static bool is_prefix(const struct isa_form *f)
{
	static const u8 prefixes[] = { 0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64,
		                       0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3 };

	if (f->vex || f->map)
		return false;
	return memchr(prefixes, f->opcode, sizeof(prefixes)) ||
	       (!f->mode32 && (f->opcode & 0xf0) == 0x40);
}

static void try_modrm(struct walk *w, struct isa_form f)
{
	bool wide =
	    !f.vex && ((f.map == 0 && (f.opcode & 0xf8) == 0xd8) ||
	               (f.map == 1 && (f.opcode == 0x01 || f.opcode == 0xae ||
	                               f.opcode == 0xc7)));
	bool vsib = f.vex && f.map == 2 && (f.opcode & 0xfc) == 0x90;
	unsigned reg, rm;

	for (reg = 0; reg < 8; reg++) {
		f.reg = (s8)reg;
		f.memory = true;
		f.rm = vsib ? 4 : 3;
		if (!try(w, f))
			return;
		f.memory = false;
		for (rm = 0; rm < (wide ? 8u : 1u); rm++) {
			f.rm = (s8)rm;
			try(w, f);
		}
	}
}

static void walk_legacy(struct walk *w, bool mode32)
{
	static const struct {
		u8 count, prefix[2];
	} sets[] = {
		{ 0, { 0 } },    { 1, { 0x66 } },       { 1, { 0xf2 } },
		{ 1, { 0xf3 } }, { 2, { 0x66, 0xf2 } }, { 2, { 0x66, 0xf3 } },
		{ 1, { 0xf0 } }, { 2, { 0xf0, 0x66 } },
	};
	struct isa_form f;
	unsigned map, opcode, set, rex;

	for (map = 0; map < 4; map++)
		for (opcode = 0; opcode < 256; opcode++)
			for (set = 0; set < ARRAY_SIZE(sets); set++)
				for (rex = 0; rex < (mode32 ? 1u : 2u); rex++) {
					memset(&f, 0, sizeof(f));
					f.mode32 = mode32;
					f.map = (u8)map;
					f.opcode = (u8)opcode;
					f.prefixes = sets[set].count;
					memcpy(f.prefix, sets[set].prefix, 2);
					f.rex_w = rex;
					if (!is_prefix(&f))
						try_modrm(w, f);
				}
}

static void walk_vex(struct walk *w, bool mode32)
{
	struct isa_form f;
	unsigned map, opcode, bits;

	for (map = 1; map < 4; map++)
		for (opcode = 0; opcode < 256; opcode++)
			for (bits = 0; bits < 16; bits++) {
				memset(&f, 0, sizeof(f));
				f.mode32 = mode32;
				f.vex = true;
				f.map = (u8)map;
				f.opcode = (u8)opcode;
				f.vex_pp = bits & 3;
				f.vex_l = bits >> 2 & 1;
				f.vex_w = bits >> 3 & 1;
				try_modrm(w, f);
			}
}

void isa_forms_build(struct isa_forms *forms, bool with32)
{
	static const struct cpuid_config config = { .cpus = 1,
		                                    .tsc_hz = 1000000000 };
	struct walk w = { .forms = forms, .slots = 1 << 16 };

	memset(forms, 0, sizeof(*forms));
	ZydisDecoderInit(&forms->decoder[0], ZYDIS_MACHINE_MODE_LONG_64,
	                 ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&forms->decoder[1], ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
	                 ZYDIS_STACK_WIDTH_32);
	forms->cpuid = cpuid_model_create(&config);
	w.seen = calloc(w.slots, sizeof(*w.seen));
	if (!w.seen)
		abort();
	walk_legacy(&w, false);
	walk_vex(&w, false);
	if (with32) {
		walk_legacy(&w, true);
		walk_vex(&w, true);
	}
	free(w.seen);
}

void isa_forms_free(struct isa_forms *forms)
{
	cpuid_model_destroy(forms->cpuid);
	free(forms->form);
}
