/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h - a benchmark: work that can be checked, sized for about a second
 * of native time.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct bench {
	const char *name;
	const char *group;     /* integer, vector, memory, kernel, smp */
	uint64_t (*run)(void); /* a checksum, the same on every machine */
};

extern const struct bench benches_integer[], benches_vector[], benches_memory[],
    benches_kernel[], benches_smp[];

/* One copy of the work that is like CoreMark's. */
uint64_t core_mix(void);

static inline uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}
