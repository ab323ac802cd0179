/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tlb.h - the software TLB from inside. See icpu.h for its form.
 */
#pragma once

#include "engine/interp/icpu.h"

/* A tag that no access whose index this is can hit. */
static inline u64 tlb_invalid_tag(unsigned index)
{
	return (u64)(index ^ 1) << PAGE_SHIFT;
}

void tlb_init(struct icpu *cpu);
/* An entry of this table has been filled. */
void tlb_log(struct tlb_space *s, unsigned priv, unsigned index);
/* An entry of s stems from a page of more than 4 KiB. */
void tlb_note_large(struct tlb_space *s, gva_t lin, unsigned shift,
                    bool global);
/* Forget every exec entry: code pages are about to go. */
void tlb_drop_code(struct icpu *cpu);
