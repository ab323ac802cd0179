/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debug.h - watched addresses: the guest's debug registers and the debugger's
 * points. Intel SDM vol. 3 ch. 17.2.
 *
 * While any is enabled the vCPU runs an instruction at a time (KEY_STEP), and
 * pages that hold a watched address stay out of the TLB, so that every access
 * comes by debug_access().
 */
#pragma once

#include "engine/interp/icpu.h"

bool debug_active(const struct icpu *cpu);
bool debug_page_watched_slow(const struct icpu *cpu, gva_t lin);
void debug_access_slow(struct icpu *cpu, gva_t lin, unsigned size,
                       enum icpu_access access);

static inline bool debug_page_watched(const struct icpu *cpu, gva_t lin)
{
	return unlikely(cpu->key & KEY_STEP) &&
	       debug_page_watched_slow(cpu, lin);
}

static inline void debug_access(struct icpu *cpu, gva_t lin, unsigned size,
                                enum icpu_access access)
{
	if (unlikely(cpu->key & KEY_STEP))
		debug_access_slow(cpu, lin, size, access);
}

/* Before an instruction: a breakpoint at rip? Guest's: raises #DB. The
 * debugger's: true. */
bool debug_execute(struct icpu *cpu);
/* An I/O access, for DR7's I/O breakpoints. */
void debug_io(struct icpu *cpu, u16 port, unsigned size);
