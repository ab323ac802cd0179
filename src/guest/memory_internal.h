/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_internal.h - what memory.c and the parts of freeze.h share.
 */
#pragma once

#include <pthread.h>

#include "guest/freeze.h"
#include "guest/memory.h"
#include "guest/stash.h"

enum { SLOTS_MAX = 32 };

/* Pages that lie one after the other in a layer. */
struct layer_run {
	u64 page, pages; /* numbered through the memory, see freeze.h */
	u64 at;          /* the first one's page in the layer */
	u32 layer;
};

/* What a standstill left behind (aside.c): addresses at which what was moved
 * aside is mapped, or a file that nothing lies in any more. */
struct memory_left {
	u8 *at;
	u64 size;
	int fd; /* -1: addresses */
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
	pthread_mutex_t left_lock;
	struct memory_left *left;
	size_t left_count, left_room;
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
	struct stash *stash;
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
/* These pages lie elsewhere from now on: n runs, ascending. */
void layers_set(struct memory_layers *l, const struct layer_run *run, size_t n);
/* -1: there are too many. Takes fd over if not. */
int layers_add(struct memory_layers *l, int fd, bool ours);
/* The file of slot i as a layer, which it may be already. The layer, or -errno.
 */
int layers_home(struct memory *mem, size_t i) MUST_CHECK;
/* Files that no page lies in any more go. */
void layers_drop_unused(struct memory_layers *l);
/* How many more there may be. */
unsigned layers_free(const struct memory_layers *l);
/* The file of a slot as a layer: its runs, all of memory's. */
int layers_begin(struct memory *mem) MUST_CHECK;
/* Map [page, page + pages) as the runs say. */
int layers_map(struct memory *mem, u64 page, u64 pages, bool shared) MUST_CHECK;
/* Map these as this run says, which need not be among them yet. */
int layers_map_run(struct memory *mem, const struct layer_run *run,
                   bool shared) MUST_CHECK;

/* ---- freeze.c ---- */

/* What is shared becomes private. */
int freeze_seal(struct memory *mem) MUST_CHECK;
/* Nothing goes to the fresh file any more. */
void freeze_seal_fresh(struct memory_layers *l);

/* ---- home.c ---- */

/* Nobody looks, and all that memory lies in is ours. */
bool home_may_come(const struct memory_layers *l);

/* ---- stored.c ---- */

/* Runs of pages, ascending. */
struct stored {
	u64 page, pages;
};
struct stored_list {
	struct stored *run;
	size_t count, room;
};
int stored_add(struct stored_list *l, u64 page, u64 pages) MUST_CHECK;
/* Fewer runs, by taking what lies between two that are so near as well. */
void stored_join(struct stored_list *l, u64 gap);
/* No pages from end on. */
void stored_cut(struct stored_list *l, u64 end);

/* ---- fold.c ---- */

/*
 * What was stored to in private mappings of [*page, end) goes into files, at
 * most so many pages of it: *page is where it ends, *moved gets how many that
 * were. What goes to the fresh file stays a shared mapping of it, with seal a
 * private one.
 */
struct fold_range {
	u64 page, end, most, moved;
	bool seal;
};
int fold_range(struct memory *mem, struct fold_range *r) MUST_CHECK;
/* How many pages that would be, at most most. */
s64 fold_count(struct memory *mem, u64 page, u64 end, u64 most);
/* Whether all of memory ought to go to one file: it lies in too many, or in too
 * many pieces. That takes long; and from then on it does. */
bool fold_whole_due(struct memory_layers *l);
int fold_whole(struct memory *mem) MUST_CHECK;
bool fold_all_zero(const u8 *page);
int fold_write(int fd, u64 at, const u8 *host, u64 pages) MUST_CHECK;

/* ---- aside.c ---- */

/* Where the mappings of one slot go. Zeroed in the beginning. */
struct aside {
	u8 *slot, *at;
	u64 size;
};
/* Shared mappings become private ones. What was there stays mapped aside, until
 * aside_leave() and then memory_drop_aside(). */
int aside_put(struct memory *mem, struct aside *to, u64 page,
              u64 pages) MUST_CHECK;
void aside_leave(struct memory_layers *l, struct aside *to);
/* To be closed by memory_drop_aside(): to let go of all that is in a file takes
 * long. */
void aside_leave_file(struct memory_layers *l, int fd);
/* By this kernel? */
bool aside_possible(struct memory_layers *l);

/* ---- same.c ---- */

/* Of each page that was stored to and lies on one in memory; as of
 * memory_drop_same(). true: it goes back to the kernel. */
typedef bool same_fn(void *ctx, u8 *host, const u8 *below);
s64 same_walk(struct memory *mem, u64 *page, u64 until_ns, same_fn *fn,
              void *ctx) MUST_CHECK;

/* ---- stash.c ---- */

struct stash *stash_create(void);
void stash_destroy(struct stash *s); /* and what is in it */

/* ---- private_pages.c ---- */

/* Runs of pages that are no file's but ours alone, in [host, + pages), at least
 * most of them if there are as many. What fn returns but 0 ends it, and is
 * returned. */
typedef int private_run_fn(void *ctx, u64 first, u64 pages);
int private_pages(struct memory_layers *l, const u8 *host, u64 pages, u64 most,
                  private_run_fn *fn, void *ctx) MUST_CHECK;
