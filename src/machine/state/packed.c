/* SPDX-License-Identifier: Apache-2.0 */
/*
 * packed - memory as few bytes as is quick: no zeroes, no page twice, zstd.
 *
 * Saving: every page is hashed on all processors (128 bits: two pages that
 * differ never meet); one thread then gives numbers to contents; blocks of 64
 * contents are compressed and written as they come, on all processors, each
 * at the place that it draws.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "machine/state/layout.h"
#include "machine/state/parallel.h"

enum {
	BLOCK_PAGES = 64,
	BLOCK_BYTES = BLOCK_PAGES * PAGE_SIZE,
	HASH_PAGES = 256, /* a piece of hashing work */
	LEVEL = 1,
};
#define MAP_MAX ((size_t)1 << 34) /* bytes: 16 TiB of memory */

struct block_entry {
	u64 offset; /* in "packed" */
	u32 size;
	u32 pages; /* in it */
	u64 hash;  /* of the frame */
};

struct saver {
	const struct layout *l;
	struct state_file *f;
	struct pages_work *work;
	u64 base; /* of "packed" in the file */
	XXH128_hash_t *hash;
	u32 *map;
	u32 *first; /* of each contents, a page that has them */
	u64 contents;
	struct block_entry *blocks;
	_Atomic u64 used;
	u8 *raw[PARALLEL_MAX], *frame[PARALLEL_MAX];
	ZSTD_CCtx *zstd[PARALLEL_MAX];
};

/* ---- which pages are what ---- */

static int hash_some(void *ctx, unsigned worker, u64 i)
{
	struct saver *s = ctx;
	u64 end = MIN((i + 1) * HASH_PAGES, s->l->pages);

	(void)worker;
	if (atomic_load(&s->work->stop))
		return -ECANCELED;
	for (u64 page = i * HASH_PAGES; page < end; page++) {
		s->map[page] = !layout_is_zero(s->l, page);
		if (s->map[page])
			s->hash[page] =
			    XXH3_128bits(layout_page(s->l, page), PAGE_SIZE);
	}
	return 0;
}

/* An open table of contents by hash; twice the room that is needed. */
static int number_contents(struct saver *s, struct pages_figures *figures)
{
	u64 room = 1024;
	u32 *table;

	while (room < 2 * s->l->pages)
		room *= 2;
	table = try_alloc(room, sizeof(*table));
	if (!table)
		return -ENOMEM;
	for (u64 page = 0; page < s->l->pages; page++) {
		u64 at = s->hash[page].low64 & (room - 1);

		if (!s->map[page]) {
			figures->zero++;
			continue;
		}
		while (table[at] &&
		       !XXH128_isEqual(s->hash[s->first[table[at] - 1]],
		                       s->hash[page]))
			at = (at + 1) & (room - 1);
		if (table[at]) {
			figures->duplicate++;
		} else {
			s->first[s->contents] = (u32)page;
			table[at] = (u32)++s->contents;
		}
		s->map[page] = table[at];
	}
	free(table);
	return 0;
}

/* ---- blocks ---- */

static int save_block(void *ctx, unsigned w, u64 i)
{
	struct saver *s = ctx;
	struct block_entry *b = &s->blocks[i];
	size_t bound = ZSTD_compressBound(BLOCK_BYTES), size;
	int rc;

	if (atomic_load(&s->work->stop))
		return -ECANCELED;
	if (!s->raw[w])
		s->raw[w] = malloc(BLOCK_BYTES);
	if (!s->frame[w])
		s->frame[w] = malloc(bound);
	if (!s->zstd[w])
		s->zstd[w] = ZSTD_createCCtx();
	if (!s->raw[w] || !s->frame[w] || !s->zstd[w])
		return -ENOMEM;
	b->pages = (u32)MIN((u64)BLOCK_PAGES, s->contents - i * BLOCK_PAGES);
	for (u32 p = 0; p < b->pages; p++)
		memcpy(s->raw[w] + p * PAGE_SIZE,
		       layout_page(s->l, s->first[i * BLOCK_PAGES + p]),
		       PAGE_SIZE);
	size = ZSTD_compressCCtx(s->zstd[w], s->frame[w], bound, s->raw[w],
	                         (size_t)b->pages * PAGE_SIZE, LEVEL);
	if (ZSTD_isError(size))
		return -ENOMEM;
	b->size = (u32)size;
	b->offset = atomic_fetch_add(&s->used, size);
	b->hash = XXH64(s->frame[w], size, 0);
	rc =
	    state_file_pwrite(s->f->fd, s->frame[w], size, s->base + b->offset);
	atomic_fetch_add(&s->work->done, (u64)b->pages * PAGE_SIZE);
	return rc;
}

static int save_all(struct saver *s, struct pages_figures *figures,
                    struct error *err)
{
	u64 count;
	int rc = parallel_for((s->l->pages + HASH_PAGES - 1) / HASH_PAGES,
	                      hash_some, s);

	if (rc == 0)
		rc = number_contents(s, figures);
	count = (s->contents + BLOCK_PAGES - 1) / BLOCK_PAGES;
	if (rc == 0) {
		atomic_store(&s->work->total, s->contents * PAGE_SIZE);
		s->blocks = try_alloc(MAX(count, (u64)1), sizeof(*s->blocks));
		rc = s->blocks ? parallel_for(count, save_block, s) : -ENOMEM;
	}
	if (rc < 0)
		return pages_write_failed(rc, err);
	figures->stored_bytes = s->used;
	state_file_added(s->f, "packed", STATE_SECTION_NEEDED, s->used);
	rc = state_file_add(s->f, "blocks", STATE_SECTION_NEEDED, s->blocks,
	                    count * sizeof(*s->blocks), err);
	return rc < 0
	           ? rc
	           : state_file_add(s->f, "map", STATE_SECTION_NEEDED, s->map,
	                            s->l->pages * sizeof(*s->map), err);
}

int packed_save(struct state_file *f, const struct layout *l,
                struct pages_work *work, struct pages_figures *figures,
                struct error *err)
{
	struct saver s = {
		.l = l, .f = f, .work = work, .base = state_file_next(f)
	};
	int rc;

	s.hash = try_alloc(l->pages, sizeof(*s.hash));
	s.map = try_alloc(l->pages, sizeof(*s.map));
	s.first = try_alloc(l->pages, sizeof(*s.first));
	rc = s.hash && s.map && s.first ? save_all(&s, figures, err)
	                                : pages_write_failed(-ENOMEM, err);
	for (unsigned i = 0; i < PARALLEL_MAX; i++) {
		free(s.raw[i]);
		free(s.frame[i]);
		ZSTD_freeCCtx(s.zstd[i]);
	}
	free(s.blocks);
	free(s.hash);
	free(s.map);
	free(s.first);
	return rc;
}

/* ---- loading ---- */

struct loader {
	const struct state_file *f;
	const struct layout *l;
	const struct state_section *packed;
	const struct block_entry *blocks;
	u64 count, contents;
	u32 *start, *pages; /* pages of contents c: pages[start[c]..] */
	u8 *raw[PARALLEL_MAX], *frame[PARALLEL_MAX];
};

static int read_block(struct loader *l, unsigned w, u64 i)
{
	const struct block_entry *b = &l->blocks[i];
	size_t bound = ZSTD_compressBound(BLOCK_BYTES), size;
	int rc;

	if (!l->raw[w])
		l->raw[w] = malloc(BLOCK_BYTES);
	if (!l->frame[w])
		l->frame[w] = malloc(bound);
	if (!l->raw[w] || !l->frame[w])
		return -ENOMEM;
	if (b->size > bound || b->offset > l->packed->size ||
	    b->size > l->packed->size - b->offset || !b->pages ||
	    b->pages > BLOCK_PAGES ||
	    (i + 1 < l->count && b->pages != BLOCK_PAGES))
		return -EPROTO;
	rc = state_file_pread(l->f->fd, l->frame[w], b->size,
	                      l->packed->offset + b->offset);
	if (rc < 0)
		return rc;
	if (XXH64(l->frame[w], b->size, 0) != b->hash)
		return -EPROTO;
	size = ZSTD_decompress(l->raw[w], BLOCK_BYTES, l->frame[w], b->size);
	return ZSTD_isError(size) || size != (size_t)b->pages * PAGE_SIZE
	           ? -EPROTO
	           : 0;
}

static int load_block(void *ctx, unsigned w, u64 i)
{
	struct loader *l = ctx;
	int rc = read_block(l, w, i);

	for (u32 p = 0; rc == 0 && l->l && p < l->blocks[i].pages; p++) {
		u64 c = i * BLOCK_PAGES + p;

		for (u32 k = l->start[c]; k < l->start[c + 1]; k++)
			memcpy(layout_page(l->l, l->pages[k]),
			       l->raw[w] + p * PAGE_SIZE, PAGE_SIZE);
	}
	return rc;
}

/* Sort pages by their contents. */
static int sort_pages(struct loader *l, const u32 *map, u64 pages)
{
	u32 *at;

	l->start = try_alloc(l->contents + 2, sizeof(*l->start));
	l->pages = try_alloc(MAX(pages, (u64)1), sizeof(*l->pages));
	if (!l->start || !l->pages)
		return -ENOMEM;
	at = l->start + 1;
	for (u64 i = 0; i < pages; i++) {
		if (map[i] > l->contents)
			return -EPROTO;
		if (map[i])
			at[map[i]]++;
	}
	/* at[c + 1] counts contents c; make at[c] where c begins, and let
	 * filling move it to where c ends, which start[c + 1] is. */
	for (u64 c = 1; c <= l->contents; c++)
		at[c] += at[c - 1];
	for (u64 i = 0; i < pages; i++)
		if (map[i])
			l->pages[at[map[i] - 1]++] = (u32)i;
	return 0;
}

static int load_all(struct loader *l, const u32 *map, u64 pages)
{
	int rc;

	if (l->count)
		l->contents =
		    (l->count - 1) * BLOCK_PAGES +
		    MIN(l->blocks[l->count - 1].pages, (u32)BLOCK_PAGES);
	rc = sort_pages(l, map, pages);
	return rc < 0 ? rc : parallel_for(l->count, load_block, l);
}

static int load_failed(int rc, struct error *err)
{
	if (rc == -EPROTO)
		return pages_damaged(err, "a part of its memory has another "
		                          "sum");
	return error_set(err, rc, "cannot read the saved machine: %s",
	                 strerror(-rc));
}

int packed_load(const struct state_file *f, const struct layout *layout,
                struct error *err)
{
	struct loader l = { .f = f, .l = layout };
	u8 *map = NULL, *blocks = NULL;
	size_t map_size = 0, blocks_size = 0;
	int rc = state_file_read(f, "map", MAP_MAX, &map, &map_size, err);

	if (rc == 0)
		rc = state_file_read(f, "blocks", MAP_MAX, &blocks,
		                     &blocks_size, err);
	l.packed = state_file_find(f, "packed");
	if (rc == 0 && (!l.packed || map_size % sizeof(u32) ||
	                blocks_size % sizeof(struct block_entry)))
		rc = pages_damaged(err, "its memory has no whole map");
	if (rc == 0 && layout && map_size / sizeof(u32) != layout->pages)
		rc = error_set(err, -EINVAL,
		               "the machine was saved with %zu MiB of memory, "
		               "not %" PRIu64,
		               map_size / sizeof(u32) * PAGE_SIZE / (1 << 20),
		               layout->pages * PAGE_SIZE / MIB);
	if (rc == 0) {
		l.blocks = (const struct block_entry *)(void *)blocks;
		l.count = blocks_size / sizeof(struct block_entry);
		rc = load_all(&l, (const u32 *)(void *)map,
		              map_size / sizeof(u32));
		if (rc < 0)
			rc = load_failed(rc, err);
	}
	for (unsigned i = 0; i < PARALLEL_MAX; i++) {
		free(l.raw[i]);
		free(l.frame[i]);
	}
	free(l.start);
	free(l.pages);
	free(map);
	free(blocks);
	return rc;
}
