/* SPDX-License-Identifier: Apache-2.0 */
#include "board.h"

#include <string.h>

#include "devices/chips/acpi_pm.h"
#include "devices/chips/cpu_hotplug.h"
#include "devices/chips/debug_ports.h"
#include "devices/chips/fw_cfg.h"
#include "devices/chips/hpet.h"
#include "devices/chips/i8042.h"
#include "devices/chips/ioapic.h"
#include "devices/chips/pic.h"
#include "devices/chips/pit.h"
#include "devices/chips/rtc.h"
#include "devices/chips/sysports.h"
#include "devices/chips/testdev.h"
#include "devices/chips/uart.h"

static void set_gsi(void *ctx, unsigned gsi, bool high)
{
	struct board *b = ctx;

	b->rises[gsi] += high && !b->level[gsi];
	b->level[gsi] = high;
	if (b->pic && gsi < 16)
		pic_set_irq(b->pic, gsi, high);
	if (b->ioapic && gsi != 2) /* that pin is GSI 0's */
		ioapic_set_pin(b->ioapic, gsi == 0 ? 2 : gsi, high);
}

static void msi(void *ctx, u64 addr, u32 data)
{
	struct board *b = ctx;

	b->msis++;
	b->msi_addr = addr;
	b->msi_data = data;
}

static void reset(void *ctx, const char *why)
{
	struct board *b = ctx;

	b->resets++;
	b->why = why;
}

static void power_off(void *ctx, const char *why)
{
	struct board *b = ctx;

	b->power_offs++;
	b->why = why;
}

static void guest_exit(void *ctx, int code)
{
	struct board *b = ctx;

	b->exits++;
	b->exit_code = code;
}

void board_init(struct board *b)
{
	struct irq_sink sink = { b, set_gsi, msi };

	memset(b, 0, sizeof(*b));
	ASSERT(memory_create(&b->host.memory, NULL) == 0);
	ASSERT(memory_add(b->host.memory, 0, BOARD_RAM, MEMORY_RAM, "ram",
	                  NULL) == 0);
	ASSERT(bus_create(&b->host.pio, 0x10000) == 0);
	ASSERT(bus_create(&b->host.mmio, BIT(48)) == 0);
	ASSERT(irq_hub_create(&b->host.irq, &sink) == 0);
	ASSERT(clock_create(&b->host.clock, NULL) == 0);
	b->host.ctx = b;
	b->host.reset = reset;
	b->host.power_off = power_off;
	b->host.guest_exit = guest_exit;
}

void board_fini(struct board *b)
{
	while (b->devices > 0) {
		struct device *dev = b->device[--b->devices];

		dev->type->destroy(dev);
	}
	clock_destroy(b->host.clock);
	irq_hub_destroy(b->host.irq);
	bus_destroy(b->host.mmio);
	bus_destroy(b->host.pio);
	memory_destroy(b->host.memory);
}

void *board_add(struct board *b, void *device)
{
	ASSERT(b->devices < BOARD_DEVICES);
	b->device[b->devices++] = DEVICE_OF(device);
	return device;
}

static void no_intr(void *ctx, bool high)
{
	(void)ctx;
	(void)high;
}

static s64 fixed_wall(void *ctx)
{
	const struct board *b = ctx;

	return 1700000000000000000 + (s64)clock_now_ns(b->host.clock);
}

/* A backend that blocks now and then, and takes no more when asked again. */
static size_t take_pairs(void *ctx, const u8 *data, size_t n)
{
	(void)ctx;
	(void)data;
	return n & ~(size_t)1;
}

static void ignore_text(void *ctx, const u8 *data, size_t n)
{
	(void)ctx;
	(void)data;
	(void)n;
}

void board_add_all(struct board *b)
{
	struct pic_host pic_host = { .intr = no_intr };
	struct ioapic_host ioapic_host = { .ctx = b, .msi = msi };
	struct pit_host pit_host = { 0 };
	struct rtc_config rtc_config = { .wall_ns = fixed_wall, .ctx = b };
	struct uart_backend backend = { .out = take_pairs };
	struct debugcon_sink sink = { .out = ignore_text };
	struct device_host *host = &b->host;
	struct fw_cfg *fw;
	struct pit *pit;
	struct rtc *rtc;

	b->pic = board_add(b, pic_create(host, &pic_host));
	b->ioapic = board_add(b, ioapic_create(host, &ioapic_host, IOAPIC_V20));
	pit = board_add(b, pit_create(host, &pit_host));
	rtc = board_add(b, rtc_create(host, &rtc_config));
	board_add(b, hpet_create(host, pit, rtc));
	board_add(b, acpi_pm_create(host));
	board_add(b, cpu_hotplug_create(host, 2, 4));
	board_add(b, uart_create(host, "com1", 0x3f8, 4, &backend));
	board_add(b, uart_create(host, "com2", 0x2f8, 3, NULL));
	board_add(b, i8042_create(host, I8042_MOUSE));
	board_add(b, sysports_create(host));
	board_add(b, debug_exit_create(host));
	board_add(b, debugcon_create(host, &sink));
	board_add(b, testdev_create(host));
	fw = board_add(b, fw_cfg_create(host));
	fw_cfg_add_string(fw, FW_CFG_CMDLINE_DATA, "console=ttyS0");
	ASSERT(fw_cfg_add_file(fw, "etc/text", "some text", 9) == 0);
	ASSERT(fw_cfg_add_file_writable(fw, "etc/room", 64, NULL, NULL) == 0);
}

void board_advance(struct board *b, u64 ns)
{
	fake_clock_advance(b->host.clock, ns);
}

void board_reset(struct board *b)
{
	for (unsigned i = 0; i < b->devices; i++)
		b->device[i]->type->reset(b->device[i]);
}

static u64 bus_in(struct bus *bus, u64 addr, unsigned size)
{
	u64 value;

	bus_read(bus, addr, size, &value);
	return value;
}

u8 in8(struct board *b, u16 port)
{
	return (u8)bus_in(b->host.pio, port, 1);
}

u16 in16(struct board *b, u16 port)
{
	return (u16)bus_in(b->host.pio, port, 2);
}

u32 in32(struct board *b, u16 port)
{
	return (u32)bus_in(b->host.pio, port, 4);
}

void out8(struct board *b, u16 port, u8 value)
{
	bus_write(b->host.pio, port, 1, value);
}

void out16(struct board *b, u16 port, u16 value)
{
	bus_write(b->host.pio, port, 2, value);
}

void out32(struct board *b, u16 port, u32 value)
{
	bus_write(b->host.pio, port, 4, value);
}

u32 read32(struct board *b, gpa_t gpa)
{
	return (u32)bus_in(b->host.mmio, gpa, 4);
}

u64 read64(struct board *b, gpa_t gpa)
{
	return bus_in(b->host.mmio, gpa, 8);
}

void write32(struct board *b, gpa_t gpa, u32 value)
{
	bus_write(b->host.mmio, gpa, 4, value);
}

void write64(struct board *b, gpa_t gpa, u64 value)
{
	bus_write(b->host.mmio, gpa, 8, value);
}

void board_save(struct board *b, struct state_writer *w)
{
	for (unsigned i = 0; i < b->devices; i++) {
		struct device *dev = b->device[i];

		state_save(w, dev->type->name, dev->instance,
		           dev->type->state_major, dev->type->state_minor,
		           dev->type->state, dev);
	}
}

int board_load(struct board *b, const struct state_writer *w)
{
	struct state_reader r = { w->data, w->used, 0 };

	for (unsigned i = 0; i < b->devices; i++) {
		struct device *dev = b->device[i];
		int rc = state_load(&r, dev->type->name, dev->instance,
		                    dev->type->state_major, dev->type->state,
		                    dev, NULL);

		if (rc == 0 && dev->type->loaded)
			rc = dev->type->loaded(dev, NULL);
		if (rc != 0)
			return rc;
	}
	return 0;
}
