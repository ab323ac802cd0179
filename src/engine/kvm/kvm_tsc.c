/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_tsc - the guest's time stamp counter: its rate, and how far it is off
 * the host's.
 *
 * The offset is an attribute of the vCPU since Linux 5.16. Before that the
 * counter itself is read and written: the kernel takes what vCPUs are given
 * within a second of each other for one time base.
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

/*
 * Guests' counters run as the host's does: 0 asks for that (api.rst 4.55).
 * Without it a vCPU has the rate that the kernel believed in when kvm was
 * loaded, or when the machine was made. It measures the counter once more a
 * second or two after it has booted; where the new rate is more than 250 ppm
 * off and the processor cannot scale, the vCPU's scale stays 0. The guest then
 * reads the host's counter, and the kernel reads 0 for it, which is what a
 * state would have and what its paravirtual clock would count from.
 */
static void rate_of_host(int fd)
{
	/* Who refuses it keeps what it has. */
	kvm_call_value(fd, KVM_SET_TSC_KHZ, 0);
}

/* For vCPUs to come. Since Linux 5.17, and lately not once there is one. */
void kvm_tsc_rate_default(struct engine *e)
{
	rate_of_host(e->vm);
}

void kvm_tsc_rate_set(struct vcpu *v)
{
	rate_of_host(v->fd);
}
