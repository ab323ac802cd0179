/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042 - the keyboard controller of a PC.
 *
 *	0x60  r  output buffer      w  to the keyboard, or a command's data
 *	0x64  r  status: 0 output full, 2 self-test passed, 3 last was a
 *	         command, 4 not locked, 5 output is from the mouse
 *	      w  command: 20-3f read RAM, 60-7f write RAM, a7 a8 mouse off and
 *	         on, a9 aa ab tests, ad ae keyboard off and on, c0 input port,
 *	         d0 d1 output port, d2 d3 fill the output buffer, d4 to the
 *	         mouse, dd df A20, f0-ff pulse output lines (bit 0: reset)
 *
 * IBM PS/2 Hardware Interface Technical Reference; RAM byte 0 is the command
 * byte: 0 keyboard IRQ 1, 1 mouse IRQ 12, 2 system flag, 4 keyboard off,
 * 5 mouse off, 6 translate scan codes.
 */
#include "devices/chips/i8042.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/chips/ps2.h"

enum {
	DATA_PORT = 0x60,
	COMMAND_PORT = 0x64,
	KEYBOARD_IRQ = 1,
	MOUSE_IRQ = 12
};
enum {
	STATUS_FULL = 1,
	STATUS_SYSTEM = 4,
	STATUS_COMMAND = 8,
	STATUS_UNLOCKED = 0x10,
	STATUS_MOUSE = 0x20
};
enum {
	CB_KEYBOARD_IRQ = 1,
	CB_MOUSE_IRQ = 2,
	CB_SYSTEM = 4,
	CB_KEYBOARD_OFF = 0x10,
	CB_MOUSE_OFF = 0x20,
	CB_TRANSLATE = 0x40
};
enum {
	OUT_NO_RESET = 1,
	OUT_A20 = 2,
	OUT_KEYBOARD = 0x10,
	OUT_MOUSE = 0x20,
	OUT_ALWAYS = 0xcc
};
enum {
	TEST_PASSED = 0x55,
	PORT_FINE = 0x00,
	CLOCK_STUCK = 0x01,
	NO_PASSWORD = 0xf1,
	BREAK = 0xf0,
	RAM_SIZE = 32
};

enum { FROM_CONTROLLER, FROM_KEYBOARD, FROM_MOUSE };

struct i8042 {
	struct device dev;
	u8 ram[RAM_SIZE];
	u8 system_flag;
	u8 last_was_command;
	u8 command; /* waits for its data; 0: none */
	u8 output_port;
	u8 full; /* the output buffer holds a byte */
	u8 output;
	u8 source;   /* of that byte */
	u8 breaking; /* translation has swallowed f0 */
	struct ps2_keyboard keyboard;
	struct ps2_mouse mouse;

	bool has_mouse;
	struct irq_line keyboard_line, mouse_line;
	struct bus_region data_region, command_region;
};

static void update_irq(struct i8042 *k)
{
	bool mouse = k->full && k->source == FROM_MOUSE;
	bool keyboard = k->full && !mouse;

	irq_line_set(&k->keyboard_line,
	             keyboard && (k->ram[0] & CB_KEYBOARD_IRQ));
	irq_line_set(&k->mouse_line, mouse && (k->ram[0] & CB_MOUSE_IRQ));
}

static void fill(struct i8042 *k, u8 byte, u8 source)
{
	k->output = byte;
	k->source = source;
	k->full = 1;
}

/* A byte of the keyboard, translated if asked for; false: swallowed. */
static bool translate(struct i8042 *k, u8 *byte)
{
	if (!(k->ram[0] & CB_TRANSLATE))
		return true;
	if (*byte == BREAK) {
		k->breaking = 1;
		return false;
	}
	*byte = ps2_translate(*byte);
	if (k->breaking)
		*byte |= 0x80;
	k->breaking = 0;
	return true;
}

/* An empty output buffer takes the next byte that waits. */
static void refill(struct i8042 *k)
{
	u8 byte;

	while (!k->full && !(k->ram[0] & CB_KEYBOARD_OFF) &&
	       ps2_queue_take(&k->keyboard.queue, &byte))
		if (translate(k, &byte))
			fill(k, byte, FROM_KEYBOARD);
	if (!k->full && !(k->ram[0] & CB_MOUSE_OFF) &&
	    ps2_queue_take(&k->mouse.queue, &byte))
		fill(k, byte, FROM_MOUSE);
	update_irq(k);
}

static void request_reset(struct i8042 *k)
{
	struct device_host *host = k->dev.host;

	host->reset(host->ctx, "keyboard controller");
}

static void write_output_port(struct i8042 *k, u8 value)
{
	k->output_port = value & (OUT_NO_RESET | OUT_A20);
	if (!(value & OUT_NO_RESET))
		request_reset(k);
}

static u8 read_output_port(const struct i8042 *k)
{
	return (u8)(k->output_port | OUT_ALWAYS |
	            (k->keyboard_line.high ? OUT_KEYBOARD : 0) |
	            (k->mouse_line.high ? OUT_MOUSE : 0));
}

static void set_ram(struct i8042 *k, unsigned index, u8 value)
{
	k->ram[index] = value;
	if (index == 0)
		k->system_flag = !!(value & CB_SYSTEM);
}

static void self_test(struct i8042 *k)
{
	k->system_flag = 1;
	k->ram[0] |= CB_SYSTEM;
	fill(k, TEST_PASSED, FROM_CONTROLLER);
}

static void run_command(struct i8042 *k, u8 command)
{
	k->command = 0;
	switch (command) {
	case 0x20 ... 0x3f:
		fill(k, k->ram[command & 31], FROM_CONTROLLER);
		break;
	case 0xa4:
		fill(k, NO_PASSWORD, FROM_CONTROLLER);
		break;
	case 0xa7:
		k->ram[0] |= CB_MOUSE_OFF;
		break;
	case 0xa8:
		k->ram[0] &= (u8)~CB_MOUSE_OFF;
		break;
	case 0xa9:
		fill(k, k->has_mouse ? PORT_FINE : CLOCK_STUCK,
		     FROM_CONTROLLER);
		break;
	case 0xaa:
		self_test(k);
		break;
	case 0xab:
		fill(k, PORT_FINE, FROM_CONTROLLER);
		break;
	case 0xad:
		k->ram[0] |= CB_KEYBOARD_OFF;
		break;
	case 0xae:
		k->ram[0] &= (u8)~CB_KEYBOARD_OFF;
		break;
	case 0xc0:
		fill(k, 0x80, FROM_CONTROLLER); /* not locked */
		break;
	case 0xd0:
		fill(k, read_output_port(k), FROM_CONTROLLER);
		break;
	case 0x60 ... 0x7f:
	case 0xd1 ... 0xd4:
		k->command = command;
		break;
	case 0xdd:
		k->output_port &= (u8)~OUT_A20;
		break;
	case 0xdf:
		k->output_port |= OUT_A20;
		break;
	case 0xf0 ... 0xff:
		if (!(command & 1))
			request_reset(k);
		break;
	}
}

static void run_data(struct i8042 *k, u8 command, u8 value)
{
	switch (command) {
	case 0x60 ... 0x7f:
		set_ram(k, command & 31, value);
		break;
	case 0xd1:
		write_output_port(k, value);
		break;
	case 0xd2:
		fill(k, value, FROM_KEYBOARD);
		break;
	case 0xd3: /* without a mouse port, this is how it shows */
		fill(k, value, k->has_mouse ? FROM_MOUSE : FROM_KEYBOARD);
		break;
	case 0xd4:
		if (k->has_mouse) {
			k->ram[0] &= (u8)~CB_MOUSE_OFF;
			ps2_mouse_write(&k->mouse, value);
		}
		break;
	}
}

static u64 data_read(void *ctx, u64 off, unsigned size)
{
	struct i8042 *k = ctx;
	u8 byte = k->output;

	(void)off;
	(void)size;
	if (!k->full)
		return byte;
	k->full = 0;
	update_irq(k); /* a low between two bytes makes the next an edge */
	refill(k);
	return byte;
}

static void data_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct i8042 *k = ctx;
	u8 command = k->command;

	(void)off;
	(void)size;
	k->last_was_command = 0;
	k->command = 0;
	if (command != 0) {
		run_data(k, command, (u8)value);
	} else {
		/* Talking to the keyboard turns it on again. */
		k->ram[0] &= (u8)~CB_KEYBOARD_OFF;
		ps2_keyboard_write(&k->keyboard, (u8)value);
	}
	refill(k);
}

static u64 command_read(void *ctx, u64 off, unsigned size)
{
	const struct i8042 *k = ctx;

	(void)off;
	(void)size;
	return (u64)(STATUS_UNLOCKED | (k->full ? STATUS_FULL : 0) |
	             (k->system_flag ? STATUS_SYSTEM : 0) |
	             (k->last_was_command ? STATUS_COMMAND : 0) |
	             (k->full && k->source == FROM_MOUSE ? STATUS_MOUSE : 0));
}

static void command_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct i8042 *k = ctx;

	(void)off;
	(void)size;
	k->last_was_command = 1;
	run_command(k, (u8)value);
	refill(k);
}

static const struct bus_ops data_ops = { data_read, data_write, 1, 1 };
static const struct bus_ops command_ops = { command_read, command_write, 1, 1 };

void i8042_key(struct i8042 *k, u8 set1, bool extended, bool down)
{
	device_lock(&k->dev);
	ps2_keyboard_key(&k->keyboard, set1, extended, down);
	refill(k);
	device_unlock(&k->dev);
}

void i8042_mouse_move(struct i8042 *k, int dx, int dy, int wheel, u8 buttons)
{
	device_lock(&k->dev);
	if (k->has_mouse)
		ps2_mouse_move(&k->mouse, dx, dy, wheel, buttons);
	refill(k);
	device_unlock(&k->dev);
}

u8 i8042_leds(struct i8042 *k)
{
	u8 leds;

	device_lock(&k->dev);
	leds = k->keyboard.leds;
	device_unlock(&k->dev);
	return leds;
}

/* As a BIOS leaves it, for guests that boot without one. */
static void i8042_reset(struct device *dev)
{
	struct i8042 *k = (struct i8042 *)dev;

	memset(k->ram, 0, sizeof(k->ram));
	k->ram[0] = CB_KEYBOARD_IRQ | CB_SYSTEM | CB_TRANSLATE |
	            (k->has_mouse ? CB_MOUSE_IRQ : CB_MOUSE_OFF);
	k->system_flag = 1;
	k->last_was_command = 0;
	k->command = 0;
	k->output_port = OUT_NO_RESET | OUT_A20;
	k->full = 0;
	k->output = 0;
	k->source = FROM_CONTROLLER;
	k->breaking = 0;
	ps2_keyboard_reset(&k->keyboard);
	ps2_mouse_reset(&k->mouse);
	update_irq(k);
}

static int i8042_loaded(struct device *dev, struct error *err)
{
	struct i8042 *k = (struct i8042 *)dev;

	(void)err;
	ps2_queue_check(&k->keyboard.queue);
	ps2_queue_check(&k->mouse.queue);
	k->mouse.knock = MIN(k->mouse.knock, 2);
	k->mouse.buttons &= 7;
	refill(k);
	return 0;
}

static void i8042_destroy(struct device *dev)
{
	struct i8042 *k = (struct i8042 *)dev;

	bus_unmap(dev->host->pio, &k->data_region);
	bus_unmap(dev->host->pio, &k->command_region);
	device_fini(dev);
	free(k);
}

static const struct field i8042_state[] = {
	FIELD_BLOB(struct i8042, ram),
	FIELD_VALUE(struct i8042, system_flag),
	FIELD_VALUE(struct i8042, last_was_command),
	FIELD_VALUE(struct i8042, command),
	FIELD_VALUE(struct i8042, output_port),
	FIELD_VALUE(struct i8042, full),
	FIELD_VALUE(struct i8042, output),
	FIELD_VALUE(struct i8042, source),
	FIELD_VALUE(struct i8042, breaking),
	FIELD_BLOB(struct i8042, keyboard.queue.data),
	FIELD_VALUE(struct i8042, keyboard.queue.head),
	FIELD_VALUE(struct i8042, keyboard.queue.count),
	FIELD_VALUE(struct i8042, keyboard.scanning),
	FIELD_VALUE(struct i8042, keyboard.set),
	FIELD_VALUE(struct i8042, keyboard.command),
	FIELD_VALUE(struct i8042, keyboard.leds),
	FIELD_BLOB(struct i8042, mouse.queue.data),
	FIELD_VALUE(struct i8042, mouse.queue.head),
	FIELD_VALUE(struct i8042, mouse.queue.count),
	FIELD_VALUE(struct i8042, mouse.reporting),
	FIELD_VALUE(struct i8042, mouse.remote),
	FIELD_VALUE(struct i8042, mouse.wrap),
	FIELD_VALUE(struct i8042, mouse.scaling),
	FIELD_VALUE(struct i8042, mouse.rate),
	FIELD_VALUE(struct i8042, mouse.resolution),
	FIELD_VALUE(struct i8042, mouse.id),
	FIELD_VALUE(struct i8042, mouse.knock),
	FIELD_VALUE(struct i8042, mouse.command),
	FIELD_VALUE(struct i8042, mouse.buttons),
	FIELD_VALUE(struct i8042, mouse.dx),
	FIELD_VALUE(struct i8042, mouse.dy),
	FIELD_VALUE(struct i8042, mouse.dz),
	FIELD_LAST,
};

static const struct device_type i8042_type = {
	.name = "i8042",
	.state_major = 1,
	.state = i8042_state,
	.reset = i8042_reset,
	.loaded = i8042_loaded,
	.destroy = i8042_destroy,
};

struct i8042 *i8042_create(struct device_host *host, enum i8042_mouse mouse)
{
	struct i8042 *k = xalloc(sizeof(*k));

	device_init(&k->dev, &i8042_type, host, "i8042");
	k->has_mouse = mouse == I8042_MOUSE;
	irq_line_init(&k->keyboard_line, host->irq, KEYBOARD_IRQ);
	irq_line_init(&k->mouse_line, host->irq, MOUSE_IRQ);
	device_region_init(&k->dev, &k->data_region, "i8042-data", DATA_PORT, 1,
	                   &data_ops);
	device_region_init(&k->dev, &k->command_region, "i8042-command",
	                   COMMAND_PORT, 1, &command_ops);
	bus_map(host->pio, &k->data_region);
	bus_map(host->pio, &k->command_region);
	i8042_reset(&k->dev);
	return k;
}
