/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lapic.h - the local APICs of all vCPUs, for engines without their own.
 *
 * Threads: "any" below means any thread, without a lock. Everything else is
 * called by the thread that owns the vCPU, or by any while it does not run.
 * What others do to a LAPIC is set bits in its IRR; they then call attention.
 */
#pragma once

#include "base/types.h"
#include "guest/irqchip.h"

struct clock;
struct lapic;
struct lapic_set;

/* What a LAPIC asks of its machine; cpu is the index, which is the APIC ID.
 * May be called by any thread, with a device's lock held. */
struct lapic_host {
	void *ctx;
	/* Something may be pending for cpu now: wake it, make it look. */
	void (*attention)(void *ctx, unsigned cpu);
	void (*nmi)(void *ctx, unsigned cpu);
	/* The machine queues it for cpu's thread, which then resets the CPU,
	 * calls lapic_init_reset() and waits for a SIPI (not the BSP). */
	void (*init)(void *ctx, unsigned cpu);
	/* Ignored by the machine unless cpu waits for it. */
	void (*sipi)(void *ctx, unsigned cpu, u8 vector);
	/* End of a level-triggered interrupt: for ioapic_eoi(). */
	void (*eoi)(void *ctx, u8 vector);
	/* ExtINT: pic_ack(). */
	int (*pic_ack)(void *ctx);
	u64 (*guest_tsc)(void *ctx, unsigned cpu);
};

struct lapic_config {
	unsigned cpus;
	unsigned phys_bits; /* MAXPHYADDR, for reserved bits of APIC_BASE */
	u64 tsc_hz;
	bool x2apic, tsc_deadline; /* as CPUID says */
	/* EOI-broadcast suppression; only with an IOAPIC that has an EOI
	 * register. Off, as in the kernel's irqchip, where machines move. */
	bool directed_eoi;
	struct clock *clock; /* borrowed */
};

struct lapic_set *lapic_set_create(const struct lapic_host *host,
                                   const struct lapic_config *config);
void lapic_set_destroy(struct lapic_set *set); /* NULL is legal */
struct lapic *lapic_set_cpu(struct lapic_set *set, unsigned cpu);

/* Power-on or machine reset; no vCPU runs. */
void lapic_reset(struct lapic *l);
/* INIT: as reset, but APIC_BASE stays. */
void lapic_init_reset(struct lapic *l);

/*
 * For struct vcpu_host.
 */

/* A vector above the processor priority waits, or an ExtINT. */
bool lapic_irq_pending(struct lapic *l);
/* The same question from any thread: would it end a HLT (IF set)? */
bool lapic_wakes(struct lapic *l);
/* Take the highest; -1 if none (any more). */
int lapic_ack(struct lapic *l);
u8 lapic_tpr_get(struct lapic *l); /* CR8 */
void lapic_tpr_set(struct lapic *l, u8 cr8);

/* APIC_BASE, TSC_DEADLINE, 0x800-0x8ff. false: #GP. */
bool lapic_msr_read(struct lapic *l, u32 msr, u64 *value);
bool lapic_msr_write(struct lapic *l, u32 msr, u64 value);

/* Is gpa in this CPU's register page (xAPIC mode, enabled)? */
bool lapic_claims(const struct lapic *l, gpa_t gpa);
/* off within the page; size 1, 2, 4, 8: only aligned 32-bit accesses reach
 * registers (Intel SDM vol. 3 10.4.1). */
u64 lapic_mmio_read(struct lapic *l, u32 off, unsigned size);
void lapic_mmio_write(struct lapic *l, u32 off, u64 value, unsigned size);

/* The guest's TSC jumped: deadlines are to be computed anew. */
void lapic_tsc_changed(struct lapic *l);

/*
 * From any thread.
 */

/* A message-signalled interrupt: SDM vol. 3 10.11. IOAPICs send these too. */
void lapic_deliver_msi(struct lapic_set *set, u64 addr, u32 data);
/* The PIC's INTR wire, on LINT0 of every LAPIC. */
void lapic_set_lint0(struct lapic_set *set, bool high);
/* The chipset's NMI wire, on LINT1: one edge. */
void lapic_pulse_lint1(struct lapic_set *set);

/* The canonical state: guest/irqchip.h. */
void lapic_save(struct lapic *l, struct lapic_state *state);
/* Hostile values are bent into legal ones. Starts the timer. */
void lapic_load(struct lapic *l, const struct lapic_state *state);
