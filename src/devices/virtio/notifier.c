/* SPDX-License-Identifier: Apache-2.0 */
/*
 * notifier.c - queue notifications as eventfds: an engine in the kernel
 * signals them without leaving the guest, and the loop serves the queue.
 *
 * Each queue's four bytes of the notify area are a region of their own, above
 * the BAR, that follows it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "devices/virtio/internal.h"

struct queue_notifier {
	struct virtio_device *v; /* borrowed */
	unsigned index;
	int fd;
	struct loop_fd *watch;
	struct bus_region region;
};

struct virtio_notifier {
	bool mapped;
	unsigned count;
	struct queue_notifier queues[];
};

static void signalled(void *ctx, unsigned events)
{
	struct queue_notifier *n = ctx;
	u64 times;

	(void)events;
	if (read(n->fd, &times, sizeof(times)) != sizeof(times))
		return;
	device_lock(&n->v->pci.dev);
	virtio_notify(n->v, n->index);
	device_unlock(&n->v->pci.dev);
}

static u64 nothing_read(void *ctx, u64 off, unsigned size)
{
	(void)ctx;
	(void)off;
	(void)size;
	return 0;
}

/* When the eventfd is not enough: an odd offset within the four bytes. */
static void direct_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct queue_notifier *n = ctx;

	(void)off;
	(void)value;
	(void)size;
	virtio_notify(n->v, n->index);
}

static const struct bus_ops notify_ops = {
	.read = nothing_read,
	.write = direct_write,
};

int virtio_notifier_create(struct virtio_device *v, struct error *err)
{
	struct device *dev = &v->pci.dev;
	struct virtio_notifier *all =
	    xalloc(sizeof(*all) + v->queue_count * sizeof(all->queues[0]));

	v->notifier = all;
	for (unsigned i = 0; i < v->queue_count; i++) {
		struct queue_notifier *n = &all->queues[i];

		n->v = v;
		n->index = i;
		n->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (n->fd < 0)
			return error_set(err, -errno, "%s: eventfd: %s",
			                 dev->type->name, strerror(errno));
		all->count++;
		n->watch = loop_fd_add(dev->host->loop, n->fd, LOOP_READ,
		                       signalled, n);
		device_region_init(dev, &n->region, "virtio-notify", 0,
		                   VIRTIO_NOTIFY_STEP, &notify_ops);
		n->region.ctx = n;
		n->region.priority = -1; /* above the BAR */
		n->region.notify_fd = n->fd;
	}
	return 0;
}

static void unmap(struct virtio_device *v)
{
	struct virtio_notifier *all = v->notifier;

	if (!all->mapped)
		return;
	for (unsigned i = 0; i < all->count; i++)
		bus_unmap(v->pci.dev.host->mmio, &all->queues[i].region);
	all->mapped = false;
}

void virtio_notifier_place(struct virtio_device *v)
{
	const struct pci_bar *bar = &v->pci.bar[VIRTIO_BAR];
	struct virtio_notifier *all = v->notifier;

	unmap(v);
	if (!bar->mapped)
		return;
	for (unsigned i = 0; i < all->count; i++) {
		struct bus_region *r = &all->queues[i].region;

		r->base = bar->region.base + VIRTIO_AT_NOTIFY +
		          (u64)i * VIRTIO_NOTIFY_STEP;
		bus_map(v->pci.dev.host->mmio, r);
	}
	all->mapped = true;
}

void virtio_notifier_destroy(struct virtio_device *v)
{
	struct virtio_notifier *all = v->notifier;

	if (!all)
		return;
	unmap(v);
	for (unsigned i = 0; i < all->count; i++) {
		loop_fd_remove(all->queues[i].watch);
		close(all->queues[i].fd);
	}
	free(all);
	v->notifier = NULL;
}
