/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pit.h - the 8254 interval timer, and port 0x61 that gates its channel 2.
 */
#pragma once

#include "devices/device.h"
#include "guest/irqchip.h"

struct pit;

struct pit_host {
	void *ctx;
	/* Does IRQ 0 go anywhere (pic_irq_enabled(0) or
	 * ioapic_pin_enabled(2))? While not, no timer runs. NULL: always.
	 * Called with the PIT's lock held; must not lock. */
	bool (*irq0_wanted)(void *ctx);
};

struct pit *pit_create(struct device_host *host, const struct pit_host *to);

/* IRQ 0 may go somewhere again: for the unmasked callbacks of PIC (irq 0) and
 * IOAPIC (pin 2). Any thread, any lock held. */
void pit_irq0_unmasked(struct pit *pit);
/* HPET's legacy replacement takes IRQ 0 away from the PIT (on = false). */
void pit_irq0_route(struct pit *pit, bool on);
