/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what a machine is made of; for machine/ alone.
 *
 * Threads: the loop's thread owns the life cycle (start, stop, reset, end).
 * A vCPU's thread runs its vCPU and parks when the loop's thread asks.
 * Anything else asks for things with machine_request().
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/loop.h"
#include "devices/chips/lapic.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "engine/engine.h"
#include "machine/boot/boot.h"
#include "machine/machine.h"
#include "machine/pv.h"
#include "machine/state/pace.h"

struct acpi_pm;
struct console;
struct cpu_hotplug;
struct cpuid_model;
struct gdb;
struct ioapic;
struct machine_moment;
struct machine_restore;
struct pic;
struct pit;
struct rtc;

enum { /* machine_cpu.events: what its thread must look at */
       CPU_EVENT_STOP = 1 << 0, /* park, until start */
       CPU_EVENT_IRQ = 1 << 1,  /* an interrupt may be pending */
       CPU_EVENT_NMI = 1 << 2,
       CPU_EVENT_INIT = 1 << 3,
       CPU_EVENT_SIPI = 1 << 4,
       CPU_EVENT_QUIT = 1 << 5, /* the thread ends */
};

/* Where a vCPU's thread is. */
enum cpu_activity {
	CPU_ACTIVE,
	CPU_HALT, /* HLT */
	CPU_WAITS_SIPI,
};

struct machine_cpu {
	struct machine *machine; /* borrowed */
	unsigned index;
	struct vcpu *vcpu;
	struct lapic *lapic; /* NULL if the kernel has them */
	struct pv_cpu pv;

	pthread_t thread;
	bool has_thread;
	_Atomic u32 events;
	_Atomic u8 sipi_vector;
	enum cpu_activity activity; /* its thread's; others' while parked */
	bool has_some;              /* to hand back; its thread's */

	pthread_mutex_t lock; /* the rest; wake when anything changes */
	pthread_cond_t wake;
	bool parked;
	_Atomic bool sleeping; /* waits on wake for events */

	_Atomic u64 asleep_ns; /* spent in waits for events */
	_Atomic u64 asleep_at; /* since when it waits; 0: it does not */
	_Atomic u64 began_ns;  /* when its thread did */
	u64 steal_ns;          /* found so far; the loop's thread */
	bool frozen; /* stays parked when others go; the loop's thread */
};

/* What is asked of the loop's thread; the strongest wins. */
enum { REQUEST_RESET = 1 << 0, REQUEST_END = 1 << 1 };

struct machine {
	struct machine_config config; /* strings are ours */
	struct loop *loop;            /* borrowed */
	struct device_host host;
	struct device *devices; /* newest first */

	struct memory *memory;
	struct e820_entry map[8];
	unsigned map_count;
	u64 low_ram_end;
	struct pci_windows windows;

	const struct engine_type *engine_type;
	struct engine *engine;
	struct cpuid_model *cpuid;
	u32 cpuid_1_eax;
	u64 tsc_hz;
	u64 tsc_offset;  /* guest TSC less the host's, when all are in step */
	u64 stopped_tsc; /* the host's when vCPUs were stopped */
	_Atomic bool tsc_stands;   /* and guests read that one */
	u64 pv_ref_tsc, pv_ref_ns; /* one moment: host TSC, guest's clock */
	u64 pv_ahead_ns; /* what that is ahead of host.clock; modulo 2^64 */
	struct lapic_set *lapics;
	struct pic *pic;
	struct ioapic *ioapic;
	struct pit *pit;
	struct rtc *rtc;
	struct acpi_pm *pm;
	struct cpu_hotplug *plug;
	struct pci_bus *pci;
	struct block *blocks[MACHINE_DISKS_MAX]; /* as devices see them */
	struct block *lives[MACHINE_DISKS_MAX];  /* below; blocks' own */
	struct device *disks[MACHINE_DISKS_MAX];
	struct disk_failures {
		struct machine *machine;
		int last[2]; /* of reads, writes: what was told of */
		unsigned told;
	} failures[MACHINE_DISKS_MAX];
	struct link *links[MACHINE_NICS_MAX];
	struct console *consoles[MACHINE_SERIALS_MAX];
	struct device *virtio_console, *balloon;
	struct console *agent;
	int agent_out; /* a second name of config.agent_fd */
	_Atomic bool agent_open;
	struct loop_timer steal; /* pv.h */
	u8 generation[16];       /* generation.h */
	u8 *acpi;
	size_t acpi_size;

	struct machine_cpu cpus[MACHINE_CPUS_MAX];
	_Atomic unsigned present; /* the first of them are there */
	struct gdb *gdb;
	struct loop_timer timeout;

	_Atomic u32 requests;
	pthread_mutex_t lock;            /* outcome, paused */
	struct machine_restore *restore; /* while a saved one is loaded */
	struct pages_source *source;     /* of memory that is not there yet */
	machine_lost_fn *lost;
	void *lost_ctx;
	struct machine_moment *moment; /* being written, or NULL */
	struct loop_timer settle;      /* memory comes home */
	struct pace settle_pace;
	pthread_t dropper; /* takes down what was moved aside */
	bool dropping;
	u64 moment_own; /* pages that were no file's, at the last moment */
	_Atomic bool handed_back; /* since then, by a vCPU: some of those */
	struct machine_same {
		struct loop_timer timer;
		u64 page;    /* where to go on */
		u64 dropped; /* since the beginning */
		u64 wait_s;  /* from one round to the next */
		u64 looked_ns, ran_ns;
		u64 round_ns; /* the last one's end */
		u64 asked;    /* pages that had come back then */
	} same;
	struct machine_outcome outcome;
	_Atomic bool ended; /* outcome is decided */
	bool show_cpu;      /* add the registers of cpu_words to it */
	unsigned cpu_words;
	bool running;   /* vCPUs are not parked; the loop's thread */
	bool paused;    /* by machine_pause(); the loop's thread */
	unsigned holds; /* who keeps vCPUs stopped; the loop's thread */

	u64 start_ns, run_ns, end_ns; /* host time */
	_Atomic u64 first_output_ns;
	unsigned resets;
	int statm_fd;  /* our own memory figures, for the report */
	int merged_fd; /* and how many pages are shared with others; -1 */
};

/* ---- report.c ---- */

u64 machine_resident_bytes(const struct machine *m);
/* The same in pages, and how many of them are no file's; 0: not known. */
void machine_resident(const struct machine *m, u64 *pages, u64 *own);
/* Of guest memory alone. */
u64 machine_guest_resident_bytes(const struct machine *m);
/* Shared with others because they are equal; -1: not known. */
s64 machine_merged_bytes(const struct machine *m);

/* ---- board.c: memory, chips, devices ---- */

int board_create(struct machine *m, struct error *err) MUST_CHECK;
/* Devices only: they must go before what they use. */
void board_destroy_devices(struct machine *m);
void board_destroy(struct machine *m);
/* ACPI tables, for the next reset, of what there is now. */
void board_tables(struct machine *m);
/* Power-on state of every device; no vCPU runs. */
void board_reset(struct machine *m);
int board_memory(struct machine *m, struct error *err) MUST_CHECK;
int board_add_peripherals(struct machine *m, struct error *err) MUST_CHECK;
/* disks.c: the nth of the config. */
int board_add_disk(struct machine *m, unsigned i, struct error *err) MUST_CHECK;
/* The end: what the guest wrote and did not flush goes to the files. A disk
 * that can't take it is told in the outcome. No vCPU runs. */
void board_write_back(struct machine *m);
enum { BOARD_QUEUES_MAX = 16 }; /* of a disk or network card */

/* Into the list, or fail with what creation said. */
void board_add(struct machine *m, struct device *dev);

/* ---- vcpu.c, host.c ---- */

int cpus_create(struct machine *m, struct error *err) MUST_CHECK;
int cpus_start_threads(struct machine *m, struct error *err) MUST_CHECK;
/* The loop's thread; stop returns when all are parked. */
void cpus_stop(struct machine *m);
void cpus_go(struct machine *m);
/* Ends and joins the threads. */
void cpus_quit(struct machine *m);
void cpus_destroy(struct machine *m);
/* Power-on registers, and the loaded kernel's; all parked. */
int cpus_reset(struct machine *m, const struct cpu_state *bsp,
               struct error *err) MUST_CHECK;
/* Any thread. */
void cpu_event(struct machine_cpu *cpu, u32 event);
/* One of them, as after power-on; state: its registers. */
int cpu_reset(struct machine_cpu *cpu, const struct cpu_state *state,
              struct error *err) MUST_CHECK;

extern const struct vcpu_host machine_vcpu_host; /* ctx to be filled in */

/* ---- hotplug.c ---- */

bool cpu_is_there(const struct machine_cpu *cpu);
/* As was saved: devices are loaded. */
void hotplug_restored(struct machine *m);

/* ---- machine.c ---- */

/* Any thread; takes effect on the loop's thread. The first outcome stays. */
void machine_end(struct machine *m, int code, const char *cause, int show_cpu,
                 const char *fmt, ...) PRINTF_LIKE(5, 6);
/* vCPUs stay stopped while anyone holds; the loop's thread. */
void machine_hold(struct machine *m);
void machine_release(struct machine *m);

/* ---- engine choice, time ---- */

const struct engine_type *choose_engine(const char *name, struct error *err);
u64 tsc_frequency(void);
/* hz if the host's counter runs at that to one part in TSC_TOLERANCE, else
 * what it runs at. */
enum { TSC_TOLERANCE = 1000 };
u64 tsc_frequency_near(u64 hz);
u64 host_tsc(void);
/* What the guest reads, less what the host does; and what it reads now. */
u64 machine_tsc_offset(struct machine *m, unsigned cpu);
u64 machine_guest_tsc(struct machine *m, unsigned cpu);
