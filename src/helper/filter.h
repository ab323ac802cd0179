/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter.h - the system calls that are left to atoll-helper.
 *
 * There is no Landlock beside it: who has that may not look at /proc of a
 * process outside of it, and looking there is what the helper does.
 */
#pragma once

#include "base/types.h"

struct error;

enum filter {
	FILTER_KEEPER, /* what the worker has, and to start one */
	FILTER_WORKER, /* within the keeper's */
};

/* 0, or -errno with words: then nothing may be done for anybody. */
int filter_enter(enum filter filter, struct error *err) MUST_CHECK;
