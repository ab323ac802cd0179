/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold for every chip: descriptors, state, hostile accesses. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "noise.h"

static struct board b;

static int setup(void **state)
{
	(void)state;
	board_init(&b);
	board_add_all(&b);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&b);
	return 0;
}

static void fill_random(u8 *bytes, size_t n, u64 seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		bytes[i] = (u8)(seed >> 56);
	}
}

static void test_descriptors(void **state)
{
	(void)state;
	for (unsigned i = 0; i < b.devices; i++) {
		const struct device_type *type = b.device[i]->type;

		assert_true(type->name[0] != '\0');
		assert_true(type->state_major > 0);
		assert_non_null(type->state);
		assert_non_null(type->reset);
		assert_non_null(type->destroy);
		for (unsigned j = 0; j < i; j++) /* chunks are told apart */
			assert_true(
			    strcmp(b.device[j]->type->name, type->name) ||
			    strcmp(b.device[j]->instance,
			           b.device[i]->instance));
	}
}

/* Save, forget, load, save: the same bytes, after any history. */
static void test_state_round_trip(void **state)
{
	u8 bytes[2000];

	(void)state;
	for (unsigned n = 0; n < 200; n++) {
		struct state_writer before = { 0 }, after = { 0 };

		fill_random(bytes, sizeof(bytes), n);
		noise_run(&b, bytes, sizeof(bytes));
		/* A load settles what is due now; so the first one does, and
		 * from there on nothing may change. */
		board_save(&b, &before);
		assert_int_equal(board_load(&b, &before), 0);
		before.used = 0;
		board_save(&b, &before);
		board_reset(&b);
		assert_int_equal(board_load(&b, &before), 0);
		board_save(&b, &after);
		assert_int_equal(before.used, after.used);
		assert_memory_equal(before.data, after.data, after.used);
		state_writer_fini(&before);
		state_writer_fini(&after);
	}
}

/* After a reset, history has left no trace but in memory that a battery or
 * the outside holds: RTC, and what a UART's backend has not taken. */
static void test_reset_is_complete(void **state)
{
	u8 bytes[20000];

	(void)state;
	for (unsigned i = 0; i < b.devices; i++) {
		const char *name = b.device[i]->type->name;
		const struct device_type *type = b.device[i]->type;
		struct state_writer before = { 0 }, after = { 0 };

		if (strcmp(name, "rtc") == 0 || strcmp(name, "uart") == 0 ||
		    strcmp(name, "pic") == 0 || strcmp(name, "ioapic") == 0)
			continue; /* the last two keep their inputs */
		board_reset(&b);
		state_save(&before, name, "x", 1, 0, type->state, b.device[i]);
		fill_random(bytes, sizeof(bytes), i + 1000);
		noise_run(&b, bytes, sizeof(bytes));
		board_reset(&b);
		clock_set_ns(b.host.clock, 0);
		board_reset(&b);
		state_save(&after, name, "x", 1, 0, type->state, b.device[i]);
		assert_int_equal(before.used, after.used);
		if (memcmp(before.data, after.data, after.used) != 0)
			fail_msg("reset of %s leaves something", name);
		state_writer_fini(&before);
		state_writer_fini(&after);
	}
}

static void test_noise(void **state)
{
	u8 bytes[4096];

	(void)state;
	for (unsigned n = 0; n < 300; n++) {
		fill_random(bytes, sizeof(bytes), n + 5000);
		noise_run(&b, bytes, sizeof(bytes));
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_descriptors),
		TEST(test_state_round_trip),
		TEST(test_reset_is_complete),
		TEST(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
