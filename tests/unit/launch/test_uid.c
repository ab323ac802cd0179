/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_uid - user ids of machines: the same again, never one for two, and none
 * out of a folder that others write to.
 */
#include <errno.h>
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
#include "launch/uid.h"

enum { MANY = 2000 };

static int make_folder(void **state)
{
	char *folder = xstrdup("/tmp/uid-XXXXXX");

	*state = mkdtemp(folder);
	return *state ? 0 : -1;
}

static int remove_folder(void **state)
{
	char *command = xasprintf("rm -r %s", (char *)*state);
	int rc = system(command);

	free(command);
	free(*state);
	return rc;
}

static u32 number_of(const char *folder, const char *machine, int *held)
{
	struct error err = { 0 };
	u32 uid = 0;

	*held = uid_take(folder, machine, &uid, &err);
	assert_true(*held >= 0);
	assert_in_range(uid, UID_FIRST, UID_FIRST + UID_COUNT - 1);
	return uid;
}

static void a_machine_has_the_same_again(void **state)
{
	int held;
	u32 first = number_of(*state, "web", &held), second;

	close(held);
	second = number_of(*state, "web", &held);
	close(held);
	assert_int_equal(first, second);
}

/* Two that run under one name have two; so have all others. */
static void no_two_share_one(void **state)
{
	static int held[MANY];
	static u8 seen[UID_COUNT];
	char name[16];
	u32 uid;

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "m%u", i / 2);
		uid = number_of(*state, name, &held[i]);
		assert_int_equal(seen[uid - UID_FIRST], 0);
		seen[uid - UID_FIRST] = 1;
	}
	for (unsigned i = 0; i < MANY; i++)
		close(held[i]);
}

/* One that found its place taken keeps the place it found. */
static void collisions_are_remembered(void **state)
{
	int a, b, held;
	u32 second;

	number_of(*state, "web", &a);
	second = number_of(*state, "web", &b);
	close(a);
	close(b);
	number_of(*state, "web", &a);
	assert_int_equal(number_of(*state, "web", &held), second);
	close(a);
	close(held);
}

static void a_folder_of_others_is_refused(void **state)
{
	struct error err = { 0 };
	u32 uid = 7;

	assert_int_equal(chmod(*state, 0777), 0);
	assert_int_equal(uid_take(*state, "web", &uid, &err), -EPERM);
	assert_int_equal(uid, 7);
	assert_non_null(strstr(err.text, "web"));
}

static void a_long_name_is_refused(void **state)
{
	char name[400];
	struct error err = { 0 };
	u32 uid;

	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(uid_take(*state, name, &uid, &err), -ENAMETOOLONG);
}

#define IN_FOLDER(test)                                                        \
	cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_FOLDER(a_machine_has_the_same_again),
		IN_FOLDER(no_two_share_one),
		IN_FOLDER(collisions_are_remembered),
		IN_FOLDER(a_folder_of_others_is_refused),
		IN_FOLDER(a_long_name_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
