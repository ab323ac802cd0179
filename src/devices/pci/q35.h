/* SPDX-License-Identifier: Apache-2.0 */
/*
 * q35.h - the two bridges that make a bus a q35: MCH and ICH9 LPC.
 *
 * Both are ordinary devices of the machine's list: reset, saved and destroyed
 * through their device_type. Create the MCH first.
 */
#pragma once

#include "base/types.h"
#include "devices/device.h"
#include "devices/pci/pci.h"

enum {
	Q35_MCH_DEVFN = PCI_DEVFN(0, 0),
	Q35_LPC_DEVFN = PCI_DEVFN(31, 0),
	Q35_PMBASE = 0x600, /* where firmware, or we, put the PM ports */
	Q35_SCI_IRQ = 9,
};
#define Q35_RCBA ((u32)0xfed1c000)

/*
 * 8086:29c0 at 00:00.0, subsystem 1af4:1100: configuration access through
 * 0xcf8/0xcfc, and through ECAM where PCIEXBAR says. PAM and SMRAM are stored;
 * memory in 0xc0000-0xfffff is RAM whatever they say.
 */
int q35_mch_create(struct device **out, struct device_host *host,
                   struct pci_bus *bus, struct error *err) MUST_CHECK;

/*
 * 8086:2918 at 00:1f.0. pm_moved, if set, runs with the bridge's lock held
 * whenever PMBASE or ACPI_CNTL say something new about the 128 PM ports.
 */
struct q35_lpc_config {
	void (*pm_moved)(void *ctx, u16 base, bool enabled);
	void *ctx;
};
int q35_lpc_create(struct device **out, struct device_host *host,
                   struct pci_bus *bus, const struct q35_lpc_config *config,
                   struct error *err) MUST_CHECK;
