/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tlb.h - the software TLB from inside. See icpu.h for its form.
 */
#pragma once

#include "engine/interp/icpu.h"

/*
 * A tag that no access whose index this is can hit: zero, but for the first,
 * so that memory which was never touched is an empty table.
 */
static inline u64 tlb_invalid_tag(unsigned index)
{
	return index ? 0 : PAGE_SIZE;
}

int tlb_create(struct icpu *cpu) MUST_CHECK;
void tlb_destroy(struct icpu *cpu);
/* An entry of this table has been filled. */
void tlb_log(struct tlb_space *s, unsigned priv, unsigned index);
/* ...and leads to a host page that may be written. */
void tlb_note_writable(struct tlb_space *s, unsigned priv, const u8 *host);
/* The current space's entries for data go, global ones too. */
void tlb_forget_data(struct icpu *cpu);
/* An entry of s stems from a page of more than 4 KiB. */
void tlb_note_large(struct tlb_space *s, gva_t lin, unsigned shift,
                    bool global);
/* The page at lin is about to run. */
struct codepage;
struct paging_result;
void tlb_fill_exec(struct icpu *cpu, gva_t lin, bool user,
                   struct codepage *page, const struct paging_result *r);
/*
 * After a flush, before user code runs: walk to the pages it ran from. If they
 * are where they were, targets stay good.
 */
void tlb_settle(struct icpu *cpu);
/* Forget every exec entry: code pages are about to go. */
void tlb_drop_code(struct icpu *cpu);
/* Flush everything, and hand the tables' memory back to the host. */
void tlb_hand_back(struct icpu *cpu);
