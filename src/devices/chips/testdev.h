/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testdev.h - what guest test programs ask for: echo ports, interrupt lines
 * on demand, memory behind MMIO.
 */
#pragma once

#include "devices/device.h"

struct testdev;

#define TESTDEV_MMIO_BASE ((gpa_t)0xff000000)
enum { TESTDEV_MMIO_SIZE = 0x10000, TESTDEV_LINES = 24 };

struct testdev *testdev_create(struct device_host *host);
