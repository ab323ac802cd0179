/* SPDX-License-Identifier: Apache-2.0 */
/*
 * support.h - what the storage tests share: scratch files, patterns.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/types.h"

/* A name for a scratch file in the current directory; freed by the caller. */
char *scratch_path(const char *suffix);
/* The same, made with size bytes (a hole). */
char *scratch_file(const char *suffix, u64 size);

/* Bytes that depend on where they are and on seed. */
void pattern_fill(void *buf, u64 offset, u64 length, u32 seed);
bool pattern_holds(const void *buf, u64 offset, u64 length, u32 seed);

/* xorshift; the state must not be 0. */
u32 random_next(u32 *state);
