/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steal.h - the time in which a vCPU wanted to run and did not: its thread
 * waited for a processor of the host, while it was neither halted nor stopped.
 *
 * Told to the guest in the structure of KVM's MSR 0x4b564d03 (Linux
 * Documentation/virt/kvm/x86/msr.rst), and to machine_figures().
 */
#pragma once

#include "base/types.h"

struct machine;
struct machine_cpu;

struct cpu_times {
	u64 run_ns, asleep_ns, steal_ns; /* since its thread began */
};

/* With the machine, before there are vCPUs. */
void steal_init(struct machine *m);
/* Its own thread: it begins; it waits for events or stands still, and goes
 * on. */
void steal_thread_began(struct machine_cpu *cpu);
void steal_sleep_begins(struct machine_cpu *cpu);
void steal_sleep_ends(struct machine_cpu *cpu);
/* The same of a wait for the host, with some work of its own in between. */
u64 steal_wait_begins(struct machine_cpu *cpu);
void steal_wait_ends(struct machine_cpu *cpu, u64 began);
/* The loop's thread. */
void steal_times(struct machine_cpu *cpu, struct cpu_times *times);

/* The MSR; the vCPU's thread. */
void steal_msr_write(struct machine_cpu *cpu, u64 value);
/* A saved machine goes on: the loop's thread, no vCPU runs. */
void steal_restored(struct machine *m);
