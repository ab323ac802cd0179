/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio disk against a block that completes on another thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/blk.h"
#include "fake_block.h"
#include "rig_disk.h"

#define F_FLUSH BIT(9)
#define F_CONFIG_WCE BIT(11)
#define F_MQ BIT(12)
#define F_DISCARD BIT(13)
#define F_WRITE_ZEROES BIT(14)
#define EVENT_IDX BIT(29)
#define ALL                                                                    \
	(BIT(1) | BIT(2) | BIT(6) | F_FLUSH | BIT(10) | F_CONFIG_WCE | F_MQ |  \
	 F_DISCARD | F_WRITE_ZEROES | BIT(28) | EVENT_IDX)

enum { SLOT = PCI_DEVFN(1, 0), SIZE = 1 << 20, QUEUES = 3 };
enum { OK = 0, IOERR = 1, UNSUPP = 2, NOTHING = 0x5a };
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };

struct fixture {
	struct rig rig;
	struct block *block;
	struct device *dev;
	struct driver d;
	gpa_t header, data, status;
};

static int create(void **state, u32 sector, bool readonly)
{
	struct fixture *f = xalloc(sizeof(*f));

	f->block = fake_block_create(SIZE, sector);
	fake_block_set_flags(f->block, readonly, true);
	f->dev = rig_disk_init(&f->rig, f->block, QUEUES,
	                       "serial-0123456789-long", &f->d);
	f->header = rig_alloc(&f->rig, 16 + 17 * 16);
	f->data = rig_alloc(&f->rig, 64 << 10);
	f->status = rig_alloc(&f->rig, 1);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return create(state, 512, false);
}

static int setup_4k(void **state)
{
	return create(state, 4096, false);
}

static int setup_readonly(void **state)
{
	return create(state, 512, true);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_disk_fini(&f->rig, f->block, f->dev);
	free(f);
	return 0;
}

static void put_header(struct fixture *f, u32 type, u64 sector)
{
	u8 *p = rig_ptr(&f->rig, f->header, 16);

	memset(p, 0, 16);
	memcpy(p, &type, 4);
	memcpy(p + 8, &sector, 8);
	*(u8 *)rig_ptr(&f->rig, f->status, 1) = NOTHING;
}

static u8 status_of(struct fixture *f)
{
	return *(u8 *)rig_ptr(&f->rig, f->status, 1);
}

/* Queue a request without telling the device. */
static void post(struct fixture *f, unsigned queue, u32 type, u64 sector,
                 u32 out_len, u32 in_len)
{
	struct buffer out[2] = { { f->header, 16 }, { f->data, out_len } };
	struct buffer in[2] = { { f->data, in_len }, { f->status, 1 } };

	put_header(f, type, sector);
	driver_add(&f->d, queue, out, out_len ? 2 : 1, in_len ? in : in + 1,
	           in_len ? 2 : 1);
}

static u8 request(struct fixture *f, u32 type, u64 sector, u32 out_len,
                  u32 in_len)
{
	u32 len;

	post(f, 0, type, sector, out_len, in_len);
	driver_notify(&f->d, 0);
	driver_wait(&f->d, 0, NULL, &len);
	assert_int_equal(len, in_len + 1);
	return status_of(f);
}

static void start(struct fixture *f)
{
	driver_start(&f->d, ALL, QUEUES);
}

static u64 config(struct fixture *f, unsigned off, unsigned size)
{
	return rig_mmio_read(&f->rig, f->d.device + off, size);
}

static void test_config(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rig_config_read(&f->rig, SLOT, 2, 2), 0x1042);
	assert_int_equal(rig_config_read(&f->rig, SLOT, 9, 2), 0);
	assert_int_equal(rig_config_read(&f->rig, SLOT, 0xb, 1), 1);
	assert_int_equal(driver_offered(&f->d), ALL | BIT(32));
	assert_int_equal(config(f, 0, 8), SIZE / 512);
	assert_int_equal(config(f, 12, 4), 510);
	assert_int_equal(config(f, 20, 4), 512);
	assert_int_equal(config(f, 24, 1), 3); /* 4 KiB underneath */
	assert_int_equal(config(f, 26, 2), 8);
	assert_int_equal(config(f, 28, 4), 128);
	assert_int_equal(config(f, 32, 1), 1);
	assert_int_equal(config(f, 34, 2), QUEUES);
	assert_int_equal(config(f, 44, 4), 1);
	assert_int_equal(config(f, 56, 1), 1);
	assert_int_equal(config(f, 60, 4), 0); /* past the end */
}

static void test_read_write(void **state)
{
	struct fixture *f = *state;
	u8 *data = rig_ptr(&f->rig, f->data, 8192);

	start(f);
	for (unsigned i = 0; i < 8192; i++)
		data[i] = (u8)(i * 7);
	assert_int_equal(request(f, OUT, 10, 8192, 0), OK);
	assert_memory_equal(fake_block_data(f->block) + 5120, data, 8192);
	assert_int_equal(fake_block_last_flags(f->block), BLOCK_REQ_INLINE);
	memset(data, 0, 8192);
	*memory_page_flags(f->rig.host.memory, f->data) = 0;
	assert_int_equal(request(f, IN, 10, 0, 8192), OK);
	assert_memory_equal(fake_block_data(f->block) + 5120, data, 8192);
	assert_true(*memory_page_flags(f->rig.host.memory, f->data) &
	            PAGE_DIRTY);
	assert_true(f->rig.msi_count[0x41] >= 1);
	/* The last sector. */
	assert_int_equal(request(f, IN, SIZE / 512 - 1, 0, 512), OK);
}

/* Reads that are over inside submit: used and signalled when the notification
 * is, with no help of the loop. Mixed with such as are not. */
static void test_at_once(void **state)
{
	struct fixture *f = *state;
	unsigned before;
	u32 len;

	start(f);
	fake_block_at_once(f->block, true);
	memset(fake_block_data(f->block) + 5120, 0x5c, 512);
	before = f->rig.msi_count[0x41];
	post(f, 0, IN, 10, 0, 512);
	driver_notify(&f->d, 0);
	assert_int_equal(status_of(f), OK);
	assert_int_equal(fake_block_last_flags(f->block), BLOCK_REQ_INLINE);
	assert_int_equal(f->rig.msi_count[0x41], before + 1);
	assert_int_equal(*(u8 *)rig_ptr(&f->rig, f->data, 1), 0x5c);
	driver_wait(&f->d, 0, NULL, &len);
	assert_int_equal(len, 513);
	for (unsigned i = 0; i < 500; i++) {
		post(f, 0, i % 3 ? IN : OUT, i, i % 3 ? 0 : 512,
		     i % 3 ? 512 : 0);
		driver_notify(&f->d, 0);
		driver_wait(&f->d, 0, NULL, &len);
		assert_int_equal(status_of(f), OK);
	}
	fake_block_fail(f->block, -EIO);
	assert_int_equal(request(f, IN, 0, 0, 512), IOERR);
}

static void test_any_layout(void **state)
{
	struct fixture *f = *state;
	u8 *data = rig_ptr(&f->rig, f->data, 2048);
	struct buffer out[4] = { { f->header, 3 },
		                 { f->header + 3, 13 },
		                 { f->data, 100 },
		                 { f->data + 100, 412 } };
	struct buffer in = { f->status, 1 };
	struct buffer in_whole = { f->data + 1024, 513 };

	start(f);
	memset(data, 0xc3, 512);
	put_header(f, OUT, 1);
	driver_add_indirect(&f->d, 1, out, 4, &in, 1);
	driver_notify(&f->d, 1);
	driver_wait(&f->d, 1, NULL, NULL);
	assert_int_equal(status_of(f), OK);
	assert_memory_equal(fake_block_data(f->block) + 512, data, 512);
	/* Data and status in one buffer, header and data in one too. */
	put_header(f, IN, 1);
	out[0].len = 16;
	driver_add(&f->d, 1, out, 1, &in_whole, 1);
	driver_notify(&f->d, 1);
	driver_wait(&f->d, 1, NULL, NULL);
	assert_memory_equal(data + 1024, data, 512);
	assert_int_equal(data[1024 + 512], OK);
}

/* As many as a mebibyte has pages. */
static void test_many_segments(void **state)
{
	enum { SEGMENTS = 256 };
	struct fixture *f = *state;
	struct buffer out = { f->header, 16 }, in[SEGMENTS + 1];

	start(f);
	for (unsigned i = 0; i < SEGMENTS; i++)
		in[i] = (struct buffer){ f->data + i % 54 * 1024, 512 };
	in[SEGMENTS] = (struct buffer){ f->status, 1 };
	memset(fake_block_data(f->block), 0x77, SEGMENTS * 512);
	put_header(f, IN, 0);
	driver_add_indirect(&f->d, 0, &out, 1, in, SEGMENTS + 1);
	driver_notify(&f->d, 0);
	driver_wait(&f->d, 0, NULL, NULL);
	assert_int_equal(status_of(f), OK);
	assert_int_equal(fake_block_submitted(f->block), 1);
	assert_int_equal(*(u8 *)rig_ptr(&f->rig, f->data + 53 * 1024 + 511, 1),
	                 0x77);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	unsigned before;

	start(f);
	before = fake_block_submitted(f->block);
	assert_int_equal(request(f, IN, SIZE / 512, 0, 512), IOERR);
	assert_int_equal(request(f, IN, SIZE / 512 - 1, 0, 1024), IOERR);
	assert_int_equal(request(f, IN, ~(u64)0, 0, 512), IOERR);
	assert_int_equal(request(f, IN, (u64)1 << 55, 0, 512), IOERR);
	assert_int_equal(request(f, OUT, 0, 513, 0), IOERR);
	assert_int_equal(request(f, IN, 0, 0, 100), IOERR);
	assert_int_equal(request(f, 99, 0, 0, 512), UNSUPP);
	assert_int_equal(request(f, 0xffffffff, 0, 512, 0), UNSUPP);
	assert_int_equal(fake_block_submitted(f->block), before);
	assert_int_equal(driver_status(&f->d), 0xf);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_block_fail(f->block, -EIO);
	assert_int_equal(request(f, OUT, 0, 512, 0), IOERR);
	fake_block_fail(f->block, -ENOSPC);
	assert_int_equal(request(f, OUT, 0, 512, 0), IOERR);
	fake_block_fail(f->block, -ENOTSUP);
	assert_int_equal(request(f, FLUSH, 0, 0, 0), UNSUPP);
	fake_block_fail(f->block, 0);
	assert_int_equal(request(f, FLUSH, 0, 0, 0), OK);
}

static void test_flush_and_cache(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(request(f, FLUSH, 0, 0, 0), OK);
	assert_int_equal(fake_block_last_op(f->block), BLOCK_FLUSH);
	rig_mmio_write(&f->rig, f->d.device + 32, 1, 0);
	assert_int_equal(config(f, 32, 1), 0);
	assert_int_equal(request(f, OUT, 0, 512, 0), OK);
	assert_int_equal(fake_block_last_flags(f->block), BLOCK_REQ_FUA);
	rig_mmio_write(&f->rig, f->d.device + 32, 1, 1);
	assert_int_equal(request(f, OUT, 0, 512, 0), OK);
	assert_int_equal(fake_block_last_flags(f->block), BLOCK_REQ_INLINE);
	/* A driver that knows no flush gets durable writes. */
	driver_start(&f->d, 0, 1);
	rig_mmio_write(&f->rig, f->d.device + 32, 1, 0);
	assert_int_equal(config(f, 32, 1), 1);
	assert_int_equal(request(f, OUT, 0, 512, 0), OK);
	assert_int_equal(fake_block_last_flags(f->block), BLOCK_REQ_FUA);
}

static void put_range(struct fixture *f, unsigned at, u64 sector, u32 sectors,
                      u32 flags)
{
	u8 *p = rig_ptr(&f->rig, f->data + at * 16, 16);

	memcpy(p, &sector, 8);
	memcpy(p + 8, &sectors, 4);
	memcpy(p + 12, &flags, 4);
}

static void test_discard(void **state)
{
	struct fixture *f = *state;
	u8 *disk = fake_block_data(f->block);
	unsigned before;

	start(f);
	memset(disk, 0xff, SIZE);
	put_range(f, 0, 2, 2, 0);
	put_range(f, 1, 8, 1, 0);
	before = fake_block_submitted(f->block);
	assert_int_equal(request(f, DISCARD, 0, 32, 0), OK);
	assert_int_equal(fake_block_submitted(f->block), before + 2);
	assert_true(disk[1023] == 0xff && disk[1024] == 0 && disk[2047] == 0);
	assert_true(disk[2048] == 0xff && disk[4096] == 0 &&
	            disk[4608] == 0xff);
	put_range(f, 0, 0, 1, 1);
	assert_int_equal(request(f, DISCARD, 0, 16, 0), UNSUPP);
	assert_int_equal(request(f, ZEROES, 0, 16, 0), OK);
	assert_int_equal(fake_block_last_flags(f->block), 0);
	assert_int_equal(disk[0], 0);
	put_range(f, 0, 1, 1, 0);
	assert_int_equal(request(f, ZEROES, 0, 16, 0), OK);
	assert_int_equal(fake_block_last_flags(f->block), BLOCK_REQ_NO_UNMAP);
	put_range(f, 0, 1, 1, 2);
	assert_int_equal(request(f, ZEROES, 0, 16, 0), UNSUPP);
	put_range(f, 0, SIZE / 512 - 1, 2, 0);
	assert_int_equal(request(f, ZEROES, 0, 16, 0), IOERR);
	put_range(f, 0, ~(u64)0, 0xffffffff, 0);
	assert_int_equal(request(f, DISCARD, 0, 16, 0), IOERR);
	put_range(f, 0, 0, 0, 0);
	assert_int_equal(request(f, DISCARD, 0, 16, 0), IOERR);
	put_range(f, 0, 0, 1, 0);
	assert_int_equal(request(f, DISCARD, 0, 17, 0), IOERR);
	assert_int_equal(request(f, DISCARD, 0, 0, 0), IOERR);
	assert_int_equal(request(f, DISCARD, 0, 17 * 16, 0), IOERR);
	/* Not agreed on. */
	driver_start(&f->d, 0, 1);
	assert_int_equal(request(f, DISCARD, 0, 16, 0), UNSUPP);
}

static void test_id(void **state)
{
	struct fixture *f = *state;
	char *data = rig_ptr(&f->rig, f->data, 32);

	start(f);
	memset(data, '#', 32);
	assert_int_equal(request(f, GET_ID, 0, 0, 20), OK);
	assert_memory_equal(data, "serial-0123456789-lo####", 24);
	memset(data, '#', 32);
	assert_int_equal(request(f, GET_ID, 0, 0, 5), OK);
	assert_memory_equal(data, "seria###", 8);
}

static void test_4k(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(config(f, 20, 4), 4096);
	assert_int_equal(config(f, 24, 1), 0);
	assert_int_equal(config(f, 44, 4), 8);
	assert_int_equal(request(f, IN, 8, 0, 4096), OK);
	assert_int_equal(request(f, IN, 1, 0, 4096), IOERR);
	assert_int_equal(request(f, IN, 8, 0, 512), IOERR);
}

static void test_readonly(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_offered(&f->d) & BIT(5));
	assert_false(driver_offered(&f->d) & (F_DISCARD | F_WRITE_ZEROES));
	driver_start(&f->d, F_FLUSH | BIT(5), 1);
	assert_int_equal(request(f, IN, 0, 0, 512), OK);
	assert_int_equal(request(f, OUT, 0, 512, 0), IOERR);
	assert_int_equal(request(f, FLUSH, 0, 0, 0), OK);
}

static void test_resize(void **state)
{
	struct fixture *f = *state;
	u32 generation;

	start(f);
	generation = (u32)rig_mmio_read(&f->rig, f->d.common + 0x15, 1);
	fake_block_set_size(f->block, SIZE / 2);
	virtio_blk_resized(f->dev);
	assert_int_equal(config(f, 0, 8), SIZE / 1024);
	assert_int_equal(f->rig.msi_count[0x40], 1);
	assert_int_not_equal(rig_mmio_read(&f->rig, f->d.common + 0x15, 1),
	                     generation);
	assert_int_equal(request(f, IN, SIZE / 1024, 0, 512), IOERR);
}

static void test_no_status(void **state)
{
	struct fixture *f = *state;
	struct buffer b = { f->header, 16 };

	start(f);
	put_header(f, IN, 0);
	driver_add(&f->d, 0, &b, 1, NULL, 0);
	driver_notify(&f->d, 0);
	assert_int_equal(driver_status(&f->d), 0x4f);
	start(f);
	b.len = 15;
	driver_add(&f->d, 0, &b, 1, &(struct buffer){ f->status, 1 }, 1);
	driver_notify(&f->d, 0);
	assert_int_equal(driver_status(&f->d), 0x4f);
	start(f);
	assert_int_equal(request(f, IN, 0, 0, 512), OK);
}

static void test_too_many(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_block_hold(f->block, true);
	post(f, 0, IN, 0, 0, 512);
	/* The same descriptors over and over. */
	for (unsigned i = 0; i < 70; i++) {
		driver_avail(&f->d, 0, 0);
		driver_notify(&f->d, 0);
	}
	assert_int_equal(driver_status(&f->d), 0x4f);
	assert_in_range(fake_block_submitted(f->block), 1, 64);
	fake_block_hold(f->block, false);
}

static bool is_reset(void *ctx)
{
	return driver_status(&((struct fixture *)ctx)->d) == 0;
}

static void test_reset_in_flight(void **state)
{
	struct fixture *f = *state;
	u8 used[64 * 8 + 6];
	gpa_t ring;

	start(f);
	fake_block_hold(f->block, true);
	for (unsigned i = 0; i < 8; i++)
		post(f, i % QUEUES, IN, i, 0, 512);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_notify(&f->d, i);
	assert_int_equal(fake_block_submitted(f->block), 8);
	ring = f->d.queues[0].used;
	memcpy(used, rig_ptr(&f->rig, ring, sizeof(used)), sizeof(used));
	driver_set_status(&f->d, 0);
	/* Not yet: reads would land in memory that is the driver's again. */
	assert_int_equal(driver_status(&f->d), 0xf);
	driver_set_status(&f->d, 1); /* a driver that does not wait */
	assert_int_equal(driver_status(&f->d), 0xf);
	fake_block_hold(f->block, false);
	rig_wait(&f->rig, is_reset, f);
	assert_memory_equal(rig_ptr(&f->rig, ring, sizeof(used)), used,
	                    sizeof(used));
	assert_int_equal(status_of(f), NOTHING);
	start(f);
	assert_int_equal(request(f, IN, 0, 0, 512), OK);
}

static void test_machine_reset_in_flight(void **state)
{
	struct fixture *f = *state;

	start(f);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 8; i++)
			post(f, 0, IN, i, 0, 512);
		driver_notify(&f->d, 0);
		f->dev->type->reset(f->dev);
		pci_assign_resources(f->rig.pci);
		f->rig.bump = f->status + 4096;
		start(f);
	}
	assert_int_equal(request(f, IN, 0, 0, 512), OK);
}

static void test_destroy_in_flight(void **state)
{
	struct fixture *f = *state;
	struct virtio_blk_config config = { .block = f->block,
		                            .queues = QUEUES,
		                            .devfn = PCI_SLOT_ANY };

	for (unsigned round = 0; round < 20; round++) {
		f->rig.bump = f->status + 4096;
		start(f);
		for (unsigned i = 0; i < 8; i++)
			post(f, 0, IN, i, 0, 512);
		driver_notify(&f->d, 0);
		rig_destroy(f->dev);
		assert_int_equal(virtio_blk_create(&f->dev, &f->rig.host,
		                                   f->rig.pci, &config, NULL),
		                 0);
		pci_assign_resources(f->rig.pci);
	}
}

static void test_state(void **state)
{
	struct fixture *f = *state;
	const struct device_type *type = f->dev->type;
	struct state_writer w = { 0 };
	struct state_reader r;

	start(f);
	rig_mmio_write(&f->rig, f->d.device + 32, 1, 0);
	post(f, 2, IN, 3, 0, 512);
	driver_notify(&f->d, 2);
	/* What was under way is in the ring before the state is taken. */
	type->quiesce(f->dev);
	assert_true(driver_used(&f->d, 2, NULL, NULL));
	assert_int_equal(status_of(f), OK);
	state_save(&w, type->name, "x", 1, 0, type->state, f->dev);
	type->reset(f->dev);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(
	    state_load(&r, type->name, "x", 1, type->state, f->dev, NULL), 0);
	assert_int_equal(type->loaded(f->dev, NULL), 0);
	assert_int_equal(config(f, 32, 1), 0);
	assert_int_equal(request(f, OUT, 0, 512, 0), OK);
	assert_int_equal(fake_block_last_flags(f->block), BLOCK_REQ_FUA);
	state_writer_fini(&w);
}

static void test_foreign_features(void **state)
{
	struct fixture *f = *state;
	const struct device_type *type = f->dev->type;
	struct virtio_blk_config config = { .block = f->block,
		                            .queues = 1,
		                            .devfn = PCI_SLOT_ANY };
	struct state_writer w = { 0 };
	struct state_reader r;
	struct device *other;
	struct error err;

	start(f); /* with MQ, which the other one lacks */
	type->quiesce(f->dev);
	state_save(&w, type->name, "x", 1, 0, type->state, f->dev);
	assert_int_equal(
	    virtio_blk_create(&other, &f->rig.host, f->rig.pci, &config, NULL),
	    0);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(
	    state_load(&r, type->name, "x", 1, type->state, other, NULL), 0);
	assert_int_equal(type->loaded(other, &err), -EPROTO);
	assert_non_null(strstr(err.text, "0x1000 "));
	rig_destroy(other);
	state_writer_fini(&w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_config),
		TEST(test_read_write),
		TEST(test_at_once),
		TEST(test_any_layout),
		TEST(test_many_segments),
		TEST(test_refused),
		TEST(test_errors),
		TEST(test_flush_and_cache),
		TEST(test_discard),
		TEST(test_id),
		cmocka_unit_test_setup_teardown(test_4k, setup_4k, teardown),
		cmocka_unit_test_setup_teardown(test_readonly, setup_readonly,
		                                teardown),
		TEST(test_resize),
		TEST(test_no_status),
		TEST(test_too_many),
		TEST(test_reset_in_flight),
		TEST(test_machine_reset_in_flight),
		TEST(test_destroy_in_flight),
		TEST(test_state),
		TEST(test_foreign_features),
	};

	return cmocka_run_group_tests_name("virtio blk", tests, NULL, NULL);
}
