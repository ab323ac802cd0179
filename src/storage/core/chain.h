/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain.h - the images below an image, taken apart and put together.
 *
 * For use while no request is under way in any of them.
 */
#pragma once

#include "storage/core/driver.h"

/* The backing image; borrowed. NULL: none, or a format without. */
struct block *chain_backing(struct block *b);
/* 1 or 0: whether its contents are in a file besides. */
unsigned chain_has_data_file(struct block *b);
/* Put another one (or NULL) below b, taken over; the old one is returned, and
 * now the caller's. b must be of a format that has backing images. */
struct block *chain_swap_backing(struct block *b, struct block *backing);
/* Everything is stored; from now on read-only and locked as such. */
int chain_freeze(struct block *b, struct error *err);
/* Drop the lock of a frozen image, or take it again. */
int chain_unlock(struct block *b);
int chain_lock_shared(struct block *b);
