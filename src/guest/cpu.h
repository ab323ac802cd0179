/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.h - the whole architectural state of one vCPU, whoever runs it.
 *
 * This is the canonical form: every engine gets and sets it, snapshots save
 * it, the debugger reads it. Field order is free to change; the saved form is
 * a field table of its own (guest/state.h). Intel SDM vol. 3 ch. 2-6, AMD APM
 * vol. 2.
 */
#pragma once

#include "base/types.h"

/* clang-format off */
enum cpu_gpr {
	GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI,
	GPR_R8, GPR_R9, GPR_R10, GPR_R11, GPR_R12, GPR_R13, GPR_R14, GPR_R15,
	GPR_COUNT
};
/* clang-format on */

/* The order of the encodings. */
enum cpu_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/*
 * A segment register with its hidden part. attr holds descriptor bits 40-47
 * in 0-7 (type, S, DPL, P) and bits 52-55 in 12-15 (AVL, L, D/B, G), as VMX
 * has them. A null or unusable segment has P clear. limit is in bytes, scaled.
 */
struct cpu_segment {
	u64 base;
	u32 limit;
	u16 selector;
	u16 attr;
};

enum {
	SEG_ATTR_TYPE = 0xf,
	SEG_ATTR_S = 1 << 4,
	SEG_ATTR_DPL_SHIFT = 5,
	SEG_ATTR_DPL = 3 << 5,
	SEG_ATTR_P = 1 << 7,
	SEG_ATTR_AVL = 1 << 12,
	SEG_ATTR_L = 1 << 13,
	SEG_ATTR_DB = 1 << 14,
	SEG_ATTR_G = 1 << 15,
};

struct cpu_table { /* GDTR, IDTR */
	u64 base;
	u16 limit;
};

enum {
	RFLAGS_CF = 1 << 0,
	RFLAGS_FIXED = 1 << 1,
	RFLAGS_PF = 1 << 2,
	RFLAGS_AF = 1 << 4,
	RFLAGS_ZF = 1 << 6,
	RFLAGS_SF = 1 << 7,
	RFLAGS_TF = 1 << 8,
	RFLAGS_IF = 1 << 9,
	RFLAGS_DF = 1 << 10,
	RFLAGS_OF = 1 << 11,
	RFLAGS_IOPL = 3 << 12,
	RFLAGS_IOPL_SHIFT = 12,
	RFLAGS_NT = 1 << 14,
	RFLAGS_RF = 1 << 16,
	RFLAGS_VM = 1 << 17,
	RFLAGS_AC = 1 << 18,
	RFLAGS_VIF = 1 << 19,
	RFLAGS_VIP = 1 << 20,
	RFLAGS_ID = 1 << 21,
	RFLAGS_STATUS = 0x8d5, /* CF PF AF ZF SF OF */
};

#define CR0_PE ((u64)1 << 0)
#define CR0_MP ((u64)1 << 1)
#define CR0_EM ((u64)1 << 2)
#define CR0_TS ((u64)1 << 3)
#define CR0_ET ((u64)1 << 4)
#define CR0_NE ((u64)1 << 5)
#define CR0_WP ((u64)1 << 16)
#define CR0_AM ((u64)1 << 18)
#define CR0_NW ((u64)1 << 29)
#define CR0_CD ((u64)1 << 30)
#define CR0_PG ((u64)1 << 31)

#define CR4_VME ((u64)1 << 0)
#define CR4_PVI ((u64)1 << 1)
#define CR4_TSD ((u64)1 << 2)
#define CR4_DE ((u64)1 << 3)
#define CR4_PSE ((u64)1 << 4)
#define CR4_PAE ((u64)1 << 5)
#define CR4_MCE ((u64)1 << 6)
#define CR4_PGE ((u64)1 << 7)
#define CR4_PCE ((u64)1 << 8)
#define CR4_OSFXSR ((u64)1 << 9)
#define CR4_OSXMMEXCPT ((u64)1 << 10)
#define CR4_UMIP ((u64)1 << 11)
#define CR4_LA57 ((u64)1 << 12)
#define CR4_FSGSBASE ((u64)1 << 16)
#define CR4_PCIDE ((u64)1 << 17)
#define CR4_OSXSAVE ((u64)1 << 18)
#define CR4_SMEP ((u64)1 << 20)
#define CR4_SMAP ((u64)1 << 21)
#define CR4_PKE ((u64)1 << 22)
#define CR4_PKS ((u64)1 << 24)

#define EFER_SCE ((u64)1 << 0)
#define EFER_LME ((u64)1 << 8)
#define EFER_LMA ((u64)1 << 10)
#define EFER_NXE ((u64)1 << 11)
#define EFER_FFXSR ((u64)1 << 14)

/* Exception vectors. */
/* clang-format off */
enum {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5,
	VEC_UD = 6, VEC_NM = 7, VEC_DF = 8, VEC_TS = 10, VEC_NP = 11,
	VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16, VEC_AC = 17,
	VEC_MC = 18, VEC_XM = 19,
	VEC_FIRST_FREE = 32, /* the processor's own end here */
};
/* clang-format on */

/* Page-fault error code. */
enum {
	PF_P = 1 << 0,
	PF_W = 1 << 1,
	PF_U = 1 << 2,
	PF_RSVD = 1 << 3,
	PF_I = 1 << 4,
	PF_PK = 1 << 5,
};

enum {
	MSR_TSC = 0x10,
	MSR_APIC_BASE = 0x1b,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_PAT = 0x277,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_PKRS = 0x6e1,
	MSR_X2APIC_FIRST = 0x800,
	MSR_X2APIC_LAST = 0x8ff,
	MSR_XSS = 0xda0,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

#define XCR0_X87 ((u64)1 << 0)
#define XCR0_SSE ((u64)1 << 1)
#define XCR0_AVX ((u64)1 << 2)
#define XCR0_PKRU ((u64)1 << 9)

enum cpu_mp_state {
	CPU_RUNNING,
	CPU_HALTED,
	CPU_WAIT_INIT, /* a new application processor */
	CPU_WAIT_SIPI,
};

/*
 * XSAVE area in the standard (not compacted) form: legacy, header, AVX. PKRU,
 * which lies elsewhere on each processor, is a field of its own.
 */
enum {
	CPU_XSAVE_SIZE = 832,
	CPU_XSAVE_XMM = 160, /* 16 x 16 bytes */
	CPU_XSAVE_MXCSR = 24,
	CPU_XSAVE_HEADER = 512, /* XSTATE_BV first */
	CPU_XSAVE_YMMH = 576,   /* 16 x 16 bytes */
};

enum { CPU_MTRR_VARIABLE = 8 };

struct cpu_mtrr {
	u64 def_type;
	u64 fixed[11]; /* 250, 258, 259, 268-26f */
	u64 base[CPU_MTRR_VARIABLE];
	u64 mask[CPU_MTRR_VARIABLE];
};

/* What waits to be delivered before the next instruction. */
struct cpu_events {
	bool exception_pending; /* vector, error code, CR2 already in cr2 */
	bool exception_has_error;
	u8 exception_vector;
	u32 exception_error;
	bool nmi_pending;
	bool nmi_masked;       /* until IRET */
	bool interrupt_shadow; /* the instruction after STI or MOV SS */
	bool soft_interrupt;   /* the exception above came of INT n */
	u8 insn_length;        /* of that INT n */
};

struct cpu_state {
	_Alignas(64) u8 xsave[CPU_XSAVE_SIZE];

	u64 gpr[GPR_COUNT];
	u64 rip;
	u64 rflags;
	struct cpu_segment seg[SEG_COUNT];
	struct cpu_segment ldtr;
	struct cpu_segment tr;
	struct cpu_table gdtr;
	struct cpu_table idtr;

	u64 cr0, cr2, cr3, cr4, cr8;
	u64 efer;
	u64 xcr0;
	u64 dr[8]; /* 4 and 5 unused */

	u64 star, lstar, cstar, sfmask;
	u64 kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 tsc_aux;
	u64 pat;
	u64 misc_enable;
	u64 xss;
	u64 pkru, pkrs; /* 32 bits each: rights by protection key */
	u64 tsc;        /* at the moment of the get or set */
	u64 tsc_adjust;
	struct cpu_mtrr mtrr;

	struct cpu_events events;
	enum cpu_mp_state mp_state;
};

/*
 * Power-on state, Intel SDM vol. 3 table 9-1. bsp chooses running or waiting
 * for INIT. cpuid_1_eax goes to RDX, as processors do.
 */
void cpu_state_reset(struct cpu_state *cpu, bool bsp, u32 cpuid_1_eax);

/* What INIT leaves alone is left alone: FPU, MTRRs, most MSRs, TSC. */
void cpu_state_init(struct cpu_state *cpu, u32 cpuid_1_eax);

/* SIPI: real mode at vector * 4 KiB. */
void cpu_state_sipi(struct cpu_state *cpu, u8 vector);

/* CPL: SS.DPL, or 3 in V86 mode, 0 in real mode. */
unsigned cpu_state_cpl(const struct cpu_state *cpu);

/* Registers in words, for a person: several lines into buf, always ended. */
void cpu_state_print(const struct cpu_state *cpu, char *buf, size_t size);
