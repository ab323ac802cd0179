/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fold - pages of private mappings that were stored to, put into files.
 *
 * A page goes to the file that it lies in, if that is ours and there are no
 * viewers. What lies in files of others goes to the fresh one, made for a
 * moment that is not taken yet; until that is taken it stays a shared mapping
 * of it, so that what is stored there meanwhile need not be moved again. Runs
 * of pages that are new there are few for one moment, as each is a mapping.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "guest/memory_internal.h"

enum {
	RUNS_NEW = 512,  /* of one moment that go to a new file: each is a
	                  * mapping, of which a process has 65530 */
	RUNS_ALL = 4096, /* ...and if there would be more, all goes there */
};

struct stored {
	u64 page, pages;
};
struct stored_list {
	struct stored *run;
	size_t count, room;
};
struct fold {
	struct memory *mem;
	struct stored_list here, there; /* where they lie; in the fresh one */
	struct stored_list *now;
	u64 base; /* page number of where is looked now */
};

/* ---- what was stored to ---- */

static int note_run(void *ctx, u64 first, u64 pages)
{
	struct fold *f = ctx;
	struct stored_list *l = f->now;

	if (l->count == l->room) {
		size_t room = MAX(l->room * 2, (size_t)256);
		struct stored *run = try_alloc(room, sizeof(*run));

		if (!run)
			return -ENOMEM;
		if (l->count)
			memcpy(run, l->run, l->count * sizeof(*run));
		free(l->run);
		l->run = run;
		l->room = room;
	}
	l->run[l->count++] = (struct stored){ f->base + first, pages };
	return 0;
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
		rc = private_pages(&f->mem->layers, host, n, note_run, f);
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

static int find_all(struct fold *f, u64 page, u64 end)
{
	const struct memory_layers *l = &f->mem->layers;
	int rc = 0;

	f->here.count = f->there.count = 0;
	while (rc == 0 && page < end) {
		const struct layer_run *r = &l->runs[layers_find(l, page)];
		u64 next = MIN(end, r->page + r->pages);

		rc = find_in(f, r, page, next);
		page = next;
	}
	return rc;
}

/* Fewer runs, by taking what lies between two of them as well. */
static void join(struct stored_list *l, u64 gap)
{
	size_t n = 0;

	for (size_t i = 1; i < l->count; i++) {
		struct stored *last = &l->run[n], *next = &l->run[i];

		if (next->page - (last->page + last->pages) <= gap)
			last->pages = next->page + next->pages - last->page;
		else
			l->run[++n] = *next;
	}
	l->count = l->count ? n + 1 : 0;
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

static int fold_there(struct fold *f, u64 page, u64 pages)
{
	struct memory_layers *l = &f->mem->layers;
	const struct layer_run run = { page, pages, page, (u32)l->fresh };
	u64 from = page, left = pages;
	int rc = 0;

	while (rc == 0 && left) {
		u64 n;
		const u8 *host = layers_host(f->mem, from, &n);

		n = MIN(n, left);
		rc = write_sparse(l->fd[l->fresh], from, host, n);
		from += n;
		left -= n;
	}
	if (rc < 0)
		return rc;
	layers_set(l, &run);
	return layers_map(f->mem, page, pages, true);
}

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

/* A file for what was stored. All of memory goes there if it would be in too
 * many pieces, or in too many files. */
static int prepare_fresh(struct fold *f, u64 page, u64 end)
{
	struct memory_layers *l = &f->mem->layers;
	u64 all = memory_pages(f->mem);
	u64 most = MAX(RUNS_NEW * (end - page) / all, (u64)1);
	int rc = l->fresh < 0 ? make_fresh(f->mem) : 0;

	if (rc < 0)
		return rc;
	for (u64 gap = 1; f->there.count > most; gap *= 2)
		join(&f->there, gap);
	if (l->whole || (l->run_count + 2 * f->there.count <= RUNS_ALL &&
	                 layers_free(l) > 0))
		return 0;
	l->whole = true;
	return find_all(f, page, end);
}

int fold_range(struct memory *mem, u64 page, u64 end, u64 *moved)
{
	struct fold f = { .mem = mem };
	int rc = find_all(&f, page, end);

	if (rc == 0 && f.there.count)
		rc = prepare_fresh(&f, page, end);
	for (size_t i = 0; rc == 0 && i < f.here.count; i++) {
		rc = fold_here(&f, f.here.run[i].page, f.here.run[i].pages);
		*moved += f.here.run[i].pages;
	}
	for (size_t i = 0; rc == 0 && i < f.there.count; i++) {
		rc = fold_there(&f, f.there.run[i].page, f.there.run[i].pages);
		*moved += f.there.run[i].pages;
	}
	free(f.here.run);
	free(f.there.run);
	return rc;
}
