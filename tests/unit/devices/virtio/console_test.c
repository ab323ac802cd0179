/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio serial ports: nothing lost either way, control messages, sizes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/console.h"
#include "rig.h"

#define F_SIZE BIT(0)
#define F_MULTIPORT BIT(1)
#define EVENT_IDX BIT(29)

enum { SLOT = PCI_DEVFN(1, 0), CONTROL_IN = 2, CONTROL_OUT = 3 };
enum {
	READY = 0,
	ADD = 1,
	PORT_READY = 3,
	CONSOLE = 4,
	RESIZE = 5,
	OPEN = 6,
	NAME = 7
};

struct host_end {
	u8 got[100000];
	size_t count, room; /* output() takes up to room bytes */
	unsigned rooms, opens, closes;
};

struct fixture {
	struct rig rig;
	struct host_end ends[2];
	struct device *dev;
	struct driver d;
	gpa_t data, control;
};

static size_t take(void *ctx, const void *buf, size_t len)
{
	struct host_end *e = ctx;
	size_t n = MIN(len, e->room);

	memcpy(e->got + e->count, buf, n);
	e->count += n;
	e->room -= n;
	return n;
}

static void has_room(void *ctx)
{
	((struct host_end *)ctx)->rooms++;
}

static void opened(void *ctx, bool open)
{
	struct host_end *e = ctx;

	if (open)
		e->opens++;
	else
		e->closes++;
}

static int create(void **state, unsigned ports)
{
	struct fixture *f = xalloc(sizeof(*f));
	struct virtio_console_port end[2] = {
		{ .console = true },
		{ .name = "org.qemu.guest_agent.0" },
	};
	struct virtio_console_config config = { .ports = end,
		                                .port_count = ports,
		                                .columns = 80,
		                                .rows = 25,
		                                .devfn = PCI_SLOT_ANY };

	rig_init(&f->rig);
	for (unsigned i = 0; i < 2; i++) {
		end[i].ctx = &f->ends[i];
		end[i].output = take;
		end[i].input_room = has_room;
		end[i].opened = opened;
		f->ends[i].room = sizeof(f->ends[i].got);
	}
	assert_int_equal(virtio_console_create(&f->dev, &f->rig.host,
	                                       f->rig.pci, &config, NULL),
	                 0);
	pci_assign_resources(f->rig.pci);
	driver_probe(&f->d, &f->rig, SLOT);
	f->data = rig_alloc(&f->rig, 128 << 10);
	f->control = rig_alloc(&f->rig, 8);
	*state = f;
	return 0;
}

static int setup_one(void **state)
{
	return create(state, 1);
}

static int setup_two(void **state)
{
	return create(state, 2);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_destroy(f->dev);
	rig_fini(&f->rig);
	free(f);
	return 0;
}

static void print(struct fixture *f, unsigned queue, const char *text)
{
	u32 len = (u32)strlen(text);
	gpa_t at = rig_alloc(&f->rig, len);
	struct buffer b = { at, len };

	memcpy(rig_ptr(&f->rig, at, len), text, len);
	driver_add(&f->d, queue, &b, 1, NULL, 0);
	driver_notify(&f->d, queue);
}

static void offer(struct fixture *f, unsigned queue, unsigned count, u32 len)
{
	for (unsigned i = 0; i < count; i++) {
		struct buffer b = { rig_alloc(&f->rig, len), len };

		driver_add(&f->d, queue, NULL, 0, &b, 1);
	}
	driver_notify(&f->d, queue);
}

static void tell(struct fixture *f, u32 port, u16 event, u16 value)
{
	struct buffer b = { f->control, 8 };
	u8 *p = rig_ptr(&f->rig, f->control, 8);

	memcpy(p, &port, 4);
	memcpy(p + 4, &event, 2);
	memcpy(p + 6, &value, 2);
	driver_add(&f->d, CONTROL_OUT, &b, 1, NULL, 0);
	driver_notify(&f->d, CONTROL_OUT);
	assert_true(driver_used(&f->d, CONTROL_OUT, NULL, NULL));
}

/* The next control message must be this one. */
static void expect(struct fixture *f, u32 port, u16 event, u16 value,
                   const void *more, u32 more_len)
{
	u8 want[64] = { 0 };
	u16 head;
	u32 len;
	u64 addr;

	memcpy(want, &port, 4);
	memcpy(want + 4, &event, 2);
	memcpy(want + 6, &value, 2);
	memcpy(want + 8, more, more_len);
	assert_true(driver_used(&f->d, CONTROL_IN, &head, &len));
	assert_int_equal(len, 8 + more_len);
	memcpy(&addr,
	       rig_ptr(&f->rig, f->d.queues[CONTROL_IN].desc + head * 16u, 8),
	       8);
	assert_memory_equal(rig_ptr(&f->rig, addr, len), want, len);
}

static void expect_silence(struct fixture *f)
{
	assert_false(driver_used(&f->d, CONTROL_IN, NULL, NULL));
}

static void test_lone_terminal(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(driver_offered(&f->d) & 3, F_SIZE);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.common + 0x12, 2), 2);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device, 4), 25 << 16 | 80);
	driver_start(&f->d, F_SIZE | EVENT_IDX, 2);
	print(f, 1, "hello");
	assert_int_equal(f->ends[0].count, 5);
	assert_memory_equal(f->ends[0].got, "hello", 5);
	assert_true(driver_used(&f->d, 1, NULL, NULL));
	virtio_console_resize(f->dev, 132, 50);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device, 4),
	                 50 << 16 | 132);
	assert_int_equal(f->rig.msi_count[0x40], 1);
}

static void test_output_pressure(void **state)
{
	struct fixture *f = *state;
	char text[257];

	driver_start(&f->d, EVENT_IDX, 2);
	f->ends[0].room = 0;
	for (unsigned i = 0; i < 50; i++) {
		memset(text, 'a' + (int)(i % 26), 256);
		text[256] = 0;
		print(f, 1, text);
	}
	assert_int_equal(f->ends[0].count, 0);
	/* In pieces that fit nothing. */
	while (f->ends[0].count < 50 * 256) {
		size_t before = f->ends[0].count;

		f->ends[0].room = 37;
		virtio_console_writable(f->dev, 0);
		assert_true(f->ends[0].count > before);
	}
	assert_int_equal(f->ends[0].count, 50 * 256);
	for (unsigned i = 0; i < 50 * 256; i++)
		assert_int_equal(f->ends[0].got[i], 'a' + i / 256 % 26);
	for (unsigned i = 0; i < 50; i++)
		assert_true(driver_used(&f->d, 1, NULL, NULL));
}

static void test_input(void **state)
{
	struct fixture *f = *state;
	u32 len;

	/* Nobody listens yet. */
	assert_int_equal(virtio_console_input(f->dev, 0, "abc", 3), 0);
	driver_start(&f->d, EVENT_IDX, 2);
	assert_int_equal(f->ends[0].rooms, 1);
	assert_int_equal(virtio_console_input(f->dev, 0, "abc", 3), 0);
	offer(f, 0, 2, 4);
	assert_int_equal(f->ends[0].rooms, 2);
	assert_int_equal(virtio_console_input(f->dev, 0, "0123456789", 10), 8);
	assert_true(driver_used(&f->d, 0, NULL, &len));
	assert_int_equal(len, 4);
	assert_true(driver_used(&f->d, 0, NULL, &len));
	offer(f, 0, 1, 4);
	assert_int_equal(f->ends[0].rooms, 3);
	assert_int_equal(virtio_console_input(f->dev, 0, "89", 2), 2);
	assert_true(driver_used(&f->d, 0, NULL, &len));
	assert_int_equal(len, 2);
	offer(f, 0, 1, 4);
	assert_int_equal(f->ends[0].rooms, 3); /* nothing was waiting */
	assert_int_equal(virtio_console_input(f->dev, 7, "x", 1), 1);
}

static void start_two(struct fixture *f)
{
	driver_start(&f->d, F_SIZE | F_MULTIPORT, 6);
	offer(f, CONTROL_IN, 16, 64);
	tell(f, 0, READY, 1);
	expect(f, 0, ADD, 1, "", 0);
	expect(f, 1, ADD, 1, "", 0);
	expect_silence(f);
}

static void test_multiport(void **state)
{
	struct fixture *f = *state;
	const char *name = "org.qemu.guest_agent.0";

	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 4, 4), 2);
	start_two(f);
	tell(f, 0, PORT_READY, 1);
	expect(f, 0, CONSOLE, 1, "", 0);
	expect(f, 0, RESIZE, 1, "\x50\0\x19\0", 4);
	expect(f, 0, OPEN, 1, "", 0);
	expect_silence(f);
	tell(f, 1, PORT_READY, 1);
	expect(f, 1, OPEN, 1, "", 0);
	expect(f, 1, NAME, 1, name, (u32)strlen(name));
	expect_silence(f);
	tell(f, 1, OPEN, 1);
	assert_int_equal(f->ends[1].opens, 1);
	print(f, 5, "agent");
	assert_memory_equal(f->ends[1].got, "agent", 5);
	offer(f, 4, 1, 16);
	assert_int_equal(virtio_console_input(f->dev, 1, "reply", 5), 5);
	/* Port 0 is not open: its bytes wait. */
	offer(f, 0, 1, 16);
	assert_int_equal(virtio_console_input(f->dev, 0, "x", 1), 0);
	tell(f, 0, OPEN, 1);
	assert_int_equal(f->ends[0].rooms, 1);
	assert_int_equal(virtio_console_input(f->dev, 0, "x", 1), 1);
	virtio_console_resize(f->dev, 100, 30);
	expect(f, 0, RESIZE, 1, "\x64\0\x1e\0", 4);
	tell(f, 1, OPEN, 0);
	assert_int_equal(f->ends[1].closes, 1);
	assert_int_equal(virtio_console_input(f->dev, 1, "x", 1), 0);
	driver_set_status(&f->d, 0);
	assert_int_equal(f->ends[0].closes, 1);
}

static void test_connect(void **state)
{
	struct fixture *f = *state;

	start_two(f);
	virtio_console_connect(f->dev, 1, false);
	expect(f, 1, OPEN, 0, "", 0);
	/* Nobody is there: the guest is not held up. */
	f->ends[1].room = 0;
	print(f, 5, "lost");
	assert_true(driver_used(&f->d, 5, NULL, NULL));
	virtio_console_connect(f->dev, 1, true);
	expect(f, 1, OPEN, 1, "", 0);
	print(f, 5, "kept");
	assert_false(driver_used(&f->d, 5, NULL, NULL));
	f->ends[1].room = 100;
	virtio_console_writable(f->dev, 1);
	assert_true(driver_used(&f->d, 5, NULL, NULL));
	assert_memory_equal(f->ends[1].got, "kept", 4);
}

static void test_messages_wait(void **state)
{
	struct fixture *f = *state;

	driver_start(&f->d, F_MULTIPORT | EVENT_IDX, 6);
	tell(f, 0, READY, 1);
	tell(f, 0, PORT_READY, 1);
	expect_silence(f);
	offer(f, CONTROL_IN, 2, 64);
	expect(f, 0, ADD, 1, "", 0);
	expect(f, 0, CONSOLE, 1, "", 0);
	expect_silence(f);
	offer(f, CONTROL_IN, 3, 64);
	expect(f, 0, RESIZE, 1, "\x50\0\x19\0", 4);
	expect(f, 0, OPEN, 1, "", 0);
	expect(f, 1, ADD, 1, "", 0);
}

static void test_bad_messages(void **state)
{
	struct fixture *f = *state;
	struct buffer b = { f->control, 5 };

	start_two(f);
	tell(f, 2, PORT_READY, 1);
	tell(f, 0xffffffff, OPEN, 1);
	for (unsigned i = 0; i < 40; i++)
		tell(f, i % 3, (u16)(100 + i), 1);
	driver_add(&f->d, CONTROL_OUT, &b, 1, NULL, 0);
	driver_notify(&f->d, CONTROL_OUT);
	assert_true(driver_used(&f->d, CONTROL_OUT, NULL, NULL));
	expect_silence(f);
	assert_int_equal(driver_status(&f->d), 0xf);
	/* A buffer that no message fits in. */
	driver_start(&f->d, F_MULTIPORT, 6);
	offer(f, CONTROL_IN, 1, 4);
	tell(f, 0, READY, 1);
	assert_int_equal(driver_status(&f->d), 0x4f);
}

static void test_state(void **state)
{
	struct fixture *f = *state;
	const struct device_type *type = f->dev->type;
	struct state_writer w = { 0 };
	struct state_reader r;

	start_two(f);
	tell(f, 1, OPEN, 1);
	f->ends[1].room = 3;
	print(f, 5, "half a line");
	type->quiesce(f->dev);
	state_save(&w, type->name, "x", 1, 0, type->state, f->dev);
	type->reset(f->dev);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(
	    state_load(&r, type->name, "x", 1, type->state, f->dev, NULL), 0);
	assert_int_equal(type->loaded(f->dev, NULL), 0);
	assert_int_equal(f->ends[1].opens, 2); /* the host hears it again */
	f->ends[1].room = 100;
	virtio_console_writable(f->dev, 1);
	assert_int_equal(f->ends[1].count, 11);
	assert_memory_equal(f->ends[1].got, "half a line", 11);
	offer(f, 4, 1, 16);
	assert_int_equal(virtio_console_input(f->dev, 1, "ok", 2), 2);
	state_writer_fini(&w);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	struct virtio_console_config config = { .port_count = 17,
		                                .devfn = PCI_SLOT_ANY };
	struct virtio_console_port end = { .console = true };
	struct device *dev;
	struct error err;

	config.ports = &end;
	assert_int_equal(virtio_console_create(&dev, &f->rig.host, f->rig.pci,
	                                       &config, &err),
	                 -EINVAL);
	config.port_count = 1;
	config.devfn = SLOT;
	assert_int_equal(virtio_console_create(&dev, &f->rig.host, f->rig.pci,
	                                       &config, &err),
	                 -EEXIST);
}

#define ONE(name) cmocka_unit_test_setup_teardown(name, setup_one, teardown)
#define TWO(name) cmocka_unit_test_setup_teardown(name, setup_two, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ONE(test_lone_terminal), ONE(test_output_pressure),
		ONE(test_input),         TWO(test_multiport),
		TWO(test_connect),       TWO(test_messages_wait),
		TWO(test_bad_messages),  TWO(test_state),
		ONE(test_refused),
	};

	return cmocka_run_group_tests_name("virtio console", tests, NULL, NULL);
}
