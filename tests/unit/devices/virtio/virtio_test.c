/* SPDX-License-Identifier: Apache-2.0 */
/* What all virtio devices share, driven through the entropy source: status,
 * features, rings, interrupts, reset, and every rule a driver can break. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/rng.h"
#include "rig.h"

#define INDIRECT BIT(28)
#define EVENT_IDX BIT(29)
#define VERSION_1 BIT(32)

enum { SLOT = PCI_DEVFN(1, 0), NEXT = 1, WRITE = 2, IND = 4 };

struct fixture {
	struct rig rig;
	struct device *rng;
	struct driver d;
};

static void fixture_create(struct fixture *f, bool eventfd)
{
	struct virtio_rng_config config = { .devfn = PCI_SLOT_ANY,
		                            .eventfd = eventfd };

	rig_init(&f->rig);
	assert_int_equal(
	    virtio_rng_create(&f->rng, &f->rig.host, f->rig.pci, &config, NULL),
	    0);
	pci_assign_resources(f->rig.pci);
	driver_probe(&f->d, &f->rig, SLOT);
}

static int setup(void **state)
{
	struct fixture *f = xalloc(sizeof(*f));

	fixture_create(f, false);
	*state = f;
	return 0;
}

static int setup_eventfd(void **state)
{
	struct fixture *f = xalloc(sizeof(*f));

	fixture_create(f, true);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_destroy(f->rng);
	rig_fini(&f->rig);
	free(f);
	return 0;
}

static u32 common(struct fixture *f, unsigned off, unsigned size)
{
	return (u32)rig_mmio_read(&f->rig, f->d.common + off, size);
}

static void set_common(struct fixture *f, unsigned off, unsigned size,
                       u32 value)
{
	rig_mmio_write(&f->rig, f->d.common + off, size, value);
}

static struct buffer room(struct fixture *f, u32 len)
{
	return (struct buffer){ rig_alloc(&f->rig, len), len };
}

/* One request must come back with data. */
static void expect_service(struct fixture *f)
{
	struct buffer b = room(f, 32);
	u16 head, got;
	u32 len;

	head = driver_add(&f->d, 0, NULL, 0, &b, 1);
	driver_notify(&f->d, 0);
	driver_wait(&f->d, 0, &got, &len);
	assert_int_equal(got, head);
	assert_int_equal(len, 32);
}

static void expect_broken(struct fixture *f)
{
	assert_int_equal(driver_status(&f->d) & 64, 64);
	/* A reset, and all is well again. */
	driver_start(&f->d, EVENT_IDX | INDIRECT, 1);
	expect_service(f);
}

static void test_probe(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rig_config_read(&f->rig, SLOT, 2, 2), 0x1044);
	assert_true(rig_config_read(&f->rig, SLOT, 8, 1) >= 1);
	assert_int_equal(driver_offered(&f->d),
	                 VERSION_1 | INDIRECT | EVENT_IDX);
	assert_int_equal(common(f, 0x12, 2), 1);
	assert_int_equal(common(f, 0x18, 2), 64);
	/* No such queue: size 0. */
	set_common(f, 0x16, 2, 1);
	assert_int_equal(common(f, 0x18, 2), 0);
	set_common(f, 0x1c, 2, 1);
	assert_int_equal(common(f, 0x1c, 2), 0);
	/* Feature words past the second are empty. */
	set_common(f, 0, 4, 7);
	assert_int_equal(common(f, 4, 4), 0);
}

static void test_negotiation(void **state)
{
	struct fixture *f = *state;

	assert_false(driver_negotiate(&f->d, 0)); /* legacy */
	assert_false(driver_negotiate(&f->d, VERSION_1 | BIT(5)));
	assert_true(driver_negotiate(&f->d, VERSION_1));
	/* Too late to change one's mind. */
	set_common(f, 8, 4, 0);
	set_common(f, 0xc, 4, (u32)EVENT_IDX);
	assert_int_equal(common(f, 0xc, 4), 0);
	/* Status bits do not go away one by one. */
	driver_set_status(&f->d, 1);
	assert_int_equal(driver_status(&f->d), 0xb);
	driver_set_status(&f->d, 0x80);
	assert_int_equal(driver_status(&f->d), 0x8b);
	driver_set_status(&f->d, 0);
	assert_int_equal(driver_status(&f->d), 0);
}

static void test_driver_ok_without_features(void **state)
{
	struct fixture *f = *state;

	driver_set_status(&f->d, 7);
	expect_broken(f);
}

static void test_service(void **state)
{
	struct fixture *f = *state;
	u8 zeros[64] = { 0 };
	struct buffer b = room(f, 64);

	driver_start(&f->d, 0, 1);
	driver_add(&f->d, 0, NULL, 0, &b, 1);
	driver_notify(&f->d, 0);
	assert_true(driver_used(&f->d, 0, NULL, NULL));
	assert_memory_not_equal(rig_ptr(&f->rig, b.gpa, 64), zeros, 64);
	assert_int_equal(f->rig.msi_count[0x41], 1);
	assert_true(*memory_page_flags(f->rig.host.memory, b.gpa) & PAGE_DIRTY);
	assert_true(
	    *memory_page_flags(f->rig.host.memory, f->d.queues[0].used) &
	    PAGE_DIRTY);
	for (unsigned i = 0; i < 300; i++)
		expect_service(f);
}

static void test_indirect(void **state)
{
	struct fixture *f = *state;
	struct buffer b[3] = { room(f, 10), room(f, 20), room(f, 30) };
	u32 len;

	driver_start(&f->d, INDIRECT, 1);
	driver_add_indirect(&f->d, 0, NULL, 0, b, 3);
	driver_notify(&f->d, 0);
	driver_wait(&f->d, 0, NULL, &len);
	assert_int_equal(len, 60);
}

static void test_two_slots(void **state)
{
	struct fixture *f = *state;
	struct buffer b = { RIG_HIGH_BASE + 100, 200 };
	u32 len;

	driver_start(&f->d, 0, 1);
	driver_add(&f->d, 0, NULL, 0, &b, 1);
	driver_notify(&f->d, 0);
	driver_wait(&f->d, 0, NULL, &len);
	assert_int_equal(len, 200);
}

static void test_event_idx(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->d, EVENT_IDX, 1);
	driver_set_used_event(&f->d, 0, 0);
	expect_service(f);
	assert_int_equal(f->rig.msi_count[0x41], 1);
	assert_int_equal(driver_avail_event(&f->d, 0), 1);
	/* Not before the fourth. */
	driver_set_used_event(&f->d, 0, 3);
	expect_service(f);
	expect_service(f);
	assert_int_equal(f->rig.msi_count[0x41], 1);
	expect_service(f);
	assert_int_equal(f->rig.msi_count[0x41], 2);
	expect_service(f);
	assert_int_equal(f->rig.msi_count[0x41], 2);
}

static void test_no_interrupt_flag(void **state)
{
	struct fixture *f = *state;
	u16 *flags;

	driver_start(&f->d, 0, 1);
	flags = rig_ptr(&f->rig, f->d.queues[0].avail, 2);
	*flags = 1;
	expect_service(f);
	assert_int_equal(f->rig.msi_count[0x41], 0);
	*flags = 0;
	expect_service(f);
	assert_int_equal(f->rig.msi_count[0x41], 1);
}

static void test_intx(void **state)
{
	struct fixture *f = *state;
	unsigned gsi = pci_gsi(PCI_SLOT(SLOT), 0);

	assert_true(driver_negotiate(&f->d, VERSION_1));
	driver_queue(&f->d, 0, 8, 0xffff);
	driver_set_status(&f->d, 0xf);
	expect_service(f);
	assert_true(f->rig.gsi[gsi]);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.isr, 1), 1);
	assert_false(f->rig.gsi[gsi]);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.isr, 1), 0);
}

static void test_vectors(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->d, 0, 1);
	/* A vector that is not there reads back as none. */
	set_common(f, 0x10, 2, 2);
	assert_int_equal(common(f, 0x10, 2), 0xffff);
	set_common(f, 0x10, 2, 1);
	assert_int_equal(common(f, 0x10, 2), 1);
	set_common(f, 0x16, 2, 0);
	set_common(f, 0x1a, 2, 0x1234);
	assert_int_equal(common(f, 0x1a, 2), 0xffff);
	expect_service(f);
	assert_int_equal(f->rig.msi_count[0x41], 0);
}

/* ---- broken rules ---- */

static void start(struct fixture *f)
{
	driver_start(&f->d, EVENT_IDX | INDIRECT, 1);
}

static void kick(struct fixture *f, u16 head)
{
	driver_avail(&f->d, 0, head);
	driver_notify(&f->d, 0);
}

static void test_head_out_of_range(void **state)
{
	struct fixture *f = *state;

	start(f);
	kick(f, 64);
	assert_int_equal(f->rig.msi_count[0x40], 1); /* configuration */
	expect_broken(f);
}

static void test_next_out_of_range(void **state)
{
	struct fixture *f = *state;

	start(f);
	driver_desc(&f->d, 0, 0, 0x1000, 16, WRITE | NEXT, 64);
	kick(f, 0);
	expect_broken(f);
}

static void test_loop(void **state)
{
	struct fixture *f = *state;

	start(f);
	driver_desc(&f->d, 0, 0, 0x1000, 16, WRITE | NEXT, 1);
	driver_desc(&f->d, 0, 1, 0x2000, 0, WRITE | NEXT, 0);
	kick(f, 0);
	expect_broken(f);
}

static void test_bad_addresses(void **state)
{
	static const struct {
		u64 addr;
		u32 len;
	} bad[] = {
		{ RIG_RAM, 16 },        { RIG_RAM - 8, 16 },
		{ ~(u64)0, 16 },        { ~(u64)0 - 15, 32 },
		{ 0x1000, 0xffffffff }, { 0xfff00000, 16 }, /* ROM */
		{ 0xfee00000, 4 },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		start(f);
		driver_desc(&f->d, 0, 0, bad[i].addr, bad[i].len, WRITE, 0);
		kick(f, 0);
		f->rig.bump = 0x10000;
		expect_broken(f);
		f->rig.bump = 0x10000;
	}
}

static void test_order(void **state)
{
	struct fixture *f = *state;

	start(f);
	driver_desc(&f->d, 0, 0, 0x1000, 16, WRITE | NEXT, 1);
	driver_desc(&f->d, 0, 1, 0x1000, 16, 0, 0);
	kick(f, 0);
	expect_broken(f);
}

static void test_idx_jump(void **state)
{
	struct fixture *f = *state;
	u16 *idx;

	start(f);
	idx = rig_ptr(&f->rig, f->d.queues[0].avail + 2, 2);
	*idx = 65;
	driver_notify(&f->d, 0);
	expect_broken(f);
}

static void indirect_case(struct fixture *f, u64 table, u32 len, u16 flags)
{
	start(f);
	driver_desc(&f->d, 0, 0, table, len, flags, 1);
	kick(f, 0);
	expect_broken(f);
	f->rig.bump = 0x20000;
}

static void test_bad_indirect(void **state)
{
	struct fixture *f = *state;
	gpa_t table = 0x1000;
	u8 *p = rig_ptr(&f->rig, table, 4096);
	u16 flags = IND;

	memset(p, 0, 4096);
	indirect_case(f, table, 0, IND);
	indirect_case(f, table, 15, IND);
	indirect_case(f, table, 32, IND | NEXT);
	indirect_case(f, RIG_RAM - 16, 32, IND);
	indirect_case(f, ~(u64)0 - 3, 16, IND);
	/* A table in a table. */
	memcpy(p + 12, &flags, 2);
	indirect_case(f, table, 16, IND);
	/* A table whose next leaves it. */
	memset(p, 0, 16);
	flags = NEXT;
	memcpy(p + 12, &flags, 2);
	p[14] = 1;
	indirect_case(f, table, 16, IND);
	/* An endless one: its only entry is its own next. */
	p[14] = 0;
	indirect_case(f, table, 16, IND);
	/* Not agreed on. */
	driver_start(&f->d, 0, 1);
	driver_desc(&f->d, 0, 0, table, 16, IND, 0);
	kick(f, 0);
	expect_broken(f);
}

static void ring_case(struct fixture *f, unsigned off, u64 addr, u16 size)
{
	assert_true(driver_negotiate(&f->d, VERSION_1));
	driver_set_status(&f->d, 0xb);
	set_common(f, 0x16, 2, 0);
	set_common(f, 0x18, 2, size);
	for (unsigned i = 0; i < 3; i++) {
		u64 at = 0x10000 + i * 0x1000;

		if (0x20 + i * 8 == off)
			at = addr;
		set_common(f, 0x20 + i * 8, 4, (u32)at);
		set_common(f, 0x24 + i * 8, 4, (u32)(at >> 32));
	}
	set_common(f, 0x1c, 2, 1);
	driver_set_status(&f->d, 0xf);
	f->rig.bump = 0x20000;
	expect_broken(f);
}

static void test_bad_rings(void **state)
{
	struct fixture *f = *state;

	ring_case(f, 0x20, 0x10008, 8);
	ring_case(f, 0x28, 0x11001, 8);
	ring_case(f, 0x30, 0x12002, 8);
	ring_case(f, 0x20, RIG_RAM - 16, 8);
	ring_case(f, 0x28, RIG_RAM - 2, 8);
	ring_case(f, 0x30, 0xfff00000, 8);
	ring_case(f, 0x30, ~(u64)0 & ~3ull, 8);
	ring_case(f, 0, 0, 0);
	ring_case(f, 0, 0, 7);
	ring_case(f, 0, 0, 128);
}

/* ---- life ---- */

static void test_quiet_before_driver_ok(void **state)
{
	struct fixture *f = *state;
	struct buffer b = room(f, 16);

	assert_true(driver_negotiate(&f->d, VERSION_1));
	driver_queue(&f->d, 0, 8, 0xffff);
	driver_add(&f->d, 0, NULL, 0, &b, 1);
	driver_notify(&f->d, 0);
	assert_false(driver_used(&f->d, 0, NULL, NULL));
	driver_set_status(&f->d, 0xf);
	driver_notify(&f->d, 0);
	assert_true(driver_used(&f->d, 0, NULL, NULL));
	/* Enabled queues do not move. */
	set_common(f, 0x16, 2, 0);
	set_common(f, 0x20, 4, 0);
	set_common(f, 0x18, 2, 4);
	assert_int_equal(common(f, 0x18, 2), 8);
	expect_service(f);
}

static void test_bus_master(void **state)
{
	struct fixture *f = *state;
	struct buffer b = room(f, 16);

	driver_start(&f->d, 0, 1);
	rig_config_write(&f->rig, SLOT, 4, 2, 2);
	driver_add(&f->d, 0, NULL, 0, &b, 1);
	driver_notify(&f->d, 0);
	assert_false(driver_used(&f->d, 0, NULL, NULL));
	/* What came in between is not forgotten. */
	rig_config_write(&f->rig, SLOT, 4, 6, 2);
	driver_wait(&f->d, 0, NULL, NULL);
}

static void test_config_window(void **state)
{
	struct fixture *f = *state;
	u8 cap = f->d.pci_cfg;

	rig_config_write(&f->rig, SLOT, cap + 4u, 4, 1);
	rig_config_write(&f->rig, SLOT, cap + 8u, 0x14, 4);
	rig_config_write(&f->rig, SLOT, cap + 12u, 1, 4);
	rig_config_write(&f->rig, SLOT, cap + 16u, 1, 1);
	assert_int_equal(driver_status(&f->d), 1);
	assert_int_equal(rig_config_read(&f->rig, SLOT, cap + 16u, 1), 1);
	/* Works with decoding off too; nonsense does nothing. */
	rig_config_write(&f->rig, SLOT, 4, 0, 2);
	rig_config_write(&f->rig, SLOT, cap + 16u, 0, 1);
	assert_int_equal(rig_config_read(&f->rig, SLOT, cap + 16u, 1), 0);
	for (unsigned bar = 0; bar < 8; bar++) {
		for (unsigned len = 0; len < 10; len++) {
			rig_config_write(&f->rig, SLOT, cap + 4u, bar, 1);
			rig_config_write(&f->rig, SLOT, cap + 8u, 0xfffffffc,
			                 4);
			rig_config_write(&f->rig, SLOT, cap + 12u, len, 4);
			rig_config_read(&f->rig, SLOT, cap + 16u, 4);
			rig_config_write(&f->rig, SLOT, cap + 16u, 1, 4);
		}
	}
}

static bool limited(void *ctx)
{
	struct fixture *f = ctx;
	u32 len;

	while (driver_used(&f->d, 0, NULL, &len))
		assert_int_equal(len, 4096);
	return f->d.queues[0].free_count == 64;
}

static void test_rate(void **state)
{
	struct fixture *f = *state;
	struct buffer b = room(f, 65536);
	unsigned at_once = 0;

	driver_start(&f->d, 0, 1);
	for (unsigned i = 0; i < 40; i++)
		driver_add(&f->d, 0, NULL, 0, &b, 1);
	driver_notify(&f->d, 0);
	while (driver_used(&f->d, 0, NULL, NULL))
		at_once++;
	/* 64 KiB and what the time since let through. */
	assert_in_range(at_once, 16, 30);
	rig_wait(&f->rig, limited, f);
}

static void test_notify_by_eventfd(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->d, EVENT_IDX, 1);
	expect_service(f);
	/* The regions follow the BAR. */
	rig_config_write(&f->rig, SLOT, 0x20, 0xe0000000, 4);
	driver_probe(&f->d, &f->rig, SLOT);
	driver_start(&f->d, EVENT_IDX, 1);
	expect_service(f);
}

static void test_state(void **state)
{
	struct fixture *f = *state;
	const struct device_type *type = f->rng->type;
	struct state_writer w = { 0 };
	struct state_reader r;
	struct error err;
	struct buffer b = room(f, 16);

	start(f);
	expect_service(f);
	driver_add(&f->d, 0, NULL, 0, &b, 1); /* nobody was told yet */
	type->quiesce(f->rng);
	state_save(&w, type->name, f->rng->instance, 1, 0, type->state, f->rng);
	type->reset(f->rng);
	assert_int_equal(driver_status(&f->d), 0xff); /* BARs are gone */
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(state_load(&r, type->name, f->rng->instance, 1,
	                            type->state, f->rng, &err),
	                 0);
	assert_int_equal(type->loaded(f->rng, &err), 0);
	assert_int_equal(driver_status(&f->d), 0xf);
	driver_wait(&f->d, 0, NULL, NULL);
	expect_service(f);
	state_writer_fini(&w);
}

/* Register accesses of every kind, in every state. */
static void test_garbage(void **state)
{
	struct fixture *f = *state;
	u32 seed = 99;
	u64 bar = f->d.common;

	for (unsigned round = 0; round < 40; round++) {
		f->rig.bump = 0x10000;
		start(f);
		for (unsigned i = 0; i < 3000; i++) {
			unsigned size = 1u << (seed >> 20 & 3);
			u64 off = (seed >> 4) % 0x4000;

			seed = seed * 1664525 + 1013904223;
			if (seed & 1u << 31)
				off &= 0x303f;
			if (seed & 1u << 30)
				rig_mmio_write(&f->rig, bar + off, size,
				               seed * 0x9e3779b97f4a7c15ull);
			else
				rig_mmio_read(&f->rig, bar + off, size);
		}
	}
	f->rig.bump = 0x10000;
	start(f);
	expect_service(f);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_probe),
		TEST(test_negotiation),
		TEST(test_driver_ok_without_features),
		TEST(test_service),
		TEST(test_indirect),
		TEST(test_two_slots),
		TEST(test_event_idx),
		TEST(test_no_interrupt_flag),
		TEST(test_intx),
		TEST(test_vectors),
		TEST(test_head_out_of_range),
		TEST(test_next_out_of_range),
		TEST(test_loop),
		TEST(test_bad_addresses),
		TEST(test_order),
		TEST(test_idx_jump),
		TEST(test_bad_indirect),
		TEST(test_bad_rings),
		TEST(test_quiet_before_driver_ok),
		TEST(test_bus_master),
		TEST(test_config_window),
		TEST(test_rate),
		cmocka_unit_test_setup_teardown(test_notify_by_eventfd,
		                                setup_eventfd, teardown),
		TEST(test_state),
		TEST(test_garbage),
	};

	return cmocka_run_group_tests_name("virtio", tests, NULL, NULL);
}
