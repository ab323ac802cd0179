/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testdev - devices for guest test programs, as kvm-unit-tests expects them.
 *
 *	0xe0-0xe3        rw  four bytes that read back what was written
 *	0xe4             wo  4 bytes: flush the page at that address from the
 *	                     machine's mappings; ours follow memory, so nothing
 *	                     is left to be flushed
 *	0x2000 + n       wo  level of GSI n, for n below 24
 *	MMIO 0xff000000  rw  64 KiB of bytes
 */
#include "devices/chips/testdev.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum {
	ECHO_BASE = 0xe0,
	ECHO_SIZE = 4,
	FLUSH_BASE = 0xe4,
	FLUSH_SIZE = 4,
	LINES_BASE = 0x2000
};

struct testdev {
	struct device dev;
	u8 echo[ECHO_SIZE];
	u8 level[TESTDEV_LINES];
	u8 bytes[TESTDEV_MMIO_SIZE];

	struct irq_line line[TESTDEV_LINES];
	struct bus_region echo_region, flush_region, lines_region, mmio_region;
};

/* The bus has checked off and size against the region. Little-endian. */
static u64 load(const u8 *at, unsigned size)
{
	u64 value = 0;

	memcpy(&value, at, size);
	return value;
}

static u64 echo_read(void *ctx, u64 off, unsigned size)
{
	return load(&((const struct testdev *)ctx)->echo[off], size);
}

static void echo_write(void *ctx, u64 off, u64 value, unsigned size)
{
	memcpy(&((struct testdev *)ctx)->echo[off], &value, size);
}

static u64 zero_read(void *ctx, u64 off, unsigned size)
{
	(void)ctx;
	(void)off;
	(void)size;
	return 0;
}

static void flush_write(void *ctx, u64 off, u64 value, unsigned size)
{
	(void)ctx;
	(void)off;
	(void)value;
	(void)size;
}

static void lines_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct testdev *t = ctx;

	(void)size;
	t->level[off] = !!(u8)value;
	irq_line_set(&t->line[off], t->level[off]);
}

static u64 mmio_read(void *ctx, u64 off, unsigned size)
{
	return load(&((const struct testdev *)ctx)->bytes[off], size);
}

static void mmio_write(void *ctx, u64 off, u64 value, unsigned size)
{
	memcpy(&((struct testdev *)ctx)->bytes[off], &value, size);
}

static const struct bus_ops echo_ops = { echo_read, echo_write, 1, 4 };
static const struct bus_ops flush_ops = { zero_read, flush_write, 1, 4 };
static const struct bus_ops lines_ops = { zero_read, lines_write, 1, 1 };
static const struct bus_ops mmio_ops = { mmio_read, mmio_write, 1, 8 };

static void drive_lines(struct testdev *t)
{
	for (unsigned i = 0; i < TESTDEV_LINES; i++)
		irq_line_set(&t->line[i], t->level[i]);
}

static void testdev_reset(struct device *dev)
{
	struct testdev *t = (struct testdev *)dev;

	memset(t->echo, 0, sizeof(t->echo));
	memset(t->level, 0, sizeof(t->level));
	memset(t->bytes, 0, sizeof(t->bytes));
	drive_lines(t);
}

static int testdev_loaded(struct device *dev, struct error *err)
{
	(void)err;
	drive_lines((struct testdev *)dev);
	return 0;
}

static void testdev_destroy(struct device *dev)
{
	struct testdev *t = (struct testdev *)dev;

	bus_unmap(dev->host->pio, &t->echo_region);
	bus_unmap(dev->host->pio, &t->flush_region);
	bus_unmap(dev->host->pio, &t->lines_region);
	bus_unmap(dev->host->mmio, &t->mmio_region);
	device_fini(dev);
	free(t);
}

static const struct field testdev_state[] = {
	FIELD_BLOB(struct testdev, echo),
	FIELD_BLOB(struct testdev, level),
	FIELD_BLOB(struct testdev, bytes),
	FIELD_LAST,
};

static const struct device_type testdev_type = {
	.name = "testdev",
	.state_major = 1,
	.state = testdev_state,
	.reset = testdev_reset,
	.loaded = testdev_loaded,
	.destroy = testdev_destroy,
};

struct testdev *testdev_create(struct device_host *host)
{
	struct testdev *t = xalloc(sizeof(*t));

	device_init(&t->dev, &testdev_type, host, "testdev");
	for (unsigned i = 0; i < TESTDEV_LINES; i++)
		irq_line_init(&t->line[i], host->irq, i);
	device_region_init(&t->dev, &t->echo_region, "testdev-echo", ECHO_BASE,
	                   ECHO_SIZE, &echo_ops);
	device_region_init(&t->dev, &t->flush_region, "testdev-flush",
	                   FLUSH_BASE, FLUSH_SIZE, &flush_ops);
	device_region_init(&t->dev, &t->lines_region, "testdev-lines",
	                   LINES_BASE, TESTDEV_LINES, &lines_ops);
	device_region_init(&t->dev, &t->mmio_region, "testdev-mmio",
	                   TESTDEV_MMIO_BASE, TESTDEV_MMIO_SIZE, &mmio_ops);
	bus_map(host->pio, &t->echo_region);
	bus_map(host->pio, &t->flush_region);
	bus_map(host->pio, &t->lines_region);
	bus_map(host->mmio, &t->mmio_region);
	return t;
}
