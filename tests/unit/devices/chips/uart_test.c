/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <string.h>

#include "board.h"
#include "devices/chips/uart.h"

enum { DATA = 0x3f8, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH };
enum { FCR = IIR };

static struct {
	struct board board;
	struct uart *u;
	u8 text[10000];
	size_t length;
	size_t take; /* how much the backend takes now */
	unsigned rooms;
} t;

static size_t out(void *ctx, const u8 *data, size_t n)
{
	size_t taken = MIN(n, t.take);

	(void)ctx;
	ASSERT(t.length + taken <= sizeof(t.text));
	memcpy(t.text + t.length, data, taken);
	t.length += taken;
	t.take -= taken;
	return taken;
}

static void input_room(void *ctx)
{
	(void)ctx;
	t.rooms++;
}

static int setup(void **state)
{
	struct uart_backend backend = { NULL, out, input_room };

	(void)state;
	memset(&t, 0, sizeof(t));
	t.take = SIZE_MAX;
	board_init(&t.board);
	t.u = board_add(&t.board,
	                uart_create(&t.board.host, "com1", DATA, 4, &backend));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&t.board);
	return 0;
}

static u8 get(u16 port)
{
	return in8(&t.board, port);
}

static void put(u16 port, u8 value)
{
	out8(&t.board, port, value);
}

static size_t input(const char *s)
{
	return uart_input(t.u, (const u8 *)s, strlen(s));
}

static void test_registers(void **state)
{
	(void)state;
	assert_int_equal(get(LSR), 0x60);
	assert_int_equal(get(MSR), 0xb0);
	assert_int_equal(get(IIR), 0x01);
	put(SCRATCH, 0x5a);
	assert_int_equal(get(SCRATCH), 0x5a);
	put(LCR, 0x83);
	put(DATA, 1);
	put(IER, 2);
	assert_int_equal(get(DATA), 1);
	assert_int_equal(get(IER), 2);
	put(LCR, 0x03);
	assert_int_equal(get(IER), 0);
	put(IER, 0xff);
	assert_int_equal(get(IER), 0x0f);
	put(MCR, 0xff);
	assert_int_equal(get(MCR), 0x1f);
	put(FCR, 0xc7);
	assert_int_equal(get(IIR) & 0xc0, 0xc0);
}

static void test_output(void **state)
{
	(void)state;
	for (const char *s = "hello"; *s; s++)
		put(DATA, (u8)*s);
	assert_memory_equal(t.text, "hello", 5);
	put(IER, 2);
	assert_true(t.board.level[4]); /* THR is empty */
	assert_int_equal(get(IIR), 0x02);
	assert_int_equal(get(IIR), 0x01); /* told */
	assert_false(t.board.level[4]);
	put(DATA, '!');
	assert_true(t.board.level[4]);
}

static void test_backpressure(void **state)
{
	char expect[4096];

	(void)state;
	put(FCR, 1);
	t.take = 3;
	for (unsigned i = 0; i < 3; i++)
		put(DATA, (u8)('a' + i));
	assert_int_equal(get(LSR), 0x60);
	put(DATA, 'd');
	assert_int_equal(get(LSR), 0x00); /* not empty: wait */
	put(IER, 2);
	assert_false(t.board.level[4]);
	/* A driver that does not wait loses nothing either. */
	for (unsigned i = 4; i < sizeof(expect); i++)
		put(DATA, (u8)('a' + i % 26));
	t.take = 100;
	uart_output_ready(t.u);
	assert_int_equal(get(LSR), 0x00);
	t.take = SIZE_MAX;
	uart_output_ready(t.u);
	assert_int_equal(get(LSR), 0x60);
	assert_true(t.board.level[4]);
	for (unsigned i = 0; i < sizeof(expect); i++)
		expect[i] = (char)('a' + i % 26);
	assert_int_equal(t.length, sizeof(expect));
	assert_memory_equal(t.text, expect, sizeof(expect));
}

static void test_input_without_fifo(void **state)
{
	(void)state;
	put(IER, 1);
	assert_int_equal(input("ab"), 1);
	assert_int_equal(get(IIR), 0x04);
	assert_int_equal(get(LSR), 0x61);
	assert_int_equal(t.rooms, 0);
	assert_int_equal(get(DATA), 'a');
	assert_int_equal(t.rooms, 1);
	assert_false(t.board.level[4]);
	assert_int_equal(input("b"), 1);
	assert_true(t.board.level[4]);
}

static void test_input_fifo(void **state)
{
	(void)state;
	put(FCR, 0x81); /* trigger at 8 */
	put(IER, 1);
	assert_int_equal(input("1234567"), 7);
	assert_int_equal(get(IIR), 0xcc); /* character timeout */
	input("8");
	assert_int_equal(get(IIR), 0xc4);
	assert_int_equal(input("9abcdefghijkl"), 8); /* 16 deep */
	for (const char *s = "123456789abcdefg"; *s; s++)
		assert_int_equal(get(DATA), *s);
	assert_int_equal(t.rooms, 1);
	assert_int_equal(get(IIR), 0xc1);
	input("xyz");
	put(FCR, 0x83); /* clear */
	assert_int_equal(get(LSR), 0x60);
	assert_false(t.board.level[4]);
}

static void test_loopback(void **state)
{
	(void)state;
	put(MCR, 0x1a); /* as Linux probes */
	assert_int_equal(get(MSR) & 0xf0, 0x90);
	put(FCR, 1);
	put(DATA, 0x42);
	assert_int_equal(t.length, 0);
	assert_int_equal(get(LSR), 0x61);
	assert_int_equal(get(DATA), 0x42);
	assert_int_equal(input("x"), 0); /* not heard, nor lost */
	for (unsigned i = 0; i < 17; i++)
		put(DATA, (u8)i);
	put(IER, 4);
	assert_int_equal(get(IIR), 0xc6); /* overrun */
	assert_int_equal(get(LSR) & 2, 2);
	assert_int_equal(get(LSR) & 2, 0);
	assert_int_equal(get(DATA), 0);
	put(FCR, 3);
	put(MCR, 0);
	assert_int_equal(t.rooms, 1);
}

static void test_modem_status(void **state)
{
	(void)state;
	put(IER, 8);
	put(MCR, 0x10); /* all lines fall */
	assert_true(t.board.level[4]);
	assert_int_equal(get(IIR), 0x00);
	assert_int_equal(get(MSR), 0x0b);
	assert_int_equal(get(MSR), 0x00);
	assert_false(t.board.level[4]);
	put(MCR, 0x14); /* RI rises: no event; falls: one */
	assert_int_equal(get(MSR), 0x40);
	put(MCR, 0x10);
	assert_int_equal(get(MSR), 0x04);
}

static void test_break(void **state)
{
	(void)state;
	put(FCR, 0x41); /* trigger at 4 */
	put(IER, 5);
	input("a");
	uart_break(t.u);
	assert_int_equal(get(IIR), 0xcc);
	assert_int_equal(get(LSR), 0xe1); /* an error further on */
	assert_int_equal(get(DATA), 'a');
	assert_int_equal(get(IIR), 0xc6);
	assert_int_equal(get(LSR), 0xf1);
	assert_int_equal(get(DATA), 0);
	assert_int_equal(get(LSR), 0x60);
}

static void test_state_keeps_output(void **state)
{
	struct state_writer w = { 0 };

	(void)state;
	t.take = 0;
	put(DATA, 'o');
	put(DATA, 'k');
	board_save(&t.board, &w);
	t.take = SIZE_MAX;
	assert_int_equal(board_load(&t.board, &w), 0);
	assert_int_equal(t.length, 2);
	assert_memory_equal(t.text, "ok", 2);
	state_writer_fini(&w);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_registers),          TEST(test_output),
		TEST(test_backpressure),       TEST(test_input_without_fifo),
		TEST(test_input_fifo),         TEST(test_loopback),
		TEST(test_modem_status),       TEST(test_break),
		TEST(test_state_keeps_output),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
