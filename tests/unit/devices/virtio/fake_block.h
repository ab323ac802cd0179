/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_block.h - a block in memory whose requests complete on a thread of its
 * own, when the test lets them.
 */
#pragma once

#include "base/types.h"
#include "storage/block.h"

struct block *fake_block_create(u64 size, u32 sector);
void fake_block_destroy(struct block *b);
void fake_block_set_size(struct block *b, u64 size);
void fake_block_set_flags(struct block *b, bool readonly, bool discard);
/* While held, requests are taken and stay under way. */
void fake_block_hold(struct block *b, bool hold);
/* Requests that may be are over inside block_submit(). */
void fake_block_at_once(struct block *b, bool at_once);
/* Is there something to flush? Else there is when requests take their time. */
void fake_block_dirty(struct block *b, bool dirty);
/* Called while a request is done; NULL: nothing is. */
void fake_block_meanwhile(struct block *b, void (*fn)(void *ctx), void *ctx);
/* The next requests fail with this. */
void fake_block_fail(struct block *b, int code);
u8 *fake_block_data(struct block *b);
unsigned fake_block_submitted(struct block *b);
/* What the last one asked for. */
enum block_op fake_block_last_op(struct block *b);
unsigned fake_block_last_flags(struct block *b);
