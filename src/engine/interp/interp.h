/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp.h - the reference engine: every mode, every instruction.
 */
#pragma once

#include "engine/engine.h"

struct isystem;

/* Of both soft engines; bt adds what it needs behind. A vcpu is its icpu. */
struct engine {
	struct isystem *sys;
};

extern const struct engine_type interp_engine;

/* What an engine that stands on this one has in common with it. */
u64 interp_vcpu_rest(struct vcpu *v);
void interp_let_go(struct engine *e);
void interp_vcpu_kick(struct vcpu *v);
void interp_vcpu_attention(struct vcpu *v);
void interp_vcpu_nmi(struct vcpu *v);
void interp_vcpu_get(struct vcpu *v, struct cpu_state *state);
int interp_vcpu_set(struct vcpu *v, const struct cpu_state *state,
                    struct error *err);
u64 interp_vcpu_tsc_offset_get(struct vcpu *v);
void interp_vcpu_tsc_offset_set(struct vcpu *v, u64 offset);
u64 interp_vcpu_stat(struct vcpu *v, enum vcpu_stat stat);
int interp_vcpu_debug(struct vcpu *v, const struct vcpu_breakpoint *points,
                      size_t count, bool step);
bool interp_vcpu_translate(struct vcpu *v, gva_t gva, gpa_t *gpa);
int interp_dirty_start(struct engine *e);
void interp_dirty_sync(struct engine *e);
void interp_dirty_stop(struct engine *e);
