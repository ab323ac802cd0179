/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A qcow2 image whose tables were damaged, met while in use: an error for what
 * it touches, the corrupt bit on disk, no more writing, no harm to the rest.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"
#include "storage/qcow2/format.h"

enum {
	CLUSTER = 64 * 1024,
	L2_COVERS = CLUSTER / 8 * CLUSTER, /* 512 MiB */
	AT_REFTABLE = 48,
	AT_L1 = 40,
	AT_INCOMPATIBLE = 72,
	CORRUPT = 2,
};

/* What is damaged, and what meets it. */
struct damage {
	const char *name, *says;
	enum { IN_L1, IN_L2, IN_REFTABLE, IN_REFBLOCK } where;
	u64 value; /* of the first entry */
	enum block_op op;
	u64 offset;
};

static const struct damage damages[] = {
	{ "L1: not a cluster", "L2 table at 0x30200", IN_L1, BIT(63) | 0x30200,
	  BLOCK_READ, 0 },
	{ "L1: behind the file", "L2 table at 0x10000000000", IN_L1,
	  BIT(63) | BIT(40), BLOCK_WRITE, 0 },
	{ "L1: reserved bits", "the L1 entry for guest offset 0", IN_L1,
	  BIT(63) | 0x30001, BLOCK_READ, 0 },
	{ "L2: not a cluster", "the L2 entry for guest offset 0", IN_L2,
	  BIT(63) | 0x50200, BLOCK_READ, 0 },
	{ "L2: behind the file", "the L2 entry for guest offset 0", IN_L2,
	  BIT(63) | BIT(40), BLOCK_WRITE, 0 },
	{ "L2: the header", "the L2 entry for guest offset 0", IN_L2,
	  BIT(63) | BIT(1), BLOCK_READ, 0 },
	{ "L2: a table", "guest data at 0x10000 where metadata is", IN_L2,
	  BIT(63) | CLUSTER, BLOCK_WRITE, 0 },
	{ "L2: compressed, behind the file", "the L2 entry for guest offset 0",
	  IN_L2, BIT(62) | BIT(45), BLOCK_READ, 0 },
	{ "refcount table: not a cluster", "a table at 0x20200", IN_REFTABLE,
	  0x20200, BLOCK_WRITE, CLUSTER * 8 },
	{ "refcount table: behind the file", "a table at 0x10000000000",
	  IN_REFTABLE, BIT(40), BLOCK_WRITE, CLUSTER * 8 },
	{ "refcounts: of what is in use", "was freed twice", IN_REFBLOCK, 0,
	  BLOCK_DISCARD, 0 },
};

static u64 read_be64(int fd, u64 at)
{
	u8 bytes[8];

	assert_int_equal(pread(fd, bytes, 8, (off_t)at), 8);
	return get64(bytes);
}

static void write_be64(int fd, u64 at, u64 value)
{
	u8 bytes[8];

	put64(bytes, value);
	assert_int_equal(pwrite(fd, bytes, 8, (off_t)at), 8);
}

static void inflict(const char *path, const struct damage *d)
{
	int fd = open(path, O_RDWR);
	u64 l1 = read_be64(fd, AT_L1), table = read_be64(fd, AT_REFTABLE);

	switch (d->where) {
	case IN_L1:
		write_be64(fd, l1, d->value);
		break;
	case IN_L2:
		write_be64(fd, read_be64(fd, l1) & ENTRY_OFFSET, d->value);
		break;
	case IN_REFTABLE:
		write_be64(fd, table, d->value);
		break;
	case IN_REFBLOCK: /* of all clusters that the image has */
		for (u64 i = 0; i < 8; i++)
			write_be64(fd, read_be64(fd, table) + i * 8, d->value);
		break;
	}
	close(fd);
}

static int open_image(struct block **b, const char *path, unsigned flags)
{
	struct block_open how = {
		.path = path, .fd = -1, .format = "qcow2", .flags = flags
	};
	struct error err;

	return block_open(b, &how, &err);
}

/* Data in the first cluster and one that another L2 table finds. */
static char *make(u8 *buf)
{
	char *path = scratch_path(".qcow2");
	struct image_create how = { .path = path,
		                    .format = "qcow2",
		                    .size = 2ull * L2_COVERS,
		                    .replace = true };
	struct error err;
	struct block *b;

	assert_int_equal(image_create(&how, &err), 0);
	assert_int_equal(open_image(&b, path, 0), 0);
	pattern_fill(buf, 0, CLUSTER, 1);
	assert_int_equal(block_sync(b, BLOCK_WRITE, 0, buf, CLUSTER), 0);
	assert_int_equal(block_sync(b, BLOCK_WRITE, L2_COVERS, buf, CLUSTER),
	                 0);
	block_close(b);
	return path;
}

/* It has met the damage: b is closed, and the file gone. */
static void expect_refused(struct block *b, const char *path, const char *says,
                           u8 *buf)
{
	const char *words = block_lost(b);
	int fd;

	print_message("%s\n", words ? words : "no words");
	assert_true(words && strstr(words, "its image is corrupt") &&
	            strstr(words, says));
	/* Nothing is written any more, anywhere. */
	assert_int_equal(block_sync(b, BLOCK_WRITE, L2_COVERS, buf, CLUSTER),
	                 -EIO);
	assert_int_equal(block_sync(b, BLOCK_FLUSH, 0, NULL, 0), -EIO);
	/* What is whole can still be read. */
	memset(buf, 0, CLUSTER);
	assert_int_equal(block_sync(b, BLOCK_READ, L2_COVERS, buf, CLUSTER), 0);
	assert_true(pattern_holds(buf, 0, CLUSTER, 1));
	block_close(b);

	fd = open(path, O_RDONLY);
	assert_int_equal(read_be64(fd, AT_INCOMPATIBLE), CORRUPT);
	close(fd);
	assert_int_not_equal(open_image(&b, path, 0), 0);
	assert_int_equal(open_image(&b, path, BLOCK_OPEN_READONLY), 0);
	assert_int_equal(block_sync(b, BLOCK_READ, L2_COVERS, buf, CLUSTER), 0);
	block_close(b);
	unlink(path);
}

static void meet(const struct damage *d, unsigned request_flags)
{
	u8 *buf = xalloc(CLUSTER);
	char *path = make(buf);
	struct block *b;
	int rc;

	print_message("%s\n", d->name);
	inflict(path, d);
	assert_int_equal(open_image(&b, path, 0), 0);
	rc = block_sync_flags(b, d->op, request_flags, d->offset, buf, CLUSTER);
	if (rc == 0) /* counts go down once the disk has forgotten */
		rc = block_sync(b, BLOCK_FLUSH, 0, NULL, 0);
	assert_int_equal(rc, -EIO);
	expect_refused(b, path, d->says, buf);
	free(path);
	free(buf);
}

static void test_damage(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(damages); i++)
		meet(&damages[i], i % 2 ? BLOCK_REQ_FUA : 0);
}

static void test_compressed(void **state)
{
	u8 *buf = xalloc(CLUSTER);
	char *path = make(buf);
	struct error err;
	struct block *b;
	u64 entry;
	int fd;

	(void)state;
	assert_int_equal(open_image(&b, path, 0), 0);
	memset(buf, 0x31, CLUSTER);
	assert_int_equal(image_write_compressed(b, 2 * CLUSTER, buf, &err), 0);
	block_close(b);
	fd = open(path, O_RDWR);
	entry = read_be64(
	    fd, (read_be64(fd, read_be64(fd, AT_L1)) & ENTRY_OFFSET) + 2 * 8);
	assert_true(entry & ENTRY_COMPRESSED);
	/* The first of its bytes say how the rest is deflated. */
	write_be64(fd, entry & (BIT(54) - 1), UINT64_MAX);
	close(fd);

	assert_int_equal(open_image(&b, path, 0), 0);
	assert_int_equal(block_sync(b, BLOCK_WRITE, 0, buf, 512), 0);
	assert_int_equal(block_sync(b, BLOCK_READ, 2 * CLUSTER, buf, 512),
	                 -EIO);
	expect_refused(b, path, "the compressed cluster", buf);
	free(path);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_compressed),
	};

	return cmocka_run_group_tests_name("damage", tests, NULL, NULL);
}
