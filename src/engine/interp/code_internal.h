/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code_internal.h - what block.c, which decodes, asks of the cache in code.c.
 */
#pragma once

#include "engine/interp/code.h"

/* Of an instruction alone, and what ends its block. */
enum { SCRATCH_OPS = 4 };

/* May empty the whole cache for its room: every page and block found before is
 * then gone. */
struct codepage *code_page(struct icpu *cpu, u8 *host, gpa_t gpa);
/* True: an idle vCPU has given all it had back. */
bool code_hand_back(struct icpu *cpu);

/* Room for count operations, after the oldest have given way if need be; then
 * code_ops_take() of what was used, counted in instructions. */
struct iop *code_ops_room(struct icpu *cpu, unsigned count);
void code_ops_take(struct code_cache *c, unsigned count);
/* Whether none must give way; and the oldest of them do. */
bool code_ops_fit(const struct code_cache *c, unsigned count);
void code_ops_forget_oldest(struct icpu *cpu);

/* NULL: everything was flushed to make room. */
struct block *code_block_take(struct icpu *cpu);
/* The one that is never found again: for code outside memory. */
struct block *code_scratch(struct code_cache *c);

/* [off, off + len) of the page now holds decoded code. */
void code_register(struct icpu *cpu, struct codepage *page, u64 off, u64 len);
/* Still registered, and still what was decoded? */
bool code_stands(struct icpu *cpu, const struct codepage *page, u64 off,
                 u64 len, const u8 *bytes);
