/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rng.h - a virtio entropy source (virtio 1.2 section 5.4).
 */
#pragma once

#include "base/types.h"
#include "devices/device.h"

struct pci_bus;

struct virtio_rng_config {
	bool eventfd;
	int devfn; /* or PCI_SLOT_ANY */
};

int virtio_rng_create(struct device **out, struct device_host *host,
                      struct pci_bus *bus,
                      const struct virtio_rng_config *config,
                      struct error *err) MUST_CHECK;
