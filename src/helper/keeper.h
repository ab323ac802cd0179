/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.h - a process that starts another one again when it dies.
 */
#pragma once

#include "base/types.h"

/*
 * work() in a child, again and again until it returns 0: at once the first
 * time, later ever more slowly, so that what dies at its start costs next to
 * nothing. The child does not outlive us. 0 or -errno.
 */
int keeper_run(int (*work)(void *ctx), void *ctx) MUST_CHECK;

/* How long to wait after a run of that length; waited: before that run. */
u64 keeper_wait_ms(u64 ran_ms, u64 waited_ms);
