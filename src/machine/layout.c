/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout - guest physical memory.
 *
 *	0               640 KiB of base memory, EBDA at 0x9fc00
 *	0xa0000         reserved; ACPI tables from 0xe0000
 *	1 MiB           RAM, to the end or to the PCI hole
 *	0xb0000000      ECAM, then PCI BARs, IOAPIC, HPET, LAPICs
 *	4 GiB           the rest of RAM
 *
 * What is reserved below 1 MiB is RAM all the same, as in a PC that shadows
 * its BIOS.
 */
#include "base/error.h"
#include "guest/memory.h"
#include "machine/internal.h"

#define LOW_MAX PCI_ECAM_BASE
#define HIGH_BASE (4 * GIB)

enum { MAP_LEGACY_END = 0x100000 };

static void map_add(struct machine *m, u64 base, u64 size, u32 type)
{
	ASSERT(m->map_count < ARRAY_SIZE(m->map));
	m->map[m->map_count++] = (struct e820_entry){ base, size, type };
}

int board_memory(struct machine *m, struct error *err)
{
	u64 low = MIN(m->config.memory_bytes, LOW_MAX);
	u64 high = m->config.memory_bytes - low;
	int rc = memory_create(&m->memory, err);

	if (rc == 0)
		rc = memory_add(m->memory, 0, low, MEMORY_RAM, "ram-low", err);
	if (rc == 0 && high)
		rc = memory_add(m->memory, HIGH_BASE, high, MEMORY_RAM,
		                "ram-high", err);
	if (rc < 0)
		return rc;
	m->low_ram_end = low;
	map_add(m, 0, BOOT_EBDA, E820_RAM);
	map_add(m, BOOT_EBDA, MAP_LEGACY_END - BOOT_EBDA, E820_RESERVED);
	map_add(m, MAP_LEGACY_END, low - MAP_LEGACY_END, E820_RAM);
	map_add(m, PCI_ECAM_BASE, PCI_ECAM_SIZE, E820_RESERVED);
	if (high)
		map_add(m, HIGH_BASE, high, E820_RAM);
	return 0;
}
