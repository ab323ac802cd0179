/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parallel.h - one piece of work many times, on all processors.
 */
#pragma once

#include "base/types.h"

/* fn is called once for each i below count, in no order, on several threads;
 * what is not 0 stops the rest and is returned. worker is below
 * PARALLEL_MAX and belongs to one thread at a time. */
enum { PARALLEL_MAX = 8 };

typedef int parallel_fn(void *ctx, unsigned worker, u64 i);
int parallel_for(u64 count, parallel_fn *fn, void *ctx) MUST_CHECK;
/* On no more threads than that, this one among them. */
int parallel_some(unsigned threads, u64 count, parallel_fn *fn,
                  void *ctx) MUST_CHECK;
/* How many parallel_for() has. */
unsigned parallel_threads(void);
