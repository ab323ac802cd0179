/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console.h - a terminal's two descriptors, and the guest's devices on it.
 *
 * What guests print goes through a ring to the descriptor, written by the
 * loop's thread and never blocking a vCPU; when the ring is full the device
 * holds its bytes, so that none is lost. What is typed goes to the device
 * that printed last. Descriptors stay in whatever mode they are.
 */
#pragma once

#include "base/types.h"

struct console;
struct loop;

/* A device on the terminal: at most two (a serial port, a virtio console). */
struct console_device {
	void *ctx;
	/* Bytes for the guest: how many it took. */
	size_t (*input)(void *ctx, const u8 *data, size_t size);
	/* There is room again after console_output() took less. */
	void (*writable)(void *ctx);
};

enum { CONSOLE_DEVICES = 2 };

/* in, out: borrowed, -1 for none. first_ns (may be NULL) gets the time of the
 * first byte. */
struct console *console_create(struct loop *loop, int in, int out,
                               _Atomic u64 *first_ns);
void console_destroy(struct console *c); /* NULL is legal */

/* Before the guest runs. index 0 is where input goes first. */
void console_attach(struct console *c, unsigned index,
                    const struct console_device *device);

/* For the devices; any thread. How many bytes were taken. */
size_t console_output(struct console *c, unsigned index, const u8 *data,
                      size_t size);
void console_input_room(struct console *c);

/* Which device printed last, and so gets what is typed. */
unsigned console_last(const struct console *c);
void console_set_last(struct console *c, unsigned index);

/* The loop's thread: write out everything, waiting at most wait_ms. */
void console_flush(struct console *c, unsigned wait_ms);
