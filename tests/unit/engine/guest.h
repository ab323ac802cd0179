/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h - a machine with nothing in it but memory, for engine tests.
 *
 * 16 MiB of RAM at 0. Ports are remembered; MMIO answers from a small array
 * at GUEST_MMIO. Code goes to GUEST_CODE; the layouts below are made by
 * guest_long() and guest_flat32().
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/x86/cpuid.h"
#include "guest/memory.h"

enum {
	GUEST_RAM = 16 << 20,
	GUEST_GDT = 0x1000,
	GUEST_IDT = 0x2000,
	GUEST_TSS = 0x3000,
	GUEST_HANDLERS = 0x4000, /* 16 bytes a vector: OUT and HLT */
	GUEST_CODE = 0x8000,
	GUEST_STACK = 0xf000,   /* grows down */
	GUEST_STACK0 = 0x10000, /* from the TSS */
	GUEST_TABLES = 0x20000, /* PML4, PDPT, PD, PT of the first 2 MiB */
	GUEST_DATA = 0x40000,
	GUEST_USER = 0x100000, /* user pages from here, 64 KiB */
	GUEST_MMIO = 0xfee10000,

	SEL_CODE0 = 0x08,
	SEL_DATA0 = 0x10,
	SEL_CODE3 = 0x1b,
	SEL_DATA3 = 0x23,
	SEL_TSS = 0x28,
	SEL_CODE32 = 0x38,
	SEL_TSS2 = 0x40,
	SEL_CODE16 = 0x48,
	SEL_DATA16 = 0x50,
};

struct guest {
	const struct engine_type *type;
	struct engine *engine;
	struct vcpu *vcpu;
	struct memory *memory;
	struct cpuid_model *cpuid;
	struct cpu_state s;
	struct vcpu_exit exit;
	u8 *ram;

	u32 out[64]; /* what was written to ports: value */
	u16 out_port[64];
	unsigned outs;
	u32 in;
	u8 mmio[4096];
	unsigned mmio_reads, mmio_writes;
	int irq; /* vector that waits, or -1 */
	u8 tpr;
	u64 apic_base;
	u64 hypercall[1 + HYPERCALL_ARGS]; /* the last: number and values */
};

int guest_setup(void **state);
int guest_teardown(void **state);

/* Prepare s for a mode; nothing is given to the engine yet. */
void guest_real(struct guest *g);
void guest_flat32(struct guest *g, bool paging);
void guest_long(struct guest *g);
/* A 32- or 64-bit IDT whose gates lead to handlers that report. */
void guest_code(struct guest *g, const void *code, size_t size);
void guest_poke(struct guest *g, u64 at, const void *data, size_t size);
u64 guest_peek(struct guest *g, u64 at, unsigned size);
u64 *guest_pte(struct guest *g, u64 lin); /* of the first 2 MiB */

/* Set s, run until an exit, get s. */
void guest_run(struct guest *g);
/* As above; the exit must be a HLT. */
void guest_run_to_halt(struct guest *g);
/*
 * As above, and the last thing the guest did was to take exception vector
 * (with this error code, if error >= 0) at rip.
 */
void guest_expect_fault(struct guest *g, u8 vector, s64 error, u64 rip);

#define GUEST_CODE_OF(g, name)                                                 \
	do {                                                                   \
		extern const u8 name[], name##_end[];                          \
		guest_code(g, name, (size_t)(name##_end - name));              \
	} while (0)
