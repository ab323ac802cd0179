/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_packed.h - packed memory in a saved machine's file
 * (docs/state-file.md): which page has which contents, and blocks of those.
 */
#pragma once

#include "base/types.h"

struct error;
struct state_file;

enum {
	STATE_PAGE_BYTES = 4096,
	STATE_BLOCK_PAGES = 64, /* contents in one, but for the last */
	STATE_BLOCK_BYTES = STATE_BLOCK_PAGES * STATE_PAGE_BYTES,
};

/* In section "blocks"; little-endian. */
struct state_block {
	u64 offset; /* in "packed" */
	u32 size;
	u32 pages; /* in it */
	u64 hash;  /* of the frame */
};

struct state_packed {
	int fd;        /* borrowed */
	u64 at, bytes; /* of "packed" in the file */
	u32 *map;      /* of each page 0, or 1 + the number of its contents */
	u64 pages;
	struct state_block *blocks;
	u64 count, contents;
};

/* Where a block is unpacked. Zeroed before its first use. */
struct state_room {
	u8 *raw, *frame;
	struct ZSTD_DCtx_s *zstd;
};

/* Reads and checks all but the blocks themselves. */
int state_packed_open(struct state_packed *p, const struct state_file *f,
                      struct error *err) MUST_CHECK;
void state_packed_close(struct state_packed *p); /* zeroed is legal */
/* A block's contents: from *first to below the result. */
u64 state_packed_range(const struct state_packed *p, u64 block, u64 *first);
/* To room, its sum checked: -EPROTO. Any thread. */
int state_packed_read(const struct state_packed *p, u64 block,
                      struct state_room *room) MUST_CHECK;
void state_room_fini(struct state_room *room);
/* Words for what state_packed_read() said. */
int state_packed_failed(int rc, struct error *err);

/* Which block has them, and where they are in the room that it was read to. */
static inline u64 state_block_of(u64 contents)
{
	return contents / STATE_BLOCK_PAGES;
}

static inline const u8 *state_contents(const struct state_room *room,
                                       u64 contents)
{
	return room->raw + contents % STATE_BLOCK_PAGES * STATE_PAGE_BYTES;
}
