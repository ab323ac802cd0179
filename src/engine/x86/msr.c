/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msr.c - model-specific registers.
 */
#include "engine/x86/msr.h"

#include <x86intrin.h>

#include "engine/x86/cpuid.h"
#include "engine/x86/keys.h"

enum {
	MSR_PLATFORM_ID = 0x17,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_BIOS_UPDATE = 0x79,
	MSR_BIOS_SIGN = 0x8b,
	MSR_MTRRCAP = 0xfe,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_DEBUGCTL = 0x1d9,
	MSR_MTRR_VARIABLE = 0x200,
	MSR_MTRR_FIX64K = 0x250,
	MSR_MTRR_FIX16K = 0x258,
	MSR_MTRR_FIX4K = 0x268,
	MSR_MTRR_DEF = 0x2ff,
};
#define MSR_AMD_SYSCFG 0xc0010010u
#define MSR_AMD_HWCR 0xc0010015u
#define MSR_AMD_TOP_MEM 0xc001001au
#define MSR_AMD_TOP_MEM2 0xc001001du
#define MSR_AMD_NB_CFG 0xc001001fu
/* Performance counters that every K7 and later has: none counts here. */
#define MSR_AMD_EVNTSEL0 0xc0010000u
#define MSR_AMD_PERFCTR3 0xc0010007u
#define MSR_AMD_VM_CR 0xc0010114u
#define MSR_AMD_OSVW_LENGTH 0xc0010140u
#define MSR_AMD_OSVW_STATUS 0xc0010141u
#define MSR_AMD_LS_CFG 0xc0011020u
#define MSR_AMD_IC_CFG 0xc0011021u
#define MSR_AMD_DC_CFG 0xc0011022u
#define MSR_AMD_DE_CFG 0xc0011029u
#define MSR_AMD_BU_CFG2 0xc001102au

u64 icpu_tsc(const struct icpu *cpu)
{
	return __rdtsc() + cpu->tsc_offset;
}

/* A fixed-range MTRR's place in cpu_mtrr.fixed, or -1. */
static int fixed_index(u32 msr)
{
	if (msr == MSR_MTRR_FIX64K)
		return 0;
	if (msr - MSR_MTRR_FIX16K < 2)
		return 1 + (int)(msr - MSR_MTRR_FIX16K);
	if (msr - MSR_MTRR_FIX4K < 8)
		return 3 + (int)(msr - MSR_MTRR_FIX4K);
	return -1;
}

static bool memory_type(u64 t)
{
	return t == 0 || t == 1 || (t >= 4 && t <= 6);
}

static bool memory_types(u64 v, bool pat)
{
	for (unsigned i = 0; i < 8; i++, v >>= 8)
		if (!memory_type(v & 0xff) && !(pat && (v & 0xff) == 7))
			return false;
	return true;
}

static bool host_read(struct icpu *cpu, u32 msr, u64 *value)
{
	cpu->stats[STAT_MSR]++;
	return cpu->host.msr_read &&
	       cpu->host.msr_read(cpu->host.ctx, msr, value);
}

static bool host_write(struct icpu *cpu, u32 msr, u64 value)
{
	cpu->stats[STAT_MSR]++;
	return cpu->host.msr_write &&
	       cpu->host.msr_write(cpu->host.ctx, msr, value);
}

static bool amd_read(struct icpu *cpu, u32 msr, u64 *v)
{
	switch (msr) {
	case MSR_AMD_HWCR:
		*v = cpu->amd_hwcr;
		return true;
	case MSR_AMD_DE_CFG:
		*v = cpu->amd_de_cfg;
		return true;
	case MSR_AMD_SYSCFG:
	case MSR_AMD_TOP_MEM:
	case MSR_AMD_TOP_MEM2:
	case MSR_AMD_NB_CFG:
	case MSR_AMD_OSVW_LENGTH:
	case MSR_AMD_OSVW_STATUS:
	case MSR_AMD_LS_CFG:
	case MSR_AMD_IC_CFG:
	case MSR_AMD_DC_CFG:
	case MSR_AMD_BU_CFG2:
		*v = 0;
		return true;
	case MSR_AMD_VM_CR:
		*v = BIT(4); /* SVM disabled */
		return true;
	default:
		*v = 0;
		return msr >= MSR_AMD_EVNTSEL0 && msr <= MSR_AMD_PERFCTR3;
	}
}

static bool mtrr_read(struct icpu *cpu, u32 msr, u64 *v)
{
	int fixed = fixed_index(msr);
	u32 n = msr - MSR_MTRR_VARIABLE;

	if (fixed >= 0) {
		*v = cpu->mtrr.fixed[fixed];
		return true;
	}
	if (n < CPU_MTRR_VARIABLE * 2) {
		*v = n & 1 ? cpu->mtrr.mask[n / 2] : cpu->mtrr.base[n / 2];
		return true;
	}
	if (msr == MSR_MTRR_DEF) {
		*v = cpu->mtrr.def_type;
		return true;
	}
	return false;
}

static bool mtrr_write(struct icpu *cpu, u32 msr, u64 v, bool *ok)
{
	int fixed = fixed_index(msr);
	u32 n = msr - MSR_MTRR_VARIABLE;

	*ok = true;
	if (fixed >= 0) {
		*ok = memory_types(v, false);
		if (*ok)
			cpu->mtrr.fixed[fixed] = v;
		return true;
	}
	if (n < CPU_MTRR_VARIABLE * 2) {
		*ok = !(v & cpu->reserved) && !(v >> 52) &&
		      (n & 1 ? !(v & 0x7ff)
		             : !(v & 0xf00) && memory_type(v & 0xff));
		if (*ok && n & 1)
			cpu->mtrr.mask[n / 2] = v;
		else if (*ok)
			cpu->mtrr.base[n / 2] = v;
		return true;
	}
	if (msr == MSR_MTRR_DEF) {
		*ok = !(v & ~(u64)0xcff) && memory_type(v & 0xff);
		if (*ok)
			cpu->mtrr.def_type = v;
		return true;
	}
	return false;
}

bool msr_read(struct icpu *cpu, u32 msr, u64 *v)
{
	switch (msr) {
	case MSR_TSC:
		*v = icpu_tsc(cpu);
		return true;
	case MSR_TSC_ADJUST:
		*v = cpu->tsc_adjust;
		return true;
	case MSR_PLATFORM_ID:
	case MSR_BIOS_UPDATE:
	case MSR_MCG_CAP:
		*v = 0;
		return true;
	case MSR_FEATURE_CONTROL:
		*v = 1; /* locked, VMX off */
		return true;
	case MSR_BIOS_SIGN:
		*v = cpu->patch_level;
		return true;
	case MSR_MTRRCAP:
		*v = 0x500 | CPU_MTRR_VARIABLE;
		return true;
	case MSR_SYSENTER_CS:
		*v = cpu->sysenter_cs;
		return true;
	case MSR_SYSENTER_ESP:
		*v = cpu->sysenter_esp;
		return true;
	case MSR_SYSENTER_EIP:
		*v = cpu->sysenter_eip;
		return true;
	case MSR_MCG_STATUS:
		*v = cpu->mcg_status;
		return true;
	case MSR_MISC_ENABLE:
		*v = cpu->misc_enable;
		return true;
	case MSR_DEBUGCTL:
		*v = cpu->debugctl;
		return true;
	case MSR_PAT:
		*v = cpu->pat;
		return true;
	case MSR_XSS:
		*v = cpu->xss;
		return cpuid_has(cpu->cpuid, FEATURE_XSAVES);
	case MSR_PKRS:
		*v = cpu->pkrs;
		return cpuid_has(cpu->cpuid, FEATURE_PKS);
	case MSR_EFER:
		*v = cpu->efer;
		return true;
	case MSR_STAR:
		*v = cpu->star;
		return true;
	case MSR_LSTAR:
		*v = cpu->lstar;
		return true;
	case MSR_CSTAR:
		*v = cpu->cstar;
		return true;
	case MSR_SFMASK:
		*v = cpu->sfmask;
		return true;
	case MSR_FS_BASE:
		*v = cpu->seg[SEG_FS].base;
		return true;
	case MSR_GS_BASE:
		*v = cpu->seg[SEG_GS].base;
		return true;
	case MSR_KERNEL_GS_BASE:
		*v = cpu->kernel_gs_base;
		return true;
	case MSR_TSC_AUX:
		*v = cpu->tsc_aux;
		return cpuid_has(cpu->cpuid, FEATURE_RDTSCP) ||
		       cpuid_has(cpu->cpuid, FEATURE_RDPID);
	default:
		break;
	}
	if (mtrr_read(cpu, msr, v) || host_read(cpu, msr, v))
		return true;
	return cpu->amd && amd_read(cpu, msr, v);
}

static bool write_efer(struct icpu *cpu, u64 v)
{
	u64 valid = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR;
	u64 changed = cpu->efer ^ v;

	if (!cpu->amd)
		valid &= ~EFER_FFXSR;
	if (v & ~valid || (changed & EFER_LME && cpu->cr0 & CR0_PG))
		return false;
	/* LMA follows LME and PG: writing it has no effect. */
	cpu->efer = (v & ~EFER_LMA) | (cpu->efer & EFER_LMA);
	if (changed & EFER_NXE)
		icpu_tlb_flush(cpu, true);
	icpu_update(cpu);
	return true;
}

static bool set_canonical(u64 *where, u64 v)
{
	if (!icpu_canonical(v))
		return false;
	*where = v;
	return true;
}

static bool amd_write(struct icpu *cpu, u32 msr, u64 v)
{
	u64 old;

	switch (msr) {
	case MSR_AMD_HWCR:
		cpu->amd_hwcr = v;
		return true;
	case MSR_AMD_DE_CFG:
		cpu->amd_de_cfg = v;
		return true;
	default:
		return amd_read(cpu, msr, &old);
	}
}

bool msr_write(struct icpu *cpu, u32 msr, u64 v)
{
	bool ok;

	switch (msr) {
	case MSR_TSC: {
		u64 delta = v - icpu_tsc(cpu);

		cpu->tsc_offset += delta;
		cpu->tsc_adjust += delta;
		return true;
	}
	case MSR_TSC_ADJUST:
		cpu->tsc_offset += v - cpu->tsc_adjust;
		cpu->tsc_adjust = v;
		return true;
	case MSR_BIOS_UPDATE:
	case MSR_BIOS_SIGN:
		return true;
	case MSR_SYSENTER_CS:
		cpu->sysenter_cs = v & 0xffffffff;
		return true;
	case MSR_SYSENTER_ESP:
		return set_canonical(&cpu->sysenter_esp, v);
	case MSR_SYSENTER_EIP:
		return set_canonical(&cpu->sysenter_eip, v);
	case MSR_MCG_STATUS:
		cpu->mcg_status = v;
		return v == 0;
	case MSR_MISC_ENABLE:
		cpu->misc_enable = v;
		return true;
	case MSR_DEBUGCTL:
		/* Branch records are absent: stored, as processors without
		 * any let one do. */
		cpu->debugctl = v & 3;
		return !(v & ~(u64)0xfff);
	case MSR_PAT:
		if (!memory_types(v, true))
			return false;
		cpu->pat = v;
		return true;
	case MSR_XSS:
		return cpuid_has(cpu->cpuid, FEATURE_XSAVES) && v == 0;
	case MSR_PKRS:
		if (v >> 32 || !cpuid_has(cpu->cpuid, FEATURE_PKS))
			return false;
		keys_set_super(cpu, (u32)v);
		return true;
	case MSR_EFER:
		return write_efer(cpu, v);
	case MSR_STAR:
		cpu->star = v;
		return true;
	case MSR_LSTAR:
		return set_canonical(&cpu->lstar, v);
	case MSR_CSTAR:
		return set_canonical(&cpu->cstar, v);
	case MSR_SFMASK:
		cpu->sfmask = v & 0xffffffff;
		return true;
	case MSR_FS_BASE:
		return set_canonical(&cpu->seg[SEG_FS].base, v);
	case MSR_GS_BASE:
		return set_canonical(&cpu->seg[SEG_GS].base, v);
	case MSR_KERNEL_GS_BASE:
		return set_canonical(&cpu->kernel_gs_base, v);
	case MSR_TSC_AUX:
		if (v >> 32 || (!cpuid_has(cpu->cpuid, FEATURE_RDTSCP) &&
		                !cpuid_has(cpu->cpuid, FEATURE_RDPID)))
			return false;
		cpu->tsc_aux = v;
		return true;
	case MSR_MTRRCAP:
	case MSR_MCG_CAP:
	case MSR_FEATURE_CONTROL:
	case MSR_PLATFORM_ID:
		return false;
	default:
		break;
	}
	if (mtrr_write(cpu, msr, v, &ok))
		return ok;
	if (host_write(cpu, msr, v))
		return true;
	return cpu->amd && amd_write(cpu, msr, v);
}
