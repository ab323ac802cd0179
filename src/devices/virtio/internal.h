/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the core of virtio/ shares among its own files.
 */
#pragma once

#include "devices/virtio/virtio.h"

/*
 * The layout of BAR 4. Each queue has four bytes in the notify area, so that
 * its eventfd can have a region of its own.
 */
enum {
	VIRTIO_BAR_MSIX = 1,
	VIRTIO_BAR = 4,
	VIRTIO_AT_COMMON = 0x0000,
	VIRTIO_AT_ISR = 0x1000,
	VIRTIO_AT_DEVICE = 0x2000,
	VIRTIO_AT_NOTIFY = 0x3000,
	VIRTIO_AREA = 0x1000,
	VIRTIO_BAR_SIZE = 0x4000,
	VIRTIO_NOTIFY_STEP = 4,
};

/* registers.c: the BAR, the capabilities, the window in config space. */
void virtio_registers_init(struct virtio_device *v);
void virtio_config_access_read(struct pci_device *pci, unsigned off,
                               unsigned size);
void virtio_config_access_written(struct pci_device *pci, unsigned off,
                                  unsigned size);

/* virtio.c: what register writes ask for. */
void virtio_set_status(struct virtio_device *v, u8 status);
void virtio_queue_enable(struct virtio_device *v, struct virtq *q);
void virtio_notify(struct virtio_device *v, unsigned index);
/* Give ops->done whatever has come back. */
void virtio_reap(struct virtio_device *v);
/* Wait until nothing is under way. */
void virtio_drain(struct virtio_device *v);
/* Queues stop at once; the rest when nothing is under way. */
void virtio_reset(struct virtio_device *v);

/* pace.c: the driver's own notification, on the thread of its processor. */
void virtio_kick(struct virtio_device *v, unsigned index);
/* No interrupt is held back any more. */
void virtio_pace_end(struct virtio_device *v);
/* And none comes due. */
void virtio_pace_stop(struct virtio_device *v);
void virtio_pace_init(struct virtio_device *v);
void virtio_pace_fini(struct virtio_device *v);
void virtq_pace_reset(struct virtq *q);

/* notifier.c: queue notifications through eventfds, served by the loop. */
int virtio_notifier_create(struct virtio_device *v, struct error *err);
void virtio_notifier_destroy(struct virtio_device *v);
/* The BAR moved. */
void virtio_notifier_place(struct virtio_device *v);
