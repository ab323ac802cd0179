/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fold - pages of private mappings that were stored to, put into files.
 *
 * A page goes to the file that it lies in, if that is ours and there are no
 * viewers. What lies in files of others goes to the fresh one, made for a
 * moment that is not taken yet; until that is taken it stays a shared mapping
 * of it, so that what is stored there meanwhile need not be moved again. Each
 * run of pages there is a mapping, so that there are not too many of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "guest/memory_internal.h"

/* Each is a mapping, which takes as long as a page or two, and of which a
 * process has 65530. */
enum {
	RUNS_MOST = 4096,   /* of all of memory, if it is not in pieces */
	RUNS_SEALED = 4096, /* that become more in a standstill */
};

struct fold {
	struct memory *mem;
	struct stored_list here, there; /* where they lie; in the fresh one */
	struct stored_list *now;
	u64 base;        /* page number of where is looked now */
	u64 found, most; /* pages */
	u64 end;         /* where the last one ended */
};

/* ---- what was stored to ---- */

/* 1: that is enough. */
static int note_run(void *ctx, u64 first, u64 pages)
{
	struct fold *f = ctx;
	u64 n = MIN(pages, f->most - f->found);
	int rc = stored_add(f->now, f->base + first, n);

	if (rc < 0)
		return rc;
	f->found += n;
	f->end = f->base + first + n;
	return f->found >= f->most;
}

/* [page, end) lies in one layer. */
static int find_stored(struct fold *f, u64 page, u64 end)
{
	int rc = 0;

	while (rc == 0 && page < end) {
		u64 n;
		const u8 *host = layers_host(f->mem, page, &n);

		n = MIN(n, end - page);
		f->base = page;
		rc = private_pages(&f->mem->layers, host, n, f->most - f->found,
		                   note_run, f);
		page += n;
	}
	return rc;
}

static int find_in(struct fold *f, const struct layer_run *r, u64 page, u64 end)
{
	const struct memory_layers *l = &f->mem->layers;

	if ((int)r->layer == l->fresh)
		return 0;
	f->base = page;
	f->now = l->ours[r->layer] && !l->viewers ? &f->here : &f->there;
	if (!l->whole)
		return find_stored(f, page, end);
	f->now = &f->there;
	return note_run(f, 0, end - page);
}

/* Up to f->end. */
static int find_all(struct fold *f, u64 page, u64 end)
{
	const struct memory_layers *l = &f->mem->layers;
	int rc = 0;

	f->here.count = f->there.count = 0;
	f->found = 0;
	while (rc == 0 && page < end) {
		const struct layer_run *r = &l->runs[layers_find(l, page)];
		u64 next = MIN(end, r->page + r->pages);

		rc = find_in(f, r, page, next);
		page = next;
	}
	if (rc == 0)
		f->end = end;
	return MIN(rc, 0);
}

/* ---- into files ---- */

bool fold_all_zero(const u8 *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE_SIZE - 1) == 0;
}

int fold_write(int fd, u64 at, const u8 *host, u64 pages)
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
static int fold_here(struct fold *f, u64 page, u64 pages)
{
	const struct memory_layers *l = &f->mem->layers;

	while (pages) {
		const struct layer_run *r = &l->runs[layers_find(l, page)];
		u64 into = page - r->page, n;
		u8 *host = layers_host(f->mem, page, &n);
		int rc;

		n = MIN(MIN(n, pages), r->pages - into);
		rc = fold_write(l->fd[r->layer], r->at + into, host, n);
		if (rc < 0)
			return rc;
		madvise(host, n * PAGE_SIZE, MADV_DONTNEED);
		page += n;
		pages -= n;
	}
	return 0;
}

/* Zeroes stay holes: what lies elsewhere has never been in this file, and what
 * lies in it is there already. */
static int write_sparse(int fd, u64 at, const u8 *host, u64 pages)
{
	u64 from = 0, i = 0;
	int rc = 0;

	while (rc == 0 && i <= pages) {
		bool zero = i < pages && fold_all_zero(host + i * PAGE_SIZE);

		if (i == pages || zero) {
			rc = fold_write(fd, at + from, host + from * PAGE_SIZE,
			                i - from);
			from = i + 1;
		}
		i++;
	}
	return rc;
}

static int write_there(struct fold *f, u64 page, u64 pages)
{
	const struct memory_layers *l = &f->mem->layers;
	int rc = 0;

	for (u64 i = 0, n; rc == 0 && i < pages; i += n) {
		const u8 *host = layers_host(f->mem, page + i, &n);

		n = MIN(n, pages - i);
		rc = write_sparse(l->fd[l->fresh], page + i, host, n);
	}
	return rc;
}

/* What came to nothing is a hole again. */
static void clear_there(const struct memory_layers *l, u64 page, u64 pages)
{
	fallocate(l->fd[l->fresh], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	          (off_t)(page * PAGE_SIZE), (off_t)(pages * PAGE_SIZE));
}

static int fold_there(struct fold *f, bool shared)
{
	struct memory_layers *l = &f->mem->layers;
	struct layer_run *put = try_alloc(f->there.count, sizeof(*put));
	size_t n = 0;
	int rc = put ? 0 : -ENOMEM;

	while (rc == 0 && n < f->there.count) {
		u64 page = f->there.run[n].page, pages = f->there.run[n].pages;

		put[n] = (struct layer_run){ page, pages, page, (u32)l->fresh };
		rc = write_there(f, page, pages);
		if (rc == 0)
			rc = layers_map_run(f->mem, &put[n], shared);
		if (rc < 0)
			clear_there(l, page, pages);
		else
			n++;
	}
	if (n)
		layers_set(l, put, n);
	free(put);
	return rc;
}

/* ---- how many runs ---- */

/* Joined, they may be more than were found. */
static void cut_after(struct fold *f, u64 pages)
{
	for (size_t i = 0; i < f->there.count; i++) {
		const struct stored *run = &f->there.run[i];

		if (run->pages >= pages) {
			f->end = run->page + pages;
			break;
		}
		pages -= run->pages;
	}
	stored_cut(&f->there, f->end);
	stored_cut(&f->here, f->end);
}

/* Ahead, a part of memory has as many as are due to it, if not before. */
static void join_some(struct fold *f, u64 page, bool seal)
{
	const struct memory_layers *l = &f->mem->layers;
	u64 most = RUNS_SEALED, have = 0;

	if (!seal) {
		most = RUNS_MOST * (f->end - page) / memory_pages(f->mem);
		have = layers_find(l, f->end - 1) - layers_find(l, page);
	}
	stored_join(&f->there, 1);
	for (u64 gap = 2;
	     have + 2 * f->there.count > most && f->there.count > 1; gap *= 2)
		stored_join(&f->there, gap);
}

/* ---- the fresh one ---- */

static int make_fresh(struct memory *mem)
{
	struct memory_layers *l = &mem->layers;
	int fd = memory_file("layer", memory_pages(mem) * PAGE_SIZE);

	if (fd < 0)
		return -errno;
	l->fresh = layers_add(l, fd, true);
	if (l->fresh < 0) {
		close(fd);
		return -E2BIG;
	}
	return 0;
}

bool fold_whole_due(struct memory_layers *l)
{
	if (l->fresh >= 0)
		return false;
	layers_drop_unused(l);
	return layers_free(l) <= 1 || l->run_count > 2 * RUNS_MOST;
}

int fold_whole(struct memory *mem)
{
	int rc = make_fresh(mem);

	mem->layers.whole = rc == 0;
	return rc;
}

/* A file for what was stored; the last one there may be is for all of memory.
 */
static int prepare_fresh(struct fold *f, u64 page, u64 end)
{
	struct memory_layers *l = &f->mem->layers;
	int rc = 0;

	if (l->fresh < 0) {
		rc = make_fresh(f->mem);
		l->whole = rc == 0 && layers_free(l) == 0;
		if (l->whole)
			rc = find_all(f, page, end);
	}
	return rc;
}

int fold_range(struct memory *mem, struct fold_range *r)
{
	struct fold f = { .mem = mem, .most = r->most };
	int rc = find_all(&f, r->page, r->end);

	r->moved = 0;
	if (rc == 0 && f.there.count)
		rc = prepare_fresh(&f, r->page, r->end);
	if (rc == 0 && f.there.count) {
		join_some(&f, r->page, r->seal);
		cut_after(&f, r->most);
	}
	for (size_t i = 0; rc == 0 && i < f.here.count; i++) {
		rc = fold_here(&f, f.here.run[i].page, f.here.run[i].pages);
		r->moved += f.here.run[i].pages;
	}
	for (size_t i = 0; i < f.there.count; i++)
		r->moved += f.there.run[i].pages;
	if (rc == 0 && f.there.count)
		rc = fold_there(&f, !r->seal);
	r->page = f.end;
	free(f.here.run);
	free(f.there.run);
	return rc;
}

s64 fold_count(struct memory *mem, u64 page, u64 end, u64 most)
{
	struct fold f = { .mem = mem, .most = most };
	int rc = find_all(&f, page, end);

	free(f.here.run);
	free(f.there.run);
	return rc < 0 ? rc : (s64)f.found;
}
