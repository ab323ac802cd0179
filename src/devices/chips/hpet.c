/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hpet - the high precision event timer, 100 MHz, 64 bits.
 *
 *	0x000  ro  period in fs (63-32), vendor, legacy and 64-bit capability
 *	0x010  rw  bit 0 counting, bit 1 legacy replacement
 *	0x020  rwc level-triggered timers that are asserted
 *	0x0f0  rw  main counter (written while halted)
 *	0x100 + 0x20 n  rw  configuration of timer n; 63-32: routes possible
 *	0x108 + 0x20 n  rw  comparator
 *	0x110 + 0x20 n      FSB route: absent
 *
 * IA-PC HPET specification 1.0a. The counter is a function of machine time;
 * each comparator that may interrupt has a host timer for its next match.
 */
#include "devices/chips/hpet.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/chips/pit.h"
#include "devices/chips/rtc.h"

enum { WINDOW = 0x400, TICK_NS = HPET_PERIOD_FS / 1000000 };
enum {
	CAPS = 0x000,
	CONFIG = 0x010,
	STATUS = 0x020,
	COUNTER = 0x0f0,
	TIMERS = 0x100,
	TIMER_STRIDE = 0x20
};
enum { T_CONFIG = 0x00, T_COMPARATOR = 0x08 };
enum { CONFIG_ENABLE = 1 << 0, CONFIG_LEGACY = 1 << 1 };

enum {
	T_LEVEL = 1 << 1,
	T_ENABLE = 1 << 2,
	T_PERIODIC = 1 << 3,
	T_CAN_PERIODIC = 1 << 4,
	T_64BIT = 1 << 5,
	T_SET_ACCUMULATOR = 1 << 6,
	T_32MODE = 1 << 8,
	T_ROUTE_SHIFT = 9,
	T_ROUTE = 0x1f << 9,
	T_WRITABLE = T_LEVEL | T_ENABLE | T_PERIODIC | T_SET_ACCUMULATOR |
	             T_32MODE | T_ROUTE,
};
/* IOAPIC pins 16 to 23. */
#define T_ROUTES 0x00ff0000u
enum { ROUTE_DEFAULT = 16, LEGACY_TIMERS = 2 };

/* A comparator written this little behind the counter was meant to be ahead:
 * a vCPU is slower than the chip's 100 MHz now and then. */
enum { LATE_TICKS = 1000000 };
enum { INTERVAL_MIN_NS = 100000 };

struct hpet_timer {
	u32 config;
	u64 comparator;
	u64 period;
	u64 match; /* 64-bit counter value at which it fires; valid if armed */
	u8 armed;
	struct irq_line line;
	struct clock_timer clock;
	struct hpet *hpet;
};

struct hpet {
	struct device dev;
	u64 config;
	u64 status;
	u64 offset; /* counter minus machine time in ticks; or, halted, it */
	struct hpet_timer timer[HPET_TIMERS];

	struct pit *pit; /* borrowed; may be NULL */
	struct rtc *rtc; /* likewise */
	struct bus_region region;
};

static u64 ticks(const struct hpet *h)
{
	return clock_now_ns(h->dev.host->clock) / TICK_NS;
}

static bool running(const struct hpet *h)
{
	return h->config & CONFIG_ENABLE;
}

static u64 counter(const struct hpet *h)
{
	return running(h) ? ticks(h) + h->offset : h->offset;
}

static unsigned number(const struct hpet_timer *t)
{
	return (unsigned)(t - t->hpet->timer);
}

/* Where the timer's interrupt goes: specification 2.3.5, table 3. */
static unsigned route(const struct hpet_timer *t)
{
	unsigned gsi = (t->config & T_ROUTE) >> T_ROUTE_SHIFT;

	if ((t->hpet->config & CONFIG_LEGACY) && number(t) < LEGACY_TIMERS)
		return number(t) == 0 ? 0 : 8;
	return gsi < 32 && (T_ROUTES & BIT(gsi)) ? gsi : ROUTE_DEFAULT;
}

static void update_line(struct hpet_timer *t)
{
	bool high = (t->config & T_LEVEL) && (t->config & T_ENABLE) &&
	            (t->hpet->status & BIT(number(t)));

	if (t->line.gsi != route(t)) {
		irq_line_set(&t->line, false);
		irq_line_init(&t->line, t->hpet->dev.host->irq, route(t));
	}
	irq_line_set(&t->line, high);
}

static void fire(struct hpet_timer *t)
{
	if (t->config & T_LEVEL) {
		t->hpet->status |= BIT(number(t));
		update_line(t);
	} else if (t->config & T_ENABLE) {
		irq_line_set(&t->line, true);
		irq_line_set(&t->line, false);
	}
}

static u64 width_mask(const struct hpet_timer *t)
{
	return t->config & T_32MODE ? 0xffffffff : UINT64_MAX;
}

/* After a match at t->match <= now: when is the next one? */
static void advance(struct hpet_timer *t, u64 now)
{
	u64 step = t->period & width_mask(t);
	u64 missed;

	if (!(t->config & T_PERIODIC) || step == 0) {
		/* One-shot: again when the counter has gone all round. */
		step = width_mask(t);
		t->armed = t->config & T_32MODE ? 1 : 0;
		t->match += step + 1;
		return;
	}
	missed = (now - t->match) / step + 1;
	t->match += missed * step;
	t->comparator = (t->comparator + missed * step) & width_mask(t);
}

static void host_arm(struct hpet_timer *t, u64 now)
{
	struct hpet *h = t->hpet;
	u64 now_ns = clock_now_ns(h->dev.host->clock);
	u64 ahead = t->match - now; /* match is never behind here */

	if (!running(h) || !t->armed || !(t->config & T_ENABLE) ||
	    ahead > BIT(56)) { /* years */
		clock_timer_cancel(&t->clock);
		return;
	}
	ahead *= TICK_NS;
	if (t->config & T_PERIODIC)
		ahead = MAX(ahead, INTERVAL_MIN_NS);
	clock_timer_arm(&t->clock, now_ns + ahead);
}

/* Fire if due, and wait for the next match. */
static void check(struct hpet_timer *t)
{
	u64 now = counter(t->hpet);

	if (running(t->hpet) && t->armed && (s64)(now - t->match) >= 0) {
		advance(t, now);
		fire(t);
	}
	host_arm(t, now);
}

/* The comparator, the counter or the mode changed. */
static void rearm(struct hpet_timer *t, bool written)
{
	u64 now = counter(t->hpet);
	u64 mask = width_mask(t);
	u64 ahead = (t->comparator - now) & mask;
	u64 behind = (now - t->comparator) & mask;

	/* What is centuries ahead never comes, and would look behind. */
	t->armed = ahead < BIT(62);
	t->match = now + ahead;
	if (written && behind <= LATE_TICKS) {
		t->armed = 1;
		t->match = now;
	}
	check(t);
}

static void timer_expired(void *ctx)
{
	struct device *dev = ctx;
	struct hpet *h = (struct hpet *)dev;

	for (unsigned i = 0; i < HPET_TIMERS; i++)
		check(&h->timer[i]);
}

static void set_legacy(struct hpet *h, bool on)
{
	if (h->pit)
		pit_irq0_route(h->pit, !on);
	if (h->rtc)
		rtc_irq8_route(h->rtc, !on);
}

static void write_config(struct hpet *h, u64 value)
{
	u64 old = h->config;

	value &= CONFIG_ENABLE | CONFIG_LEGACY;
	if ((old ^ value) & CONFIG_ENABLE)
		h->offset =
		    value & CONFIG_ENABLE ? h->offset - ticks(h) : counter(h);
	h->config = value;
	if ((old ^ value) & CONFIG_LEGACY)
		set_legacy(h, value & CONFIG_LEGACY);
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		update_line(&h->timer[i]);
		if ((old ^ value) & CONFIG_ENABLE)
			rearm(&h->timer[i], false);
	}
}

static void write_status(struct hpet *h, u64 value)
{
	h->status &= ~value;
	for (unsigned i = 0; i < HPET_TIMERS; i++)
		update_line(&h->timer[i]);
}

static void write_counter(struct hpet *h, u64 value)
{
	if (running(h))
		return; /* 2.3.7: only while halted */
	h->offset = value;
	for (unsigned i = 0; i < HPET_TIMERS; i++)
		rearm(&h->timer[i], false);
}

static void write_timer_config(struct hpet_timer *t, u64 value)
{
	u32 old = t->config;

	t->config = (u32)(value & T_WRITABLE) | T_CAN_PERIODIC | T_64BIT;
	if (t->config & T_32MODE) {
		t->comparator &= 0xffffffff;
		t->period &= 0xffffffff;
	}
	/* 2.3.4: the status bit is of level-triggered interrupts alone. */
	if (!(t->config & T_LEVEL))
		t->hpet->status &= ~BIT(number(t));
	update_line(t);
	if ((old ^ t->config) & (T_32MODE | T_PERIODIC | T_ENABLE))
		rearm(t, false);
}

/*
 * 2.3.9.2.2: of a periodic timer, a write sets the period; with VAL_SET, the
 * accumulator too, so that one write starts it and a second may change the
 * period alone.
 */
static void write_comparator(struct hpet_timer *t, u64 value, u64 mask)
{
	bool periodic = t->config & T_PERIODIC;

	mask &= width_mask(t);
	if (mask == 0)
		return; /* the high half of a 32-bit timer */
	value &= mask;
	if (periodic)
		t->period = (t->period & ~mask) | value;
	if (!periodic || (t->config & T_SET_ACCUMULATOR)) {
		t->comparator = (t->comparator & ~mask) | value;
		t->config &= ~(u32)T_SET_ACCUMULATOR;
		rearm(t, true);
	}
}

static u64 timer_read(const struct hpet *h, u64 off)
{
	const struct hpet_timer *t;

	if (off >= TIMERS + HPET_TIMERS * TIMER_STRIDE)
		return 0;
	t = &h->timer[(off - TIMERS) / TIMER_STRIDE];
	switch (off % TIMER_STRIDE) {
	case T_CONFIG:
		return (u64)T_ROUTES << 32 | t->config;
	case T_COMPARATOR:
		return t->comparator;
	default:
		return 0;
	}
}

static u64 register_read(struct hpet *h, u64 off)
{
	switch (off) {
	case CAPS:
		return (u64)HPET_PERIOD_FS << 32 | HPET_ACPI_ID;
	case CONFIG:
		return h->config;
	case STATUS:
		return h->status;
	case COUNTER:
		return counter(h);
	default:
		return off >= TIMERS ? timer_read(h, off) : 0;
	}
}

/* mask: the bits written, of a register that may be written by halves. */
static void timer_write(struct hpet *h, u64 off, u64 value, u64 mask)
{
	struct hpet_timer *t;

	if (off >= TIMERS + HPET_TIMERS * TIMER_STRIDE)
		return;
	t = &h->timer[(off - TIMERS) / TIMER_STRIDE];
	if (off % TIMER_STRIDE == T_CONFIG)
		write_timer_config(t, (t->config & ~mask) | (value & mask));
	else if (off % TIMER_STRIDE == T_COMPARATOR)
		write_comparator(t, value, mask);
}

static void register_write(struct hpet *h, u64 off, u64 value, u64 mask)
{
	switch (off) {
	case CONFIG:
		write_config(h, (h->config & ~mask) | (value & mask));
		break;
	case STATUS:
		write_status(h, value & mask);
		break;
	case COUNTER:
		write_counter(h, (counter(h) & ~mask) | (value & mask));
		break;
	default:
		if (off >= TIMERS)
			timer_write(h, off, value, mask);
	}
}

static u64 hpet_read(void *ctx, u64 off, unsigned size)
{
	u64 value = register_read(ctx, off & ~(u64)7);

	value >>= (off & 4) * 8;
	return size == 8 ? value : (u32)value;
}

static void hpet_write(void *ctx, u64 off, u64 value, unsigned size)
{
	unsigned shift = (unsigned)(off & 4) * 8;
	u64 mask = size == 8 ? UINT64_MAX : (u64)0xffffffff << shift;

	register_write(ctx, off & ~(u64)7, value << shift, mask);
}

static const struct bus_ops hpet_ops = { hpet_read, hpet_write, 4, 8 };

static void hpet_reset(struct device *dev)
{
	struct hpet *h = (struct hpet *)dev;

	h->config = 0;
	h->status = 0;
	h->offset = 0;
	set_legacy(h, false);
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		struct hpet_timer *t = &h->timer[i];

		t->config = T_CAN_PERIODIC | T_64BIT;
		t->comparator = UINT64_MAX;
		t->period = 0;
		t->match = 0;
		t->armed = 0;
		clock_timer_cancel(&t->clock);
		update_line(t);
	}
}

static int hpet_loaded(struct device *dev, struct error *err)
{
	struct hpet *h = (struct hpet *)dev;

	(void)err;
	h->config &= CONFIG_ENABLE | CONFIG_LEGACY;
	h->status &= BIT(HPET_TIMERS) - 1;
	set_legacy(h, h->config & CONFIG_LEGACY);
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		struct hpet_timer *t = &h->timer[i];

		t->config = (t->config & T_WRITABLE) | T_CAN_PERIODIC | T_64BIT;
		t->comparator &= width_mask(t);
		t->period &= width_mask(t);
		update_line(t);
		check(t);
	}
	return 0;
}

static void hpet_destroy(struct device *dev)
{
	struct hpet *h = (struct hpet *)dev;

	bus_unmap(dev->host->mmio, &h->region);
	for (unsigned i = 0; i < HPET_TIMERS; i++)
		clock_timer_fini(&h->timer[i].clock);
	device_fini(dev);
	free(h);
}

#define TIMER_FIELDS(n)                                                        \
	FIELD_VALUE(struct hpet, timer[n].config),                             \
	    FIELD_VALUE(struct hpet, timer[n].comparator),                     \
	    FIELD_VALUE(struct hpet, timer[n].period),                         \
	    FIELD_VALUE(struct hpet, timer[n].match),                          \
	    FIELD_VALUE(struct hpet, timer[n].armed)

static const struct field hpet_state[] = {
	FIELD_VALUE(struct hpet, config),
	FIELD_VALUE(struct hpet, status),
	FIELD_VALUE(struct hpet, offset),
	TIMER_FIELDS(0),
	TIMER_FIELDS(1),
	TIMER_FIELDS(2),
	FIELD_LAST,
};

static const struct device_type hpet_type = {
	.name = "hpet",
	.state_major = 1,
	.state = hpet_state,
	.reset = hpet_reset,
	.loaded = hpet_loaded,
	.destroy = hpet_destroy,
};

struct hpet *hpet_create(struct device_host *host, struct pit *pit,
                         struct rtc *rtc)
{
	struct hpet *h = xalloc(sizeof(*h));

	device_init(&h->dev, &hpet_type, host, "hpet");
	h->pit = pit;
	h->rtc = rtc;
	for (unsigned i = 0; i < HPET_TIMERS; i++) {
		h->timer[i].hpet = h;
		irq_line_init(&h->timer[i].line, host->irq, ROUTE_DEFAULT);
		device_timer_init(&h->dev, &h->timer[i].clock, timer_expired);
	}
	device_region_init(&h->dev, &h->region, "hpet", HPET_BASE, WINDOW,
	                   &hpet_ops);
	bus_map(host->mmio, &h->region);
	hpet_reset(&h->dev);
	return h;
}
