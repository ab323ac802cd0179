/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon: pages that go, free pages reported, statistics, hostile page
 * numbers, its state. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/balloon.h"
#include "guest/discard.h"
#include "rig.h"

#define FEATURES (BIT(1) | BIT(2) | BIT(5))

enum { SLOT = PCI_DEVFN(1, 0) };
enum { INFLATE, DEFLATE, STATS, REPORTING, QUEUES };

struct fixture {
	struct rig rig;
	struct device *dev;
	struct driver d;
};

static int setup(void **state)
{
	struct fixture *f = xalloc(sizeof(*f));
	struct virtio_balloon_config config = { .devfn = PCI_SLOT_ANY };

	rig_init(&f->rig);
	assert_int_equal(virtio_balloon_create(&f->dev, &f->rig.host,
	                                       f->rig.pci, &config, NULL),
	                 0);
	pci_assign_resources(f->rig.pci);
	driver_probe(&f->d, &f->rig, SLOT);
	driver_start(&f->d, FEATURES, QUEUES);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_destroy(f->dev);
	rig_fini(&f->rig);
	free(f);
	return 0;
}

/* A queue's chain of 32-bit page numbers, done. */
static void give(struct fixture *f, unsigned queue, const u32 *pfns, u32 count)
{
	struct buffer b = { rig_alloc(&f->rig, count * 4), count * 4 };
	u16 head;
	u32 len;

	memcpy(rig_ptr(&f->rig, b.gpa, b.len), pfns, b.len);
	driver_add(&f->d, queue, &b, 1, NULL, 0);
	driver_notify(&f->d, queue);
	driver_wait(&f->d, queue, &head, &len);
	assert_int_equal(len, 0);
}

static bool all(const u8 *p, u8 value, size_t n)
{
	while (n--)
		if (*p++ != value)
			return false;
	return true;
}

static void test_inflate(void **state)
{
	struct fixture *f = *state;
	gpa_t page = rig_alloc(&f->rig, 5 * PAGE_SIZE);
	u8 *p = rig_ptr(&f->rig, page, 5 * PAGE_SIZE);
	u32 first = (u32)(page >> PAGE_SHIFT);
	/* Downwards, as Linux does it; the first page stays. */
	u32 pfns[] = { first + 3, first + 2, first + 1 };
	_Atomic u8 *flags = memory_page_flags(f->rig.host.memory, page);

	memset(p, 0xaa, 5 * PAGE_SIZE);
	for (int i = 0; i < 5; i++)
		flags[i] = 0;
	give(f, INFLATE, pfns, 3);
	assert_true(all(p, 0xaa, PAGE_SIZE));
	assert_true(all(p + PAGE_SIZE, 0, 3 * PAGE_SIZE));
	assert_true(all(p + 4 * PAGE_SIZE, 0xaa, PAGE_SIZE));
	/* The dirty log knows of what changed, and of no more. */
	assert_false(flags[0] & PAGE_DIRTY);
	assert_true(flags[1] & PAGE_DIRTY);
	assert_true(flags[3] & PAGE_DIRTY);
	assert_false(flags[4] & PAGE_DIRTY);
	/* What comes back is usable. */
	give(f, DEFLATE, pfns, 3);
	memset(p + PAGE_SIZE, 0xbb, PAGE_SIZE);
	assert_true(all(p + PAGE_SIZE, 0xbb, PAGE_SIZE));
}

static void test_hostile_pages(void **state)
{
	struct fixture *f = *state;
	u32 wild[] = { 0xffffffff, 0xfffffffe, RIG_RAM >> PAGE_SHIFT,
		       0x80000000, 0,          1,
		       0xfee00,    0xfec00 };

	give(f, INFLATE, wild, ARRAY_SIZE(wild));
	assert_int_equal(driver_status(&f->d) & 64, 0);
	/* A number cut short counts for nothing. */
	give(f, INFLATE, wild, 1);
	assert_int_equal(
	    memory_discard(f->rig.host.memory, ~(u64)0 - 4096, 8192), 0);
	assert_int_equal(memory_discard(f->rig.host.memory, 1, PAGE_SIZE - 2),
	                 0);
}

static void test_reporting(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_figures figures;
	gpa_t at = rig_alloc(&f->rig, 8 * PAGE_SIZE);
	u8 *p = rig_ptr(&f->rig, at, 8 * PAGE_SIZE);
	struct buffer b[2] = { { at, 2 * PAGE_SIZE },
		               { at + 4 * PAGE_SIZE + 16, PAGE_SIZE + 32 } };
	u16 head;
	u32 len;

	memset(p, 0xcc, 8 * PAGE_SIZE);
	driver_add(&f->d, REPORTING, NULL, 0, b, 2);
	driver_notify(&f->d, REPORTING);
	driver_wait(&f->d, REPORTING, &head, &len);
	assert_true(all(p, 0, 2 * PAGE_SIZE));
	/* Of a buffer that begins inside a page only whole pages go. */
	assert_true(all(p + 2 * PAGE_SIZE, 0xcc, 6 * PAGE_SIZE));
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.reported_bytes, 2 * PAGE_SIZE);
}

static void put_stat(u8 *p, u16 tag, u64 value)
{
	memcpy(p, &tag, 2);
	memcpy(p + 2, &value, 8);
}

static void test_statistics(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_figures figures;
	struct buffer b = { rig_alloc(&f->rig, 64), 33 };
	u8 *p = rig_ptr(&f->rig, b.gpa, 64);
	u16 head, first;
	u32 len;

	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.total_bytes, UINT64_MAX);
	put_stat(p, 5, 1000);
	put_stat(p + 10, 6, 400);
	put_stat(p + 20, 0xffff, 7); /* of a kernel to come */
	first = driver_add(&f->d, STATS, &b, 1, NULL, 0);
	driver_notify(&f->d, STATS);
	/* It is kept until somebody asks. */
	assert_false(driver_used(&f->d, STATS, &head, &len));
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.total_bytes, 1000);
	assert_int_equal(figures.available_bytes, 400);
	assert_int_equal(figures.swap_in_bytes, UINT64_MAX);
	assert_true(driver_used(&f->d, STATS, &head, &len));
	assert_int_equal(head, first);
	/* Two at once are against the rules: the first comes back. */
	driver_add(&f->d, STATS, &b, 1, NULL, 0);
	driver_add(&f->d, STATS, &b, 1, NULL, 0);
	driver_notify(&f->d, STATS);
	assert_true(driver_used(&f->d, STATS, &head, &len));
	assert_false(driver_used(&f->d, STATS, &head, &len));
}

static void test_target(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_figures figures;

	virtio_balloon_set_target(f->dev, 10 * PAGE_SIZE + 5);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device, 4), 10);
	/* The driver says how far it is; what is wanted is not its to say. */
	rig_mmio_write(&f->rig, f->d.device + 4, 4, 7);
	rig_mmio_write(&f->rig, f->d.device, 4, 99);
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.target_bytes, 10 * PAGE_SIZE);
	assert_int_equal(figures.actual_bytes, 7 * PAGE_SIZE);
	assert_true(figures.driver);
	driver_set_status(&f->d, 0);
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.actual_bytes, 0);
	assert_int_equal(figures.target_bytes, 10 * PAGE_SIZE);
}

/* Of what the guest says it has, what is lent: as it was when it said so, and
 * only where it goes on counting that. */
static void test_lent(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_figures figures;
	struct buffer b = { rig_alloc(&f->rig, 64), 10 };
	u16 head;
	u32 len;

	put_stat(rig_ptr(&f->rig, b.gpa, 64), 5, 1 << 20);
	rig_mmio_write(&f->rig, f->d.device + 4, 4, 3);
	driver_add(&f->d, STATS, &b, 1, NULL, 0);
	driver_notify(&f->d, STATS);
	rig_mmio_write(&f->rig, f->d.device + 4, 4, 9);
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.lent_bytes, 3 * PAGE_SIZE);
	assert_int_equal(figures.actual_bytes, 9 * PAGE_SIZE);
	assert_true(driver_used(&f->d, STATS, &head, &len));
	driver_set_status(&f->d, 0);
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.lent_bytes, 0);
	driver_start(&f->d, FEATURES & ~BIT(2), QUEUES);
	rig_mmio_write(&f->rig, f->d.device + 4, 4, 3);
	driver_add(&f->d, STATS, &b, 1, NULL, 0);
	driver_notify(&f->d, STATS);
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.total_bytes, 1 << 20);
	assert_int_equal(figures.lent_bytes, 0);
}

static void test_state(void **state)
{
	struct fixture *f = *state;
	const struct device_type *type = f->dev->type;
	struct virtio_balloon_figures figures;
	struct buffer b = { rig_alloc(&f->rig, 64), 10 };
	struct state_writer w = { 0 };
	struct state_reader r;
	u16 head;
	u32 len;

	put_stat(rig_ptr(&f->rig, b.gpa, 64), 4, 77);
	driver_add(&f->d, STATS, &b, 1, NULL, 0);
	driver_notify(&f->d, STATS);
	virtio_balloon_set_target(f->dev, 5 * PAGE_SIZE);
	rig_mmio_write(&f->rig, f->d.device + 4, 4, 3);
	type->quiesce(f->dev);
	state_save(&w, type->name, "x", 1, 0, type->state, f->dev);
	type->reset(f->dev);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(
	    state_load(&r, type->name, "x", 1, type->state, f->dev, NULL), 0);
	assert_int_equal(type->loaded(f->dev, NULL), 0);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device, 4), 5);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 4, 4), 3);
	/* The buffer of statistics that it kept is still its to give back. */
	virtio_balloon_figures(f->dev, &figures);
	assert_int_equal(figures.free_bytes, 77);
	assert_true(driver_used(&f->d, STATS, &head, &len));
	state_writer_fini(&w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_inflate),   TEST(test_hostile_pages),
		TEST(test_reporting), TEST(test_statistics),
		TEST(test_target),    TEST(test_lent),
		TEST(test_state),
	};

	return cmocka_run_group_tests_name("virtio balloon", tests, NULL, NULL);
}
