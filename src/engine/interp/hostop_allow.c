/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostop_allow.c - which instructions may run on the host, and what the
 * caller must know of them.
 *
 * A list of what is allowed, not of what is not: an instruction that the
 * decoder learns of later stays out until it is named here.
 */
#include <cpuid.h>
#include <string.h>

#include "engine/interp/hostop_internal.h"

static bool is_x87(const ZydisDecodedInstruction *insn)
{
	return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	       (insn->opcode & 0xf8) == 0xd8;
}

/* Whole environments have layouts of their own: fpu.c does them. */
static bool x87_allowed(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNINIT:
		return false;
	default:
		return true;
	}
}

static bool x87_is_control(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return true;
	default:
		return false;
	}
}

/* Control instructions without a wait look at no pending exception. */
static bool x87_waits(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_FLDCW || !x87_is_control(m);
}

/* Ordinary integer instructions. DIV and IDIV are not here: they fault. */
static bool base_allowed(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
		return true;
	default:
		return insn->meta.category == ZYDIS_CATEGORY_CMOV ||
		       insn->meta.category == ZYDIS_CATEGORY_SETCC;
	}
}

static bool vector_allowed(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR:
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_CLFLUSH:
		return false;
	default:
		return insn->meta.category != ZYDIS_CATEGORY_PREFETCH;
	}
}

static bool set_allowed(const ZydisDecodedInstruction *insn)
{
	if (is_x87(insn))
		return x87_allowed(insn->mnemonic);
	switch (insn->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_LONGMODE:
		return base_allowed(insn);
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSE4A:
	case ZYDIS_ISA_EXT_AVX:
	case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_FMA:
	case ZYDIS_ISA_EXT_F16C:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_AVXAES:
	case ZYDIS_ISA_EXT_VAES:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_VPCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
		return vector_allowed(insn);
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_ADOX_ADCX:
	case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_RDRAND:
	case ZYDIS_ISA_EXT_RDSEED:
		return true;
	default:
		return false;
	}
}

/* Legacy forms that take 16 bytes from any address. */
static bool legacy_unaligned(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return true;
	default:
		return false;
	}
}

static bool vex_aligned(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
		return true;
	default:
		return false;
	}
}

/* AMD's processors take SHA operands from any address. */
static bool sha_unaligned(const ZydisDecodedInstruction *insn)
{
	u32 a, b, c, d;

	if (insn->meta.isa_ext != ZYDIS_ISA_EXT_SHA)
		return false;
	__cpuid(0, a, b, c, d);
	return b == signature_AMD_ebx;
}

static u8 alignment_of(const ZydisDecodedInstruction *insn, unsigned size)
{
	if (is_x87(insn))
		return 0;
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return vex_aligned(insn->mnemonic) ? (u8)size : 0;
	return size == 16 && !legacy_unaligned(insn->mnemonic) &&
	               !sha_unaligned(insn)
	           ? 16
	           : 0;
}

static bool memory_allowed(const ZydisDecodedInstruction *insn,
                           const ZydisDecodedOperand *operands, size_t i,
                           struct hostop_info *info)
{
	const ZydisDecodedOperand *op = &operands[i];

	if (info->mem_size || op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
		return false;
	if (op->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
	    op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
		return false;
	if (op->size == 0 || op->size > 256)
		return false;
	/* A bit string: the operand may lie far from where it is said to. */
	if (insn->meta.category == ZYDIS_CATEGORY_BITBYTE &&
	    (insn->mnemonic == ZYDIS_MNEMONIC_BT ||
	     insn->mnemonic == ZYDIS_MNEMONIC_BTS ||
	     insn->mnemonic == ZYDIS_MNEMONIC_BTR ||
	     insn->mnemonic == ZYDIS_MNEMONIC_BTC) &&
	    operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	info->mem_size = (u8)(op->size / 8);
	info->mem_read = (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
	info->mem_write = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
	/* FIST and its like store nothing if they raise an exception. */
	if (info->mem_write && is_x87(insn))
		info->mem_read = true;
	info->alignment = alignment_of(insn, info->mem_size);
	return true;
}

static bool register_allowed(const ZydisDecodedInstruction *insn,
                             ZydisRegister reg, struct hostop_info *info)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
	case ZYDIS_REGCLASS_FLAGS:
		return true;
	case ZYDIS_REGCLASS_X87:
	case ZYDIS_REGCLASS_MMX:
		info->uses_x87 = true;
		return true;
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
		if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
			info->uses_avx = true;
		else
			info->uses_sse = true;
		return true;
	default:
		return reg == ZYDIS_REGISTER_X87CONTROL ||
		       reg == ZYDIS_REGISTER_X87STATUS ||
		       reg == ZYDIS_REGISTER_X87TAG ||
		       reg == ZYDIS_REGISTER_MXCSR;
	}
}

/* CVTSD2SI from memory and its like: SSE, but no vector register to see. */
static bool converts_memory(const ZydisDecodedInstruction *insn,
                            const struct hostop_info *info)
{
	const char *name = ZydisMnemonicGetString(insn->mnemonic);

	return info->mem_size &&
	       (!strncmp(name, "cvt", 3) || !strncmp(name, "vcvt", 4));
}

bool hostop_allowed(const ZydisDecodedInstruction *insn,
                    const ZydisDecodedOperand *operands,
                    struct hostop_info *info, bool *waits)
{
	size_t i;

	memset(info, 0, sizeof(*info));
	*waits = false;
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (!set_allowed(insn))
		return false;
	for (i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &operands[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (!memory_allowed(insn, operands, i, info))
				return false;
		} else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (!register_allowed(insn, op->reg.value, info))
				return false;
		} else if (op->type == ZYDIS_OPERAND_TYPE_POINTER) {
			return false;
		}
	}
	if (is_x87(insn)) {
		info->uses_x87 = true;
		info->x87_fip = !x87_is_control(insn->mnemonic);
		*waits = x87_waits(insn->mnemonic);
	} else if (converts_memory(insn, info)) {
		if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
			info->uses_avx = true;
		else
			info->uses_sse = true;
	} else if (insn->mnemonic == ZYDIS_MNEMONIC_EMMS) {
		info->uses_x87 = true;
	} else if (insn->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
	           insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL) {
		info->uses_avx = true;
	}
	if (info->uses_x87 && !is_x87(insn))
		*waits = true; /* MMX raises pending x87 exceptions too */
	return true;
}

/*
 * Said of all vector instructions but those known to move, shuffle and count
 * bits only: a name too many costs a little time, one too few is an error.
 */
bool hostop_uses_mxcsr(const ZydisDecodedInstruction *insn)
{
	static const char *const without[] = {
		"p",     "mov",       "and",  "or",   "xor",  "shuf",  "unpck",
		"blend", "ins",       "extr", "aes",  "sha",  "lddqu", "emms",
		"crc32", "broadcast", "perm", "test", "zero",
	};
	const char *name = ZydisMnemonicGetString(insn->mnemonic);
	size_t i;

	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && name[0] == 'v')
		name++;
	for (i = 0; i < ARRAY_SIZE(without); i++) {
		if (!strncmp(name, without[i], strlen(without[i])))
			return false;
	}
	return true;
}
