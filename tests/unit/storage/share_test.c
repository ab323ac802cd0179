/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw files that share what they hold. Which file systems can is not known
 * here: copy_share() below says it, and copies, slowly.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/copy.h"
#include "base/error.h"
#include "storage/image.h"
#include "storage/live.h"

enum { SIZE = 1 << 20, LAST = SIZE - 512, WRITES = 20 };

static int answer; /* of the file system */
static char folder[64];
static struct error err;

int copy_share(int from, int to)
{
	u8 *buf = malloc(SIZE);
	struct stat st;

	if (answer == 0 && buf && fstat(from, &st) == 0)
		for (off_t at = 0; at < st.st_size; at += SIZE / 16) {
			ssize_t n = pread(from, buf, SIZE / 16, at);

			if (n < 0 || pwrite(to, buf, (size_t)n, at) != n)
				answer = -EIO;
			usleep(500);
		}
	free(buf);
	return answer;
}

static char *name(const char *of)
{
	static char paths[4][96];
	static unsigned turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, of);
	return path;
}

static struct block *make(const char *of, const char *format, u64 size)
{
	struct image_create how = { .path = name(of),
		                    .format = format,
		                    .size = size,
		                    .replace = true };
	struct block_open open = { .path = how.path,
		                   .fd = -1,
		                   .format = format };
	struct block *b;

	assert_int_equal(image_create(&how, &err), 0);
	assert_int_equal(block_open(&b, &open, &err), 0);
	return b;
}

static int empty(const char *of)
{
	int fd = open(name(of), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static u64 number_at(int fd, off_t at)
{
	u64 n = 0;

	assert_int_equal(pread(fd, &n, sizeof(n), at), sizeof(n));
	return n;
}

static int set_up(void **state)
{
	(void)state;
	answer = 0;
	strcpy(folder, "/tmp/share-XXXXXX");
	assert_non_null(mkdtemp(folder));
	return 0;
}

static int tear_down(void **state)
{
	char command[96];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

/* ---- of a disk in use ---- */

struct writer {
	struct block *disk;
	_Atomic u64 written;
	_Atomic bool stop;
};

static void write_number(struct block *disk, u64 n, u64 at)
{
	u64 sector[64] = { n };

	assert_int_equal(
	    block_sync(disk, BLOCK_WRITE, at, sector, sizeof(sector)), 0);
}

/* Its end, and when that is there its beginning, which is copied first. */
static void *write_on(void *arg)
{
	struct writer *w = arg;

	for (u64 n = 1; !w->stop; n++) {
		write_number(w->disk, n, LAST);
		write_number(w->disk, n, 0);
		w->written = n;
	}
	return NULL;
}

static void holds_one_moment(void **state)
{
	struct writer w = { .disk = live_open(make("disk", "raw", SIZE)) };
	int fd = empty("copy");
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
	for (int i = 0; i < 5; i++) {
		u64 least = w.written, first, last;

		while (w.written < least + WRITES)
			usleep(100);
		least = w.written;
		assert_int_equal(live_share(w.disk, fd, &err), 0);
		first = number_at(fd, 0);
		last = number_at(fd, LAST);
		assert_true(first >= least);
		assert_true(last == first || last == first + 1);
	}
	w.stop = true;
	pthread_join(thread, NULL);
	close(fd);
	block_close(w.disk);
}

static void can_not(void **state)
{
	static const int answers[] = { -EOPNOTSUPP, -EXDEV, -EINVAL, -ENOTTY };
	struct block *raw = live_open(make("disk", "raw", SIZE));
	struct block *qcow2 = live_open(make("disk.qcow2", "qcow2", SIZE));
	int fd = empty("copy");

	(void)state;
	assert_int_equal(live_share(qcow2, fd, &err), -EOPNOTSUPP);
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		answer = answers[i];
		assert_int_equal(live_share(raw, fd, &err), -EOPNOTSUPP);
		assert_non_null(strstr(err.text, "can't be shared"));
		write_number(raw, i, 0);
	}
	answer = -ENOSPC;
	assert_int_equal(live_share(raw, fd, &err), -ENOSPC);
	/* What was cut off behind our back is no zeroes. */
	answer = 0;
	assert_int_equal(truncate(name("disk"), SIZE / 2), 0);
	assert_int_equal(live_share(raw, fd, &err), -EIO);
	close(fd);
	block_close(raw);
	block_close(qcow2);
}

/* ---- of images ---- */

static void from_file_to_file(void **state)
{
	struct block *from = make("from", "raw", SIZE);
	struct block *to = make("to", "raw", SIZE);
	struct block *longer = make("longer", "raw", 2 * SIZE);
	struct block *other = make("other", "qcow2", SIZE);
	u64 where;
	bool same;

	(void)state;
	write_number(from, 7, LAST);
	assert_int_equal(image_share(from, longer), -EOPNOTSUPP);
	assert_int_equal(image_share(from, other), -EOPNOTSUPP);
	assert_int_equal(image_share(other, to), -EOPNOTSUPP);
	answer = -EXDEV;
	assert_int_equal(image_share(from, to), -EXDEV);
	answer = 0;
	assert_int_equal(image_share(from, to), 0);
	assert_int_equal(image_compare(from, to, &same, &where, NULL, &err), 0);
	assert_true(same);
	block_close(from);
	block_close(to);
	block_close(longer);
	block_close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(holds_one_moment, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(can_not, set_up, tear_down),
		cmocka_unit_test_setup_teardown(from_file_to_file, set_up,
		                                tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
