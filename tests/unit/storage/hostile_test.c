/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that lie: valid ones with bytes changed here and there, through the
 * same work as the fuzzer does. Nothing to assert but that it ends; the
 * sanitizers see the rest. And files named on the command line, through it.
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned rounds = 120;

enum { ROOM = 400 * 1024 };

static size_t read_file(const char *path, u8 *data)
{
	FILE *f = fopen(path, "rb");
	size_t n;

	assert_non_null(f);
	n = fread(data, 1, ROOM, f);
	fclose(f);
	return n;
}

/* An image with something of everything, in clusters of 512 bytes. */
static void furnish(const char *path, bool compressed)
{
	struct block_open how = { .path = path, .fd = -1, .format = "qcow2" };
	u8 *data = xalloc(64 * KIB);
	struct error err;
	struct block *b;
	struct block_info info;

	assert_int_equal(block_open(&b, &how, &err), 0);
	block_info(b, &info);
	pattern_fill(data, 0, 32 * KIB, 1);
	assert_int_equal(block_sync(b, BLOCK_WRITE, 0, data, 64 * KIB), 0);
	assert_int_equal(image_snapshot_create(b, "one", &err), 0);
	assert_int_equal(image_bitmap_create(b, "two", 0, &err), 0);
	assert_int_equal(block_sync(b, BLOCK_WRITE, 4096, data, 4096), 0);
	assert_int_equal(
	    block_sync(b, BLOCK_WRITE_ZEROES, 0, NULL, info.cluster), 0);
	if (compressed) {
		u8 *zero = xalloc(info.cluster);

		memset(zero, 7, info.cluster);
		assert_int_equal(
		    image_write_compressed(b, ALIGN_UP(128 * KIB, info.cluster),
		                           zero, &err),
		    0);
		free(zero);
	}
	block_close(b);
	free(data);
}

static void test_hostile(void **state)
{
	const struct image_create *how = *state;
	struct image_create make = *how;
	char *path = scratch_path(".qcow2");
	u8 *good = xalloc(ROOM), *bad = xalloc(ROOM);
	struct error err;
	u32 random = 12345;
	size_t size;

	make.path = path;
	make.replace = true;
	assert_int_equal(image_create(&make, &err), 0);
	furnish(path, true);
	size = read_file(path, good);
	for (unsigned i = 0; i < rounds; i++) {
		memcpy(bad, good, size);
		for (u32 k = random_next(&random) % 6 + 1; k > 0; k--) {
			/* The header more often than the rest; sometimes a
			 * whole entry from elsewhere. */
			size_t at = random_next(&random) %
			            (random_next(&random) % 2 ? 112 : size - 8);

			if (random_next(&random) % 3)
				bad[at] ^= 1u << random_next(&random) % 8;
			else
				memcpy(bad + ALIGN_DOWN(at, 8),
				       good + ALIGN_DOWN(random_next(&random) %
				                             (size - 8),
				                         8),
				       8);
		}
		bad[size] = (u8)random_next(&random);
		LLVMFuzzerTestOneInput(bad, size + 1);
	}
	/* Cut short anywhere. */
	for (unsigned i = 0; i < rounds / 4; i++) {
		size_t n = random_next(&random) % size;

		memcpy(bad, good, n);
		bad[n] = (u8)random_next(&random);
		LLVMFuzzerTestOneInput(bad, n + 1);
	}
	unlink(path);
	free(path);
	free(good);
	free(bad);
}

static int replay(int argc, char **argv)
{
	u8 *data = xalloc(ROOM);

	for (int i = 1; i < argc; i++)
		LLVMFuzzerTestOneInput(data, read_file(argv[i], data));
	free(data);
	return 0;
}

int main(int argc, char **argv)
{
	static struct image_create shapes[] = {
		{ .size = 200 * KIB, .cluster_bytes = 512 },
		{ .size = 2 * MIB,
		  .cluster_bytes = 4096,
		  .compression = "zstd",
		  .refcount_bits = 2,
		  .lazy_refcounts = true },
		{ .size = MIB, .cluster_bytes = 16384, .extended_l2 = true },
	};
	const struct CMUnitTest tests[] = {
		{ "hostile 512", test_hostile, NULL, NULL, &shapes[0] },
		{ "hostile zstd", test_hostile, NULL, NULL, &shapes[1] },
		{ "hostile extended", test_hostile, NULL, NULL, &shapes[2] },
	};

	if (argc == 3 && strcmp(argv[1], "--rounds") == 0)
		rounds = (unsigned)atoi(argv[2]);
	else if (argc > 1)
		return replay(argc, argv);
	return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
