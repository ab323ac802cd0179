/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_msrs - the part of the CPU state that lives in MSRs.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define IN(m, field)                                                           \
	{                                                                      \
		m, offsetof(struct cpu_state, field)                           \
	}
#define FIXED(m, i)                                                            \
	{                                                                      \
		m, offsetof(struct cpu_state, mtrr.fixed[i])                   \
	}
#define VARIABLE(i)                                                            \
	{ 0x200 + 2 * (i), offsetof(struct cpu_state, mtrr.base[i]) },         \
	{                                                                      \
		0x201 + 2 * (i), offsetof(struct cpu_state, mtrr.mask[i])      \
	}

/* Intel SDM vol. 4 table 2-2, AMD APM vol. 2 appendix A. */
static const struct {
	u32 msr;
	u32 offset;
} kvm_msrs[] = {
	IN(MSR_TSC, tsc),
	IN(MSR_TSC_ADJUST, tsc_adjust),
	IN(MSR_SYSENTER_CS, sysenter_cs),
	IN(MSR_SYSENTER_ESP, sysenter_esp),
	IN(MSR_SYSENTER_EIP, sysenter_eip),
	IN(MSR_MISC_ENABLE, misc_enable),
	IN(MSR_PAT, pat),
	IN(MSR_XSS, xss),
	IN(MSR_PKRS, pkrs),
	IN(MSR_STAR, star),
	IN(MSR_LSTAR, lstar),
	IN(MSR_CSTAR, cstar),
	IN(MSR_SFMASK, sfmask),
	IN(MSR_KERNEL_GS_BASE, kernel_gs_base),
	IN(MSR_TSC_AUX, tsc_aux),
	IN(0x2ff, mtrr.def_type),
	FIXED(0x250, 0),
	FIXED(0x258, 1),
	FIXED(0x259, 2),
	FIXED(0x268, 3),
	FIXED(0x269, 4),
	FIXED(0x26a, 5),
	FIXED(0x26b, 6),
	FIXED(0x26c, 7),
	FIXED(0x26d, 8),
	FIXED(0x26e, 9),
	FIXED(0x26f, 10),
	VARIABLE(0),
	VARIABLE(1),
	VARIABLE(2),
	VARIABLE(3),
	VARIABLE(4),
	VARIABLE(5),
	VARIABLE(6),
	VARIABLE(7),
};

_Static_assert(ARRAY_SIZE(kvm_msrs) <= 64, "engine.msrs has a bit for each");

/* struct kvm_msrs with room for all. */
struct msr_list {
	u32 nmsrs, pad;
	struct kvm_msr_entry entries[ARRAY_SIZE(kvm_msrs)];
};

static int transfer_one(int fd, unsigned long request, u32 msr, u64 *value)
{
	struct {
		u32 nmsrs, pad;
		struct kvm_msr_entry entry;
	} one = { .nmsrs = 1 };
	int r;

	one.entry.index = msr;
	one.entry.data = *value;
	r = kvm_call(fd, request, &one);
	if (r != 1)
		return r < 0 ? r : -ENXIO;
	*value = one.entry.data;
	return 0;
}

int kvm_msr_read(struct vcpu *v, u32 msr, u64 *value)
{
	u64 got = 0;
	int r = transfer_one(v->fd, KVM_GET_MSRS, msr, &got);

	if (r == 0)
		*value = got;
	return r;
}

int kvm_msr_write(struct vcpu *v, u32 msr, u64 value)
{
	return transfer_one(v->fd, KVM_SET_MSRS, msr, &value);
}

void kvm_msrs_probe(struct engine *e, int vcpu_fd)
{
	for (size_t i = 0; i < ARRAY_SIZE(kvm_msrs); i++) {
		u64 value = 0;

		if (transfer_one(vcpu_fd, KVM_GET_MSRS, kvm_msrs[i].msr,
		                 &value) == 0)
			e->msrs |= BIT(i);
	}
}

static u64 *field(struct cpu_state *state, size_t i)
{
	return (u64 *)(void *)((u8 *)state + kvm_msrs[i].offset);
}

static u64 field_value(const struct cpu_state *state, size_t i)
{
	u64 value;

	memcpy(&value, (const u8 *)state + kvm_msrs[i].offset, sizeof(value));
	return value;
}

void kvm_msrs_get(struct vcpu *v, struct cpu_state *state)
{
	struct msr_list list = { 0 };
	u32 n = 0;
	int got;

	for (size_t i = 0; i < ARRAY_SIZE(kvm_msrs); i++) {
		*field(state, i) = 0;
		if (v->engine->msrs & BIT(i))
			list.entries[list.nmsrs++].index = kvm_msrs[i].msr;
	}
	got = kvm_call(v->fd, KVM_GET_MSRS, &list);
	ASSERT(got == (int)list.nmsrs); /* each was read before */
	for (size_t i = 0; i < ARRAY_SIZE(kvm_msrs); i++)
		if (v->engine->msrs & BIT(i))
			*field(state, i) = list.entries[n++].data;
	v->tsc_got = state->tsc;
	v->tsc_known = true;
}

static int add(struct vcpu *v, const struct cpu_state *state, size_t i,
               struct msr_list *list, struct error *err)
{
	u64 value = field_value(state, i);
	struct kvm_msr_entry *entry;

	/* A debugger's change of a register must not turn this processor's
	 * clock back: the others' run on. */
	if (kvm_msrs[i].msr == MSR_TSC && v->tsc_known && value == v->tsc_got)
		return 0;
	if (!(v->engine->msrs & BIT(i))) {
		if (!value)
			return 0;
		return error_set(err, -ENXIO,
		                 "kvm: this host has no MSR %#x, which is "
		                 "%#" PRIx64 " in the state",
		                 kvm_msrs[i].msr, value);
	}
	entry = &list->entries[list->nmsrs++];
	entry->index = kvm_msrs[i].msr;
	entry->data = value;
	return 0;
}

/* The kernel stops at the first it refuses. One that has the value already
 * does not matter: it is refused because the CPU model lacks it. */
static int set_list(struct vcpu *v, struct msr_list *list, struct error *err)
{
	for (;;) {
		struct kvm_msr_entry *bad;
		u64 now = 0;
		int done = kvm_call(v->fd, KVM_SET_MSRS, list);

		if (done < 0)
			return error_set(err, done, "kvm: cannot set MSRs: %s",
			                 strerror(-done));
		if (done >= (int)list->nmsrs)
			return 0;
		bad = &list->entries[done];
		if (kvm_msr_read(v, bad->index, &now) || now != bad->data)
			return error_set(err, -EINVAL,
			                 "kvm: MSR %#x cannot have the value "
			                 "%#llx",
			                 bad->index, bad->data);
		list->nmsrs -= (u32)done + 1;
		memmove(list->entries, bad + 1, list->nmsrs * sizeof(*bad));
	}
}

int kvm_msrs_set(struct vcpu *v, const struct cpu_state *state,
                 struct error *err)
{
	struct msr_list list = { 0 };
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(kvm_msrs); i++) {
		r = add(v, state, i, &list, err);
		if (r < 0)
			return r;
	}
	return set_list(v, &list, err);
}
