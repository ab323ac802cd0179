/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hpet.h - the high precision event timer.
 */
#pragma once

#include "devices/device.h"

struct hpet;
struct pit;
struct rtc;

#define HPET_BASE ((gpa_t)0xfed00000)
/* For the ACPI table: the low 32 bits of the capabilities register. */
enum { HPET_TIMERS = 3, HPET_PERIOD_FS = 10000000 };
#define HPET_ACPI_ID 0x8086a201u

/* pit and rtc lose their interrupts while legacy replacement is on; either
 * may be NULL. Borrowed, and outlive the HPET. */
struct hpet *hpet_create(struct device_host *host, struct pit *pit,
                         struct rtc *rtc);
