/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostop.h - one guest instruction, run by the host's own CPU.
 *
 * The guest's instruction set is the host's, so x87, MMX, SSE, AVX, BMI, AES
 * and the like need no second implementation: a stub is built once for a
 * decoded instruction. It loads the registers that the instruction reads from
 * the guest's state, runs a copy of it with the memory operand (if any)
 * pointed at a buffer, and stores what it writes. The caller does all that
 * belongs to the system: #UD, #NM and alignment checks, address computation,
 * reading the operand into the buffer before, writing it to the guest after.
 *
 * Stubs live in a pool: code written through one mapping, run from another,
 * never both writable and executable. Building takes the pool's lock; running
 * takes none.
 */
#pragma once

#include <Zydis/Zydis.h>

#include "base/types.h"

struct error;
struct hostop;
struct hostop_pool;

/* Where a stub finds the guest's registers. All borrowed. */
struct hostop_regs {
	u64 *gpr; /* 16 */
	u16 *
	    flags; /* as LAHF and SETO leave AX: AH = SF ZF AF PF CF, AL = OF */
	/*
	 * CPU_XSAVE_SIZE, standard form, 64-byte aligned. All components are
	 * held as if XSTATE_BV had their bits set, whatever it says: a state
	 * from elsewhere goes through fpu_state_expand() first (fpu.h). FIP,
	 * FDP and FOP are left alone; the caller writes them (x87_fip).
	 */
	u8 *xsave;
};

/* bytes: at most; the host's memory is taken as stubs are made. */
int hostop_pool_create(struct hostop_pool **out, size_t bytes,
                       struct error *err) MUST_CHECK;
void hostop_pool_destroy(struct hostop_pool *pool);

/*
 * NULL if the instruction is not one to run so: privileged, control flow,
 * string, segment or system state, scattered memory (gather, mask moves), or
 * not known. A pool that is full is emptied by hostop_pool_flush(), which the
 * caller may only call when no stub of it will be run again.
 */
const struct hostop *hostop_build(struct hostop_pool *pool,
                                  const ZydisDecodedInstruction *insn,
                                  const ZydisDecodedOperand *operands,
                                  const u8 *bytes, bool *full);
void hostop_pool_flush(struct hostop_pool *pool);

/* What the caller must do around it. */
struct hostop_info {
	u8 mem_size; /* bytes of the memory operand, up to 108; 0: none */
	bool mem_read, mem_write;
	u8 alignment;  /* that the operand must have, or #GP; 0: any */
	bool uses_x87; /* x87 or MMX: #NM on CR0.TS|EM, #MF when pending */
	bool uses_sse; /* #UD on CR0.EM or no OSFXSR; #NM on TS */
	bool uses_avx; /* #UD unless OSXSAVE and XCR0 say so */
	bool x87_fip;  /* updates FIP, FDP, FOP */
};
const struct hostop_info *hostop_info(const struct hostop *op);

enum hostop_result {
	HOSTOP_OK,
	HOSTOP_SIMD_FAULT, /* unmasked exception: MXCSR updated, nothing else
	                    * (CVTPI2PS and its like: in MMX mode, too) */
	HOSTOP_X87_FAULT,  /* a pending x87 exception: #MF, nothing changed */
	HOSTOP_UD, /* the host's CPU refuses the encoding: #UD, nothing changed
	            */
};

/* buf: mem_size bytes, 64-byte aligned, the operand. */
enum hostop_result hostop_run(const struct hostop *op,
                              const struct hostop_regs *regs, void *buf);

/*
 * The handler for SIGFPE and SIGILL that hostop_run relies on, installed once
 * per process, by main(). It touches faults inside stubs only; others go to
 * the handler that was there before. A second call does nothing.
 */
int hostop_install_signals(struct error *err) MUST_CHECK;
