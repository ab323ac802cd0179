/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi_pm - ACPI fixed hardware, laid out as in the ICH9.
 *
 *	+0x00  rwc PM1 status: 0 timer, 5 global lock, 8 power button,
 *	           10 RTC, 15 wake
 *	+0x02  rw  PM1 enable
 *	+0x04  rw  PM1 control: 0 SCI_EN, 10-12 SLP_TYP, 13 SLP_EN (wo)
 *	+0x08  ro  PM timer: 24 bits at 3.579545 MHz
 *	+0x20  rwc GPE0 status, 8 bytes;  +0x28 rw GPE0 enable
 *	+0x30  rw  SMI_EN;  +0x34 ro SMI status: none
 *	0xb2   rw  SMI_CMD: 2 turns SCI_EN on, 3 off;  0xb3 rw APM status
 *
 * ACPI specification 6.4 ch. 4.8; ICH9 datasheet 13.8.3. There is no SMM:
 * SMI_EN reads with APMC_EN set, from which firmware concludes that its SMM
 * handler is in place already.
 */
#include "devices/chips/acpi_pm.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"
#include "devices/chips/scale.h"

enum {
	PM1 = 0x00,
	PM1_CONTROL = 0x04,
	TIMER = 0x08,
	GPE_STATUS = 0x20,
	GPE_ENABLE = 0x28,
	SMI_EN = 0x30
};
enum {
	STS_TIMER = 1 << 0,
	STS_GLOBAL = 1 << 5,
	STS_POWER = 1 << 8,
	STS_SLEEP = 1 << 9,
	STS_RTC = 1 << 10,
	STS_WAKE = 1 << 15,
	STS_ENABLES = STS_TIMER | STS_GLOBAL | STS_POWER | STS_SLEEP | STS_RTC,
	STS_ALL = STS_ENABLES | STS_WAKE
};
enum {
	CNT_SCI = 1 << 0,
	CNT_SLP_TYP_SHIFT = 10,
	CNT_SLP_TYP = 7 << 10,
	CNT_SLP_EN = 1 << 13,
	CNT_BM_RLD = 1 << 1,
	CNT_STORED = CNT_SCI | CNT_BM_RLD | CNT_SLP_TYP
};
enum { SMI_APMC = 1 << 5, S5 = 0 };
enum { PM_TIMER_HZ = 3579545, PM_TIMER_BITS = 24 };

struct acpi_pm {
	struct device dev;
	u16 status, enable, control;
	u64 gpe_status, gpe_enable;
	u32 smi_en;
	u8 apm_command, apm_status;
	u64 turn; /* half turns of the timer told in status */
	u16 base;
	u8 mapped;

	bool start_enabled;
	struct irq_line sci;
	struct clock_timer turn_timer;
	struct bus_region block, timer, apm;
};

/* The whole count; the guest sees its low 24 bits. */
static u64 pm_ticks(const struct acpi_pm *pm)
{
	return scale(clock_now_ns(pm->dev.host->clock), PM_TIMER_HZ,
	             NSEC_PER_SEC);
}

/* 4.8.3.3: TMR_STS is set when the highest bit changes. */
static u64 half_turns(const struct acpi_pm *pm)
{
	return pm_ticks(pm) >> (PM_TIMER_BITS - 1);
}

static void find_turn(struct acpi_pm *pm)
{
	u64 turn = half_turns(pm);

	if (turn != pm->turn)
		pm->status |= STS_TIMER;
	pm->turn = turn;
}

/* Line and timer follow the registers. */
static void update(struct acpi_pm *pm)
{
	bool enabled = pm->control & CNT_SCI;
	bool fixed, gpe;

	find_turn(pm);
	fixed = pm->status & pm->enable & STS_ENABLES;
	gpe = pm->gpe_status & pm->gpe_enable;
	irq_line_set(&pm->sci, enabled && (fixed || gpe));
	if (enabled && (pm->enable & STS_TIMER) && !(pm->status & STS_TIMER))
		clock_timer_arm(&pm->turn_timer,
		                scale_up((pm->turn + 1) << (PM_TIMER_BITS - 1),
		                         NSEC_PER_SEC, PM_TIMER_HZ));
	else
		clock_timer_cancel(&pm->turn_timer);
}

static void turn_expired(void *ctx)
{
	update(ctx);
}

static void sleep_request(struct acpi_pm *pm)
{
	struct device_host *host = pm->dev.host;
	unsigned type = (pm->control & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT;

	if (type == S5)
		host->power_off(host->ctx, "ACPI power-off (S5)");
	else
		log_guest("acpi", "sleep type %u is not offered", type);
}

static void write_pm1(struct acpi_pm *pm, u32 value, u32 mask)
{
	u32 enable = (u32)pm->enable << 16;

	find_turn(pm);
	pm->status &= (u16) ~(value & mask & STS_ALL);
	enable = (enable & ~mask) | (value & mask);
	pm->enable = (u16)(enable >> 16) & STS_ENABLES;
}

static void write_control(struct acpi_pm *pm, u32 value, u32 mask)
{
	pm->control =
	    (u16)(((pm->control & ~mask) | (value & mask)) & CNT_STORED);
	if (value & mask & CNT_SLP_EN)
		sleep_request(pm);
}

static u32 block_register(struct acpi_pm *pm, u64 off)
{
	switch (off) {
	case PM1:
		find_turn(pm);
		return (u32)pm->enable << 16 | pm->status;
	case PM1_CONTROL:
		return pm->control;
	case TIMER:
		return (u32)pm_ticks(pm) & (u32)(BIT(PM_TIMER_BITS) - 1);
	case GPE_STATUS:
		return (u32)pm->gpe_status;
	case GPE_STATUS + 4:
		return (u32)(pm->gpe_status >> 32);
	case GPE_ENABLE:
		return (u32)pm->gpe_enable;
	case GPE_ENABLE + 4:
		return (u32)(pm->gpe_enable >> 32);
	case SMI_EN:
		return pm->smi_en;
	default:
		return 0;
	}
}

static u64 block_read(void *ctx, u64 off, unsigned size)
{
	u32 value = block_register(ctx, off & ~(u64)3) >> (off & 3) * 8;

	return size == 4 ? value : value & ((1u << size * 8) - 1);
}

static void block_write(void *ctx, u64 off, u64 raw, unsigned size)
{
	struct acpi_pm *pm = ctx;
	unsigned shift = (unsigned)(off & 3) * 8;
	u32 mask = (u32)((BIT(size * 8) - 1) << shift);
	u32 value = (u32)(raw << shift) & mask;
	unsigned high = (unsigned)(off & 4) * 8;

	switch (off & ~(u64)3) {
	case PM1:
		write_pm1(pm, value, mask);
		break;
	case PM1_CONTROL:
		write_control(pm, value, mask);
		break;
	case GPE_STATUS:
	case GPE_STATUS + 4:
		pm->gpe_status &= ~((u64)value << high);
		break;
	case GPE_ENABLE:
	case GPE_ENABLE + 4:
		pm->gpe_enable = (pm->gpe_enable & ~((u64)mask << high)) |
		                 (u64)value << high;
		break;
	case SMI_EN:
		pm->smi_en = (pm->smi_en & ~mask) | value | SMI_APMC;
		break;
	}
	update(pm);
}

/* Firmware reads it millions of times: no lock, nothing but the clock. */
static u64 timer_read(void *ctx, u64 off, unsigned size)
{
	u32 value = (u32)pm_ticks(ctx) & (u32)(BIT(PM_TIMER_BITS) - 1);

	value >>= off * 8;
	return size == 4 ? value : value & ((1u << size * 8) - 1);
}

static u64 apm_read(void *ctx, u64 off, unsigned size)
{
	const struct acpi_pm *pm = ctx;

	(void)size;
	return off == 0 ? pm->apm_command : pm->apm_status;
}

static void apm_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct acpi_pm *pm = ctx;

	(void)size;
	if (off == 1) {
		pm->apm_status = (u8)value;
		return;
	}
	pm->apm_command = (u8)value;
	if (value == ACPI_ENABLE_VALUE)
		pm->control |= CNT_SCI;
	else if (value == ACPI_DISABLE_VALUE)
		pm->control &= (u16)~CNT_SCI;
	update(pm);
}

static const struct bus_ops block_ops = { block_read, block_write, 1, 4 };
static const struct bus_ops timer_ops = { timer_read, NULL, 1, 4 };
static const struct bus_ops apm_ops = { apm_read, apm_write, 1, 1 };

static void place(struct acpi_pm *pm, u16 base, bool enabled)
{
	struct bus *pio = pm->dev.host->pio;

	if (pm->mapped) {
		bus_unmap(pio, &pm->timer);
		bus_unmap(pio, &pm->block);
	}
	pm->base = base & (u16) ~(ACPI_PM_SIZE - 1);
	pm->mapped = enabled;
	pm->block.base = pm->base;
	pm->timer.base = pm->base + TIMER;
	if (enabled) {
		bus_map(pio, &pm->block);
		bus_map(pio, &pm->timer);
	}
}

void acpi_pm_map(struct acpi_pm *pm, u16 base, bool enabled)
{
	device_lock(&pm->dev);
	place(pm, base, enabled);
	device_unlock(&pm->dev);
}

void acpi_pm_start_enabled(struct acpi_pm *pm, bool on)
{
	device_lock(&pm->dev);
	pm->start_enabled = on;
	pm->control = on ? CNT_SCI : 0;
	update(pm);
	device_unlock(&pm->dev);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	device_lock(&pm->dev);
	pm->status |= STS_POWER;
	update(pm);
	device_unlock(&pm->dev);
}

void acpi_pm_gpe(struct acpi_pm *pm, unsigned gpe)
{
	ASSERT(gpe < ACPI_GPE_COUNT);
	device_lock(&pm->dev);
	pm->gpe_status |= BIT(gpe);
	update(pm);
	device_unlock(&pm->dev);
}

static void acpi_pm_reset(struct device *dev)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;

	pm->status = 0;
	pm->enable = 0;
	pm->control = pm->start_enabled ? CNT_SCI : 0;
	pm->gpe_status = 0;
	pm->gpe_enable = 0;
	pm->smi_en = SMI_APMC;
	pm->apm_command = 0;
	pm->apm_status = 0;
	pm->turn = half_turns(pm);
	place(pm, ACPI_PM_BASE, true);
	update(pm);
}

static int acpi_pm_loaded(struct device *dev, struct error *err)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;
	bool mapped = pm->mapped;

	(void)err;
	pm->status &= STS_ALL;
	pm->enable &= STS_ENABLES;
	pm->control &= CNT_STORED;
	pm->smi_en |= SMI_APMC;
	/* The loaded flag is not yet what the bus has: both are mapped since
	 * the reset before the load, or may not be, which unmap allows. */
	pm->mapped = 1;
	place(pm, pm->base, mapped);
	update(pm);
	return 0;
}

static void acpi_pm_destroy(struct device *dev)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;

	place(pm, pm->base, false);
	bus_unmap(dev->host->pio, &pm->apm);
	clock_timer_fini(&pm->turn_timer);
	device_fini(dev);
	free(pm);
}

static const struct field acpi_pm_state[] = {
	FIELD_VALUE(struct acpi_pm, status),
	FIELD_VALUE(struct acpi_pm, enable),
	FIELD_VALUE(struct acpi_pm, control),
	FIELD_VALUE(struct acpi_pm, gpe_status),
	FIELD_VALUE(struct acpi_pm, gpe_enable),
	FIELD_VALUE(struct acpi_pm, smi_en),
	FIELD_VALUE(struct acpi_pm, apm_command),
	FIELD_VALUE(struct acpi_pm, apm_status),
	FIELD_VALUE(struct acpi_pm, turn),
	FIELD_VALUE(struct acpi_pm, base),
	FIELD_VALUE(struct acpi_pm, mapped),
	FIELD_LAST,
};

static const struct device_type acpi_pm_type = {
	.name = "acpi-pm",
	.state_major = 1,
	.state = acpi_pm_state,
	.reset = acpi_pm_reset,
	.loaded = acpi_pm_loaded,
	.destroy = acpi_pm_destroy,
};

struct acpi_pm *acpi_pm_create(struct device_host *host)
{
	struct acpi_pm *pm = xalloc(sizeof(*pm));

	device_init(&pm->dev, &acpi_pm_type, host, "acpi-pm");
	irq_line_init(&pm->sci, host->irq, ACPI_PM_SCI);
	device_timer_init(&pm->dev, &pm->turn_timer, turn_expired);
	device_region_init(&pm->dev, &pm->block, "acpi-pm", ACPI_PM_BASE,
	                   ACPI_PM_SIZE, &block_ops);
	device_region_init(&pm->dev, &pm->timer, "pm-timer",
	                   ACPI_PM_BASE + TIMER, 4, &timer_ops);
	pm->timer.lock = NULL;
	pm->timer.priority = 1; /* over the block */
	device_region_init(&pm->dev, &pm->apm, "apm", ACPI_SMI_CMD, 2,
	                   &apm_ops);
	bus_map(host->pio, &pm->apm);
	acpi_pm_reset(&pm->dev);
	return pm;
}
