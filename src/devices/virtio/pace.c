/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pace.c - one notification and one interrupt for several requests that are
 * over at once.
 *
 * A request that is done inside its notification is answered before the driver
 * has left the register write. A guest that has more to submit gains nothing
 * from an interrupt at that moment: under an engine without hardware, each
 * interrupt and each notification costs it some thousand instructions. So
 * answers are in the ring at once, but the interrupt is held back until there
 * are as many as a step, and meanwhile the driver is asked not to notify
 * before (used and avail_event, virtio 1.2 section 2.7.10).
 *
 * It may be held back only while the guest has something else to do, and
 * nobody can know that beforehand: so it is tried out. A step of 1 is to hold
 * nothing back. After some batches that were full the step doubles; if then
 * all processors' work ends before the batch is full, the guest had no more to
 * submit: it is told, the step becomes what there was, and the next attempt
 * waits longer. A guest with one request at a time pays with one detour
 * through its idle loop in 1024 requests.
 *
 * What is held back ends when a processor halts (guest/idle.h), or after two
 * milliseconds. What is not over at once takes part in none of this: its
 * interrupt comes at once, and the step is 1 again.
 *
 * All under the device's lock.
 */
#include "devices/virtio/internal.h"

enum {
	STEP_MAX = 16,
	PATIENCE_MAX = 1024,
	PATIENCE_TIMES = 4,
	HELD_NS_MAX = 2000 * 1000,
};

void virtq_pace_reset(struct virtq *q)
{
	q->pace = (struct virtq_pace){ .step = 1, .patience = 1 };
}

/* ---- batches ---- */

static void batch_full(struct virtq_pace *p)
{
	if (p->trying)
		p->patience = 1;
	p->trying = false;
	if (++p->full < p->patience || p->step == STEP_MAX)
		return;
	p->full = 0;
	p->step = MIN((u16)(p->step * 2), (u16)STEP_MAX);
	p->trying = true;
}

/* A batch that is not full is over. Time says less than sleep does: perhaps the
 * processor was not there to go on. */
static void batch_short(struct virtq_pace *p, bool asleep)
{
	unsigned times = asleep || p->held <= 1 ? PATIENCE_TIMES : 2;

	if (p->trying)
		p->patience = (u16)MIN(p->patience * times, PATIENCE_MAX);
	p->trying = false;
	p->full = 0;
	if (!asleep && p->held > 1)
		p->step = MAX(p->held, (u16)(p->step / 2));
	else
		p->step = MAX(p->held, (u16)1);
}

static void no_batch(struct virtq_pace *p)
{
	p->late = p->trying = false;
	p->full = 0;
	p->step = 1;
}

static void hold(struct virtq *q)
{
	struct virtio_device *v = q->dev;
	struct virtq_pace *p = &q->pace;

	if (!p->since_ns)
		p->since_ns = clock_now_ns(v->pci.dev.host->clock);
	idle_watch_arm(&v->idle);
	if (v->bound_armed)
		return;
	v->bound_armed = true;
	clock_timer_arm(&v->bound, p->since_ns + HELD_NS_MAX);
}

/* Serve the queue, with its interrupts held back. False: there is none. */
static bool serve(struct virtq *q)
{
	q->pace.holding = true;
	virtio_notify(q->dev, q->index);
	q->pace.holding = false;
	return q->running && virtio_active(q->dev);
}

/* It is told of what there is. */
static void end_batch(struct virtq *q, bool asleep)
{
	struct virtq_pace *p = &q->pace;

	if (!serve(q))
		return;
	if (p->late)
		no_batch(p);
	else if (p->held < p->step)
		batch_short(p, asleep);
	else
		batch_full(p);
	virtq_interrupt(q);
	if (virtq_wait(q))
		virtio_again(q->dev, q);
}

void virtio_kick(struct virtio_device *v, unsigned index)
{
	struct virtq *q;
	struct virtq_pace *p;
	u16 more = 0;

	if (!v->paced || index >= v->queue_count) {
		virtio_notify(v, index);
		return;
	}
	q = &v->queues[index];
	p = &q->pace;
	if (!serve(q))
		return;
	if (p->late) {
		no_batch(p);
		if (p->held)
			virtq_interrupt(q);
	} else if (p->held >= p->step) {
		batch_full(p);
		virtq_interrupt(q);
	} else if (p->held) {
		more = (u16)(p->step - p->held - 1);
		hold(q);
	}
	if (virtq_wait_more(q, more))
		virtio_again(v, q);
}

/* ---- the ends of what is held back ---- */

static void end_all(struct virtio_device *v, bool asleep)
{
	for (unsigned i = 0; i < v->queue_count; i++)
		if (v->queues[i].pace.held)
			end_batch(&v->queues[i], asleep);
}

void virtio_pace_end(struct virtio_device *v)
{
	end_all(v, false);
}

static void idle(void *ctx)
{
	end_all(ctx, true);
}

static void bound_reached(void *ctx)
{
	struct virtio_device *v = ctx;
	u64 now = clock_now_ns(v->pci.dev.host->clock), next = UINT64_MAX;

	for (unsigned i = 0; i < v->queue_count; i++) {
		struct virtq_pace *p = &v->queues[i].pace;

		if (!p->held)
			continue;
		if (now >= p->since_ns + HELD_NS_MAX)
			end_batch(&v->queues[i], false);
		else
			next = MIN(next, p->since_ns + HELD_NS_MAX);
	}
	v->bound_armed = next != UINT64_MAX;
	if (v->bound_armed)
		clock_timer_arm(&v->bound, next);
}

/* ---- life ---- */

void virtio_pace_stop(struct virtio_device *v)
{
	if (!v->bound_armed)
		return;
	v->bound_armed = false;
	clock_timer_cancel(&v->bound);
}

void virtio_pace_init(struct virtio_device *v)
{
	struct device *dev = &v->pci.dev;

	v->paced = true;
	device_timer_init(dev, &v->bound, bound_reached);
	idle_watch_init(&v->idle, dev->host->idle, &dev->lock, idle, v);
}

void virtio_pace_fini(struct virtio_device *v)
{
	clock_timer_fini(&v->bound);
	idle_watch_fini(&v->idle);
}
