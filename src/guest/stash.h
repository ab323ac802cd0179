/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stash.h - pages that hardly anybody looks at, kept small.
 *
 * Of private mappings (guest/freeze.h): a page that was stored to is as a rule
 * much like what lies below it. It is kept as what makes the difference,
 * packed, and comes back when somebody asks for it (memory_set_source()): so
 * all who look must ask, and hold on to no page that they asked for before, but
 * where they have said so (memory_keep()).
 */
#pragma once

#include "base/types.h"

struct memory;

/*
 * While no vCPU runs and no device is at work: pages from *page on, until it is
 * so late; those that are as they were go altogether, as of memory_drop_same().
 * Returns how many went, or -errno; *page is where to go on. Nothing is done
 * while contents come from elsewhere, or are on their way home.
 */
s64 memory_stash(struct memory *mem, u64 *page, u64 until_ns);
/* All of them come back; the machine may run. Every call of freeze.h that
 * looks at pages does so first. */
void memory_unstash(struct memory *mem);

struct memory_stash_figures {
	u64 pages, bytes; /* that are kept, and in how much room */
	u64 asked;        /* that came back, since the beginning */
};
void memory_stash_figures(struct memory *mem, struct memory_stash_figures *f);
