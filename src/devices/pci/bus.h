/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bus.h - what the files of pci/ share and nobody else sees.
 */
#pragma once

#include <pthread.h>

#include "devices/pci/pci.h"

/*
 * One of the eight interrupt wires. The functions that pull it are counted
 * here, so that the I/O APIC's pin and the ISA interrupt that PIRQ routing
 * chose both see their sum. Lock order: device, bus, interrupt hub.
 */
struct pci_wire {
	unsigned asserted;
	struct irq_line apic;
	struct irq_line isa;
	bool routed; /* isa is in use */
};

struct pci_bus {
	struct device_host *host; /* borrowed */
	struct pci_windows windows;
	struct pci_device *functions[PCI_SLOTS * 8]; /* borrowed; by devfn */
	pthread_mutex_t wire_lock;
	struct pci_wire wires[PCI_PIRQS];
};

/* -EEXIST if the place is taken. */
int pci_bus_attach(struct pci_bus *bus, struct pci_device *pci);
void pci_bus_detach(struct pci_bus *bus, struct pci_device *pci);
/* -ENOSPC, or the first free slot's devfn. */
int pci_bus_free_slot(const struct pci_bus *bus);

void pci_bus_wire(struct pci_bus *bus, unsigned pirq, bool high);
/* A PIRQ routing register: bit 7 off, else the ISA interrupt in bits 0-3. */
void pci_bus_route(struct pci_bus *bus, unsigned pirq, u8 route);

/* Under the device's lock. */
u32 pci_device_config_read(struct pci_device *pci, unsigned off, unsigned size);
void pci_device_config_write(struct pci_device *pci, unsigned off, u32 value,
                             unsigned size);

/* Message control may have changed. */
void pci_msix_update(struct pci_device *pci);
void pci_msix_reset(struct pci_device *pci);
