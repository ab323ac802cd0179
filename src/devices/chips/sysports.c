/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysports - the chipset's single ports.
 *
 *	0x80   rw  POST code; kernels write it to spend a microsecond
 *	0x92   rw  bit 0 fast reset (on its rise), bit 1 A20
 *	0xcf9  rw  reset control: bit 1 system (hard) reset, bit 2 reset, on
 *	           its rise; bit 3 full
 *
 * ICH9 datasheet 13.7. A20 is never gated: no guest of this century relies on
 * addresses that wrap at 1 MiB, so its bit is only remembered.
 */
#include "devices/chips/sysports.h"

#include <stdlib.h>

#include "base/alloc.h"

enum { PORT_POST = 0x80, PORT_92 = 0x92, PORT_RESET = 0xcf9 };
enum { P92_RESET = 1 << 0, P92_A20 = 1 << 1 };
enum { CF9_RESET = 1 << 2, CF9_STORED = 0x0e };

struct sysports {
	struct device dev;
	u8 post, port92, cf9;
	struct bus_region post_region, port92_region, cf9_region;
};

static u64 post_read(void *ctx, u64 off, unsigned size)
{
	(void)off;
	(void)size;
	return ((const struct sysports *)ctx)->post;
}

static void post_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct sysports *s = ctx;

	(void)off;
	(void)size;
	s->post = (u8)value;
}

static u64 port92_read(void *ctx, u64 off, unsigned size)
{
	(void)off;
	(void)size;
	return ((const struct sysports *)ctx)->port92;
}

static void port92_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct sysports *s = ctx;
	struct device_host *host = s->dev.host;
	bool rises = (value & P92_RESET) && !(s->port92 & P92_RESET);

	(void)off;
	(void)size;
	s->port92 = (u8)value;
	if (rises)
		host->reset(host->ctx, "port 0x92");
}

static u64 cf9_read(void *ctx, u64 off, unsigned size)
{
	(void)off;
	(void)size;
	return ((const struct sysports *)ctx)->cf9;
}

static void cf9_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct sysports *s = ctx;
	struct device_host *host = s->dev.host;
	bool rises = (value & CF9_RESET) && !(s->cf9 & CF9_RESET);

	(void)off;
	(void)size;
	s->cf9 = (u8)value & CF9_STORED;
	if (rises)
		host->reset(host->ctx, "port 0xcf9");
}

static const struct bus_ops post_ops = { post_read, post_write, 1, 1 };
static const struct bus_ops port92_ops = { port92_read, port92_write, 1, 1 };
static const struct bus_ops cf9_ops = { cf9_read, cf9_write, 1, 1 };

static void sysports_reset(struct device *dev)
{
	struct sysports *s = (struct sysports *)dev;

	s->post = 0;
	s->port92 = P92_A20;
	s->cf9 = 0;
}

static void sysports_destroy(struct device *dev)
{
	struct sysports *s = (struct sysports *)dev;

	bus_unmap(dev->host->pio, &s->post_region);
	bus_unmap(dev->host->pio, &s->port92_region);
	bus_unmap(dev->host->pio, &s->cf9_region);
	device_fini(dev);
	free(s);
}

static const struct field sysports_state[] = {
	FIELD_VALUE(struct sysports, post),
	FIELD_VALUE(struct sysports, port92),
	FIELD_VALUE(struct sysports, cf9),
	FIELD_LAST,
};

static const struct device_type sysports_type = {
	.name = "sysports",
	.state_major = 1,
	.state = sysports_state,
	.reset = sysports_reset,
	.destroy = sysports_destroy,
};

struct sysports *sysports_create(struct device_host *host)
{
	struct sysports *s = xalloc(sizeof(*s));

	device_init(&s->dev, &sysports_type, host, "sysports");
	device_region_init(&s->dev, &s->post_region, "post", PORT_POST, 1,
	                   &post_ops);
	device_region_init(&s->dev, &s->port92_region, "port92", PORT_92, 1,
	                   &port92_ops);
	device_region_init(&s->dev, &s->cf9_region, "reset", PORT_RESET, 1,
	                   &cf9_ops);
	/* In the middle of PCI's CF8-CFF, as a byte. */
	s->cf9_region.priority = 1;
	bus_map(host->pio, &s->post_region);
	bus_map(host->pio, &s->port92_region);
	bus_map(host->pio, &s->cf9_region);
	sysports_reset(&s->dev);
	return s;
}
