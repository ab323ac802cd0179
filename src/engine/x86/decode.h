/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.h - one instruction, understood.
 *
 * Zydis decodes; this says it in the terms that the soft engines use:
 * operands resolved to register numbers and address parts, sizes in bytes.
 * Intel SDM vol. 2 ch. 2.
 */
#pragma once

#include <Zydis/Zydis.h>

#include "base/types.h"
#include "guest/cpu.h"

enum insn_operand_kind {
	OPERAND_NONE,
	OPERAND_GPR, /* reg 0-15; high: AH CH DH BH */
	OPERAND_MEM, /* see insn.mem */
	OPERAND_IMM, /* value */
	OPERAND_REL, /* value: displacement from the next instruction */
	OPERAND_FAR, /* selector and value */
	OPERAND_SEG, /* reg: enum cpu_seg */
	OPERAND_CR,
	OPERAND_DR,
	OPERAND_OTHER, /* vector, x87, mask registers */
};

struct insn_operand {
	enum insn_operand_kind kind;
	u8 size; /* bytes */
	u8 reg;
	bool high;
	u16 selector;
	u64 value; /* sign-extended */
};

enum { INSN_NO_REG = 0xff, INSN_RIP = 0xfe };

struct insn_mem {
	u8 seg;         /* enum cpu_seg, overrides applied */
	u8 base, index; /* GPR, INSN_NO_REG; base may be INSN_RIP */
	u8 shift;       /* of the index */
	s64 disp;
};

struct insn {
	u8 length;
	u8 opsize; /* bytes: 1, 2, 4, 8 of the instruction as a whole */
	u8 asize;  /* address size in bytes */
	u8 count;  /* visible operands */
	bool lock, rep, repne, has_mem;
	struct insn_operand op[4];
	struct insn_mem mem;
	u32 flags_read, flags_written; /* RFLAGS_* */
	ZydisDecodedInstruction z;
	ZydisDecodedOperand zop[ZYDIS_MAX_OPERAND_COUNT];
	u8 bytes[15];
};

enum insn_mode { INSN_REAL16, INSN_16, INSN_32, INSN_64 };

enum insn_status {
	INSN_OK,
	INSN_TRUNCATED, /* more bytes are needed */
	INSN_TOO_LONG,  /* #GP */
	INSN_INVALID,   /* #UD; length says nothing */
};

struct insn_decoder {
	ZydisDecoder mode[4];
};
/* amd: AMD's reading where vendors differ (near branches with 66h). */
void insn_decoder_init(struct insn_decoder *d, bool amd);

enum insn_status insn_decode(const struct insn_decoder *d, enum insn_mode mode,
                             const u8 *bytes, size_t len, struct insn *out);

struct cpuid_model;
/* Whether the model has the feature that the instruction belongs to. */
bool insn_allowed(const struct cpuid_model *cpuid, const struct insn *insn);
