/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn.c - which instructions host code does itself.
 *
 * A list of what is allowed: the rest is the interpreter's, at a cost, but
 * exactly. What hostop.h may run on the host, vector code may be copied.
 */
#include "engine/bt/bt.h"
#include "engine/interp/hostop_internal.h"
#include "engine/x86/decode.h"

/* Integer instructions that are copied, operands moved. */
static bool copyable(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_LEA:
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
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
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
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_MOVBE:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_ADCX:
	case ZYDIS_MNEMONIC_ADOX:
	case ZYDIS_MNEMONIC_MULX:
	case ZYDIS_MNEMONIC_RORX:
	case ZYDIS_MNEMONIC_SARX:
	case ZYDIS_MNEMONIC_SHLX:
	case ZYDIS_MNEMONIC_SHRX:
	case ZYDIS_MNEMONIC_ANDN:
	case ZYDIS_MNEMONIC_BEXTR:
	case ZYDIS_MNEMONIC_BLSI:
	case ZYDIS_MNEMONIC_BLSR:
	case ZYDIS_MNEMONIC_BLSMSK:
	case ZYDIS_MNEMONIC_BZHI:
	case ZYDIS_MNEMONIC_PDEP:
	case ZYDIS_MNEMONIC_PEXT:
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR64:
		return true;
	default:
		return m >= ZYDIS_MNEMONIC_CMOVB && m <= ZYDIS_MNEMONIC_CMOVZ;
	}
}

static bool is_setcc(ZydisMnemonic m)
{
	return m >= ZYDIS_MNEMONIC_SETB && m <= ZYDIS_MNEMONIC_SETZ &&
	       m != ZYDIS_MNEMONIC_SETSSBSY;
}

/* Sizes that a probe is made for. */
static bool size_fits(unsigned bytes)
{
	return bytes && bytes <= 32 && !(bytes & (bytes - 1));
}

static bool copyable_vector(const struct insn *in)
{
	struct hostop_info info;
	bool waits;

	if (!hostop_allowed(&in->z, in->zop, &info, &waits))
		return false;
	return (info.uses_sse || info.uses_avx) && !info.uses_x87;
}

static bool uses_gpr_number(const ZydisDecodedOperand *op, ZydisRegister r)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
	                                        op->reg.value) == r;
}

/* What the encoding of a copy can't say. */
static bool operands_fit(const struct insn *in)
{
	bool high = false, other = false;

	for (unsigned i = 0; i < in->z.operand_count_visible; i++) {
		const ZydisDecodedOperand *op = &in->zop[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
				return false; /* moffs, implied */
			if (op->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
			    !size_fits(op->size / 8))
				return false;
			if (op->mem.type != ZYDIS_MEMOP_TYPE_MEM &&
			    in->z.mnemonic != ZYDIS_MNEMONIC_LEA)
				return false; /* scattered */
		}
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(op->reg.value)) {
		case ZYDIS_REGCLASS_GPR8:
			if (op->reg.value >= ZYDIS_REGISTER_AH &&
			    op->reg.value <= ZYDIS_REGISTER_BH)
				high = true;
			break;
		case ZYDIS_REGCLASS_GPR16:
		case ZYDIS_REGCLASS_GPR32:
		case ZYDIS_REGCLASS_GPR64:
		case ZYDIS_REGCLASS_XMM:
		case ZYDIS_REGCLASS_YMM:
			break;
		default:
			return false; /* segment, control, MMX ... */
		}
		if (uses_gpr_number(op, ZYDIS_REGISTER_RSP))
			other = true;
	}
	/* AH and a REX prefix exclude each other; beside memory AH goes through
	 * R15. */
	return !(high && other) && bt_registers_fit(in);
}

static bool control_flow(const struct insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
		return in->op[0].kind == OPERAND_REL ||
		       ((in->op[0].kind == OPERAND_GPR ||
		         in->op[0].kind == OPERAND_MEM) &&
		        in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR &&
		        in->op[0].size == bt_word(in));
	case ZYDIS_MNEMONIC_RET:
		return in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR &&
		       in->z.operand_width == bt_word(in) * 8;
	default:
		return bt_condition(in) >= 0;
	}
}

int bt_condition(const struct insn *in)
{
	if (in->z.meta.category != ZYDIS_CATEGORY_COND_BR)
		return -1;
	if (in->z.opcode_map == ZYDIS_OPCODE_MAP_0F &&
	    (in->z.opcode & 0xf0) == 0x80)
		return in->z.opcode & 15;
	if (in->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    (in->z.opcode & 0xf0) == 0x70)
		return in->z.opcode & 15;
	return -1; /* LOOP, JRCXZ */
}

static bool stack(const struct insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		return in->z.operand_width == bt_word(in) * 8 &&
		       (in->op[0].kind == OPERAND_GPR ||
		        in->op[0].kind == OPERAND_IMM ||
		        in->op[0].kind == OPERAND_MEM);
	case ZYDIS_MNEMONIC_POP:
		return in->z.operand_width == bt_word(in) * 8 &&
		       in->op[0].kind == OPERAND_GPR;
	case ZYDIS_MNEMONIC_LEAVE:
		return in->z.operand_width == bt_word(in) * 8;
	default:
		return false;
	}
}

static bool is_integer(const struct insn *in)
{
	return copyable(in->z.mnemonic) || is_setcc(in->z.mnemonic);
}

bool bt_uses_vector(const struct insn *in)
{
	return !control_flow(in) && !stack(in) && !is_integer(in) &&
	       !bt_can_system(0, in) && !bt_can_system(KEY_USER, in);
}

bool bt_can(const struct icpu *cpu, const struct insn *in)
{
	ZydisMnemonic m = in->z.mnemonic;

	if (in->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
	                        ZYDIS_ATTRIB_HAS_REPNE))
		return false;
	if (!insn_allowed(cpu->cpuid, in))
		return false;
	if (bt_word(in) == 4 && !bt_may_copy32(in))
		return false;
	if (control_flow(in))
		return true;
	if (stack(in))
		return in->asize == bt_word(in);
	/* A bit number in a register reaches beyond the operand. */
	if ((m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS ||
	     m == ZYDIS_MNEMONIC_BTR || m == ZYDIS_MNEMONIC_BTC) &&
	    in->op[0].kind == OPERAND_MEM && in->op[1].kind != OPERAND_IMM)
		return false;
	/* 0F 0D with a register is no NOP everywhere. */
	if (m == ZYDIS_MNEMONIC_NOP && in->z.opcode == 0x0d)
		return false;
	if (bt_word(in) == 4 &&
	    (in->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	     !is_integer(in)) &&
	    !bt_same_in_64(bt_of(cpu)->decoder, in))
		return false;
	if (is_integer(in))
		return operands_fit(in);
	return !cpu->fpu_deny && operands_fit(in) && copyable_vector(in);
}
