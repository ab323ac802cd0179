/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid_state.c - a processor model that is saved with its machine, and what
 * a host must have to show the same one again.
 *
 * Features are saved by name: their order is free to change, and a program
 * that does not know one can say which.
 */
#include "engine/x86/cpuid_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/cpuid_leaves.h"

static const char *const names[FEATURE_COUNT] = {
	[FEATURE_SSE3] = "sse3",
	[FEATURE_PCLMUL] = "pclmulqdq",
	[FEATURE_SSSE3] = "ssse3",
	[FEATURE_FMA] = "fma",
	[FEATURE_CX16] = "cx16",
	[FEATURE_PCID] = "pcid",
	[FEATURE_SSE41] = "sse4_1",
	[FEATURE_SSE42] = "sse4_2",
	[FEATURE_X2APIC] = "x2apic",
	[FEATURE_MOVBE] = "movbe",
	[FEATURE_POPCNT] = "popcnt",
	[FEATURE_TSC_DEADLINE] = "tsc_deadline_timer",
	[FEATURE_AES] = "aes",
	[FEATURE_XSAVE] = "xsave",
	[FEATURE_AVX] = "avx",
	[FEATURE_F16C] = "f16c",
	[FEATURE_RDRAND] = "rdrand",
	[FEATURE_FSGSBASE] = "fsgsbase",
	[FEATURE_BMI1] = "bmi1",
	[FEATURE_AVX2] = "avx2",
	[FEATURE_SMEP] = "smep",
	[FEATURE_BMI2] = "bmi2",
	[FEATURE_ERMS] = "erms",
	[FEATURE_INVPCID] = "invpcid",
	[FEATURE_RDSEED] = "rdseed",
	[FEATURE_ADX] = "adx",
	[FEATURE_SMAP] = "smap",
	[FEATURE_CLFLUSHOPT] = "clflushopt",
	[FEATURE_CLWB] = "clwb",
	[FEATURE_SHA] = "sha_ni",
	[FEATURE_UMIP] = "umip",
	[FEATURE_PKU] = "pku",
	[FEATURE_VAES] = "vaes",
	[FEATURE_VPCLMUL] = "vpclmulqdq",
	[FEATURE_RDPID] = "rdpid",
	[FEATURE_PKS] = "pks",
	[FEATURE_FSRM] = "fsrm",
	[FEATURE_XSAVEOPT] = "xsaveopt",
	[FEATURE_XSAVEC] = "xsavec",
	[FEATURE_XGETBV1] = "xgetbv1",
	[FEATURE_XSAVES] = "xsaves",
	[FEATURE_LAHF64] = "lahf_lm",
	[FEATURE_LZCNT] = "abm",
	[FEATURE_SSE4A] = "sse4a",
	[FEATURE_MISALIGNSSE] = "misalignsse",
	[FEATURE_PREFETCHW] = "3dnowprefetch",
	[FEATURE_SYSCALL] = "syscall",
	[FEATURE_NX] = "nx",
	[FEATURE_MMXEXT] = "mmxext",
	[FEATURE_PAGE1G] = "pdpe1gb",
	[FEATURE_RDTSCP] = "rdtscp",
	[FEATURE_LM] = "lm",
	[FEATURE_INVARIANT_TSC] = "constant_tsc",
	[FEATURE_CLZERO] = "clzero",
};

/* What is saved; text holds the names with a blank between them. */
struct saved_model {
	char features[1024];
	u32 vendor[3];
	u32 signature;
	u32 brand[12];
	u8 phys_bits;
	u8 amd, baseline, kvm_leaves;
	u8 xsave_error_pointers, ffxsr, tsc_adjust, lfence_serializes;
	u8 srso_no, tsa_no;
	u16 pkru_at;
	u32 kvm_features;
	u32 cpus;
	u64 tsc_hz;
};

static const struct field saved_fields[] = {
	FIELD_BLOB(struct saved_model, features),
	FIELD_ARRAY(struct saved_model, vendor),
	FIELD_VALUE(struct saved_model, signature),
	FIELD_ARRAY(struct saved_model, brand),
	FIELD_VALUE(struct saved_model, phys_bits),
	FIELD_VALUE(struct saved_model, amd),
	FIELD_VALUE(struct saved_model, baseline),
	FIELD_VALUE(struct saved_model, kvm_leaves),
	FIELD_VALUE(struct saved_model, xsave_error_pointers),
	FIELD_VALUE(struct saved_model, ffxsr),
	FIELD_VALUE(struct saved_model, tsc_adjust),
	FIELD_VALUE(struct saved_model, lfence_serializes),
	FIELD_VALUE(struct saved_model, srso_no),
	FIELD_VALUE(struct saved_model, tsa_no),
	FIELD_VALUE(struct saved_model, pkru_at),
	FIELD_VALUE(struct saved_model, kvm_features),
	FIELD_VALUE(struct saved_model, cpus),
	FIELD_VALUE(struct saved_model, tsc_hz),
	FIELD_LAST,
};

enum { MODEL_MAJOR = 1 };

void cpuid_model_save(const struct cpuid_model *m, struct state_writer *w)
{
	struct saved_model s = {
		.signature = m->signature,
		.phys_bits = m->phys_bits,
		.amd = m->amd,
		.baseline = m->config.baseline,
		.kvm_leaves = m->config.kvm_leaves,
		.xsave_error_pointers = m->xsave_error_pointers,
		.ffxsr = m->ffxsr,
		.tsc_adjust = m->tsc_adjust,
		.lfence_serializes = m->lfence_serializes,
		.srso_no = m->srso_no,
		.tsa_no = m->tsa_no,
		.pkru_at = m->pkru_at,
		.kvm_features = m->config.kvm_features,
		.cpus = m->config.cpus,
		.tsc_hz = m->config.tsc_hz,
	};
	size_t used = 0;

	memcpy(s.vendor, m->vendor, sizeof(s.vendor));
	memcpy(s.brand, m->brand, sizeof(s.brand));
	for (size_t i = 0; i < FEATURE_COUNT; i++)
		if (m->has[i])
			used += (size_t)snprintf(s.features + used,
			                         sizeof(s.features) - used,
			                         "%s ", names[i]);
	ASSERT(used < sizeof(s.features));
	state_save(w, "cpuid", "model", MODEL_MAJOR, 0, saved_fields, &s);
}

static int feature_of(const char *name)
{
	for (int i = 0; i < FEATURE_COUNT; i++)
		if (!strcmp(names[i], name))
			return i;
	return -1;
}

/* Names with a comma between them; what finds no room is left out. */
struct missing {
	char text[256];
	size_t used;
};

static void add_missing(struct missing *missing, const char *name)
{
	size_t room = sizeof(missing->text) - missing->used;
	int n = snprintf(missing->text + missing->used, room, "%s%.24s",
	                 missing->used ? ", " : "", name);

	if ((size_t)n < room)
		missing->used += (size_t)n;
	else
		missing->text[missing->used] = '\0';
}

static int refuse_missing(const struct missing *missing, struct error *err)
{
	if (!missing->used)
		return 0;
	error_set(err, -ENOTSUP,
	          "the machine was saved on a processor with "
	          "features that this host or engine lacks: %s",
	          missing->text);
	return error_hint(err, "resume it on a host like the first one; a "
	                       "machine started with --cpu baseline runs "
	                       "anywhere");
}

/* Those that the machine was saved with. */
static void take_features(struct cpuid_model *m, char *text,
                          struct missing *missing)
{
	bool here[FEATURE_COUNT];
	char *rest = text, *name;

	memcpy(here, m->has, sizeof(here));
	memset(m->has, 0, sizeof(m->has));
	while ((name = strsep(&rest, " "))) {
		int f = *name ? feature_of(name) : -1;

		if (!*name)
			continue;
		if (f >= 0 && here[f])
			m->has[f] = true;
		else
			add_missing(missing, name);
	}
}

/* The rest is what leaves say, not what instructions do, but for two: where
 * FXSAVE leaves its pointers, and how wide an address is. */
static int take_rest(struct cpuid_model *m, const struct saved_model *s,
                     struct error *err)
{
	if (s->phys_bits < 32 || s->phys_bits > 46)
		return error_set(err, -EPROTO,
		                 "the saved processor has addresses of %u bits",
		                 s->phys_bits);
	if (s->phys_bits > m->phys_bits)
		return error_set(err, -ENOTSUP,
		                 "the machine was saved with physical "
		                 "addresses of %u bits; here they have %u",
		                 s->phys_bits, m->phys_bits);
	if (m->has[FEATURE_PKU]) {
		if (!cpuid_pkru_fits(s->pkru_at))
			return error_set(err, -EPROTO,
			                 "the saved processor has PKRU at %u "
			                 "of its XSAVE area",
			                 s->pkru_at);
		m->pkru_at = s->pkru_at;
	}
	memcpy(m->vendor, s->vendor, sizeof(m->vendor));
	memcpy(m->brand, s->brand, sizeof(m->brand));
	m->signature = s->signature;
	m->phys_bits = s->phys_bits;
	m->amd = s->amd;
	m->xsave_error_pointers = s->xsave_error_pointers;
	m->ffxsr = s->ffxsr;
	m->tsc_adjust = s->tsc_adjust;
	m->lfence_serializes = s->lfence_serializes;
	m->srso_no = s->srso_no;
	m->tsa_no = s->tsa_no;
	return 0;
}

int cpuid_model_load(struct cpuid_model **out, const struct state_reader *r,
                     const struct cpuid_config *config, struct error *err)
{
	struct saved_model s = { 0 };
	struct cpuid_config c = *config;
	struct cpuid_model *m;
	struct missing missing = { 0 };
	int rc =
	    state_load(r, "cpuid", "model", MODEL_MAJOR, saved_fields, &s, err);

	if (rc < 0)
		return rc;
	if (s.cpus != config->cpus)
		return error_set(err, -EINVAL,
		                 "the machine was saved with %u vCPUs, not %u",
		                 s.cpus, config->cpus);
	s.features[sizeof(s.features) - 1] = '\0';
	c.tsc_hz = s.tsc_hz;
	c.emulated = true; /* whatever of it the machine was saved with */
	m = cpuid_model_create(&c);
	take_features(m, s.features, &missing);
	rc = take_rest(m, &s, err);
	m->config.baseline = s.baseline;
	m->config.emulated = config->emulated;
	if (rc == 0)
		rc = refuse_missing(&missing, err);
	if (rc < 0) {
		cpuid_model_destroy(m);
		return rc;
	}
	*out = m;
	return 0;
}

/* The processor's own XSAVE is what the guest's runs on. */
static bool pkru_lies_there(const struct cpuid_model *m, cpuid_leaf_fn *leaf,
                            void *ctx)
{
	struct cpuid_regs r = { 0 };

	return leaf(ctx, 0xd, 9, &r) && r.ebx == m->pkru_at;
}

static bool shows(cpuid_leaf_fn *leaf, void *ctx, const struct cpuid_bit *bit)
{
	struct cpuid_regs r = { 0 };
	const u32 *reg[4] = { &r.eax, &r.ebx, &r.ecx, &r.edx };

	return leaf(ctx, bit->leaf, bit->subleaf, &r) &&
	       *reg[bit->reg] & BIT(bit->bit);
}

int cpuid_model_limit(struct cpuid_model *m, cpuid_leaf_fn *leaf, void *ctx,
                      bool whole, struct error *err)
{
	const struct {
		bool *has;
		const char *name;
		struct cpuid_bit bit;
	} habits[] = {
		{ &m->ffxsr, "fxsr_opt", { 0x80000001, 0, REG_EDX, 25, 0 } },
		{ &m->tsc_adjust, "tsc_adjust", { 7, 0, REG_EBX, 1, 0 } },
		{ &m->xsave_error_pointers,
		  "xsaveerptr",
		  { 0x80000008, 0, REG_EBX, 2, 0 } },
		{ &m->lfence_serializes,
		  "lfence_rdtsc",
		  { 0x80000021, 0, REG_EAX, 2, 0 } },
	};
	struct missing missing = { 0 };

	for (int i = 0; i < FEATURE_COUNT; i++) {
		if (!m->has[i] ||
		    (shows(leaf, ctx, &cpuid_bits[i]) &&
		     (i != FEATURE_PKU || pkru_lies_there(m, leaf, ctx))))
			continue;
		m->has[i] = false;
		add_missing(&missing, names[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(habits); i++) {
		if (!*habits[i].has || shows(leaf, ctx, &habits[i].bit))
			continue;
		*habits[i].has = false;
		add_missing(&missing, habits[i].name);
	}
	cpuid_drop_orphans(m);
	return whole ? refuse_missing(&missing, err) : 0;
}
