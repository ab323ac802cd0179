/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.h - threads that work in the background.
 */
#pragma once

#include <pthread.h>

#include "base/types.h"

/*
 * fn(ctx) on a thread that takes no signal: those are for threads that expect
 * them. stack_bytes 0: the system's usual size. 0 or -errno; the caller joins.
 */
int thread_start(pthread_t *out, size_t stack_bytes, void *(*fn)(void *),
                 void *ctx) MUST_CHECK;

/* What this thread has had of processors: a system call. */
u64 thread_cpu_ns(void);
