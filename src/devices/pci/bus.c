/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bus.c - who is where, and the interrupt wires between them.
 */
#include "devices/pci/bus.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"

/* The interrupts that ICH9 lets PIRQs reach: all but 0-2, 8 and 13. */
enum { ISA_IRQS = 0xdef8 };

struct pci_bus *pci_bus_create(struct device_host *host,
                               const struct pci_windows *windows)
{
	struct pci_bus *bus = xalloc(sizeof(*bus));

	bus->host = host;
	bus->windows = *windows;
	pthread_mutex_init(&bus->wire_lock, NULL);
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		irq_line_init(&bus->wires[i].apic, host->irq, 16 + i);
	return bus;
}

void pci_bus_destroy(struct pci_bus *bus)
{
	if (!bus)
		return;
	pthread_mutex_destroy(&bus->wire_lock);
	free(bus);
}

struct pci_device *pci_bus_find(const struct pci_bus *bus, u8 devfn)
{
	return bus->functions[devfn];
}

int pci_bus_attach(struct pci_bus *bus, struct pci_device *pci)
{
	struct pci_device *first;

	if (bus->functions[pci->devfn])
		return -EEXIST;
	bus->functions[pci->devfn] = pci;
	/* Function 0 says that there are others (PCI 3.0 section 6.2.1). */
	first = bus->functions[PCI_DEVFN(PCI_SLOT(pci->devfn), 0)];
	for (unsigned f = 1; first && f < 8; f++) {
		if (!bus->functions[PCI_DEVFN(PCI_SLOT(pci->devfn), f)])
			continue;
		first->config[PCI_HEADER_TYPE] |= 0x80;
		first->reset_config[PCI_HEADER_TYPE] |= 0x80;
	}
	return 0;
}

void pci_bus_detach(struct pci_bus *bus, struct pci_device *pci)
{
	if (bus->functions[pci->devfn] == pci)
		bus->functions[pci->devfn] = NULL;
}

int pci_bus_free_slot(const struct pci_bus *bus)
{
	for (unsigned slot = 1; slot < PCI_SLOTS - 1; slot++)
		if (!bus->functions[PCI_DEVFN(slot, 0)])
			return PCI_DEVFN(slot, 0);
	return -ENOSPC;
}

void pci_bus_wire(struct pci_bus *bus, unsigned pirq, bool high)
{
	struct pci_wire *w = &bus->wires[pirq];

	pthread_mutex_lock(&bus->wire_lock);
	w->asserted += high ? 1u : -1u;
	irq_line_set(&w->apic, w->asserted);
	if (w->routed)
		irq_line_set(&w->isa, w->asserted);
	pthread_mutex_unlock(&bus->wire_lock);
}

void pci_bus_route(struct pci_bus *bus, unsigned pirq, u8 route)
{
	struct pci_wire *w = &bus->wires[pirq];
	unsigned irq = route & 0xf;

	pthread_mutex_lock(&bus->wire_lock);
	if (w->routed)
		irq_line_set(&w->isa, false);
	w->routed = !(route & 0x80) && (ISA_IRQS >> irq & 1);
	if (w->routed) {
		irq_line_init(&w->isa, bus->host->irq, irq);
		irq_line_set(&w->isa, w->asserted);
	}
	pthread_mutex_unlock(&bus->wire_lock);
}

/* Bus 0 is the only one. What is not there reads as all ones. */
static struct pci_device *target(struct pci_bus *bus, u32 bdf, unsigned off,
                                 unsigned size)
{
	if (bdf > 0xff || off + size > PCI_CONFIG_SIZE || off % size)
		return NULL;
	return bus->functions[bdf];
}

u32 pci_config_read(struct pci_bus *bus, u32 bdf, unsigned off, unsigned size)
{
	struct pci_device *pci = target(bus, bdf, off, size);
	u32 value;

	if (!pci)
		return (u32)(BIT(size * 8) - 1);
	device_lock(&pci->dev);
	value = pci_device_config_read(pci, off, size);
	device_unlock(&pci->dev);
	return value;
}

void pci_config_write(struct pci_bus *bus, u32 bdf, unsigned off, u32 value,
                      unsigned size)
{
	struct pci_device *pci = target(bus, bdf, off, size);

	if (!pci)
		return;
	device_lock(&pci->dev);
	pci_device_config_write(pci, off, value, size);
	device_unlock(&pci->dev);
}
