/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bus.h - an address space of device registers: ports, or MMIO.
 *
 * A region is embedded in its device and outlives every access. The bus takes
 * the region's lock around each callback, so a device never locks. Regions
 * may be mapped, moved and unmapped at any time from any thread, from inside
 * a callback too (a PCI BAR is): an access already under way ends in the old
 * place, as on hardware.
 *
 * An access that no region claims reads as all ones and writes to nothing.
 * One that is wider or narrower than a region serves is split or widened
 * here, so that a device sees only what it declared.
 */
#pragma once

#include <pthread.h>

#include "base/types.h"

struct bus;

struct bus_ops {
	/* off is below the region's size; size is 1, 2, 4 or 8. */
	u64 (*read)(void *ctx, u64 off, unsigned size);
	void (*write)(void *ctx, u64 off, u64 value, unsigned size);
	/* The access sizes served, in bytes; 0 means 1 and 4. An access of
	 * another size is made of several, or is part of one. */
	u8 min_size, max_size;
};

struct bus_region {
	const char *name; /* for messages; borrowed */
	u64 base, size;
	const struct bus_ops *ops;
	void *ctx;
	pthread_mutex_t *lock; /* borrowed; NULL: the device locks itself */
	int priority;          /* where regions overlap, the highest answers */
	/* If >= 0: a write of any size and value at offset notify_off only
	 * signals this eventfd (virtio notify): a doorbell. */
	int notify_fd;
	u64 notify_off;
};

int bus_create(struct bus **out, u64 size) MUST_CHECK;
void bus_destroy(struct bus *bus);

/*
 * fn hears of each region with a doorbell as it comes and goes, so that an
 * engine in the kernel can signal it without leaving the guest. A write that
 * still comes here signals it as well. To be set before anything is mapped; fn
 * runs on the thread that maps, with that region's lock held.
 */
typedef void bus_doorbell_fn(void *ctx, u64 addr, int fd, bool on);
void bus_set_doorbells(struct bus *bus, bus_doorbell_fn *fn, void *ctx);

void bus_map(struct bus *bus, struct bus_region *region);
void bus_unmap(struct bus *bus, struct bus_region *region);

/* size 1, 2, 4 or 8. false if no region claims any byte of it. */
bool bus_read(struct bus *bus, u64 addr, unsigned size, u64 *value);
bool bus_write(struct bus *bus, u64 addr, unsigned size, u64 value);
