/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fpu.h - the x87, SSE and AVX state as instructions save and load it.
 *
 * All works on the guest's state in the canonical XSAVE area (guest/cpu.h)
 * and on plain buffers: the caller checks alignment and privilege, and moves
 * the bytes from and to guest memory. While a vCPU runs every component of
 * the canonical area is valid and XSTATE_BV is 7; FIP and FDP are 64 bits
 * wide, and the selectors beside them are not kept: they read as zero, as
 * CPUID.7.EBX[13] says. FIP and FDP are offsets in their segments, but linear
 * in real and virtual-8086 mode. PKRU, which XSAVE takes along, comes beside
 * it.
 *
 * Intel SDM vol. 1 ch. 8.1.10, 10.5, 13; AMD APM vol. 2 ch. 11.
 */
#pragma once

#include "base/types.h"

enum { FPU_MXCSR_MASK = 0xffff, FPU_MXCSR_INIT = 0x1f80 };

static inline bool fpu_mxcsr_valid(u32 mxcsr)
{
	return (mxcsr & ~(u32)FPU_MXCSR_MASK) == 0;
}

/*
 * Make a state from elsewhere (a snapshot, another engine) fit to run:
 * components whose XSTATE_BV bit is clear are initialized, what a processor
 * cannot hold is masked away.
 */
void fpu_state_expand(u8 *xsave);

/* PKRU, and its place in an area of standard form. */
struct fpu_pkru {
	u32 value;
	u16 at;
};

/* Which of XCR0_* are not in their initial state: XGETBV with ECX = 1. */
u64 fpu_in_use(const u8 *xsave, u32 pkru);

/* FNINIT; FNSAVE does it at its end. */
void fpu_init(u8 *xsave);

/* What every MMX instruction but EMMS does: the stack is full, its top 0. */
void fpu_mmx_enter(u8 *xsave);

/* An unmasked x87 exception waits. */
bool fpu_pending(const u8 *xsave);

/* After an x87 instruction (hostop_info.x87_fip). */
void fpu_record(u8 *xsave, u64 fip, u16 fop);
void fpu_record_data(u8 *xsave, u64 fdp); /* it had a memory operand */

/* FNSTENV, FLDENV, FNSAVE, FRSTOR: operand size and mode choose the layout. */
struct fpu_layout {
	bool wide;      /* 32-bit operand size (also in 64-bit mode) */
	bool real_mode; /* or virtual-8086 */
};
enum { FPU_ENV_MAX = 28, FPU_SAVE_MAX = 108 };
static inline size_t fpu_env_size(struct fpu_layout layout)
{
	return layout.wide ? 28 : 14;
}
static inline size_t fpu_save_size(struct fpu_layout layout)
{
	return fpu_env_size(layout) + 80;
}
void fpu_env_store(const u8 *xsave, struct fpu_layout layout, u8 *buf);
void fpu_env_load(u8 *xsave, struct fpu_layout layout, const u8 *buf);
/* What FNSTENV does to the state, once buf is stored. */
void fpu_env_stored(u8 *xsave);
/* Environment and registers; the caller then does fpu_init() for FNSAVE. */
void fpu_save(const u8 *xsave, struct fpu_layout layout, u8 *buf);
void fpu_restore(u8 *xsave, struct fpu_layout layout, const u8 *buf);

/* FXSAVE, FXRSTOR and the XSAVE family. */
struct fpu_mode {
	bool long_mode; /* 64-bit code: 16 vector registers */
	bool rex_w;     /* 64-bit FIP and FDP */
	bool amd;       /* FOP, FIP and FDP are saved as zero, unless an
	                 * unmasked exception waits: APM vol. 2, 11.4.4 */
	bool fast;      /* FXSAVE, FXRSTOR: EFER.FFXSR at CPL 0 in 64-bit code:
	                 * no XMM registers */
};

enum { FPU_FXSAVE_SIZE = 512 };
/* Returns how many of the 512 bytes are to be written to the guest. */
size_t fpu_fxsave(const u8 *xsave, struct fpu_mode mode, u8 *buf);
/* false: #GP, nothing changed. */
bool fpu_fxrstor(u8 *xsave, struct fpu_mode mode, const u8 *buf) MUST_CHECK;

enum fpu_xsave_kind { FPU_XSAVE, FPU_XSAVEOPT, FPU_XSAVEC, FPU_XSAVES };

struct fpu_range {
	u16 offset, size;
};
enum { FPU_RANGES = 8, FPU_HEADER_END = 576, FPU_AREA_MAX = 4096 };

/*
 * rfbm: EDX:EAX and XCR0 (| XSS for XSAVES). area is FPU_AREA_MAX bytes, in
 * which the caller has read the 8 bytes of XSTATE_BV (offset 512); ranges say
 * what to write to the guest, in order. Returns their number.
 */
size_t fpu_xsave(const u8 *xsave, struct fpu_pkru pkru, struct fpu_mode mode,
                 enum fpu_xsave_kind kind, u64 rfbm, u8 *area,
                 struct fpu_range ranges[FPU_RANGES]);
/* How far from its start such an area reaches. */
size_t fpu_xsave_extent(struct fpu_pkru pkru, enum fpu_xsave_kind kind,
                        u64 rfbm);

/*
 * supervisor: XRSTORS. The caller reads FPU_HEADER_END bytes, and then those
 * ranges. false: #GP, nothing changed. enabled: XCR0 (| XSS for XRSTORS);
 * compact: the processor has XSAVEC. pkru->value changes, too.
 */
size_t fpu_xrstor_ranges(struct fpu_pkru pkru, const u8 *area, u64 rfbm,
                         struct fpu_range ranges[FPU_RANGES]);
bool fpu_xrstor(u8 *xsave, struct fpu_pkru *pkru, struct fpu_mode mode,
                bool supervisor, bool compact, u64 rfbm, u64 enabled,
                const u8 *area) MUST_CHECK;
