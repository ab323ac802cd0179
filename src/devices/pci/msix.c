/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msix.c - MSI-X: PCI Local Bus 3.0 section 6.8.2.
 *
 *	cap + 2  message control: bit 15 enable, 14 function mask, size - 1
 *	cap + 4  table offset and BAR;  cap + 8  PBA offset and BAR
 *	BAR:  0x0000  table, 16 bytes a vector;  0x1000  pending bits
 */
#include "devices/pci/bus.h"

#include <string.h>

enum {
	CONTROL_ENABLE = 1 << 15,
	CONTROL_MASK = 1 << 14,
	VECTOR_MASKED = 1,
	PBA_OFFSET = 0x1000,
	BAR_SIZE = 0x2000,
};

static bool vector_masked(const struct pci_msix *m, unsigned v)
{
	return m->masked || (m->table[v * 4 + 3] & VECTOR_MASKED);
}

static void vector_flush(struct pci_device *pci, unsigned v)
{
	struct pci_msix *m = &pci->msix;

	if (!m->enabled || vector_masked(m, v) ||
	    !(m->pending[v / 32] >> (v % 32) & 1))
		return;
	m->pending[v / 32] &= ~(u32)BIT(v % 32);
	pci_msix_send(pci, v);
}

void pci_msix_send(struct pci_device *pci, unsigned vector)
{
	struct pci_msix *m = &pci->msix;
	const u32 *e;

	if (!m->enabled || vector >= m->vectors)
		return;
	e = &m->table[vector * 4];
	if (vector_masked(m, vector)) {
		m->pending[vector / 32] |= (u32)BIT(vector % 32);
		return;
	}
	irq_hub_msi(pci->dev.host->irq, (u64)e[1] << 32 | e[0], e[2]);
}

void pci_msix_update(struct pci_device *pci)
{
	struct pci_msix *m = &pci->msix;
	u16 control;

	if (!m->cap)
		return;
	control = pci_get16(pci->config + m->cap + 2);
	m->enabled = control & CONTROL_ENABLE;
	m->masked = control & CONTROL_MASK;
	if (!m->enabled)
		memset(m->pending, 0, sizeof(m->pending));
	for (unsigned v = 0; v < m->vectors; v++)
		vector_flush(pci, v);
}

void pci_msix_reset(struct pci_device *pci)
{
	struct pci_msix *m = &pci->msix;

	memset(m->table, 0, sizeof(m->table));
	memset(m->pending, 0, sizeof(m->pending));
	for (unsigned v = 0; v < m->vectors; v++)
		m->table[v * 4 + 3] = VECTOR_MASKED;
	m->enabled = m->masked = false;
}

static u64 msix_read(void *ctx, u64 off, unsigned size)
{
	struct pci_device *pci = ctx;
	struct pci_msix *m = &pci->msix;

	(void)size;
	if (off < m->vectors * 16u)
		return m->table[off / 4];
	if (off >= PBA_OFFSET && off - PBA_OFFSET < sizeof(m->pending))
		return m->pending[(off - PBA_OFFSET) / 4];
	return 0;
}

static void msix_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct pci_device *pci = ctx;
	struct pci_msix *m = &pci->msix;
	static const u32 writable[4] = { ~3u, ~0u, ~0u, VECTOR_MASKED };

	(void)size;
	if (off >= m->vectors * 16u)
		return; /* pending bits are read-only */
	m->table[off / 4] = (u32)value & writable[off / 4 % 4];
	vector_flush(pci, (unsigned)off / 16);
}

static const struct bus_ops msix_ops = {
	.read = msix_read,
	.write = msix_write,
	.min_size = 4,
	.max_size = 4,
};

void pci_msix_init(struct pci_device *pci, unsigned bar, unsigned vectors)
{
	struct pci_msix *m = &pci->msix;
	u8 *cap;

	ASSERT(vectors && vectors <= PCI_MSIX_MAX && !m->cap);
	m->cap = (u8)pci_add_capability(pci, PCI_CAP_MSIX, 12);
	m->vectors = (u16)vectors;
	cap = pci->config + m->cap;
	pci_put16(cap + 2, (u16)(vectors - 1));
	pci_put32(cap + 4, bar);
	pci_put32(cap + 8, PBA_OFFSET | bar);
	memcpy(pci->reset_config + m->cap, cap, 12);
	pci_put16(pci->wmask + m->cap + 2, CONTROL_ENABLE | CONTROL_MASK);
	pci_bar_init(pci, bar, "msix", BAR_SIZE, 0, &msix_ops);
	pci_msix_reset(pci);
}
