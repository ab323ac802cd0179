/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pit - the 8254 interval timer at 1.193182 MHz, and port 0x61.
 *
 *	0x40-0x42  rw  counters 0-2, by byte as the control word said
 *	0x43       wo  control word, counter latch, read-back command
 *	0x61       rw  bit 0 gate of counter 2, 1 speaker, 2-3 stored
 *	           ro  bit 4 refresh toggle, 5 output of counter 2
 *
 * Intel 8254 datasheet (order 231164). Nothing ticks here: counts and outputs
 * are functions of the time since the count was loaded, in ticks of a clock
 * that has run since machine time 0. A timer runs only for edges of output 0
 * that somebody listens to.
 */
#include "devices/chips/pit.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "devices/chips/scale.h"

enum { CONTROL = 3, CHANNELS = 3, SPEAKER_PORT = 0x61 };
enum { READ_BACK = 3, LATCH = 0, LOW_BYTE = 1, HIGH_BYTE = 2, BOTH = 3 };
enum {
	PORT61_GATE = 1 << 0,
	PORT61_WRITABLE = 0x0f,
	PORT61_REFRESH = 1 << 4,
	PORT61_OUT = 1 << 5,
	REFRESH_NS = 15085, /* half a period of the refresh toggle */
};
/* Periodic interrupts come no more often; a guest may ask for 600,000 a second.
 */
enum { INTERVAL_MIN_NS = 100000 };

struct pit {
	struct device dev;
	struct pit_channel channel[CHANNELS];
	u8 port61;
	u64 irq_tick; /* edges of output 0 up to here have been told */

	struct pit_host to;
	u8 routed; /* HPET's legacy replacement is off */
	struct irq_line line;
	struct clock_timer timer;
	struct bus_region region, speaker_region;
};

static u64 tick_now(const struct pit *pit)
{
	return scale(clock_now_ns(pit->dev.host->clock), PIT_HZ, NSEC_PER_SEC);
}

static u32 modulus(const struct pit_channel *c)
{
	return c->bcd ? 10000 : 65536;
}

static u16 to_register(const struct pit_channel *c, u32 value)
{
	value %= modulus(c);
	if (!c->bcd)
		return (u16)value;
	return (u16)(value / 1000 << 12 | value / 100 % 10 << 8 |
	             value / 10 % 10 << 4 | value % 10);
}

/* Digits above 9 count for what they are worth, as in the chip's adder. */
static u32 from_register(const struct pit_channel *c, u16 raw)
{
	u32 value = raw;

	if (c->bcd)
		value = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u +
		        (raw >> 4 & 15) * 10u + (raw & 15);
	value %= modulus(c);
	return value ? value : modulus(c);
}

/*
 * Counting.
 */

/* A count written in mode 2 or 3 takes over when a period ends. */
static void settle(struct pit_channel *c, u64 tick)
{
	if (c->next_count == 0 || tick < c->next_start)
		return;
	c->start = c->next_start;
	c->count = c->next_count;
	c->next_count = 0;
}

/* CLK pulses since the count was loaded. */
static u64 ticks_counted(const struct pit_channel *c, u64 tick)
{
	if (c->paused)
		return c->elapsed;
	return tick > c->start ? tick - c->start : 0;
}

static bool counting(const struct pit_channel *c)
{
	if (!c->loaded)
		return false;
	return (c->mode != 1 && c->mode != 5) || c->triggered;
}

static u32 count_now(struct pit_channel *c, u64 tick)
{
	u32 n = c->count;
	u64 d;

	settle(c, tick);
	n = c->count;
	if (!counting(c))
		return n;
	d = ticks_counted(c, tick);
	switch (c->mode) {
	case 2:
		return c->gate ? n - (u32)(d % n) : n;
	case 3: /* by twos, from the next even number, each half period */
		d %= n;
		if (d >= (n + 1) / 2)
			d -= (n + 1) / 2;
		return c->gate ? (n & ~1u) - 2 * (u32)d : n;
	default: /* goes on round below zero */
		return (u32)((n + modulus(c) - d % modulus(c)) % modulus(c));
	}
}

static bool output(struct pit_channel *c, u64 tick)
{
	u64 d;

	settle(c, tick);
	d = ticks_counted(c, tick);
	if (!counting(c))
		return c->mode != 0;
	switch (c->mode) {
	case 0:
	case 1:
		return d >= c->count;
	case 2:
		return !c->gate || d % c->count != c->count - 1;
	case 3:
		return !c->gate || d % c->count < (c->count + 1) / 2;
	default:
		return d != c->count; /* 4, 5: a strobe of one pulse */
	}
}

/* The first tick after `after` at which the output rises; 0: never. */
static u64 next_rise(const struct pit_channel *c, u64 after)
{
	u64 once = c->start + c->count + (c->mode >= 4);
	u64 base = c->start;
	u32 n = c->count;

	if (!counting(c) || c->paused)
		return 0;
	if (c->mode != 2 && c->mode != 3)
		return once > after ? once : 0;
	if (c->next_count != 0 && after >= c->next_start) {
		base = c->next_start;
		n = c->next_count;
	}
	if (after < base)
		return base + n;
	return base + ((after - base) / n + 1) * n;
}

/*
 * IRQ 0.
 */

static bool irq_wanted(const struct pit *pit)
{
	return pit->routed && (pit->to.irq0_wanted == NULL ||
	                       pit->to.irq0_wanted(pit->to.ctx));
}

static void arm_irq(struct pit *pit, u64 when_ns, u64 now_ns)
{
	u8 mode = pit->channel[0].mode;

	if (mode == 2 || mode == 3)
		when_ns = MAX(when_ns, now_ns + INTERVAL_MIN_NS);
	clock_timer_arm(&pit->timer, when_ns);
}

/* Tell the edges that have passed, and be called for the next. */
static void update_irq(struct pit *pit)
{
	struct pit_channel *c = &pit->channel[0];
	u64 now_ns = clock_now_ns(pit->dev.host->clock);
	u64 tick = scale(now_ns, PIT_HZ, NSEC_PER_SEC);
	u64 rise;

	rise = next_rise(c, pit->irq_tick);
	if (rise != 0 && rise <= tick && pit->routed) {
		/* However many have passed, the controller sees one. */
		irq_line_set(&pit->line, false);
		irq_line_set(&pit->line, true);
	} else if (c->mode == 0 || !pit->routed) {
		irq_line_set(&pit->line, pit->routed && output(c, tick));
	}
	pit->irq_tick = MAX(pit->irq_tick, tick);
	settle(c, tick);
	rise = next_rise(c, tick);
	if (rise == 0 || !irq_wanted(pit))
		clock_timer_cancel(&pit->timer);
	else
		arm_irq(pit, scale_up(rise, NSEC_PER_SEC, PIT_HZ), now_ns);
}

static void pit_expired(void *ctx)
{
	update_irq(ctx);
}

/* The loop's thread looks, soon and with the PIT's lock. */
void pit_irq0_unmasked(struct pit *pit)
{
	clock_timer_arm(&pit->timer, 0);
}

void pit_irq0_route(struct pit *pit, bool on)
{
	device_lock(&pit->dev);
	if (pit->routed != on) {
		pit->routed = on;
		pit->irq_tick = tick_now(pit);
		update_irq(pit);
	}
	device_unlock(&pit->dev);
}

/*
 * Registers.
 */

static void load_count(struct pit_channel *c, u64 tick, u16 raw)
{
	u32 count = from_register(c, raw);
	u64 d = ticks_counted(c, tick);

	settle(c, tick);
	if ((c->mode == 2 || c->mode == 3) && c->loaded && c->gate &&
	    tick > c->start) {
		c->next_count = count;
		c->next_start = c->start + (d / c->count + 1) * c->count;
		return;
	}
	c->count = count;
	c->next_count = 0;
	c->loaded = 1;
	if (c->mode == 1 || c->mode == 5)
		return;      /* waits for the gate; a count under way goes on */
	c->start = tick + 1; /* the next CLK pulse loads it */
	c->elapsed = 0;
	c->paused = !c->gate && (c->mode == 0 || c->mode == 4);
}

static void write_count(struct pit *pit, struct pit_channel *c, u8 value)
{
	u64 tick = tick_now(pit);

	switch (c->access) {
	case LOW_BYTE:
		load_count(c, tick, value);
		break;
	case HIGH_BYTE:
		load_count(c, tick, (u16)(value << 8));
		break;
	default:
		if (c->write_high_next) {
			load_count(c, tick, (u16)(value << 8 | c->write_low));
		} else {
			c->write_low = value;
			/* Mode 0: the first byte stops the count. */
			if (c->mode == 0)
				c->loaded = 0;
		}
		c->write_high_next ^= 1;
	}
}

static void latch_count(struct pit *pit, struct pit_channel *c)
{
	if (c->count_latched)
		return; /* until it has been read */
	c->latch = to_register(c, count_now(c, tick_now(pit)));
	c->count_latched = 1;
}

static void latch_status(struct pit *pit, struct pit_channel *c)
{
	u64 tick = tick_now(pit);
	bool null_count;

	if (c->status_latched)
		return;
	settle(c, tick);
	null_count = !c->loaded || c->next_count != 0 || tick < c->start;
	c->status = (u8)(output(c, tick) << 7 | null_count << 6 |
	                 c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void read_back(struct pit *pit, u8 command)
{
	for (unsigned i = 0; i < CHANNELS; i++) {
		struct pit_channel *c = &pit->channel[i];

		if (!(command & 2 << i))
			continue;
		if (!(command & 0x20))
			latch_count(pit, c);
		if (!(command & 0x10))
			latch_status(pit, c);
	}
}

static void write_control(struct pit *pit, u8 value)
{
	struct pit_channel *c = &pit->channel[value >> 6 & 3];
	u8 mode = value >> 1 & 7;

	if (value >> 6 == READ_BACK) {
		read_back(pit, value);
		return;
	}
	c = &pit->channel[value >> 6];
	if ((value >> 4 & 3) == LATCH) {
		latch_count(pit, c);
		return;
	}
	*c = (struct pit_channel){
		.access = value >> 4 & 3,
		.mode = mode > 5 ? mode & 3 : mode,
		.bcd = value & 1,
		.gate = c->gate,
		.count = c->count,
	};
}

static u8 read_count(struct pit *pit, struct pit_channel *c)
{
	u16 value;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	value = c->count_latched ? c->latch
	                         : to_register(c, count_now(c, tick_now(pit)));
	if (c->access == BOTH && !c->high_next) {
		c->high_next = 1;
		return (u8)value;
	}
	c->count_latched = 0;
	c->high_next = 0;
	return (u8)(c->access == LOW_BYTE ? value : value >> 8);
}

static u64 pit_read(void *ctx, u64 off, unsigned size)
{
	struct pit *pit = ctx;

	(void)size;
	return off < CONTROL ? read_count(pit, &pit->channel[off]) : 0xff;
}

static void pit_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct pit *pit = ctx;

	(void)size;
	/* What ended before the change is told first. */
	update_irq(pit);
	if (off == CONTROL)
		write_control(pit, (u8)value);
	else
		write_count(pit, &pit->channel[off], (u8)value);
	update_irq(pit);
}

static void set_gate(struct pit *pit, struct pit_channel *c, u8 gate)
{
	u64 tick = tick_now(pit);

	if (c->gate == gate)
		return;
	settle(c, tick);
	c->gate = gate;
	if (c->mode == 0 || c->mode == 4) {
		if (!gate && c->loaded)
			c->elapsed = ticks_counted(c, tick);
		c->paused = !gate && c->loaded;
		if (gate && c->loaded)
			c->start = tick - MIN(c->elapsed, tick);
	} else if (gate) {
		/* 1, 5: a trigger; 2, 3: the count is loaded anew. */
		c->triggered = c->loaded;
		c->start = tick + 1;
		if (c->next_count != 0)
			c->count = c->next_count;
		c->next_count = 0;
	}
}

static u64 speaker_read(void *ctx, u64 off, unsigned size)
{
	struct pit *pit = ctx;
	u64 now_ns = clock_now_ns(pit->dev.host->clock);
	u64 tick = scale(now_ns, PIT_HZ, NSEC_PER_SEC);
	u8 value = pit->port61;

	(void)off;
	(void)size;
	if (now_ns / REFRESH_NS & 1)
		value |= PORT61_REFRESH;
	if (output(&pit->channel[2], tick))
		value |= PORT61_OUT;
	return value;
}

static void speaker_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct pit *pit = ctx;

	(void)off;
	(void)size;
	pit->port61 = (u8)value & PORT61_WRITABLE;
	set_gate(pit, &pit->channel[2], value & PORT61_GATE);
}

static const struct bus_ops pit_ops = { pit_read, pit_write, 1, 1 };
static const struct bus_ops speaker_ops = { speaker_read, speaker_write, 1, 1 };

static void pit_reset(struct device *dev)
{
	struct pit *pit = (struct pit *)dev;

	for (unsigned i = 0; i < CHANNELS; i++)
		pit->channel[i] = (struct pit_channel){
			.access = BOTH,
			.mode = 3,
			.count = 65536,
			.gate = i != 2, /* of 0 and 1, wired high */
		};
	pit->port61 = 0;
	pit->routed = true;
	pit->irq_tick = tick_now(pit);
	irq_line_set(&pit->line, false);
	clock_timer_cancel(&pit->timer);
}

static int pit_loaded(struct device *dev, struct error *err)
{
	struct pit *pit = (struct pit *)dev;

	(void)err;
	for (unsigned i = 0; i < CHANNELS; i++) {
		struct pit_channel *c = &pit->channel[i];

		c->mode &= 7;
		c->mode = c->mode > 5 ? c->mode & 3 : c->mode;
		c->bcd &= 1;
		c->access &= 3;
		c->access = c->access == LATCH ? BOTH : c->access;
		c->gate = i != 2 || (pit->port61 & PORT61_GATE);
		if (c->count == 0 || c->count > modulus(c))
			c->count = modulus(c);
		if (c->next_count > modulus(c))
			c->next_count = 0;
		/* Far enough from the end of time to add to. */
		c->start &= UINT64_MAX >> 2;
		c->next_start &= UINT64_MAX >> 2;
	}
	irq_line_set(&pit->line,
	             pit->routed && output(&pit->channel[0], tick_now(pit)));
	update_irq(pit);
	return 0;
}

static void pit_destroy(struct device *dev)
{
	struct pit *pit = (struct pit *)dev;

	bus_unmap(dev->host->pio, &pit->region);
	bus_unmap(dev->host->pio, &pit->speaker_region);
	clock_timer_fini(&pit->timer);
	device_fini(dev);
	free(pit);
}

static const struct field pit_fields[] = {
	PIT_FIELDS(struct pit),
	FIELD_LAST,
};

static const struct device_type pit_type = {
	.name = "pit",
	.state_major = IRQCHIP_STATE_MAJOR,
	.state = pit_fields,
	.reset = pit_reset,
	.loaded = pit_loaded,
	.destroy = pit_destroy,
};

struct pit *pit_create(struct device_host *host, const struct pit_host *to)
{
	struct pit *pit = xalloc(sizeof(*pit));

	device_init(&pit->dev, &pit_type, host, "pit");
	pit->to = *to;
	irq_line_init(&pit->line, host->irq, 0);
	device_timer_init(&pit->dev, &pit->timer, pit_expired);
	device_region_init(&pit->dev, &pit->region, "pit", 0x40, 4, &pit_ops);
	device_region_init(&pit->dev, &pit->speaker_region, "port61",
	                   SPEAKER_PORT, 1, &speaker_ops);
	bus_map(host->pio, &pit->region);
	bus_map(host->pio, &pit->speaker_region);
	pit_reset(&pit->dev);
	return pit;
}
