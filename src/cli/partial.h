/* SPDX-License-Identifier: Apache-2.0 */
/*
 * partial.h - files that are being made: a part of one looks like the whole,
 * so it goes when its making fails, or a signal ends the command.
 */
#pragma once

#include "base/types.h"

/* Before path is made: nothing is ever removed that was there before. */
void partial_begin(const char *path);
/* When a file that may have been there has lost what it held. */
void partial_replaced(const char *path);
/* They are whole. */
void partial_end(void);
/* They are not. */
void partial_discard(void);
