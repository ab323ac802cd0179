/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack.h - the compressed kernel inside a Linux bzImage.
 */
#pragma once

#include "base/types.h"

struct error;

/* By its first bytes: "gzip", "lz4", ... or NULL if unknown. */
const char *unpack_format(const u8 *data, u64 size);

/*
 * Unpack size bytes at data, whose last four say how long the result is, as
 * Linux's build leaves it. At most limit bytes; *out is freed by the caller.
 */
int unpack(const u8 *data, u64 size, u64 limit, const char *path, u8 **out,
           u64 *out_size, struct error *err) MUST_CHECK;
