/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - what runs guest instructions, whichever way.
 *
 * An engine owns vCPUs and runs each on a thread of its own until something
 * happens that the machine must decide. Port I/O, MMIO and the MSRs that
 * belong to devices are asked of the machine by callback, on the vCPU's
 * thread, in the middle of the instruction (docs/decisions/0001): one
 * instruction may need several, and none has to be started again.
 *
 * Threads: vcpu_run, vcpu_get and vcpu_set are called by the vCPU's own
 * thread, or by any while it is known not to run. vcpu_kick and
 * vcpu_attention may be called by any thread at any time.
 */
#pragma once

#include "base/types.h"
#include "guest/cpu.h"

struct cpuid_model;
struct engine;
struct error;
struct irqchip_local;
struct irqchip_state;
struct memory;
struct vcpu;

enum { HYPERCALL_ARGS = 4, HYPERCALL_UNKNOWN = -1000 /* KVM_ENOSYS */ };

/* What a vCPU asks of its machine. ctx is the machine's own vCPU. */
struct vcpu_host {
	void *ctx;
	/* size 1, 2, 4. The bus answers what no device claims. */
	u64 (*pio_read)(void *ctx, u16 port, unsigned size);
	void (*pio_write)(void *ctx, u16 port, u64 value, unsigned size);
	/* size 1, 2, 4, 8; never crossing a page. */
	u64 (*mmio_read)(void *ctx, gpa_t gpa, unsigned size);
	void (*mmio_write)(void *ctx, gpa_t gpa, u64 value, unsigned size);
	/* MSRs the engine does not hold itself: APIC, paravirtual clock.
	 * false: no such MSR, or no such value: the guest gets #GP. */
	bool (*msr_read)(void *ctx, u32 msr, u64 *value);
	bool (*msr_write)(void *ctx, u32 msr, u64 value);

	/*
	 * The rest is for engines without an interrupt controller in the
	 * kernel. irq_pending: a vector above the processor priority waits
	 * (or an ExtINT from the PIC). irq_ack takes it: the vector, or -1.
	 * tpr is CR8.
	 */
	bool (*irq_pending)(void *ctx);
	int (*irq_ack)(void *ctx);
	u8 (*tpr_get)(void *ctx);
	void (*tpr_set)(void *ctx, u8 tpr);
	/* VMCALL and VMMCALL of the guest's kernel; optional. code64: values
	 * are 64 bits wide, else 32. The answer: HYPERCALL_UNKNOWN if it is
	 * none of the machine's. */
	s64 (*hypercall)(void *ctx, u64 number, const u64 arg[HYPERCALL_ARGS],
	                 bool code64);
};

enum vcpu_exit_reason {
	EXIT_KICK,     /* vcpu_kick() was called; nothing else happened */
	EXIT_HALT,     /* HLT; wakes on an interrupt, NMI, INIT */
	EXIT_SHUTDOWN, /* triple fault */
	EXIT_DEBUG,    /* gdb: a breakpoint, watchpoint or step; see debug */
	EXIT_RESET,    /* kvm only: the kernel says the guest asked for it */
	EXIT_ERROR,    /* the engine cannot go on: words in err */
};

struct vcpu_exit {
	enum vcpu_exit_reason reason;
	struct {
		bool step;
		gva_t address; /* of the breakpoint or the watched access */
	} debug;
	const char *words; /* EXIT_ERROR, EXIT_SHUTDOWN: why; static or the
	                    * vCPU's own, valid until the next run */
};

/* One gdb breakpoint or watchpoint. */
struct vcpu_breakpoint {
	enum { BREAK_EXEC, BREAK_WRITE, BREAK_ACCESS } kind;
	gva_t address;
	u8 size;
};

enum vcpu_stat {
	STAT_INSTRUCTIONS, /* 0 where not counted */
	STAT_PIO,
	STAT_MMIO,
	STAT_MSR,
	STAT_HALT,
	STAT_INTERRUPT,
	STAT_EXCEPTION,
	STAT_KICK,
	STAT_COUNT
};
extern const char *const vcpu_stat_names[STAT_COUNT];

struct engine_config {
	struct memory *memory; /* borrowed; laid out already */
	/* Borrowed. An engine that cannot show all of it takes the rest away
	 * as it is created, or fails if it is whole: a guest knows it. */
	struct cpuid_model *cpuid;
	bool cpuid_whole;
	unsigned cpus;
	const char *options;  /* what stood after "bt,"; may be NULL */
	u64 code_cache_bytes; /* 0: the engine's default */
};

/* Interrupt controllers in the kernel (kvm). */
struct engine_irqchip {
	void (*set_gsi)(struct engine *e, unsigned gsi, bool high);
	void (*msi)(struct engine *e, u64 addr, u32 data);
	/* While no vCPU runs: every controller and the PIT as at power-on.
	 * The machine's reset calls it before it sets the vCPUs' states. */
	void (*reset)(struct engine *e);
	/* Around a pause: the paravirtual clock stands still in between. */
	void (*clock_stop)(struct engine *e);
	void (*clock_start)(struct engine *e);
	/*
	 * For snapshots, while no vCPU runs: 0 or -errno. now_ns is the
	 * machine's time, to which counts relate. A vCPU's after its vcpu_set;
	 * the machine's after those of all vCPUs, and after every device has
	 * put its line where it is.
	 */
	int (*get)(struct engine *e, u64 now_ns, struct irqchip_state *state);
	int (*set)(struct engine *e, u64 now_ns,
	           const struct irqchip_state *state);
	int (*local_get)(struct vcpu *v, struct irqchip_local *state);
	int (*local_set)(struct vcpu *v, const struct irqchip_local *state);
};

struct engine_type {
	const char *name;
	const char *about; /* one line, for help */
	/* Non-NULL: the machine builds no PIC, PIT, IOAPIC and LAPIC. */
	const struct engine_irqchip *irqchip;
	/* Looks at no page before memory_need(). Another one's memory may come
	 * while vCPUs run as well, where the host has userfaultfd for it. */
	bool memory_on_demand;

	/* 0 if this host can run it at speed; else -errno and why. */
	int (*probe)(struct error *err);
	int (*create)(struct engine **out, const struct engine_config *config,
	              struct error *err);
	void (*destroy)(struct engine *e);

	/* host is copied. index is the APIC ID. */
	int (*vcpu_create)(struct engine *e, unsigned index,
	                   const struct vcpu_host *host, struct vcpu **out,
	                   struct error *err);
	void (*vcpu_destroy)(struct vcpu *v);

	void (*vcpu_run)(struct vcpu *v, struct vcpu_exit *exit);
	/*
	 * Optional. The vCPU is about to sleep, on its own thread: what it
	 * made for itself may be handed back to the host. Returns when to
	 * call again if it still sleeps then, in nanoseconds; 0: never.
	 */
	u64 (*vcpu_rest)(struct vcpu *v);
	/* With memory_on_demand, while no vCPU runs: they hold on to no page
	 * that they have asked for, and ask again. */
	void (*let_go)(struct engine *e);
	/* vcpu_run returns EXIT_KICK within a millisecond; sticky: if it is
	 * not running now, the next run returns at once. */
	void (*vcpu_kick)(struct vcpu *v);
	/* An interrupt may be pending now: look, without leaving vcpu_run. */
	void (*vcpu_attention)(struct vcpu *v);
	/* Non-maskable interrupt, from any thread. */
	void (*vcpu_nmi)(struct vcpu *v);

	void (*vcpu_get)(struct vcpu *v, struct cpu_state *state);
	int (*vcpu_set)(struct vcpu *v, const struct cpu_state *state,
	                struct error *err);
	u64 (*vcpu_stat)(struct vcpu *v, enum vcpu_stat stat);

	/*
	 * The guest's TSC less the host's, modulo 2^64; optional. Setting it
	 * gives vCPUs one time base to the cycle, which vcpu_set of each with
	 * its own reading of the clock cannot. set: as vcpu_set; get: any
	 * thread, but with an irqchip as vcpu_get.
	 */
	u64 (*vcpu_tsc_offset_get)(struct vcpu *v);
	void (*vcpu_tsc_offset_set)(struct vcpu *v, u64 offset);

	/* Replaces the set; step: EXIT_DEBUG after one instruction. */
	int (*vcpu_debug)(struct vcpu *v, const struct vcpu_breakpoint *points,
	                  size_t count, bool step);

	/* Linear to physical for the debugger; false if not mapped. */
	bool (*vcpu_translate)(struct vcpu *v, gva_t gva, gpa_t *gpa);

	/*
	 * Dirty log: from start on, PAGE_DIRTY in the memory's page flags says
	 * what vCPUs wrote. sync moves what the engine holds elsewhere into
	 * the flags, and write-protects again the pages whose flag is clear.
	 */
	int (*dirty_start)(struct engine *e);
	void (*dirty_sync)(struct engine *e);
	void (*dirty_stop)(struct engine *e);

	/* Signal fd in the kernel when the guest writes there (kvm; NULL). */
	int (*ioeventfd)(struct engine *e, bool pio, u64 addr, int fd, bool on);

	/* Figures in words for --report and stats; NULL if none. Freed by
	 * the caller. JSON object text. */
	char *(*stats_json)(struct engine *e);
};

/* NULL if the build has none of that name. */
const struct engine_type *engine_find(const char *name);
/* The table, ended by NULL, best first: what auto tries in order. */
extern const struct engine_type *const engine_types[];
