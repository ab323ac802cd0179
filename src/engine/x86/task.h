/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.h - the task-state segment. Intel SDM vol. 3 ch. 7.
 */
#pragma once

#include "engine/interp/icpu.h"

struct descriptor;

/* SS:ESP for an inner level, from a 16- or 32-bit TSS. Faults with #TS. */
void task_stack(struct icpu *cpu, unsigned cpl, u16 *ss, u32 *esp);
/* An RSP of the 64-bit TSS: 0-2 by level, 7-13 for IST 1-7. */
u64 task_stack64(struct icpu *cpu, unsigned index);
/* Ports by the I/O permission map: whether size bytes are allowed. */
bool task_io_allowed(struct icpu *cpu, u16 port, unsigned size);

enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET };

/*
 * Switch to the task of selector, whose descriptor d was checked for type and
 * presence. rip and rflags go into the old TSS. May fault in the new task.
 */
void task_switch(struct icpu *cpu, u16 selector, struct descriptor *d,
                 enum task_reason reason, u64 rip, u32 rflags);
