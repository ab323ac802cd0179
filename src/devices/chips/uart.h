/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uart.h - a 16550A serial port; baud rates are accepted and ignored.
 */
#pragma once

#include "devices/device.h"

struct uart;

enum { UART_SIZE = 8 };

/* The other end of the cable. Called with the UART's lock held; never block. */
struct uart_backend {
	void *ctx;
	/* Take up to n bytes; returns how many. If fewer than n, call
	 * uart_output_ready() later: nothing is lost meanwhile, the guest
	 * sees a transmitter that is not empty. NULL: bytes go nowhere. */
	size_t (*out)(void *ctx, const u8 *data, size_t n);
	/* There is room for input again, after uart_input() took less than
	 * it was given. May be NULL. */
	void (*input_room)(void *ctx);
};

/* instance "com1"; base 0x3f8, 0x2f8, 0x3e8, 0x2e8; gsi 4, 3, 4, 3. */
struct uart *uart_create(struct device_host *host, const char *instance,
                         u16 base, unsigned gsi,
                         const struct uart_backend *backend);

/* Bytes from outside; returns how many the FIFO took. Any thread. */
size_t uart_input(struct uart *u, const u8 *data, size_t n);
void uart_output_ready(struct uart *u);
void uart_break(struct uart *u); /* a BREAK condition arrives */
