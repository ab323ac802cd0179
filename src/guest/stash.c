/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stash - what a page differs in from the one below it, by zstd with that one
 * as its dictionary. A table by address finds it.
 *
 * PAGE_MISSING keeps everybody from the page until it is back; whoever asks for
 * it puts it there, one at a time. It lies nowhere else meanwhile, so all that
 * could fail is done before it goes.
 */
#include "guest/stash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zstd.h>

#include "base/alloc.h"
#include "guest/memory_internal.h"

enum {
	BUCKETS = 2048,
	PAGES_MAX = 1 << 14, /* what is more is no idle guest's */
	WORTH = PAGE_SIZE * 3 / 4,
	LEVEL = 3,
};

struct kept {
	struct kept *next;
	u8 *host;
	u32 size;
	u8 bytes[];
};

struct stash {
	pthread_mutex_t lock;
	struct kept *bucket[BUCKETS];
	u64 pages, bytes, asked;
	ZSTD_DCtx *unpack; /* while there are pages */
};

struct stash *stash_create(void)
{
	struct stash *s = xalloc(sizeof(*s));

	pthread_mutex_init(&s->lock, NULL);
	return s;
}

static struct kept **chain_of(struct stash *s, const u8 *host)
{
	return &s->bucket[((uintptr_t)host >> PAGE_SHIFT) % BUCKETS];
}

void stash_destroy(struct stash *s)
{
	for (unsigned i = 0; s && i < BUCKETS; i++)
		for (struct kept *k = s->bucket[i], *next; k; k = next) {
			next = k->next;
			free(k);
		}
	if (!s)
		return;
	ZSTD_freeDCtx(s->unpack);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static _Atomic u8 *flags_of(const struct memory *mem, const u8 *host)
{
	for (size_t i = 0; i < mem->count; i++) {
		const struct memory_slot *s = &mem->slots[i];

		if ((uintptr_t)host - (uintptr_t)s->host < s->size)
			return &s->page[(host - s->host) >> PAGE_SHIFT];
	}
	ASSERT(false);
	return NULL;
}

/* ---- back ---- */

/* With the lock. The last one ends the asking. */
static void bring(struct memory *mem, struct kept **at)
{
	struct stash *s = mem->stash;
	struct kept *k = *at;
	u8 below[PAGE_SIZE];
	size_t n;

	memcpy(below, k->host, PAGE_SIZE);
	n = ZSTD_decompress_usingDict(s->unpack, k->host, PAGE_SIZE, k->bytes,
	                              k->size, below, PAGE_SIZE);
	ASSERT(n == PAGE_SIZE);
	atomic_fetch_and(flags_of(mem, k->host), (u8)~PAGE_MISSING);
	*at = k->next;
	s->bytes -= k->size;
	s->asked++;
	free(k);
	if (--s->pages)
		return;
	memory_set_source(mem, NULL, NULL);
	ZSTD_freeDCtx(s->unpack);
	s->unpack = NULL;
}

static void fetch(void *ctx, u8 *host)
{
	struct memory *mem = ctx;
	struct stash *s = mem->stash;
	struct kept **at = chain_of(s, host);

	pthread_mutex_lock(&s->lock);
	while (*at && (*at)->host != host)
		at = &(*at)->next;
	/* Else another was faster. */
	if (*at)
		bring(mem, at);
	pthread_mutex_unlock(&s->lock);
}

void memory_unstash(struct memory *mem)
{
	struct stash *s = mem->stash;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; s->pages && i < BUCKETS; i++)
		while (s->bucket[i])
			bring(mem, &s->bucket[i]);
	pthread_mutex_unlock(&s->lock);
}

void memory_stash_figures(struct memory *mem, struct memory_stash_figures *f)
{
	pthread_mutex_lock(&mem->stash->lock);
	*f = (struct memory_stash_figures){
		.pages = mem->stash->pages,
		.bytes = mem->stash->bytes,
		.asked = mem->stash->asked,
	};
	pthread_mutex_unlock(&mem->stash->lock);
}

/* ---- away ---- */

struct packer {
	struct memory *mem;
	ZSTD_CCtx *pack;
	s64 taken;
};

/* true: the page's own contents are not needed any more. */
static bool put(struct packer *p, u8 *host, const u8 *below)
{
	struct stash *s = p->mem->stash;
	struct kept **at = chain_of(s, host), *k;
	u8 bytes[WORTH];
	size_t n = ZSTD_compress_usingDict(p->pack, bytes, sizeof(bytes), host,
	                                   PAGE_SIZE, below, PAGE_SIZE, LEVEL);

	k = ZSTD_isError(n) ? NULL : malloc(sizeof(*k) + n);
	if (!k)
		return false;
	*k = (struct kept){ .next = *at, .host = host, .size = (u32)n };
	memcpy(k->bytes, bytes, n);
	/* One that is locked stays. */
	if (madvise(host, PAGE_SIZE, MADV_DONTNEED) < 0) {
		free(k);
		return false;
	}
	atomic_fetch_or(flags_of(p->mem, host), PAGE_MISSING);
	*at = k;
	s->pages++;
	s->bytes += n;
	return true;
}

/* What is as it was takes nothing. */
static bool stash_one(void *ctx, u8 *host, const u8 *below)
{
	struct packer *p = ctx;

	if (memcmp(host, below, PAGE_SIZE) == 0)
		return true;
	if (p->mem->stash->pages < PAGES_MAX &&
	    !(atomic_load(flags_of(p->mem, host)) & PAGE_KEPT))
		p->taken += put(p, host, below);
	return false;
}

static bool may_stash(struct memory *mem)
{
	struct stash *s = mem->stash;

	if (home_may_come(&mem->layers) || mem->layers.merges)
		return false;
	if (s->pages)
		return true;
	if (!s->unpack)
		s->unpack = ZSTD_createDCtx();
	return s->unpack && !atomic_load(&mem->incomplete);
}

static s64 stash_some(struct memory *mem, u64 *page, u64 until_ns)
{
	struct stash *s = mem->stash;
	struct packer p = { .mem = mem, .pack = ZSTD_createCCtx() };
	s64 same;

	if (!p.pack)
		return -ENOMEM;
	/* Nobody looks before the machine goes on. */
	memory_set_source(mem, fetch, mem);
	same = same_walk(mem, page, until_ns, stash_one, &p);
	ZSTD_freeCCtx(p.pack);
	if (!s->pages) {
		memory_set_source(mem, NULL, NULL);
		ZSTD_freeDCtx(s->unpack);
		s->unpack = NULL;
	}
	return same < 0 ? same : same + p.taken;
}

s64 memory_stash(struct memory *mem, u64 *page, u64 until_ns)
{
	s64 rc = 0;

	pthread_mutex_lock(&mem->stash->lock);
	if (may_stash(mem))
		rc = stash_some(mem, page, until_ns);
	else
		*page = memory_pages(mem);
	pthread_mutex_unlock(&mem->stash->lock);
	return rc;
}
