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
#include "storage/state_packed.h"

enum {
	HASH_PAGES = 256, /* a piece of hashing work */
	LEVEL = 1,
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
	struct state_block *blocks;
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
	struct state_block *b = &s->blocks[i];
	size_t bound = ZSTD_compressBound(STATE_BLOCK_BYTES), size;
	int rc;

	if (atomic_load(&s->work->stop))
		return -ECANCELED;
	if (!s->raw[w])
		s->raw[w] = malloc(STATE_BLOCK_BYTES);
	if (!s->frame[w])
		s->frame[w] = malloc(bound);
	if (!s->zstd[w])
		s->zstd[w] = ZSTD_createCCtx();
	if (!s->raw[w] || !s->frame[w] || !s->zstd[w])
		return -ENOMEM;
	b->pages = (u32)MIN((u64)STATE_BLOCK_PAGES,
	                    s->contents - i * STATE_BLOCK_PAGES);
	for (u32 p = 0; p < b->pages; p++)
		memcpy(s->raw[w] + p * PAGE_SIZE,
		       layout_page(s->l, s->first[i * STATE_BLOCK_PAGES + p]),
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
	count = (s->contents + STATE_BLOCK_PAGES - 1) / STATE_BLOCK_PAGES;
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
