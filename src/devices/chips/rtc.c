/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtc - the MC146818 clock with its 128 bytes of battery-backed memory.
 *
 *	0x70  wo  bits 6-0 index; bit 7 masks the chipset's NMIs
 *	0x71  rw  the byte at the index:
 *	      0x00 seconds  0x01 alarm  0x02 minutes  0x03 alarm
 *	      0x04 hours    0x05 alarm  0x06 weekday, 0x07 day, 0x08 month,
 *	      0x09 year     0x0a A: update in progress, divider, rate
 *	      0x0b B: SET, interrupt enables, binary, 24 h
 *	      0x0c C: interrupt flags, cleared by reading
 *	      0x0d D: valid RAM         0x32 century
 *
 * Motorola MC146818A datasheet. The guest's time is the host's plus an offset
 * that the guest changes by setting the clock. Flags are worked out when they
 * are looked at; a timer runs only for an interrupt that is enabled, and none
 * while one is already raised.
 */
#include "devices/chips/rtc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "devices/chips/scale.h"

enum { BASE = 0x70, IRQ = 8 };
enum {
	SECONDS = 0,
	SECONDS_ALARM = 1,
	MINUTES = 2,
	MINUTES_ALARM = 3,
	HOURS = 4,
	HOURS_ALARM = 5,
	WEEKDAY = 6,
	DAY = 7,
	MONTH = 8,
	YEAR = 9,
	REG_A = 0x0a,
	REG_B = 0x0b,
	REG_C = 0x0c,
	REG_D = 0x0d,
	CENTURY = 0x32,
};
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_RUNNING = 0x20, A_RATE = 0x0f };
enum { B_SET = 0x80, B_BINARY = 0x04, B_24H = 0x02 };
/* The same bits enable in B and flag in C. */
enum {
	PERIODIC = 0x40,
	ALARM = 0x20,
	UPDATE = 0x10,
	ALL_FLAGS = 0x70,
	C_IRQF = 0x80
};
enum { D_VALID = 0x80, HOUR_PM = 0x80, ALARM_ANY = 0xc0, NMI_MASK = 0x80 };

/* 244 us of warning, then 1984 us of update (datasheet, figure 15). */
#define UIP_NS ((s64)2228 * 1000)
/* The host's clock may be set while we wait for an alarm: look again. */
#define ALARM_RECHECK_NS ((s64)60 * 1000000000)
#define NS ((s64)1000000000)
enum { OSCILLATOR_HZ = 32768 };
/* Nanoseconds in 64 bits reach to 2262. A guest that sets its clock further
 * away than these, 1811 and 2191, gets these. */
#define FIRST_SECOND (-(s64)5000000000)
#define LAST_SECOND ((s64)7000000000)

struct rtc {
	struct device dev;
	u8 cmos[RTC_NVRAM_BYTES]; /* time in it is valid while stopped */
	u8 index;
	u64 offset_ns;   /* signed: guest's clock minus the host's */
	u64 seen_second; /* signed: update and alarm flags are told up to here
	                  */
	u64 seen_period; /* periods of the rate generator told */

	_Atomic bool nmi_masked;
	bool routed; /* HPET's; its state tells us again */
	struct rtc_config config;
	struct irq_line line;
	struct clock_timer timer;
	struct bus_region region;
};

static s64 wall_ns(const struct rtc *r)
{
	struct timespec now;

	if (r->config.wall_ns)
		return r->config.wall_ns(r->config.ctx);
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * NS + now.tv_nsec;
}

static s64 guest_ns(const struct rtc *r)
{
	return (s64)((u64)wall_ns(r) + r->offset_ns);
}

static s64 floor_second(s64 ns)
{
	return ns / NS - (ns % NS < 0);
}

static s64 guest_second(const struct rtc *r)
{
	return floor_second(guest_ns(r));
}

/* SET, or a divider held in reset, stops the clock. */
static bool stopped(const struct rtc *r)
{
	return (r->cmos[REG_B] & B_SET) ||
	       (r->cmos[REG_A] & A_DIVIDER) != A_RUNNING;
}

/*
 * Time and its digits.
 */

static u8 encode(const struct rtc *r, int value)
{
	if (r->cmos[REG_B] & B_BINARY)
		return (u8)value;
	return (u8)(value / 10 % 10 << 4 | value % 10);
}

static int decode(const struct rtc *r, u8 raw)
{
	if (r->cmos[REG_B] & B_BINARY)
		return raw;
	return (raw >> 4) * 10 + (raw & 15);
}

static u8 encode_hour(const struct rtc *r, int hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc *r, u8 raw)
{
	int hour;

	if (r->cmos[REG_B] & B_24H)
		return decode(r, raw);
	hour = decode(r, raw & 0x7f) % 12;
	return raw & HOUR_PM ? hour + 12 : hour;
}

/* Put the guest's second into the registers. */
static void show_time(struct rtc *r, s64 second)
{
	time_t when = second;
	struct tm tm;

	if (!gmtime_r(&when, &tm))
		return; /* a year that has no digits */
	r->cmos[SECONDS] = encode(r, tm.tm_sec);
	r->cmos[MINUTES] = encode(r, tm.tm_min);
	r->cmos[HOURS] = encode_hour(r, tm.tm_hour);
	r->cmos[WEEKDAY] = encode(r, tm.tm_wday + 1);
	r->cmos[DAY] = encode(r, tm.tm_mday);
	r->cmos[MONTH] = encode(r, tm.tm_mon + 1);
	r->cmos[YEAR] = encode(r, (tm.tm_year % 100 + 100) % 100);
	r->cmos[CENTURY] = encode(r, (1900 + tm.tm_year) / 100 % 100);
}

/* The registers set the clock. Wrong dates are carried over, as timegm does. */
static void take_time(struct rtc *r)
{
	struct tm tm = {
		.tm_sec = decode(r, r->cmos[SECONDS]),
		.tm_min = decode(r, r->cmos[MINUTES]),
		.tm_hour = decode_hour(r, r->cmos[HOURS]),
		.tm_mday = decode(r, r->cmos[DAY]),
		.tm_mon = decode(r, r->cmos[MONTH]) - 1,
		.tm_year = decode(r, r->cmos[CENTURY]) * 100 +
		           decode(r, r->cmos[YEAR]) - 1900,
	};
	s64 now = guest_ns(r);
	s64 fraction = now - floor_second(now) * NS;
	s64 wanted = MAX(MIN(timegm(&tm), LAST_SECOND), FIRST_SECOND);

	r->offset_ns += (u64)(wanted * NS + fraction - now);
	r->seen_second = (u64)guest_second(r);
}

/*
 * Alarm and periodic interrupt.
 */

static bool alarm_matches(u8 raw, int value, int now)
{
	return (raw & ALARM_ANY) == ALARM_ANY || value == now;
}

/* The first second after `after` that matches; 0 if none does. */
static s64 next_alarm(const struct rtc *r, s64 after)
{
	int second = decode(r, r->cmos[SECONDS_ALARM]);
	int minute = decode(r, r->cmos[MINUTES_ALARM]);
	int hour = decode_hour(r, r->cmos[HOURS_ALARM]);
	s64 t = after + 1;

	/* A day has 24 hours, 60 minutes and 60 seconds to be stepped over,
	 * and so has what is left of this one. */
	for (int steps = 0; steps < 300; steps++) {
		int of_day = (int)(((t % 86400) + 86400) % 86400);

		if (!alarm_matches(r->cmos[HOURS_ALARM], hour, of_day / 3600))
			t += 3600 - of_day % 3600;
		else if (!alarm_matches(r->cmos[MINUTES_ALARM], minute,
		                        of_day / 60 % 60))
			t += 60 - of_day % 60;
		else if (!alarm_matches(r->cmos[SECONDS_ALARM], second,
		                        of_day % 60))
			t++;
		else
			return t;
	}
	return 0;
}

/* Ticks of the 32768 Hz oscillator in a period; 0: off. */
static u64 period_ticks(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;

	if (rate == 0 || (r->cmos[REG_A] & A_DIVIDER) != A_RUNNING)
		return 0;
	if (rate <= 2)
		rate += 7;
	return BIT(rate - 1);
}

static u64 periods_now(const struct rtc *r)
{
	u64 ticks = period_ticks(r);
	u64 now_ns = clock_now_ns(r->dev.host->clock);

	return ticks ? scale(now_ns, OSCILLATOR_HZ, NSEC_PER_SEC) / ticks : 0;
}

static void find_flags(struct rtc *r)
{
	u64 periods = periods_now(r);
	s64 seen = (s64)r->seen_second;
	s64 second = guest_second(r);

	if (periods > r->seen_period)
		r->cmos[REG_C] |= PERIODIC;
	r->seen_period = periods;
	if (stopped(r) || second < seen) {
		r->seen_second = (u64)second;
		return;
	}
	if (second > seen) {
		s64 alarm = next_alarm(r, seen);

		r->cmos[REG_C] |= UPDATE;
		if (alarm != 0 && alarm <= second)
			r->cmos[REG_C] |= ALARM;
		r->seen_second = (u64)second;
	}
}

/* Nanoseconds until the next enabled interrupt; INT64_MAX: none. */
static s64 until_next(const struct rtc *r)
{
	u8 enabled = r->cmos[REG_B];
	u64 ticks = period_ticks(r);
	s64 now = guest_ns(r);
	s64 until = INT64_MAX;

	if ((enabled & PERIODIC) && ticks != 0) {
		u64 at = scale_up((periods_now(r) + 1) * ticks, NSEC_PER_SEC,
		                  OSCILLATOR_HZ);

		until = (s64)(at - clock_now_ns(r->dev.host->clock));
	}
	if (stopped(r))
		return until;
	if (enabled & UPDATE)
		until = MIN(until, (floor_second(now) + 1) * NS - now);
	if (enabled & ALARM) {
		s64 alarm = next_alarm(r, floor_second(now));

		if (alarm != 0)
			until =
			    MIN(until, MIN(alarm * NS - now, ALARM_RECHECK_NS));
	}
	return until;
}

/* Flags, line and timer follow time and the registers. */
static void update(struct rtc *r)
{
	s64 until;

	find_flags(r);
	if (r->cmos[REG_C] & r->cmos[REG_B] & ALL_FLAGS)
		r->cmos[REG_C] |= C_IRQF;
	else
		r->cmos[REG_C] &= ALL_FLAGS;
	irq_line_set(&r->line, r->routed && (r->cmos[REG_C] & C_IRQF));

	until = r->cmos[REG_C] & C_IRQF ? INT64_MAX : until_next(r);
	if (until == INT64_MAX)
		clock_timer_cancel(&r->timer);
	else
		clock_timer_arm(&r->timer, clock_now_ns(r->dev.host->clock) +
		                               (u64)MAX(until, 1));
}

static void rtc_expired(void *ctx)
{
	update(ctx);
}

/*
 * Registers.
 */

static bool is_time(u8 index)
{
	return index == SECONDS || index == MINUTES || index == HOURS ||
	       (index >= WEEKDAY && index <= YEAR) || index == CENTURY;
}

static u8 read_a(const struct rtc *r)
{
	s64 now = guest_ns(r);
	s64 left = (floor_second(now) + 1) * NS - now;

	if (stopped(r) || left > UIP_NS)
		return r->cmos[REG_A];
	return r->cmos[REG_A] | A_UIP;
}

static u8 read_c(struct rtc *r)
{
	u8 flags;

	update(r);
	flags = r->cmos[REG_C];
	r->cmos[REG_C] = 0;
	update(r);
	return flags;
}

static u8 read_byte(struct rtc *r, u8 index)
{
	if (is_time(index) && !stopped(r))
		show_time(r, guest_second(r));
	if (index == REG_A)
		return read_a(r);
	if (index == REG_C)
		return read_c(r);
	return index == REG_D ? D_VALID : r->cmos[index];
}

/* A and B decide whether time goes on, and how it is written. */
static void write_control(struct rtc *r, u8 index, u8 value)
{
	bool was_stopped = stopped(r);

	update(r);
	if (!was_stopped)
		show_time(r, guest_second(r));
	/* Datasheet: SET clears the update interrupt's enable. */
	if (index == REG_B && (value & B_SET))
		value &= (u8)~UPDATE;
	r->cmos[index] = index == REG_A ? value & (u8)~A_UIP : value;
	if (was_stopped && !stopped(r))
		take_time(r);
	r->seen_period = periods_now(r);
	update(r);
}

static void write_time(struct rtc *r, u8 index, u8 value)
{
	if (stopped(r)) {
		r->cmos[index] = value;
		return;
	}
	update(r);
	show_time(r, guest_second(r));
	r->cmos[index] = value;
	take_time(r);
	update(r);
}

static void write_byte(struct rtc *r, u8 index, u8 value)
{
	if (index == REG_C || index == REG_D)
		return;
	if (index == REG_A || index == REG_B) {
		write_control(r, index, value);
	} else if (is_time(index)) {
		write_time(r, index, value);
	} else if (index <= HOURS_ALARM) {
		update(r);
		r->cmos[index] = value;
		update(r);
	} else {
		r->cmos[index] = value;
	}
}

static u64 rtc_read(void *ctx, u64 off, unsigned size)
{
	struct rtc *r = ctx;

	(void)size;
	return off == 0 ? 0xff : read_byte(r, r->index);
}

static void rtc_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct rtc *r = ctx;

	(void)size;
	if (off == 0) {
		r->index = value & 0x7f;
		atomic_store(&r->nmi_masked, value & NMI_MASK);
	} else {
		write_byte(r, r->index, (u8)value);
	}
}

static const struct bus_ops rtc_ops = { rtc_read, rtc_write, 1, 1 };

void rtc_set_cmos(struct rtc *r, u8 index, u8 value)
{
	if (index <= REG_D || index >= RTC_NVRAM_BYTES || index == CENTURY)
		return;
	device_lock(&r->dev);
	r->cmos[index] = value;
	device_unlock(&r->dev);
}

u8 rtc_get_cmos(struct rtc *r, u8 index)
{
	u8 value;

	device_lock(&r->dev);
	value = r->cmos[index % RTC_NVRAM_BYTES];
	device_unlock(&r->dev);
	return value;
}

bool rtc_nmi_masked(struct rtc *r)
{
	return atomic_load(&r->nmi_masked);
}

void rtc_irq8_route(struct rtc *r, bool on)
{
	device_lock(&r->dev);
	r->routed = on;
	update(r);
	device_unlock(&r->dev);
}

/* The RESET pin: interrupts off, flags clear; time and memory stay. */
static void rtc_reset(struct device *dev)
{
	struct rtc *r = (struct rtc *)dev;

	r->index = 0;
	atomic_store(&r->nmi_masked, false);
	r->routed = true;
	r->cmos[REG_B] &= (u8) ~(ALL_FLAGS | 0x08);
	r->cmos[REG_C] = 0;
	update(r);
	r->cmos[REG_C] = 0;
}

static int rtc_loaded(struct device *dev, struct error *err)
{
	struct rtc *r = (struct rtc *)dev;

	(void)err;
	r->index &= 0x7f;
	r->cmos[REG_A] &= (u8)~A_UIP;
	if (guest_second(r) > LAST_SECOND || guest_second(r) < FIRST_SECOND)
		r->offset_ns = 0;
	update(r);
	return 0;
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = (struct rtc *)dev;

	bus_unmap(dev->host->pio, &r->region);
	clock_timer_fini(&r->timer);
	device_fini(dev);
	free(r);
}

static const struct field rtc_state[] = {
	FIELD_BLOB(struct rtc, cmos),
	FIELD_VALUE(struct rtc, index),
	FIELD_VALUE(struct rtc, offset_ns),
	FIELD_VALUE(struct rtc, seen_second),
	FIELD_VALUE(struct rtc, seen_period),
	FIELD_LAST,
};

static const struct device_type rtc_type = {
	.name = "rtc",
	.state_major = 1,
	.state = rtc_state,
	.reset = rtc_reset,
	.loaded = rtc_loaded,
	.destroy = rtc_destroy,
};

struct rtc *rtc_create(struct device_host *host,
                       const struct rtc_config *config)
{
	struct rtc *r = xalloc(sizeof(*r));

	device_init(&r->dev, &rtc_type, host, "rtc");
	if (config)
		r->config = *config;
	r->offset_ns = (u64)(r->config.offset_s * NS);
	r->cmos[REG_A] = A_RUNNING | 6; /* 1024 Hz, as a BIOS leaves it */
	r->cmos[REG_B] = B_24H;
	r->seen_second = (u64)guest_second(r);
	irq_line_init(&r->line, host->irq, IRQ);
	device_timer_init(&r->dev, &r->timer, rtc_expired);
	device_region_init(&r->dev, &r->region, "rtc", BASE, 2, &rtc_ops);
	bus_map(host->pio, &r->region);
	rtc_reset(&r->dev);
	return r;
}
