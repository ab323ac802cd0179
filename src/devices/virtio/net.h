/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h - a virtio network card (virtio 1.2 section 5.1) over a struct link.
 */
#pragma once

#include "base/types.h"
#include "devices/device.h"

struct link;
struct pci_bus;

struct virtio_net_config {
	struct link *link; /* borrowed: outlives the device */
	u8 mac[6];
	u16 mtu;        /* 0: not told to the guest */
	unsigned pairs; /* queue pairs, 1 to 32 */
	bool eventfd;
	bool own_network; /* nobody else is on it, see virtio_net_new_address */
	int devfn;        /* or PCI_SLOT_ANY */
};

int virtio_net_create(struct device **out, struct device_host *host,
                      struct pci_bus *bus,
                      const struct virtio_net_config *config,
                      struct error *err) MUST_CHECK;

/* Since the start, as the guest sees it. */
struct virtio_net_figures {
	u64 sent_frames, sent_bytes, received_frames, received_bytes;
};
/* Any thread. */
void virtio_net_figures(struct device *dev, struct virtio_net_figures *figures);
/* For a copy of the machine that was saved: the card has the address of its
 * own config; what was sent to the old one still arrives, until the guest
 * takes the new one. Its link is down for half a second, by which a guest knows
 * that it may be on another network and asks for its address again; then the
 * guest is to announce itself. On an own_network the old address is nobody
 * else's: the link stays up, and a guest that idled goes on idling. */
void virtio_net_new_address(struct device *dev);

/* Have the guest announce itself to its peers (after a migration or a
 * restore). Any thread. */
void virtio_net_announce(struct device *dev);
