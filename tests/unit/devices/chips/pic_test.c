/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "board.h"
#include "devices/chips/pic.h"

enum { VECTORS = 0x20, SLAVE_VECTORS = 0x28 };

static struct {
	struct board board;
	struct pic *pic;
	bool intr;
	unsigned unmasked; /* bit set */
} t;

static void intr(void *ctx, bool high)
{
	(void)ctx;
	t.intr = high;
}

static void unmasked(void *ctx, unsigned irq)
{
	(void)ctx;
	t.unmasked |= 1u << irq;
}

static void icw(u16 base, u8 icw1, u8 vector, u8 icw4)
{
	out8(&t.board, base, icw1);
	out8(&t.board, base + 1, vector);
	out8(&t.board, base + 1, base == 0x20 ? 4 : 2);
	out8(&t.board, base + 1, icw4);
}

static int setup(void **state)
{
	struct pic_host to = { NULL, intr, unmasked };

	(void)state;
	board_init(&t.board);
	t.pic = board_add(&t.board, pic_create(&t.board.host, &to));
	icw(0x20, 0x11, VECTORS, 1);
	icw(0xa0, 0x11, SLAVE_VECTORS, 1);
	t.unmasked = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	board_fini(&t.board);
	return 0;
}

static void pulse(unsigned irq)
{
	pic_set_irq(t.pic, irq, true);
	pic_set_irq(t.pic, irq, false);
}

static void eoi(void)
{
	out8(&t.board, 0x20, 0x20);
}

static void test_masked_until_icw1(void **state)
{
	(void)state;
	t.board.device[0]->type->reset(t.board.device[0]);
	pulse(4);
	assert_false(t.intr);
	assert_false(pic_irq_enabled(t.pic, 4));
}

static void test_priority(void **state)
{
	(void)state;
	pulse(4);
	pulse(1);
	assert_true(t.intr);
	assert_int_equal(pic_ack(t.pic), VECTORS + 1);
	assert_false(t.intr); /* 4 waits: 1 is in service */
	pulse(0);
	assert_true(t.intr); /* 0 interrupts it */
	assert_int_equal(pic_ack(t.pic), VECTORS + 0);
	out8(&t.board, 0x20, 0x0b); /* read ISR */
	assert_int_equal(in8(&t.board, 0x20), 0x03);
	out8(&t.board, 0x20, 0x0a); /* read IRR */
	assert_int_equal(in8(&t.board, 0x20), 0x10);
	eoi();
	assert_false(t.intr);
	eoi();
	assert_true(t.intr);
	assert_int_equal(pic_ack(t.pic), VECTORS + 4);
}

static void test_cascade(void **state)
{
	(void)state;
	pulse(8);
	pulse(5);
	assert_int_equal(pic_ack(t.pic), SLAVE_VECTORS + 0);
	assert_false(t.intr); /* IR2 is in service, above IR5 */
	out8(&t.board, 0xa0, 0x20);
	eoi();
	assert_int_equal(pic_ack(t.pic), VECTORS + 5);
	eoi();
	/* Two of the slave: the second comes after both EOIs. */
	pulse(12);
	pulse(14);
	assert_int_equal(pic_ack(t.pic), SLAVE_VECTORS + 4);
	out8(&t.board, 0xa0, 0x20);
	eoi();
	assert_true(t.intr);
	assert_int_equal(pic_ack(t.pic), SLAVE_VECTORS + 6);
}

static void test_mask(void **state)
{
	(void)state;
	out8(&t.board, 0x21, 0x10);
	assert_int_equal(in8(&t.board, 0x21), 0x10);
	assert_false(pic_irq_enabled(t.pic, 4));
	assert_true(pic_irq_enabled(t.pic, 12));
	pulse(4);
	assert_false(t.intr);
	out8(&t.board, 0x21, 0x00);
	assert_true(t.intr); /* the edge was kept */
	assert_int_equal(t.unmasked, 0x10);
	out8(&t.board, 0x21, 0x04);
	assert_false(pic_irq_enabled(t.pic, 12)); /* the cascade is shut */
}

static void test_spurious(void **state)
{
	(void)state;
	pulse(3);
	assert_true(t.intr);
	out8(&t.board, 0x21, 0xff); /* masked before the acknowledge */
	assert_int_equal(pic_ack(t.pic), VECTORS + 7);
	out8(&t.board, 0x20, 0x0b);
	assert_int_equal(in8(&t.board, 0x20), 0); /* nothing in service */
}

static void test_slave_request_withdrawn(void **state)
{
	(void)state;
	/* Level-triggered, gone between the master's and the slave's turn. */
	out8(&t.board, 0x4d1, 0x08);
	pic_set_irq(t.pic, 11, true);
	pic_set_irq(t.pic, 11, false);
	assert_false(t.intr);
	/* A poll of the slave takes its request away under the master. */
	pulse(10);
	assert_true(t.intr);
	out8(&t.board, 0xa0, 0x0c);
	assert_int_equal(in8(&t.board, 0xa0), 0x80 | 2);
	assert_false(t.intr);
}

static void test_level(void **state)
{
	(void)state;
	out8(&t.board, 0x4d0, 0xff);
	assert_int_equal(in8(&t.board, 0x4d0), 0xf8); /* 0-2 stay edges */
	pic_set_irq(t.pic, 5, true);
	assert_int_equal(pic_ack(t.pic), VECTORS + 5);
	eoi();
	assert_true(t.intr); /* still asserted */
	pic_set_irq(t.pic, 5, false);
	assert_false(t.intr);
}

static void test_edge_needs_a_fall(void **state)
{
	(void)state;
	pic_set_irq(t.pic, 1, true);
	assert_int_equal(pic_ack(t.pic), VECTORS + 1);
	eoi();
	pic_set_irq(t.pic, 1, true);
	assert_false(t.intr);
	pic_set_irq(t.pic, 1, false);
	pic_set_irq(t.pic, 1, true);
	assert_true(t.intr);
}

static void test_specific_eoi_and_rotation(void **state)
{
	(void)state;
	pulse(4);
	assert_int_equal(pic_ack(t.pic), VECTORS + 4);
	pulse(1);
	assert_int_equal(pic_ack(t.pic), VECTORS + 1);
	out8(&t.board, 0x20, 0x64); /* specific EOI of 4 */
	out8(&t.board, 0x20, 0x0b);
	assert_int_equal(in8(&t.board, 0x20), 0x02);
	out8(&t.board, 0x20, 0xa0); /* EOI of 1, which gets the lowest rank */
	pulse(1);
	pulse(7);
	assert_int_equal(pic_ack(t.pic), VECTORS + 7);
	eoi();
	out8(&t.board, 0x20, 0xc6); /* 6 lowest: 7 highest */
	pulse(7);
	assert_int_equal(pic_ack(t.pic), VECTORS + 7);
	assert_false(t.intr);
	eoi();
	assert_int_equal(pic_ack(t.pic), VECTORS + 1);
}

static void test_auto_eoi(void **state)
{
	(void)state;
	icw(0x20, 0x11, VECTORS, 3);
	pulse(4);
	assert_int_equal(pic_ack(t.pic), VECTORS + 4);
	out8(&t.board, 0x20, 0x0b);
	assert_int_equal(in8(&t.board, 0x20), 0);
	out8(&t.board, 0x20, 0x80); /* rotate in automatic EOI mode */
	pulse(0);
	assert_int_equal(pic_ack(t.pic), VECTORS + 0);
	pulse(0);
	pulse(7);
	assert_int_equal(pic_ack(t.pic), VECTORS + 7);
}

static void test_special_mask(void **state)
{
	(void)state;
	pulse(1);
	assert_int_equal(pic_ack(t.pic), VECTORS + 1);
	out8(&t.board, 0x21, 0x02);
	pulse(5);
	assert_false(t.intr);
	out8(&t.board, 0x20, 0x68); /* special mask mode */
	assert_true(t.intr);
	assert_int_equal(pic_ack(t.pic), VECTORS + 5);
	eoi(); /* ends 5: 1 is masked */
	out8(&t.board, 0x20, 0x0b);
	assert_int_equal(in8(&t.board, 0x20), 0x02);
}

static void test_special_fully_nested(void **state)
{
	(void)state;
	icw(0x20, 0x11, VECTORS, 0x11);
	pulse(12);
	assert_int_equal(pic_ack(t.pic), SLAVE_VECTORS + 4);
	pulse(8);
	assert_true(t.intr); /* a higher one of the same slave */
	assert_int_equal(pic_ack(t.pic), SLAVE_VECTORS + 0);
}

static void test_poll(void **state)
{
	(void)state;
	out8(&t.board, 0x20, 0x0c);
	assert_int_equal(in8(&t.board, 0x20), 0);
	pulse(6);
	out8(&t.board, 0x20, 0x0c);
	assert_int_equal(in8(&t.board, 0x20), 0x80 | 6);
	assert_false(t.intr);
	out8(&t.board, 0x20, 0x0b);
	assert_int_equal(in8(&t.board, 0x20), 0x40);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_masked_until_icw1),
		TEST(test_priority),
		TEST(test_cascade),
		TEST(test_mask),
		TEST(test_spurious),
		TEST(test_slave_request_withdrawn),
		TEST(test_level),
		TEST(test_edge_needs_a_fall),
		TEST(test_specific_eoi_and_rotation),
		TEST(test_auto_eoi),
		TEST(test_special_mask),
		TEST(test_special_fully_nested),
		TEST(test_poll),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
