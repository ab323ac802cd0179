/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debug_ports - debug-exit, which ends the machine, and debugcon, to which
 * firmware writes.
 *
 *	0xf4   wo  4 bytes: end the machine with (value << 1) | 1
 *	0x402  wo  a byte of text;  ro 0xe9: somebody listens
 *	0xe9   as 0x402
 */
#include "devices/chips/debug_ports.h"

#include <stdlib.h>

#include "base/alloc.h"

enum { EXIT_BASE = 0xf4, EXIT_SIZE = 4 };
enum { FIRMWARE_PORT = 0x402, BOCHS_PORT = 0xe9, LISTENING = 0xe9 };

struct debug_exit {
	struct device dev;
	struct bus_region region;
};

static u64 exit_read(void *ctx, u64 off, unsigned size)
{
	(void)ctx;
	(void)off;
	(void)size;
	return 0;
}

static void exit_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct debug_exit *d = ctx;
	struct device_host *host = d->dev.host;

	(void)off;
	(void)size;
	/* An exit status has 8 bits anyway. */
	host->guest_exit(host->ctx, (int)((value << 1 | 1) & 0x7fffffff));
}

static const struct bus_ops exit_ops = { exit_read, exit_write, 1, 4 };

static void exit_reset(struct device *dev)
{
	(void)dev; /* has no state */
}

static void exit_destroy(struct device *dev)
{
	struct debug_exit *d = (struct debug_exit *)dev;

	bus_unmap(dev->host->pio, &d->region);
	device_fini(dev);
	free(d);
}

static const struct field no_state[] = { FIELD_LAST };

static const struct device_type debug_exit_type = {
	.name = "debug-exit",
	.state_major = 1,
	.state = no_state,
	.reset = exit_reset,
	.destroy = exit_destroy,
};

struct debug_exit *debug_exit_create(struct device_host *host)
{
	struct debug_exit *d = xalloc(sizeof(*d));

	device_init(&d->dev, &debug_exit_type, host, "debug-exit");
	device_region_init(&d->dev, &d->region, "debug-exit", EXIT_BASE,
	                   EXIT_SIZE, &exit_ops);
	bus_map(host->pio, &d->region);
	return d;
}

struct debugcon {
	struct device dev;
	struct debugcon_sink sink;
	struct bus_region region[2];
};

static u64 con_read(void *ctx, u64 off, unsigned size)
{
	const struct debugcon *d = ctx;

	(void)off;
	(void)size;
	return d->sink.out ? LISTENING : 0xff;
}

static void con_write(void *ctx, u64 off, u64 value, unsigned size)
{
	const struct debugcon *d = ctx;
	u8 byte = (u8)value;

	(void)off;
	(void)size;
	if (d->sink.out)
		d->sink.out(d->sink.ctx, &byte, 1);
}

static const struct bus_ops con_ops = { con_read, con_write, 1, 1 };

static void con_destroy(struct device *dev)
{
	struct debugcon *d = (struct debugcon *)dev;

	bus_unmap(dev->host->pio, &d->region[0]);
	bus_unmap(dev->host->pio, &d->region[1]);
	device_fini(dev);
	free(d);
}

static const struct device_type debugcon_type = {
	.name = "debugcon",
	.state_major = 1,
	.state = no_state,
	.reset = exit_reset,
	.destroy = con_destroy,
};

struct debugcon *debugcon_create(struct device_host *host,
                                 const struct debugcon_sink *sink)
{
	struct debugcon *d = xalloc(sizeof(*d));

	device_init(&d->dev, &debugcon_type, host, "debugcon");
	if (sink)
		d->sink = *sink;
	device_region_init(&d->dev, &d->region[0], "debugcon", FIRMWARE_PORT, 1,
	                   &con_ops);
	device_region_init(&d->dev, &d->region[1], "debugcon-e9", BOCHS_PORT, 1,
	                   &con_ops);
	bus_map(host->pio, &d->region[0]);
	bus_map(host->pio, &d->region[1]);
	return d;
}
