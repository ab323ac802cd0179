/* SPDX-License-Identifier: Apache-2.0 */
/*
 * assign.c - what firmware does to a bus, for machines that have none.
 *
 * Registers are written as firmware writes them: through configuration
 * space. Small BARs go below 4 GiB, where every guest reaches them; large
 * 64-bit ones above. Each starts on a boundary of its own 64 KiB, so that an
 * operating system which moves them again has room.
 */
#include "devices/pci/bus.h"
#include "devices/pci/q35.h"

enum {
	BAR_SPACING = 64 << 10,
	LARGE_BAR = 64 << 20,
	PIC_ELCR = 0x4d0,
	LPC_PMBASE = 0x40,
	LPC_ACPI_CNTL = 0x44,
	LPC_PIRQ_A = 0x60,
	LPC_PIRQ_E = 0x68,
	LPC_RCBA = 0xf0,
	MCH_PCIEXBAR = 0x60,
};

void pci_windows_default(struct pci_windows *out, u64 ram_below_4g, u64 ram_end,
                         unsigned phys_bits)
{
	u64 top = BIT(MIN(phys_bits, 52u));
	u64 ecam_end = PCI_ECAM_BASE + PCI_ECAM_SIZE;
	u64 base64 = ALIGN_UP(MAX(ram_end, 4 * GIB), GIB);

	*out = (struct pci_windows){
		.mem32_base = MAX(ALIGN_UP(ram_below_4g, MIB), ecam_end),
		.mem32_end = 0xfec00000,
		.io_base = 0xc000,
		.io_end = 0xfff0,
	};
	if (base64 < top) {
		out->mem64_base = base64;
		out->mem64_end = base64 + MIN(top - base64, 256 * GIB);
	}
}

/* The two ISA interrupts that PIRQs share in PIC mode, as firmware does. */
static u8 pirq_isa(unsigned pirq)
{
	return pirq & 2 ? 11 : 10;
}

struct cursor {
	u64 io, mem32, mem64;
};

static u64 take(u64 *at, u64 end, u64 size, u64 spacing)
{
	u64 base = ALIGN_UP(*at, MAX(size, spacing));

	if (base < *at || base > end || end - base < size)
		return 0;
	*at = base + size;
	return base;
}

static u64 place(const struct pci_windows *w, struct cursor *c,
                 const struct pci_bar *bar)
{
	u64 base = 0;

	if (bar->flags & PCI_BAR_IO)
		return take(&c->io, w->io_end, bar->size, 16);
	if ((bar->flags & PCI_BAR_64) && bar->size >= LARGE_BAR)
		base = take(&c->mem64, w->mem64_end, bar->size, BAR_SPACING);
	if (!base)
		base = take(&c->mem32, w->mem32_end, bar->size, BAR_SPACING);
	if (!base && (bar->flags & PCI_BAR_64))
		base = take(&c->mem64, w->mem64_end, bar->size, BAR_SPACING);
	return base;
}

static void assign_function(struct pci_bus *bus, struct pci_device *pci,
                            struct cursor *c)
{
	unsigned pin = pci->config[PCI_INTERRUPT_PIN];
	u8 at = pci->devfn;
	u32 command = PCI_COMMAND_MASTER;

	for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
		const struct pci_bar *bar = &pci->bar[i];
		unsigned reg = PCI_BAR0 + i * 4;
		u64 base;

		if (!bar->size || !(base = place(&bus->windows, c, bar)))
			continue;
		pci_config_write(bus, at, reg, (u32)base, 4);
		if (bar->flags & PCI_BAR_64)
			pci_config_write(bus, at, reg + 4, (u32)(base >> 32),
			                 4);
		command |= bar->flags & PCI_BAR_IO ? PCI_COMMAND_IO
		                                   : PCI_COMMAND_MEMORY;
	}
	if (pin)
		pci_config_write(bus, at, PCI_INTERRUPT_LINE,
		                 pirq_isa(pci_pirq(PCI_SLOT(at), pin - 1)), 1);
	pci_config_write(bus, at, PCI_COMMAND, command, 2);
}

static void assign_bridges(struct pci_bus *bus)
{
	u8 mch = Q35_MCH_DEVFN, lpc = Q35_LPC_DEVFN;

	pci_config_write(bus, mch, MCH_PCIEXBAR + 4, 0, 4);
	pci_config_write(bus, mch, MCH_PCIEXBAR, (u32)PCI_ECAM_BASE | 1, 4);
	pci_config_write(bus, lpc, LPC_PMBASE, Q35_PMBASE | 1, 4);
	pci_config_write(bus, lpc, LPC_ACPI_CNTL, 0x80, 1);
	pci_config_write(bus, lpc, LPC_RCBA, Q35_RCBA | 1, 4);
	for (unsigned i = 0; i < 4; i++) {
		pci_config_write(bus, lpc, LPC_PIRQ_A + i, pirq_isa(i), 1);
		pci_config_write(bus, lpc, LPC_PIRQ_E + i, pirq_isa(i + 4), 1);
	}
	/* Interrupts 10 and 11 are level-triggered. */
	bus_write(bus->host->pio, PIC_ELCR, 1, 0);
	bus_write(bus->host->pio, PIC_ELCR + 1, 1, 1 << 2 | 1 << 3);
}

void pci_assign_resources(struct pci_bus *bus)
{
	const struct pci_windows *w = &bus->windows;
	struct cursor c = { w->io_base, w->mem32_base, w->mem64_base };

	for (unsigned i = 0; i < ARRAY_SIZE(bus->functions); i++)
		if (bus->functions[i])
			assign_function(bus, bus->functions[i], &c);
	assign_bridges(bus);
}
