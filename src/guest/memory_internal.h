/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_internal.h - what memory.c and the parts of freeze.h share.
 */
#pragma once

#include "guest/freeze.h"
#include "guest/memory.h"

enum { SLOTS_MAX = 32, ASIDES_MAX = 256 };

/* Pages that lie one after the other in a layer. */
struct layer_run {
	u64 page, pages; /* numbered through the memory, see freeze.h */
	u64 at;          /* the first one's page in the layer */
	u32 layer;
};

/* What was the mapping of a slot, or of its first part. */
struct memory_aside {
	u8 *at;
	u64 size;
};

/*
 * What lies below memory that is not its own file any more. While runs is
 * NULL every slot is the shared mapping of its memfd.
 */
struct memory_layers {
	int fd[MEMORY_LAYERS_MAX];
	bool ours[MEMORY_LAYERS_MAX];   /* to write to, while nobody looks */
	u32 home_of[MEMORY_LAYERS_MAX]; /* a slot's own file: its index + 1 */
	u32 count;
	struct layer_run *runs; /* ascending, without gaps */
	size_t run_count;
	u64 shared; /* pages below this are shared mappings (again) */
	unsigned viewers;
	int fresh;  /* of a moment to be taken, mapped shared; -1: none */
	bool whole; /* all of memory is to go there */
	struct memory_aside aside[ASIDES_MAX];
	unsigned aside_count;
	bool aside_tried, aside_works; /* by this kernel */
	bool merges;                   /* MADV_MERGEABLE: stays private */
	int pagemap;  /* which pages are private; -1: not to be had */
	bool no_scan; /* the kernel has only its entries, page by page */
};

struct memory {
	struct memory_slot slots[SLOTS_MAX];
	bool alias[SLOTS_MAX]; /* host and page belong to another slot */
	size_t count;
	memory_code_fn *code_fn;
	void *code_ctx;
	memory_fetch_fn *fetch;
	void *fetch_ctx;
	_Atomic bool incomplete; /* fetch is to be asked */
	struct memory_layers layers;
};

/* ---- memory.c ---- */

/* An empty file of memory, never executable; -1 and errno. */
int memory_file(const char *name, u64 size);

/* ---- layers.c ---- */

void layers_init(struct memory_layers *l);
void layers_fini(struct memory_layers *l);
/* Where a page is mapped, and how many follow it there. */
u8 *layers_host(const struct memory *mem, u64 page, u64 *follow);
/* The run that holds page. */
size_t layers_find(const struct memory_layers *l, u64 page);
/* [page, page + pages) lies elsewhere from now on. */
void layers_set(struct memory_layers *l, const struct layer_run *run);
/* -1: there are too many. Takes fd over if not. */
int layers_add(struct memory_layers *l, int fd, bool ours);
/* The file of slot i as a layer, which it may be already. The layer, or -errno.
 */
int layers_home(struct memory *mem, size_t i) MUST_CHECK;
/* How many more there may be. */
unsigned layers_free(const struct memory_layers *l);
/* The file of a slot as a layer: its runs, all of memory's. */
int layers_begin(struct memory *mem) MUST_CHECK;
/* Map [page, page + pages) as the runs say. */
int layers_map(struct memory *mem, u64 page, u64 pages, bool shared) MUST_CHECK;

/* ---- fold.c ---- */

/* What was stored to in private mappings of [page, end) goes into files; adds
 * to *moved how many pages that were. */
int fold_range(struct memory *mem, u64 page, u64 end, u64 *moved) MUST_CHECK;
bool fold_all_zero(const u8 *page);
int fold_write(int fd, u64 at, const u8 *host, u64 pages) MUST_CHECK;

/* ---- aside.c ---- */

/* Shared mappings become private ones. What was there stays mapped aside, until
 * memory_drop_aside(). */
int aside_put(struct memory *mem, u64 page, u64 pages) MUST_CHECK;
/* By this kernel? */
bool aside_possible(struct memory_layers *l);

/* ---- private_pages.c ---- */

/* Runs of pages that are no file's but ours alone, in [host, + pages). */
typedef int private_run_fn(void *ctx, u64 first, u64 pages);
int private_pages(struct memory_layers *l, const u8 *host, u64 pages,
                  private_run_fn *fn, void *ctx) MUST_CHECK;
