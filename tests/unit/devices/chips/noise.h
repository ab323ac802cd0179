/* SPDX-License-Identifier: Apache-2.0 */
/*
 * noise.h - bytes become accesses to every register of every chip. The unit
 * suite feeds it a few random streams, fuzz/devices_fuzz.c the fuzzer's.
 */
#pragma once

#include "board.h"

void noise_run(struct board *b, const u8 *bytes, size_t size);
