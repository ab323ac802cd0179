/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc.h - memory, by who chose the size.
 *
 * x*: small objects whose size we chose; running out ends the process.
 * try_*: any size that came from outside; NULL when it can't be had.
 * All memory is zeroed and is given back with free(). Of an object that is
 * large only what is touched takes memory of the host.
 */
#pragma once

#include "base/types.h"

void *xalloc(size_t size) MUST_CHECK;
void *xrealloc(void *old, size_t size) MUST_CHECK; /* new part not zeroed */
char *xstrdup(const char *s) MUST_CHECK;
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2) MUST_CHECK;
void *try_alloc(size_t count, size_t size) MUST_CHECK;

/* These bytes of private memory become zeroes; whole pages among them take no
 * memory until they are touched. */
void alloc_clear(void *p, size_t size);
