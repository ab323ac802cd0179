/* SPDX-License-Identifier: Apache-2.0 */
/*
 * view - a moment of memory from outside: taken over, mapped, looked through.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "guest/memory_internal.h"

/* Runs from a file are any numbers: in order, without gaps, inside files. */
static int check(const struct memory_view *view, u64 pages)
{
	u64 next = 0;

	for (u32 i = 0; i < view->run_count; i++) {
		const struct memory_run *r = &view->runs[i];
		struct stat st;

		if (r->page != next || !r->pages || r->pages > pages - next ||
		    r->layer >= MIN(view->layers, (u32)MEMORY_LAYERS_MAX) ||
		    view->fd[r->layer] < 0 ||
		    fstat(view->fd[r->layer], &st) < 0 ||
		    r->at > (u64)st.st_size / PAGE_SIZE ||
		    r->pages > (u64)st.st_size / PAGE_SIZE - r->at)
			return -EPROTO;
		next += r->pages;
	}
	return next == pages ? 0 : -EPROTO;
}

int memory_adopt(struct memory *mem, const struct memory_view *view,
                 struct error *err)
{
	struct memory_layers *l = &mem->layers;
	u64 pages = memory_pages(mem);
	int rc = check(view, pages);

	ASSERT(!l->runs);
	if (rc < 0)
		return error_set(err, rc,
		                 "the memory that was handed over is not that "
		                 "of such a machine");
	l->runs = xalloc(view->run_count * sizeof(*l->runs));
	for (u32 i = 0; i < view->run_count; i++)
		l->runs[i] =
		    (struct layer_run){ view->runs[i].page, view->runs[i].pages,
			                view->runs[i].at, view->runs[i].layer };
	l->run_count = view->run_count;
	l->count = view->layers;
	l->shared = 0;
	for (u32 i = 0; i < l->count; i++) {
		l->ours[i] = false;
		l->home_of[i] = 0;
		l->fd[i] = -1;
		if (view->fd[i] < 0)
			continue;
		l->fd[i] = fcntl(view->fd[i], F_DUPFD_CLOEXEC, 3);
		if (l->fd[i] < 0)
			rc = -errno;
	}
	if (rc == 0)
		rc = layers_map(mem, 0, pages, false);
	return rc < 0 ? error_set(err, rc, "cannot map the saved memory: %s",
	                          strerror(-rc))
	              : 0;
}

int memory_adopted(const struct memory *mem)
{
	const struct memory_layers *l = &mem->layers;

	for (u32 i = 0; l->runs && i < l->count; i++)
		if (!l->ours[i] && l->fd[i] >= 0)
			return l->fd[i];
	return -1;
}

const u8 *memory_view_map(const struct memory_view *view, struct error *err)
{
	size_t size = view->pages * PAGE_SIZE;
	u8 *map = mmap(NULL, size, PROT_NONE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	for (u32 i = 0; map != MAP_FAILED && i < view->run_count; i++) {
		const struct memory_run *r = &view->runs[i];

		if (mmap(map + r->page * PAGE_SIZE, r->pages * PAGE_SIZE,
		         PROT_READ, MAP_SHARED | MAP_FIXED, view->fd[r->layer],
		         (off_t)(r->at * PAGE_SIZE)) != MAP_FAILED)
			continue;
		munmap(map, size);
		map = MAP_FAILED;
	}
	if (map != MAP_FAILED) {
		madvise(map, size, MADV_DONTDUMP);
		return map;
	}
	error_set(err, -errno, "cannot map the machine's memory: %s",
	          strerror(errno));
	return NULL;
}

void memory_view_unmap(const struct memory_view *view, const u8 *map)
{
	const u64 size = map ? view->pages * PAGE_SIZE : 0;

	/* Whoever else maps something meanwhile waits for a piece. */
	for (u64 at = 0, n; at < size; at += n) {
		n = MIN(size - at, 4 * MIB);
		munmap((void *)(uintptr_t)(map + at), n);
	}
}

u8 *memory_view_holes(const struct memory_view *view)
{
	u8 *bits = try_alloc((view->pages + 7) / 8, 1);

	for (u32 i = 0; bits && i < view->run_count; i++) {
		const struct memory_run *r = &view->runs[i];
		int fd = view->fd[r->layer];
		off_t at = (off_t)(r->at * PAGE_SIZE);
		off_t end = at + (off_t)(r->pages * PAGE_SIZE);

		while (at < end) {
			off_t data = lseek(fd, at, SEEK_DATA);
			u64 page, last;

			if (data < 0 && errno != ENXIO)
				break; /* not by this file system */
			data = data < 0 ? end : MIN(data, end);
			page = r->page + (u64)at / PAGE_SIZE - r->at;
			last = r->page + (u64)data / PAGE_SIZE - r->at;
			for (; page < last; page++)
				bits[page / 8] |= (u8)(1u << page % 8);
			if (data >= end)
				break;
			at = lseek(fd, data, SEEK_HOLE);
			if (at < 0)
				break;
		}
	}
	return bits;
}
