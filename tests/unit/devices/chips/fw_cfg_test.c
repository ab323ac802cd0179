/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "board.h"
#include "devices/chips/fw_cfg.h"

enum { SELECT = 0x510, DATA = 0x511, DMA = 0x514 };
enum { ERROR = 1, READ = 2, SKIP = 4, DO_SELECT = 8, WRITE = 16 };
enum { BLOCK = 0x1000, BUFFER = 0x2000 };

static struct board b;
static struct fw_cfg *fw;
static unsigned written;
static u8 written_first;

static int setup(void **state)
{
	(void)state;
	board_init(&b);
	fw = board_add(&b, fw_cfg_create(&b.host));
	written = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&b);
	return 0;
}

static void on_written(void *ctx, const u8 *data, size_t size)
{
	(void)ctx;
	(void)size;
	written++;
	written_first = data[0];
}

static u32 read_be32(void)
{
	u32 value = 0;

	for (int i = 0; i < 4; i++)
		value = value << 8 | in8(&b, DATA);
	return value;
}

/* The key of a file, by the directory; 0: no such file. */
static u16 find(const char *name, u32 *size)
{
	char text[56];
	u32 count;

	out16(&b, SELECT, FW_CFG_FILE_DIR);
	count = read_be32();
	while (count-- > 0) {
		u32 select;

		*size = read_be32();
		select = read_be32();
		for (size_t i = 0; i < sizeof(text); i++)
			text[i] = (char)in8(&b, DATA);
		if (strcmp(text, name) == 0)
			return (u16)(select >> 16);
	}
	return 0;
}

/* Returns the control word afterwards. */
static u32 dma(u32 control, u32 length, u64 address)
{
	struct {
		u32 control, length;
		u64 address;
	} block = { htobe32(control), htobe32(length), htobe64(address) };

	assert_true(memory_write(b.host.memory, BLOCK, &block, sizeof(block)));
	out32(&b, DMA, 0);
	out32(&b, DMA + 4, htobe32(BLOCK));
	assert_true(memory_read(b.host.memory, BLOCK, &block, sizeof(block)));
	return be32toh(block.control);
}

static void check_memory(gpa_t gpa, const void *expect, size_t n)
{
	u8 got[256];

	assert_true(memory_read(b.host.memory, gpa, got, n));
	assert_memory_equal(got, expect, n);
}

static void test_identity(void **state)
{
	(void)state;
	out16(&b, SELECT, FW_CFG_SIGNATURE);
	assert_int_equal(read_be32(), 0x51454d55); /* QEMU */
	assert_int_equal(in8(&b, DATA), 0);        /* beyond the end */
	out16(&b, SELECT, FW_CFG_ID);
	assert_int_equal(in8(&b, DATA), 3);
	assert_int_equal(in32(&b, DMA), be32toh(0x51454d55));
	assert_int_equal(in32(&b, DMA + 4), be32toh(0x20434647));
	out16(&b, SELECT, 0x7777); /* no such key */
	assert_int_equal(in8(&b, DATA), 0);
}

static void test_keys(void **state)
{
	(void)state;
	fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, 4);
	fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, 5); /* replaced */
	fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, 0x123456789);
	fw_cfg_add_u32(fw, FW_CFG_IRQ0_OVERRIDE, 1);
	out16(&b, SELECT, FW_CFG_NB_CPUS);
	assert_int_equal(in8(&b, DATA), 5);
	assert_int_equal(in8(&b, DATA), 0);
	out16(&b, SELECT, FW_CFG_RAM_SIZE);
	assert_int_equal(read_be32(), 0x89674523);
	out16(&b, SELECT, FW_CFG_IRQ0_OVERRIDE);
	assert_int_equal(in8(&b, DATA), 1);
}

static void test_files(void **state)
{
	u32 size;
	u16 key;

	(void)state;
	assert_int_equal(fw_cfg_add_file(fw, "etc/b", "bbb", 3), 0);
	assert_int_equal(fw_cfg_add_file(fw, "etc/a", "aaaa", 4), 0);
	assert_int_equal(fw_cfg_add_file_borrowed(fw, "etc/c", "c", 1), 0);
	assert_int_equal(fw_cfg_add_file(fw, "etc/a", "", 0), -EEXIST);
	assert_int_equal(
	    fw_cfg_add_file(fw,
	                    "0123456789012345678901234567890123456789"
	                    "0123456789012345",
	                    "", 0),
	    -ENAMETOOLONG);
	key = find("etc/a", &size);
	assert_int_equal(key, 0x20);
	assert_int_equal(size, 4);
	out16(&b, SELECT, key);
	assert_int_equal(read_be32(), 0x61616161);
	key = find("etc/c", &size);
	out16(&b, SELECT, key);
	assert_int_equal(in8(&b, DATA), 'c');
}

static void test_directory_is_bounded(void **state)
{
	char name[32];
	int added = 0;

	(void)state;
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		added += fw_cfg_add_file(fw, name, name, 1) == 0;
	}
	assert_int_equal(added, FW_CFG_FILE_MAX);
	out16(&b, SELECT, FW_CFG_FILE_FIRST + FW_CFG_FILE_MAX);
	assert_int_equal(in8(&b, DATA), 0);
}

static void test_dma_read(void **state)
{
	u32 size;
	u16 key;

	(void)state;
	assert_int_equal(fw_cfg_add_file(fw, "etc/x", "0123456789", 10), 0);
	key = find("etc/x", &size);
	assert_int_equal(dma((u32)key << 16 | DO_SELECT | READ, 4, BUFFER), 0);
	check_memory(BUFFER, "0123", 4);
	assert_int_equal(dma(SKIP, 2, 0), 0);
	assert_int_equal(dma(READ, 4, BUFFER), 0);
	check_memory(BUFFER, "6789", 4);
	assert_int_equal(dma(READ, 4, BUFFER), 0); /* beyond: zeroes */
	check_memory(BUFFER, "\0\0\0", 4);
	assert_int_equal(dma((u32)key << 16 | DO_SELECT, 0, 0), 0);
	assert_int_equal(dma(SKIP, 0xffffffff, 0), 0);
	assert_int_equal(in8(&b, DATA), 0);
}

static void test_dma_bounds(void **state)
{
	u8 before[16], after[16];
	u32 size;
	u16 key;

	(void)state;
	assert_int_equal(fw_cfg_add_file(fw, "etc/x", "0123456789", 10), 0);
	key = find("etc/x", &size);
	/* Where there is no memory. */
	assert_int_equal(dma((u32)key << 16 | DO_SELECT | READ, 10, BOARD_RAM),
	                 ERROR);
	assert_int_equal(dma(READ, 10, BOARD_RAM - 5), ERROR);
	assert_int_equal(dma(READ, 10, UINT64_MAX - 3), ERROR);
	assert_int_equal(dma(READ, 0xffffffff, 0), ERROR);
	assert_int_equal(dma(WRITE, 4, BUFFER), ERROR); /* not writable */
	/* A control block outside memory: nothing happens. */
	memory_read(b.host.memory, BOARD_RAM - 16, before, 16);
	out32(&b, DMA, 0);
	out32(&b, DMA + 4, htobe32(BOARD_RAM - 8));
	memory_read(b.host.memory, BOARD_RAM - 16, after, 16);
	assert_memory_equal(before, after, 16);
	out32(&b, DMA, 0xffffffff);
	out32(&b, DMA + 4, 0xffffffff);
}

static void test_writable(void **state)
{
	u32 size;
	u16 key;

	(void)state;
	assert_int_equal(
	    fw_cfg_add_file_writable(fw, "etc/w", 8, on_written, NULL), 0);
	assert_int_equal(fw_cfg_add_file_writable(
			     fw, "etc/big", FW_CFG_WRITABLE_MAX, NULL, NULL),
	                 -ENOSPC);
	key = find("etc/w", &size);
	assert_int_equal(size, 8);
	memory_write(b.host.memory, BUFFER, "ABCDEFGHIJ", 10);
	assert_int_equal(dma((u32)key << 16 | DO_SELECT | WRITE, 4, BUFFER), 0);
	assert_int_equal(written, 1);
	assert_int_equal(written_first, 'A');
	assert_int_equal(dma(WRITE, 5, BUFFER), ERROR); /* 4 are left */
	assert_int_equal(dma(WRITE, 4, BUFFER), 0);
	out16(&b, SELECT, key);
	assert_int_equal(read_be32(), 0x41424344);
	assert_int_equal(read_be32(), 0x41424344);
	board_reset(&b);
	out16(&b, SELECT, key);
	assert_int_equal(read_be32(), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_identity), TEST(test_keys),
		TEST(test_files),    TEST(test_directory_is_bounded),
		TEST(test_dma_read), TEST(test_dma_bounds),
		TEST(test_writable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
