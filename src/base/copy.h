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
