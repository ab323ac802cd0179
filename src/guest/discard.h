/* SPDX-License-Identifier: Apache-2.0 */
/*
 * discard.h - guest memory that its guest does not need: given to the host.
 */
#pragma once

#include "guest/memory.h"

/*
 * Drop the whole pages of RAM inside [gpa, gpa + len): they read as zeroes
 * afterwards, or as what a saved machine's file holds where memory was mapped
 * from one. Code caches and the dirty log learn of it. Bytes dropped; what is
 * in no slot of RAM is left alone. Any thread.
 */
u64 memory_discard(struct memory *mem, gpa_t gpa, u64 len);
