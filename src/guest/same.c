/* SPDX-License-Identifier: Apache-2.0 */
/*
 * same - pages of private mappings that were stored to and hold what they held
 * before: a lock taken and let go, a reference counted up and down, a stack
 * that was left. The kernel keeps a copy of each; without it what lies below
 * shows through, which is the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/loop.h"
#include "guest/memory_internal.h"

enum {
	LOOK_PAGES = 1 << 14, /* between looks at the clock, at most */
	PIECE = 4, /* pages of the file that are read at a time, to the stack */
};

struct same {
	struct memory *mem;
	same_fn *fn;
	void *ctx;
	u8 *host; /* where is looked now... */
	u64 at;   /* ...and its page in the file */
	int fd;
	u64 until_ns;
	u64 late; /* where it was too late, from host */
	s64 dropped;
};

static void drop_same(struct same *s, u64 first, const u8 *below, u64 pages)
{
	u8 *host = s->host + first * PAGE_SIZE;
	u64 from = 0;

	for (u64 i = 0; i <= pages; i++) {
		if (i < pages &&
		    s->fn(s->ctx, host + i * PAGE_SIZE, below + i * PAGE_SIZE))
			continue;
		if (i > from &&
		    madvise(host + from * PAGE_SIZE, (i - from) * PAGE_SIZE,
		            MADV_DONTNEED) == 0)
			s->dropped += (s64)(i - from);
		from = i + 1;
	}
}

static int compare(void *ctx, u64 first, u64 pages)
{
	struct same *s = ctx;
	u8 below[PIECE * PAGE_SIZE];

	while (pages) {
		u64 n = MIN(pages, (u64)PIECE);
		ssize_t got = pread(s->fd, below, n * PAGE_SIZE,
		                    (off_t)((s->at + first) * PAGE_SIZE));

		if (got < (ssize_t)(n * PAGE_SIZE))
			return got < 0 ? -errno : -EIO;
		drop_same(s, first, below, n);
		first += n;
		pages -= n;
		if (loop_now_ns() > s->until_ns) {
			s->late = first;
			return 1;
		}
	}
	return 0;
}

/* What is on a disk may have to be read first: all stands still meanwhile. */
static bool in_memory(int fd)
{
	return fcntl(fd, F_GET_SEALS) >= 0;
}

/* From *page on, as far as it lies in one row. */
static int look_in(struct same *s, const struct layer_run *r, u64 *page)
{
	struct memory_layers *l = &s->mem->layers;
	u64 end = r->page + r->pages, n;
	int rc;

	s->fd = l->fd[r->layer];
	if ((int)r->layer == l->fresh || !in_memory(s->fd)) {
		*page = end;
		return 0;
	}
	s->host = layers_host(s->mem, *page, &n);
	s->at = r->at + (*page - r->page);
	n = MIN(MIN(n, end - *page), (u64)LOOK_PAGES);
	rc = private_pages(l, s->host, n, n, compare, s);
	*page += rc > 0 ? s->late : n;
	return MIN(rc, 0);
}

s64 same_walk(struct memory *mem, u64 *page, u64 until_ns, same_fn *fn,
              void *ctx)
{
	struct memory_layers *l = &mem->layers;
	struct same s = {
		.mem = mem, .fn = fn, .ctx = ctx, .until_ns = until_ns
	};
	u64 all = memory_pages(mem);
	int rc = 0;

	*page = l->runs ? MAX(*page, l->shared) : all;
	do {
		if (*page < all)
			rc = look_in(&s, &l->runs[layers_find(l, *page)], page);
	} while (rc == 0 && *page < all && loop_now_ns() < until_ns);
	return rc < 0 ? rc : s.dropped;
}

static bool is_same(void *ctx, u8 *host, const u8 *below)
{
	(void)ctx;
	return memcmp(host, below, PAGE_SIZE) == 0;
}

s64 memory_drop_same(struct memory *mem, u64 *page, u64 until_ns)
{
	return same_walk(mem, page, until_ns, is_same, NULL);
}
