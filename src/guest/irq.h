/* SPDX-License-Identifier: Apache-2.0 */
/*
 * irq.h - interrupt lines and messages, whoever the controller is.
 *
 * machine/ points these at our PIC, IOAPIC and LAPICs, or at the ones in the
 * host's kernel. Any thread may call; a caller may hold its device's lock.
 */
#pragma once

#include "base/types.h"

struct irq_sink {
	void *ctx;
	/* gsi 0-15 reach the PIC and the IOAPIC (0 as pin 2), 16-23 the IOAPIC.
	 * Levels of several devices that share a line are ORed by irq_line. */
	void (*set_gsi)(void *ctx, unsigned gsi, bool high);
	/* A message-signalled interrupt: Intel SDM vol. 3 10.11. */
	void (*msi)(void *ctx, u64 addr, u32 data);
};

/* One device's end of a line. */
struct irq_line {
	struct irq_hub *hub; /* borrowed */
	unsigned gsi;
	bool high;
};

/* ORs what several devices drive onto one gsi. */
struct irq_hub;
int irq_hub_create(struct irq_hub **out,
                   const struct irq_sink *sink) MUST_CHECK;
void irq_hub_destroy(struct irq_hub *hub);

void irq_line_init(struct irq_line *line, struct irq_hub *hub, unsigned gsi);
void irq_line_set(struct irq_line *line, bool high); /* idempotent */
void irq_hub_msi(struct irq_hub *hub, u64 addr, u32 data);
