/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pic.h - the pair of 8259A interrupt controllers.
 */
#pragma once

#include "devices/device.h"

struct pic;

struct pic_host {
	void *ctx;
	/* The INTR wire: lapic_set_lint0(). Called with the PIC's lock. */
	void (*intr)(void *ctx, bool high);
	/* An IRQ's mask bit went from 1 to 0; may be NULL. Lock held. */
	void (*unmasked)(void *ctx, unsigned irq);
};

struct pic *pic_create(struct device_host *host, const struct pic_host *to);

/* Any thread; irq 0-15, 2 ignored: the cascade. */
void pic_set_irq(struct pic *pic, unsigned irq, bool high);
/* The CPU's interrupt acknowledge cycle: a vector, maybe the spurious one. */
int pic_ack(struct pic *pic);
/* Would an edge on irq reach INTR, now or later? Lock-free. */
bool pic_irq_enabled(struct pic *pic, unsigned irq);
