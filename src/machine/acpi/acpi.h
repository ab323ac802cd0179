/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi.h - the tables by which a guest finds the machine's hardware.
 */
#pragma once

#include "base/types.h"
#include "devices/pci/pci.h"

struct aml;

struct acpi_config {
	unsigned cpus;     /* that are there */
	unsigned cpus_max; /* that may be; 0: none comes while it runs */
	unsigned serials;  /* COM1 and on */
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

/* ---- cpus.c ---- */

bool acpi_cpus_pluggable(const struct acpi_config *c);
void acpi_cpus(struct aml *a, const struct acpi_config *c);
/* Into \_GPE. */
void acpi_cpus_event(struct aml *a, const struct acpi_config *c);
