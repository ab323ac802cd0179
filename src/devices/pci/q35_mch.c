/* SPDX-License-Identifier: Apache-2.0 */
/*
 * q35_mch.c - the memory controller hub: the way into configuration space.
 *
 *	port 0xcf8  bit 31 enable, 23-16 bus, 15-8 devfn, 7-2 register
 *	port 0xcfc  the register's four bytes
 *	0x60  PCIEXBAR  bit 0 enable, 2-1 length (256, 128, 64 MiB), base above
 *	0x90  PAM0-6    stored
 *	0x9d  SMRAM, 0x9e ESMRAMC  stored; there is no SMM
 *
 * Intel 3 Series Express Chipset datasheet (316966), chapters 5 and 6.
 */
#include "devices/pci/q35.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/pci/bus.h"

enum { PCIEXBAR = 0x60, PAM0 = 0x90, SMRAM = 0x9d, ESMRAMC = 0x9e };
enum { ADDRESS_ENABLE = 1u << 31, ADDRESS_MASK = 0x80fffffc };

struct mch {
	struct pci_device pci;
	u32 address; /* the latch at 0xcf8 */
	struct bus_region address_port, data_port, ecam;
	bool ecam_mapped;
};

static u64 address_read(void *ctx, u64 off, unsigned size)
{
	struct mch *m = ctx;

	(void)size;
	return m->address >> (off * 8);
}

static void address_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct mch *m = ctx;

	/* Narrower accesses are not meant for this register. */
	if (off == 0 && size == 4)
		m->address = (u32)value & ADDRESS_MASK;
}

static const struct bus_ops address_ops = {
	.read = address_read,
	.write = address_write,
};

static u64 data_read(void *ctx, u64 off, unsigned size)
{
	struct mch *m = ctx;
	u32 a = m->address;

	if (!(a & ADDRESS_ENABLE))
		return ~(u64)0;
	return pci_config_read(m->pci.bus, a >> 8 & 0xffff,
	                       (a & 0xfc) + (unsigned)off, size);
}

static void data_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct mch *m = ctx;
	u32 a = m->address;

	if (a & ADDRESS_ENABLE)
		pci_config_write(m->pci.bus, a >> 8 & 0xffff,
		                 (a & 0xfc) + (unsigned)off, (u32)value, size);
}

static const struct bus_ops data_ops = {
	.read = data_read,
	.write = data_write,
};

/* No lock of ours: the function that is meant takes its own. */
static u64 ecam_read(void *ctx, u64 off, unsigned size)
{
	struct mch *m = ctx;

	return pci_config_read(m->pci.bus, (u32)(off >> 12), off & 0xfff, size);
}

static void ecam_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct mch *m = ctx;

	pci_config_write(m->pci.bus, (u32)(off >> 12), off & 0xfff, (u32)value,
	                 size);
}

static const struct bus_ops ecam_ops = {
	.read = ecam_read,
	.write = ecam_write,
};

static void ecam_update(struct mch *m)
{
	const u8 *c = m->pci.config + PCIEXBAR;
	u64 value = pci_get32(c) | (u64)pci_get32(c + 4) << 32;
	unsigned length = value >> 1 & 3;
	u64 size = (u64)PCI_ECAM_SIZE >> length;
	u64 base = value & ~(size - 1) & (BIT(36) - 1);
	bool on = (value & 1) && length < 3 && base;

	if (on == m->ecam_mapped &&
	    (!on || (base == m->ecam.base && size == m->ecam.size)))
		return;
	if (m->ecam_mapped)
		bus_unmap(m->pci.dev.host->mmio, &m->ecam);
	m->ecam.base = base;
	m->ecam.size = size;
	m->ecam_mapped = on;
	if (on)
		bus_map(m->pci.dev.host->mmio, &m->ecam);
}

static void mch_config_written(struct pci_device *pci, unsigned off,
                               unsigned size)
{
	struct mch *m = container_of(pci, struct mch, pci);

	if (off < PCIEXBAR + 8 && off + size > PCIEXBAR)
		ecam_update(m);
}

static const struct pci_ops mch_pci_ops = {
	.config_written = mch_config_written,
};

static void mch_reset(struct device *dev)
{
	struct mch *m = container_of(dev, struct mch, pci.dev);

	device_lock(dev);
	pci_device_reset(&m->pci);
	m->address = 0;
	ecam_update(m);
	device_unlock(dev);
}

static int mch_loaded(struct device *dev, struct error *err)
{
	struct mch *m = container_of(dev, struct mch, pci.dev);

	(void)err;
	device_lock(dev);
	pci_device_loaded(&m->pci);
	m->address &= ADDRESS_MASK;
	ecam_update(m);
	device_unlock(dev);
	return 0;
}

static void mch_destroy(struct device *dev)
{
	struct mch *m = container_of(dev, struct mch, pci.dev);

	bus_unmap(dev->host->pio, &m->address_port);
	bus_unmap(dev->host->pio, &m->data_port);
	if (m->ecam_mapped)
		bus_unmap(dev->host->mmio, &m->ecam);
	pci_device_fini(&m->pci);
	free(m);
}

static const struct field mch_state[] = {
	PCI_STATE(struct mch, pci),
	FIELD_VALUE(struct mch, address),
	FIELD_LAST,
};

static const struct device_type mch_type = {
	.name = "q35-mch",
	.state_major = 1,
	.state = mch_state,
	.reset = mch_reset,
	.loaded = mch_loaded,
	.destroy = mch_destroy,
};

static void regions_init(struct mch *m)
{
	struct device *dev = &m->pci.dev;

	device_region_init(dev, &m->address_port, "pci-address", PCI_IO_ADDRESS,
	                   4, &address_ops);
	device_region_init(dev, &m->data_port, "pci-data", PCI_IO_DATA, 4,
	                   &data_ops);
	device_region_init(dev, &m->ecam, "ecam", 0, PCI_ECAM_SIZE, &ecam_ops);
	m->address_port.ctx = m->data_port.ctx = m->ecam.ctx = m;
	m->ecam.lock = NULL;
	/* 0xcf9, the reset register, lies inside: its chip answers there. */
	m->address_port.priority = -1;
	bus_map(dev->host->pio, &m->address_port);
	bus_map(dev->host->pio, &m->data_port);
}

int q35_mch_create(struct device **out, struct device_host *host,
                   struct pci_bus *bus, struct error *err)
{
	static const struct pci_ids ids = {
		.vendor = 0x8086,
		.device = 0x29c0,
		.subvendor = 0x1af4, /* firmware looks for fw_cfg if so */
		.subdevice = 0x1100,
		.class_code = 0x060000,
	};
	struct mch *m = xalloc(sizeof(*m));
	int rc = pci_device_init(&m->pci, &mch_type, host, bus, Q35_MCH_DEVFN,
	                         &ids, &mch_pci_ops, err);

	if (rc) {
		free(m);
		return rc;
	}
	pci_put32(m->pci.wmask + PCIEXBAR, 0xfc000007);
	pci_put32(m->pci.wmask + PCIEXBAR + 4, 0xf);
	m->pci.wmask[PAM0] = 0x30;
	memset(m->pci.wmask + PAM0 + 1, 0x33, 6);
	m->pci.wmask[SMRAM] = 0x70;
	m->pci.config[SMRAM] = m->pci.reset_config[SMRAM] = 0x02;
	m->pci.wmask[ESMRAMC] = 0x87;
	regions_init(m);
	*out = &m->pci.dev;
	return 0;
}
