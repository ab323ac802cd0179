/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages.h - guest memory in the file of a saved machine.
 *
 * Pages are numbered through all slots that are no alias, lowest address
 * first. Two forms:
 *
 *	packed  section "map": u32 a page: 0 for zeroes, else 1 + the number of
 *	        its contents, of which there is one copy each, however many
 *	        pages have them. "blocks": for each 64 of those, where its zstd
 *	        frame lies in "packed", how long it is, and its XXH64.
 *	plain   section "plain": every page at its number * 4096, zeroes as
 *	        holes, so that it can be mapped. "sums": XXH64 of each MiB.
 *
 * A packed memory is checked as it is read, which may be when the guest touches
 * it. A plain one is mapped, and the kernel reads it then; pages_verify()
 * checks all of either.
 */
#pragma once

#include <stdatomic.h>

#include "base/types.h"
#include "guest/freeze.h"
#include "storage/state_file.h"

struct error;
struct memory;

enum pages_form { PAGES_PACKED, PAGES_PLAIN };

struct pages_figures {
	u64 pages, zero, duplicate, stored_bytes;
};

/* How far the saving is, for others to look at, who may also stop it. What
 * has to be written of packed pages shows itself while they are looked
 * through: the total gets smaller. */
struct pages_work {
	_Atomic u64 done, total; /* bytes of memory */
	_Atomic bool stop;
};

/* Any thread, while the machine may run. -ECANCELED: stopped. */
int pages_save(struct state_file *f, const struct memory_view *view,
               enum pages_form form, struct pages_work *work,
               struct pages_figures *figures, struct error *err) MUST_CHECK;

/* Only where the pages lie, for a process that gets the view's descriptors:
 * section "layers", the runs. */
int pages_share(struct state_file *f, const struct memory_view *view,
                struct error *err) MUST_CHECK;

/* When packed memory comes. */
enum pages_when {
	PAGES_NOW,
	/* As it is asked for (memory_set_source()), by all who look. */
	PAGES_ASKED_FOR,
	/* As it is touched, by whomever (faults.h); now, where the host does
	 * not let us see that. Until all is there, memory stays mapped where
	 * and as it is. */
	PAGES_TOUCHED,
};

/* Where pages come from that nobody has asked for yet. */
struct pages_source;

/*
 * Into memory that is all zeroes and no vCPU runs on yet. A plain one is mapped
 * privately: the file must not change while the machine runs. fds: those of
 * shared pages; borrowed. What does not come now comes from what
 * *source is then (else NULL), which the caller destroys before the memory; the
 * file's descriptor stays its own.
 */
int pages_load(const struct state_file *f, struct memory *mem, const int *fds,
               u32 count, enum pages_when when, struct pages_source **source,
               struct error *err) MUST_CHECK;
/* Whether all that was asked for so far came. */
int pages_source_check(const struct pages_source *s,
                       struct error *err) MUST_CHECK;
/* Before vCPUs run. Some page can't come, and who asked for it waits for it: fn
 * does not return, and is called on any thread. */
typedef void pages_lost_fn(void *ctx, const char *words);
void pages_source_tell(struct pages_source *s, pages_lost_fn *fn, void *ctx);
/* Now they do: the rest is read ahead, on threads, until pages_source_done().
 */
void pages_source_run(struct pages_source *s);
/* Of NULL, too. When (loop_now_ns()) all had been read; 0: it has not been. */
bool pages_source_done(const struct pages_source *s);
u64 pages_source_whole_ns(const struct pages_source *s);
/* NULL is legal. */
void pages_source_destroy(struct pages_source *s);

/* Every sum of either form, with nothing kept. */
int pages_verify(const struct state_file *f, struct error *err) MUST_CHECK;
