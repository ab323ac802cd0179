/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/state_packed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>
#include <zstd.h>

#include "base/error.h"
#include "storage/state_file.h"

#define MAP_MAX ((size_t)1 << 34) /* bytes: 16 TiB of memory */

static int read_map(struct state_packed *p, const struct state_file *f,
                    struct error *err)
{
	const struct state_section *packed = state_file_find(f, "packed");
	u8 *map = NULL, *blocks = NULL;
	size_t map_size = 0, blocks_size = 0;
	int rc = state_file_read(f, "map", MAP_MAX, &map, &map_size, err);

	if (rc == 0)
		rc = state_file_read(f, "blocks", MAP_MAX, &blocks,
		                     &blocks_size, err);
	p->map = (u32 *)(void *)map;
	p->pages = map_size / sizeof(*p->map);
	p->blocks = (struct state_block *)(void *)blocks;
	p->count = blocks_size / sizeof(*p->blocks);
	if (rc < 0)
		return rc;
	if (!packed || map_size % sizeof(*p->map) ||
	    blocks_size % sizeof(*p->blocks))
		return state_packed_failed(-EPROTO, err);
	p->at = packed->offset;
	p->bytes = packed->size;
	return 0;
}

/* Each is within its section, and full but for the last. */
static int check_blocks(struct state_packed *p)
{
	size_t bound = ZSTD_compressBound(STATE_BLOCK_BYTES);

	for (u64 i = 0; i < p->count; i++) {
		const struct state_block *b = &p->blocks[i];

		if (b->size > bound || b->offset > p->bytes ||
		    b->size > p->bytes - b->offset || !b->pages ||
		    b->pages > STATE_BLOCK_PAGES ||
		    (i + 1 < p->count && b->pages != STATE_BLOCK_PAGES))
			return -EPROTO;
		p->contents += b->pages;
	}
	return 0;
}

static int check_map(const struct state_packed *p)
{
	for (u64 i = 0; i < p->pages; i++)
		if (p->map[i] > p->contents)
			return -EPROTO;
	return 0;
}

int state_packed_open(struct state_packed *p, const struct state_file *f,
                      struct error *err)
{
	int rc;

	*p = (struct state_packed){ .fd = f->fd };
	rc = read_map(p, f, err);
	if (rc < 0)
		return rc;
	rc = check_blocks(p);
	if (rc == 0)
		rc = check_map(p);
	return rc < 0 ? state_packed_failed(rc, err) : 0;
}

void state_packed_close(struct state_packed *p)
{
	free(p->map);
	free(p->blocks);
	*p = (struct state_packed){ 0 };
}

u64 state_packed_range(const struct state_packed *p, u64 block, u64 *first)
{
	*first = block * STATE_BLOCK_PAGES;
	return *first + p->blocks[block].pages;
}

int state_packed_read(const struct state_packed *p, u64 block,
                      struct state_room *room)
{
	const struct state_block *b = &p->blocks[block];
	size_t size;
	int rc;

	if (!room->raw)
		room->raw = malloc(STATE_BLOCK_BYTES);
	if (!room->frame)
		room->frame = malloc(ZSTD_compressBound(STATE_BLOCK_BYTES));
	if (!room->zstd)
		room->zstd = ZSTD_createDCtx();
	if (!room->raw || !room->frame || !room->zstd)
		return -ENOMEM;
	rc = state_file_pread(p->fd, room->frame, b->size, p->at + b->offset);
	if (rc < 0)
		return rc;
	if (XXH64(room->frame, b->size, 0) != b->hash)
		return -EPROTO;
	size = ZSTD_decompressDCtx(room->zstd, room->raw, STATE_BLOCK_BYTES,
	                           room->frame, b->size);
	return ZSTD_isError(size) || size != (size_t)b->pages * STATE_PAGE_BYTES
	           ? -EPROTO
	           : 0;
}

void state_room_fini(struct state_room *room)
{
	free(room->raw);
	free(room->frame);
	ZSTD_freeDCtx(room->zstd);
	*room = (struct state_room){ 0 };
}

int state_packed_failed(int rc, struct error *err)
{
	if (rc != -EPROTO)
		return error_set(err, rc, "cannot read the saved machine: %s",
		                 strerror(-rc));
	error_set(err, rc,
	          "the saved machine is damaged: a part of its memory has "
	          "another sum");
	return error_hint(err, "the file was altered or cut short after it "
	                       "was written; it can't be used");
}
