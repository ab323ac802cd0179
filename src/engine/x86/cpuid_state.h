/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid_state.h - a processor model in a saved machine.
 */
#pragma once

#include "base/types.h"
#include "guest/state.h"

struct cpuid_config;
struct cpuid_model;
struct cpuid_regs;
struct error;

/* One chunk. */
void cpuid_model_save(const struct cpuid_model *model, struct state_writer *w);
/*
 * The model that was saved. -ENOTSUP with words that name the features which
 * this host cannot show. config says what the machine offers here; its TSC
 * frequency is replaced by the one that the guest knows.
 */
int cpuid_model_load(struct cpuid_model **out, const struct state_reader *r,
                     const struct cpuid_config *config,
                     struct error *err) MUST_CHECK;
/*
 * No more of the model than an engine shows: leaf() is what it has. whole: the
 * guest knows the model already, so that -ENOTSUP with the names of what is
 * missing answers instead.
 */
typedef bool cpuid_leaf_fn(void *ctx, u32 leaf, u32 subleaf,
                           struct cpuid_regs *out);
int cpuid_model_limit(struct cpuid_model *m, cpuid_leaf_fn *leaf, void *ctx,
                      bool whole, struct error *err) MUST_CHECK;
