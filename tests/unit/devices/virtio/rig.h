/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig.h - a machine without processors for device tests, and a small virtio
 * driver that works it through the buses as a guest would.
 *
 * Failures end the test (cmocka assertions), so callers check nothing.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/types.h"
#include "devices/device.h"
#include "devices/pci/pci.h"

enum { RIG_RAM = 4 << 20, RIG_HIGH = 64 << 10 };
#define RIG_HIGH_BASE ((gpa_t)4 << 30)

struct rig {
	struct device_host host;
	struct pci_bus *pci;
	struct device *mch, *lpc;
	_Atomic unsigned msi_count[256]; /* by data, modulo 256 */
	_Atomic u64 msi_addr;
	bool gsi[24];
	gpa_t bump; /* next free byte of guest memory */
};

void rig_init(struct rig *rig);
void rig_fini(struct rig *rig);
/* Destroy a device of the rig. */
void rig_destroy(struct device *dev);

/* Guest memory, cleared; aligned to 4096. */
gpa_t rig_alloc(struct rig *rig, u64 size);
void *rig_ptr(struct rig *rig, gpa_t gpa, u64 len);

/* Run the loop until cond is true; fails after ten seconds. */
void rig_wait(struct rig *rig, bool (*cond)(void *), void *ctx);

u32 rig_config_read(struct rig *rig, u8 devfn, unsigned off, unsigned size);
void rig_config_write(struct rig *rig, u8 devfn, unsigned off, u32 value,
                      unsigned size);
u64 rig_mmio_read(struct rig *rig, u64 addr, unsigned size);
void rig_mmio_write(struct rig *rig, u64 addr, unsigned size, u64 value);

/* ---- the driver ---- */

enum { DRIVER_QUEUES = 16 };

struct driver_queue {
	u16 index, size;
	gpa_t desc, avail, used;
	u16 free_head, free_count; /* descriptors, chained through next */
	u16 last_used;
};

struct driver {
	struct rig *rig;
	u8 devfn;
	u64 common, isr, device, notify; /* addresses */
	u32 notify_step;
	u8 msix, pci_cfg; /* capabilities in configuration space */
	u64 msix_table, msix_pba;
	u64 features;
	struct driver_queue queues[DRIVER_QUEUES];
};

struct buffer {
	gpa_t gpa;
	u32 len;
};

/* Capabilities and BARs of a device that has its addresses. */
void driver_probe(struct driver *d, struct rig *rig, u8 devfn);
u64 driver_offered(struct driver *d);
u8 driver_status(struct driver *d);
void driver_set_status(struct driver *d, u8 status);
/* Reset, ACKNOWLEDGE, DRIVER, features; false if FEATURES_OK did not stay. */
bool driver_negotiate(struct driver *d, u64 features);
/* Rings, enabled; vector 0xffff is none. */
void driver_queue(struct driver *d, unsigned index, u16 size, u16 vector);
/* MSI-X on: vector n is message data base + n, unmasked. */
void driver_msix(struct driver *d, unsigned vectors, u32 base);
/* All of it: negotiate, MSI-X, queues [0, count) with vector = index + 1. */
void driver_start(struct driver *d, u64 features, unsigned count);

/* Add a chain, readable buffers first; its head. Does not notify. */
u16 driver_add(struct driver *d, unsigned queue, const struct buffer *out,
               unsigned outs, const struct buffer *in, unsigned ins);
u16 driver_add_indirect(struct driver *d, unsigned queue,
                        const struct buffer *out, unsigned outs,
                        const struct buffer *in, unsigned ins);
/* Raw access, for rules to break. */
void driver_desc(struct driver *d, unsigned queue, u16 at, u64 addr, u32 len,
                 u16 flags, u16 next);
void driver_avail(struct driver *d, unsigned queue, u16 head);
void driver_notify(struct driver *d, unsigned queue);
/* Take one used entry. */
bool driver_used(struct driver *d, unsigned queue, u16 *head, u32 *len);
/* Wait for one. */
void driver_wait(struct driver *d, unsigned queue, u16 *head, u32 *len);
u16 driver_avail_event(struct driver *d, unsigned queue);
void driver_set_used_event(struct driver *d, unsigned queue, u16 event);
