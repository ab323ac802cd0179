/* SPDX-License-Identifier: Apache-2.0 */
/*
 * partial.h - files that are being made: a part of one looks like the whole, so
 * it gets its name, or takes the place of the file that has it, when it is one.
 *
 * Until then it has no name at all where the file system knows such files, and
 * goes whatever ends us. Elsewhere it lies in the same folder by a name that
 * only such files have, locked as long as somebody makes it: a signal that ends
 * us removes it; what a kill left goes when the next one is made in that
 * folder.
 */
#pragma once

#include "base/types.h"

struct block;
struct error;

struct partial {
	char *path; /* what it becomes */
	char *by;   /* by which we and our children open it meanwhile */
	char *name; /* in the folder, while it has one; else NULL */
	int folder, fd;
	bool replace, is_folder;
	struct block *old; /* what it replaces, which nobody else uses */
};

enum {
	PARTIAL_REPLACE = 1 << 0, /* a file that is there; a device is written
	                           * itself, in place */
	PARTIAL_BESIDE = 1 << 1,  /* by lies in the folder of path: for what
	                           * finds  other files from there */
	PARTIAL_ALIKE = 1 << 2, /* by ends as path does, for what writes its own
	                         * name into it; it is not there yet */
};

/* -EEXIST if path is there and is not to be replaced, -EBUSY if it is in use;
 * then nothing has been made, and it is legal to discard it. */
int partial_begin(struct partial *p, const char *path, unsigned flags,
                  struct error *err) MUST_CHECK;
/* It is whole. */
int partial_end(struct partial *p, struct error *err) MUST_CHECK;
/* It is not; after partial_end(), or when it was never begun (all zero), too.
 */
void partial_discard(struct partial *p);
