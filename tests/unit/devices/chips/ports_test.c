/* SPDX-License-Identifier: Apache-2.0 */
/* The small ones: sysports, debug ports, CPU block, test device. */
#include "check.h"

#include <string.h>

#include "board.h"
#include "devices/chips/cpu_hotplug.h"
#include "devices/chips/debug_ports.h"
#include "devices/chips/sysports.h"
#include "devices/chips/testdev.h"

static struct board b;
static struct cpu_hotplug *plug;
static char text[16];

static void out(void *ctx, const u8 *data, size_t n)
{
	(void)ctx;
	strncat(text, (const char *)data, n);
}

static int setup(void **state)
{
	struct debugcon_sink sink = { NULL, out };

	(void)state;
	text[0] = '\0';
	board_init(&b);
	board_add(&b, sysports_create(&b.host));
	board_add(&b, debug_exit_create(&b.host));
	board_add(&b, debugcon_create(&b.host, &sink));
	plug = cpu_hotplug_create(&b.host, 2, 3);
	board_add(&b, plug);
	board_add(&b, testdev_create(&b.host));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&b);
	return 0;
}

static void test_reset_ports(void **state)
{
	(void)state;
	out8(&b, 0xcf9, 0x02);
	assert_int_equal(b.resets, 0);
	out8(&b, 0xcf9, SYSPORTS_RESET_VALUE);
	assert_int_equal(b.resets, 1);
	out8(&b, 0xcf9, 0x06); /* no rise */
	assert_int_equal(b.resets, 1);
	board_reset(&b);
	assert_int_equal(in8(&b, 0xcf9), 0);
	assert_int_equal(in8(&b, 0x92), 2); /* A20 */
	out8(&b, 0x92, 3);
	assert_int_equal(b.resets, 2);
	out8(&b, 0x80, 0x12);
	assert_int_equal(in8(&b, 0x80), 0x12);
}

static void test_debug_exit(void **state)
{
	(void)state;
	out32(&b, 0xf4, 0x10);
	assert_int_equal(b.exits, 1);
	assert_int_equal(b.exit_code, 0x21);
	out8(&b, 0xf4, 0);
	assert_int_equal(b.exit_code, 1);
	out32(&b, 0xf4, 0xffffffff);
	assert_true(b.exit_code > 0);
}

static void test_debugcon(void **state)
{
	(void)state;
	assert_int_equal(in8(&b, 0x402), 0xe9);
	out8(&b, 0x402, 'o');
	out8(&b, 0xe9, 'k');
	assert_string_equal(text, "ok");
}

static void test_debugcon_absent(void **state)
{
	struct board other;

	(void)state;
	board_init(&other);
	board_add(&other, debugcon_create(&other.host, NULL));
	assert_int_equal(in8(&other, 0x402), 0xff);
	out8(&other, 0x402, 'x');
	board_fini(&other);
}

/* As OVMF counts them. */
static void test_cpu_block(void **state)
{
	unsigned possible = 0, present = 0;

	(void)state;
	out32(&b, 0xcd8, 0);
	out32(&b, 0xcd8, 0);
	out8(&b, 0xcdd, 0);
	assert_int_equal(in32(&b, 0xcd8), 0); /* the modern interface */
	do {
		present += in8(&b, 0xcdc) & 1;
		possible++;
		out32(&b, 0xcd8, possible);
	} while (in32(&b, 0xce0) == possible);
	assert_int_equal(possible, 3);
	assert_int_equal(present, 2);
	/* One is put in: the next with an event is that one, once. */
	cpu_hotplug_insert(plug, 3);
	out32(&b, 0xcd8, 0);
	out8(&b, 0xcdd, 0);
	assert_int_equal(in32(&b, 0xce0), 2);
	assert_int_equal(in8(&b, 0xcdc), 3);
	out8(&b, 0xcdc, 1); /* not its bit */
	assert_int_equal(in8(&b, 0xcdc), 3);
	out8(&b, 0xcdc, 2);
	assert_int_equal(in8(&b, 0xcdc), 1);
	out32(&b, 0xcd8, 1);
	out8(&b, 0xcdd, 0);
	assert_int_equal(in32(&b, 0xce0), 1); /* no event: it stays */
	assert_int_equal(cpu_hotplug_present(plug), 3);
	board_reset(&b);
	assert_int_equal(cpu_hotplug_present(plug), 3);
	out32(&b, 0xcd8, 2);
	out8(&b, 0xcdd, 3);
	assert_int_equal(in32(&b, 0xce0), 2); /* its APIC ID */
	assert_int_equal(in32(&b, 0xcd8), 0);
}

static void test_testdev(void **state)
{
	(void)state;
	out32(&b, 0xe0, 0x12345678);
	assert_int_equal(in8(&b, 0xe0), 0x78);
	assert_int_equal(in16(&b, 0xe2), 0x1234);
	out8(&b, 0xe1, 0xff);
	assert_int_equal(in32(&b, 0xe0), 0x1234ff78);
	out32(&b, 0xe4, 0x1000);
	out8(&b, 0x200e, 1);
	assert_true(b.level[14]);
	out8(&b, 0x200e, 0);
	assert_false(b.level[14]);
	out8(&b, 0x2017, 1);
	assert_true(b.level[23]);
	write64(&b, TESTDEV_MMIO_BASE + 0xfff8, 0x1122334455667788);
	assert_int_equal(read64(&b, TESTDEV_MMIO_BASE + 0xfff8),
	                 0x1122334455667788);
	assert_int_equal(read32(&b, TESTDEV_MMIO_BASE + 0xfffc), 0x11223344);
	assert_int_equal(read32(&b, TESTDEV_MMIO_BASE + 0x10000), 0xffffffff);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reset_ports), TEST(test_debug_exit),
		TEST(test_debugcon),    TEST(test_debugcon_absent),
		TEST(test_cpu_block),   TEST(test_testdev),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
