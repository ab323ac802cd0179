/* SPDX-License-Identifier: Apache-2.0 */
/* Chips on the real clock and loop, used by two threads: for locks and TSan. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

#include "devices/chips/acpi_pm.h"
#include "devices/chips/hpet.h"
#include "devices/chips/lapic.h"
#include "devices/chips/pic.h"
#include "devices/chips/pit.h"
#include "devices/chips/rtc.h"
#include "devices/device.h"
#include "guest/cpu.h"

enum { PATIENCE_S = 60 };

static struct {
	struct device_host host;
	struct lapic_set *lapics;
	struct pic *pic;
	struct pit *pit;
	_Atomic unsigned attention;
	unsigned vectors[256];
} t;

static void set_gsi(void *ctx, unsigned gsi, bool high)
{
	(void)ctx;
	if (gsi < 16)
		pic_set_irq(t.pic, gsi, high);
}

static void msi(void *ctx, u64 addr, u32 data)
{
	(void)ctx;
	lapic_deliver_msi(t.lapics, addr, data);
}

static void intr(void *ctx, bool high)
{
	(void)ctx;
	lapic_set_lint0(t.lapics, high);
}

static void unmasked(void *ctx, unsigned irq)
{
	(void)ctx;
	if (irq == 0)
		pit_irq0_unmasked(t.pit);
}

static bool irq0_wanted(void *ctx)
{
	(void)ctx;
	return pic_irq_enabled(t.pic, 0);
}

static void on_attention(void *ctx, unsigned cpu)
{
	(void)ctx;
	(void)cpu;
	atomic_fetch_add(&t.attention, 1);
}

static int ack_pic(void *ctx)
{
	(void)ctx;
	return pic_ack(t.pic);
}

static u64 guest_tsc(void *ctx, unsigned cpu)
{
	(void)ctx;
	(void)cpu;
	return clock_now_ns(t.host.clock);
}

static void out8(u16 port, u8 value)
{
	bus_write(t.host.pio, port, 1, value);
}

static void program(void)
{
	static const u8 icw[2][4] = { { 0x11, 0x20, 4, 1 },
		                      { 0x11, 0x28, 2, 1 } };

	for (unsigned chip = 0; chip < 2; chip++)
		for (unsigned i = 0; i < 4; i++)
			out8((u16)((chip ? 0xa0 : 0x20) + (i > 0)),
			     icw[chip][i]);
	out8(0x43, 0x34); /* 1 kHz on IRQ 0 */
	out8(0x40, 1193 & 0xff);
	out8(0x40, 1193 >> 8);
	out8(0x70, 0x0b); /* 1024 Hz on IRQ 8 */
	out8(0x71, 0x42);
}

static bool enough_came(void)
{
	return t.vectors[0x20] > 3 && t.vectors[0x28] > 3 &&
	       atomic_load(&t.attention) > 6;
}

/* A vCPU of sorts: takes interrupts, reads clocks, arms its timer. For a while,
 * and longer where it hardly gets a processor. */
static void *vcpu(void *arg)
{
	struct lapic *l = lapic_set_cpu(t.lapics, 0);
	u64 start = loop_now_ns(), value;

	lapic_mmio_write(l, 0xf0, 0x1ff, 4);
	lapic_mmio_write(l, 0x320, 0x40050, 4);
	program();
	while (loop_now_ns() < start + 300 * NSEC_PER_MSEC ||
	       (!enough_came() &&
	        loop_now_ns() < start + PATIENCE_S * NSEC_PER_SEC)) {
		int vector = lapic_irq_pending(l) ? lapic_ack(l) : -1;

		bus_read(t.host.pio, 0x608, 4, &value);
		bus_read(t.host.mmio, HPET_BASE + 0xf0, 8, &value);
		bus_read(t.host.pio, 0x61, 1, &value);
		lapic_msr_write(l, MSR_TSC_DEADLINE,
		                guest_tsc(NULL, 0) + 500000);
		if (vector < 0)
			continue;
		t.vectors[vector]++;
		if (vector == 0x28) {
			out8(0x70, 0x0c);
			bus_read(t.host.pio, 0x71, 1, &value);
			out8(0xa0, 0x20);
		}
		if (vector >= 0x50) {
			lapic_mmio_write(l, 0xb0, 0, 4);
		} else {
			/* Shut and open: the PIT's timer stops and goes on. */
			out8(0x21, 0x01);
			out8(0x21, 0x00);
			out8(0x20, 0x20);
		}
	}
	loop_quit(arg, 0);
	return NULL;
}

static void test_live(void **state)
{
	struct irq_sink sink = { NULL, set_gsi, msi };
	struct pic_host pic_host = { NULL, intr, unmasked };
	struct pit_host pit_host = { NULL, irq0_wanted };
	struct lapic_host lapic_host = {
		.attention = on_attention,
		.pic_ack = ack_pic,
		.guest_tsc = guest_tsc,
	};
	struct lapic_config config = {
		.cpus = 1,
		.phys_bits = 40,
		.tsc_hz = NSEC_PER_SEC,
		.tsc_deadline = true,
	};
	struct device_host *host = &t.host;
	struct device *device[5];
	struct loop *loop;
	pthread_t thread;
	struct rtc *rtc;

	(void)state;
	assert_int_equal(loop_create(&loop, NULL), 0);
	assert_int_equal(clock_create(&host->clock, loop), 0);
	assert_int_equal(bus_create(&host->pio, 0x10000), 0);
	assert_int_equal(bus_create(&host->mmio, BIT(40)), 0);
	assert_int_equal(irq_hub_create(&host->irq, &sink), 0);
	config.clock = host->clock;
	t.lapics = lapic_set_create(&lapic_host, &config);
	t.pic = pic_create(host, &pic_host);
	t.pit = pit_create(host, &pit_host);
	rtc = rtc_create(host, NULL);
	device[0] = DEVICE_OF(hpet_create(host, t.pit, rtc));
	device[1] = DEVICE_OF(acpi_pm_create(host));
	device[2] = DEVICE_OF(rtc);
	device[3] = DEVICE_OF(t.pit);
	device[4] = DEVICE_OF(t.pic);

	clock_start(host->clock);
	assert_int_equal(pthread_create(&thread, NULL, vcpu, loop), 0);
	loop_run(loop);
	pthread_join(thread, NULL);
	clock_stop(host->clock);

	/* Rates are the host's business; that they come is ours. */
	assert_true(enough_came());

	for (size_t i = 0; i < ARRAY_SIZE(device); i++)
		device[i]->type->destroy(device[i]);
	lapic_set_destroy(t.lapics);
	irq_hub_destroy(host->irq);
	bus_destroy(host->mmio);
	bus_destroy(host->pio);
	clock_destroy(host->clock);
	loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_live),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
