/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "board.h"
#include "devices/chips/i8042.h"

enum { DATA = 0x60, COMMAND = 0x64 };

static struct board b;
static struct i8042 *k;

static int setup_mouse(void **state)
{
	(void)state;
	board_init(&b);
	k = board_add(&b, i8042_create(&b.host, I8042_MOUSE));
	return 0;
}

static int setup(void **state)
{
	(void)state;
	board_init(&b);
	k = board_add(&b, i8042_create(&b.host, I8042_NO_MOUSE));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&b);
	return 0;
}

static void expect(const u8 *bytes, size_t n, u8 source)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(in8(&b, COMMAND) & 0x21, 1 | source);
		assert_int_equal(in8(&b, DATA), bytes[i]);
	}
	assert_int_equal(in8(&b, COMMAND) & 1, 0);
}

#define EXPECT(...)                                                            \
	do {                                                                   \
		const u8 bytes_[] = { __VA_ARGS__ };                           \
		expect(bytes_, sizeof(bytes_), 0);                             \
	} while (0)
#define EXPECT_MOUSE(...)                                                      \
	do {                                                                   \
		const u8 bytes_[] = { __VA_ARGS__ };                           \
		expect(bytes_, sizeof(bytes_), 0x20);                          \
	} while (0)

static void mouse(u8 byte)
{
	out8(&b, COMMAND, 0xd4);
	out8(&b, DATA, byte);
}

static void test_controller(void **state)
{
	(void)state;
	out8(&b, COMMAND, 0xaa);
	EXPECT(0x55);
	out8(&b, COMMAND, 0xab);
	EXPECT(0x00);
	out8(&b, COMMAND, 0xa9);
	EXPECT(0x01); /* no mouse */
	out8(&b, COMMAND, 0x60);
	out8(&b, DATA, 0x65);
	out8(&b, COMMAND, 0x20);
	EXPECT(0x65);
	out8(&b, COMMAND, 0x75); /* RAM */
	out8(&b, DATA, 0x99);
	out8(&b, COMMAND, 0x35);
	EXPECT(0x99);
	out8(&b, COMMAND, 0xd2);
	out8(&b, DATA, 0x77);
	EXPECT(0x77);
	out8(&b, COMMAND, 0xd3); /* not from a mouse */
	out8(&b, DATA, 0x5a);
	EXPECT(0x5a);
}

static void test_reset(void **state)
{
	(void)state;
	out8(&b, COMMAND, 0xff);
	assert_int_equal(b.resets, 0);
	out8(&b, COMMAND, 0xfe);
	assert_int_equal(b.resets, 1);
	out8(&b, COMMAND, 0xd1);
	out8(&b, DATA, 0xfe);
	assert_int_equal(b.resets, 2);
}

static void test_a20(void **state)
{
	(void)state;
	out8(&b, COMMAND, 0xdd);
	out8(&b, COMMAND, 0xd0);
	assert_int_equal(in8(&b, DATA) & 3, 1);
	out8(&b, COMMAND, 0xd1);
	out8(&b, DATA, 0xdf);
	out8(&b, COMMAND, 0xd0);
	assert_int_equal(in8(&b, DATA) & 3, 3);
}

static void test_keys(void **state)
{
	(void)state;
	i8042_key(k, 0x1e, false, true); /* A */
	assert_true(b.level[1]);
	EXPECT(0x1e);
	assert_false(b.level[1]);
	i8042_key(k, 0x1e, false, false);
	EXPECT(0x9e);
	i8042_key(k, 0x48, true, true); /* cursor up */
	i8042_key(k, 0x48, true, false);
	EXPECT(0xe0, 0x48, 0xe0, 0xc8);
	assert_int_equal(b.rises[1], 6); /* an edge for each byte */
	i8042_key(k, 0x41, false, true); /* F7, the odd one */
	EXPECT(0x41);
	out8(&b, COMMAND, 0x60); /* no translation: set 2 */
	out8(&b, DATA, 0x05);
	i8042_key(k, 0x1e, false, true);
	i8042_key(k, 0x1e, false, false);
	EXPECT(0x1c, 0xf0, 0x1c);
	out8(&b, DATA, 0xf0);
	out8(&b, DATA, 0x01); /* set 1 */
	EXPECT(0xfa, 0xfa);
	i8042_key(k, 0x1e, false, false);
	EXPECT(0x9e);
}

/* Each key of set 1 comes back as itself through both translations. */
static void test_all_keys(void **state)
{
	(void)state;
	for (u8 code = 1; code < 0x59; code++) {
		if (code == 0x54 + 1 || code == 0x55)
			continue;
		i8042_key(k, code, false, true);
		EXPECT(code);
	}
}

static void test_keyboard_commands(void **state)
{
	(void)state;
	out8(&b, DATA, 0xff);
	EXPECT(0xfa, 0xaa);
	out8(&b, DATA, 0xf2);
	EXPECT(0xfa, 0xab, 0x41); /* 83, translated */
	out8(&b, DATA, 0xed);
	EXPECT(0xfa);
	out8(&b, DATA, 0x05);
	EXPECT(0xfa);
	assert_int_equal(i8042_leds(k), 5);
	out8(&b, DATA, 0xee);
	EXPECT(0xee);
	out8(&b, DATA, 0xf0);
	out8(&b, DATA, 0x00);
	EXPECT(0xfa, 0xfa, 0x41); /* set 2, translated */
	out8(&b, DATA, 0x12);
	EXPECT(0xfe);
	out8(&b, DATA, 0xf5);
	EXPECT(0xfa);
	i8042_key(k, 0x1e, false, true);
	assert_int_equal(in8(&b, COMMAND) & 1, 0);
	out8(&b, DATA, 0xf4);
	EXPECT(0xfa);
	i8042_key(k, 0x1e, false, true);
	EXPECT(0x1e);
}

static void test_keyboard_off(void **state)
{
	(void)state;
	out8(&b, COMMAND, 0xad);
	i8042_key(k, 0x1e, false, true);
	assert_int_equal(in8(&b, COMMAND) & 1, 0);
	out8(&b, COMMAND, 0xae);
	EXPECT(0x1e);
}

static void test_overflow(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 1000; i++)
		i8042_key(k, 0x1e, true, false);
	out8(&b, DATA, 0xee); /* a reply still finds room */
	for (unsigned i = 0; i < 64 && (in8(&b, COMMAND) & 1); i++)
		if (in8(&b, DATA) == 0xee)
			return;
	fail();
}

static void test_mouse(void **state)
{
	(void)state;
	out8(&b, COMMAND, 0xa9);
	EXPECT(0x00);
	mouse(0xff);
	assert_true(b.level[12]);
	EXPECT_MOUSE(0xfa, 0xaa, 0x00);
	i8042_mouse_move(k, 5, 5, 0, 0);
	assert_int_equal(in8(&b, COMMAND) & 1, 0); /* not yet reporting */
	mouse(0xf6);
	mouse(0xf4);
	EXPECT_MOUSE(0xfa, 0xfa);
	i8042_mouse_move(k, 10, -3, 0, 1);
	EXPECT_MOUSE(0x29, 10, 0xfd);
	i8042_mouse_move(k, -300, 0, 0, 0); /* two reports */
	EXPECT_MOUSE(0x18, 0x00, 0, 0x18, 0xd4, 0);
}

static void test_mouse_wheel(void **state)
{
	static const u8 rates[] = { 200, 100, 80 };

	(void)state;
	for (size_t i = 0; i < sizeof(rates); i++) {
		mouse(0xf3);
		EXPECT_MOUSE(0xfa);
		mouse(rates[i]);
		EXPECT_MOUSE(0xfa);
	}
	mouse(0xf2);
	EXPECT_MOUSE(0xfa, 3);
	mouse(0xf4);
	EXPECT_MOUSE(0xfa);
	i8042_mouse_move(k, 0, 0, 1, 4);
	EXPECT_MOUSE(0x0c, 0, 0, 0xff);
	mouse(0xe9);
	EXPECT_MOUSE(0xfa, 0x22, 2, 80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_controller, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a20, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(test_all_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keyboard_commands, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_keyboard_off, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_overflow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mouse, setup_mouse,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_mouse_wheel, setup_mouse,
		                                teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
