/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi.h - the tables by which a guest finds the machine's hardware.
 */
#pragma once

#include "base/types.h"
#include "devices/pci/pci.h"

struct aml;

struct acpi_config {
	unsigned cpus;
	unsigned serials; /* COM1 and on */
	struct pci_windows windows;
};

/* Where a direct boot puts them: in the BIOS area, which no RAM map offers. */
enum { ACPI_BASE = 0xe0000, ACPI_ROOM = 0x20000 };

/*
 * All tables, one behind the other, as they are at guest address base; the
 * RSDP comes first. Freed by the caller.
 */
u8 *acpi_build(const struct acpi_config *config, gpa_t base,
               size_t *size) MUST_CHECK;

/* The DSDT's contents, without its header. */
void acpi_dsdt(struct aml *a, const struct acpi_config *config);
