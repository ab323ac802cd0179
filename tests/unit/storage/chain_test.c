/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chain whose files are brought open: raw base, two qcow2 images on it and
 * a data file, found by the names that the images say.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"

#define SIZE (2 * MIB)
enum { BASE, MIDDLE, TOP, FILES };

struct chain {
	char *path[FILES];
	struct error err;
};

static void make(struct chain *c, int which, const char *format,
                 const char *backing, const char *backing_format)
{
	const struct image_create how = {
		.path = c->path[which],
		.format = format,
		.size = SIZE,
		.backing = backing,
		.backing_format = backing_format,
		.replace = true,
	};

	if (image_create(&how, &c->err) < 0)
		fail_msg("%s", c->err.text);
}

static void put(struct chain *c, int which, const char *format, u64 offset,
                u32 seed)
{
	struct block_open how = { .path = c->path[which],
		                  .fd = -1,
		                  .format = format,
		                  .opener = &block_opener_paths };
	static u8 buf[64 * KIB];
	struct block *b;

	pattern_fill(buf, offset, sizeof(buf), seed);
	assert_int_equal(block_open(&b, &how, &c->err), 0);
	assert_int_equal(block_sync(b, BLOCK_WRITE, offset, buf, sizeof(buf)),
	                 0);
	block_close(b);
}

static struct chain *begin(void)
{
	struct chain *c = xalloc(sizeof(*c));

	c->path[BASE] = scratch_path(".raw");
	c->path[MIDDLE] = scratch_path(".qcow2");
	c->path[TOP] = scratch_path(".qcow2");
	make(c, BASE, "raw", NULL, NULL);
	make(c, MIDDLE, "qcow2", c->path[BASE], "raw");
	make(c, TOP, "qcow2", c->path[MIDDLE], "qcow2");
	put(c, BASE, "raw", 0, 1);
	put(c, BASE, "raw", MIB, 1);
	put(c, MIDDLE, "qcow2", 256 * KIB, 2);
	return c;
}

static void end(struct chain *c)
{
	for (int i = 0; i < FILES; i++) {
		unlink(c->path[i]);
		free(c->path[i]);
	}
	free(c);
}

static int open_given(struct chain *c, struct block_files *given,
                      struct block **b)
{
	const struct block_opener opener = { block_files_open, given };
	const struct block_open how = { .path = c->path[TOP],
		                        .fd = -1,
		                        .format = "qcow2",
		                        .opener = &opener };

	return block_open(b, &how, &c->err);
}

static void holds(struct block *b, u64 offset, u32 seed)
{
	static u8 buf[64 * KIB];

	assert_int_equal(block_sync(b, BLOCK_READ, offset, buf, sizeof(buf)),
	                 0);
	assert_true(pattern_holds(buf, offset, sizeof(buf), seed));
}

static void test_three(void **state)
{
	struct chain *c = begin();
	struct block_file files[2] = {
		{ .path = c->path[BASE], .format = "raw" },
		{ .path = c->path[MIDDLE], .format = "qcow2" }
	};
	struct block_files given = { files, 2 };
	struct block_open how = { .fd = -1, .format = "raw" };
	struct block *b, *other;

	(void)state;
	files[0].fd = open(c->path[BASE], O_RDONLY | O_CLOEXEC);
	files[1].fd = open(c->path[MIDDLE], O_RDONLY | O_CLOEXEC);
	assert_int_equal(open_given(c, &given, &b), 0);
	assert_int_equal(files[0].fd, -1);
	assert_int_equal(files[1].fd, -1);
	holds(b, 0, 1);
	holds(b, 256 * KIB, 2);
	holds(b, MIB, 1);
	/* Below, others may read, and nobody writes; the top is ours alone. */
	how.path = c->path[BASE];
	assert_int_equal(block_open(&other, &how, &c->err), -EBUSY);
	how.flags = BLOCK_OPEN_READONLY;
	assert_int_equal(block_open(&other, &how, &c->err), 0);
	block_close(other);
	how.path = c->path[TOP];
	assert_int_equal(block_open(&other, &how, &c->err), -EBUSY);
	block_close(b);
	end(c);
}

static u64 allocated(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* What was read of tables goes from the whole chain, and is read again; what
 * was not stored yet stays. */
static void test_lets_go(void **state)
{
	static u8 buf[64 * KIB];
	struct chain *c = begin();
	struct block_open how = { .path = c->path[TOP],
		                  .fd = -1,
		                  .format = "qcow2",
		                  .opener = &block_opener_paths };
	struct block *b;
	u64 before;

	(void)state;
	assert_int_equal(block_open(&b, &how, &c->err), 0);
	block_let_go(b);
	before = allocated();
	pattern_fill(buf, MIB, sizeof(buf), 4);
	assert_int_equal(block_sync(b, BLOCK_WRITE, MIB, buf, sizeof(buf)), 0);
	holds(b, 256 * KIB, 2);
	/* Tables of two images, and of what is free in one. */
	assert_true(allocated() >= before + 3 * 64 * KIB);
	block_let_go(b);
	assert_true(allocated() >= before + 2 * 64 * KIB);
	assert_int_equal(block_sync(b, BLOCK_FLUSH, 0, NULL, 0), 0);
	block_let_go(b);
	assert_true(allocated() < before + 64 * KIB);
	holds(b, 0, 1);
	holds(b, 256 * KIB, 2);
	holds(b, MIB, 4);
	block_close(b);
	end(c);
}

/* No table waits in a hole, where a full disk of the host would lose it. */
static void test_tables_have_room(void **state)
{
	struct chain *c = begin();
	struct block_open how = { .path = c->path[MIDDLE],
		                  .fd = -1,
		                  .format = "qcow2",
		                  .opener = &block_opener_paths };
	static u8 buf[64 * KIB];
	struct block *b;
	int fd;

	(void)state;
	make(c, MIDDLE, "qcow2", NULL, NULL);
	fd = open(c->path[MIDDLE], O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(block_open(&b, &how, &c->err), 0);
	pattern_fill(buf, 0, sizeof(buf), 3);
	assert_int_equal(block_sync(b, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_true(lseek(fd, 0, SEEK_END) > 0);
	assert_int_equal(lseek(fd, 0, SEEK_HOLE), lseek(fd, 0, SEEK_END));
	close(fd);
	block_close(b);
	end(c);
}

static void test_refusals(void **state)
{
	struct chain *c = begin();
	struct block_file files[2] = {
		{ .path = c->path[BASE], .format = "raw", .fd = -1 },
		{ .path = c->path[MIDDLE], .format = "raw" }
	};
	struct block_files given = { files, 2 };
	struct block *b;

	(void)state;
	/* Brought as another format than the image says. */
	files[1].fd = open(c->path[MIDDLE], O_RDONLY | O_CLOEXEC);
	assert_int_equal(open_given(c, &given, &b), -EINVAL);
	assert_non_null(strstr(c->err.text, "given as raw"));
	assert_true(files[1].fd >= 0);
	/* One that was used up: a loop would ask twice. */
	files[1].format = "qcow2";
	assert_int_equal(open_given(c, &given, &b), -ELOOP);
	/* One that was not brought. */
	given.count = 0;
	assert_int_equal(open_given(c, &given, &b), -EPERM);
	assert_non_null(strstr(c->err.text, "was not given"));
	end(c);
}

static void test_data_file(void **state)
{
	struct chain *c = begin();
	struct block_file file = { .path = c->path[BASE], .format = "raw" };
	struct block_files given = { &file, 1 };
	const struct image_create how = { .path = c->path[TOP],
		                          .format = "qcow2",
		                          .size = SIZE,
		                          .replace = true,
		                          .data_file = c->path[BASE] };
	struct block *b;

	(void)state;
	assert_int_equal(image_create(&how, &c->err), 0);
	file.fd = open(c->path[BASE], O_RDONLY | O_CLOEXEC);
	assert_int_equal(open_given(c, &given, &b), -EACCES);
	close(file.fd);
	file.fd = open(c->path[BASE], O_RDWR | O_CLOEXEC);
	assert_int_equal(open_given(c, &given, &b), 0);
	block_close(b);
	end(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_three),
		cmocka_unit_test(test_lets_go),
		cmocka_unit_test(test_tables_have_room),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_data_file),
	};

	return cmocka_run_group_tests_name("chain", tests, NULL, NULL);
}
