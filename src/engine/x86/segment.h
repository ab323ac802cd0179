/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segment.h - descriptors and segment registers. Intel SDM vol. 3 ch. 3 and 5.
 */
#pragma once

#include "engine/interp/icpu.h"

/* System descriptor types. */
enum {
	DESC_TSS16 = 1,
	DESC_LDT = 2,
	DESC_TSS16_BUSY = 3,
	DESC_CALL16 = 4,
	DESC_TASK = 5,
	DESC_INT16 = 6,
	DESC_TRAP16 = 7,
	DESC_TSS32 = 9,
	DESC_TSS32_BUSY = 11,
	DESC_CALL32 = 12,
	DESC_INT32 = 14,
	DESC_TRAP32 = 15,
};

/* Type bits of code and data segments. */
enum { TYPE_A = 1, TYPE_RW = 2, TYPE_CE = 4, TYPE_CODE = 8 };

struct descriptor {
	u32 lo, hi;
	u64 upper;   /* of a 16-byte system descriptor, 64-bit mode */
	gva_t where; /* its linear address */
};

static inline unsigned desc_type(const struct descriptor *d)
{
	return d->hi >> 8 & 0xf;
}
static inline bool desc_system(const struct descriptor *d)
{
	return !(d->hi & 0x1000);
}
static inline unsigned desc_dpl(const struct descriptor *d)
{
	return d->hi >> 13 & 3;
}
static inline bool desc_present(const struct descriptor *d)
{
	return d->hi & 0x8000;
}
static inline bool desc_code(const struct descriptor *d)
{
	return !desc_system(d) && desc_type(d) & TYPE_CODE;
}
static inline bool desc_conforming(const struct descriptor *d)
{
	return desc_code(d) && desc_type(d) & TYPE_CE;
}
static inline u16 sel_error(u16 selector)
{
	return selector & 0xfffc;
}

/* Faults with this selector as error code, EXT added. */
NORETURN void segment_fault(struct icpu *cpu, u8 vector, u16 selector);

/* false: null, or beyond the table. */
bool descriptor_find(struct icpu *cpu, u16 selector, struct descriptor *d);
/* As above, but faults with vector. */
void descriptor_read(struct icpu *cpu, u16 selector, u8 vector,
                     struct descriptor *d);
void descriptor_set_accessed(struct icpu *cpu, struct descriptor *d);
/* The upper half of a system descriptor in 64-bit mode. */
void descriptor_read_upper(struct icpu *cpu, u16 selector, u8 vector,
                           struct descriptor *d);

void segment_from_descriptor(struct cpu_segment *seg, u16 selector,
                             const struct descriptor *d);
/* As real mode and V86 make them. */
void segment_set_real(struct icpu *cpu, unsigned seg, u16 selector);

/* MOV, POP, LDS into ES, SS, DS, FS, GS, with all checks; then update. */
void segment_load(struct icpu *cpu, unsigned seg, u16 selector);
/* What an inter-privilege or task transfer loads into SS: checked for cpl,
 * faulting with vector. */
void segment_check_stack(struct icpu *cpu, u16 selector, unsigned cpl,
                         u8 vector, struct cpu_segment *out);
/* Returning outward: data segments that the new CPL may not use go null. */
void segment_drop_privileged(struct icpu *cpu, unsigned cpl);
void segment_null(struct cpu_segment *seg);

void segment_load_ldt(struct icpu *cpu, u16 selector);
void segment_load_tr(struct icpu *cpu, u16 selector);
