/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c - control and debug registers, and what writing them does.
 */
#include "engine/x86/control.h"

#include "engine/x86/cpuid.h"
#include "engine/x86/paging.h"

u64 control_cr4_valid(const struct icpu *cpu)
{
	const struct cpuid_model *m = cpu->cpuid;
	u64 v = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE |
	        CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;

	if (cpuid_has(m, FEATURE_UMIP))
		v |= CR4_UMIP;
	if (cpuid_has(m, FEATURE_FSGSBASE))
		v |= CR4_FSGSBASE;
	if (cpuid_has(m, FEATURE_PCID))
		v |= CR4_PCIDE;
	if (cpuid_has(m, FEATURE_XSAVE))
		v |= CR4_OSXSAVE;
	if (cpuid_has(m, FEATURE_SMEP))
		v |= CR4_SMEP;
	if (cpuid_has(m, FEATURE_SMAP))
		v |= CR4_SMAP;
	if (cpuid_has(m, FEATURE_PKU))
		v |= CR4_PKE;
	if (cpuid_has(m, FEATURE_PKS))
		v |= CR4_PKS;
	return v;
}

u64 control_read(struct icpu *cpu, unsigned cr)
{
	switch (cr) {
	case 0:
		return cpu->cr0;
	case 2:
		return cpu->cr2;
	case 3:
		return cpu->cr3;
	case 4:
		return cpu->cr4;
	case 8:
		return cpu->host.tpr_get ? cpu->host.tpr_get(cpu->host.ctx)
		                         : cpu->cr8;
	default:
		icpu_ud(cpu);
	}
}

static u64 current_pcid(const struct icpu *cpu)
{
	return cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0;
}

static bool pae_without_long(const struct icpu *cpu, u64 cr0, u64 cr4)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(cpu->efer & EFER_LME);
}

static void write_cr0(struct icpu *cpu, u64 v)
{
	u64 old = cpu->cr0, changed;
	u64 pdpte[4];
	bool load = false;

	if (v >> 32)
		icpu_gp(cpu);
	v &= CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP |
	     CR0_AM | CR0_NW | CR0_CD | CR0_PG;
	v |= CR0_ET;
	changed = old ^ v;
	if ((v & CR0_PG && !(v & CR0_PE)) || (v & CR0_NW && !(v & CR0_CD)))
		icpu_gp(cpu);
	if (changed & CR0_PG) {
		bool lme = cpu->efer & EFER_LME;

		if (v & CR0_PG && lme &&
		    (!(cpu->cr4 & CR4_PAE) ||
		     cpu->seg[SEG_CS].attr & SEG_ATTR_L))
			icpu_gp(cpu);
		if (!(v & CR0_PG) && (icpu_code64(cpu) || cpu->cr4 & CR4_PCIDE))
			icpu_gp(cpu);
	}
	/* These reload the PDPTEs: SDM vol. 3 4.4.1. */
	if (changed & (CR0_PG | CR0_CD | CR0_NW) &&
	    pae_without_long(cpu, v, cpu->cr4)) {
		if (!paging_load_pdptes(cpu, cpu->cr3, pdpte))
			icpu_gp(cpu);
		load = true;
	}
	if (load)
		for (unsigned i = 0; i < 4; i++)
			cpu->pdpte[i] = pdpte[i];
	cpu->cr0 = v;
	if (changed & CR0_PG && cpu->efer & EFER_LME) {
		if (v & CR0_PG)
			cpu->efer |= EFER_LMA;
		else
			cpu->efer &= ~EFER_LMA;
	}
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		icpu_tlb_flush(cpu, true);
	icpu_update(cpu);
}

static void write_cr3(struct icpu *cpu, u64 v)
{
	bool keep = v >> 63;

	if (icpu_long(cpu)) {
		if (cpu->cr4 & CR4_PCIDE)
			v &= ~BIT(63);
		if (v & (cpu->reserved | 0xfff0000000000000))
			icpu_gp(cpu);
	} else {
		v &= 0xffffffff;
	}
	if (pae_without_long(cpu, cpu->cr0, cpu->cr4)) {
		u64 pdpte[4];

		if (!paging_load_pdptes(cpu, v, pdpte))
			icpu_gp(cpu);
		for (unsigned i = 0; i < 4; i++)
			cpu->pdpte[i] = pdpte[i];
	}
	cpu->cr3 = v;
	icpu_tlb_switch(cpu, current_pcid(cpu),
	                !(cpu->cr4 & CR4_PCIDE && keep));
}

bool control_task_cr3(struct icpu *cpu, u64 v)
{
	if (pae_without_long(cpu, cpu->cr0, cpu->cr4)) {
		u64 pdpte[4];

		if (!paging_load_pdptes(cpu, v, pdpte))
			return false;
		for (unsigned i = 0; i < 4; i++)
			cpu->pdpte[i] = pdpte[i];
	}
	if (cpu->cr3 != v) {
		cpu->cr3 = v;
		icpu_tlb_switch(cpu, current_pcid(cpu), true);
	}
	return true;
}

static void write_cr4(struct icpu *cpu, u64 v)
{
	u64 changed = cpu->cr4 ^ v;
	u64 pdpte[4];

	if (v & ~control_cr4_valid(cpu))
		icpu_gp(cpu);
	if (icpu_long(cpu) && !(v & CR4_PAE))
		icpu_gp(cpu);
	if (changed & v & CR4_PCIDE && (!icpu_long(cpu) || cpu->cr3 & 0xfff))
		icpu_gp(cpu);
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP) &&
	    pae_without_long(cpu, cpu->cr0, v)) {
		if (!paging_load_pdptes(cpu, cpu->cr3, pdpte))
			icpu_gp(cpu);
		for (unsigned i = 0; i < 4; i++)
			cpu->pdpte[i] = pdpte[i];
	}
	cpu->cr4 = v;
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP |
	               CR4_SMAP | CR4_PKE | CR4_PKS))
		icpu_tlb_flush(cpu, true);
	if (changed & CR4_PCIDE)
		icpu_tlb_switch(cpu, current_pcid(cpu), true);
	icpu_update(cpu);
}

void control_write(struct icpu *cpu, unsigned cr, u64 v)
{
	if (!icpu_code64(cpu))
		v &= 0xffffffff;
	switch (cr) {
	case 0:
		write_cr0(cpu, v);
		break;
	case 2:
		cpu->cr2 = v;
		break;
	case 3:
		write_cr3(cpu, v);
		break;
	case 4:
		write_cr4(cpu, v);
		break;
	case 8:
		if (v & ~(u64)0xf)
			icpu_gp(cpu);
		cpu->cr8 = v;
		if (cpu->host.tpr_set)
			cpu->host.tpr_set(cpu->host.ctx, (u8)v);
		icpu_attend(cpu, ATTEND_IRQ);
		break;
	default:
		icpu_ud(cpu);
	}
}

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE; any access faults under GD. */
static unsigned check_debug(struct icpu *cpu, unsigned dr)
{
	if (dr == 4 || dr == 5) {
		if (cpu->cr4 & CR4_DE)
			icpu_ud(cpu);
		dr += 2;
	}
	if (dr > 7)
		icpu_ud(cpu);
	if (cpu->dr[7] & BIT(13)) {
		cpu->dr[7] &= ~BIT(13);
		cpu->dr[6] |= BIT(13);
		icpu_update(cpu);
		icpu_fault(cpu, VEC_DB);
	}
	return dr;
}

u64 control_read_debug(struct icpu *cpu, unsigned dr)
{
	return cpu->dr[check_debug(cpu, dr)];
}

void control_write_debug(struct icpu *cpu, unsigned dr, u64 v)
{
	dr = check_debug(cpu, dr);
	if (!icpu_code64(cpu))
		v &= 0xffffffff;
	if (dr >= 6 && v >> 32)
		icpu_gp(cpu);
	if (dr == 6)
		v = (v & 0xe00f) | 0xffff0ff0;
	if (dr == 7)
		v = (v & 0xffff2fff) | 0x400;
	cpu->dr[dr] = v;
	if (dr != 6) {
		icpu_tlb_flush(cpu, true);
		icpu_update(cpu);
	}
}

u64 control_xcr0_valid(const struct icpu *cpu)
{
	u64 v = XCR0_X87 | XCR0_SSE;

	if (cpuid_has(cpu->cpuid, FEATURE_AVX))
		v |= XCR0_AVX;
	if (cpuid_has(cpu->cpuid, FEATURE_PKU))
		v |= XCR0_PKRU;
	return v;
}

void control_xsetbv(struct icpu *cpu, u32 index, u64 v)
{
	if (index != 0 || v & ~control_xcr0_valid(cpu) || !(v & XCR0_X87) ||
	    (v & XCR0_AVX && !(v & XCR0_SSE)))
		icpu_gp(cpu);
	cpu->xcr0 = v;
	icpu_update(cpu);
}

void control_invpcid(struct icpu *cpu, u64 type, const struct invpcid *d)
{
	if (type > 3 || (type < 2 && d->pcid >> 12))
		icpu_gp(cpu);
	if (type < 2 && !(cpu->cr4 & CR4_PCIDE) && d->pcid)
		icpu_gp(cpu);
	switch (type) {
	case 0:
		if (!icpu_canonical(d->address))
			icpu_gp(cpu);
		icpu_tlb_flush_pcid_page(cpu, d->pcid, d->address);
		break;
	case 1:
		icpu_tlb_flush_pcid(cpu, d->pcid);
		break;
	default:
		/* 3 may keep global entries; it need not. */
		icpu_tlb_flush(cpu, true);
		break;
	}
}
