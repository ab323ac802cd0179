/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lapic_regs.h - the LAPIC's registers, and what its two halves share:
 * lapic.c (registers, priorities, IPIs) and lapic_timer.c.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "devices/chips/lapic.h"
#include "guest/clock.h"

/* Offsets in the page, Intel SDM vol. 3 table 10-1; x2APIC MSR = 0x800 +
 * offset / 16 (table 10-6). */
enum {
	REG_ID = 0x20,
	REG_VERSION = 0x30,
	REG_TPR = 0x80,
	REG_APR = 0x90,
	REG_PPR = 0xa0,
	REG_EOI = 0xb0,
	REG_LDR = 0xd0,
	REG_DFR = 0xe0,
	REG_SVR = 0xf0,
	REG_ISR = 0x100,
	REG_TMR = 0x180,
	REG_IRR = 0x200,
	REG_ESR = 0x280,
	REG_LVT_CMCI = 0x2f0,
	REG_ICR = 0x300,
	REG_ICR_HIGH = 0x310,
	REG_LVT_TIMER = 0x320,
	REG_LVT_THERMAL = 0x330,
	REG_LVT_PERF = 0x340,
	REG_LVT_LINT0 = 0x350,
	REG_LVT_LINT1 = 0x360,
	REG_LVT_ERROR = 0x370,
	REG_INITIAL_COUNT = 0x380,
	REG_CURRENT_COUNT = 0x390,
	REG_DIVIDE = 0x3e0,
	REG_SELF_IPI = 0x3f0, /* x2APIC alone */
};

enum {
	LVT_VECTOR = 0xff,
	LVT_MODE_SHIFT = 8,
	LVT_MODE = 7 << 8,
	LVT_PENDING = 1 << 12, /* delivery status: ro, always 0 here */
	LVT_POLARITY = 1 << 13,
	LVT_REMOTE_IRR = 1 << 14, /* ro */
	LVT_LEVEL = 1 << 15,
	LVT_MASKED = 1 << 16,
	LVT_TIMER_MODE = 3 << 17,
	LVT_TIMER_PERIODIC = 1 << 17,
	LVT_TIMER_DEADLINE = 2 << 17,

	SVR_ENABLED = 1 << 8,
	SVR_FOCUS_OFF = 1 << 9,
	SVR_NO_EOI_BROADCAST = 1 << 12,

	ESR_SEND_ILLEGAL = 1 << 5,
	ESR_RECEIVE_ILLEGAL = 1 << 6,
	ESR_ILLEGAL_REGISTER = 1 << 7,
};

enum delivery_mode {
	MODE_FIXED,
	MODE_LOWEST,
	MODE_SMI,
	MODE_RESERVED,
	MODE_NMI,
	MODE_INIT,
	MODE_SIPI,
	MODE_EXTINT,
};

#define APIC_BASE_DEFAULT ((u64)0xfee00000)
enum {
	APIC_BASE_BSP = 1 << 8,
	APIC_BASE_X2APIC = 1 << 10,
	APIC_BASE_ENABLED = 1 << 11,
};

struct lapic {
	struct lapic_set *set; /* borrowed */
	unsigned cpu;

	/* Its owner alone writes, IRR and TMR aside, which anyone sets;
	 * others read ID, LDR, DFR, SVR and LVTs to find destinations. */
	_Atomic u32 reg[LAPIC_PAGE_BYTES / 16];
	_Atomic u64 apic_base;

	/* Bit n: word n of IRR may be non-zero. Set after the word. */
	_Atomic u32 irr_summary;
	_Atomic u8 ppr;      /* follows TPR and ISR; written by the owner */
	_Atomic bool extint; /* an ExtINT message waits */
	_Atomic u32 esr_pending;

	/* Under timer_lock: the owner programs, the loop's thread fires. */
	pthread_mutex_t timer_lock;
	struct clock_timer timer;
	u64 timer_armed_ns; /* when the host timer will come; 0: it won't */
	u64 timer_start_ns; /* the count was loaded */
	u64 timer_due_ns;   /* the count reaches 0; 0: stopped */
	u64 deadline;       /* guest TSC; 0: disarmed */
};

struct lapic_set {
	struct lapic_host host;
	struct lapic_config config;
	_Atomic bool lint0;
	_Atomic u32 lowest_turn; /* who was chosen last */
	unsigned count;
	struct lapic cpu[];
};

static inline u32 lapic_reg(const struct lapic *l, u32 off)
{
	return atomic_load_explicit(&l->reg[off / 16], memory_order_relaxed);
}

static inline void lapic_reg_set(struct lapic *l, u32 off, u32 value)
{
	atomic_store_explicit(&l->reg[off / 16], value, memory_order_relaxed);
}

static inline u64 lapic_base(const struct lapic *l)
{
	return atomic_load_explicit(&l->apic_base, memory_order_relaxed);
}

static inline bool lapic_is_x2apic(const struct lapic *l)
{
	return lapic_base(l) & APIC_BASE_X2APIC;
}

static inline bool lapic_hw_enabled(const struct lapic *l)
{
	return lapic_base(l) & APIC_BASE_ENABLED;
}

/* Does the PIC's INTR reach this CPU as such? Any thread. */
bool lapic_takes_pic(const struct lapic *l);

/* lapic_ipi.c. Deliver what an LVT says, unless masked. Any thread. */
void lapic_deliver_lvt(struct lapic *l, u32 off);
void lapic_error(struct lapic *l, u32 esr_bit); /* any thread */
void lapic_icr_write(struct lapic *l, u32 low, u32 high);
void lapic_self_ipi(struct lapic *l, u8 vector);

/* lapic_timer.c; called by the owner. */
void lapic_timer_init(struct lapic *l);
void lapic_timer_fini(struct lapic *l);
void lapic_timer_stop(struct lapic *l);
/* The guest writes a register; the value has no reserved bits. */
void lapic_timer_set_lvt(struct lapic *l, u32 lvt);
void lapic_timer_set_initial(struct lapic *l, u32 count);
void lapic_timer_set_divide(struct lapic *l, u32 divide);
u32 lapic_timer_current(struct lapic *l);
u64 lapic_timer_deadline(struct lapic *l);
void lapic_timer_set_deadline(struct lapic *l, u64 deadline);
/* After a load: go on from the current count. */
void lapic_timer_resume(struct lapic *l, u32 current, u64 deadline);
