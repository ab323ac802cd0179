/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid_leaves.h - inside of a CPUID model.
 */
#pragma once

#include "engine/x86/cpuid.h"

struct cpuid_model {
	struct cpuid_config config;
	bool has[FEATURE_COUNT];
	bool amd;      /* AMD's leaves and AMD's habits */
	u32 vendor[3]; /* in the order of the text */
	u32 signature; /* leaf 1 EAX */
	u32 brand[12];
	u8 phys_bits;
	u16 pkru_at;  /* offset of PKRU in a standard XSAVE area */
	u8 apic_bits; /* of an APIC ID, to tell the cores apart */
	bool xsave_error_pointers, ffxsr, tsc_adjust, lfence_serializes;
	/*
	 * What AMD's later processors say they do not suffer from. srso_no is
	 * the soft engines' own: what a kernel does about its returns hangs
	 * on where they lie and what the processor makes of them, and here
	 * neither is the guest's. It protects nothing and costs much
	 * (docs/decisions/0014). kvm shows what the hardware says.
	 */
	bool srso_no, tsa_no;
};

enum cpuid_reg { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

/* Where a feature is shown; flags are cpuid.c's own. */
struct cpuid_bit {
	u32 leaf;
	u8 subleaf, reg, bit, flags;
};
extern const struct cpuid_bit cpuid_bits[FEATURE_COUNT];

/* Can PKRU lie there in an XSAVE area? */
bool cpuid_pkru_fits(u32 offset);

/* A feature says nothing without those that it builds on. */
void cpuid_drop_orphans(struct cpuid_model *m);

/* The feature bits of one leaf, ORed in. */
void cpuid_add_features(const struct cpuid_model *m, u32 leaf, u32 subleaf,
                        struct cpuid_regs *out);
