/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid.c - the model: features out of one table, and the leaves built of it.
 *
 * User-level instructions run on the host's own units, so a feature is shown
 * only if the host has it. What belongs to the machine and not to the
 * processor (x2APIC, the APIC's deadline timer, the hypervisor bit) is shown
 * always.
 */
#include "engine/x86/cpuid.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/x86/cpuid_leaves.h"
#include "guest/cpu.h"

/* What else it takes to be shown. */
enum {
	BASELINE = 1 << 0,  /* x86-64-v2 and what any system needs */
	MACHINE = 1 << 1,   /* not the host's to give */
	NEEDS_AVX = 1 << 2, /* the host's kernel must have it switched on */
	NOT_MODELLED = 1 << 3,
	EMULATED = 1 << 4, /* needs nothing of the host */
};

const struct cpuid_bit cpuid_bits[FEATURE_COUNT] = {
	[FEATURE_SSE3] = { 1, 0, REG_ECX, 0, BASELINE },
	[FEATURE_PCLMUL] = { 1, 0, REG_ECX, 1, 0 },
	[FEATURE_SSSE3] = { 1, 0, REG_ECX, 9, BASELINE },
	[FEATURE_FMA] = { 1, 0, REG_ECX, 12, NEEDS_AVX },
	[FEATURE_CX16] = { 1, 0, REG_ECX, 13, BASELINE },
	[FEATURE_PCID] = { 1, 0, REG_ECX, 17, 0 },
	[FEATURE_SSE41] = { 1, 0, REG_ECX, 19, BASELINE },
	[FEATURE_SSE42] = { 1, 0, REG_ECX, 20, BASELINE },
	[FEATURE_X2APIC] = { 1, 0, REG_ECX, 21, BASELINE | MACHINE },
	[FEATURE_MOVBE] = { 1, 0, REG_ECX, 22, 0 },
	[FEATURE_POPCNT] = { 1, 0, REG_ECX, 23, BASELINE },
	[FEATURE_TSC_DEADLINE] = { 1, 0, REG_ECX, 24, BASELINE | MACHINE },
	[FEATURE_AES] = { 1, 0, REG_ECX, 25, 0 },
	[FEATURE_XSAVE] = { 1, 0, REG_ECX, 26, 0 },
	[FEATURE_AVX] = { 1, 0, REG_ECX, 28, NEEDS_AVX },
	[FEATURE_F16C] = { 1, 0, REG_ECX, 29, NEEDS_AVX },
	[FEATURE_RDRAND] = { 1, 0, REG_ECX, 30, 0 },
	[FEATURE_FSGSBASE] = { 7, 0, REG_EBX, 0, 0 },
	[FEATURE_BMI1] = { 7, 0, REG_EBX, 3, NEEDS_AVX },
	[FEATURE_AVX2] = { 7, 0, REG_EBX, 5, NEEDS_AVX },
	[FEATURE_SMEP] = { 7, 0, REG_EBX, 7, 0 },
	[FEATURE_BMI2] = { 7, 0, REG_EBX, 8, NEEDS_AVX },
	[FEATURE_ERMS] = { 7, 0, REG_EBX, 9, 0 },
	[FEATURE_INVPCID] = { 7, 0, REG_EBX, 10, 0 },
	[FEATURE_RDSEED] = { 7, 0, REG_EBX, 18, 0 },
	[FEATURE_ADX] = { 7, 0, REG_EBX, 19, 0 },
	[FEATURE_SMAP] = { 7, 0, REG_EBX, 20, 0 },
	[FEATURE_CLFLUSHOPT] = { 7, 0, REG_EBX, 23, 0 },
	[FEATURE_CLWB] = { 7, 0, REG_EBX, 24, 0 },
	[FEATURE_SHA] = { 7, 0, REG_EBX, 29, 0 },
	[FEATURE_UMIP] = { 7, 0, REG_ECX, 2, 0 },
	[FEATURE_PKU] = { 7, 0, REG_ECX, 3, EMULATED },
	[FEATURE_VAES] = { 7, 0, REG_ECX, 9, NEEDS_AVX },
	[FEATURE_VPCLMUL] = { 7, 0, REG_ECX, 10, NEEDS_AVX },
	[FEATURE_RDPID] = { 7, 0, REG_ECX, 22, 0 },
	[FEATURE_PKS] = { 7, 0, REG_ECX, 31, EMULATED },
	[FEATURE_FSRM] = { 7, 0, REG_EDX, 4, 0 },
	[FEATURE_XSAVEOPT] = { 0xd, 1, REG_EAX, 0, 0 },
	[FEATURE_XSAVEC] = { 0xd, 1, REG_EAX, 1, 0 },
	[FEATURE_XGETBV1] = { 0xd, 1, REG_EAX, 2, 0 },
	[FEATURE_XSAVES] = { 0xd, 1, REG_EAX, 3, 0 },
	[FEATURE_LAHF64] = { 0x80000001, 0, REG_ECX, 0, BASELINE },
	[FEATURE_LZCNT] = { 0x80000001, 0, REG_ECX, 5, 0 },
	[FEATURE_SSE4A] = { 0x80000001, 0, REG_ECX, 6, 0 },
	/* MXCSR.MM does not exist here: fpu.h, FPU_MXCSR_MASK. */
	[FEATURE_MISALIGNSSE] = { 0x80000001, 0, REG_ECX, 7, NOT_MODELLED },
	[FEATURE_PREFETCHW] = { 0x80000001, 0, REG_ECX, 8, 0 },
	[FEATURE_SYSCALL] = { 0x80000001, 0, REG_EDX, 11, BASELINE },
	[FEATURE_NX] = { 0x80000001, 0, REG_EDX, 20, BASELINE },
	[FEATURE_MMXEXT] = { 0x80000001, 0, REG_EDX, 22, 0 },
	[FEATURE_PAGE1G] = { 0x80000001, 0, REG_EDX, 26, 0 },
	[FEATURE_RDTSCP] = { 0x80000001, 0, REG_EDX, 27, BASELINE },
	[FEATURE_LM] = { 0x80000001, 0, REG_EDX, 29, BASELINE },
	[FEATURE_INVARIANT_TSC] = { 0x80000007, 0, REG_EDX, 8, BASELINE },
	[FEATURE_CLZERO] = { 0x80000008, 0, REG_EBX, 0, 0 },
};

/* The last one that was looked at: under another hypervisor each question takes
 * microseconds, and the list has the bits of a leaf together. */
struct host_leaf {
	u32 leaf, subleaf;
	bool valid;
	u32 reg[4];
};

static u32 host_reg(struct host_leaf *h, const struct cpuid_bit *f)
{
	if (!h->valid || h->leaf != f->leaf || h->subleaf != f->subleaf) {
		*h = (struct host_leaf){ f->leaf, f->subleaf, true, { 0 } };
		(void)__get_cpuid_count(f->leaf, f->subleaf, &h->reg[0],
		                        &h->reg[1], &h->reg[2], &h->reg[3]);
	}
	return h->reg[f->reg];
}

/* Has the host's kernel switched on what VEX instructions need? */
static bool host_avx_on(void)
{
	u32 a, b, c, d, low, high;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return false;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (low & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX);
}

static bool shown(struct host_leaf *h, const struct cpuid_bit *f,
                  const struct cpuid_config *config, bool avx)
{
	if (f->flags & NOT_MODELLED)
		return false;
	if (config->baseline && !(f->flags & BASELINE))
		return false;
	if (f->flags & MACHINE || (f->flags & EMULATED && config->emulated))
		return true;
	if ((f->flags & NEEDS_AVX) && !avx)
		return false;
	return (host_reg(h, f) & BIT(f->bit)) != 0;
}

/* A feature says nothing without those that it builds on. */
static void drop(struct cpuid_model *m, enum cpuid_feature needed,
                 const enum cpuid_feature *list, size_t n)
{
	size_t i;

	for (i = 0; !m->has[needed] && i < n; i++)
		m->has[list[i]] = false;
}

void cpuid_drop_orphans(struct cpuid_model *m)
{
	static const enum cpuid_feature of_xsave[] = {
		FEATURE_AVX,     FEATURE_XSAVEOPT, FEATURE_XSAVEC,
		FEATURE_XGETBV1, FEATURE_XSAVES,   FEATURE_PKU,
	};
	static const enum cpuid_feature of_avx[] = {
		FEATURE_FMA,  FEATURE_F16C, FEATURE_AVX2,    FEATURE_BMI1,
		FEATURE_BMI2, FEATURE_VAES, FEATURE_VPCLMUL,
	};

	drop(m, FEATURE_XSAVE, of_xsave, ARRAY_SIZE(of_xsave));
	drop(m, FEATURE_AVX, of_avx, ARRAY_SIZE(of_avx));
}

static void read_host(struct cpuid_model *m, bool baseline)
{
	u32 a, b, c, d, i;

	__cpuid(0, a, b, c, d);
	m->vendor[0] = b;
	m->vendor[1] = d;
	m->vendor[2] = c;
	m->amd = !memcmp(m->vendor, "AuthenticAMD", 12) ||
	         !memcmp(m->vendor, "HygonGenuine", 12);
	__cpuid(1, m->signature, b, c, d);
	m->phys_bits = 40;
	if (__get_cpuid(0x80000008, &a, &b, &c, &d)) {
		u8 bits = a & 0xff;

		/* Below 40 too: a guest may hand addresses to real tables. */
		m->phys_bits = bits < 40 || !baseline ? MIN(bits, 46) : 40;
		m->xsave_error_pointers = m->amd && (b & BIT(2));
	}
	if (__get_cpuid(0x80000001, &a, &b, &c, &d))
		m->ffxsr = m->amd && !baseline && (d & BIT(25));
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
		m->tsc_adjust = (b & BIT(1)) != 0;
	if (__get_cpuid(0x80000021, &a, &b, &c, &d)) {
		m->lfence_serializes = m->amd && (a & BIT(2));
		m->tsa_no = m->amd && !baseline && (c & BIT(1)) && (c & BIT(2));
	}
	m->pkru_at = CPU_XSAVE_SIZE;
	if (__get_cpuid_count(0xd, 9, &a, &b, &c, &d) && a == 8 &&
	    cpuid_pkru_fits(b))
		m->pkru_at = (u16)b;
	m->srso_no = m->amd && !baseline;
	for (i = 0; i < 3; i++) {
		u32 *words = &m->brand[4 * i];

		if (baseline || !__get_cpuid(0x80000002 + i, &words[0],
		                             &words[1], &words[2], &words[3]))
			break;
	}
	if (!m->brand[0])
		memcpy(m->brand, "Atoll x86-64-v2 processor", 26);
}

struct cpuid_model *cpuid_model_create(const struct cpuid_config *config)
{
	struct cpuid_model *m = xalloc(sizeof(*m));
	struct host_leaf host = { 0 };
	bool avx = host_avx_on();
	size_t i;

	m->config = *config;
	read_host(m, config->baseline);
	for (i = 0; i < FEATURE_COUNT; i++)
		m->has[i] = shown(&host, &cpuid_bits[i], config, avx);
	cpuid_drop_orphans(m);
	for (m->apic_bits = 0; (1u << m->apic_bits) < config->cpus;)
		m->apic_bits++;
	return m;
}

void cpuid_model_destroy(struct cpuid_model *model)
{
	free(model);
}

bool cpuid_has(const struct cpuid_model *model, enum cpuid_feature feature)
{
	return feature < FEATURE_COUNT && model->has[feature];
}

u32 cpuid_pkru_offset(const struct cpuid_model *model)
{
	return model->pkru_at;
}

bool cpuid_pkru_fits(u32 offset)
{
	return offset >= CPU_XSAVE_SIZE && offset % 8 == 0 &&
	       offset + 8 <= CPUID_XSAVE_MAX;
}

void cpuid_add_features(const struct cpuid_model *m, u32 leaf, u32 subleaf,
                        struct cpuid_regs *out)
{
	u32 *reg[4] = { &out->eax, &out->ebx, &out->ecx, &out->edx };
	size_t i;

	for (i = 0; i < FEATURE_COUNT; i++) {
		const struct cpuid_bit *f = &cpuid_bits[i];

		if (m->has[i] && f->leaf == leaf && f->subleaf == subleaf)
			*reg[f->reg] |= (u32)BIT(f->bit);
	}
}
