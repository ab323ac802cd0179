/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"

char *scratch_path(const char *suffix)
{
	char *path = xasprintf("storage-test-XXXXXX%s", suffix);
	int fd = mkstemps(path, (int)strlen(suffix));

	assert_true(fd >= 0);
	close(fd);
	return path;
}

char *scratch_file(const char *suffix, u64 size)
{
	char *path = scratch_path(suffix);

	assert_int_equal(truncate(path, (off_t)size), 0);
	return path;
}

/* Eight bytes, none of them zero. */
static u64 pattern_word(u64 at, u32 seed)
{
	u64 x = (at / 8 + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;

	return x | 0x0101010101010101u;
}

void pattern_fill(void *buf, u64 offset, u64 length, u32 seed)
{
	u8 *p = buf;

	for (u64 i = 0; i < length;) {
		u64 word = pattern_word(offset + i, seed);
		u64 skip = (offset + i) % 8, n = MIN(8 - skip, length - i);

		memcpy(p + i, (const u8 *)&word + skip, n);
		i += n;
	}
}

bool pattern_holds(const void *buf, u64 offset, u64 length, u32 seed)
{
	const u8 *p = buf;

	for (u64 i = 0; i < length;) {
		u64 word = pattern_word(offset + i, seed);
		u64 skip = (offset + i) % 8, n = MIN(8 - skip, length - i);

		if (memcmp(p + i, (const u8 *)&word + skip, n) != 0)
			return false;
		i += n;
	}
	return true;
}

u32 random_next(u32 *state)
{
	u32 x = *state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *state = x;
}
