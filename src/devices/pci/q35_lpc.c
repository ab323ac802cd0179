/* SPDX-License-Identifier: Apache-2.0 */
/*
 * q35_lpc.c - the ICH9 LPC bridge: interrupt routing and where the power
 * management ports are.
 *
 *	0x40  PMBASE     bits 15-7, bit 0 reads 1
 *	0x44  ACPI_CNTL  bit 7 decode the PM ports, 2-0 SCI interrupt
 *	0x60  PIRQ A-D   bit 7 off, 3-0 ISA interrupt;  0x68  PIRQ E-H
 *	0x80  LPC I/O decode ranges and enables, stored
 *	0xa0  GEN_PMCON_1-3, 0xdc BIOS_CNTL, stored
 *	0xf0  RCBA       bits 31-14, bit 0 enable
 *
 * The root complex registers behind RCBA are storage from 0x3000 to 0x3fff,
 * which is where operating systems look (interrupt routes, GCS, function
 * disable). Intel ICH9 datasheet (316972), chapters 10 and 13.
 */
#include "devices/pci/q35.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/pci/bus.h"

enum {
	PMBASE = 0x40,
	ACPI_CNTL = 0x44,
	PIRQ_A = 0x60,
	PIRQ_E = 0x68,
	LPC_IO_DEC = 0x80,
	GEN_PMCON = 0xa0,
	BIOS_CNTL = 0xdc,
	RCBA = 0xf0,

	RCRB_SIZE = 0x4000,
	RCRB_STORED = 0x3000,
	RCRB_STORED_SIZE = 0x1000,
};

struct lpc {
	struct pci_device pci;
	struct q35_lpc_config config;
	struct bus_region rcrb;
	bool rcrb_mapped;
	u8 stored[RCRB_STORED_SIZE];
};

static u64 rcrb_read(void *ctx, u64 off, unsigned size)
{
	struct lpc *l = ctx;

	(void)size;
	return off < RCRB_STORED ? 0 : pci_get32(l->stored + off - RCRB_STORED);
}

static void rcrb_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct lpc *l = ctx;

	(void)size;
	if (off >= RCRB_STORED)
		pci_put32(l->stored + off - RCRB_STORED, (u32)value);
}

static const struct bus_ops rcrb_ops = {
	.read = rcrb_read,
	.write = rcrb_write,
	.min_size = 4,
	.max_size = 4,
};

static void rcrb_update(struct lpc *l)
{
	u32 value = pci_get32(l->pci.config + RCBA);
	u64 base = value & ~(u32)(RCRB_SIZE - 1);
	bool on = (value & 1) && base;

	if (on == l->rcrb_mapped && (!on || base == l->rcrb.base))
		return;
	if (l->rcrb_mapped)
		bus_unmap(l->pci.dev.host->mmio, &l->rcrb);
	l->rcrb.base = base;
	l->rcrb_mapped = on;
	if (on)
		bus_map(l->pci.dev.host->mmio, &l->rcrb);
}

static void pm_update(struct lpc *l)
{
	u16 base = pci_get16(l->pci.config + PMBASE) & 0xff80;
	bool on = (l->pci.config[ACPI_CNTL] & 0x80) && base;

	if (l->config.pm_moved)
		l->config.pm_moved(l->config.ctx, base, on);
}

static void pirq_update(struct lpc *l)
{
	for (unsigned i = 0; i < PCI_PIRQS; i++) {
		unsigned at = i < 4 ? PIRQ_A + i : PIRQ_E + i - 4;

		pci_bus_route(l->pci.bus, i, l->pci.config[at]);
	}
}

static bool within(unsigned off, unsigned size, unsigned from, unsigned len)
{
	return off < from + len && from < off + size;
}

static void lpc_config_written(struct pci_device *pci, unsigned off,
                               unsigned size)
{
	struct lpc *l = container_of(pci, struct lpc, pci);

	if (within(off, size, PMBASE, 5))
		pm_update(l);
	if (within(off, size, PIRQ_A, 4) || within(off, size, PIRQ_E, 4))
		pirq_update(l);
	if (within(off, size, RCBA, 4))
		rcrb_update(l);
}

static const struct pci_ops lpc_pci_ops = {
	.config_written = lpc_config_written,
};

static void lpc_update(struct lpc *l)
{
	pm_update(l);
	pirq_update(l);
	rcrb_update(l);
}

static void lpc_reset(struct device *dev)
{
	struct lpc *l = container_of(dev, struct lpc, pci.dev);

	device_lock(dev);
	pci_device_reset(&l->pci);
	memset(l->stored, 0, sizeof(l->stored));
	lpc_update(l);
	device_unlock(dev);
}

static int lpc_loaded(struct device *dev, struct error *err)
{
	struct lpc *l = container_of(dev, struct lpc, pci.dev);

	(void)err;
	device_lock(dev);
	pci_device_loaded(&l->pci);
	lpc_update(l);
	device_unlock(dev);
	return 0;
}

static void lpc_destroy(struct device *dev)
{
	struct lpc *l = container_of(dev, struct lpc, pci.dev);

	if (l->rcrb_mapped)
		bus_unmap(dev->host->mmio, &l->rcrb);
	pci_device_fini(&l->pci);
	free(l);
}

static const struct field lpc_state[] = {
	PCI_STATE(struct lpc, pci),
	FIELD_BLOB(struct lpc, stored),
	FIELD_LAST,
};

static const struct device_type lpc_type = {
	.name = "ich9-lpc",
	.state_major = 1,
	.state = lpc_state,
	.reset = lpc_reset,
	.loaded = lpc_loaded,
	.destroy = lpc_destroy,
};

/* Reset value and writable bits of one register. */
static void reg(struct pci_device *pci, unsigned at, u8 value, u8 mask)
{
	pci->config[at] = pci->reset_config[at] = value;
	pci->wmask[at] = mask;
}

int q35_lpc_create(struct device **out, struct device_host *host,
                   struct pci_bus *bus, const struct q35_lpc_config *config,
                   struct error *err)
{
	static const struct pci_ids ids = {
		.vendor = 0x8086,
		.device = 0x2918,
		.subvendor = 0x1af4,
		.subdevice = 0x1100,
		.class_code = 0x060100,
		.revision = 2,
	};
	struct lpc *l = xalloc(sizeof(*l));
	int rc = pci_device_init(&l->pci, &lpc_type, host, bus, Q35_LPC_DEVFN,
	                         &ids, &lpc_pci_ops, err);

	if (rc) {
		free(l);
		return rc;
	}
	if (config)
		l->config = *config;
	reg(&l->pci, PMBASE, 1, 0x80);
	reg(&l->pci, PMBASE + 1, 0, 0xff);
	reg(&l->pci, ACPI_CNTL, 0, 0x87);
	for (unsigned i = 0; i < 4; i++) {
		reg(&l->pci, PIRQ_A + i, 0x80, 0x8f);
		reg(&l->pci, PIRQ_E + i, 0x80, 0x8f);
	}
	for (unsigned i = 0; i < 0x14; i++)
		reg(&l->pci, LPC_IO_DEC + i, 0, 0xff);
	for (unsigned i = 0; i < 6; i++)
		reg(&l->pci, GEN_PMCON + i, 0, 0xff);
	reg(&l->pci, BIOS_CNTL, 0, 0x03);
	pci_put32(l->pci.wmask + RCBA, 0xffffc001);
	device_region_init(&l->pci.dev, &l->rcrb, "rcrb", 0, RCRB_SIZE,
	                   &rcrb_ops);
	l->rcrb.ctx = l;
	*out = &l->pci.dev;
	return 0;
}
