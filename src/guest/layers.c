/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layers - which file each page of memory lies in, and mapping it from there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "guest/memory_internal.h"

void layers_init(struct memory_layers *l)
{
	*l = (struct memory_layers){
		/* A sandbox will not let us open it later. */
		.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
		.fresh = -1,
		.left_lock = PTHREAD_MUTEX_INITIALIZER,
	};
}

void layers_fini(struct memory_layers *l)
{
	for (u32 i = 0; i < l->count; i++)
		if (l->fd[i] >= 0)
			close(l->fd[i]);
	free(l->runs);
	free(l->left);
	if (l->pagemap >= 0)
		close(l->pagemap);
	*l = (struct memory_layers){ .pagemap = -1 };
}

u64 memory_pages(const struct memory *mem)
{
	u64 pages = 0;

	for (size_t i = 0; i < mem->count; i++)
		if (!mem->alias[i])
			pages += mem->slots[i].size / PAGE_SIZE;
	return pages;
}

u8 *layers_host(const struct memory *mem, u64 page, u64 *follow)
{
	for (size_t i = 0; i < mem->count; i++) {
		u64 pages = mem->slots[i].size / PAGE_SIZE;

		if (mem->alias[i])
			continue;
		if (page < pages) {
			*follow = pages - page;
			return mem->slots[i].host + page * PAGE_SIZE;
		}
		page -= pages;
	}
	ASSERT(false);
	return NULL;
}

size_t layers_find(const struct memory_layers *l, u64 page)
{
	size_t low = 0, high = l->run_count;

	while (high - low > 1) {
		size_t mid = (low + high) / 2;

		if (page < l->runs[mid].page)
			high = mid;
		else
			low = mid;
	}
	return low;
}

/* Appends, or makes the last one longer. */
static void append(struct layer_run *runs, size_t *count,
                   const struct layer_run *run)
{
	struct layer_run *last = *count ? &runs[*count - 1] : NULL;

	if (!run->pages)
		return;
	if (last && last->layer == run->layer &&
	    last->page + last->pages == run->page &&
	    last->at + last->pages == run->at)
		last->pages += run->pages;
	else
		runs[(*count)++] = *run;
}

/* Of one run, the pages [page, end). */
static struct layer_run part_of(const struct layer_run *run, u64 page, u64 end)
{
	return (struct layer_run){ page, end - page,
		                   run->at + (page - run->page), run->layer };
}

void layers_set(struct memory_layers *l, const struct layer_run *run, size_t n)
{
	struct layer_run *runs = xalloc((l->run_count + 2 * n) * sizeof(*runs));
	size_t count = 0, i = 0, k = 0;
	u64 done = 0; /* all pages below it are */

	while (i < l->run_count || k < n) {
		const struct layer_run *old;
		struct layer_run part;
		u64 from, end;

		if (k < n && (i == l->run_count ||
		              run[k].page <= MAX(l->runs[i].page, done))) {
			append(runs, &count, &run[k]);
			done = run[k].page + run[k].pages;
			k++;
			continue;
		}
		old = &l->runs[i];
		from = MAX(old->page, done);
		end = old->page + old->pages;
		if (k < n)
			end = MIN(end, run[k].page);
		if (from < end) {
			part = part_of(old, from, end);
			append(runs, &count, &part);
			done = end;
		}
		i += done >= old->page + old->pages;
	}
	free(l->runs);
	l->runs = runs;
	l->run_count = count;
}

void layers_drop_unused(struct memory_layers *l)
{
	bool used[MEMORY_LAYERS_MAX] = { false };

	if (l->fresh >= 0)
		used[l->fresh] = true;
	for (size_t i = 0; i < l->run_count; i++)
		used[l->runs[i].layer] = true;
	for (u32 i = 0; i < l->count; i++)
		if (!used[i] && l->fd[i] >= 0) {
			aside_leave_file(l, l->fd[i]);
			l->fd[i] = -1;
		}
}

int layers_add(struct memory_layers *l, int fd, bool ours)
{
	u32 i = 0;

	layers_drop_unused(l);
	while (i < l->count && l->fd[i] >= 0)
		i++;
	if (i == MEMORY_LAYERS_MAX)
		return -1;
	l->count = MAX(l->count, i + 1);
	l->fd[i] = fd;
	l->ours[i] = ours;
	l->home_of[i] = 0;
	return (int)i;
}

int layers_home(struct memory *mem, size_t i)
{
	struct memory_layers *l = &mem->layers;
	int fd, layer;

	for (u32 k = 0; k < l->count; k++)
		if (l->fd[k] >= 0 && l->home_of[k] == i + 1)
			return (int)k;
	fd = fcntl(mem->slots[i].fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return -errno;
	layer = layers_add(l, fd, true);
	if (layer < 0) {
		close(fd);
		return -E2BIG;
	}
	l->home_of[layer] = (u32)i + 1;
	return layer;
}

unsigned layers_free(const struct memory_layers *l)
{
	unsigned n = MEMORY_LAYERS_MAX - l->count;

	for (u32 i = 0; i < l->count; i++)
		n += l->fd[i] < 0;
	return n;
}

int layers_begin(struct memory *mem)
{
	struct memory_layers *l = &mem->layers;
	u64 page = 0;

	for (size_t i = 0; i < mem->count; i++) {
		const struct memory_slot *s = &mem->slots[i];
		struct layer_run run = { page, s->size / PAGE_SIZE, 0, 0 };
		int layer;

		if (mem->alias[i])
			continue;
		layer = layers_home(mem, i);
		if (layer < 0)
			return layer;
		run.layer = (u32)layer;
		layers_set(l, &run, 1);
		page += run.pages;
	}
	l->shared = page;
	return 0;
}

int layers_map_run(struct memory *mem, const struct layer_run *run, bool shared)
{
	const struct memory_layers *l = &mem->layers;
	const int flags =
	    (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED | MAP_NORESERVE;

	for (u64 i = 0, n; i < run->pages; i += n) {
		u8 *host = layers_host(mem, run->page + i, &n);

		n = MIN(n, run->pages - i);
		if (mmap(host, n * PAGE_SIZE, PROT_READ | PROT_WRITE, flags,
		         l->fd[run->layer],
		         (off_t)((run->at + i) * PAGE_SIZE)) == MAP_FAILED)
			return -errno;
		/* A guest's memory holds its secrets: not for core files. */
		madvise(host, n * PAGE_SIZE, MADV_DONTDUMP);
		if (l->merges &&
		    madvise(host, n * PAGE_SIZE, MADV_MERGEABLE) < 0)
			return -errno;
	}
	return 0;
}

int layers_map(struct memory *mem, u64 page, u64 pages, bool shared)
{
	const struct memory_layers *l = &mem->layers;
	const u64 end = page + pages;
	int rc = 0;

	while (rc == 0 && page < end) {
		const struct layer_run *r = &l->runs[layers_find(l, page)];
		struct layer_run part =
		    part_of(r, page, MIN(end, r->page + r->pages));

		rc = layers_map_run(mem, &part, shared);
		page += part.pages;
	}
	return rc;
}
