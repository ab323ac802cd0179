/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.h - a failure in words, for the person who will read it.
 *
 * Functions that can fail return 0 or -errno and, where a person reads the
 * outcome, fill a struct error given last. It lives on the caller's stack and
 * allocates nothing. A NULL err is legal everywhere: the words are dropped.
 */
#pragma once

#include "base/types.h"

struct error {
	int code;       /* -errno */
	char text[512]; /* what failed, where, and why: no newline at the end */
	char hint[256]; /* what to do about it; may be empty */
};

/* Returns code, so that a failure is reported and returned in one line. */
int error_set(struct error *err, int code, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* Say what the person can do. Returns err->code. */
int error_hint(struct error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Put the words and ": " before the text, for the caller's context. Returns the
 * code. */
int error_prefix(struct error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Of words that came without a number: the code if they say that there is no
 * room (-ENOSPC, -EDQUOT, -EFBIG), else 0. */
int error_no_room(const char *words);
