/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.h - copies of files that may be large and mostly holes.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

/*
 * All of `from`, size bytes, becomes the contents of `to`, an empty file.
 * Shares blocks where the file system can; else copies what is data, between
 * file systems too. Moves the offsets of both. 0 or -errno.
 */
int copy_sparse(int from, int to, off_t size) MUST_CHECK;

/* The same by shared blocks alone (reflinks). -EOPNOTSUPP, -EXDEV, -EINVAL,
 * -ENOTTY: the file system can't, or they lie on two. */
int copy_share(int from, int to) MUST_CHECK;
/* Whether that can be; `to` is empty afterwards. */
bool copy_can_share(int from, int to);

/* Of the size, so much is done, holes and what is shared included. */
typedef void copy_step_fn(void *ctx, u64 done);
int copy_sparse_told(int from, int to, off_t size, copy_step_fn *step,
                     void *ctx) MUST_CHECK;
