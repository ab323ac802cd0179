/* SPDX-License-Identifier: Apache-2.0 */
/* pci.h - configuration space by the ports 0xcf8 and 0xcfc (PCI 3.0, section
 * 3.2.2.3.2). An address is bus << 16 | slot << 11 | function << 8 | register.
 */
#pragma once

#include "guest.h"

static inline u32 pci_read(u32 at)
{
	outl(0xcf8, 0x80000000 | (at & ~3u));
	return inl(0xcfc);
}

static inline void pci_write(u32 at, u32 v)
{
	outl(0xcf8, 0x80000000 | (at & ~3u));
	outl(0xcfc, v);
}

static inline u8 pci_byte(u32 at)
{
	return (u8)(pci_read(at) >> (at & 3) * 8);
}
