/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter_make.h - for programs that run when Atoll is built: from the rules of
 * a filter to a source file that defines it.
 */
#pragma once

#include <seccomp.h>

/* other: what happens at calls that no rule names. NULL: no memory. */
scmp_filter_ctx filter_begin(unsigned other);
/*
 * Prints "const struct filter NAME" and ends ctx. rc: how adding the rules
 * went. Exactly one of them compares with FILTER_OWN_PID. What the program is
 * to return.
 */
int filter_print(scmp_filter_ctx ctx, int rc, const char *name);
