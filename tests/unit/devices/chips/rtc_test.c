/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "board.h"
#include "devices/chips/rtc.h"

/* 2023-12-31 23:59:58 UTC, a Sunday. */
#define EVE ((s64)1704067198)
enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	A,
	B,
	C,
	D,
	CENTURY = 0x32
};

static struct {
	struct board board;
	struct rtc *rtc;
	s64 base_ns;
} t;

static s64 wall(void *ctx)
{
	(void)ctx;
	return t.base_ns + (s64)clock_now_ns(t.board.host.clock);
}

static int setup(void **state)
{
	struct rtc_config config = { .wall_ns = wall };

	(void)state;
	board_init(&t.board);
	t.base_ns = EVE * 1000000000;
	t.rtc = board_add(&t.board, rtc_create(&t.board.host, &config));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&t.board);
	return 0;
}

static u8 get(u8 index)
{
	out8(&t.board, 0x70, index);
	return in8(&t.board, 0x71);
}

static void put(u8 index, u8 value)
{
	out8(&t.board, 0x70, index);
	out8(&t.board, 0x71, value);
}

static void ms(u64 n)
{
	board_advance(&t.board, n * NSEC_PER_MSEC);
}

static void check_time(u8 century, u8 year, u8 month, u8 day, u8 hour,
                       u8 minute, u8 second)
{
	assert_int_equal(get(SECONDS), second);
	assert_int_equal(get(MINUTES), minute);
	assert_int_equal(get(HOURS), hour);
	assert_int_equal(get(DAY), day);
	assert_int_equal(get(MONTH), month);
	assert_int_equal(get(YEAR), year);
	assert_int_equal(get(CENTURY), century);
}

static void test_time(void **state)
{
	(void)state;
	check_time(0x20, 0x23, 0x12, 0x31, 0x23, 0x59, 0x58);
	assert_int_equal(get(WEEKDAY), 1);
	ms(2000);
	check_time(0x20, 0x24, 0x01, 0x01, 0x00, 0x00, 0x00);
	assert_int_equal(get(WEEKDAY), 2);
	assert_int_equal(get(D), 0x80);
}

static void test_formats(void **state)
{
	(void)state;
	put(B, 0x06); /* binary, 24 h */
	check_time(20, 23, 12, 31, 23, 59, 58);
	put(B, 0x04); /* binary, 12 h */
	assert_int_equal(get(HOURS), 0x80 | 11);
	put(B, 0x00); /* BCD, 12 h */
	assert_int_equal(get(HOURS), 0x80 | 0x11);
	ms(2000);
	assert_int_equal(get(HOURS), 0x12); /* midnight */
	ms(12 * 3600 * 1000);
	assert_int_equal(get(HOURS), 0x80 | 0x12); /* noon */
}

static void test_set_time(void **state)
{
	(void)state;
	put(B, 0x82); /* SET */
	put(SECONDS, 0x30);
	put(MINUTES, 0x15);
	put(HOURS, 0x08);
	put(DAY, 0x29);
	put(MONTH, 0x02);
	put(YEAR, 0x28);
	ms(5000);
	assert_int_equal(get(SECONDS), 0x30); /* stands still */
	put(B, 0x02);
	check_time(0x20, 0x28, 0x02, 0x29, 0x08, 0x15, 0x30);
	ms(16 * 3600 * 1000);
	check_time(0x20, 0x28, 0x03, 0x01, 0x00, 0x15, 0x30);
	put(MINUTES, 0x20); /* without SET */
	check_time(0x20, 0x28, 0x03, 0x01, 0x00, 0x20, 0x30);
	put(B, 0x82);
	put(CENTURY, 0x99); /* further than nanoseconds reach */
	put(B, 0x02);
	assert_int_equal(get(CENTURY), 0x21);
	put(MONTH, 0xff); /* nonsense */
	put(HOURS, 0xff);
	get(HOURS);
}

static void test_update_in_progress(void **state)
{
	(void)state;
	assert_int_equal(get(A) & 0x80, 0);
	ms(997);
	assert_int_equal(get(A) & 0x80, 0);
	ms(1);
	assert_int_equal(get(A) & 0x80, 0x80);
	assert_int_equal(get(SECONDS), 0x58);
	ms(2);
	assert_int_equal(get(A) & 0x80, 0);
	assert_int_equal(get(SECONDS), 0x59);
}

static void test_update_interrupt(void **state)
{
	(void)state;
	assert_int_equal(fake_clock_armed(t.board.host.clock), 0);
	put(A, 0x20); /* no periodic flag */
	put(B, 0x12);
	ms(999);
	assert_false(t.board.level[8]);
	ms(1);
	assert_true(t.board.level[8]);
	/* None runs while one waits. */
	assert_int_equal(fake_clock_armed(t.board.host.clock), 0);
	assert_int_equal(get(C), 0x90);
	assert_false(t.board.level[8]);
	assert_int_equal(get(C), 0x00);
	ms(1000);
	assert_true(t.board.level[8]);
	/* Flags without interrupts. */
	get(C);
	put(B, 0x02);
	ms(1000);
	assert_false(t.board.level[8]);
	assert_int_equal(get(C), 0x10);
}

static void test_alarm(void **state)
{
	(void)state;
	put(SECONDS_ALARM, 0x05);
	put(MINUTES_ALARM, 0x00);
	put(HOURS_ALARM, 0x00);
	put(A, 0x20); /* no periodic flag */
	put(B, 0x22);
	ms(6999);
	assert_false(t.board.level[8]);
	ms(1);
	assert_true(t.board.level[8]);
	assert_int_equal(get(C), 0xb0); /* the update flag too */
	/* Every hour, at 10 past. */
	put(HOURS_ALARM, 0xc0);
	put(MINUTES_ALARM, 0x10);
	ms(10 * 60 * 1000);
	assert_int_equal(get(C) & 0xa0, 0xa0);
	ms(59 * 60 * 1000);
	assert_false(t.board.level[8]);
	ms(60 * 1000);
	assert_true(t.board.level[8]);
	/* Never. */
	put(HOURS_ALARM, 0x55);
	get(C);
	ms(25 * 3600 * 1000);
	assert_false(t.board.level[8]);
	assert_int_equal(get(C) & 0x20, 0);
}

static void test_alarm_12h(void **state)
{
	(void)state;
	put(B, 0x20);
	put(SECONDS_ALARM, 0x00);
	put(MINUTES_ALARM, 0x00);
	put(HOURS_ALARM, 0x81); /* 1 p.m. */
	get(C);
	ms((12 * 3600 + 3599) * 1000);
	assert_false(t.board.level[8]);
	ms(3000);
	assert_true(t.board.level[8]);
}

static void test_periodic(void **state)
{
	unsigned n = 0;

	(void)state;
	put(A, 0x26); /* 1024 Hz */
	put(B, 0x42);
	for (unsigned i = 0; i < 10000; i++) {
		board_advance(&t.board, 100000);
		if (t.board.level[8]) {
			assert_int_equal(get(C) & 0xc0, 0xc0);
			n++;
		}
	}
	assert_in_range(n, 1020, 1025);
	put(A, 0x2f); /* 2 Hz */
	get(C);
	ms(499);
	assert_false(t.board.level[8]);
	ms(501);
	assert_true(t.board.level[8]);
	put(A, 0x20); /* off */
	get(C);
	ms(2000);
	assert_int_equal(get(C) & 0x40, 0);
}

static void test_memory(void **state)
{
	(void)state;
	rtc_set_cmos(t.rtc, 0x3d, 0x21);
	rtc_set_cmos(t.rtc, B, 0xff); /* refused */
	assert_int_equal(get(0x3d), 0x21);
	put(0x7f, 0xa5);
	assert_int_equal(rtc_get_cmos(t.rtc, 0x7f), 0xa5);
	board_reset(&t.board);
	assert_int_equal(get(0x7f), 0xa5); /* a battery holds it */
	assert_int_equal(get(B), 0x02);
	assert_int_equal(in8(&t.board, 0x70), 0xff);
}

static void test_nmi_mask(void **state)
{
	(void)state;
	out8(&t.board, 0x70, 0x8f);
	assert_true(rtc_nmi_masked(t.rtc));
	out8(&t.board, 0x70, 0x0f);
	assert_false(rtc_nmi_masked(t.rtc));
}

/* The host's clock is set back and forth. */
static void test_host_steps(void **state)
{
	(void)state;
	put(SECONDS_ALARM, 0x00);
	put(MINUTES_ALARM, 0x30);
	put(HOURS_ALARM, 0x01);
	put(B, 0x22);
	t.base_ns -= (s64)3600 * 1000000000;
	ms(2000);
	get(C);
	t.base_ns += (s64)2 * 3600 * 1000000000 + 1800 * (s64)1000000000;
	ms(61000); /* it looks again within a minute */
	assert_true(t.board.level[8]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_time),
		TEST(test_formats),
		TEST(test_set_time),
		TEST(test_update_in_progress),
		TEST(test_update_interrupt),
		TEST(test_alarm),
		TEST(test_alarm_12h),
		TEST(test_periodic),
		TEST(test_memory),
		TEST(test_nmi_mask),
		TEST(test_host_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
