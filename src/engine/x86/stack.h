/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack.h - pushing on a stack that may not be the current one yet.
 *
 * Nothing but memory changes until stack_commit(), so that a fault half way
 * leaves the processor as it was.
 */
#pragma once

#include "engine/interp/icpu.h"

struct stack {
	struct cpu_segment ss;
	u64 sp;
	u64 mask;  /* of SP: 16, 32 or 64 bits */
	bool flat; /* 64-bit mode: no limits */
	bool ext;  /* EXT bit of #SS errors */
	u8 priv;
};

void stack_current(struct icpu *cpu, struct stack *s);
void stack_of(struct stack *s, const struct cpu_segment *ss, u64 sp,
              unsigned cpl);
void stack_flat64(struct stack *s, u64 sp, unsigned cpl);
void stack_push(struct icpu *cpu, struct stack *s, unsigned size, u64 v);
u64 stack_pop(struct icpu *cpu, struct stack *s, unsigned size);
/* SP of the current stack follows s. */
void stack_commit(struct icpu *cpu, const struct stack *s);
