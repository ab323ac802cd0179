/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_tsc - the guest's time stamp counter less the host's.
 *
 * An attribute of the vCPU since Linux 5.16. Before that the counter itself
 * is read and written: the kernel takes what vCPUs are given within a second
 * of each other for one time base.
 */
#include "engine/kvm/kvm.h"

#include <x86intrin.h>

static int attribute(struct vcpu *v, unsigned long request, u64 *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (u64)(uintptr_t)offset,
	};

	return kvm_call(v->fd, request, &attr);
}

u64 kvm_tsc_offset_get(struct vcpu *v)
{
	u64 offset = 0, tsc = 0;

	if (attribute(v, KVM_GET_DEVICE_ATTR, &offset) == 0)
		return offset;
	kvm_msr_read(v, MSR_TSC, &tsc); /* no kernel lacks it */
	return tsc - __rdtsc();
}

void kvm_tsc_offset_set(struct vcpu *v, u64 offset)
{
	v->tsc_known = false;
	if (attribute(v, KVM_SET_DEVICE_ATTR, &offset) < 0)
		kvm_msr_write(v, MSR_TSC, __rdtsc() + offset);
}
