/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter_make.h - for programs that run when Atoll is built: from the rules of
 * a filter to a source file that defines it.
 */
#pragma once

#include <seccomp.h>

#include "base/types.h"

/* other: what happens at calls that no rule names. NULL: no memory. */
scmp_filter_ctx filter_begin(unsigned other);
/* The same action for each of these calls: 0, or why it was refused. */
int filter_add_all(scmp_filter_ctx ctx, u32 action, const int *calls,
                   size_t count) MUST_CHECK;
/*
 * Prints "const struct filter NAME" and ends ctx. rc: how adding the rules
 * went. Signals to the process itself, as of abort(), are allowed on top. What
 * the program is to return.
 */
int filter_print(scmp_filter_ctx ctx, int rc, const char *name);
