/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter.h - the system calls that are left to atoll-helper (make_filter.c).
 *
 * There is no Landlock beside it: who has that may not look at /proc of a
 * process outside of it, and looking there is what the helper does.
 */
#pragma once

#include "base/filter.h"

/* What the worker has, and to start one. */
extern const struct filter keeper_filter;
/* Within the keeper's. */
extern const struct filter worker_filter;
