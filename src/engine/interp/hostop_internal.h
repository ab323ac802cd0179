/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostop_internal.h - what the builder of stubs and their runner share.
 */
#pragma once

#include "engine/interp/hostop.h"

typedef u64 hostop_entry(const struct hostop_regs *regs, void *buf);

struct hostop {
	hostop_entry *entry;
	u64 insn;       /* where the guest's instruction is: what may fault */
	u64 fault_exit; /* RAX, a hostop_result, is what the stub returns */
	struct hostop_info info;
	u16 size;
	bool waits; /* x87, and raises what is pending before it begins */
	struct hostop *next;
};

/* A stub before it is placed: position-independent code. */
struct hostop_code {
	u8 bytes[512];
	size_t used;
	size_t insn, fault_exit; /* offsets */
	bool overflow;
};

/* false: not an instruction to run so. */
bool hostop_translate(const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands,
                      struct hostop_code *code, struct hostop_info *info,
                      bool *waits);

/* May the instruction run on the host at all? Fills info. */
bool hostop_allowed(const ZydisDecodedInstruction *insn,
                    const ZydisDecodedOperand *operands,
                    struct hostop_info *info, bool *waits);

/* Does the outcome depend on MXCSR, or change it? */
bool hostop_uses_mxcsr(const ZydisDecodedInstruction *insn);
