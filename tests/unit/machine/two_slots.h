/* SPDX-License-Identifier: Apache-2.0 */
/*
 * two_slots.h - memory for tests of what becomes of it: 16 MiB from 0 on, 2 MiB
 * from 4 GiB on.
 */
#pragma once

#include "base/error.h"
#include "guest/memory.h"

static inline struct memory *make_memory(void)
{
	struct memory *mem;
	struct error err;

	assert_int_equal(memory_create(&mem, &err), 0);
	assert_int_equal(memory_add(mem, 0, 16 * MIB, MEMORY_RAM, "low", &err),
	                 0);
	assert_int_equal(
	    memory_add(mem, 4 * GIB, 2 * MIB, MEMORY_RAM, "high", &err), 0);
	return mem;
}
