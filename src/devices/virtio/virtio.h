/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.h - what every virtio device over PCI shares (virtio 1.2 sections 2,
 * 3 and 4.1): registers, status, features, queues, interrupts, reset.
 *
 * A device embeds struct virtio_device first. Its ops run under its lock.
 * Work that outlives a callback is counted: virtio_begin() before it starts,
 * virtio_finish() from any thread when it is done, which brings the result
 * back to ops->done under the lock. A reset that finds such work under way
 * completes when the last of it has come back: until then the driver reads a
 * status that is not zero, and the rings are not touched.
 */
#pragma once

#include <pthread.h>

#include "base/types.h"
#include "devices/pci/pci.h"
#include "devices/virtio/virtq.h"

enum {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_ENTROPY = 4,
	VIRTIO_ID_BALLOON = 5,

	VIRTIO_QUEUES_MAX = 65,
	VIRTIO_CONFIG_MAX = 96,
};

enum { /* device_status */
       VIRTIO_ACKNOWLEDGE = 1,
       VIRTIO_DRIVER = 2,
       VIRTIO_DRIVER_OK = 4,
       VIRTIO_FEATURES_OK = 8,
       VIRTIO_NEEDS_RESET = 64,
       VIRTIO_FAILED = 128,
};

#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX BIT(29)
#define VIRTIO_F_VERSION_1 BIT(32)

struct virtio_device;

/* Work that has come back; embedded in the device's request. */
struct virtio_done {
	struct virtio_done *next;
};

struct virtio_ops {
	/* The driver says that a queue has something. Only while running. */
	void (*notify)(struct virtio_device *, struct virtq *);
	/* Features were agreed on: v->features. Optional. */
	void (*agreed)(struct virtio_device *);
	/* DRIVER_OK, or a restored device goes on. Optional. */
	void (*start)(struct virtio_device *);
	/* Back to power-on; queues are stopped, no work is under way.
	 * Optional. */
	void (*reset)(struct virtio_device *);
	/* The driver wrote v->config at off. Optional: read-only if NULL. */
	void (*config_write)(struct virtio_device *, unsigned off, u32 value,
	                     unsigned size);
	/* A piece of work counted by virtio_begin() came back. */
	void (*done)(struct virtio_device *, struct virtio_done *);
	/* Wait until work under way has called virtio_finish(). */
	void (*drain)(struct virtio_device *);
};

/* Queues in the form that a snapshot saves. */
struct virtio_saved {
	u16 size[VIRTIO_QUEUES_MAX];
	u16 vector[VIRTIO_QUEUES_MAX];
	u16 last_avail[VIRTIO_QUEUES_MAX];
	u16 used_idx[VIRTIO_QUEUES_MAX];
	u8 enabled[VIRTIO_QUEUES_MAX];
	u64 desc[VIRTIO_QUEUES_MAX];
	u64 driver[VIRTIO_QUEUES_MAX];
	u64 device[VIRTIO_QUEUES_MAX];
};

struct virtio_notifier; /* eventfds; virtio/notifier.c */

struct virtio_device {
	struct pci_device pci;
	const struct virtio_ops *ops;
	u64 offered;         /* features; may change only while reset */
	u64 driver_features; /* as written so far */
	u64 features;        /* agreed; 0 before FEATURES_OK */
	u32 device_select, driver_select;
	u16 queue_select, config_vector;
	u8 status, isr, generation;
	bool running; /* DRIVER_OK and not broken */
	bool broken;
	bool resetting;

	unsigned queue_count;
	struct virtq *queues;
	struct virtio_notifier *notifier; /* NULL: notified by callbacks */
	bool paced;                       /* pace.c; so is the rest here */
	bool bound_armed;
	struct idle_watch idle;
	struct clock_timer bound;
	struct virtio_saved saved;
	u8 pci_cfg_cap;

	u8 config[VIRTIO_CONFIG_MAX]; /* little-endian, as the driver sees it */
	unsigned config_size;

	struct clock_timer again; /* queues with more to do; late results */
	/* Work that came back; done_lock is a leaf. */
	pthread_mutex_t done_lock;
	pthread_cond_t done_cond;
	struct virtio_done *done_head, **done_tail;
	bool will_reap; /* whoever has the device's lock, before it lets go */
	unsigned finishers; /* threads inside virtio_finish() */
	unsigned under_way; /* begun and not yet given to ops->done */
};

struct virtio_setup {
	const struct device_type *type;
	const struct virtio_ops *ops;
	u16 id;         /* VIRTIO_ID_* */
	u32 class_code; /* PCI's */
	u64 features;   /* besides VERSION_1 and the ring's own */
	unsigned queue_count, queue_size;
	unsigned config_size;
	bool eventfd;
	bool paced; /* ops->notify marks what is not over at once */
	int devfn;
};

/* On failure the device is as virtio_fini() leaves it. */
int virtio_init(struct virtio_device *v, struct device_host *host,
                struct pci_bus *bus, const struct virtio_setup *setup,
                struct error *err) MUST_CHECK;
/* Stops everything, waits for work under way. Not under the lock. */
void virtio_fini(struct virtio_device *v);

/* For device_type: all of these devices use them, alone or inside their own. */
void virtio_type_reset(struct device *dev);
void virtio_type_quiesce(struct device *dev);
int virtio_type_loaded(struct device *dev, struct error *err);

static inline bool virtio_has(const struct virtio_device *v, u64 feature)
{
	return v->features & feature;
}

/* May queues be touched? The device runs, and may master the bus. */
bool virtio_active(const struct virtio_device *v);

/* The driver broke a rule: stop until it resets us. */
void virtio_broken(struct virtio_device *v, const char *why);
/* v->config changed by our side. */
void virtio_config_changed(struct virtio_device *v);
/* Call ops->notify for this queue soon, from the loop's thread. */
void virtio_again(struct virtio_device *v, struct virtq *q);
/* The interrupt of a queue, unconditionally. */
void virtio_queue_interrupt(struct virtio_device *v, const struct virtq *q);

void virtio_begin(struct virtio_device *v);
/* Any thread, the lock not needed. The device may be gone on return. */
void virtio_finish(struct virtio_device *v, struct virtio_done *done);

/* Little-endian fields of v->config. */
void virtio_config_put(struct virtio_device *v, unsigned off, u64 value,
                       unsigned size);

/* The fields of a struct virtio_device in a state table; m is the path to it
 * inside struct s. */
#define VIRTIO_FIELD(s, m, name, f)                                            \
	{                                                                      \
		name, FIELD_UINT, offsetof(s, m.f), sizeof(((s *)0)->m.f), 1   \
	}
#define VIRTIO_QUEUE_FIELD(s, m, name, f)                                      \
	{                                                                      \
		"virtio.queue." name, FIELD_UINT, offsetof(s, m.saved.f),      \
		    sizeof(((s *)0)->m.saved.f[0]), VIRTIO_QUEUES_MAX          \
	}
#define VIRTIO_STATE(s, m)                                                     \
	PCI_STATE(s, m.pci),                                                   \
	    VIRTIO_FIELD(s, m, "virtio.driver_features", driver_features),     \
	    VIRTIO_FIELD(s, m, "virtio.features", features),                   \
	    VIRTIO_FIELD(s, m, "virtio.device_select", device_select),         \
	    VIRTIO_FIELD(s, m, "virtio.driver_select", driver_select),         \
	    VIRTIO_FIELD(s, m, "virtio.queue_select", queue_select),           \
	    VIRTIO_FIELD(s, m, "virtio.config_vector", config_vector),         \
	    VIRTIO_FIELD(s, m, "virtio.status", status),                       \
	    VIRTIO_FIELD(s, m, "virtio.isr", isr),                             \
	    VIRTIO_FIELD(s, m, "virtio.generation", generation),               \
	    VIRTIO_QUEUE_FIELD(s, m, "size", size),                            \
	    VIRTIO_QUEUE_FIELD(s, m, "vector", vector),                        \
	    VIRTIO_QUEUE_FIELD(s, m, "last_avail", last_avail),                \
	    VIRTIO_QUEUE_FIELD(s, m, "used_idx", used_idx),                    \
	    VIRTIO_QUEUE_FIELD(s, m, "enabled", enabled),                      \
	    VIRTIO_QUEUE_FIELD(s, m, "desc", desc),                            \
	    VIRTIO_QUEUE_FIELD(s, m, "driver", driver),                        \
	    VIRTIO_QUEUE_FIELD(s, m, "device", device)
