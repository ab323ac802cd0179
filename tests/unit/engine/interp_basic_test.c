/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp_basic_test.c - integer code in each mode.
 */
#include <stddef.h>
#include <stdint.h>

#include "guest.h"

static void test_sum(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_sum);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 500500);
}

static void test_call(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_CODE_OF(g, snip64_call);
	guest_run_to_halt(g);
	assert_int_equal(g->s.gpr[GPR_RAX], 55);
	assert_int_equal(g->s.gpr[GPR_RSP], GUEST_STACK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_sum, guest_setup,
		                                guest_teardown),
		cmocka_unit_test_setup_teardown(test_call, guest_setup,
		                                guest_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
