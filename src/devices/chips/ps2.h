/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ps2.h - a PS/2 keyboard and mouse, as their controller sees them: bytes in,
 * bytes out. Everything is called with the controller's lock held.
 */
#pragma once

#include "base/types.h"

enum { PS2_QUEUE = 32 };

struct ps2_queue {
	u8 data[PS2_QUEUE];
	u8 head, count;
};

struct ps2_keyboard {
	struct ps2_queue queue; /* in scan code set 2, or 1 if told so */
	u8 scanning;
	u8 set;     /* 1 or 2 */
	u8 command; /* waits for its parameter; 0: none */
	u8 leds;
};

struct ps2_mouse {
	struct ps2_queue queue;
	u8 reporting;
	u8 remote, wrap, scaling;
	u8 rate, resolution;
	u8 id;    /* 0, or 3: with a wheel */
	u8 knock; /* how far the sequence of rates that asks for 3 is */
	u8 command;
	u8 buttons;
	s16 dx, dy, dz; /* moved since the last report */
};

bool ps2_queue_take(struct ps2_queue *q, u8 *byte);
/* After a load: head and count within bounds. */
void ps2_queue_check(struct ps2_queue *q);

void ps2_keyboard_reset(struct ps2_keyboard *k);
void ps2_keyboard_write(struct ps2_keyboard *k, u8 byte);
void ps2_keyboard_key(struct ps2_keyboard *k, u8 set1, bool extended,
                      bool down);

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, u8 byte);
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, u8 buttons);

/* Scan code set 2 to 1, byte by byte, as the controller translates. */
u8 ps2_translate(u8 set2);
