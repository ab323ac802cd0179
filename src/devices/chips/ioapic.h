/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioapic.h - the I/O APIC: 24 pins to messages for LAPICs.
 */
#pragma once

#include "devices/device.h"
#include "guest/irqchip.h"

struct ioapic;

#define IOAPIC_BASE ((gpa_t)0xfec00000)

enum ioapic_version {
	IOAPIC_V11 = 0x11, /* as the kernel's irqchip has it */
	IOAPIC_V20 = 0x20, /* with an EOI register: directed EOI */
};

struct ioapic_host {
	void *ctx;
	/* lapic_deliver_msi(); called with the IOAPIC's lock held. */
	void (*msi)(void *ctx, u64 addr, u32 data);
	/* A pin's mask bit went from 1 to 0; may be NULL. Lock held. */
	void (*unmasked)(void *ctx, unsigned pin);
};

struct ioapic *ioapic_create(struct device_host *host,
                             const struct ioapic_host *to,
                             enum ioapic_version version);

/* Any thread. high means asserted, whatever polarity the guest programs. */
void ioapic_set_pin(struct ioapic *io, unsigned pin, bool high);
/* A LAPIC ended a level-triggered interrupt of this vector. Any thread. */
void ioapic_eoi(struct ioapic *io, u8 vector);
/* Would an edge on the pin go anywhere? Lock-free. */
bool ioapic_pin_enabled(struct ioapic *io, unsigned pin);
