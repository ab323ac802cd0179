/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "board.h"
#include "devices/chips/ioapic.h"

static struct {
	struct board board;
	struct ioapic *io;
	unsigned sent;
	u64 addr;
	u32 data;
	unsigned unmasked;
} t;

static void msi(void *ctx, u64 addr, u32 data)
{
	(void)ctx;
	t.sent++;
	t.addr = addr;
	t.data = data;
}

static void unmasked(void *ctx, unsigned pin)
{
	(void)ctx;
	t.unmasked |= 1u << pin;
}

static int setup_version(enum ioapic_version version)
{
	struct ioapic_host to = { NULL, msi, unmasked };

	board_init(&t.board);
	t.io = board_add(&t.board, ioapic_create(&t.board.host, &to, version));
	t.sent = 0;
	t.unmasked = 0;
	return 0;
}

static int setup_11(void **state)
{
	(void)state;
	return setup_version(IOAPIC_V11);
}

static int setup_20(void **state)
{
	(void)state;
	return setup_version(IOAPIC_V20);
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&t.board);
	return 0;
}

static u32 get(u8 reg)
{
	write32(&t.board, IOAPIC_BASE, reg);
	return read32(&t.board, IOAPIC_BASE + 0x10);
}

static void put(u8 reg, u32 value)
{
	write32(&t.board, IOAPIC_BASE, reg);
	write32(&t.board, IOAPIC_BASE + 0x10, value);
}

enum { LEVEL = 1 << 15, MASKED = 1 << 16, REMOTE_IRR = 1 << 14 };

static u32 entry(unsigned pin)
{
	return get((u8)(0x10 + 2 * pin));
}

static void set_entry(unsigned pin, u8 dest, u32 low)
{
	put((u8)(0x11 + 2 * pin), (u32)dest << 24);
	put((u8)(0x10 + 2 * pin), low);
}

static void test_identity(void **state)
{
	(void)state;
	assert_int_equal(get(1), 0x00170011);
	put(0, 0xffffffff);
	assert_int_equal(get(0), 0x0f000000);
	assert_int_equal(entry(23), MASKED);
	assert_int_equal(get(0x10 + 48), 0xffffffff); /* no pin 24 */
}

static void test_edge(void **state)
{
	(void)state;
	set_entry(4, 3, 0x31);
	assert_int_equal(t.unmasked, 1 << 4);
	assert_true(ioapic_pin_enabled(t.io, 4));
	ioapic_set_pin(t.io, 4, true);
	assert_int_equal(t.sent, 1);
	assert_int_equal(t.addr, 0xfee03000);
	assert_int_equal(t.data, 0x31);
	ioapic_set_pin(t.io, 4, true);
	assert_int_equal(t.sent, 1);
	ioapic_set_pin(t.io, 4, false);
	ioapic_set_pin(t.io, 4, true);
	assert_int_equal(t.sent, 2);
	assert_int_equal(entry(4) & REMOTE_IRR, 0);
}

static void test_masked_edge_is_lost(void **state)
{
	(void)state;
	set_entry(4, 0, MASKED | 0x31);
	ioapic_set_pin(t.io, 4, true);
	set_entry(4, 0, 0x31);
	assert_int_equal(t.sent, 0);
}

static void test_level(void **state)
{
	(void)state;
	set_entry(17, 1, LEVEL | 0x900 | 0x41); /* lowest, logical */
	ioapic_set_pin(t.io, 17, true);
	assert_int_equal(t.sent, 1);
	assert_int_equal(t.addr, 0xfee01004);
	assert_int_equal(t.data, 0xc141);
	assert_true(entry(17) & REMOTE_IRR);
	ioapic_set_pin(t.io, 17, false);
	ioapic_set_pin(t.io, 17, true);
	assert_int_equal(t.sent, 1); /* until the EOI */
	ioapic_eoi(t.io, 0x42);
	assert_int_equal(t.sent, 1); /* of another vector */
	ioapic_eoi(t.io, 0x41);
	assert_int_equal(t.sent, 2); /* still asserted: again */
	ioapic_set_pin(t.io, 17, false);
	ioapic_eoi(t.io, 0x41);
	assert_int_equal(t.sent, 2);
	assert_false(entry(17) & REMOTE_IRR);
}

static void test_level_unmask(void **state)
{
	(void)state;
	set_entry(17, 0, LEVEL | MASKED | 0x41);
	ioapic_set_pin(t.io, 17, true);
	assert_int_equal(t.sent, 0);
	set_entry(17, 0, LEVEL | 0x41);
	assert_int_equal(t.sent, 1);
}

/* What drivers of version 0x11 do to forget a remote IRR. */
static void test_edge_clears_remote_irr(void **state)
{
	(void)state;
	set_entry(17, 0, LEVEL | 0x41);
	ioapic_set_pin(t.io, 17, true);
	ioapic_set_pin(t.io, 17, false);
	assert_true(entry(17) & REMOTE_IRR);
	set_entry(17, 0, MASKED | 0x41);
	set_entry(17, 0, MASKED | LEVEL | 0x41);
	assert_false(entry(17) & REMOTE_IRR);
	/* The guest cannot set it. */
	set_entry(17, 0, MASKED | LEVEL | REMOTE_IRR | 0x41);
	assert_false(entry(17) & REMOTE_IRR);
}

static void test_directed_eoi(void **state)
{
	(void)state;
	assert_int_equal(get(1), 0x00170020);
	set_entry(17, 0, LEVEL | 0x41);
	ioapic_set_pin(t.io, 17, true);
	ioapic_set_pin(t.io, 17, false);
	write32(&t.board, IOAPIC_BASE + 0x40, 0x41);
	assert_false(entry(17) & REMOTE_IRR);
}

static void test_no_directed_eoi(void **state)
{
	(void)state;
	set_entry(17, 0, LEVEL | 0x41);
	ioapic_set_pin(t.io, 17, true);
	write32(&t.board, IOAPIC_BASE + 0x40, 0x41);
	assert_true(entry(17) & REMOTE_IRR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup_11,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_edge, setup_11, teardown),
		cmocka_unit_test_setup_teardown(test_masked_edge_is_lost,
		                                setup_11, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup_11, teardown),
		cmocka_unit_test_setup_teardown(test_level_unmask, setup_11,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_edge_clears_remote_irr,
		                                setup_11, teardown),
		cmocka_unit_test_setup_teardown(test_directed_eoi, setup_20,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_no_directed_eoi, setup_11,
		                                teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
