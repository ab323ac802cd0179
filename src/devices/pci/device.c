/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c - a function's configuration space and BARs.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "devices/pci/bus.h"

u16 pci_get16(const u8 *p)
{
	return (u16)(p[0] | p[1] << 8);
}

u32 pci_get32(const u8 *p)
{
	return pci_get16(p) | (u32)pci_get16(p + 2) << 16;
}

void pci_put16(u8 *p, u16 value)
{
	p[0] = (u8)value;
	p[1] = (u8)(value >> 8);
}

void pci_put32(u8 *p, u32 value)
{
	pci_put16(p, (u16)value);
	pci_put16(p + 2, (u16)(value >> 16));
}

static u16 command(const struct pci_device *pci)
{
	return pci_get16(pci->config + PCI_COMMAND);
}

/* ---- INTA ---- */

static void intx_update(struct pci_device *pci)
{
	u8 *status = pci->config + PCI_STATUS;
	unsigned pin = pci->config[PCI_INTERRUPT_PIN];
	bool drive = pin && pci->intx && !pci->msix.enabled &&
	             !(command(pci) & PCI_COMMAND_INTX_OFF);

	*status = (u8)((*status & ~PCI_STATUS_INTX) |
	               (pci->intx ? PCI_STATUS_INTX : 0));
	if (drive == pci->intx_driven)
		return;
	pci->intx_driven = drive;
	pci_bus_wire(pci->bus, pci_pirq(PCI_SLOT(pci->devfn), pin - 1), drive);
}

void pci_intx_set(struct pci_device *pci, bool high)
{
	pci->intx = high;
	intx_update(pci);
}

/* ---- BARs ---- */

static u8 *bar_register(struct pci_device *pci, unsigned bar)
{
	return pci->config + PCI_BAR0 + bar * 4;
}

static struct bus *bar_bus(const struct pci_device *pci, unsigned bar)
{
	return pci->bar[bar].flags & PCI_BAR_IO ? pci->dev.host->pio
	                                        : pci->dev.host->mmio;
}

/*
 * Where the registers put a BAR, or 0: decoding off, no address yet, or the
 * all-ones pattern of sizing, which ends at the top of the address space.
 */
static u64 bar_target(struct pci_device *pci, unsigned bar)
{
	const struct pci_bar *b = &pci->bar[bar];
	bool io = b->flags & PCI_BAR_IO;
	u64 base = pci_get32(bar_register(pci, bar)) & ~(u64)(io ? 3 : 15);
	u64 limit = io ? 0xffff : 0xffffffff;

	if (!(command(pci) & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
		return 0;
	if (b->flags & PCI_BAR_64) {
		base |= (u64)pci_get32(bar_register(pci, bar + 1)) << 32;
		limit = ~(u64)0;
	}
	/* Nothing ends at the limit: sizing does. No wrap either. */
	if (base > limit - b->size)
		return 0;
	return base;
}

static void bar_place(struct pci_device *pci, unsigned bar, u64 base)
{
	struct pci_bar *b = &pci->bar[bar];

	if (b->mapped ? base == b->region.base : !base)
		return;
	if (b->mapped)
		bus_unmap(bar_bus(pci, bar), &b->region);
	b->mapped = base != 0;
	b->region.base = base;
	if (b->mapped)
		bus_map(bar_bus(pci, bar), &b->region);
	if (pci->ops && pci->ops->bar_changed)
		pci->ops->bar_changed(pci, bar);
}

static void bars_update(struct pci_device *pci)
{
	for (unsigned i = 0; i < PCI_BAR_COUNT; i++)
		if (pci->bar[i].size)
			bar_place(pci, i, bar_target(pci, i));
}

void pci_bar_init(struct pci_device *pci, unsigned bar, const char *name,
                  u64 size, unsigned flags, const struct bus_ops *ops)
{
	struct pci_bar *b = &pci->bar[bar];
	u64 writable = ~(size - 1);

	ASSERT(bar < PCI_BAR_COUNT && !b->size);
	ASSERT(size >= 16 && !(size & (size - 1)));
	b->size = size;
	b->flags = (u8)flags;
	device_region_init(&pci->dev, &b->region, name, 0, size, ops);
	b->region.notify_fd = -1;
	/* Fixed chips win over an address that the guest chose. */
	b->region.priority = -2;
	pci_put32(bar_register(pci, bar),
	          flags & PCI_BAR_IO ? 1
	                             : (flags & PCI_BAR_64 ? 4 : 0) |
	                                   (flags & PCI_BAR_PREFETCH ? 8 : 0));
	memcpy(pci->reset_config + PCI_BAR0 + bar * 4, bar_register(pci, bar),
	       4);
	pci_put32(pci->wmask + PCI_BAR0 + bar * 4, (u32)writable);
	if (flags & PCI_BAR_64)
		pci_put32(pci->wmask + PCI_BAR0 + bar * 4 + 4,
		          (u32)(writable >> 32));
}

/* ---- configuration space ---- */

static bool overlaps(unsigned off, unsigned size, unsigned from, unsigned len)
{
	return off < from + len && from < off + size;
}

u32 pci_device_config_read(struct pci_device *pci, unsigned off, unsigned size)
{
	u32 value = 0;

	if (pci->ops && pci->ops->config_read)
		pci->ops->config_read(pci, off, size);
	for (unsigned i = 0; i < size; i++)
		value |= (u32)pci->config[off + i] << (i * 8);
	return value;
}

void pci_device_config_write(struct pci_device *pci, unsigned off, u32 value,
                             unsigned size)
{
	for (unsigned i = 0; i < size; i++) {
		u8 mask = pci->wmask[off + i];
		u8 *p = &pci->config[off + i];

		*p = (u8)((*p & ~mask) | ((value >> (i * 8)) & mask));
	}
	if (overlaps(off, size, PCI_COMMAND, 2) ||
	    overlaps(off, size, PCI_BAR0, PCI_BAR_COUNT * 4))
		bars_update(pci);
	if (pci->msix.cap && overlaps(off, size, pci->msix.cap + 2u, 2))
		pci_msix_update(pci);
	intx_update(pci);
	if (pci->ops && pci->ops->config_written)
		pci->ops->config_written(pci, off, size);
}

unsigned pci_add_capability(struct pci_device *pci, u8 id, unsigned size)
{
	unsigned at = ALIGN_UP(pci->cap_end, 4u);

	ASSERT(at + size <= PCI_CONFIG_SIZE);
	/* New ones go to the head of the list. */
	pci->config[at] = id;
	pci->config[at + 1] = pci->config[PCI_CAPABILITIES];
	pci->config[PCI_CAPABILITIES] = (u8)at;
	pci->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	memcpy(pci->reset_config + at, pci->config + at, 2);
	pci->reset_config[PCI_CAPABILITIES] = (u8)at;
	pci->reset_config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	pci->cap_end = (u16)(at + size);
	return at;
}

/* ---- life ---- */

static void header_init(struct pci_device *pci, const struct pci_ids *ids)
{
	u8 *c = pci->config;

	pci_put16(c + PCI_VENDOR_ID, ids->vendor);
	pci_put16(c + PCI_DEVICE_ID, ids->device);
	pci_put16(c + PCI_SUBSYSTEM_VENDOR, ids->subvendor);
	pci_put16(c + PCI_SUBSYSTEM, ids->subdevice);
	c[PCI_REVISION] = ids->revision;
	c[PCI_CLASS] = (u8)ids->class_code;
	pci_put16(c + PCI_CLASS + 1, (u16)(ids->class_code >> 8));
	c[PCI_INTERRUPT_PIN] = ids->interrupt ? 1 : 0;
	pci_put16(pci->wmask + PCI_COMMAND,
	          PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
	              PCI_COMMAND_INTX_OFF);
	pci->wmask[PCI_INTERRUPT_LINE] = 0xff;
	memcpy(pci->reset_config, c, PCI_CONFIG_SIZE);
	pci->cap_end = 0x40;
}

int pci_device_init(struct pci_device *pci, const struct device_type *type,
                    struct device_host *host, struct pci_bus *bus, int devfn,
                    const struct pci_ids *ids, const struct pci_ops *ops,
                    struct error *err)
{
	char name[32];

	if (devfn == PCI_SLOT_ANY)
		devfn = pci_bus_free_slot(bus);
	if (devfn < 0)
		return error_set(err, -ENOSPC, "%s: every PCI slot is taken",
		                 type->name);
	pci->bus = bus;
	pci->ops = ops;
	pci->devfn = (u8)devfn;
	header_init(pci, ids);
	if (pci_bus_attach(bus, pci)) {
		pci->bus = NULL;
		return error_set(err, -EEXIST,
		                 "%s: PCI address %02x.%x is taken", type->name,
		                 PCI_SLOT(devfn), PCI_FUNCTION(devfn));
	}
	snprintf(name, sizeof(name), "00:%02x.%x", PCI_SLOT(pci->devfn),
	         PCI_FUNCTION(pci->devfn));
	device_init(&pci->dev, type, host, name);
	return 0;
}

void pci_device_fini(struct pci_device *pci)
{
	if (!pci->bus)
		return;
	device_lock(&pci->dev);
	for (unsigned i = 0; i < PCI_BAR_COUNT; i++)
		if (pci->bar[i].size)
			bar_place(pci, i, 0);
	pci_intx_set(pci, false);
	device_unlock(&pci->dev);
	pci_bus_detach(pci->bus, pci);
	device_fini(&pci->dev);
	pci->bus = NULL;
}

void pci_device_reset(struct pci_device *pci)
{
	device_lock(&pci->dev);
	memcpy(pci->config, pci->reset_config, PCI_CONFIG_SIZE);
	pci->intx = false;
	pci_msix_reset(pci);
	bars_update(pci);
	intx_update(pci);
	device_unlock(&pci->dev);
}

void pci_device_loaded(struct pci_device *pci)
{
	device_lock(&pci->dev);
	/* What a writable bit cannot change comes from this build, not from
	 * the saved state: capability lists describe our own layout. */
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		pci->config[i] = (u8)((pci->config[i] & pci->wmask[i]) |
		                      (pci->reset_config[i] & ~pci->wmask[i]));
	bars_update(pci);
	pci_msix_update(pci);
	intx_update(pci);
	device_unlock(&pci->dev);
}
