/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci.h - one PCI bus and what sits on it.
 *
 * A function embeds struct pci_device first. Its configuration space is bytes
 * with a write mask, so that most registers need no code; BARs are bus
 * regions that follow the command register. Everything on a function happens
 * under its own device lock. Functions are added before the first vCPU runs.
 *
 * Interrupt pins: slot s, pin p (INTA is 0) is PIRQ (s + p) % 8, named A to H
 * in the LPC bridge, and that is GSI 16 + PIRQ at the I/O APIC. An ACPI _PRT
 * or an MP table follows from pci_gsi(). In PIC mode the LPC bridge's PIRQ
 * routing registers choose the ISA interrupt.
 *
 * PCI Local Bus 3.0 chapter 6; PCI Express base specification 7.2 (ECAM).
 */
#pragma once

#include "base/types.h"
#include "devices/device.h"

struct pci_bus;
struct pci_device;

enum {
	PCI_ECAM_SIZE = 256 << 20,
	PCI_IO_ADDRESS = 0xcf8,
	PCI_IO_DATA = 0xcfc,

	PCI_CONFIG_SIZE = 256,
	PCI_BAR_COUNT = 6,
	PCI_SLOTS = 32,
	PCI_PIRQS = 8,
	PCI_MSIX_MAX = 160,
};
#define PCI_ECAM_BASE ((u64)0xb0000000)

#define PCI_DEVFN(slot, function) ((u8)((slot) << 3 | (function)))
#define PCI_SLOT(devfn) ((devfn) >> 3)
#define PCI_FUNCTION(devfn) ((devfn)&7)

/* The configuration header, type 0. */
enum {
	PCI_VENDOR_ID = 0x00,
	PCI_DEVICE_ID = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_CLASS = 0x09,
	PCI_HEADER_TYPE = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBSYSTEM_VENDOR = 0x2c,
	PCI_SUBSYSTEM = 0x2e,
	PCI_CAPABILITIES = 0x34,
	PCI_INTERRUPT_LINE = 0x3c,
	PCI_INTERRUPT_PIN = 0x3d,

	PCI_COMMAND_IO = 1 << 0,
	PCI_COMMAND_MEMORY = 1 << 1,
	PCI_COMMAND_MASTER = 1 << 2,
	PCI_COMMAND_INTX_OFF = 1 << 10,
	PCI_STATUS_INTX = 1 << 3,
	PCI_STATUS_CAPABILITIES = 1 << 4,

	PCI_CAP_VENDOR = 0x09,
	PCI_CAP_MSIX = 0x11,
};

/*
 * Where BARs may go when no firmware says so; ends are exclusive. The machine
 * writes the same ranges into _CRS. mem64 may be empty. ECAM lies outside.
 */
struct pci_windows {
	u64 mem32_base, mem32_end;
	u64 mem64_base, mem64_end;
	u16 io_base, io_end;
};

/* ram_below_4g is where the hole starts, ram_end where RAM above 4 GiB ends
 * (0: none there); phys_bits is the guest's physical address width. */
void pci_windows_default(struct pci_windows *out, u64 ram_below_4g, u64 ram_end,
                         unsigned phys_bits);

static inline unsigned pci_pirq(unsigned slot, unsigned pin)
{
	return (slot + pin) % PCI_PIRQS;
}

static inline unsigned pci_gsi(unsigned slot, unsigned pin)
{
	return 16 + pci_pirq(slot, pin);
}

/* An empty bus. q35.h puts the bridges on it. */
struct pci_bus *pci_bus_create(struct device_host *host,
                               const struct pci_windows *windows);
void pci_bus_destroy(
    struct pci_bus *bus); /* after its devices; NULL is legal */

/* NULL if there is no such function. */
struct pci_device *pci_bus_find(const struct pci_bus *bus, u8 devfn);

/*
 * What firmware would have done, for a kernel that is booted without any:
 * give every BAR an address, turn decoding and bus mastering on, set the
 * interrupt lines and the ECAM window. Again after each machine reset.
 */
void pci_assign_resources(struct pci_bus *bus);

/* A configuration access by bus:devfn; size 1, 2 or 4, naturally aligned. */
u32 pci_config_read(struct pci_bus *bus, u32 bdf, unsigned off, unsigned size);
void pci_config_write(struct pci_bus *bus, u32 bdf, unsigned off, u32 value,
                      unsigned size);

enum {
	PCI_BAR_IO = 1 << 0,
	PCI_BAR_64 = 1 << 1, /* takes the next BAR too */
	PCI_BAR_PREFETCH = 1 << 2,
};

struct pci_bar {
	struct bus_region region; /* base follows the guest's choice */
	u64 size;                 /* a power of two; 0: not there */
	u8 flags;
	bool mapped;
};

struct pci_msix {
	u8 cap; /* offset in configuration space; 0: none */
	u16 vectors;
	/* Four words a vector: address low, high, data, control. */
	u32 table[PCI_MSIX_MAX * 4];
	u32 pending[PCI_MSIX_MAX / 32];
	bool enabled, masked; /* message control, cached */
};

struct pci_ops {
	/* [off, off + size) is about to be read: refresh it. Optional. */
	void (*config_read)(struct pci_device *, unsigned off, unsigned size);
	/* ... has been written through the mask. Optional. */
	void (*config_written)(struct pci_device *, unsigned off,
	                       unsigned size);
	/* A BAR was mapped, unmapped or moved. Optional. */
	void (*bar_changed)(struct pci_device *, unsigned bar);
};

struct pci_device {
	struct device dev;
	struct pci_bus *bus; /* borrowed */
	const struct pci_ops *ops;
	u8 devfn;
	u8 config[PCI_CONFIG_SIZE];
	u8 reset_config[PCI_CONFIG_SIZE];
	u8 wmask[PCI_CONFIG_SIZE];
	struct pci_bar bar[PCI_BAR_COUNT];
	struct pci_msix msix;
	u16 cap_end; /* where the next capability goes */
	u8 intx;     /* what the device asks for, before the command bit */
	bool intx_driven;
};

struct pci_ids {
	u16 vendor, device, subvendor, subdevice;
	u32 class_code; /* 24 bits: class, subclass, interface */
	u8 revision;
	bool interrupt; /* drives INTA */
};

enum { PCI_SLOT_ANY = -1 };

/*
 * Put a function on the bus; devfn or PCI_SLOT_ANY for the first free slot
 * from 1. -EEXIST if taken, -ENOSPC if the bus is full. Sets dev->instance to
 * "00:SS.F". ops may be NULL.
 */
int pci_device_init(struct pci_device *pci, const struct device_type *type,
                    struct device_host *host, struct pci_bus *bus, int devfn,
                    const struct pci_ids *ids, const struct pci_ops *ops,
                    struct error *err) MUST_CHECK;
/* Unmaps its BARs, leaves the bus, ends struct device. */
void pci_device_fini(struct pci_device *pci);
/* As RST#: configuration back to its defaults, BARs unmapped, pin low. */
void pci_device_reset(struct pci_device *pci);
/* After a state load: map BARs and drive the pin as the registers say. */
void pci_device_loaded(struct pci_device *pci);

/* The ops' ctx is the struct device. name is borrowed. */
void pci_bar_init(struct pci_device *pci, unsigned bar, const char *name,
                  u64 size, unsigned flags, const struct bus_ops *ops);

/* Room for a capability of size bytes (header included); its offset. */
unsigned pci_add_capability(struct pci_device *pci, u8 id, unsigned size);

/* Table and PBA fill a memory BAR of their own. */
void pci_msix_init(struct pci_device *pci, unsigned bar, unsigned vectors);
static inline bool pci_msix_enabled(const struct pci_device *pci)
{
	return pci->msix.enabled;
}
/* Send the vector's message, or leave it pending while masked. Vectors past
 * the table are ignored. */
void pci_msix_send(struct pci_device *pci, unsigned vector);

/* The device's own view of INTA; idempotent. */
void pci_intx_set(struct pci_device *pci, bool high);

/* Little-endian access to configuration bytes, for the device itself. */
u16 pci_get16(const u8 *p);
u32 pci_get32(const u8 *p);
void pci_put16(u8 *p, u16 value);
void pci_put32(u8 *p, u32 value);

/* The fields of a struct pci_device in a device's state table. m is the path
 * to it inside struct s. */
#define PCI_STATE(s, m)                                                        \
	{ "pci.config", FIELD_BYTES, offsetof(s, m.config), PCI_CONFIG_SIZE,   \
	  1 },                                                                 \
	    { "pci.msix.table", FIELD_UINT, offsetof(s, m.msix.table), 4,      \
	      PCI_MSIX_MAX * 4 },                                              \
	    { "pci.msix.pending", FIELD_UINT, offsetof(s, m.msix.pending), 4,  \
	      PCI_MSIX_MAX / 32 },                                             \
	{                                                                      \
		"pci.intx", FIELD_UINT, offsetof(s, m.intx), 1, 1              \
	}
