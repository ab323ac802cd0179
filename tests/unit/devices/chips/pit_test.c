/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "board.h"
#include "devices/chips/pit.h"

static struct {
	struct board board;
	struct pit *pit;
	bool wanted;
} t;

static bool irq0_wanted(void *ctx)
{
	(void)ctx;
	return t.wanted;
}

static int setup(void **state)
{
	struct pit_host to = { NULL, irq0_wanted };

	(void)state;
	board_init(&t.board);
	t.wanted = true;
	t.pit = board_add(&t.board, pit_create(&t.board.host, &to));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&t.board);
	return 0;
}

/* The first nanosecond of a tick after n more. */
static void ticks(u64 n)
{
	u64 now = clock_now_ns(t.board.host.clock);
	u64 tick = now * PIT_HZ / NSEC_PER_SEC + n;
	u64 then = (tick * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ;

	board_advance(&t.board, then - now);
}

static void program(unsigned channel, u8 mode, bool bcd, u16 count)
{
	out8(&t.board, 0x43, (u8)(channel << 6 | 0x30 | mode << 1 | bcd));
	out8(&t.board, (u16)(0x40 + channel), (u8)count);
	out8(&t.board, (u16)(0x40 + channel), (u8)(count >> 8));
}

static u16 count(unsigned channel)
{
	u16 port = (u16)(0x40 + channel);
	u8 low;

	out8(&t.board, 0x43, (u8)(channel << 6));
	low = in8(&t.board, port);
	return (u16)(low | in8(&t.board, port) << 8);
}

static u8 status(unsigned channel)
{
	out8(&t.board, 0x43, (u8)(0xe0 | 2 << channel));
	return in8(&t.board, (u16)(0x40 + channel));
}

static bool out2(void)
{
	return in8(&t.board, 0x61) & 0x20;
}

static void gate2(bool on)
{
	out8(&t.board, 0x61, on);
}

static void test_mode0(void **state)
{
	(void)state;
	gate2(true);
	program(2, 0, false, 1000);
	assert_int_equal(status(2), 0x40 | 0x30); /* null count, low */
	ticks(1);
	assert_int_equal(status(2), 0x30);
	assert_int_equal(count(2), 1000);
	ticks(400);
	assert_int_equal(count(2), 600);
	assert_false(out2());
	gate2(false);
	ticks(5000);
	assert_int_equal(count(2), 600); /* held */
	gate2(true);
	ticks(599);
	assert_false(out2());
	ticks(1);
	assert_true(out2());
	assert_int_equal(count(2), 0);
	ticks(1);
	assert_int_equal(count(2), 0xffff); /* goes on */
	assert_true(out2());
}

static void test_mode1(void **state)
{
	(void)state;
	gate2(false);
	program(2, 1, false, 100);
	ticks(1000);
	assert_true(out2());
	gate2(true);
	ticks(1);
	assert_false(out2());
	ticks(60);
	gate2(false);
	gate2(true); /* triggered again */
	ticks(100);
	assert_false(out2());
	ticks(1);
	assert_true(out2());
}

static void test_mode2(void **state)
{
	(void)state;
	gate2(true);
	program(2, 2, false, 10);
	ticks(1);
	assert_int_equal(count(2), 10);
	ticks(9);
	assert_int_equal(count(2), 1);
	assert_false(out2());
	ticks(1);
	assert_int_equal(count(2), 10);
	assert_true(out2());
	/* A new count waits for the end of the period. */
	ticks(3);
	out8(&t.board, 0x42, 20);
	out8(&t.board, 0x42, 0);
	assert_int_equal(count(2), 7);
	ticks(7);
	assert_int_equal(count(2), 20);
	ticks(15);
	assert_int_equal(count(2), 5);
	gate2(false);
	assert_true(out2());
	gate2(true);
	ticks(1);
	assert_int_equal(count(2), 20);
}

static void test_mode3(void **state)
{
	(void)state;
	gate2(true);
	program(2, 3, false, 8);
	ticks(1);
	assert_int_equal(count(2), 8);
	ticks(3);
	assert_int_equal(count(2), 2);
	assert_true(out2());
	ticks(1);
	assert_int_equal(count(2), 8);
	assert_false(out2());
	ticks(4);
	assert_true(out2());
	/* Odd: high for one tick more. */
	program(2, 3, false, 5);
	ticks(1 + 2);
	assert_true(out2());
	ticks(1);
	assert_false(out2());
	ticks(2);
	assert_true(out2());
}

static void test_mode4(void **state)
{
	(void)state;
	gate2(true);
	program(2, 4, false, 50);
	ticks(50);
	assert_true(out2());
	ticks(1);
	assert_false(out2()); /* one tick of strobe */
	ticks(1);
	assert_true(out2());
	ticks(65535);
	assert_true(out2());
}

static void test_mode5(void **state)
{
	(void)state;
	gate2(false);
	program(2, 5, false, 50);
	ticks(100);
	gate2(true);
	ticks(1 + 50);
	assert_false(out2());
	ticks(1);
	assert_true(out2());
}

static void test_bcd(void **state)
{
	(void)state;
	gate2(true);
	program(2, 2, true, 0x1000);
	ticks(1);
	assert_int_equal(count(2), 0x1000);
	ticks(1);
	assert_int_equal(count(2), 0x0999);
	program(2, 0, true, 0); /* 10000 */
	ticks(1 + 1);
	assert_int_equal(count(2), 0x9999);
}

static void test_latches(void **state)
{
	(void)state;
	gate2(true);
	program(2, 2, false, 10000);
	ticks(1);
	out8(&t.board, 0x43, 0x80);
	ticks(500);
	out8(&t.board, 0x43, 0x80); /* ignored: one is latched */
	assert_int_equal(in8(&t.board, 0x42), 10000 & 0xff);
	assert_int_equal(in8(&t.board, 0x42), 10000 >> 8);
	assert_int_equal(count(2), 9500);
	/* Read-back of status and count: status is read first. */
	out8(&t.board, 0x43, 0xc8);
	ticks(500);
	assert_int_equal(in8(&t.board, 0x42), 0x80 | 0x30 | 2 << 1);
	assert_int_equal(in8(&t.board, 0x42), 9500 & 0xff);
	assert_int_equal(in8(&t.board, 0x42), 9500 >> 8);
}

static void test_byte_access(void **state)
{
	(void)state;
	gate2(true);
	out8(&t.board, 0x43, 0x94); /* low byte, mode 2 */
	out8(&t.board, 0x42, 100);
	ticks(1 + 10);
	assert_int_equal(in8(&t.board, 0x42), 90);
	assert_int_equal(in8(&t.board, 0x42), 90);
	out8(&t.board, 0x43, 0xa4); /* high byte */
	out8(&t.board, 0x42, 2);
	ticks(1);
	assert_int_equal(in8(&t.board, 0x42), 2);
	ticks(1);
	assert_int_equal(in8(&t.board, 0x42), 1);
}

static void test_irq0_rate(void **state)
{
	unsigned before;

	(void)state;
	program(0, 2, false, 11932); /* 100 Hz */
	before = t.board.rises[0];
	board_advance(&t.board, 10 * NSEC_PER_SEC);
	assert_in_range(t.board.rises[0] - before, 999, 1001);
	program(0, 3, false, 1193); /* 1 kHz */
	before = t.board.rises[0];
	board_advance(&t.board, NSEC_PER_SEC);
	assert_in_range(t.board.rises[0] - before, 999, 1001);
}

static void test_irq0_one_shot(void **state)
{
	(void)state;
	program(0, 0, false, 1193);
	assert_false(t.board.level[0]);
	board_advance(&t.board, 900 * NSEC_PER_USEC);
	assert_int_equal(t.board.rises[0], 0);
	board_advance(&t.board, 110 * NSEC_PER_USEC);
	assert_int_equal(t.board.rises[0], 1);
	assert_true(t.board.level[0]);
	board_advance(&t.board, NSEC_PER_SEC);
	assert_int_equal(t.board.rises[0], 1);
	assert_int_equal(fake_clock_armed(t.board.host.clock), 0);
	program(0, 0, false, 1193);
	assert_false(t.board.level[0]); /* a new count lowers it */
}

static void test_irq0_storm_is_bounded(void **state)
{
	(void)state;
	program(0, 2, false, 2);
	board_advance(&t.board, NSEC_PER_SEC);
	assert_in_range(t.board.rises[0], 5000, 10001);
}

static void test_no_timer_while_masked(void **state)
{
	(void)state;
	t.wanted = false;
	program(0, 2, false, 11932);
	assert_int_equal(fake_clock_armed(t.board.host.clock), 0);
	board_advance(&t.board, NSEC_PER_SEC);
	assert_int_equal(t.board.rises[0], 0);
	t.wanted = true;
	pit_irq0_unmasked(t.pit);
	board_advance(&t.board, NSEC_PER_SEC);
	assert_in_range(t.board.rises[0], 99, 102);
}

static void test_route(void **state)
{
	(void)state;
	program(0, 2, false, 11932);
	pit_irq0_route(t.pit, false);
	board_advance(&t.board, NSEC_PER_SEC);
	assert_int_equal(t.board.rises[0], 0);
	assert_int_equal(fake_clock_armed(t.board.host.clock), 0);
	pit_irq0_route(t.pit, true);
	board_advance(&t.board, NSEC_PER_SEC);
	assert_in_range(t.board.rises[0], 99, 101);
}

static void test_port61(void **state)
{
	u8 seen = 0;

	(void)state;
	out8(&t.board, 0x61, 0xff);
	assert_int_equal(in8(&t.board, 0x61) & 0xcf, 0x0f);
	for (int i = 0; i < 4; i++) {
		seen |= (u8)(1 << !!(in8(&t.board, 0x61) & 0x10));
		board_advance(&t.board, 10000);
	}
	assert_int_equal(seen, 3); /* refresh toggles */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_mode0),
		TEST(test_mode1),
		TEST(test_mode2),
		TEST(test_mode3),
		TEST(test_mode4),
		TEST(test_mode5),
		TEST(test_bcd),
		TEST(test_latches),
		TEST(test_byte_access),
		TEST(test_irq0_rate),
		TEST(test_irq0_one_shot),
		TEST(test_irq0_storm_is_bounded),
		TEST(test_no_timer_while_masked),
		TEST(test_route),
		TEST(test_port61),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
