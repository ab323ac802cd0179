/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioapic - the I/O APIC (82093AA datasheet; ICH9 datasheet 13.5).
 *
 *	0x00  index   rw  which register the window shows
 *	0x10  window  rw  0x00 ID, 0x01 version, 0x02 arbitration,
 *	                  0x10 + 2n redirection entry n, low; 0x11 + 2n high
 *	0x40  EOI     wo  version 0x20 alone: a vector, as if broadcast
 *
 * Redirection entry: 7-0 vector, 10-8 delivery mode, 11 logical, 12 delivery
 * status (never pending here), 13 polarity, 14 remote IRR, 15 level, 16 mask,
 * 63-56 destination.
 */
#include "devices/chips/ioapic.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"

enum { INDEX = 0x00, DATA = 0x10, EOI = 0x40, SIZE = 0x1000 };
enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_ENTRY = 0x10 };

#define ENTRY_STATUS BIT(12)
#define ENTRY_REMOTE_IRR BIT(14)
#define ENTRY_LEVEL BIT(15)
#define ENTRY_MASKED BIT(16)
#define ENTRY_WRITABLE 0xff0000000001afffull /* all that is defined, rw */

enum { MODE_FIXED = 0, MODE_LOWEST = 1, MODE_EXTINT = 7 };

struct ioapic {
	struct device dev;
	/* Written under the lock; the mask is read without. */
	_Atomic u64 entry[IOAPIC_PINS];
	u32 levels; /* bit n: pin n is asserted */
	u32 id;
	u8 index;

	enum ioapic_version version;
	struct ioapic_host to;
	struct bus_region region;
};

/* The message for the LAPICs, Intel SDM vol. 3 10.11. */
static void send(struct ioapic *io, unsigned pin)
{
	u64 entry = io->entry[pin];
	u64 addr = 0xfee00000 | (entry >> 56) << 12 | (entry >> 11 & 1) << 2;
	u32 data = (u32)(entry & 0x87ff); /* vector, mode, trigger */

	if (entry & ENTRY_LEVEL)
		data |= (u32)BIT(14);
	io->to.msi(io->to.ctx, addr, data);
}

static void service_level(struct ioapic *io, unsigned pin)
{
	u64 entry = io->entry[pin];
	u64 mode = entry >> 8 & 7;

	if (!(io->levels & BIT(pin)) ||
	    (entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
		return;
	/* Only what a LAPIC will end with an EOI is remembered. */
	if (mode == MODE_FIXED || mode == MODE_LOWEST)
		io->entry[pin] = entry | ENTRY_REMOTE_IRR;
	send(io, pin);
}

void ioapic_set_pin(struct ioapic *io, unsigned pin, bool high)
{
	bool was;

	if (pin >= IOAPIC_PINS)
		return;
	device_lock(&io->dev);
	was = io->levels & BIT(pin);
	if (high)
		io->levels |= (u32)BIT(pin);
	else
		io->levels &= ~(u32)BIT(pin);
	if (io->entry[pin] & ENTRY_LEVEL)
		service_level(io, pin);
	else if (high && !was && !(io->entry[pin] & ENTRY_MASKED))
		send(io, pin);
	device_unlock(&io->dev);
}

static void end_vector(struct ioapic *io, u8 vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 entry = io->entry[pin];

		if ((u8)entry != vector || !(entry & ENTRY_LEVEL) ||
		    !(entry & ENTRY_REMOTE_IRR))
			continue;
		io->entry[pin] = entry & ~ENTRY_REMOTE_IRR;
		service_level(io, pin); /* still asserted: once more */
	}
}

void ioapic_eoi(struct ioapic *io, u8 vector)
{
	device_lock(&io->dev);
	end_vector(io, vector);
	device_unlock(&io->dev);
}

bool ioapic_pin_enabled(struct ioapic *io, unsigned pin)
{
	return pin < IOAPIC_PINS && !(io->entry[pin] & ENTRY_MASKED);
}

static u32 read_register(const struct ioapic *io)
{
	unsigned n = (unsigned)(io->index - REG_ENTRY) / 2;

	switch (io->index) {
	case REG_ID:
	case REG_ARBITRATION:
		return io->id;
	case REG_VERSION:
		return (u32)io->version | (IOAPIC_PINS - 1) << 16;
	default:
		if (io->index < REG_ENTRY || n >= IOAPIC_PINS)
			return 0xffffffff;
		return (u32)(io->entry[n] >> (io->index & 1 ? 32 : 0));
	}
}

static void write_entry(struct ioapic *io, unsigned pin, bool high, u32 value)
{
	u64 old = io->entry[pin];
	u64 entry = high ? (old & 0xffffffff) | (u64)value << 32
	                 : (old & ~(u64)0xffffffff) | value;

	entry = (entry & ENTRY_WRITABLE) | (old & ENTRY_REMOTE_IRR);
	/* An edge-triggered pin has no remote IRR; drivers of version 0x11
	 * clear it by switching to edge and back. */
	if (!(entry & ENTRY_LEVEL))
		entry &= ~ENTRY_REMOTE_IRR;
	io->entry[pin] = entry;
	if (entry & ENTRY_LEVEL)
		service_level(io, pin);
	if ((old & ENTRY_MASKED) && !(entry & ENTRY_MASKED) && io->to.unmasked)
		io->to.unmasked(io->to.ctx, pin);
}

static void write_register(struct ioapic *io, u32 value)
{
	unsigned n = (unsigned)(io->index - REG_ENTRY) / 2;

	if (io->index == REG_ID)
		io->id = value & 0x0f000000;
	else if (io->index >= REG_ENTRY && n < IOAPIC_PINS)
		write_entry(io, n, io->index & 1, value);
}

static u64 ioapic_read(void *ctx, u64 off, unsigned size)
{
	const struct ioapic *io = ctx;

	(void)size;
	if (off == INDEX)
		return io->index;
	return off == DATA ? read_register(io) : 0;
}

static void ioapic_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct ioapic *io = ctx;

	(void)size;
	if (off == INDEX)
		io->index = (u8)value;
	else if (off == DATA)
		write_register(io, (u32)value);
	else if (off == EOI && io->version == IOAPIC_V20)
		end_vector(io, (u8)value);
}

static const struct bus_ops ioapic_ops = { ioapic_read, ioapic_write, 4, 4 };

static void ioapic_reset(struct device *dev)
{
	struct ioapic *io = (struct ioapic *)dev;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->entry[pin] = ENTRY_MASKED;
	io->id = 0;
	io->index = 0;
}

static int ioapic_loaded(struct device *dev, struct error *err)
{
	struct ioapic *io = (struct ioapic *)dev;

	(void)err;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->entry[pin] &= ENTRY_WRITABLE | ENTRY_REMOTE_IRR;
	io->levels &= (u32)BIT(IOAPIC_PINS) - 1;
	io->id &= 0x0f000000;
	return 0;
}

static void ioapic_destroy(struct device *dev)
{
	struct ioapic *io = (struct ioapic *)dev;

	bus_unmap(dev->host->mmio, &io->region);
	device_fini(dev);
	free(io);
}

static const struct field ioapic_fields[] = {
	IOAPIC_FIELDS(struct ioapic),
	FIELD_LAST,
};

static const struct device_type ioapic_type = {
	.name = "ioapic",
	.state_major = IRQCHIP_STATE_MAJOR,
	.state = ioapic_fields,
	.reset = ioapic_reset,
	.loaded = ioapic_loaded,
	.destroy = ioapic_destroy,
};

struct ioapic *ioapic_create(struct device_host *host,
                             const struct ioapic_host *to,
                             enum ioapic_version version)
{
	struct ioapic *io = xalloc(sizeof(*io));

	device_init(&io->dev, &ioapic_type, host, "ioapic");
	io->to = *to;
	io->version = version;
	device_region_init(&io->dev, &io->region, "ioapic", IOAPIC_BASE, SIZE,
	                   &ioapic_ops);
	bus_map(host->mmio, &io->region);
	ioapic_reset(&io->dev);
	return io;
}
