/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.h - delivering exceptions and interrupts. Intel SDM vol. 3 ch. 6.
 */
#pragma once

#include "engine/interp/icpu.h"

enum event_kind {
	EVENT_EXCEPTION,
	EVENT_INTERRUPT, /* from outside, NMI too */
	EVENT_SOFT,      /* INT3, INTO: the gate's DPL counts */
	EVENT_INTN,      /* INT n: so it does, and V86 mode has its say */
	EVENT_INT1,      /* INT1: soft, but the DPL does not count */
};

/*
 * Go to the handler of vector; return_rip is what the handler returns to.
 * Faults on the way unwind with nothing changed.
 */
void event_deliver(struct icpu *cpu, u8 vector, enum event_kind kind,
                   bool has_error, u32 error, u64 return_rip);

/*
 * Two exceptions, the second while delivering the first (vector, or -1): what
 * it amounts to. false: a triple fault. SDM table 6-5.
 */
bool event_combine(int first, struct icpu_fault *second);
