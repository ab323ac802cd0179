/* SPDX-License-Identifier: Apache-2.0 */
/*
 * advice - from what a machine used to what it should have.
 *
 * vCPUs for the busiest five minutes with a third to spare; memory for the
 * most that was ever used with a quarter to spare. Little is not worth a
 * restart: advice differs from what is by at least a vCPU and a quarter of the
 * memory, or there is none.
 */
#include "daemon/watch/watch.h"

enum { POINTS_MIN = 288 }; /* a day of five minutes each */
#define MEMORY_STEP (64 * MIB)
#define MEMORY_MIN (128 * MIB)

struct sizing sizing_advice(const struct usage *u, unsigned cpus,
                            u64 memory_bytes)
{
	struct sizing s = { cpus, memory_bytes, "" };
	u64 cpu = (u->cpu_max * 4 / 3 + 999) / 1000, memory;

	if (u->points < POINTS_MIN) {
		s.words = "less than a day was seen";
		return s;
	}
	s.cpus = (unsigned)MAX((u64)1, MIN(cpu, (u64)WATCH_CPUS_MAX));
	memory = ALIGN_UP(u->used_max * 5 / 4, MEMORY_STEP);
	memory = MAX(memory, MEMORY_MIN);
	if (memory <= memory_bytes - memory_bytes / 4 ||
	    memory >= memory_bytes + memory_bytes / 4)
		s.memory_bytes = memory;
	if (s.cpus > cpus || s.memory_bytes > memory_bytes)
		s.words = "it uses nearly all that it has";
	else if (s.cpus < cpus || s.memory_bytes < memory_bytes)
		s.words = "it never used that much";
	return s;
}
