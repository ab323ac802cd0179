/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_pages.h - the memory in a saved machine's file, whichever form it has
 * there (docs/state-file.md): what each page holds, as a sum.
 */
#pragma once

#include "base/types.h"

struct error;
struct state_file;

struct state_pages {
	u64 *sum; /* XXH64 of each page; 0: all zeroes */
	u64 count;
};

/* -EPROTO with words: damaged. -ENOTSUP: a fork's, which is elsewhere. */
int state_pages_read(struct state_pages *p, const struct state_file *f,
                     struct error *err) MUST_CHECK;
void state_pages_fini(struct state_pages *p); /* zeroed is legal */
