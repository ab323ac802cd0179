/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysports.h - the odd ports of a PC's chipset: 0x80, 0x92, 0xcf9.
 */
#pragma once

#include "devices/device.h"

struct sysports;

/* For the FADT's reset register. */
enum { SYSPORTS_RESET_PORT = 0xcf9, SYSPORTS_RESET_VALUE = 0x06 };

struct sysports *sysports_create(struct device_host *host);
