/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <string.h>

#include "board.h"
#include "devices/chips/acpi_pm.h"

enum {
	STATUS = 0x600,
	ENABLE = 0x602,
	CONTROL = 0x604,
	TIMER = 0x608,
	GPE_STATUS = 0x620,
	GPE_ENABLE = 0x628,
	SMI_EN = 0x630
};

static struct board b;
static struct acpi_pm *pm;

static int setup(void **state)
{
	(void)state;
	board_init(&b);
	pm = board_add(&b, acpi_pm_create(&b.host));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&b);
	return 0;
}

static void test_timer_rate(void **state)
{
	u32 before, after;

	(void)state;
	before = in32(&b, TIMER);
	board_advance(&b, NSEC_PER_SEC);
	after = in32(&b, TIMER);
	assert_int_equal(after - before, 3579545);
	board_advance(&b, 4 * NSEC_PER_SEC);
	assert_int_equal(in32(&b, TIMER), 5 * 3579545 & 0xffffff);
	assert_int_equal(in16(&b, TIMER), 5 * 3579545 & 0xffff);
	out32(&b, TIMER, 0);
	assert_int_equal(in32(&b, TIMER), 5 * 3579545 & 0xffffff);
}

static void test_timer_status(void **state)
{
	(void)state;
	assert_int_equal(in16(&b, STATUS) & 1, 0);
	board_advance(&b, 2400 * NSEC_PER_MSEC); /* bit 23 after 2.34 s */
	assert_int_equal(in16(&b, STATUS) & 1, 1);
	out16(&b, STATUS, 1);
	assert_int_equal(in16(&b, STATUS) & 1, 0);
	out16(&b, CONTROL, 1);
	out16(&b, ENABLE, 1);
	assert_false(b.level[9]);
	board_advance(&b, 2400 * NSEC_PER_MSEC);
	assert_true(b.level[9]);
	out16(&b, STATUS, 1);
	assert_false(b.level[9]);
}

static void test_power_button(void **state)
{
	(void)state;
	out8(&b, 0xb2, 2); /* ACPI_ENABLE */
	assert_int_equal(in16(&b, CONTROL) & 1, 1);
	out16(&b, ENABLE, 0x100);
	acpi_pm_power_button(pm);
	assert_true(b.level[9]);
	assert_int_equal(in16(&b, STATUS), 0x100);
	out8(&b, STATUS + 1, 1); /* a byte of it */
	assert_false(b.level[9]);
	acpi_pm_power_button(pm);
	out8(&b, 0xb2, 3); /* ACPI_DISABLE: no SCI */
	assert_false(b.level[9]);
	assert_int_equal(in8(&b, 0xb2), 3);
}

static void test_gpe(void **state)
{
	(void)state;
	acpi_pm_start_enabled(pm, true);
	acpi_pm_gpe(pm, 2);
	acpi_pm_gpe(pm, 40);
	assert_false(b.level[9]);
	out32(&b, GPE_ENABLE + 4, 0x100);
	assert_true(b.level[9]);
	assert_int_equal(in8(&b, GPE_STATUS), 4);
	assert_int_equal(in8(&b, GPE_STATUS + 5), 1);
	out8(&b, GPE_STATUS + 5, 1);
	assert_false(b.level[9]);
	assert_int_equal(in8(&b, GPE_STATUS), 4);
	board_reset(&b);
	assert_int_equal(in16(&b, CONTROL), 1); /* enabled from the start */
	assert_int_equal(in32(&b, GPE_ENABLE + 4), 0);
}

static void test_sleep(void **state)
{
	(void)state;
	out16(&b, CONTROL, 1 | 5 << 10 | 1 << 13); /* no such state */
	assert_int_equal(b.power_offs, 0);
	out16(&b, CONTROL, 1 | 1 << 13);
	assert_int_equal(b.power_offs, 1);
	assert_int_equal(in16(&b, CONTROL), 1); /* SLP_EN reads 0 */
}

static void test_smi(void **state)
{
	(void)state;
	assert_int_equal(in32(&b, SMI_EN) & 0x20, 0x20);
	out32(&b, SMI_EN, 1);
	assert_int_equal(in32(&b, SMI_EN), 0x21);
}

static void test_moves(void **state)
{
	(void)state;
	board_advance(&b, NSEC_PER_SEC);
	acpi_pm_map(pm, 0xb000, true);
	assert_int_equal(in32(&b, TIMER), 0xffffffff);
	assert_int_equal(in32(&b, 0xb008), 3579545);
	acpi_pm_map(pm, 0xb000, false);
	assert_int_equal(in32(&b, 0xb008), 0xffffffff);
	board_reset(&b);
	assert_int_equal(in32(&b, TIMER), 3579545);
}

static void test_moves_with_state(void **state)
{
	struct state_writer w = { 0 };

	(void)state;
	board_advance(&b, NSEC_PER_SEC);
	acpi_pm_map(pm, 0xb000, true);
	board_save(&b, &w);
	board_reset(&b);
	assert_int_equal(board_load(&b, &w), 0);
	assert_int_equal(in32(&b, 0xb008), 3579545);
	assert_int_equal(in32(&b, TIMER), 0xffffffff);
	state_writer_fini(&w);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_timer_rate),   TEST(test_timer_status),
		TEST(test_power_button), TEST(test_gpe),
		TEST(test_sleep),        TEST(test_smi),
		TEST(test_moves),        TEST(test_moves_with_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
