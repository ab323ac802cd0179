/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console.h - virtio serial ports (virtio 1.2 section 5.3): a terminal at
 * port 0, and named byte channels.
 *
 * Backpressure both ways, so nothing is lost: bytes that the host side does
 * not take stay in the guest's ring until virtio_console_writable(); bytes
 * that the guest has no buffers for stay with the host until input_room().
 */
#pragma once

#include "base/types.h"
#include "devices/device.h"

struct pci_bus;

enum { VIRTIO_CONSOLE_PORTS_MAX = 16 };

/* The host end of a port. Callbacks run with the device's lock held, on any
 * thread, and must not block. */
struct virtio_console_port {
	const char *name; /* NULL for a console */
	bool console;     /* a terminal (hvc) rather than a channel */
	void *ctx;
	/* Bytes from the guest: how many were taken. NULL: all thrown away. */
	size_t (*output)(void *ctx, const void *buf, size_t len);
	/* After a short virtio_console_input(): there is room. May be NULL. */
	void (*input_room)(void *ctx);
	/* The guest opened or closed the port. May be NULL. */
	void (*opened)(void *ctx, bool open);
};

struct virtio_console_config {
	const struct virtio_console_port *ports; /* copied; names borrowed */
	unsigned port_count;                     /* at least 1 */
	u16 columns, rows;                       /* of port 0; 0: unknown */
	bool eventfd;
	int devfn; /* or PCI_SLOT_ANY */
};

int virtio_console_create(struct device **out, struct device_host *host,
                          struct pci_bus *bus,
                          const struct virtio_console_config *config,
                          struct error *err) MUST_CHECK;

/* Bytes to the guest: how many it had buffers for. Any thread. */
size_t virtio_console_input(struct device *dev, unsigned port, const void *buf,
                            size_t len);
/* After output() took less than it was given: go on. Any thread. */
void virtio_console_writable(struct device *dev, unsigned port);
/* The terminal behind port 0 has a new size. Any thread. */
void virtio_console_resize(struct device *dev, u16 columns, u16 rows);
/* The host end was connected or has gone. Any thread. */
void virtio_console_connect(struct device *dev, unsigned port, bool open);
