/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_irqchip.h - the interrupt controllers, timers and clock in the kernel.
 *
 * get and set are for snapshots: no vCPU may run meanwhile. The routes may be
 * used by any thread at any time. 0 or -errno throughout. Only for an engine
 * made by kvm_engine.
 */
#pragma once

#include <linux/kvm.h>

#include "base/types.h"

struct engine;
struct vcpu;

enum { KVM_PARAVIRT_MSRS = 11 };
/* Which of them is what: struct kvm_local_state. */
enum {
	KVM_PARAVIRT_WALL_CLOCK = 2,
	KVM_PARAVIRT_SYSTEM_TIME = 3,
	KVM_PARAVIRT_STEAL_TIME = 5,
	KVM_PARAVIRT_POLL_CONTROL = 7,
};

struct kvm_chips_state {
	struct kvm_pic_state pic[2];
	struct kvm_ioapic_state ioapic;
	struct kvm_pit_state2 pit;
	u64 clock_ns; /* of the paravirtual clock */
};

/* What belongs to one vCPU and is not in struct cpu_state. */
struct kvm_local_state {
	u64 apic_base;
	u64 tsc_deadline;
	u8 regs[KVM_APIC_REG_SIZE]; /* as the APIC's page shows them */
	/* Where the guest put its clock pages and the like; 0 where this
	 * kernel has no such MSR. */
	u64 paravirt[KVM_PARAVIRT_MSRS];
};

int kvm_chips_get(struct engine *e, struct kvm_chips_state *state) MUST_CHECK;
int kvm_chips_set(struct engine *e,
                  const struct kvm_chips_state *state) MUST_CHECK;
int kvm_local_get(struct vcpu *v, struct kvm_local_state *state) MUST_CHECK;
/* After vcpu_set, which decides CPUID's and EFER's part of it. */
int kvm_local_set(struct vcpu *v,
                  const struct kvm_local_state *state) MUST_CHECK;

/* Raise gsi (an edge) when the eventfd is signalled. */
int kvm_line_irqfd(struct engine *e, int fd, unsigned gsi, bool on) MUST_CHECK;

/* A message sent by the kernel itself when the eventfd is signalled: the GSI
 * of its route, to be freed with the same fd, or -errno. */
int kvm_message_create(struct engine *e, int fd, u64 addr, u32 data) MUST_CHECK;
int kvm_message_set(struct engine *e, int gsi, u64 addr, u32 data) MUST_CHECK;
void kvm_message_destroy(struct engine *e, int gsi, int fd);
