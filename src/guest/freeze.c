/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freeze - a moment of memory kept for others.
 *
 * Below layers.shared all is a shared mapping of the slots' own files, above
 * it private mappings of the runs. A page of a private mapping that was
 * stored to is the kernel's copy: it is put into a file when a moment is
 * taken (fold.c). That takes time for each, so that most of it is done ahead
 * where they are many; what was shared takes none (aside.c).
 */
#include "guest/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "guest/memory_internal.h"

/* At once, of what takes as long as there are pages: a millisecond or two. */
enum { LOOK_PAGES = 16384, MOVE_PAGES = 512, MAP_PAGES = 4096 };

/* ---- a moment ---- */

/* Where the kernel can't put page tables aside, taking them down is most of it.
 */
static int unshare_some(struct memory *mem)
{
	struct memory_layers *l = &mem->layers;
	u64 n = MIN(l->shared, (u64)MAP_PAGES);
	int rc = layers_map(mem, l->shared - n, n, false);

	l->shared -= rc < 0 ? 0 : n;
	return rc;
}

/* Whether what is to be moved goes to another file. */
static bool needs_fresh(const struct memory_layers *l)
{
	return l->runs && l->shared == 0 && !home_may_come(l);
}

s64 memory_freeze_count(struct memory *mem, u64 *page, u64 most)
{
	struct memory_layers *l = &mem->layers;
	u64 all = memory_pages(mem), from = MAX(*page, l->shared);

	memory_unstash(mem);
	*page = all;
	if (!aside_possible(l) && (!l->runs || l->shared))
		return (s64)(l->runs ? l->shared : all);
	if (!l->runs)
		return 0;
	if (needs_fresh(l) && fold_whole_due(l))
		return (s64)all;
	if (!most)
		return 0;
	*page = MIN(all, from + LOOK_PAGES);
	return fold_count(mem, from, *page, most);
}

/* What was read is mapped as well, and looking for what was stored to takes
 * longer by that. */
static int unmap_read(struct memory *mem, u64 page, u64 end)
{
	const struct memory_layers *l = &mem->layers;
	int rc = 0;

	while (rc == 0 && page < end) {
		const struct layer_run *r = &l->runs[layers_find(l, page)];
		u64 n = MIN(end, r->page + r->pages) - page;

		if ((int)r->layer != l->fresh)
			rc = layers_map(mem, page, n, false);
		page += n;
	}
	return rc;
}

static int fold_some(struct memory *mem, u64 *page)
{
	struct fold_range r = { .page = MAX(*page, mem->layers.shared),
		                .most = MOVE_PAGES };
	u64 from = r.page;
	int rc;

	r.end = MIN(memory_pages(mem), r.page + LOOK_PAGES);
	rc = r.page < r.end ? fold_range(mem, &r) : 0;
	*page = r.page;
	return rc == 0 ? unmap_read(mem, from, r.page) : rc;
}

/* Something of it. */
static int freeze_ahead(struct memory *mem, u64 *page)
{
	struct memory_layers *l = &mem->layers;
	int rc;

	if (!aside_possible(l)) {
		if (l->shared)
			return unshare_some(mem);
	} else if (home_may_come(l)) {
		*page = memory_settle(mem, MOVE_PAGES) ? memory_pages(mem)
		                                       : l->shared;
		return 0;
	}
	if (needs_fresh(l) && fold_whole_due(l)) {
		rc = fold_whole(mem);
		if (rc < 0)
			return rc;
	}
	return fold_some(mem, page);
}

int memory_freeze_ahead(struct memory *mem, u64 *page, u64 until_ns)
{
	int rc = mem->layers.runs ? 0 : layers_begin(mem);

	memory_unstash(mem);
	do
		rc = rc == 0 ? freeze_ahead(mem, page) : rc;
	while (rc == 0 && *page < memory_pages(mem) &&
	       loop_now_ns() < until_ns);
	return rc;
}

static int make_view(struct memory *mem, struct memory_view *view)
{
	const struct memory_layers *l = &mem->layers;

	*view = (struct memory_view){
		.layers = l->count,
		.run_count = (u32)l->run_count,
		.pages = memory_pages(mem),
		.runs = xalloc(l->run_count * sizeof(*view->runs)),
	};
	for (u32 i = 0; i < MEMORY_LAYERS_MAX; i++)
		view->fd[i] = -1;
	for (size_t i = 0; i < l->run_count; i++)
		view->runs[i] =
		    (struct memory_run){ .page = l->runs[i].page,
			                 .pages = l->runs[i].pages,
			                 .at = l->runs[i].at,
			                 .layer = l->runs[i].layer };
	for (u32 i = 0; i < l->count; i++) {
		if (l->fd[i] < 0)
			continue;
		view->fd[i] = fcntl(l->fd[i], F_DUPFD_CLOEXEC, 3);
		if (view->fd[i] < 0) {
			int rc = -errno;

			memory_view_fini(view);
			return rc;
		}
	}
	return 0;
}

int freeze_seal(struct memory *mem)
{
	struct memory_layers *l = &mem->layers;
	struct aside aside = { 0 };
	int rc = aside_put(mem, &aside, 0, l->shared);

	for (size_t i = 0; rc == 0 && l->fresh >= 0 && i < l->run_count; i++)
		if ((int)l->runs[i].layer == l->fresh)
			rc = aside_put(mem, &aside, l->runs[i].page,
			               l->runs[i].pages);
	aside_leave(l, &aside);
	if (rc == 0)
		l->shared = 0;
	return rc;
}

void freeze_seal_fresh(struct memory_layers *l)
{
	l->fresh = -1;
	l->whole = false;
}

static int freeze(struct memory *mem)
{
	struct memory_layers *l = &mem->layers;
	struct fold_range rest = { .page = l->shared,
		                   .end = memory_pages(mem),
		                   .most = ~(u64)0,
		                   .seal = true };
	int rc = freeze_seal(mem);

	if (rc == 0) {
		rc = rest.page < rest.end ? fold_range(mem, &rest) : 0;
		freeze_seal_fresh(l);
	}
	return rc;
}

int memory_freeze(struct memory *mem, struct memory_view *view,
                  struct error *err)
{
	struct memory_layers *l = &mem->layers;
	int rc = l->runs ? 0 : layers_begin(mem);

	memory_unstash(mem);
	ASSERT(!atomic_load(&mem->incomplete));
	if (rc == 0)
		rc = freeze(mem);
	if (rc == 0)
		rc = make_view(mem, view);
	if (rc < 0)
		return error_set(err, rc,
		                 "the machine's memory cannot be shared: %s",
		                 strerror(-rc));
	l->viewers++;
	return 0;
}

void memory_unview(struct memory *mem)
{
	ASSERT(mem->layers.viewers);
	mem->layers.viewers--;
}

void memory_view_fini(struct memory_view *view)
{
	for (u32 i = 0; i < view->layers; i++)
		if (view->fd[i] >= 0)
			close(view->fd[i]);
	free(view->runs);
	*view = (struct memory_view){ 0 };
}
