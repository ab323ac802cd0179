/* SPDX-License-Identifier: Apache-2.0 */
/* Which requests of a disk are told of together, and that none is forgotten. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/blk.h"
#include "fake_block.h"
#include "rig_disk.h"

#define EVENT_IDX BIT(29)
#define INDIRECT BIT(28)

enum { SIZE = 1 << 20, VECTOR = 0x41, IN = 0 };

struct fixture {
	struct rig rig;
	struct block *block;
	struct device *dev;
	struct driver d;
	gpa_t header, data, status;
	u64 features;
	u16 added;                  /* the driver's avail index */
	unsigned kicks, interrupts; /* and those seen so far */
};

static int setup(void **state)
{
	struct fixture *f = xalloc(sizeof(*f));

	f->block = fake_block_create(SIZE, 512);
	fake_block_at_once(f->block, true);
	f->dev = rig_disk_init(&f->rig, f->block, 1, NULL, &f->d);
	f->header = rig_alloc(&f->rig, 16);
	f->data = rig_alloc(&f->rig, 512);
	f->status = rig_alloc(&f->rig, 1);
	f->features = EVENT_IDX | INDIRECT;
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

static void start(struct fixture *f)
{
	driver_start(&f->d, f->features, 1);
	f->added = 0;
	f->interrupts = f->rig.msi_count[VECTOR];
}

/* As Linux does: what the device asked to be told of, and nothing else. */
static bool kick(struct fixture *f)
{
	u16 event = driver_avail_event(&f->d, 0);

	if ((f->features & EVENT_IDX) && event != (u16)(f->added - 1))
		return false;
	f->kicks++;
	driver_notify(&f->d, 0);
	return true;
}

/* One read; false: the device did not want to hear of it. */
static bool submit(struct fixture *f)
{
	struct buffer out = { f->header, 16 };
	struct buffer in[2] = { { f->data, 512 }, { f->status, 1 } };

	memset(rig_ptr(&f->rig, f->header, 16), 0, 16);
	driver_add(&f->d, 0, &out, 1, in, 2);
	f->added++;
	return kick(f);
}

static bool told(void *ctx)
{
	struct fixture *f = ctx;

	return f->rig.msi_count[VECTOR] != f->interrupts;
}

/* The handler, if there is an interrupt: how many requests were over. */
static unsigned interrupted(struct fixture *f)
{
	unsigned n = 0;

	if (!told(f))
		return 0;
	f->interrupts = f->rig.msi_count[VECTOR];
	while (driver_used(&f->d, 0, NULL, NULL))
		n++;
	driver_set_used_event(&f->d, 0, f->d.queues[0].last_used);
	return n;
}

static void halt(struct fixture *f)
{
	idle_hub_run(f->rig.host.idle);
}

/* A guest that waits for each: told at once, but for a few attempts. */
static void test_one_at_a_time(void **state)
{
	struct fixture *f = *state;
	unsigned slept = 0;

	start(f);
	for (unsigned i = 0; i < 5000; i++) {
		assert_true(submit(f));
		if (interrupted(f))
			continue;
		slept++;
		halt(f);
		assert_int_equal(interrupted(f), 1);
	}
	assert_in_range(slept, 1, 10);
}

/* What a guest does that keeps many under way: it takes one that is over, if
 * there is one, and submits another. It sleeps when all are under way. */
static unsigned run_deep(struct fixture *f, unsigned depth, unsigned count)
{
	unsigned under_way = 0, over = 0, halts = 0;

	f->kicks = 0;
	while (count) {
		over += interrupted(f);
		if (under_way < depth) {
			submit(f);
			under_way++;
			count--;
		} else if (over) {
			under_way--;
			over--;
		} else {
			halt(f);
			halts++;
			over += interrupted(f);
			assert_true(over);
		}
	}
	halt(f);
	over += interrupted(f);
	assert_int_equal(over, under_way);
	return halts;
}

static void test_many_at_a_time(void **state)
{
	struct fixture *f = *state;
	unsigned before;

	start(f);
	before = f->interrupts;
	run_deep(f, 32, 4000);
	assert_true(f->kicks < 4000 / 6);
	assert_true(f->interrupts - before < 4000 / 8);
	/* The step becomes what the guest has. */
	before = f->interrupts;
	assert_true(run_deep(f, 4, 4000) < 40);
	assert_in_range(f->interrupts - before, 4000 / 5, 4000 / 3);
	/* And what it has again. */
	before = f->interrupts;
	run_deep(f, 32, 8000);
	assert_true(f->interrupts - before < 2000);
	assert_true(run_deep(f, 1, 2000) < 20);
}

/* Without the events all notifications come; interrupts are still joined. */
static void test_no_events(void **state)
{
	struct fixture *f = *state;
	unsigned before;

	f->features = INDIRECT;
	start(f);
	before = f->interrupts;
	run_deep(f, 32, 2000);
	assert_int_equal(f->kicks, 2000);
	assert_true(f->interrupts - before < 2000 / 4);
	/* And none comes for what is not over. */
	fake_block_at_once(f->block, false);
	fake_block_hold(f->block, true);
	submit(f);
	assert_false(told(f));
}

/* Have one answer held back, and one request that the device was not told
 * of. */
static void hold(struct fixture *f)
{
	run_deep(f, 32, 2000);
	do
		interrupted(f);
	while (submit(f));
	assert_false(told(f));
}

/* A guest that computes and never sleeps hears of all of them. */
static void test_bound(void **state)
{
	struct fixture *f = *state;

	start(f);
	hold(f);
	rig_wait(&f->rig, told, f);
	assert_int_equal(interrupted(f), 2);
	assert_true(submit(f));
}

/* What takes its time ends it, and is told of when it is over. */
static void test_late(void **state)
{
	struct fixture *f = *state;

	start(f);
	hold(f);
	halt(f);
	assert_int_equal(interrupted(f), 2);
	fake_block_at_once(f->block, false);
	fake_block_hold(f->block, true);
	for (unsigned i = 0; i < 3; i++)
		assert_true(submit(f));
	assert_false(told(f));
	fake_block_hold(f->block, false);
	while (f->d.queues[0].last_used != f->added) {
		rig_wait(&f->rig, told, f);
		interrupted(f);
	}
}

/* Before a machine is saved all is served and told. */
static void test_quiesce(void **state)
{
	struct fixture *f = *state;

	start(f);
	hold(f);
	f->dev->type->quiesce(f->dev);
	assert_true(told(f));
	assert_int_equal(interrupted(f), 2);
	assert_int_equal(f->d.queues[0].last_used, f->added);
	assert_true(submit(f));
}

/* A reset forgets what was held, and the device works as before. */
static void test_reset(void **state)
{
	struct fixture *f = *state;

	start(f);
	hold(f);
	driver_set_status(&f->d, 0);
	halt(f);
	assert_false(told(f));
	start(f);
	assert_true(submit(f));
	assert_int_equal(interrupted(f), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_at_a_time), TEST(test_many_at_a_time),
		TEST(test_no_events),     TEST(test_bound),
		TEST(test_late),          TEST(test_quiesce),
		TEST(test_reset),
	};

	return cmocka_run_group_tests_name("virtio pace", tests, NULL, NULL);
}
