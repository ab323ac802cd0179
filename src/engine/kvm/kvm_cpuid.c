/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_cpuid - the processor model of the machine, no more of it than this
 * kernel can virtualize, and the kernel's own paravirtual leaves.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/cpuid_state.h"

enum {
	LEAF_XSAVE = 0xd,
	LEAF_KVM = 0x40000000,
	LEAF_KVM_FEATURES = 0x40000001,
	HYPERVISOR_ECX = 1u << 31,
	X2APIC_ECX = 1u << 21,
	TSC_DEADLINE_ECX = 1u << 24,
	HTT_EDX = 1u << 28,
	CMP_LEGACY_ECX = 1u << 1,
};

/* Leaves whose registers are sets of features: which of them are masked. */
static const struct {
	u32 leaf, subleaf;
	bool eax, ebx, ecx, edx;
} feature_leaves[] = {
	{ 0x1, 0, false, false, true, true },
	{ 0x7, 0, false, true, true, true },
	{ 0x7, 1, true, false, false, true },
	{ 0x7, 2, false, false, false, true },
	{ LEAF_XSAVE, 0, true, false, false, true },
	{ LEAF_XSAVE, 1, true, false, true, true },
	{ 0x80000001, 0, false, false, true, true },
	{ 0x80000007, 0, false, false, false, true },
	{ 0x80000008, 0, false, true, false, false },
	{ 0x80000021, 0, true, false, true, false },
};

/* What the machine has, whatever its host: the kernel's APIC, whose timer is
 * not among the supported (api.rst 4.46), and its own number of processors. */
static void add_machine(struct kvm_cpuid_entry2 *c, bool deadline)
{
	if (c->function == 1) {
		c->ecx |= HYPERVISOR_ECX | X2APIC_ECX;
		c->ecx |= deadline ? TSC_DEADLINE_ECX : 0;
		c->edx |= HTT_EDX;
	} else if (c->function == 0x80000001) {
		c->ecx |= CMP_LEGACY_ECX;
	}
}

int kvm_cpuid_host(struct engine *e, struct error *err)
{
	bool deadline;
	int r;

	e->host = xalloc(sizeof(*e->host) +
	                 KVM_CPUID_MAX * sizeof(e->host->entries[0]));
	e->host->nent = KVM_CPUID_MAX;
	r = kvm_call(e->kvm, KVM_GET_SUPPORTED_CPUID, e->host);
	if (r < 0)
		return error_set(err, r, "kvm: cannot read CPUID: %s",
		                 strerror(-r));
	deadline = kvm_call_value(e->kvm, KVM_CHECK_EXTENSION,
	                          KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	for (u32 i = 0; i < e->host->nent; i++)
		add_machine(&e->host->entries[i], deadline);
	return 0;
}

static const struct kvm_cpuid_entry2 *host_leaf(const struct engine *e,
                                                u32 leaf, u32 subleaf)
{
	for (u32 i = 0; i < e->host->nent; i++) {
		const struct kvm_cpuid_entry2 *h = &e->host->entries[i];

		if (h->function == leaf && h->index == subleaf)
			return h;
	}
	return NULL;
}

static void mask_features(const struct engine *e, struct kvm_cpuid_entry2 *c)
{
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *h;

	for (size_t i = 0; i < ARRAY_SIZE(feature_leaves); i++) {
		if (feature_leaves[i].leaf != c->function ||
		    feature_leaves[i].subleaf != c->index)
			continue;
		h = host_leaf(e, c->function, c->index);
		if (!h)
			h = &none;
		if (feature_leaves[i].eax)
			c->eax &= h->eax;
		if (feature_leaves[i].ebx)
			c->ebx &= h->ebx;
		if (feature_leaves[i].ecx)
			c->ecx &= h->ecx;
		if (feature_leaves[i].edx)
			c->edx &= h->edx;
	}
}

static bool has_leaf(void *ctx, u32 leaf, u32 subleaf, struct cpuid_regs *out)
{
	const struct kvm_cpuid_entry2 *h = host_leaf(ctx, leaf, subleaf);

	if (h)
		*out = (struct cpuid_regs){ h->eax, h->ebx, h->ecx, h->edx };
	return h != NULL;
}

int kvm_cpuid_limit(struct engine *e, struct cpuid_model *model, bool whole,
                    struct error *err)
{
	return cpuid_model_limit(model, has_leaf, e, whole, err);
}

/*
 * The kernel answers these hypercalls and MSRs, so it says which it has; and
 * no more than every engine has, since a machine may go on under another one.
 */
static void paravirtual(const struct engine *e, struct kvm_cpuid_entry2 *c)
{
	const struct kvm_cpuid_entry2 *h = host_leaf(e, c->function, 0);

	if (c->function == LEAF_KVM_FEATURES && h) {
		c->eax &= h->eax;
		c->edx = h->edx;
	} else if (c->function == LEAF_KVM && h) {
		c->ebx = h->ebx;
		c->ecx = h->ecx;
		c->edx = h->edx;
	}
}

static void add_leaf(struct vcpu *v, struct kvm_cpuid2 *table, u32 leaf,
                     u32 subleaf, bool has_subleaf)
{
	struct kvm_cpuid_entry2 *c = &table->entries[table->nent++];
	struct cpuid_regs regs;

	/* CR4 and XCR0 as at reset: the kernel follows the guest's. */
	cpuid_query(v->engine->cpuid, v->index, 0, XCR0_X87, leaf, subleaf,
	            &regs);
	c->function = leaf;
	c->index = subleaf;
	c->flags = has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
	c->eax = regs.eax;
	c->ebx = regs.ebx;
	c->ecx = regs.ecx;
	c->edx = regs.edx;
	mask_features(v->engine, c);
	if (leaf == LEAF_KVM || leaf == LEAF_KVM_FEATURES)
		paravirtual(v->engine, c);
}

int kvm_cpuid_set(struct vcpu *v, struct error *err)
{
	struct kvm_cpuid2 *table =
	    xalloc(sizeof(*table) + KVM_CPUID_MAX * sizeof(table->entries[0]));
	struct cpuid_regs regs;
	u32 leaf, subleaf;
	bool has_subleaf;
	int r;

	for (size_t i = 0; table->nent < KVM_CPUID_MAX &&
	                   cpuid_leaf_at(v->engine->cpuid, i, &leaf, &subleaf,
	                                 &has_subleaf, &regs);
	     i++)
		add_leaf(v, table, leaf, subleaf, has_subleaf);
	r = kvm_call(v->fd, KVM_SET_CPUID2, table);
	free(table);
	if (r < 0)
		return error_set(err, r,
		                 "kvm: the kernel refuses the CPU model: %s",
		                 strerror(-r));
	return 0;
}
