/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - what a device is, and what it may ask of its machine.
 *
 * Every callback - a register access, a timer, a descriptor's event - runs
 * with the device's own lock held: the bus, the clock or the loop glue took
 * it. So a device file rarely locks, never blocks, and never trusts a guest's
 * value. A device drives interrupt lines and writes guest memory while it
 * holds its lock; lock order is device, then interrupt controller.
 */
#pragma once

#include <pthread.h>

#include "base/types.h"
#include "guest/bus.h"
#include "guest/clock.h"
#include "guest/idle.h"
#include "guest/irq.h"
#include "guest/memory.h"
#include "guest/state.h"

struct block;
struct device;
struct error;
struct link;
struct loop;

/* What a machine offers its devices. Everything borrowed; outlives them. */
struct device_host {
	struct memory *memory;
	struct bus *pio;
	struct bus *mmio;
	struct irq_hub *irq;
	struct clock *clock;
	struct idle_hub *idle; /* NULL: processors sleep unnoticed */
	struct loop *loop;

	/* Asked for by devices, done by the machine after the callback. */
	void *ctx;
	void (*reset)(void *ctx, const char *why);
	void (*power_off)(void *ctx, const char *why);
	void (*guest_exit)(void *ctx, int code); /* debug-exit */
};

struct device_type {
	const char *name; /* as machine files and the command line spell it */
	u16 state_major, state_minor;
	const struct field *state; /* what a snapshot saves, in order */

	void (*reset)(struct device *);
	/* Before a save and after a load; optional. */
	void (*quiesce)(struct device *);
	int (*loaded)(struct device *, struct error *err);
	/* Frees the device; must accept one whose creation failed half way. */
	void (*destroy)(struct device *);
};

/* First member of every device. */
struct device {
	const struct device_type *type;
	struct device_host *host; /* borrowed */
	char instance[32];        /* "com1", "00:03.0" */
	pthread_mutex_t lock;     /* recursive: a device may access its own
	                           * registers through the bus (DMA) */
	struct device *next;      /* the machine's list */
};

/* Any device as its base: struct device is the first member of each. */
#define DEVICE_OF(x) ((struct device *)(void *)(x))

void device_init(struct device *dev, const struct device_type *type,
                 struct device_host *host, const char *instance);
/* Destroys the lock; the type's destroy calls it last. */
void device_fini(struct device *dev);

void device_lock(struct device *dev);
void device_unlock(struct device *dev);

/* A timer whose callback has the device's lock. fn's ctx is the device. */
void device_timer_init(struct device *dev, struct clock_timer *timer,
                       void (*fn)(void *ctx));

/* A region served under the device's lock; ctx of the ops is the device. */
void device_region_init(struct device *dev, struct bus_region *region,
                        const char *name, u64 base, u64 size,
                        const struct bus_ops *ops);
