/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "board.h"
#include "devices/chips/hpet.h"
#include "devices/chips/pit.h"
#include "devices/chips/rtc.h"

enum { CAPS = 0, CONFIG = 0x10, STATUS = 0x20, COUNTER = 0xf0 };
enum { ENABLE = 1, LEGACY = 2 };
enum {
	T_LEVEL = 2,
	T_ENABLE = 4,
	T_PERIODIC = 8,
	T_VAL_SET = 0x40,
	T_32 = 0x100
};
#define MS_TICKS 100000

static struct board b;

static int setup(void **state)
{
	struct pit_host pit_host = { 0 };
	struct pit *pit;
	struct rtc *rtc;

	(void)state;
	board_init(&b);
	pit = board_add(&b, pit_create(&b.host, &pit_host));
	rtc = board_add(&b, rtc_create(&b.host, NULL));
	board_add(&b, hpet_create(&b.host, pit, rtc));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&b);
	return 0;
}

static u64 get(u32 off)
{
	return read64(&b, HPET_BASE + off);
}

static void put(u32 off, u64 value)
{
	write64(&b, HPET_BASE + off, value);
}

static u32 config(unsigned n)
{
	return 0x100 + 0x20 * n;
}

static u32 comparator(unsigned n)
{
	return 0x108 + 0x20 * n;
}

static u32 route(unsigned gsi)
{
	return gsi << 9;
}

static void ms(u64 n)
{
	board_advance(&b, n * NSEC_PER_MSEC);
}

static void test_identity(void **state)
{
	(void)state;
	assert_int_equal(get(CAPS) >> 32, 10000000);
	assert_int_equal((u32)get(CAPS), 0x8086a201);
	assert_int_equal(read32(&b, HPET_BASE + 4), 10000000);
	assert_int_equal(get(config(0)) >> 32, 0x00ff0000);
	assert_int_equal(get(config(2)) & 0x8030, 0x30); /* no FSB */
}

static void test_counter(void **state)
{
	(void)state;
	put(COUNTER, 5);
	ms(1);
	assert_int_equal(get(COUNTER), 5); /* halted */
	put(CONFIG, ENABLE);
	ms(1);
	assert_int_equal(get(COUNTER), 5 + MS_TICKS);
	put(COUNTER, 77); /* refused while it runs */
	assert_int_equal(get(COUNTER), 5 + MS_TICKS);
	put(CONFIG, 0);
	ms(1);
	assert_int_equal(get(COUNTER), 5 + MS_TICKS);
	write32(&b, HPET_BASE + COUNTER + 4, 0x12);
	assert_int_equal(get(COUNTER), 0x1200000000 + 5 + MS_TICKS);
}

static void test_one_shot(void **state)
{
	(void)state;
	put(CONFIG, ENABLE);
	put(config(2), T_ENABLE | route(20));
	put(comparator(2), 3 * MS_TICKS);
	ms(2);
	assert_int_equal(b.rises[20], 0);
	ms(1);
	assert_int_equal(b.rises[20], 1);
	ms(1000);
	assert_int_equal(b.rises[20], 1);
	/* A little behind the counter counts as now. */
	put(comparator(2), get(COUNTER) - 1000);
	assert_int_equal(b.rises[20], 2);
	/* Disabled, it does not interrupt. */
	put(comparator(2), get(COUNTER) + MS_TICKS);
	put(config(2), route(20));
	ms(10);
	assert_int_equal(b.rises[20], 2);
}

static void test_one_shot_32bit_wraps(void **state)
{
	(void)state;
	put(CONFIG, ENABLE);
	put(config(2), T_ENABLE | T_32 | route(20));
	put(comparator(2), MS_TICKS);
	ms(1);
	assert_int_equal(b.rises[20], 1);
	board_advance(&b, (u64)10 << 32);
	assert_int_equal(b.rises[20], 2);
}

static void test_periodic(void **state)
{
	(void)state;
	put(CONFIG, ENABLE);
	put(config(1), T_ENABLE | T_PERIODIC | T_VAL_SET | T_32 | route(17));
	/* As Linux does: first match, then the period, by 32 bits. */
	write32(&b, HPET_BASE + comparator(1), 5 * MS_TICKS);
	write32(&b, HPET_BASE + comparator(1), MS_TICKS);
	ms(4);
	assert_int_equal(b.rises[17], 0);
	ms(1);
	assert_int_equal(b.rises[17], 1);
	ms(100);
	assert_int_equal(b.rises[17], 101);
	assert_int_equal(get(comparator(1)), 106 * MS_TICKS);
}

static void test_periodic_storm_is_bounded(void **state)
{
	(void)state;
	put(CONFIG, ENABLE);
	put(config(0), T_ENABLE | T_PERIODIC | T_VAL_SET | route(16));
	put(comparator(0), 1);
	ms(1000);
	assert_in_range(b.rises[16], 5000, 10001);
}

static void test_level(void **state)
{
	(void)state;
	put(CONFIG, ENABLE);
	put(config(2), T_ENABLE | T_LEVEL | route(21));
	put(comparator(2), MS_TICKS);
	ms(2);
	assert_true(b.level[21]);
	assert_int_equal(get(STATUS), 4);
	put(STATUS, 3);
	assert_true(b.level[21]);
	put(STATUS, 4);
	assert_false(b.level[21]);
	assert_int_equal(get(STATUS), 0);
}

static void test_legacy_replacement(void **state)
{
	(void)state;
	out8(&b, 0x43, 0x34); /* PIT at 1 kHz */
	out8(&b, 0x40, 1193 & 0xff);
	out8(&b, 0x40, 1193 >> 8);
	ms(10);
	assert_in_range(b.rises[0], 9, 11);
	b.rises[0] = 0;
	put(config(0), T_ENABLE | T_PERIODIC | T_VAL_SET | route(16));
	put(comparator(0), 10 * MS_TICKS);
	put(config(1), T_ENABLE | route(16));
	put(comparator(1), 50 * MS_TICKS);
	put(CONFIG, ENABLE | LEGACY);
	ms(100);
	assert_int_equal(b.rises[0], 10);
	assert_int_equal(b.rises[8], 1);
	assert_int_equal(b.rises[16], 0);
	put(CONFIG, ENABLE);
	b.rises[0] = 0;
	ms(100);
	assert_in_range(b.rises[0], 99, 102); /* the PIT again */
	assert_int_equal(b.rises[16], 10);
}

static void test_bad_route(void **state)
{
	(void)state;
	put(CONFIG, ENABLE);
	put(config(0), T_ENABLE | route(31));
	put(comparator(0), MS_TICKS);
	ms(2);
	assert_int_equal(b.rises[16], 1); /* one of the possible */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_identity),  TEST(test_counter),
		TEST(test_one_shot),  TEST(test_one_shot_32bit_wraps),
		TEST(test_periodic),  TEST(test_periodic_storm_is_bounded),
		TEST(test_level),     TEST(test_legacy_replacement),
		TEST(test_bad_route),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
