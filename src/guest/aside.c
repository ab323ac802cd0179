/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aside - shared mappings become private ones without their page tables being
 * taken down meanwhile.
 *
 * To map over 4 GiB that are in use takes the kernel a quarter of a second,
 * most of it for pages one by one. To move that mapping elsewhere takes it a
 * table at a time, if both addresses lie alike in them: then nothing is left to
 * take down where the machine's memory is, and what was moved is unmapped when
 * the machine runs again (MREMAP_DONTUNMAP of a file's mapping: Linux 5.13).
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/memory_internal.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define ALIKE GIB /* what one entry of the upper tables spans */
#define ASIDE_LEAST (256 * KIB)

/* An address range of our own, at the same place of the tables as host. */
static u8 *reserve(const u8 *host, u64 size)
{
	u8 *at = mmap(NULL, size + ALIKE, PROT_NONE,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	u64 skip;

	if (at == MAP_FAILED)
		return NULL;
	skip = ((u64)(uintptr_t)host - (u64)(uintptr_t)at) % ALIKE;
	if (skip)
		munmap(at, skip);
	if (skip < ALIKE)
		munmap(at + skip + size, ALIKE - skip);
	return at + skip;
}

/* Little is as quickly taken down. */
static bool move(u8 *host, u64 size, struct memory_aside *to)
{
	u8 *at = size < ASIDE_LEAST ? NULL : reserve(host, size);

	if (!at)
		return false;
	if (mremap(host, size, size,
	           MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
	           at) == MAP_FAILED) {
		munmap(at, size);
		return false;
	}
	*to = (struct memory_aside){ at, size };
	return true;
}

static bool try_it(void)
{
	int fd = memory_file("aside", ASIDE_LEAST);
	struct memory_aside there;
	bool can;
	u8 *at;

	if (fd < 0)
		return false;
	at = mmap(NULL, ASIDE_LEAST, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		return false;
	can = move(at, ASIDE_LEAST, &there);
	if (can)
		munmap(there.at, there.size);
	munmap(at, ASIDE_LEAST);
	return can;
}

bool aside_possible(struct memory_layers *l)
{
	if (!l->aside_tried)
		l->aside_works = try_it();
	l->aside_tried = true;
	return l->aside_works;
}

int aside_put(struct memory *mem, u64 page, u64 pages)
{
	struct memory_layers *l = &mem->layers;

	/* What can't be moved is taken down as it is mapped over. */
	for (u64 at = page, end = page + pages;
	     at < end && l->aside_count < ARRAY_SIZE(l->aside);) {
		u64 n;
		u8 *host = layers_host(mem, at, &n);

		n = MIN(n, end - at);
		if (!move(host, n * PAGE_SIZE, &l->aside[l->aside_count]))
			break;
		l->aside_count++;
		at += n;
	}
	return layers_map(mem, page, pages, false);
}

bool memory_drop_aside(struct memory *mem, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	struct memory_aside *a;
	u64 size;

	if (!l->aside_count)
		return true;
	a = &l->aside[l->aside_count - 1];
	size = MIN(a->size, pages * PAGE_SIZE);
	a->size -= size;
	munmap(a->at + a->size, size);
	l->aside_count -= a->size == 0;
	return l->aside_count == 0;
}
