/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid.h - which processor a guest sees.
 *
 * A model is what the engine implements and the host has (user instructions
 * run on the host's own units), never more. Immutable once made; any thread.
 * Intel SDM vol. 2A CPUID, AMD APM vol. 3 appendix E, Linux
 * Documentation/virt/kvm/x86/cpuid.rst for the leaves at 0x40000000.
 */
#pragma once

#include "base/types.h"

struct cpuid_config {
	unsigned cpus; /* one package, one core each */
	u64 tsc_hz;
	bool kvm_leaves;  /* paravirtual clock and the rest */
	u32 kvm_features; /* KVM_FEATURE_* bits the machine implements */
	bool baseline;    /* x86-64-v2 only: a portable machine */
	/* Also what the host lacks, where soft engines need nothing of it. */
	bool emulated;
};

enum { CPUID_XSAVE_MAX = 4096 }; /* bytes of the largest XSAVE area */

struct cpuid_regs {
	u32 eax, ebx, ecx, edx;
};

struct cpuid_model;

/* For the soft engines: host features masked by what interp implements, and
 * some that it has without the host, if the config says so. */
struct cpuid_model *
cpuid_model_create(const struct cpuid_config *config) MUST_CHECK;
void cpuid_model_destroy(struct cpuid_model *model);

/* One CPUID instruction. cr4 and xcr0 show in OSXSAVE, OSPKE and leaf 0xd. */
void cpuid_query(const struct cpuid_model *model, u32 apic_id, u64 cr4,
                 u64 xcr0, u32 leaf, u32 subleaf, struct cpuid_regs *out);

/* Of PKRU in an XSAVE area of standard form, if there is a PKRU. */
u32 cpuid_pkru_offset(const struct cpuid_model *model);

/* Walk every leaf and subleaf (for kvm's table): false at the end. */
bool cpuid_leaf_at(const struct cpuid_model *model, size_t i, u32 *leaf,
                   u32 *subleaf, bool *has_subleaf, struct cpuid_regs *out);

/* Features by name, as the interpreter's decoder must know: an instruction
 * whose feature is absent is #UD. */
enum cpuid_feature {
	FEATURE_SSE3,
	FEATURE_PCLMUL,
	FEATURE_SSSE3,
	FEATURE_FMA,
	FEATURE_CX16,
	FEATURE_PCID,
	FEATURE_SSE41,
	FEATURE_SSE42,
	FEATURE_X2APIC,
	FEATURE_MOVBE,
	FEATURE_POPCNT,
	FEATURE_TSC_DEADLINE,
	FEATURE_AES,
	FEATURE_XSAVE,
	FEATURE_AVX,
	FEATURE_F16C,
	FEATURE_RDRAND,
	FEATURE_FSGSBASE,
	FEATURE_BMI1,
	FEATURE_AVX2,
	FEATURE_SMEP,
	FEATURE_BMI2,
	FEATURE_ERMS,
	FEATURE_INVPCID,
	FEATURE_RDSEED,
	FEATURE_ADX,
	FEATURE_SMAP,
	FEATURE_CLFLUSHOPT,
	FEATURE_CLWB,
	FEATURE_SHA,
	FEATURE_UMIP,
	FEATURE_PKU,
	FEATURE_VAES,
	FEATURE_VPCLMUL,
	FEATURE_RDPID,
	FEATURE_PKS,
	FEATURE_FSRM,
	FEATURE_XSAVEOPT,
	FEATURE_XSAVEC,
	FEATURE_XGETBV1,
	FEATURE_XSAVES,
	FEATURE_LAHF64,
	FEATURE_LZCNT,
	FEATURE_SSE4A,
	FEATURE_MISALIGNSSE,
	FEATURE_PREFETCHW,
	FEATURE_SYSCALL,
	FEATURE_NX,
	FEATURE_MMXEXT,
	FEATURE_PAGE1G,
	FEATURE_RDTSCP,
	FEATURE_LM,
	FEATURE_INVARIANT_TSC,
	FEATURE_CLZERO,
	FEATURE_COUNT
};
bool cpuid_has(const struct cpuid_model *model, enum cpuid_feature feature);
