/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pv.h - KVM's paravirtual clock and its hypercall that sends interrupts to
 * many vCPUs, for engines that are not KVM.
 *
 * Linux Documentation/virt/kvm/x86/msr.rst and hypercalls.rst. Asynchronous
 * page faults and PV EOI are not offered, and CPUID says so.
 */
#pragma once

#include "base/types.h"
#include "engine/engine.h"

struct machine;
struct machine_cpu;

/* Bits of CPUID 0x40000001 EAX that this file implements: both clock
 * interfaces, no port delays needed, steal time, interrupts by hypercall, one
 * clock for all vCPUs. */
#define PV_FEATURES                                                            \
	((u32)(1u << 0 | 1u << 1 | 1u << 3 | 1u << 5 | 1u << 11 | 1u << 24))

/* One vCPU's; zeroed at reset. */
struct pv_cpu {
	u64 system_time; /* the MSR: address, bit 0 enables */
	u64 wall_clock;
	u32 version;
	_Atomic u64 steal_time; /* the MSR; steal.h */
	u32 steal_version;      /* the loop's thread */
};

/* The vCPU's thread. false: not an MSR of ours. */
bool pv_msr_read(struct machine_cpu *cpu, u32 msr, u64 *value);
bool pv_msr_write(struct machine_cpu *cpu, u32 msr, u64 value);

/* The vCPU's thread. */
s64 pv_hypercall(struct machine_cpu *cpu, u64 number,
                 const u64 arg[HYPERCALL_ARGS], bool code64);

/* Time was stopped or TSCs moved: new readings for all; no vCPU runs. */
void pv_refresh(struct machine *m);
