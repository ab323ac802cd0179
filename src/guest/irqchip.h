/* SPDX-License-Identifier: Apache-2.0 */
/*
 * irqchip.h - the state of the interrupt controllers and the interval timer,
 * whether the host's kernel or Atoll emulates them.
 *
 * Chips in devices/ keep these structures and save their fields; an engine
 * with controllers in the kernel turns the kernel's into them and back, so
 * that a saved machine does not tell which it had.
 */
#pragma once

#include "base/types.h"
#include "guest/state.h"

enum {
	IOAPIC_PINS = 24,
	PIT_HZ = 1193182,
	LAPIC_PAGE_BYTES = 1024,
	/* Of all three: the form of their chunks. */
	IRQCHIP_STATE_MAJOR = 1,
};

/* One 8259A. */
struct pic_chip {
	_Atomic u8 imr; /* read without the lock by pic_irq_enabled() */
	u8 irr, isr;
	u8 lines; /* levels of the inputs */
	u8 elcr;
	u8 base;   /* vector of IR0 */
	u8 lowest; /* the input with the lowest priority; 7 at first */
	u8 icw1;
	u8 expect; /* 0, or which ICW the data port expects: 1 to 3 */
	u8 auto_eoi, auto_rotate;
	u8 special_mask, special_nested;
	u8 read_isr, poll;
};

struct pic_state {
	struct pic_chip chip[2]; /* master, slave */
};

struct ioapic_state {
	_Atomic u64 entry[IOAPIC_PINS]; /* as the window shows them */
	u32 levels;                     /* bit n: pin n is asserted */
	u32 id;                         /* the register: bits 27-24 */
	u8 index;
};

/* Ticks are those of a clock of PIT_HZ that has run since machine time 0. */
struct pit_channel {
	u8 mode, bcd, access;
	u8 gate;
	u8 loaded;    /* a count has been written since the control word */
	u8 triggered; /* modes 1 and 5: the gate has risen */
	u8 paused;    /* modes 0 and 4: the gate is low */
	u8 high_next; /* of both bytes, the second is due: read, write */
	u8 write_high_next, write_low;
	u8 status_latched, status;
	u8 count_latched;
	u16 latch;
	u32 count;      /* 1 to 65536, or 10000 in BCD */
	u32 next_count; /* modes 2, 3: from next_start on; 0: none */
	u64 start;      /* tick at which the count was loaded */
	u64 next_start;
	u64 elapsed; /* while paused: ticks counted */
};

struct pit_state {
	struct pit_channel channel[3];
	u8 port61;
	u64 irq_tick; /* edges of output 0 up to here have been told */
	u8 routed;    /* HPET's legacy replacement is off */
};

/*
 * A local APIC: the register page as KVM_GET_LAPIC has it (ID in bits 31-24
 * in either mode, ICR in two halves, the current count in TMCCT) and two
 * MSRs.
 */
struct lapic_state {
	u8 page[LAPIC_PAGE_BYTES];
	u64 apic_base;
	u64 tsc_deadline;
};

/* What a kernel holds for the whole machine. */
struct irqchip_state {
	struct pic_state pic;
	struct ioapic_state ioapic;
	struct pit_state pit;
	u64 pv_clock_ns; /* of the paravirtual clock */
};

/* And for one vCPU. The MSRs of the paravirtual clock: 0 where it is off. */
struct irqchip_local {
	struct lapic_state lapic;
	u64 pv_system_time, pv_wall_clock, pv_steal_time;
};

extern const struct field pic_state_fields[];
extern const struct field ioapic_state_fields[];
extern const struct field pit_state_fields[];
extern const struct field lapic_state_fields[];

/* The fields of any structure that has these members. */
/* clang-format off */
#define PIC_CHIP_FIELDS(s, n)                                                  \
	FIELD_VALUE(s, chip[n].imr),                                           \
	    FIELD_VALUE(s, chip[n].irr),                                       \
	    FIELD_VALUE(s, chip[n].isr),                                       \
	    FIELD_VALUE(s, chip[n].lines),                                     \
	    FIELD_VALUE(s, chip[n].elcr),                                      \
	    FIELD_VALUE(s, chip[n].base),                                      \
	    FIELD_VALUE(s, chip[n].lowest),                                    \
	    FIELD_VALUE(s, chip[n].icw1),                                      \
	    FIELD_VALUE(s, chip[n].expect),                                    \
	    FIELD_VALUE(s, chip[n].auto_eoi),                                  \
	    FIELD_VALUE(s, chip[n].auto_rotate),                               \
	    FIELD_VALUE(s, chip[n].special_mask),                              \
	    FIELD_VALUE(s, chip[n].special_nested),                            \
	    FIELD_VALUE(s, chip[n].read_isr),                                  \
	    FIELD_VALUE(s, chip[n].poll)
#define PIC_FIELDS(s) PIC_CHIP_FIELDS(s, 0), PIC_CHIP_FIELDS(s, 1)

#define IOAPIC_FIELDS(s)                                                       \
	FIELD_ARRAY(s, entry),                                                 \
	    FIELD_VALUE(s, levels),                                            \
	    FIELD_VALUE(s, id),                                                \
	    FIELD_VALUE(s, index)

#define PIT_CHANNEL_FIELDS(s, n)                                               \
	FIELD_VALUE(s, channel[n].mode),                                       \
	    FIELD_VALUE(s, channel[n].bcd),                                    \
	    FIELD_VALUE(s, channel[n].access),                                 \
	    FIELD_VALUE(s, channel[n].gate),                                   \
	    FIELD_VALUE(s, channel[n].loaded),                                 \
	    FIELD_VALUE(s, channel[n].triggered),                              \
	    FIELD_VALUE(s, channel[n].paused),                                 \
	    FIELD_VALUE(s, channel[n].high_next),                              \
	    FIELD_VALUE(s, channel[n].write_high_next),                        \
	    FIELD_VALUE(s, channel[n].write_low),                              \
	    FIELD_VALUE(s, channel[n].status_latched),                         \
	    FIELD_VALUE(s, channel[n].status),                                 \
	    FIELD_VALUE(s, channel[n].count_latched),                          \
	    FIELD_VALUE(s, channel[n].latch),                                  \
	    FIELD_VALUE(s, channel[n].count),                                  \
	    FIELD_VALUE(s, channel[n].next_count),                             \
	    FIELD_VALUE(s, channel[n].start),                                  \
	    FIELD_VALUE(s, channel[n].next_start),                             \
	    FIELD_VALUE(s, channel[n].elapsed)
#define PIT_FIELDS(s)                                                          \
	PIT_CHANNEL_FIELDS(s, 0),                                              \
	    PIT_CHANNEL_FIELDS(s, 1),                                          \
	    PIT_CHANNEL_FIELDS(s, 2),                                          \
	    FIELD_VALUE(s, port61),                                            \
	    FIELD_VALUE(s, irq_tick),                                          \
	    FIELD_VALUE(s, routed)
/* clang-format on */
