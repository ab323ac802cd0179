/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid_leaves.c - what each leaf answers.
 *
 * One package; a core is one processor; APIC IDs count from 0.
 */
#include "engine/x86/cpuid_leaves.h"

#include <string.h>

#include "guest/cpu.h"

enum {
	LAST_BASIC = 0x16,
	KVM_FIRST = 0x40000000,
	KVM_LAST = 0x40000010,
};
#define EXTENDED_FIRST 0x80000000u
#define EXTENDED_LAST_AMD 0x80000021u
#define EXTENDED_LAST_INTEL 0x80000008u

/*
 * Leaf 1 EDX that every machine has: FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP
 * MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
 */
#define LEAF1_EDX 0x078bfbfdu
/* Those of them that AMD repeats in 0x80000001. */
#define LEAF1_EDX_AMD 0x0183f3ffu
#define LEAF1_EDX_HTT (1u << 28)
#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF7_ECX_OSPKE (1u << 4)

static u32 threads(const struct cpuid_model *m)
{
	return m->config.cpus;
}

static void leaf_0(const struct cpuid_model *m, struct cpuid_regs *out)
{
	out->eax = LAST_BASIC;
	out->ebx = m->vendor[0];
	out->edx = m->vendor[1];
	out->ecx = m->vendor[2];
}

static void leaf_1(const struct cpuid_model *m, u32 apic_id, u64 cr4,
                   struct cpuid_regs *out)
{
	out->eax = m->signature;
	out->ebx = (apic_id & 0xff) << 24 | MIN(threads(m), 255u) << 16 |
	           8 << 8; /* CLFLUSH: 64 bytes */
	out->ecx = LEAF1_ECX_HYPERVISOR;
	out->edx = LEAF1_EDX;
	if (threads(m) > 1)
		out->edx |= LEAF1_EDX_HTT;
	if (m->has[FEATURE_XSAVE] && (cr4 & CR4_OSXSAVE))
		out->ecx |= LEAF1_ECX_OSXSAVE;
}

/* Leaf 4 and 0x8000001d, which differ in a field only. */
static void leaf_cache(const struct cpuid_model *m, u32 subleaf,
                       struct cpuid_regs *out)
{
	static const struct {
		u8 type, level, ways;
		u16 sets;
		bool shared;
	} caches[] = {
		{ 1, 1, 8, 64, false },    /* 32 KiB of data */
		{ 2, 1, 8, 64, false },    /* 32 KiB of code */
		{ 3, 2, 8, 1024, false },  /* 512 KiB */
		{ 3, 3, 16, 16384, true }, /* 16 MiB */
	};
	u32 ids = (1u << m->apic_bits) - 1;

	if (subleaf >= ARRAY_SIZE(caches))
		return;
	out->eax = caches[subleaf].type | (u32)caches[subleaf].level << 5 |
	           1 << 8; /* self-initializing */
	if (caches[subleaf].shared)
		out->eax |= (m->amd ? threads(m) - 1 : ids) << 14;
	if (!m->amd)
		out->eax |= MIN(ids, 63u) << 26;
	out->ebx = (u32)(caches[subleaf].ways - 1) << 22 | 63;
	out->ecx = caches[subleaf].sets - 1u;
}

static void leaf_topology(const struct cpuid_model *m, u32 apic_id, u32 subleaf,
                          struct cpuid_regs *out)
{
	out->ecx = subleaf & 0xff;
	out->edx = apic_id;
	if (subleaf == 0) { /* threads of a core */
		out->ebx = 1;
		out->ecx |= 1 << 8;
	} else if (subleaf == 1) { /* cores of the package */
		out->eax = m->apic_bits;
		out->ebx = threads(m);
		out->ecx |= 2 << 8;
	}
}

enum { AVX_BYTES = CPU_XSAVE_SIZE - CPU_XSAVE_YMMH, PKRU_BYTES = 8 };

/* Of an area in standard form, and of one that is compacted. */
static u32 xsave_size(const struct cpuid_model *m, u64 xcr0)
{
	if (xcr0 & XCR0_PKRU)
		return m->pkru_at + PKRU_BYTES;
	return xcr0 & XCR0_AVX ? CPU_XSAVE_SIZE : CPU_XSAVE_YMMH;
}

static u32 xsavec_size(u64 xcr0)
{
	return CPU_XSAVE_YMMH + (xcr0 & XCR0_AVX ? AVX_BYTES : 0) +
	       (xcr0 & XCR0_PKRU ? PKRU_BYTES : 0);
}

static void leaf_xsave(const struct cpuid_model *m, u32 subleaf, u64 xcr0,
                       struct cpuid_regs *out)
{
	u64 all = XCR0_X87 | XCR0_SSE;

	if (!m->has[FEATURE_XSAVE])
		return;
	if (m->has[FEATURE_AVX])
		all |= XCR0_AVX;
	if (m->has[FEATURE_PKU])
		all |= XCR0_PKRU;
	if (subleaf == 0) {
		out->eax = (u32)all;
		out->ebx = xsave_size(m, xcr0);
		out->ecx = xsave_size(m, all);
	} else if (subleaf == 1) {
		cpuid_add_features(m, 0xd, 1, out);
		if (m->has[FEATURE_XSAVEC])
			out->ebx = xsavec_size(xcr0);
	} else if (subleaf == 2 && m->has[FEATURE_AVX]) {
		out->eax = AVX_BYTES;
		out->ebx = CPU_XSAVE_YMMH;
	} else if (subleaf == 9 && m->has[FEATURE_PKU]) {
		out->eax = PKRU_BYTES;
		out->ebx = m->pkru_at;
	}
}

/* A crystal of 1 GHz, which is what the local APIC's timer counts too. */
static void leaf_tsc(const struct cpuid_model *m, struct cpuid_regs *out)
{
	out->eax = 1000000;
	out->ebx = (u32)(m->config.tsc_hz / 1000);
	out->ecx = 1000000000;
}

static void leaf_frequency(const struct cpuid_model *m, struct cpuid_regs *out)
{
	out->eax = (u32)(m->config.tsc_hz / 1000000) & 0xffff;
	out->ebx = out->eax;
	out->ecx = 100;
}

static void query_basic(const struct cpuid_model *m, u32 apic_id, u64 cr4,
                        u64 xcr0, u32 leaf, u32 subleaf, struct cpuid_regs *out)
{
	switch (leaf) {
	case 0:
		leaf_0(m, out);
		break;
	case 1:
		leaf_1(m, apic_id, cr4, out);
		cpuid_add_features(m, 1, 0, out);
		break;
	case 2:
		if (!m->amd)
			out->eax =
			    0x00feff01; /* leaf 4 tells; 64-byte prefetch */
		break;
	case 4:
		if (!m->amd)
			leaf_cache(m, subleaf, out);
		break;
	case 6:
		out->eax = 1 << 2; /* the APIC's timer never stops */
		break;
	case 7:
		if (subleaf != 0)
			break;
		cpuid_add_features(m, 7, 0, out);
		if (m->tsc_adjust)
			out->ebx |= 1 << 1;
		out->ebx |= 1 << 13; /* no FCS and FDS: see fpu.h */
		if (m->has[FEATURE_PKU] && (cr4 & CR4_PKE))
			out->ecx |= LEAF7_ECX_OSPKE;
		break;
	case 0xb:
		leaf_topology(m, apic_id, subleaf, out);
		break;
	case 0xd:
		leaf_xsave(m, subleaf, xcr0, out);
		break;
	case 0x15:
		leaf_tsc(m, out);
		break;
	case 0x16:
		leaf_frequency(m, out);
		break;
	default:
		break;
	}
}

static void query_hypervisor(const struct cpuid_model *m, u32 leaf,
                             struct cpuid_regs *out)
{
	const char *name =
	    m->config.kvm_leaves ? "KVMKVMKVM\0\0" : "AtollAtoll\0";
	u32 words[3];

	switch (leaf) {
	case KVM_FIRST:
		memcpy(words, name, sizeof(words));
		out->eax = m->config.kvm_leaves ? KVM_LAST : KVM_FIRST;
		out->ebx = words[0];
		out->ecx = words[1];
		out->edx = words[2];
		break;
	case KVM_FIRST + 1:
		if (m->config.kvm_leaves)
			out->eax = m->config.kvm_features;
		break;
	case KVM_LAST:
		if (m->config.kvm_leaves) {
			out->eax = (u32)(m->config.tsc_hz / 1000);
			out->ebx = 1000000; /* the APIC's bus, in kHz */
		}
		break;
	default:
		break;
	}
}

static void leaf_extended_1(const struct cpuid_model *m, struct cpuid_regs *out)
{
	cpuid_add_features(m, 0x80000001, 0, out);
	if (!m->amd)
		return;
	out->eax = m->signature;
	out->edx |= LEAF1_EDX & LEAF1_EDX_AMD;
	if (m->ffxsr)
		out->edx |= 1 << 25;
	out->ecx |= 1 << 22; /* leaves 0x8000001d and 0x8000001e */
	if (threads(m) > 1)
		out->ecx |= 1 << 1; /* HTT means cores */
}

static void leaf_extended_8(const struct cpuid_model *m, struct cpuid_regs *out)
{
	cpuid_add_features(m, 0x80000008, 0, out);
	out->eax = (u32)48 << 8 | m->phys_bits;
	if (m->xsave_error_pointers)
		out->ebx |= 1 << 2;
	if (m->amd)
		out->ecx = (u32)m->apic_bits << 12 | ((threads(m) - 1) & 0xff);
}

static void query_extended(const struct cpuid_model *m, u32 apic_id, u32 leaf,
                           u32 subleaf, struct cpuid_regs *out)
{
	switch (leaf) {
	case 0x80000000:
		out->eax = m->amd ? EXTENDED_LAST_AMD : EXTENDED_LAST_INTEL;
		if (m->amd) {
			out->ebx = m->vendor[0];
			out->edx = m->vendor[1];
			out->ecx = m->vendor[2];
		}
		break;
	case 0x80000001:
		leaf_extended_1(m, out);
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		memcpy(out, &m->brand[4 * (leaf - 0x80000002)], sizeof(*out));
		break;
	case 0x80000005:
		if (m->amd) { /* 64 TLB entries; 32 KiB, 8 ways, 64 bytes */
			out->eax = out->ebx = 0xff40ff40;
			out->ecx = out->edx = 0x20080140;
		}
		break;
	case 0x80000006: /* 512 KiB, 8 ways; 16 MiB, 16 ways */
		out->ecx = m->amd ? 0x02006140 : 0x02006040;
		if (m->amd)
			out->edx = 32u << 18 | 8 << 12 | 1 << 8 | 64;
		break;
	case 0x80000007:
		cpuid_add_features(m, leaf, 0, out);
		break;
	case 0x80000008:
		leaf_extended_8(m, out);
		break;
	case 0x8000001d:
		if (m->amd)
			leaf_cache(m, subleaf, out);
		break;
	case 0x8000001e:
		if (m->amd) {
			out->eax = apic_id;
			out->ebx = apic_id & 0xff; /* core; one thread each */
		}
		break;
	case 0x80000021:
		if (m->lfence_serializes)
			out->eax = 1 << 2;
		if (m->srso_no)
			out->eax |= 1 << 29;
		if (m->tsa_no)
			out->ecx = 1 << 1 | 1 << 2;
		break;
	default:
		break;
	}
}

void cpuid_query(const struct cpuid_model *model, u32 apic_id, u64 cr4,
                 u64 xcr0, u32 leaf, u32 subleaf, struct cpuid_regs *out)
{
	memset(out, 0, sizeof(*out));
	if (leaf <= LAST_BASIC)
		query_basic(model, apic_id, cr4, xcr0, leaf, subleaf, out);
	else if (leaf >= EXTENDED_FIRST)
		query_extended(model, apic_id, leaf, subleaf, out);
	else if (leaf >= KVM_FIRST && leaf <= KVM_LAST)
		query_hypervisor(model, leaf, out);
}

bool cpuid_leaf_at(const struct cpuid_model *model, size_t i, u32 *leaf,
                   u32 *subleaf, bool *has_subleaf, struct cpuid_regs *out)
{
	static const struct {
		u32 leaf;
		u8 subleaves; /* 0: takes none */
	} table[] = {
		{ 0, 0 },          { 1, 0 },          { 2, 0 },
		{ 4, 5 },          { 5, 0 },          { 6, 0 },
		{ 7, 1 },          { 0xb, 3 },        { 0xd, 10 },
		{ 0x15, 0 },       { 0x16, 0 },       { 0x40000000, 0 },
		{ 0x40000001, 0 }, { 0x40000010, 0 }, { 0x80000000, 0 },
		{ 0x80000001, 0 }, { 0x80000002, 0 }, { 0x80000003, 0 },
		{ 0x80000004, 0 }, { 0x80000005, 0 }, { 0x80000006, 0 },
		{ 0x80000007, 0 }, { 0x80000008, 0 }, { 0x8000001d, 5 },
		{ 0x8000001e, 0 }, { 0x80000021, 0 },
	};
	size_t t;

	for (t = 0; t < ARRAY_SIZE(table); t++) {
		size_t n = table[t].subleaves ? table[t].subleaves : 1;

		if (i < n) {
			*leaf = table[t].leaf;
			*subleaf = (u32)i;
			*has_subleaf = table[t].subleaves != 0;
			cpuid_query(model, 0, 0, XCR0_X87, *leaf, *subleaf,
			            out);
			return true;
		}
		i -= n;
	}
	return false;
}
