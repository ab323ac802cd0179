/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/state_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <xxhash.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/state_file.h"

enum {
	PAGE_BYTES = 4096,
	BLOCK_PAGES = 64, /* contents in a packed block; also how many of plain
	                   * memory are read at once */
	BLOCK_BYTES = BLOCK_PAGES * PAGE_BYTES,
};
#define MAP_MAX ((size_t)1 << 34)

static const u8 zeroes[PAGE_BYTES];

static u64 sum_of(const u8 *page)
{
	u64 sum;

	if (!memcmp(page, zeroes, PAGE_BYTES))
		return 0;
	sum = XXH64(page, PAGE_BYTES, 0);
	return sum ? sum : 1;
}

static int damaged(struct error *err)
{
	return error_set(err, -EPROTO,
	                 "the saved machine is damaged: a part of its memory "
	                 "is not as it was written");
}

/* ---- plain ---- */

/* The next page that is no hole, or the end. */
static u64 skip_hole(const struct state_file *f, u64 base, u64 page, u64 pages)
{
	off_t at = lseek(f->fd, (off_t)(base + page * PAGE_BYTES), SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? pages : page;
	return MAX(page, MIN(((u64)at - base) / PAGE_BYTES, pages));
}

static int read_plain(struct state_pages *p, const struct state_file *f,
                      const struct state_section *s, struct error *err)
{
	u8 *buf = try_alloc(BLOCK_BYTES, 1);
	int rc = buf ? 0 : -ENOMEM;

	p->count = s->size / PAGE_BYTES;
	p->sum = try_alloc(MAX(p->count, (u64)1), sizeof(*p->sum));
	if (!p->sum)
		rc = -ENOMEM;
	for (u64 page = 0; rc == 0 && page < p->count;) {
		u64 n;

		page = skip_hole(f, s->offset, page, p->count);
		n = MIN((u64)BLOCK_PAGES, p->count - page);
		rc = state_file_pread(f->fd, buf, n * PAGE_BYTES,
		                      s->offset + page * PAGE_BYTES);
		for (u64 i = 0; rc == 0 && i < n; i++)
			p->sum[page + i] = sum_of(buf + i * PAGE_BYTES);
		page += n;
	}
	free(buf);
	if (rc < 0)
		return error_set(err, rc, "cannot read the saved memory: %s",
		                 strerror(-rc));
	return 0;
}

/* ---- packed ---- */

struct entry {
	u64 offset;
	u32 size, pages;
	u64 hash;
};

struct packed {
	const struct state_file *f;
	const struct state_section *frames;
	const struct entry *blocks;
	size_t block_count;
	u64 *sum; /* of each contents */
	u64 contents;
	u8 *raw, *frame;
};

static int sum_block(struct packed *k, size_t i, struct error *err)
{
	const struct entry *b = &k->blocks[i];
	size_t size;
	int rc;

	if (b->size > ZSTD_compressBound(BLOCK_BYTES) ||
	    b->offset > k->frames->size ||
	    b->size > k->frames->size - b->offset || !b->pages ||
	    b->pages > BLOCK_PAGES ||
	    (i + 1 < k->block_count && b->pages != BLOCK_PAGES))
		return damaged(err);
	rc = state_file_pread(k->f->fd, k->frame, b->size,
	                      k->frames->offset + b->offset);
	if (rc < 0)
		return error_set(err, rc, "cannot read the saved memory: %s",
		                 strerror(-rc));
	if (XXH64(k->frame, b->size, 0) != b->hash)
		return damaged(err);
	size = ZSTD_decompress(k->raw, BLOCK_BYTES, k->frame, b->size);
	if (ZSTD_isError(size) || size != (size_t)b->pages * PAGE_BYTES)
		return damaged(err);
	for (u32 p = 0; p < b->pages; p++)
		k->sum[i * BLOCK_PAGES + p] = sum_of(k->raw + p * PAGE_BYTES);
	k->contents = i * BLOCK_PAGES + b->pages;
	return 0;
}

static int sum_blocks(struct packed *k, struct error *err)
{
	int rc = 0;

	k->raw = malloc(BLOCK_BYTES);
	k->frame = malloc(ZSTD_compressBound(BLOCK_BYTES));
	k->sum = try_alloc((k->block_count + 1) * BLOCK_PAGES, sizeof(*k->sum));
	if (!k->raw || !k->frame || !k->sum)
		rc = error_set(err, -ENOMEM, "no memory to read a snapshot");
	for (size_t i = 0; rc == 0 && i < k->block_count; i++)
		rc = sum_block(k, i, err);
	free(k->raw);
	free(k->frame);
	return rc;
}

static int read_packed(struct state_pages *p, const struct state_file *f,
                       struct error *err)
{
	struct packed k = { .f = f, .frames = state_file_find(f, "packed") };
	u8 *map = NULL, *blocks = NULL;
	size_t map_size = 0, blocks_size = 0;
	int rc = state_file_read(f, "map", MAP_MAX, &map, &map_size, err);

	if (rc == 0)
		rc = state_file_read(f, "blocks", MAP_MAX, &blocks,
		                     &blocks_size, err);
	if (rc == 0 && (!k.frames || map_size % sizeof(u32) ||
	                blocks_size % sizeof(struct entry)))
		rc = damaged(err);
	if (rc == 0) {
		k.blocks = (const struct entry *)(void *)blocks;
		k.block_count = blocks_size / sizeof(struct entry);
		rc = sum_blocks(&k, err);
	}
	p->count = map_size / sizeof(u32);
	p->sum = try_alloc(MAX(p->count, (u64)1), sizeof(*p->sum));
	if (rc == 0 && !p->sum)
		rc = error_set(err, -ENOMEM, "no memory to read a snapshot");
	for (u64 i = 0; rc == 0 && i < p->count; i++) {
		u32 contents = ((const u32 *)(void *)map)[i];

		if (contents > k.contents)
			rc = damaged(err);
		else if (contents)
			p->sum[i] = k.sum[contents - 1];
	}
	free(k.sum);
	free(map);
	free(blocks);
	return rc;
}

int state_pages_read(struct state_pages *p, const struct state_file *f,
                     struct error *err)
{
	const struct state_section *plain = state_file_find(f, "plain");
	int rc;

	*p = (struct state_pages){ 0 };
	if (state_file_find(f, "layers"))
		return error_set(err, -ENOTSUP,
		                 "the memory of a fork is in other files");
	rc = plain ? read_plain(p, f, plain, err) : read_packed(p, f, err);
	if (rc < 0)
		state_pages_fini(p);
	return rc;
}

void state_pages_fini(struct state_pages *p)
{
	free(p->sum);
	*p = (struct state_pages){ 0 };
}
