/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ps2 - a PS/2 keyboard and a mouse with a wheel.
 *
 * IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
 * Device Controller"; the wheel is Microsoft's IntelliMouse extension.
 */
#include "devices/chips/ps2.h"

#include <string.h>

enum {
	ACK = 0xfa,
	RESEND = 0xfe,
	TEST_PASSED = 0xaa,
	BREAK = 0xf0,
	EXTENDED = 0xe0,
	ECHO = 0xee
};

/* Replies always find room: a key or report is queued only with this left. */
enum { REPLY_ROOM = 8 };

/*
 * Queues.
 */

static void put(struct ps2_queue *q, u8 byte)
{
	if (q->count == PS2_QUEUE)
		return;
	q->data[(q->head + q->count) % PS2_QUEUE] = byte;
	q->count++;
}

static bool has_room(const struct ps2_queue *q, unsigned n)
{
	return q->count + n + REPLY_ROOM <= PS2_QUEUE;
}

bool ps2_queue_take(struct ps2_queue *q, u8 *byte)
{
	if (q->count == 0)
		return false;
	*byte = q->data[q->head];
	q->head = (u8)((q->head + 1) % PS2_QUEUE);
	q->count--;
	return true;
}

void ps2_queue_check(struct ps2_queue *q)
{
	q->head %= PS2_QUEUE;
	q->count = MIN(q->count, (u8)PS2_QUEUE);
}

static void clear(struct ps2_queue *q)
{
	q->head = 0;
	q->count = 0;
}

/*
 * Scan codes.
 */

/* Index: set 2 make code. What the 8042's ROM holds. */
static const u8 set2_to_set1[0x80] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, /* 00 */
	0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, /* 08 */
	0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, /* 10 */
	0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, /* 18 */
	0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, /* 20 */
	0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, /* 28 */
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, /* 30 */
	0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, /* 38 */
	0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, /* 40 */
	0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, /* 48 */
	0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, /* 50 */
	0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, /* 58 */
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, /* 60 */
	0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, /* 68 */
	0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, /* 70 */
	0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, /* 78 */
};
enum { F7_SET1 = 0x41, F7_SET2 = 0x83, SYSRQ_SET1 = 0x54, SYSRQ_SET2 = 0x84 };

u8 ps2_translate(u8 set2)
{
	if (set2 == F7_SET2)
		return F7_SET1;
	if (set2 == SYSRQ_SET2)
		return SYSRQ_SET1;
	return set2 < 0x80 ? set2_to_set1[set2] : set2;
}

static u8 to_set2(u8 set1)
{
	if (set1 == F7_SET1)
		return F7_SET2;
	if (set1 == SYSRQ_SET1)
		return SYSRQ_SET2;
	for (u8 code = 1; code < 0x80; code++)
		if (set2_to_set1[code] == set1)
			return code;
	return 0;
}

/*
 * The keyboard.
 */

static void keyboard_defaults(struct ps2_keyboard *k)
{
	k->set = 2;
	k->command = 0;
	k->leds = 0;
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
	memset(k, 0, sizeof(*k));
	keyboard_defaults(k);
	k->scanning = 1;
}

void ps2_keyboard_key(struct ps2_keyboard *k, u8 set1, bool extended, bool down)
{
	struct ps2_queue *q = &k->queue;
	u8 code = k->set == 1 ? set1 & 0x7f : to_set2(set1 & 0x7f);

	if (!k->scanning || code == 0 || !has_room(q, 3))
		return;
	if (extended)
		put(q, EXTENDED);
	if (k->set == 1) {
		put(q, down ? code : code | 0x80);
		return;
	}
	if (!down)
		put(q, BREAK);
	put(q, code);
}

static void keyboard_parameter(struct ps2_keyboard *k, u8 byte)
{
	struct ps2_queue *q = &k->queue;
	u8 command = k->command;

	k->command = 0;
	switch (command) {
	case 0xed:
		k->leds = byte & 7;
		put(q, ACK);
		break;
	case 0xf0: /* scan code set: 0 asks; there is no set 3 */
		if (byte > 2) {
			put(q, RESEND);
			break;
		}
		put(q, ACK);
		if (byte == 0)
			put(q, k->set);
		else
			k->set = byte;
		break;
	default: /* f3: repeat rate and delay; fb-fd: one key's type */
		put(q, ACK);
		break;
	}
}

static void keyboard_command(struct ps2_keyboard *k, u8 byte)
{
	struct ps2_queue *q = &k->queue;

	switch (byte) {
	case 0xee:
		put(q, ECHO);
		return;
	case 0xed:
	case 0xf0:
	case 0xf3:
	case 0xfb ... 0xfd:
		k->command = byte;
		break;
	case 0xf2: /* identify: an MF2 keyboard */
		put(q, ACK);
		put(q, 0xab);
		put(q, 0x83);
		return;
	case 0xf4:
		k->scanning = 1;
		break;
	case 0xf5:
	case 0xf6:
		clear(q);
		keyboard_defaults(k);
		k->scanning = byte == 0xf6;
		break;
	case 0xf7 ... 0xfa: /* types of all keys */
		break;
	case 0xff:
		ps2_keyboard_reset(k);
		put(q, ACK);
		put(q, TEST_PASSED);
		return;
	default:
		put(q, RESEND);
		return;
	}
	put(q, ACK);
}

void ps2_keyboard_write(struct ps2_keyboard *k, u8 byte)
{
	/* A command where a parameter was due takes its place. */
	if (k->command != 0 && byte < 0xed)
		keyboard_parameter(k, byte);
	else
		keyboard_command(k, byte);
}

/*
 * The mouse.
 */

enum { MOUSE_WHEEL_ID = 3 };

static void mouse_defaults(struct ps2_mouse *m)
{
	m->reporting = 0;
	m->remote = 0;
	m->wrap = 0;
	m->scaling = 0;
	m->rate = 100;
	m->resolution = 2;
	m->command = 0;
	m->dx = 0;
	m->dy = 0;
	m->dz = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
	memset(m, 0, sizeof(*m));
	mouse_defaults(m);
}

/* What a report can carry of a distance; the rest stays for the next. */
static int take_distance(s16 *distance, int limit)
{
	int part = MAX(-limit - 1, MIN(limit, *distance));

	*distance = (s16)(*distance - part);
	return part;
}

static void report(struct ps2_mouse *m)
{
	int dx = take_distance(&m->dx, 255);
	int dy = take_distance(&m->dy, 255);
	int dz = take_distance(&m->dz, 7);

	put(&m->queue, (u8)(0x08 | m->buttons | (dx < 0 ? 0x10 : 0) |
	                    (dy < 0 ? 0x20 : 0)));
	put(&m->queue, (u8)dx);
	put(&m->queue, (u8)dy);
	if (m->id == MOUSE_WHEEL_ID)
		put(&m->queue, (u8)-dz);
}

static s16 add_distance(s16 a, int b)
{
	s64 sum = (s64)a + b;

	return (s16)MAX(-10000, MIN(10000, sum));
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, u8 buttons)
{
	m->dx = add_distance(m->dx, dx);
	m->dy = add_distance(m->dy, dy);
	m->dz = add_distance(m->dz, dz);
	m->buttons = buttons & 7;
	if (!m->reporting || m->remote)
		return;
	do {
		if (!has_room(&m->queue, 4))
			return;
		report(m);
	} while (m->dx != 0 || m->dy != 0);
}

/* Rates 200, 100, 80 in a row ask whether there is a wheel. */
static void set_rate(struct ps2_mouse *m, u8 rate)
{
	static const u8 sequence[] = { 200, 100, 80 };

	m->rate = rate;
	m->knock = rate == sequence[m->knock] ? m->knock + 1 : rate == 200;
	if (m->knock == ARRAY_SIZE(sequence)) {
		m->knock = 0;
		m->id = MOUSE_WHEEL_ID;
	}
}

static void mouse_parameter(struct ps2_mouse *m, u8 byte)
{
	if (m->command == 0xf3)
		set_rate(m, byte);
	else
		m->resolution = byte & 3;
	m->command = 0;
	put(&m->queue, ACK);
}

static void mouse_status(struct ps2_mouse *m)
{
	put(&m->queue, (u8)(m->remote << 6 | m->reporting << 5 |
	                    m->scaling << 4 | (m->buttons & 1) << 2 |
	                    (m->buttons & 4) >> 1 | (m->buttons & 2) >> 1));
	put(&m->queue, m->resolution);
	put(&m->queue, m->rate);
}

static void mouse_command(struct ps2_mouse *m, u8 byte)
{
	struct ps2_queue *q = &m->queue;

	clear(q); /* a command stops the report under way */
	put(q, ACK);
	switch (byte) {
	case 0xe6:
	case 0xe7:
		m->scaling = byte & 1;
		break;
	case 0xe8:
	case 0xf3:
		m->command = byte;
		break;
	case 0xe9:
		mouse_status(m);
		break;
	case 0xea:
	case 0xf0:
		m->remote = byte == 0xf0;
		break;
	case 0xeb:
		report(m);
		break;
	case 0xec:
		m->wrap = 0;
		break;
	case 0xee:
		m->wrap = 1;
		break;
	case 0xf2:
		put(q, m->id);
		break;
	case 0xf4:
	case 0xf5:
		m->reporting = byte == 0xf4;
		break;
	case 0xf6:
		mouse_defaults(m);
		break;
	case 0xff:
		ps2_mouse_reset(m);
		put(q, ACK);
		put(q, TEST_PASSED);
		put(q, m->id);
		break;
	default:
		clear(q);
		put(q, RESEND);
		break;
	}
}

void ps2_mouse_write(struct ps2_mouse *m, u8 byte)
{
	if (m->wrap && byte != 0xec && byte != 0xff)
		put(&m->queue, byte);
	else if (m->command != 0)
		mouse_parameter(m, byte);
	else
		mouse_command(m, byte);
}
