/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_internal.h - what memory.c and the parts of freeze.h share.
 */
#pragma once

#include "guest/freeze.h"
#include "guest/memory.h"

enum { SLOTS_MAX = 32 };

/* Pages that lie one after the other in a layer. */
struct layer_run {
	u64 page, pages; /* numbered through the memory, see freeze.h */
	u64 at;          /* the first one's page in the layer */
	u32 layer;
};

/*
 * What lies below memory that is not its own file any more. While runs is
 * NULL every slot is the shared mapping of its memfd.
 */
struct memory_layers {
	int fd[MEMORY_LAYERS_MAX];
	bool ours[MEMORY_LAYERS_MAX]; /* to write to, while nobody looks */
	u32 count;
	struct layer_run *runs; /* ascending, without gaps */
	size_t run_count;
	u64 shared; /* pages below this are shared mappings (again) */
	unsigned viewers;
	bool merges;  /* MADV_MERGEABLE: stays private */
	int pagemap;  /* which pages are private; -1: not to be had */
	bool no_scan; /* the kernel has only its entries, page by page */
};

struct memory {
	struct memory_slot slots[SLOTS_MAX];
	bool alias[SLOTS_MAX]; /* host and page belong to another slot */
	size_t count;
	memory_code_fn *code_fn;
	void *code_ctx;
	struct memory_layers layers;
};

/* ---- memory.c ---- */

/* An empty file of memory, never executable; -1 and errno. */
int memory_file(const char *name, u64 size);

/* ---- layers.c ---- */

void layers_init(struct memory_layers *l);
void layers_fini(struct memory_layers *l);
/* Number of pages in all slots that are no alias. */
u64 layers_pages(const struct memory *mem);
/* Where a page is mapped, and how many follow it there. */
u8 *layers_host(const struct memory *mem, u64 page, u64 *follow);
/* The run that holds page. */
size_t layers_find(const struct memory_layers *l, u64 page);
/* [page, page + pages) lies elsewhere from now on. */
void layers_set(struct memory_layers *l, const struct layer_run *run);
/* -1: there are too many. Takes fd over if not. */
int layers_add(struct memory_layers *l, int fd, bool ours);
/* How many more there may be. */
unsigned layers_free(const struct memory_layers *l);
/* The file of a slot as a layer: its runs, all of memory's. */
int layers_begin(struct memory *mem) MUST_CHECK;
/* Map [page, page + pages) as the runs say. */
int layers_map(struct memory *mem, u64 page, u64 pages, bool shared) MUST_CHECK;

/* ---- private_pages.c ---- */

/* Runs of pages that are no file's but ours alone, in [host, + pages). */
typedef int private_run_fn(void *ctx, u64 first, u64 pages);
int private_pages(struct memory_layers *l, const u8 *host, u64 pages,
                  private_run_fn *fn, void *ctx) MUST_CHECK;
