/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pic - two 8259A interrupt controllers, the second behind IR2 of the first.
 *
 *	0x20, 0xa0    w  ICW1 (bit 4 set), OCW2 (bits 4-3 clear), OCW3
 *	              r  IRR or ISR as OCW3 chose, or the answer to a poll
 *	0x21, 0xa1    w  ICW2-4 after ICW1; else OCW1, the mask
 *	              r  mask
 *	0x4d0, 0x4d1  rw ELCR: which inputs are level-triggered
 *
 * Intel 8259A datasheet (order 231468), and the ELCR of 82371 chipsets. A
 * rising edge is remembered even if the line falls before it is acknowledged,
 * which the real chip answers as spurious: a pulse may be shorter than the
 * time a vCPU thread needs to be scheduled.
 */
#include "devices/chips/pic.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "guest/irqchip.h"

enum { CASCADE = 2, SPURIOUS = 7, NONE = -1 };

enum {
	ICW1 = 1 << 4,
	ICW1_ICW4 = 1 << 0,
	ICW1_SINGLE = 1 << 1,
	ICW1_LEVEL = 1 << 3
};
enum { ICW4_AUTO_EOI = 1 << 1, ICW4_SPECIAL_NESTED = 1 << 4 };
enum {
	OCW3 = 1 << 3,
	OCW3_READ_ISR = 1 << 0,
	OCW3_READ = 1 << 1,
	OCW3_POLL = 1 << 2,
	OCW3_SPECIAL = 1 << 5,
	OCW3_SET_SPECIAL = 1 << 6
};

/* Which ICW the data port expects next. */
enum { READY, EXPECT_ICW2, EXPECT_ICW3, EXPECT_ICW4 };

struct pic {
	struct device dev;
	struct pic_chip chip[2]; /* master, slave */
	struct pic_host to;
	bool intr;
	struct bus_region region[2];
	struct bus_region elcr_region;
};

static const u8 elcr_mask[2] = { 0xf8, 0xde }; /* not timer, RTC, keyboard */

static u8 level_inputs(const struct pic_chip *c)
{
	return c->icw1 & ICW1_LEVEL ? 0xff : c->elcr;
}

/* 0 is the highest priority, 8 is none of them. */
static int priority(const struct pic_chip *c, u8 inputs)
{
	for (int p = 0; p < 8; p++)
		if (inputs & 1 << ((c->lowest + 1 + p) & 7))
			return p;
	return 8;
}

static int input_at(const struct pic_chip *c, int p)
{
	return (c->lowest + 1 + p) & 7;
}

/* The input that may interrupt now, or NONE. */
static int chip_pending(const struct pic_chip *c)
{
	int wants = priority(c, c->irr & (u8)~c->imr);
	u8 service = c->isr;

	if (c->special_mask)
		service &= (u8)~c->imr;
	if (c->special_nested)
		service &= (u8) ~(1 << CASCADE);
	if (wants == 8 || wants >= priority(c, service))
		return NONE;
	return input_at(c, wants);
}

static void chip_set(struct pic_chip *c, unsigned input, bool high)
{
	u8 bit = (u8)(1 << input);

	if (high && (!(c->lines & bit) || (level_inputs(c) & bit)))
		c->irr |= bit;
	if (!high && (level_inputs(c) & bit))
		c->irr &= (u8)~bit;
	c->lines = high ? c->lines | bit : c->lines & (u8)~bit;
}

/* Pass the slave's INT to the master, and the master's to the CPU. */
static void update(struct pic *pic)
{
	struct pic_chip *master = &pic->chip[0];
	bool intr;

	chip_set(master, CASCADE, chip_pending(&pic->chip[1]) != NONE);
	if (!(master->lines & 1 << CASCADE))
		master->irr &= (u8) ~(1 << CASCADE);
	intr = chip_pending(master) != NONE;
	if (intr != pic->intr) {
		pic->intr = intr;
		pic->to.intr(pic->to.ctx, intr);
	}
}

static void chip_acknowledge(struct pic_chip *c, int input)
{
	u8 bit = (u8)(1 << input);

	if (c->auto_eoi) {
		if (c->auto_rotate)
			c->lowest = (u8)input;
	} else {
		c->isr |= bit;
	}
	if (!(level_inputs(c) & bit))
		c->irr &= (u8)~bit;
}

static int chip_vector(struct pic_chip *c, int *input)
{
	*input = chip_pending(c);
	if (*input == NONE)
		*input = SPURIOUS; /* gone since INT rose; no ISR bit */
	else
		chip_acknowledge(c, *input);
	return c->base + *input;
}

int pic_ack(struct pic *pic)
{
	int input, vector;

	device_lock(&pic->dev);
	vector = chip_vector(&pic->chip[0], &input);
	if (input == CASCADE)
		vector = chip_vector(&pic->chip[1], &input);
	update(pic);
	device_unlock(&pic->dev);
	return vector;
}

void pic_set_irq(struct pic *pic, unsigned irq, bool high)
{
	if (irq == CASCADE || irq > 15)
		return;
	device_lock(&pic->dev);
	chip_set(&pic->chip[irq / 8], irq % 8, high);
	update(pic);
	device_unlock(&pic->dev);
}

bool pic_irq_enabled(struct pic *pic, unsigned irq)
{
	if (irq >= 8 && (pic->chip[0].imr & 1 << CASCADE))
		return false;
	return irq < 16 && !(pic->chip[irq / 8].imr & 1 << irq % 8);
}

static void set_mask(struct pic *pic, unsigned n, u8 imr)
{
	struct pic_chip *c = &pic->chip[n];
	u8 opened = (u8)(c->imr & ~imr);

	c->imr = imr;
	for (unsigned i = 0; i < 8 && pic->to.unmasked; i++)
		if (opened & 1 << i)
			pic->to.unmasked(pic->to.ctx, n * 8 + i);
}

static void write_icw1(struct pic *pic, unsigned n, u8 value)
{
	struct pic_chip *c = &pic->chip[n];

	c->icw1 = value;
	c->expect = EXPECT_ICW2;
	c->isr = 0;
	c->lowest = 7;
	c->special_mask = 0;
	c->special_nested = 0;
	c->auto_eoi = 0;
	c->auto_rotate = 0;
	c->read_isr = 0;
	c->poll = 0;
	/* The edge detectors are reset: a line that is high has to fall and
	 * rise again, unless it is level-triggered. */
	c->irr = c->lines & level_inputs(c);
	set_mask(pic, n, 0);
}

static void end_of_interrupt(struct pic_chip *c, int input, bool rotate)
{
	if (input == NONE)
		return;
	c->isr &= (u8) ~(1 << input);
	if (rotate)
		c->lowest = (u8)input;
}

/* The one in service with the highest priority. In special mask mode, masked
 * ones do not count (datasheet: Special Mask Mode). */
static int in_service(const struct pic_chip *c)
{
	u8 isr = c->special_mask ? c->isr & (u8)~c->imr : c->isr;
	int p = priority(c, isr);

	return p == 8 ? NONE : input_at(c, p);
}

static void write_ocw2(struct pic_chip *c, u8 value)
{
	int input = value & 7;

	switch (value >> 5) {
	case 0:
	case 4: /* rotate in automatic EOI mode: off, on */
		c->auto_rotate = value >> 7;
		break;
	case 1:
	case 5: /* non-specific EOI, without and with rotation */
		end_of_interrupt(c, in_service(c), value & 0x80);
		break;
	case 3:
	case 7: /* specific EOI, without and with rotation */
		end_of_interrupt(c, input, value & 0x80);
		break;
	case 6: /* set priority */
		c->lowest = (u8)input;
		break;
	default: /* 2: no operation */
		break;
	}
}

static void write_ocw3(struct pic_chip *c, u8 value)
{
	if (value & OCW3_POLL)
		c->poll = 1;
	if (value & OCW3_READ)
		c->read_isr = value & OCW3_READ_ISR;
	if (value & OCW3_SET_SPECIAL)
		c->special_mask = !!(value & OCW3_SPECIAL);
}

static void write_data(struct pic *pic, unsigned n, u8 value)
{
	struct pic_chip *c = &pic->chip[n];

	switch (c->expect) {
	case EXPECT_ICW2:
		c->base = value & 0xf8;
		if (!(c->icw1 & ICW1_SINGLE))
			c->expect = EXPECT_ICW3;
		else
			c->expect = c->icw1 & ICW1_ICW4 ? EXPECT_ICW4 : READY;
		break;
	case EXPECT_ICW3: /* the cascade is wired */
		c->expect = c->icw1 & ICW1_ICW4 ? EXPECT_ICW4 : READY;
		break;
	case EXPECT_ICW4:
		c->auto_eoi = !!(value & ICW4_AUTO_EOI);
		c->special_nested = n == 0 && (value & ICW4_SPECIAL_NESTED);
		c->expect = READY;
		break;
	default:
		set_mask(pic, n, value);
		break;
	}
}

static void pic_write(struct pic *pic, unsigned n, u64 off, u8 value)
{
	if (off == 1)
		write_data(pic, n, value);
	else if (value & ICW1)
		write_icw1(pic, n, value);
	else if (value & OCW3)
		write_ocw3(&pic->chip[n], value);
	else
		write_ocw2(&pic->chip[n], value);
	update(pic);
}

/* A poll is an acknowledge cycle (datasheet: Poll Command). */
static u8 answer_poll(struct pic *pic, struct pic_chip *c)
{
	int input = chip_pending(c);

	c->poll = 0;
	if (input == NONE)
		return 0;
	chip_acknowledge(c, input);
	update(pic);
	return (u8)(0x80 | input);
}

static u8 pic_read(struct pic *pic, unsigned n, u64 off)
{
	struct pic_chip *c = &pic->chip[n];

	if (c->poll)
		return answer_poll(pic, c);
	if (off == 1)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static u64 master_read(void *ctx, u64 off, unsigned size)
{
	(void)size;
	return pic_read(ctx, 0, off);
}

static void master_write(void *ctx, u64 off, u64 value, unsigned size)
{
	(void)size;
	pic_write(ctx, 0, off, (u8)value);
}

static u64 slave_read(void *ctx, u64 off, unsigned size)
{
	(void)size;
	return pic_read(ctx, 1, off);
}

static void slave_write(void *ctx, u64 off, u64 value, unsigned size)
{
	(void)size;
	pic_write(ctx, 1, off, (u8)value);
}

static u64 elcr_read(void *ctx, u64 off, unsigned size)
{
	const struct pic *pic = ctx;

	(void)size;
	return pic->chip[off & 1].elcr;
}

static void elcr_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct pic *pic = ctx;
	struct pic_chip *c = &pic->chip[off & 1];

	(void)size;
	c->elcr = (u8)value & elcr_mask[off & 1];
	c->irr |= c->lines & c->elcr;
	update(pic);
}

static const struct bus_ops master_ops = { master_read, master_write, 1, 1 };
static const struct bus_ops slave_ops = { slave_read, slave_write, 1, 1 };
static const struct bus_ops elcr_ops = { elcr_read, elcr_write, 1, 1 };

/* Inputs keep their levels: they belong to the devices. Everything is masked
 * until an ICW1, though the chip leaves that undefined: a guest that never
 * touches it gets no vectors below 8. */
static void pic_reset(struct device *dev)
{
	struct pic *pic = (struct pic *)dev;

	for (unsigned n = 0; n < 2; n++) {
		struct pic_chip *c = &pic->chip[n];
		u8 lines = c->lines;

		*c = (struct pic_chip){ .lines = lines,
			                .imr = 0xff,
			                .lowest = 7 };
	}
	update(pic);
}

/* Sanity of what a snapshot said: values used as indexes and masks. */
static int pic_loaded(struct device *dev, struct error *err)
{
	struct pic *pic = (struct pic *)dev;

	(void)err;
	for (unsigned n = 0; n < 2; n++) {
		pic->chip[n].lowest &= 7;
		pic->chip[n].base &= 0xf8;
		pic->chip[n].elcr &= elcr_mask[n];
	}
	pic->intr = chip_pending(&pic->chip[0]) != NONE;
	pic->to.intr(pic->to.ctx, pic->intr);
	return 0;
}

static void pic_destroy(struct device *dev)
{
	struct pic *pic = (struct pic *)dev;

	for (unsigned n = 0; n < 2; n++)
		bus_unmap(dev->host->pio, &pic->region[n]);
	bus_unmap(dev->host->pio, &pic->elcr_region);
	device_fini(dev);
	free(pic);
}

static const struct field pic_fields[] = {
	PIC_FIELDS(struct pic),
	FIELD_LAST,
};

static const struct device_type pic_type = {
	.name = "pic",
	.state_major = IRQCHIP_STATE_MAJOR,
	.state = pic_fields,
	.reset = pic_reset,
	.loaded = pic_loaded,
	.destroy = pic_destroy,
};

struct pic *pic_create(struct device_host *host, const struct pic_host *to)
{
	struct pic *pic = xalloc(sizeof(*pic));

	device_init(&pic->dev, &pic_type, host, "pic");
	pic->to = *to;
	device_region_init(&pic->dev, &pic->region[0], "pic", 0x20, 2,
	                   &master_ops);
	device_region_init(&pic->dev, &pic->region[1], "pic2", 0xa0, 2,
	                   &slave_ops);
	device_region_init(&pic->dev, &pic->elcr_region, "elcr", 0x4d0, 2,
	                   &elcr_ops);
	bus_map(host->pio, &pic->region[0]);
	bus_map(host->pio, &pic->region[1]);
	bus_map(host->pio, &pic->elcr_region);
	pic_reset(&pic->dev);
	return pic;
}
