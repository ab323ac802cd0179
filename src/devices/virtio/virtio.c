/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.c - the life of a device: features, status, work under way, reset.
 */
#include "devices/virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "devices/virtio/internal.h"

bool virtio_active(const struct virtio_device *v)
{
	/* A driver that let go of the bus (kexec) wants no more writes to its
	 * memory. */
	return v->running && (v->pci.config[PCI_COMMAND] & PCI_COMMAND_MASTER);
}

/* ---- interrupts ---- */

static void interrupt(struct virtio_device *v, u16 vector, u8 isr)
{
	if (pci_msix_enabled(&v->pci)) {
		pci_msix_send(&v->pci, vector);
		return;
	}
	v->isr |= isr;
	pci_intx_set(&v->pci, true);
}

void virtio_queue_interrupt(struct virtio_device *v, const struct virtq *q)
{
	interrupt(v, q->vector, 1);
}

void virtio_config_changed(struct virtio_device *v)
{
	v->generation++;
	if (v->status & VIRTIO_DRIVER_OK)
		interrupt(v, v->config_vector, 2);
}

void virtio_broken(struct virtio_device *v, const char *why)
{
	if (v->broken)
		return;
	log_guest("virtio", "%s %s: %s", v->pci.dev.type->name,
	          v->pci.dev.instance, why);
	v->broken = true;
	v->running = false;
	v->status |= VIRTIO_NEEDS_RESET;
	if (v->status & VIRTIO_DRIVER_OK)
		interrupt(v, v->config_vector, 2);
}

void virtio_config_put(struct virtio_device *v, unsigned off, u64 value,
                       unsigned size)
{
	ASSERT(off + size <= VIRTIO_CONFIG_MAX);
	for (unsigned i = 0; i < size; i++)
		v->config[off + i] = (u8)(value >> (i * 8));
}

/* ---- notifications ---- */

static void notify(struct virtio_device *v, struct virtq *q)
{
	if (q->running && virtio_active(v))
		v->ops->notify(v, q);
}

/* What finishes from here on, until virtio_reap(), is seen to by that. */
static void will_reap(struct virtio_device *v)
{
	pthread_mutex_lock(&v->done_lock);
	v->will_reap = true;
	pthread_mutex_unlock(&v->done_lock);
}

void virtio_notify(struct virtio_device *v, unsigned index)
{
	will_reap(v);
	if (index < v->queue_count)
		notify(v, &v->queues[index]);
	virtio_reap(v);
}

void virtio_again(struct virtio_device *v, struct virtq *q)
{
	q->again = true;
	clock_timer_arm(&v->again, 0);
}

static void again_fired(void *ctx)
{
	struct virtio_device *v = ctx;

	will_reap(v);
	for (unsigned i = 0; i < v->queue_count; i++) {
		struct virtq *q = &v->queues[i];

		if (!q->again)
			continue;
		q->again = false;
		notify(v, q);
	}
	virtio_reap(v);
	virtio_pace_end(v);
}

/* ---- work under way ---- */

void virtio_begin(struct virtio_device *v)
{
	v->under_way++;
}

/*
 * The finisher never waits for the device's lock: whoever holds it may be
 * draining, and wait for a second piece of work that only this thread can
 * finish. If the lock is taken, the loop looks again; unless its holder has
 * said that it will, or work lies there already: whoever brought that, sees to
 * it.
 */
void virtio_finish(struct virtio_device *v, struct virtio_done *done)
{
	bool seen_to;

	done->next = NULL;
	pthread_mutex_lock(&v->done_lock);
	seen_to = v->will_reap || v->done_head;
	*v->done_tail = done;
	v->done_tail = &done->next;
	v->finishers++;
	pthread_cond_broadcast(&v->done_cond);
	pthread_mutex_unlock(&v->done_lock);

	if (seen_to) {
		/* Nothing to do. */
	} else if (pthread_mutex_trylock(&v->pci.dev.lock)) {
		clock_timer_arm(&v->again, 0);
	} else {
		virtio_reap(v);
		pthread_mutex_unlock(&v->pci.dev.lock);
	}

	pthread_mutex_lock(&v->done_lock);
	v->finishers--;
	pthread_cond_broadcast(&v->done_cond);
	pthread_mutex_unlock(&v->done_lock);
}

static struct virtio_done *take_done(struct virtio_device *v)
{
	struct virtio_done *head;

	pthread_mutex_lock(&v->done_lock);
	head = v->done_head;
	v->done_head = NULL;
	v->done_tail = &v->done_head;
	if (!head)
		v->will_reap = false;
	pthread_mutex_unlock(&v->done_lock);
	return head;
}

static void reset_finished(struct virtio_device *v)
{
	for (unsigned i = 0; i < v->queue_count; i++) {
		struct virtq *q = &v->queues[i];

		*q = (struct virtq){ .dev = v,
			             .index = q->index,
			             .max = q->max,
			             .size = q->max,
			             .vector = VIRTQ_NO_VECTOR };
	}
	v->resetting = v->broken = false;
	v->driver_features = v->features = 0;
	v->device_select = v->driver_select = 0;
	v->queue_select = 0;
	v->config_vector = VIRTQ_NO_VECTOR;
	v->status = v->isr = 0;
	pci_intx_set(&v->pci, false);
	if (v->ops->reset)
		v->ops->reset(v);
}

void virtio_reap(struct virtio_device *v)
{
	struct virtio_done *d;

	while ((d = take_done(v))) {
		while (d) {
			struct virtio_done *next = d->next;

			v->under_way--;
			v->ops->done(v, d);
			d = next;
		}
	}
	if (v->resetting && !v->under_way)
		reset_finished(v);
}

void virtio_drain(struct virtio_device *v)
{
	virtio_reap(v);
	while (v->under_way) {
		if (v->ops->drain)
			v->ops->drain(v);
		pthread_mutex_lock(&v->done_lock);
		while (!v->done_head && v->under_way)
			pthread_cond_wait(&v->done_cond, &v->done_lock);
		pthread_mutex_unlock(&v->done_lock);
		virtio_reap(v);
	}
}

/* ---- status ---- */

void virtio_reset(struct virtio_device *v)
{
	v->running = false;
	for (unsigned i = 0; i < v->queue_count; i++)
		virtq_stop(&v->queues[i]);
	clock_timer_cancel(&v->again);
	virtio_pace_stop(v);
	v->resetting = true;
	virtio_reap(v);
}

void virtio_queue_enable(struct virtio_device *v, struct virtq *q)
{
	if (!q->max || q->enabled)
		return;
	q->enabled = true;
	if (v->running)
		virtq_start(q);
}

static void start(struct virtio_device *v)
{
	for (unsigned i = 0; i < v->queue_count; i++)
		if (v->queues[i].enabled && !virtq_start(&v->queues[i]))
			return;
	v->running = true;
	if (v->ops->start)
		v->ops->start(v);
}

static bool agree(struct virtio_device *v)
{
	u64 f = v->driver_features;

	if ((f & ~v->offered) || !(f & VIRTIO_F_VERSION_1))
		return false;
	v->features = f;
	if (v->ops->agreed)
		v->ops->agreed(v);
	return true;
}

/* A driver may set bits, and clear them all; the rest is not its to say. */
void virtio_set_status(struct virtio_device *v, u8 status)
{
	u8 set = (u8)(status & ~v->status);

	if (!status) {
		virtio_reset(v);
		return;
	}
	v->status |= set & (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FAILED);
	if (set & VIRTIO_FEATURES_OK) {
		if (!agree(v))
			return;
		v->status |= VIRTIO_FEATURES_OK;
	}
	if (!(set & VIRTIO_DRIVER_OK))
		return;
	v->status |= VIRTIO_DRIVER_OK;
	if (!(v->status & VIRTIO_FEATURES_OK))
		virtio_broken(v, "DRIVER_OK without FEATURES_OK");
	else if (!v->broken)
		start(v);
}

/* ---- the PCI side ---- */

static void config_written(struct pci_device *pci, unsigned off, unsigned size)
{
	struct virtio_device *v = container_of(pci, struct virtio_device, pci);

	virtio_config_access_written(pci, off, size);
	/* Bus mastering may have come back: nothing was served without it. */
	if (off <= PCI_COMMAND && off + size > PCI_COMMAND && virtio_active(v))
		for (unsigned i = 0; i < v->queue_count; i++)
			virtio_again(v, &v->queues[i]);
}

static void bar_changed(struct pci_device *pci, unsigned bar)
{
	struct virtio_device *v = container_of(pci, struct virtio_device, pci);

	if (bar == VIRTIO_BAR && v->notifier)
		virtio_notifier_place(v);
}

static const struct pci_ops pci_ops = {
	.config_read = virtio_config_access_read,
	.config_written = config_written,
	.bar_changed = bar_changed,
};

/* ---- life ---- */

static void queues_init(struct virtio_device *v, const struct virtio_setup *s)
{
	ASSERT(s->queue_count <= VIRTIO_QUEUES_MAX);
	ASSERT(s->queue_size <= VIRTQ_SIZE_MAX);
	v->queue_count = s->queue_count;
	v->queues = xalloc(s->queue_count * sizeof(*v->queues));
	for (unsigned i = 0; i < s->queue_count; i++) {
		v->queues[i].index = (u16)i;
		v->queues[i].max = (u16)s->queue_size;
	}
}

int virtio_init(struct virtio_device *v, struct device_host *host,
                struct pci_bus *bus, const struct virtio_setup *s,
                struct error *err)
{
	struct pci_ids ids = {
		.vendor = 0x1af4,
		.device = (u16)(0x1040 + s->id),
		.subvendor = 0x1af4,
		.subdevice = 0x1100,
		.class_code = s->class_code,
		.revision = 1,
		.interrupt = true,
	};
	int rc = pci_device_init(&v->pci, s->type, host, bus, s->devfn, &ids,
	                         &pci_ops, err);

	if (rc)
		return rc;
	v->ops = s->ops;
	v->offered = s->features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
	             VIRTIO_F_EVENT_IDX;
	v->config_size = s->config_size;
	pthread_mutex_init(&v->done_lock, NULL);
	pthread_cond_init(&v->done_cond, NULL);
	v->done_tail = &v->done_head;
	device_timer_init(&v->pci.dev, &v->again, again_fired);
	queues_init(v, s);
	pci_msix_init(&v->pci, VIRTIO_BAR_MSIX, s->queue_count + 1);
	virtio_registers_init(v);
	if (s->paced && !s->eventfd && host->idle)
		virtio_pace_init(v);
	if (s->eventfd) {
		rc = virtio_notifier_create(v, err);
		if (rc) {
			virtio_fini(v);
			return rc;
		}
	}
	reset_finished(v);
	return 0;
}

void virtio_fini(struct virtio_device *v)
{
	if (!v->pci.bus)
		return;
	device_lock(&v->pci.dev);
	virtio_reset(v);
	virtio_drain(v);
	device_unlock(&v->pci.dev);
	/* Finishers that gave their work back may still be on their way out. */
	pthread_mutex_lock(&v->done_lock);
	while (v->finishers)
		pthread_cond_wait(&v->done_cond, &v->done_lock);
	pthread_mutex_unlock(&v->done_lock);
	virtio_notifier_destroy(v);
	clock_timer_fini(&v->again);
	virtio_pace_fini(v);
	pci_device_fini(&v->pci);
	pthread_cond_destroy(&v->done_cond);
	pthread_mutex_destroy(&v->done_lock);
	free(v->queues);
	v->queues = NULL;
}

static struct virtio_device *virtio_of(struct device *dev)
{
	return container_of(dev, struct virtio_device, pci.dev);
}

void virtio_type_reset(struct device *dev)
{
	struct virtio_device *v = virtio_of(dev);

	device_lock(dev);
	virtio_reset(v);
	virtio_drain(v);
	pci_device_reset(&v->pci);
	device_unlock(dev);
}

void virtio_type_quiesce(struct device *dev)
{
	struct virtio_device *v = virtio_of(dev);
	struct virtio_saved *s = &v->saved;

	device_lock(dev);
	virtio_pace_end(v);
	virtio_drain(v);
	for (unsigned i = 0; i < v->queue_count; i++) {
		const struct virtq *q = &v->queues[i];

		s->size[i] = q->size;
		s->vector[i] = q->vector;
		s->last_avail[i] = q->last_avail;
		s->used_idx[i] = q->used_idx;
		s->enabled[i] = q->enabled;
		s->desc[i] = q->desc_gpa;
		s->driver[i] = q->driver_gpa;
		s->device[i] = q->device_gpa;
	}
	device_unlock(dev);
}

static void queues_load(struct virtio_device *v)
{
	const struct virtio_saved *s = &v->saved;

	for (unsigned i = 0; i < v->queue_count; i++) {
		struct virtq *q = &v->queues[i];

		virtq_stop(q);
		q->size = s->size[i];
		q->vector = s->vector[i];
		q->last_avail = s->last_avail[i];
		q->used_idx = s->used_idx[i];
		q->enabled = s->enabled[i];
		q->desc_gpa = s->desc[i];
		q->driver_gpa = s->driver[i];
		q->device_gpa = s->device[i];
	}
}

int virtio_type_loaded(struct device *dev, struct error *err)
{
	struct virtio_device *v = virtio_of(dev);

	if (v->features & ~v->offered)
		return error_set(err, -EPROTO,
		                 "%s %s was saved with features %#" PRIx64
		                 " that it does not have here",
		                 dev->type->name, dev->instance,
		                 v->features & ~v->offered);
	device_lock(dev);
	virtio_pace_stop(v);
	queues_load(v);
	v->resetting = v->running = false;
	v->broken = v->status & VIRTIO_NEEDS_RESET;
	pci_device_loaded(&v->pci);
	if ((v->status & VIRTIO_FEATURES_OK) && v->ops->agreed)
		v->ops->agreed(v);
	if ((v->status & VIRTIO_DRIVER_OK) && !v->broken) {
		start(v);
		for (unsigned i = 0; i < v->queue_count; i++)
			virtio_again(v, &v->queues[i]);
	}
	device_unlock(dev);
	return 0;
}
