/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack.h - packed memory by its contents: where each of them goes.
 */
#pragma once

#include "storage/state_packed.h"

struct unpack {
	struct state_packed file;
	u32 *start, *page; /* contents c is in page[start[c]..start[c + 1]] */
};

/* pages: how many there must be; 0: any. */
int unpack_open(struct unpack *u, const struct state_file *f, u64 pages,
                struct error *err) MUST_CHECK;
void unpack_close(struct unpack *u); /* zeroed is legal */
