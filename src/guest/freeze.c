/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freeze - a moment of memory kept for others, and memory made whole again.
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
#include "guest/memory_internal.h"

enum { LOOK_PAGES = 1 << 18 }; /* at once, a GiB: some milliseconds */

/* ---- a moment ---- */

static bool may_settle(const struct memory_layers *l)
{
	for (size_t i = 0; i < l->run_count; i++)
		if (!l->ours[l->runs[i].layer])
			return false;
	return l->viewers == 0 && !l->merges;
}

/* Where the kernel can't put page tables aside, taking them down is most of it.
 */
static s64 unshare_some(struct memory *mem, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	u64 n = MIN(l->shared, pages);
	int rc = layers_map(mem, l->shared - n, n, false);

	if (rc < 0)
		return rc;
	l->shared -= n;
	return (s64)n;
}

s64 memory_freeze_ahead(struct memory *mem, u64 *page, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	u64 all = memory_pages(mem), looked = 0, moved = 0;
	int rc = l->runs ? 0 : layers_begin(mem);

	if (rc < 0)
		return rc;
	if (!aside_possible(l)) {
		if (l->shared)
			return unshare_some(mem, pages);
	} else if (may_settle(l)) {
		moved = MIN(pages, all - l->shared);
		*page = memory_settle(mem, pages) ? all : l->shared;
		return (s64)moved;
	}
	*page = MAX(*page, l->shared);
	while (rc == 0 && *page < all && moved < pages && looked < LOOK_PAGES) {
		u64 n = MIN(pages, all - *page);

		rc = fold_range(mem, *page, *page + n, &moved);
		*page += n;
		looked += n;
	}
	return rc < 0 ? rc : (s64)moved;
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

/* What is shared becomes private. */
static int seal(struct memory *mem)
{
	struct memory_layers *l = &mem->layers;
	int rc = aside_put(mem, 0, l->shared);

	for (size_t i = 0; rc == 0 && l->fresh >= 0 && i < l->run_count; i++)
		if ((int)l->runs[i].layer == l->fresh)
			rc = aside_put(mem, l->runs[i].page, l->runs[i].pages);
	if (rc < 0)
		return rc;
	l->shared = 0;
	l->fresh = -1;
	l->whole = false;
	return 0;
}

int memory_freeze(struct memory *mem, struct memory_view *view,
                  struct error *err)
{
	struct memory_layers *l = &mem->layers;
	u64 moved;
	int rc = l->runs ? 0 : layers_begin(mem);

	ASSERT(!atomic_load(&mem->incomplete));
	if (rc == 0)
		rc = fold_range(mem, l->shared, memory_pages(mem), &moved);
	if (rc == 0)
		rc = seal(mem);
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

/* ---- whole again ---- */

static void forget(struct memory_layers *l)
{
	for (u32 i = 0; i < l->count; i++)
		if (l->fd[i] >= 0)
			close(l->fd[i]);
	free(l->runs);
	l->runs = NULL;
	l->run_count = 0;
	l->count = 0;
	l->fresh = -1;
}

/* The file of the slot that holds page, and where in it; -errno. It may have
 * been let go, when all of memory had gone elsewhere. */
static int own_layer(struct memory *mem, u64 page, u64 *at)
{
	size_t i = 0;

	for (; mem->alias[i] || page >= mem->slots[i].size / PAGE_SIZE; i++)
		if (!mem->alias[i])
			page -= mem->slots[i].size / PAGE_SIZE;
	*at = page;
	return layers_home(mem, i);
}

/* All of a run that lies in another file. */
static int take_home(int fd, u64 at, const u8 *host, u64 pages)
{
	int rc = 0;

	for (u64 i = 0; rc == 0 && i < pages; i++) {
		if (!fold_all_zero(host + i * PAGE_SIZE))
			rc = fold_write(fd, at + i, host + i * PAGE_SIZE, 1);
		else if (fallocate(
			     fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			     (off_t)((at + i) * PAGE_SIZE), PAGE_SIZE) < 0)
			rc = -errno;
	}
	return rc;
}

static int settle_piece(struct memory *mem, u64 page, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	struct layer_run home = { .page = page, .pages = pages };
	int rc = own_layer(mem, page, &home.at);

	if (rc < 0)
		return rc;
	home.layer = (u32)rc;
	rc = 0;
	for (u64 i = 0; rc == 0 && i < pages;) {
		const struct layer_run *r = &l->runs[layers_find(l, page + i)];
		u64 into = page + i - r->page, follow, moved;
		u64 n = MIN(pages - i, r->pages - into);
		u8 *host = layers_host(mem, page + i, &follow);

		if (r->layer == home.layer && r->at + into == home.at + i) {
			rc = fold_range(mem, page + i, page + i + n, &moved);
		} else {
			rc = take_home(l->fd[home.layer], home.at + i, host, n);
		}
		i += n;
	}
	if (rc == 0) {
		layers_set(l, &home);
		rc = layers_map(mem, page, pages, true);
	}
	return rc;
}

bool memory_settle(struct memory *mem, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	u64 follow, all = memory_pages(mem);

	if (!l->runs || !may_settle(l))
		return true;
	/* A moment that came to nothing. */
	if (l->fresh >= 0 && seal(mem) < 0)
		return true;
	if (l->shared < all) {
		layers_host(mem, l->shared, &follow);
		pages = MIN(pages, follow);
		if (settle_piece(mem, l->shared, pages) < 0)
			return true;
		l->shared += pages;
	}
	if (l->shared < all)
		return false;
	forget(l);
	return true;
}

/* ---- pages that are equal ---- */

/* Mappings that are private already keep what was stored to them. */
static int merge_mapped(const struct memory *mem)
{
	for (size_t i = 0; i < mem->count; i++)
		if (!mem->alias[i] &&
		    madvise(mem->slots[i].host, mem->slots[i].size,
		            MADV_MERGEABLE) < 0)
			return -errno;
	return 0;
}

static int merge_mapping(struct memory *mem)
{
	int rc = layers_begin(mem);

	if (rc == 0)
		rc = layers_map(mem, 0, memory_pages(mem), false);
	if (rc == 0)
		mem->layers.shared = 0;
	return rc;
}

int memory_merge_equal(struct memory *mem, struct error *err)
{
	struct memory_layers *l = &mem->layers;
	int rc;

	ASSERT(!l->runs || l->shared == 0);
	l->merges = true;
	rc = l->runs ? merge_mapped(mem) : merge_mapping(mem);
	if (rc == 0)
		return 0;
	l->merges = false;
	if (rc == -EINVAL) {
		error_set(err, -ENOTSUP,
		          "this kernel does not share equal pages (KSM)");
		return error_hint(err, "start the machine without "
		                       "--share-memory");
	}
	return error_set(err, rc, "the machine's memory cannot be mapped: %s",
	                 strerror(-rc));
}

bool memory_merges(const struct memory *mem)
{
	return mem->layers.merges;
}

static int add_pages(void *ctx, u64 first, u64 pages)
{
	(void)first;
	*(u64 *)ctx += pages;
	return 0;
}

u64 memory_private_bytes(struct memory *mem)
{
	u64 pages = 0;

	for (size_t i = 0; i < mem->count; i++)
		if (!mem->alias[i] &&
		    private_pages(&mem->layers, mem->slots[i].host,
		                  mem->slots[i].size / PAGE_SIZE, add_pages,
		                  &pages) < 0)
			return 0;
	return pages * PAGE_SIZE;
}
