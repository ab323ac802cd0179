/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_record - an image takes a disk's place: the names that are made for it
 * are taken, and no others.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/error.h"
#include "control/record.h"

struct place {
	char folder[64];
	char *disk;
};

static void make(const char *path)
{
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static u64 number_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static int set_up(void **state)
{
	struct place *p = xalloc(sizeof(*p));

	strcpy(p->folder, "/tmp/record-XXXXXX");
	assert_non_null(mkdtemp(p->folder));
	p->disk = xasprintf("%s/disk.qcow2", p->folder);
	make(p->disk);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;
	char *command = xasprintf("rm -r %s", p->folder);
	int rc = system(command);

	free(command);
	free(p->disk);
	free(p);
	return rc;
}

static void takes_its_place(void **state)
{
	struct place *p = *state;
	char *next = record_name(p->disk, NULL);
	u64 number;

	make(next);
	number = number_of(next);
	assert_int_equal(record_take(p->disk, strrchr(next, '/') + 1, NULL), 0);
	assert_true(number_of(p->disk) == number);
	assert_true(access(next, F_OK) < 0);
	/* It was there once. */
	assert_true(record_take(p->disk, strrchr(next, '/') + 1, NULL) < 0);
	assert_true(number_of(p->disk) == number);
	free(next);
}

static void by_way_of_a_link(void **state)
{
	struct place *p = *state;
	char *folder = xasprintf("%s/far", p->folder);
	char *far = xasprintf("%s/other.qcow2", folder);
	char *link = record_name(p->disk, NULL), *next;
	u64 number;

	mkdir(folder, 0700);
	make(far);
	assert_int_equal(symlink(far, link), 0);
	assert_int_equal(record_take(p->disk, strrchr(link, '/') + 1, NULL), 0);
	assert_true(number_of(p->disk) == number_of(far));
	/* The next one lies beside the file, not beside the link. */
	next = record_name(far, NULL);
	make(next);
	number = number_of(next);
	assert_int_equal(record_take(p->disk, strrchr(next, '/') + 1, NULL), 0);
	assert_true(number_of(p->disk) == number);
	free(next);
	free(link);
	free(far);
	free(folder);
}

static void no_other_name(void **state)
{
	static const char *const bad[] = {
		"",
		".",
		"..",
		"disk.qcow2",
		"../disk.qcow2.0123456789abcdef.incoming",
		"other.qcow2.0123456789abcdef.incoming",
		"disk.qcow2.0123456789abcde.incoming",
		"disk.qcow2.0123456789abcdeg.incoming",
		"disk.qcow2.0123456789abcdef.incoming/",
		"disk.qcow2.0123456789abcdef.incoming.x",
		"disk.qcow2.0123456789abcdef",
	};
	struct place *p = *state;
	char *other =
	    xasprintf("%s/other.qcow2.0123456789abcdef.incoming", p->folder);
	u64 number = number_of(p->disk);
	struct error err;

	make(other);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(record_take(p->disk, bad[i], &err) < 0);
		assert_true(number_of(p->disk) == number);
	}
	assert_int_equal(access(other, F_OK), 0);
	free(other);
}

static void only_a_file(void **state)
{
	struct place *p = *state;
	struct error err;

	assert_true(record_take("/dev/null", "null.0123456789abcdef.incoming",
	                        &err) < 0);
	assert_true(record_take(p->folder, "x", &err) < 0);
	assert_true(record_take("/nowhere/disk", "x", &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(takes_its_place, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(by_way_of_a_link, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(no_other_name, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(only_a_file, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
