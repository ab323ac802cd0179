/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk.h - a virtio disk (virtio 1.2 section 5.2) over a struct block.
 */
#pragma once

#include "base/types.h"
#include "devices/device.h"

struct block;
struct pci_bus;

struct virtio_blk_config {
	struct block *block; /* borrowed: outlives the device */
	const char *serial;  /* at most 20 bytes are used; may be NULL */
	unsigned queues;     /* 1 to 64: one a vCPU */
	bool readonly;       /* besides block_info.readonly */
	bool eventfd;        /* queue notifications through eventfds */
	int devfn;           /* or PCI_SLOT_ANY */
	/* The guest is told that a request failed: a host's failure, not its
	 * own. With the device's lock held. May be NULL. */
	void (*failed)(void *ctx, bool write, int result);
	void *ctx;
};

int virtio_blk_create(struct device **out, struct device_host *host,
                      struct pci_bus *bus,
                      const struct virtio_blk_config *config,
                      struct error *err) MUST_CHECK;

/* Since the start: requests done, their bytes, and the time from the driver's
 * notification to the answer, summed. */
struct virtio_blk_figures {
	u64 reads, writes, flushes, errors;
	u64 read_bytes, write_bytes;
	u64 read_ns, write_ns, flush_ns;
};
/* Any thread. */
void virtio_blk_figures(struct device *dev, struct virtio_blk_figures *figures);

/* The block's size changed: tell the guest. Any thread. */
void virtio_blk_resized(struct device *dev);
