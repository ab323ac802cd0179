/* SPDX-License-Identifier: Apache-2.0 */
/*
 * balloon.h - a virtio balloon (virtio 1.2 section 5.5): memory that the guest
 * lends back to the host, what the guest says of its memory, and free pages
 * that it reports by itself.
 *
 * What the guest gives back is dropped at once; it reads as zeroes, or as
 * anything, when the guest takes it again. A guest that runs out of memory may
 * take pages back without asking.
 */
#pragma once

#include "base/types.h"
#include "devices/device.h"

struct pci_bus;

struct virtio_balloon_config {
	bool eventfd;
	int devfn; /* or PCI_SLOT_ANY */
};

/* What the guest said last; UINT64_MAX: it did not. */
struct virtio_balloon_figures {
	u64 target_bytes, actual_bytes; /* in the balloon */
	u64 reported_bytes; /* free pages dropped, since the start */
	u64 swap_in_bytes, swap_out_bytes, major_faults;
	u64 free_bytes, total_bytes, available_bytes, cache_bytes;
	/* Of total_bytes what was in the balloon then: the guest neither has
	 * that nor calls it available. 0 where its total is without. */
	u64 lent_bytes;
	u64 stats_ns; /* of the machine's clock, when it said so; 0: never */
	bool driver;  /* the guest has a driver, and it runs */
};

int virtio_balloon_create(struct device **out, struct device_host *host,
                          struct pci_bus *bus,
                          const struct virtio_balloon_config *config,
                          struct error *err) MUST_CHECK;

/* How large the balloon is to become. Any thread. */
void virtio_balloon_set_target(struct device *dev, u64 bytes);
/* Any thread. Asks the guest for newer ones at the same time. */
void virtio_balloon_figures(struct device *dev,
                            struct virtio_balloon_figures *figures);
