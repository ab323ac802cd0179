/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iov.h - parts of scattered memory.
 *
 * All take a position in bytes from the start of the vector. The caller sees
 * that the range lies inside.
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

/* The entries of [from, from + length) into out, which has room for count
 * entries. Returns how many. */
int iov_slice(struct iovec *out, const struct iovec *iov, int count, u64 from,
              u64 length);
void iov_copy_in(const struct iovec *iov, int count, u64 from, const void *data,
                 u64 length);
void iov_copy_out(const struct iovec *iov, int count, u64 from, void *data,
                  u64 length);
void iov_zero(const struct iovec *iov, int count, u64 from, u64 length);
