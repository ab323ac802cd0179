/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debug_ports.h - debug-exit, and the debug console of firmware.
 */
#pragma once

#include "devices/device.h"

struct debug_exit;
struct debugcon;

/* Port 0xf4, 4 bytes: a write of v ends the machine with (v << 1) | 1. */
struct debug_exit *debug_exit_create(struct device_host *host);

/* Called with the lock held; lines are not cut. */
struct debugcon_sink {
	void *ctx;
	void (*out)(void *ctx, const u8 *data, size_t n);
};

/* Ports 0x402 and 0xe9. sink may be NULL: then 0x402 reads as absent, so that
 * firmware does not spend time on it. */
struct debugcon *debugcon_create(struct device_host *host,
                                 const struct debugcon_sink *sink);
