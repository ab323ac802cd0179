/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paging.h - from linear to physical. Intel SDM vol. 3 ch. 4.
 *
 * No paging, 32-bit with PSE, PAE, and 4-level with 1 GiB pages. Accessed and
 * dirty bits are set as the processor sets them, by atomic operations on the
 * guest's tables.
 */
#pragma once

#include "base/types.h"
#include "engine/interp/icpu.h"

struct paging_result {
	gpa_t gpa;     /* of the byte */
	u32 error;     /* PF_*, when false was returned */
	bool writable; /* a write by the same privilege is allowed, and the
	                * dirty bit is set already */
	bool global;
	u8 shift; /* of the page: 12, 21, 22 or 30 */
	u8 key;   /* ENTRY_KEY of icpu.h: that these rights hang on */
};

/*
 * priv tells supervisor from user, and whether SMAP is lifted. set_bits:
 * update accessed and dirty (false for the debugger's view, which also
 * skips the checks of rights). false: a page fault with out->error.
 */
bool paging_walk(struct icpu *cpu, gva_t lin, enum icpu_access access,
                 unsigned priv, bool set_bits, struct paging_result *out);

/*
 * Load the four PDPTEs that CR3 points at (PAE without long mode) into out.
 * false: reserved bits, and the guest gets #GP.
 */
bool paging_load_pdptes(struct icpu *cpu, u64 cr3, u64 out[4]);
