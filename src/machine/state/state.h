/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - a machine saved and loaded; for machine/ alone.
 *
 * Sections of the file: "about", JSON for people and starters; "state", the
 * chunks of the machine, its processor model, vCPUs and devices; memory
 * (pages.h). docs/state-file.md is the reference.
 */
#pragma once

#include "guest/cpu.h"
#include "guest/state.h"
#include "machine/internal.h"
#include "storage/state_file.h"

struct cpuid_config;

/* What is loaded before the engine exists, and what is left for later. */
struct machine_restore {
	struct state_file file;
	u8 *chunks;
	struct state_reader reader;
	u64 tsc_hz; /* as the guest knows it */
};

/* Reads and checks all but memory; what config says must be what was saved. */
int restore_begin(struct machine *m, struct error *err) MUST_CHECK;
/* The processor model that was saved. */
int restore_cpuid(struct machine *m, const struct cpuid_config *config,
                  struct error *err) MUST_CHECK;
/* Into a machine that was reset: memory, clocks, controllers, devices, vCPUs,
 * in this order. */
int restore_machine(struct machine *m, struct error *err) MUST_CHECK;
void restore_fini(struct machine *m);

/* ---- save.c: while nothing runs ---- */

/* What the guest was told is written is on the disk. */
int state_flush_disks(struct machine *m, struct error *err) MUST_CHECK;
int state_may_save(const struct machine *m, struct error *err) MUST_CHECK;
void state_quiesce(struct machine *m);
int state_collect(struct machine *m, struct state_writer *w,
                  struct error *err) MUST_CHECK;
/* All but memory. */
int state_begin(const struct machine *m, struct state_file *f, int fd,
                const struct state_writer *w, struct error *err) MUST_CHECK;

/* ---- kernel.c: controllers in the host's kernel ---- */

struct irqchip_local;

/* Their chunks, as those of our own; and what the guest's clock says. */
int kernel_chips_save(struct machine *m, struct state_writer *w,
                      u64 *pv_clock_ns, struct error *err) MUST_CHECK;
int kernel_chips_load(struct machine *m, u64 pv_clock_ns,
                      struct error *err) MUST_CHECK;
/* Of one vCPU; *saved gets or has what is in no chunk of their own. */
struct saved_cpu;
int kernel_local_save(struct machine_cpu *cpu, struct lapic_state *lapic,
                      struct saved_cpu *saved, struct error *err) MUST_CHECK;
int kernel_local_load(struct machine_cpu *cpu, const struct lapic_state *lapic,
                      const struct saved_cpu *saved,
                      struct error *err) MUST_CHECK;
/* Does the kernel have it, and no device? */
bool kernel_has_chip(const struct machine *m, const char *type);
/* Their names, ended by NULL. */
extern const char *const kernel_chip_names[];

/* ---- settle.c: after memory was frozen (guest/freeze.h) ---- */

void settle_init(struct machine *m);
void settle_fini(struct machine *m);
/* Pages come home bit by bit, unless somebody looks at them. */
void settle_soon(struct machine *m);

/* ---- same.c ---- */

void same_init(struct machine *m);
void same_fini(struct machine *m);
/* It runs. */
void same_begin(struct machine *m);

/* ---- moment.c ---- */

/* Waits until what is being written is written, and tells. */
void moment_finish(struct machine *m);

/* ---- chunks.c: what has no device ---- */

struct saved_machine {
	u64 clock_ns, tsc, tsc_hz, memory_bytes;
	u32 cpus;
	u8 console_last[MACHINE_SERIALS_MAX];
	u64 pv_ahead_ns; /* the paravirtual clock, of clock_ns; modulo 2^64 */
};
struct saved_cpu {
	u64 pv_system_time, pv_wall_clock;
	u32 pv_version;
	u32 events; /* CPU_EVENT_*: what waits for its thread */
	u8 sipi_vector;
	u64 pv_steal_time;
	u32 pv_steal_version;
};
enum { MACHINE_STATE_MAJOR = 1, CPU_STATE_MAJOR = 1 };

extern const struct field saved_machine_fields[];
extern const struct field saved_cpu_fields[];
extern const struct field cpu_state_fields[];

/* A state from a file is any bytes: what the host's own instructions would
 * trip over is refused. */
int cpu_state_check(struct cpu_state *state, struct error *err) MUST_CHECK;
/* "cpu0" */
void cpu_instance(char name[16], unsigned cpu);
