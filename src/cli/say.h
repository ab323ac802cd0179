/* SPDX-License-Identifier: Apache-2.0 */
/*
 * say.h - failures on standard error, always in the same form:
 *
 *	error: what is wrong
 *	hint: what to do about it
 */
#pragma once

#include "base/types.h"

struct error;

/* "error: words", and "hint: hint" unless that is empty. */
void say_words(const char *words, const char *hint);
/* Prints err; returns the exit code that fits it: remote.h has them. */
int say_error(const struct error *err);
/* A usage error in one call; returns END_USAGE. */
int say_usage(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* 0: yes, as yes (--yes) says, or who sits at the terminal; without one there
 * is nobody to ask. Else END_FAILURE. */
int say_confirm(bool yes, const char *question, ...)
    PRINTF_LIKE(2, 3) MUST_CHECK;

/* The one of count words nearest to word when it is near enough to be a
 * misspelling, else NULL. stride is the distance between the pointers. */
const char *nearest(const char *word, const char *const *first, size_t count,
                    size_t stride);
