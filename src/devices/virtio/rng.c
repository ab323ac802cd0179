/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rng.c - entropy from the host's kernel.
 *
 * A driver that asks for more than it needs costs the host: one request gets
 * at most 4 KiB, and all together 1 MiB a second after a burst of 64 KiB.
 * Requests over that wait in the ring for their turn.
 */
#include "devices/virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "devices/virtio/virtio.h"

enum {
	REQUEST_MAX = 4 << 10,
	REQUEST_COST = 64,
	BURST = 64 << 10,
	RATE = 1 << 20, /* bytes a second */
	QUEUE_SIZE = 64,
};

struct virtio_rng {
	struct virtio_device v;
	u32 budget;    /* bytes that may go out now */
	u64 filled_ns; /* when it was last topped up */
	struct clock_timer refill;
	struct virtq_chain chain;
};

static struct virtio_rng *rng_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_rng, v);
}

static void top_up(struct virtio_rng *r)
{
	u64 now = clock_now_ns(r->v.pci.dev.host->clock);
	u64 passed = now > r->filled_ns ? now - r->filled_ns : 0;
	u64 more = MIN(passed, NSEC_PER_SEC) * RATE / NSEC_PER_SEC;

	r->budget = (u32)MIN(r->budget + more, (u64)BURST);
	r->filled_ns = now;
}

static size_t random_bytes(u8 *buf, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = getrandom(buf + got, len - got, 0);

		if (n < 0 && errno != EINTR)
			break;
		got += n > 0 ? (size_t)n : 0;
	}
	return got;
}

static void serve(struct virtio_rng *r, struct virtq *q)
{
	u8 buf[REQUEST_MAX];
	u64 want = MIN(r->chain.in_bytes, (u64)REQUEST_MAX);
	size_t n = random_bytes(buf, MIN(want, (u64)r->budget));

	n = virtq_copy_in(q, &r->chain, 0, buf, n);
	/* A request has its cost even if it asks for one byte. */
	r->budget -= MAX((u32)n, (u32)REQUEST_COST);
	virtq_push(q, r->chain.head, (u32)n);
}

static void notify(struct virtio_device *v, struct virtq *q)
{
	struct virtio_rng *r = rng_of(v);

	top_up(r);
	do {
		while (virtq_ready(q)) {
			/* At least one byte is due for each (section 5.4.6),
			 * so wait for what is worth sending. */
			if (r->budget < REQUEST_MAX) {
				virtq_interrupt(q);
				clock_timer_arm(&r->refill,
				                r->filled_ns + NSEC_PER_SEC *
				                                   REQUEST_MAX /
				                                   RATE);
				return;
			}
			if (!virtq_pop(q, &r->chain))
				break;
			serve(r, q);
		}
	} while (virtq_wait(q));
	virtq_interrupt(q);
}

static void refilled(void *ctx)
{
	struct virtio_rng *r = ctx;

	if (virtio_active(&r->v) && r->v.queues[0].running)
		notify(&r->v, &r->v.queues[0]);
}

static void destroy(struct device *dev)
{
	struct virtio_rng *r = container_of(dev, struct virtio_rng, v.pci.dev);

	clock_timer_fini(&r->refill);
	virtio_fini(&r->v);
	free(r);
}

static const struct virtio_ops rng_ops = {
	.notify = notify,
};

static const struct field rng_state[] = {
	VIRTIO_STATE(struct virtio_rng, v),
	FIELD_LAST,
};

static const struct device_type rng_type = {
	.name = "virtio-rng",
	.state_major = 1,
	.state = rng_state,
	.reset = virtio_type_reset,
	.quiesce = virtio_type_quiesce,
	.loaded = virtio_type_loaded,
	.destroy = destroy,
};

int virtio_rng_create(struct device **out, struct device_host *host,
                      struct pci_bus *bus,
                      const struct virtio_rng_config *config, struct error *err)
{
	struct virtio_rng *r = xalloc(sizeof(*r));
	struct virtio_setup setup = {
		.type = &rng_type,
		.ops = &rng_ops,
		.id = VIRTIO_ID_ENTROPY,
		.class_code = 0xff0000,
		.queue_count = 1,
		.queue_size = QUEUE_SIZE,
		.eventfd = config->eventfd,
		.devfn = config->devfn,
	};
	int rc = virtio_init(&r->v, host, bus, &setup, err);

	if (rc) {
		free(r);
		return rc;
	}
	r->budget = BURST;
	device_timer_init(&r->v.pci.dev, &r->refill, refilled);
	*out = &r->v.pci.dev;
	return 0;
}
