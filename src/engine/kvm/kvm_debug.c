/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_debug - breakpoints, watchpoints and steps for the debugger, by the
 * processor's debug registers. The guest's own are put aside by the kernel
 * meanwhile (api.rst 4.87).
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>

enum {
	DR6_HIT = 0xf,
	DR6_STEP = 1 << 14,
	DR7_GLOBAL_EXACT = 1 << 9,
	DR7_FIXED = 1 << 10,
};

/* Intel SDM vol. 3 figure 17-1: R/W and LEN of breakpoint i, and its enable. */
static bool dr7_bits(const struct vcpu_breakpoint *p, size_t i, u64 *dr7)
{
	static const u8 len[9] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };
	u64 rw = 0, size = 0;

	if (p->kind != BREAK_EXEC) {
		if (p->size != 1 && p->size != 2 && p->size != 4 &&
		    p->size != 8)
			return false;
		if (!IS_ALIGNED(p->address, (gva_t)p->size))
			return false;
		rw = p->kind == BREAK_WRITE ? 1 : 3;
		size = len[p->size];
	}
	*dr7 |= (u64)2 << (i * 2) | (rw | size << 2) << (16 + i * 4);
	return true;
}

int kvm_vcpu_debug(struct vcpu *v, const struct vcpu_breakpoint *points,
                   size_t count, bool step)
{
	struct kvm_guest_debug debug = { 0 };
	u64 dr7 = DR7_FIXED | DR7_GLOBAL_EXACT;
	int r;

	if (count > ARRAY_SIZE(v->points))
		return -ENOSPC;
	for (size_t i = 0; i < count; i++) {
		if (!dr7_bits(&points[i], i, &dr7))
			return -EINVAL;
		debug.arch.debugreg[i] = points[i].address;
	}
	if (count || step)
		debug.control = KVM_GUESTDBG_ENABLE;
	if (count) {
		debug.control |= KVM_GUESTDBG_USE_HW_BP;
		debug.arch.debugreg[7] = dr7;
	}
	/* A step goes past an interrupt that waits, not into its handler. */
	if (step)
		debug.control |=
		    KVM_GUESTDBG_SINGLESTEP |
		    (v->engine->debug_flags & KVM_GUESTDBG_BLOCKIRQ);
	r = kvm_call(v->fd, KVM_SET_GUEST_DEBUG, &debug);
	if (r < 0)
		return r;
	memcpy(v->points, points, count * sizeof(*points));
	v->point_count = count;
	return 0;
}

void kvm_debug_exit(struct vcpu *v, struct vcpu_exit *exit)
{
	const struct kvm_debug_exit_arch *arch = &v->run->debug.arch;

	exit->reason = EXIT_DEBUG;
	exit->debug.address = arch->pc;
	exit->debug.step = arch->dr6 & DR6_STEP;
	for (size_t i = 0; i < v->point_count; i++)
		if (arch->dr6 & BIT(i) & DR6_HIT)
			exit->debug.address = v->points[i].address;
}

bool kvm_vcpu_translate(struct vcpu *v, gva_t gva, gpa_t *gpa)
{
	struct kvm_translation t = { .linear_address = gva };

	if (kvm_call(v->fd, KVM_TRANSLATE, &t) < 0 || !t.valid)
		return false;
	*gpa = t.physical_address;
	return true;
}
