/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freeze.h - memory as it stands at one moment, for others to look at while
 * the machine goes on.
 *
 * A slot is a shared mapping of its own file. Frozen, it becomes a private
 * mapping of the same file: the kernel copies each page at its first store,
 * whoever stores (an engine, a device, the kernel itself), and the file stays
 * as it was. Who wants the moment maps the file: a writer of a saved state
 * here, a copy of the machine in its own process (docs/decisions/0023).
 *
 * Frozen again while the first moment is still looked at, the pages that were
 * stored to since go to another file, which then lies above the first: memory
 * is a stack of layers, and a moment is a list of runs of pages in them. When
 * nobody looks any more, memory_settle() makes the mappings shared again.
 *
 * Pages are numbered through all slots that are no alias, lowest address
 * first. No vCPU runs during any of these calls, and no device is at work.
 * One thread.
 */
#pragma once

#include "base/types.h"

struct error;
struct memory;

enum { MEMORY_LAYERS_MAX = 16 };

/* Pages one after the other in a layer; little-endian, as it is saved. */
struct memory_run {
	u64 page, pages;
	u64 at; /* page in the file */
	u32 layer;
	u32 reserved;
};

/* One moment. Descriptors and runs are its own. */
struct memory_view {
	int fd[MEMORY_LAYERS_MAX];
	u32 layers;
	struct memory_run *runs;
	u32 run_count;
	u64 pages;
};

/*
 * How many pages the next memory_freeze() would have to move now, at most most
 * or a good deal more than that, of those from *page on that can be looked at
 * in a few milliseconds: *page is where to go on, memory_pages() the end. The
 * machine may run meanwhile; a page that it stores to then may count or not.
 * most 0: none is looked at, but all of memory may have to be moved for other
 * reasons. -errno: that is not to be known.
 */
s64 memory_freeze_count(struct memory *mem, u64 *page, u64 most);
/*
 * Some of the work of the next memory_freeze() ahead of it: pages that were
 * stored to since the last one, from *page on, go where it would put them,
 * until it is so late, or a little later. 0 or -errno; *page is where to go on.
 * Once that is memory_pages(), all has been looked at, and stored to since by
 * whoever ran in between.
 */
int memory_freeze_ahead(struct memory *mem, u64 *page, u64 until_ns);
/* In all slots that are no alias. */
u64 memory_pages(const struct memory *mem);

/* Counts as a viewer until memory_unview(). */
int memory_freeze(struct memory *mem, struct memory_view *view,
                  struct error *err) MUST_CHECK;
void memory_unview(struct memory *mem);
/* What the other calls have left for when the machine runs again: mappings, at
 * most so many pages at once, and whole files. true: that was all. On any
 * thread, while it runs or stands still. */
bool memory_drop_aside(struct memory *mem, u64 pages);
bool memory_has_aside(struct memory *mem);
/* Descriptors and runs; zeroed is legal. */
void memory_view_fini(struct memory_view *view);

/*
 * With no viewer left: at most pages become shared mappings again. true: all
 * is as it was in the beginning, or there is nothing to gain.
 */
bool memory_settle(struct memory *mem, u64 pages);

/*
 * Of the pages that were stored to, those which hold what they held before go
 * back to the kernel, where what lies below is in memory. From *page on and
 * until it is so late, as of memory_freeze_ahead(). Returns how many went, or
 * -errno.
 */
s64 memory_drop_same(struct memory *mem, u64 *page, u64 until_ns);

/* A file that another's pages are mapped from; borrowed. -1: none. */
int memory_adopted(const struct memory *mem);

/*
 * Into memory that is all zeroes: the pages of another's moment, or of a
 * file, mapped privately. Descriptors are duplicated. Runs are checked.
 */
int memory_adopt(struct memory *mem, const struct memory_view *view,
                 struct error *err) MUST_CHECK;

/*
 * Lets the kernel share pages that are equal to others of any such process
 * (KSM), which it does with private pages alone: memory is privately mapped
 * from now on, and does not settle. Pages that a moment put into its file are
 * shared again once they were stored to. While no vCPU runs yet. -ENOTSUP:
 * not by this kernel.
 */
int memory_merge_equal(struct memory *mem, struct error *err) MUST_CHECK;
bool memory_merges(const struct memory *mem);
/* What is no file's, in bytes. */
u64 memory_private_bytes(struct memory *mem);

/* The moment as a read-only mapping, pages in a row; NULL and words. */
const u8 *memory_view_map(const struct memory_view *view, struct error *err);
void memory_view_unmap(const struct memory_view *view, const u8 *map);
/* Bits of pages that are holes in every file, and so zeroes. Freed by the
 * caller; NULL: no memory for it, which is legal. */
u8 *memory_view_holes(const struct memory_view *view);
