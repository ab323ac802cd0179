/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042.h - the keyboard controller, with a PS/2 keyboard and mouse.
 */
#pragma once

#include "devices/device.h"

struct i8042;

enum i8042_mouse { I8042_NO_MOUSE, I8042_MOUSE };

struct i8042 *i8042_create(struct device_host *host, enum i8042_mouse mouse);

/* A key by its set 1 make code (extended: preceded by e0). Any thread. Keys
 * that the guest does not fetch in time are dropped, as in a keyboard. */
void i8042_key(struct i8042 *k, u8 set1, bool extended, bool down);
/* Relative motion (y up) and buttons: bit 0 left, 1 right, 2 middle. */
void i8042_mouse_move(struct i8042 *k, int dx, int dy, int wheel, u8 buttons);
/* What the guest last set: bit 0 scroll, 1 num, 2 caps. */
u8 i8042_leds(struct i8042 *k);
