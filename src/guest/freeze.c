/* SPDX-License-Identifier: Apache-2.0 */
/*
 * freeze - a moment of memory kept for others, and memory made whole again.
 *
 * Below layers.shared all is a shared mapping of the slots' own files, above
 * it private mappings of the runs. A page of a private mapping that was
 * stored to is the kernel's copy: it is put into a file when a moment is
 * taken - its own, if nobody looks at that, else a new one.
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

enum {
	RUNS_NEW = 512,  /* of one moment that go to a new file: each is a
	                  * mapping, of which a process has 65530 */
	RUNS_ALL = 4096, /* ...and if there would be more, all goes there */
};

/* ---- private pages into files ---- */

struct stored {
	u64 page, pages;
};
struct fold {
	struct memory *mem;
	struct stored *list;
	size_t count, room;
	u64 base; /* page number of where is looked now */
	int layer;
};

static int note_run(void *ctx, u64 first, u64 pages)
{
	struct fold *f = ctx;

	if (f->count == f->room) {
		size_t room = MAX(f->room * 2, (size_t)256);
		struct stored *list = try_alloc(room, sizeof(*list));

		if (!list)
			return -ENOMEM;
		if (f->count)
			memcpy(list, f->list, f->count * sizeof(*list));
		free(f->list);
		f->list = list;
		f->room = room;
	}
	f->list[f->count++] = (struct stored){ f->base + first, pages };
	return 0;
}

/* All runs of private pages in [page, end). */
static int find_stored(struct fold *f, u64 page, u64 end)
{
	int rc = 0;

	while (rc == 0 && page < end) {
		u64 n;
		const u8 *host = layers_host(f->mem, page, &n);

		n = MIN(n, end - page);
		f->base = page;
		rc = private_pages(&f->mem->layers, host, n, note_run, f);
		page += n;
	}
	return rc;
}

/* Fewer runs, by taking what lies between two of them as well. */
static void join(struct fold *f, u64 gap)
{
	size_t n = 0;

	for (size_t i = 1; i < f->count; i++) {
		struct stored *last = &f->list[n], *next = &f->list[i];

		if (next->page - (last->page + last->pages) <= gap)
			last->pages = next->page + next->pages - last->page;
		else
			f->list[++n] = *next;
	}
	f->count = f->count ? n + 1 : 0;
}

static bool all_zero(const u8 *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE_SIZE - 1) == 0;
}

static int write_pages(int fd, u64 at, const u8 *host, u64 pages)
{
	u64 done = 0, size = pages * PAGE_SIZE;

	while (done < size) {
		ssize_t n = pwrite(fd, host + done, size - done,
		                   (off_t)(at * PAGE_SIZE + done));

		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (u64)n : 0;
	}
	return 0;
}

/* Into the file that shows through, and that nobody looks at. */
static int fold_in_place(struct fold *f, u64 page, u64 pages)
{
	const struct memory_layers *l = &f->mem->layers;

	while (pages) {
		const struct layer_run *r = &l->runs[layers_find(l, page)];
		u64 into = page - r->page, n;
		u8 *host = layers_host(f->mem, page, &n);
		int rc;

		n = MIN(MIN(n, pages), r->pages - into);
		rc = write_pages(l->fd[r->layer], r->at + into, host, n);
		if (rc < 0)
			return rc;
		madvise(host, n * PAGE_SIZE, MADV_DONTNEED);
		page += n;
		pages -= n;
	}
	return 0;
}

/* Into an empty file: zeroes stay holes. */
static int write_sparse(int fd, u64 at, const u8 *host, u64 pages)
{
	u64 from = 0, i = 0;
	int rc = 0;

	while (rc == 0 && i <= pages) {
		bool zero = i < pages && all_zero(host + i * PAGE_SIZE);

		if (i == pages || zero) {
			rc = write_pages(fd, at + from, host + from * PAGE_SIZE,
			                 i - from);
			from = i + 1;
		}
		i++;
	}
	return rc;
}

static int fold_to_new(struct fold *f, u64 page, u64 pages)
{
	struct memory_layers *l = &f->mem->layers;
	const struct layer_run run = { page, pages, page, (u32)f->layer };
	u64 from = page, left = pages;
	int rc = 0;

	while (rc == 0 && left) {
		u64 n;
		const u8 *host = layers_host(f->mem, from, &n);

		n = MIN(n, left);
		rc = write_sparse(l->fd[f->layer], from, host, n);
		from += n;
		left -= n;
	}
	if (rc < 0)
		return rc;
	layers_set(l, &run);
	return layers_map(f->mem, page, pages, false);
}

static bool may_write_below(const struct memory_layers *l)
{
	for (size_t i = 0; i < l->run_count; i++)
		if (!l->ours[l->runs[i].layer])
			return false;
	return l->viewers == 0;
}

/* A file for what was stored. All of memory goes there if it would be in too
 * many pieces, or in too many files. */
static int prepare_new(struct fold *f)
{
	struct memory_layers *l = &f->mem->layers;
	u64 all = layers_pages(f->mem);
	int fd = memory_file("layer", all * PAGE_SIZE);

	if (fd < 0)
		return -errno;
	for (u64 gap = 1; f->count > RUNS_NEW; gap *= 2)
		join(f, gap);
	f->layer = layers_add(l, fd, true);
	if (f->layer < 0) {
		close(fd);
		return -E2BIG;
	}
	if (l->run_count + 2 * f->count > RUNS_ALL || layers_free(l) == 0) {
		f->list[0] = (struct stored){ 0, all };
		f->count = 1;
	}
	return 0;
}

static int fold(struct memory *mem, u64 from)
{
	struct fold f = { .mem = mem };
	bool in_place = may_write_below(&mem->layers);
	int rc = find_stored(&f, from, layers_pages(mem));

	if (rc == 0 && f.count && !in_place)
		rc = prepare_new(&f);
	for (size_t i = 0; rc == 0 && i < f.count; i++)
		rc = (in_place ? fold_in_place : fold_to_new)(
		    &f, f.list[i].page, f.list[i].pages);
	free(f.list);
	return rc;
}

/* ---- a moment ---- */

bool memory_freeze_ahead(struct memory *mem, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	u64 n;

	if (!l->runs && layers_begin(mem) < 0)
		return false;
	n = MIN(l->shared, pages);
	if (!n || layers_map(mem, l->shared - n, n, false) < 0)
		return false;
	l->shared -= n;
	return l->shared != 0;
}

static int make_view(struct memory *mem, struct memory_view *view)
{
	const struct memory_layers *l = &mem->layers;

	*view = (struct memory_view){
		.layers = l->count,
		.run_count = (u32)l->run_count,
		.pages = layers_pages(mem),
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

int memory_freeze(struct memory *mem, struct memory_view *view,
                  struct error *err)
{
	struct memory_layers *l = &mem->layers;
	u64 was_shared;
	int rc = l->runs ? 0 : layers_begin(mem);

	was_shared = l->shared;
	if (rc == 0)
		rc = layers_map(mem, 0, l->shared, false);
	if (rc == 0) {
		l->shared = 0;
		rc = fold(mem, was_shared);
	}
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
}

/* Slot i's own file, as layers_begin() numbered them. */
static u32 own_layer(const struct memory *mem, u64 page, u64 *at)
{
	u32 layer = 0;

	for (size_t i = 0; i < mem->count; i++) {
		u64 pages = mem->slots[i].size / PAGE_SIZE;

		if (mem->alias[i])
			continue;
		if (page < pages)
			break;
		page -= pages;
		layer++;
	}
	*at = page;
	return layer;
}

/* All of a run that lies in another file. */
static int take_home(int fd, u64 at, const u8 *host, u64 pages)
{
	int rc = 0;

	for (u64 i = 0; rc == 0 && i < pages; i++) {
		if (!all_zero(host + i * PAGE_SIZE))
			rc = write_pages(fd, at + i, host + i * PAGE_SIZE, 1);
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
	struct fold f = { .mem = mem };
	int rc = 0;

	home.layer = own_layer(mem, page, &home.at);
	for (u64 i = 0; rc == 0 && i < pages;) {
		const struct layer_run *r = &l->runs[layers_find(l, page + i)];
		u64 into = page + i - r->page, follow;
		u64 n = MIN(pages - i, r->pages - into);
		u8 *host = layers_host(mem, page + i, &follow);

		if (r->layer == home.layer && r->at + into == home.at + i) {
			f.count = 0;
			rc = find_stored(&f, page + i, page + i + n);
			for (size_t k = 0; rc == 0 && k < f.count; k++)
				rc = fold_in_place(&f, f.list[k].page,
				                   f.list[k].pages);
		} else {
			rc = take_home(l->fd[home.layer], home.at + i, host, n);
		}
		i += n;
	}
	free(f.list);
	if (rc == 0) {
		layers_set(l, &home);
		rc = layers_map(mem, page, pages, true);
	}
	return rc;
}

bool memory_settle(struct memory *mem, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	u64 follow, all = layers_pages(mem);

	if (!l->runs || l->merges || !may_write_below(l))
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
		rc = layers_map(mem, 0, layers_pages(mem), false);
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
