/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_hotplug - the CPU block of q35 machines, in its modern form.
 *
 *	+0x0  wo  CPU selector, 4 bytes
 *	      ro  high half of the answer to command 3
 *	+0x4  ro  bit 0: the selected CPU is enabled; bit 1: it was put in and
 *	          nobody has looked yet
 *	      wo  bit 1: somebody has looked
 *	+0x5  wo  command: 0 next CPU with an event, 1 OST event, 2 OST
 *	          status, 3 architecture ID
 *	+0x8  rw  data of the command
 *
 * QEMU's docs/specs/acpi_cpu_hotplug. Firmware finds out here how many vCPUs
 * may be and how many are; a selector beyond them reads as zeroes. What is
 * put in stays in.
 */
#include "devices/chips/cpu_hotplug.h"

#include <stdlib.h>

#include "base/alloc.h"

enum { SELECTOR = 0, FLAGS = 4, COMMAND = 5, DATA = 8 };
enum { NEXT_EVENT = 0, ARCH_ID = 3, ENABLED = 1 << 0, INSERTED = 1 << 1 };

struct cpu_hotplug {
	struct device dev;
	u32 selector;
	u8 command;
	u32 present;
	u64 inserted; /* those of which the guest has yet to hear */

	unsigned possible;
	struct bus_region region;
};

static bool is_inserted(const struct cpu_hotplug *c, u32 cpu)
{
	return cpu < c->present && c->inserted & BIT(cpu);
}

/* The next one after the selected, round and round. */
static void select_event(struct cpu_hotplug *c)
{
	for (u32 i = 0; i < c->possible; i++) {
		u32 cpu = (u32)(((u64)c->selector + i) % c->possible);

		if (is_inserted(c, cpu)) {
			c->selector = cpu;
			return;
		}
	}
}

/* With no events, the selector stays; the ID of a CPU is its index. */
static u32 data(const struct cpu_hotplug *c)
{
	return c->command == NEXT_EVENT || c->command == ARCH_ID ? c->selector
	                                                         : 0;
}

static u64 flags(const struct cpu_hotplug *c)
{
	return (c->selector < c->present ? (u64)ENABLED : 0) |
	       (is_inserted(c, c->selector) ? (u64)INSERTED : 0);
}

static u64 cpu_hotplug_read(void *ctx, u64 off, unsigned size)
{
	const struct cpu_hotplug *c = ctx;

	if (c->selector >= c->possible)
		return 0;
	if (off == FLAGS)
		return flags(c);
	if (off >= DATA)
		return data(c) >> (off - DATA) * 8 & (BIT(size * 8) - 1);
	return 0;
}

static void cpu_hotplug_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct cpu_hotplug *c = ctx;

	if (off == SELECTOR && size == 4) {
		c->selector = (u32)value;
	} else if (off == COMMAND) {
		c->command = (u8)value;
		if (c->command == NEXT_EVENT)
			select_event(c);
	} else if (off == FLAGS && value & INSERTED &&
	           c->selector < c->possible) {
		c->inserted &= ~BIT(c->selector);
	}
}

static const struct bus_ops cpu_hotplug_ops = { cpu_hotplug_read,
	                                        cpu_hotplug_write, 1, 4 };

/* Those that were put in stay; a guest that boots finds them by itself. */
static void cpu_hotplug_reset(struct device *dev)
{
	struct cpu_hotplug *c = (struct cpu_hotplug *)dev;

	c->selector = 0;
	c->command = 0;
	c->inserted = 0;
}

/* A file may say anything. */
static int cpu_hotplug_loaded(struct device *dev, struct error *err)
{
	struct cpu_hotplug *c = (struct cpu_hotplug *)dev;

	(void)err;
	c->present = MIN(MAX(c->present, 1u), c->possible);
	return 0;
}

static void cpu_hotplug_destroy(struct device *dev)
{
	struct cpu_hotplug *c = (struct cpu_hotplug *)dev;

	bus_unmap(dev->host->pio, &c->region);
	device_fini(dev);
	free(c);
}

static const struct field cpu_hotplug_state[] = {
	FIELD_VALUE(struct cpu_hotplug, selector),
	FIELD_VALUE(struct cpu_hotplug, command),
	FIELD_VALUE(struct cpu_hotplug, present),
	FIELD_VALUE(struct cpu_hotplug, inserted),
	FIELD_LAST,
};

static const struct device_type cpu_hotplug_type = {
	.name = "cpu-hotplug",
	.state_major = 1,
	.state_minor = 1,
	.state = cpu_hotplug_state,
	.reset = cpu_hotplug_reset,
	.loaded = cpu_hotplug_loaded,
	.destroy = cpu_hotplug_destroy,
};

struct cpu_hotplug *cpu_hotplug_create(struct device_host *host,
                                       unsigned present, unsigned possible)
{
	struct cpu_hotplug *c = xalloc(sizeof(*c));

	device_init(&c->dev, &cpu_hotplug_type, host, "cpu-hotplug");
	c->present = present;
	c->possible = MIN(possible, (unsigned)CPU_HOTPLUG_MAX);
	device_region_init(&c->dev, &c->region, "cpu-hotplug", CPU_HOTPLUG_BASE,
	                   CPU_HOTPLUG_SIZE, &cpu_hotplug_ops);
	bus_map(host->pio, &c->region);
	return c;
}

unsigned cpu_hotplug_present(struct cpu_hotplug *c)
{
	unsigned present;

	device_lock(&c->dev);
	present = c->present;
	device_unlock(&c->dev);
	return present;
}

void cpu_hotplug_insert(struct cpu_hotplug *c, unsigned present)
{
	device_lock(&c->dev);
	ASSERT(present <= c->possible);
	for (; c->present < present; c->present++)
		c->inserted |= BIT(c->present);
	device_unlock(&c->dev);
}
