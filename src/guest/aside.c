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
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/memory_internal.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define ALIKE GIB          /* what one entry of the upper tables spans */
enum { ASIDE_LEAST = 16 }; /* pages */

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

static bool move(u8 *host, u64 size, u8 *at)
{
	return mremap(host, size, size,
	              MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
	              at) != MAP_FAILED;
}

static bool try_it(void)
{
	int fd = memory_file("aside", PAGE_SIZE);
	bool can = false;
	u8 *host, *at;

	if (fd < 0)
		return false;
	host = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (host == MAP_FAILED)
		return false;
	at = reserve(host, PAGE_SIZE);
	if (at) {
		can = move(host, PAGE_SIZE, at);
		munmap(at, PAGE_SIZE);
	}
	munmap(host, PAGE_SIZE);
	return can;
}

bool aside_possible(struct memory_layers *l)
{
	if (!l->aside_tried)
		l->aside_works = try_it();
	l->aside_tried = true;
	return l->aside_works;
}

/* ---- what is left for later ---- */

static bool leave(struct memory_layers *l, const struct memory_left *what)
{
	bool room;

	pthread_mutex_lock(&l->left_lock);
	room = l->left_count < l->left_room;
	if (!room) {
		size_t n = MAX(l->left_room * 2, (size_t)16);
		struct memory_left *more =
		    realloc(l->left, n * sizeof(*l->left));

		room = more != NULL;
		l->left = room ? more : l->left;
		l->left_room = room ? n : l->left_room;
	}
	if (room)
		l->left[l->left_count++] = *what;
	pthread_mutex_unlock(&l->left_lock);
	return room;
}

/* The last piece of what was left last, no more than size of it. */
static bool take_left(struct memory_layers *l, u64 size,
                      struct memory_left *piece)
{
	struct memory_left *last;
	bool any;

	pthread_mutex_lock(&l->left_lock);
	any = l->left_count > 0;
	if (any) {
		last = &l->left[l->left_count - 1];
		*piece = *last;
		piece->size = MIN(last->size, size);
		last->size -= piece->size;
		piece->at += last->size;
		l->left_count -= last->size == 0;
	}
	pthread_mutex_unlock(&l->left_lock);
	return any;
}

static void drop(const struct memory_left *piece)
{
	if (piece->fd >= 0)
		close(piece->fd);
	else
		munmap(piece->at, piece->size);
}

bool memory_has_aside(struct memory *mem)
{
	struct memory_layers *l = &mem->layers;
	bool any;

	pthread_mutex_lock(&l->left_lock);
	any = l->left_count > 0;
	pthread_mutex_unlock(&l->left_lock);
	return any;
}

bool memory_drop_aside(struct memory *mem, u64 pages)
{
	struct memory_left piece;

	if (take_left(&mem->layers, pages * PAGE_SIZE, &piece))
		drop(&piece);
	return !memory_has_aside(mem);
}

void aside_leave(struct memory_layers *l, struct aside *to)
{
	const struct memory_left what = { to->at, to->size, -1 };

	if (to->at && !leave(l, &what))
		drop(&what);
	*to = (struct aside){ 0 };
}

void aside_leave_file(struct memory_layers *l, int fd)
{
	const struct memory_left what = { .fd = fd };

	if (!leave(l, &what))
		drop(&what);
}

/* ---- the standstill ---- */

/* The slot that holds host gets an address range, unless it has one. */
static bool place_for(struct memory *mem, struct aside *to, const u8 *host)
{
	const struct memory_slot *s = mem->slots;

	if (to->at && host >= to->slot && host < to->slot + to->size)
		return true;
	aside_leave(&mem->layers, to);
	while (mem->alias[s - mem->slots] || host < s->host ||
	       host >= s->host + s->size)
		s++;
	to->at = reserve(s->host, s->size);
	to->slot = s->host;
	to->size = s->size;
	return to->at != NULL;
}

int aside_put(struct memory *mem, struct aside *to, u64 page, u64 pages)
{
	/* What can't be moved is taken down as it is mapped over; little is as
	 * quickly. */
	for (u64 i = 0, n; i < pages; i += n) {
		u8 *host = layers_host(mem, page + i, &n);

		n = MIN(n, pages - i);
		if (n >= ASIDE_LEAST && place_for(mem, to, host) &&
		    !move(host, n * PAGE_SIZE, to->at + (host - to->slot)))
			break;
	}
	return layers_map(mem, page, pages, false);
}
