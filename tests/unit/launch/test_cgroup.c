/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cgroup - the limits of groups above the machines', out of folders that
 * look like control groups.
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
#include "launch/cgroup.h"

static int make_folder(void **state)
{
	char *folder = xstrdup("/tmp/cgroup-XXXXXX"), *below;

	*state = mkdtemp(folder);
	if (!*state)
		return -1;
	for (unsigned depth = 1; depth <= 3; depth++) {
		below = xasprintf("%s/%.*s", folder, (int)depth * 2, "a/b/c/");
		mkdir(below, 0700);
		free(below);
	}
	return 0;
}

static int remove_folder(void **state)
{
	char *command = xasprintf("rm -r %s", (char *)*state);
	int rc = system(command);

	free(command);
	free(*state);
	return rc;
}

static void say(const char *folder, const char *file, const char *text)
{
	char *path = xasprintf("%s/%s", folder, file);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	free(path);
}

static void clip(const char *folder, enum cgroup_kind kind, u64 *total,
                 u64 *available)
{
	struct cgroups g = { .kind = kind, .helper = -1 };

	*total = 1000 * MIB;
	*available = 800 * MIB;
	g.memory = xasprintf("%s/a/b/c", folder);
	cgroups_clip(&g, total, available);
	free(g.memory);
}

static void without_limits_it_is_the_host(void **state)
{
	u64 total, available;

	clip(*state, CGROUP_V2, &total, &available);
	assert_int_equal(total, 1000 * MIB);
	say(*state, "a/b/memory.max", "max\n");
	say(*state, "a/b/memory.current", "1048576\n");
	say(*state, "a/memory.limit_in_bytes", "9223372036854771712\n");
	say(*state, "a/memory.usage_in_bytes", "1048576\n");
	clip(*state, CGROUP_V2, &total, &available);
	assert_int_equal(total, 1000 * MIB);
	clip(*state, CGROUP_V1, &total, &available);
	assert_int_equal(total, 1000 * MIB);
	assert_int_equal(available, 800 * MIB);
}

/* 500 MiB of which 300 are used, 100 of those for files. */
static void a_limit_above_counts(void **state)
{
	u64 total, available;

	say(*state, "a/memory.max", "524288000\n");
	say(*state, "a/memory.current", "314572800\n");
	say(*state, "a/memory.stat", "anon 5\ninactive_file 104857600\n");
	clip(*state, CGROUP_V2, &total, &available);
	assert_int_equal(total, 500 * MIB);
	assert_int_equal(available, 300 * MIB);
	say(*state, "a/memory.limit_in_bytes", "524288000\n");
	say(*state, "a/memory.usage_in_bytes", "314572800\n");
	say(*state, "a/memory.stat",
	    "inactive_file 1\ntotal_inactive_file 104857600\n");
	clip(*state, CGROUP_V1, &total, &available);
	assert_int_equal(total, 500 * MIB);
	assert_int_equal(available, 300 * MIB);
}

static void the_least_of_several_counts(void **state)
{
	u64 total, available;

	say(*state, "a/memory.max", "209715200\n");
	say(*state, "a/memory.current", "419430400\n");
	say(*state, "a/b/memory.max", "524288000\n");
	say(*state, "a/b/memory.current", "0\n");
	clip(*state, CGROUP_V2, &total, &available);
	assert_int_equal(total, 200 * MIB);
	assert_int_equal(available, 0); /* over its limit */
}

#define IN_FOLDER(test)                                                        \
	cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_FOLDER(without_limits_it_is_the_host),
		IN_FOLDER(a_limit_above_counts),
		IN_FOLDER(the_least_of_several_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
