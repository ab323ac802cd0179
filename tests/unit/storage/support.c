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

static u8 pattern_byte(u64 at, u32 seed)
{
	u64 x = (at / 8 + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;

	return (u8)(x >> (at % 8 * 8)) | 1; /* never zero */
}

void pattern_fill(void *buf, u64 offset, u64 length, u32 seed)
{
	for (u64 i = 0; i < length; i++)
		((u8 *)buf)[i] = pattern_byte(offset + i, seed);
}

bool pattern_holds(const void *buf, u64 offset, u64 length, u32 seed)
{
	for (u64 i = 0; i < length; i++)
		if (((const u8 *)buf)[i] != pattern_byte(offset + i, seed))
			return false;
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
