/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtc.h - MC146818 clock and 128 bytes of CMOS, and the NMI mask at 0x70.
 */
#pragma once

#include "devices/device.h"

struct rtc;

enum { RTC_NVRAM_BYTES = 128 };

struct rtc_config {
	s64 offset_s; /* guest's clock minus UTC: 0, or the local-time offset */
	/* Nanoseconds since 1970 UTC; NULL: the host's clock. For tests. */
	s64 (*wall_ns)(void *ctx);
	void *ctx;
};

/* config may be NULL: UTC. */
struct rtc *rtc_create(struct device_host *host,
                       const struct rtc_config *config);

/* CMOS bytes 0x0e-0x7f (memory size, boot order...), set before the guest
 * runs; they survive a reset. The rest is refused by doing nothing. */
void rtc_set_cmos(struct rtc *rtc, u8 index, u8 value);
u8 rtc_get_cmos(struct rtc *rtc, u8 index);

/* Bit 7 of port 0x70: NMIs of the chipset are masked. Any thread. */
bool rtc_nmi_masked(struct rtc *rtc);
/* HPET's legacy replacement takes IRQ 8 away (on = false). */
void rtc_irq8_route(struct rtc *rtc, bool on);
