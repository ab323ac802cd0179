/* SPDX-License-Identifier: Apache-2.0 */
/* Whose thread does a flush, and that none is forgotten. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/blk.h"
#include "fake_block.h"
#include "rig_disk.h"

enum { SIZE = 1 << 20, VECTOR = 0x41, FLUSH = 4 };
#define F_FLUSH BIT(9)

struct fixture {
	struct rig rig;
	struct block *block;
	struct device *dev;
	struct driver d;
	gpa_t header, status;
	unsigned submitted, interrupts; /* those seen so far */
};

static void start(struct fixture *f)
{
	driver_start(&f->d, F_FLUSH, 1);
	f->interrupts = f->rig.msi_count[VECTOR];
}

static int setup(void **state)
{
	struct fixture *f = xalloc(sizeof(*f));

	f->block = fake_block_create(SIZE, 512);
	fake_block_at_once(f->block, true);
	fake_block_dirty(f->block, true);
	f->dev = rig_disk_init(&f->rig, f->block, 1, NULL, &f->d);
	f->header = rig_alloc(&f->rig, 16);
	f->status = rig_alloc(&f->rig, 1);
	start(f);
	/* Time passes where a test wants it to. */
	clock_stop(f->rig.host.clock);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_disk_fini(&f->rig, f->block, f->dev);
	free(f);
	return 0;
}

/* What a processor's thread does when its guest halts. */
static void halt(struct fixture *f)
{
	struct idle_hub *hub = f->rig.host.idle;

	idle_hub_run(hub);
	while (idle_has_loans(hub))
		idle_do_loan(hub);
}

static void flush(struct fixture *f)
{
	struct buffer out = { f->header, 16 }, in = { f->status, 1 };
	u32 type = FLUSH;

	memset(rig_ptr(&f->rig, f->header, 16), 0, 16);
	memcpy(rig_ptr(&f->rig, f->header, 4), &type, 4);
	*(u8 *)rig_ptr(&f->rig, f->status, 1) = 0xff;
	driver_add(&f->d, 0, &out, 1, &in, 1);
	driver_notify(&f->d, 0);
}

/* Has the disk been given a request since the last question? */
static bool is_given(struct fixture *f)
{
	unsigned n = fake_block_submitted(f->block);
	bool given = n != f->submitted;

	f->submitted = n;
	return given;
}

static bool told(void *ctx)
{
	struct fixture *f = ctx;

	return f->rig.msi_count[VECTOR] != f->interrupts;
}

static u8 answer(struct fixture *f)
{
	u8 status;

	/* An interrupt may be held back until it sleeps; see pace.c. */
	if (idle_is_heard(f->rig.host.idle))
		idle_hub_run(f->rig.host.idle);
	rig_wait(&f->rig, told, f);
	f->interrupts = f->rig.msi_count[VECTOR];
	assert_true(driver_used(&f->d, 0, NULL, NULL));
	assert_false(driver_used(&f->d, 0, NULL, NULL));
	memcpy(&status, rig_ptr(&f->rig, f->status, 1), 1);
	return status;
}

/* It is done by the thread that would sleep, and is over then. */
static void lent_flush(struct fixture *f)
{
	flush(f);
	assert_false(is_given(f));
	assert_false(told(f));
	halt(f);
	assert_true(is_given(f));
	assert_int_equal(fake_block_last_op(f->block), BLOCK_FLUSH);
	assert_true(fake_block_last_flags(f->block) & BLOCK_REQ_BLOCKING);
	assert_true(told(f));
	assert_int_equal(answer(f), 0);
}

/* The disk has it before the driver's notification returns. */
static void other_flush(struct fixture *f)
{
	flush(f);
	assert_true(is_given(f));
	assert_false(fake_block_last_flags(f->block) & BLOCK_REQ_BLOCKING);
	assert_int_equal(answer(f), 0);
}

/* Processors may sleep unnoticed, as under kvm. */
static void test_unheard(void **state)
{
	struct fixture *f = *state;

	clock_start(f->rig.host.clock);
	for (unsigned i = 0; i < 3; i++)
		other_flush(f);
	halt(f);
	lent_flush(f);
}

static void test_many(void **state)
{
	struct fixture *f = *state;

	halt(f);
	for (unsigned i = 0; i < 1000; i++)
		lent_flush(f);
}

/* What is durable already needs nobody. */
static void test_nothing_to_do(void **state)
{
	struct fixture *f = *state;

	halt(f);
	fake_block_dirty(f->block, false);
	other_flush(f);
}

/* A failure is the guest's to know. */
static void test_failure(void **state)
{
	struct fixture *f = *state;

	halt(f);
	fake_block_fail(f->block, -EIO);
	flush(f);
	halt(f);
	assert_int_equal(answer(f), 1);
	assert_true(is_given(f));
	fake_block_fail(f->block, 0);
	lent_flush(f);
}

/* How many flushes go to other threads until one is lent again. */
static unsigned count_others(struct fixture *f)
{
	unsigned n = 0;

	for (;; n++) {
		flush(f);
		if (!is_given(f))
			return n;
		assert_int_equal(answer(f), 0);
	}
}

/* A guest that never sleeps has its flush soon, and is tried ever more rarely;
 * one that sleeps again is trusted at once. */
static void test_no_sleep(void **state)
{
	struct fixture *f = *state;
	static const unsigned others[] = { 4, 16, 64, 256, 1024, 1024 };

	clock_start(f->rig.host.clock);
	halt(f);
	flush(f);
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
		assert_int_equal(answer(f), 0);
		assert_true(is_given(f));
		assert_false(fake_block_last_flags(f->block) &
		             BLOCK_REQ_BLOCKING);
		assert_int_equal(count_others(f), others[i]);
	}
	halt(f);
	assert_int_equal(answer(f), 0);
	assert_true(is_given(f));
	lent_flush(f);
	flush(f);
	assert_int_equal(answer(f), 0);
	is_given(f);
	assert_int_equal(count_others(f), 4);
}

static void pass_ms(struct fixture *f, unsigned ms)
{
	struct clock *clock = f->rig.host.clock;

	clock_set_ns(clock, clock_now_ns(clock) + ms * NSEC_PER_MSEC);
}

static void pass_25_ms(void *ctx)
{
	pass_ms(ctx, 25);
}

/* A processor waits for a slow disk a fiftieth of the time: 25 ms of it now,
 * of which 20 were saved up, and no more for a quarter of a second. */
static void test_slow(void **state)
{
	struct fixture *f = *state;

	halt(f);
	fake_block_meanwhile(f->block, pass_25_ms, f);
	lent_flush(f);
	fake_block_meanwhile(f->block, NULL, NULL);
	other_flush(f);
	pass_ms(f, 249);
	other_flush(f);
	pass_ms(f, 1);
	lent_flush(f);
	lent_flush(f);
	/* What is saved up has an end. */
	pass_ms(f, 10000);
	fake_block_meanwhile(f->block, pass_25_ms, f);
	lent_flush(f);
	fake_block_meanwhile(f->block, NULL, NULL);
	other_flush(f);
}

/* Before a machine is saved all of it is done. */
static void test_quiesce(void **state)
{
	struct fixture *f = *state;

	halt(f);
	flush(f);
	assert_false(is_given(f));
	f->dev->type->quiesce(f->dev);
	assert_true(is_given(f));
	assert_int_equal(answer(f), 0);
	lent_flush(f);
}

static bool is_reset(void *ctx)
{
	struct fixture *f = ctx;

	return driver_status(&f->d) == 0;
}

/* A driver that resets the device meanwhile waits for it, as for all else. */
static void test_reset(void **state)
{
	struct fixture *f = *state;

	clock_start(f->rig.host.clock);
	halt(f);
	flush(f);
	assert_false(is_given(f));
	driver_set_status(&f->d, 0);
	rig_wait(&f->rig, is_reset, f);
	assert_true(is_given(f));
	assert_false(told(f));
	start(f);
	/* Nobody slept. */
	assert_int_equal(count_others(f), 4);
	halt(f);
	assert_int_equal(answer(f), 0);
}

/* Its device goes away. */
static void test_removed(void **state)
{
	struct fixture *f = *state;

	halt(f);
	flush(f);
	assert_false(is_given(f));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_unheard),       TEST(test_many),
		TEST(test_nothing_to_do), TEST(test_failure),
		TEST(test_no_sleep),      TEST(test_slow),
		TEST(test_quiesce),       TEST(test_reset),
		TEST(test_removed),
	};

	return cmocka_run_group_tests_name("virtio lend", tests, NULL, NULL);
}
