/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - control and debug registers, and what writing them does.
 * Intel SDM vol. 3 ch. 2.5, 17.2.
 *
 * Values are checked first; a refused one raises #GP or #UD and changes
 * nothing. Callers have checked the CPL.
 */
#pragma once

#include "engine/interp/icpu.h"

u64 control_read(struct icpu *cpu, unsigned cr);
void control_write(struct icpu *cpu, unsigned cr, u64 value);
/* CR3 of a task switch: no reserved-bit checks but PDPTEs. */
bool control_task_cr3(struct icpu *cpu, u64 value);

u64 control_read_debug(struct icpu *cpu, unsigned dr);
void control_write_debug(struct icpu *cpu, unsigned dr, u64 value);

void control_xsetbv(struct icpu *cpu, u32 index, u64 value);

struct invpcid {
	u64 pcid, address;
};
void control_invpcid(struct icpu *cpu, u64 type, const struct invpcid *d);
/* CR4 bits that the CPUID model has. */
u64 control_cr4_valid(const struct icpu *cpu);
u64 control_xcr0_valid(const struct icpu *cpu); /* ...of XCR0 */
