/* SPDX-License-Identifier: Apache-2.0 */
/* What the translation of addresses costs. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

static uint64_t hash(void)
{
	enum { BYTES = 4 << 20, N = BYTES / 8 };
	uint64_t *table = calloc(N, 8), seed = 12345, sum = 0;

	for (int i = 0; i < 60000000; i++) {
		uint64_t r = next_random(&seed);

		sum += table[r % N] += r >> 40;
	}
	free(table);
	return sum;
}

static uint64_t chase(void)
{
	enum { BYTES = 64 << 20, LINE = 64, N = BYTES / LINE };
	uint8_t *pool = malloc(BYTES);
	uint32_t *order = malloc(N * sizeof(*order)), at = 0;
	uint64_t seed = 777, sum = 0;

	for (uint32_t i = 0; i < N; i++)
		order[i] = i;
	for (uint32_t i = N - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(next_random(&seed) % (i + 1));
		uint32_t t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < N; i++)
		memcpy(pool + (size_t)order[i] * LINE, &order[(i + 1) % N], 4);
	for (int i = 0; i < 8000000; i++) {
		memcpy(&at, pool + (size_t)at * LINE, 4);
		sum += at;
	}
	free(pool);
	free(order);
	return sum;
}

static uint64_t copy(void)
{
	enum { BYTES = 8 << 20 };
	uint8_t *a = malloc(BYTES), *b = malloc(BYTES);

	memset(a, 3, BYTES);
	for (int i = 0; i < 700; i++) {
		a[i] = (uint8_t)i;
		memcpy(b, a, BYTES);
	}
	uint64_t sum = b[100] + b[BYTES - 1];

	free(a);
	free(b);
	return sum;
}

static uint64_t touch(void)
{
	enum { BYTES = 32 << 20 };
	uint8_t *p = malloc(BYTES);
	uint64_t sum = 0;

	memset(p, 1, BYTES);
	for (int round = 0; round < 4000; round++)
		for (size_t i = (size_t)round * 64 % 4096; i < BYTES; i += 4096)
			sum += p[i]++;
	free(p);
	return sum;
}

const struct bench benches_memory[] = {
	{ "hash-4m", "memory", hash },
	{ "chase-64m", "memory", chase },
	{ "memcpy", "memory", copy },
	{ "page-touch", "memory", touch },
	{ 0 },
};
