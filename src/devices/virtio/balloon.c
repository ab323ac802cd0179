/* SPDX-License-Identifier: Apache-2.0 */
/*
 * balloon.c - queue 0 takes pages out of the guest, 1 gives them back, 2 holds
 * one buffer of statistics that is handed back to have it filled anew, 3 brings
 * free pages.
 *
 *	config: 0 num_pages (wanted), 4 actual (written by the driver)
 *	inflate, deflate: an array of le32 page numbers of 4 KiB
 *	statistics: an array of { le16 tag, le64 value }, packed
 *	reporting: buffers that are the free pages themselves
 */
#include "devices/virtio/balloon.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "devices/virtio/virtio.h"
#include "guest/discard.h"

#define F_STATS BIT(1)
#define F_DEFLATE_ON_OOM BIT(2)
#define F_REPORTING BIT(5)

enum { INFLATE, DEFLATE, STATS, REPORTING, QUEUES };
enum { CONFIG_NUM_PAGES = 0, CONFIG_ACTUAL = 4, CONFIG_SIZE = 8 };
enum {
	QUEUE_SIZE = 128,
	PFN_SIZE = 4,
	PFNS_AT_ONCE = 256,
	STAT_SIZE = 10,
	TAGS = 8, /* those that we keep: 0 to 7 */
	STATS_READ = 32,
};
enum tag {
	TAG_SWAP_IN,
	TAG_SWAP_OUT,
	TAG_MAJOR_FAULTS,
	TAG_MINOR_FAULTS,
	TAG_FREE,
	TAG_TOTAL,
	TAG_AVAILABLE,
	TAG_CACHE,
};

struct virtio_balloon {
	struct virtio_device v;
	/* Saved: */
	u32 num_pages, actual;
	u16 stats_head; /* of the buffer that we keep */
	u8 stats_held;
	u64 stats[TAGS];
	u64 stats_ns, reported_bytes;
	/* Not saved: pages that were lent when the guest last said. */
	u32 stats_actual;
	struct virtq_chain chain;
};

static struct virtio_balloon *balloon_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_balloon, v);
}

static struct virtio_balloon *balloon_of_device(struct device *dev)
{
	return container_of(dev, struct virtio_balloon, v.pci.dev);
}

static struct memory *memory_of(struct virtio_balloon *b)
{
	return b->v.pci.dev.host->memory;
}

/* ---- pages ---- */

/* Pages come one by one, mostly neighbours, upwards or downwards: a run of
 * them is dropped in one call. */
static void drop_pages(struct virtio_balloon *b, const u8 *pfns, size_t count)
{
	for (size_t i = 0, n; i < count; i += n) {
		u64 first = pci_get32(pfns + i * PFN_SIZE), last = first;

		for (n = 1; i + n < count; n++) {
			u64 next = pci_get32(pfns + (i + n) * PFN_SIZE);

			if (next == last + 1)
				last = next;
			else if (first && next == first - 1)
				first = next;
			else
				break;
		}
		memory_discard(memory_of(b), first << PAGE_SHIFT,
		               (last - first + 1) << PAGE_SHIFT);
	}
}

static void inflate(struct virtio_balloon *b)
{
	u8 pfns[PFNS_AT_ONCE * PFN_SIZE];
	size_t at = 0, n;

	while ((n = virtq_copy_out(&b->chain, at, pfns, sizeof(pfns)) /
	            PFN_SIZE)) {
		drop_pages(b, pfns, n);
		at += n * PFN_SIZE;
	}
}

static void take_report(struct virtio_balloon *b)
{
	const struct virtq_chain *c = &b->chain;

	for (unsigned i = c->out; i < (unsigned)c->out + c->in; i++)
		b->reported_bytes +=
		    memory_discard(memory_of(b), c->gpa[i], c->iov[i].iov_len);
}

/* ---- statistics ---- */

static void take_stats(struct virtio_balloon *b)
{
	u8 buf[STATS_READ * STAT_SIZE];
	size_t n = virtq_copy_out(&b->chain, 0, buf, sizeof(buf)) / STAT_SIZE;

	if (n) {
		b->stats_ns = clock_now_ns(b->v.pci.dev.host->clock);
		b->stats_actual = b->actual;
	}
	for (size_t i = 0; i < n; i++) {
		u16 tag = pci_get16(buf + i * STAT_SIZE);

		if (tag < TAGS)
			memcpy(&b->stats[tag], buf + i * STAT_SIZE + 2,
			       sizeof(u64));
	}
}

/* The driver waits with one buffer; a second one is not in the rules. */
static void hold_stats(struct virtio_balloon *b, struct virtq *q)
{
	take_stats(b);
	if (b->stats_held) {
		virtq_push(q, b->stats_head, 0);
		virtq_interrupt(q);
	}
	b->stats_head = b->chain.head;
	b->stats_held = 1;
}

static void ask_stats(struct virtio_balloon *b)
{
	struct virtq *q = &b->v.queues[STATS];

	if (!b->stats_held || !q->running || !virtio_active(&b->v))
		return;
	b->stats_held = 0;
	virtq_push(q, b->stats_head, 0);
	virtq_interrupt(q);
}

/* ---- the device ---- */

static void notify(struct virtio_device *v, struct virtq *q)
{
	struct virtio_balloon *b = balloon_of(v);
	unsigned budget = q->size;

	do {
		while (virtq_pop(q, &b->chain)) {
			u16 head = b->chain.head;

			if (q->index == STATS) {
				hold_stats(b, q);
				if (!--budget)
					return;
				continue;
			}
			if (q->index == INFLATE)
				inflate(b);
			else if (q->index == REPORTING)
				take_report(b);
			virtq_push(q, head, 0);
			if (!--budget) {
				virtio_again(v, q);
				goto out;
			}
		}
	} while (virtq_wait(q));
out:
	if (q->index != STATS)
		virtq_interrupt(q);
}

static void config_write(struct virtio_device *v, unsigned off, u32 value,
                         unsigned size)
{
	struct virtio_balloon *b = balloon_of(v);

	if (off < CONFIG_ACTUAL)
		return; /* what we want is ours to say */
	virtio_config_put(v, off, value, size);
	b->actual = pci_get32(v->config + CONFIG_ACTUAL);
}

/* Linux puts its first statistics there before it says DRIVER_OK. */
static void start(struct virtio_device *v)
{
	for (unsigned i = 0; i < QUEUES; i++)
		if (v->queues[i].running)
			virtio_again(v, &v->queues[i]);
}

/* A guest that starts anew has all of its memory. */
static void reset(struct virtio_device *v)
{
	struct virtio_balloon *b = balloon_of(v);

	b->actual = b->stats_actual = 0;
	b->stats_held = 0;
	b->stats_ns = 0;
	memset(b->stats, 0xff, sizeof(b->stats));
	virtio_config_put(v, CONFIG_ACTUAL, 0, 4);
}

static int loaded(struct device *dev, struct error *err)
{
	struct virtio_balloon *b = balloon_of_device(dev);
	int rc;

	virtio_config_put(&b->v, CONFIG_NUM_PAGES, b->num_pages, 4);
	virtio_config_put(&b->v, CONFIG_ACTUAL, b->actual, 4);
	b->stats_actual = b->actual;
	rc = virtio_type_loaded(dev, err);
	if (!b->v.queues[STATS].running ||
	    b->stats_head >= b->v.queues[STATS].size)
		b->stats_held = 0;
	b->stats_held = b->stats_held != 0;
	return rc;
}

void virtio_balloon_set_target(struct device *dev, u64 bytes)
{
	struct virtio_balloon *b = balloon_of_device(dev);
	u32 pages = (u32)MIN(bytes >> PAGE_SHIFT, (u64)UINT32_MAX);

	device_lock(dev);
	if (b->num_pages != pages) {
		b->num_pages = pages;
		virtio_config_put(&b->v, CONFIG_NUM_PAGES, pages, 4);
		virtio_config_changed(&b->v);
	}
	device_unlock(dev);
}

/* A driver that may take pages back without asking goes on counting them as
 * memory that it has. */
static u64 lent_in_total(const struct virtio_balloon *b)
{
	return virtio_has(&b->v, F_DEFLATE_ON_OOM)
	           ? (u64)b->stats_actual << PAGE_SHIFT
	           : 0;
}

void virtio_balloon_figures(struct device *dev,
                            struct virtio_balloon_figures *f)
{
	struct virtio_balloon *b = balloon_of_device(dev);

	device_lock(dev);
	*f = (struct virtio_balloon_figures){
		.target_bytes = (u64)b->num_pages << PAGE_SHIFT,
		.actual_bytes = (u64)b->actual << PAGE_SHIFT,
		.reported_bytes = b->reported_bytes,
		.swap_in_bytes = b->stats[TAG_SWAP_IN],
		.swap_out_bytes = b->stats[TAG_SWAP_OUT],
		.major_faults = b->stats[TAG_MAJOR_FAULTS],
		.free_bytes = b->stats[TAG_FREE],
		.total_bytes = b->stats[TAG_TOTAL],
		.available_bytes = b->stats[TAG_AVAILABLE],
		.cache_bytes = b->stats[TAG_CACHE],
		.lent_bytes = lent_in_total(b),
		.stats_ns = b->stats_ns,
		.driver = b->v.running,
	};
	ask_stats(b);
	device_unlock(dev);
}

static void destroy(struct device *dev)
{
	struct virtio_balloon *b = balloon_of_device(dev);

	virtio_fini(&b->v);
	free(b);
}

static const struct virtio_ops balloon_ops = {
	.notify = notify,
	.start = start,
	.reset = reset,
	.config_write = config_write,
};

static const struct field balloon_state[] = {
	VIRTIO_STATE(struct virtio_balloon, v),
	FIELD_VALUE(struct virtio_balloon, num_pages),
	FIELD_VALUE(struct virtio_balloon, actual),
	FIELD_VALUE(struct virtio_balloon, stats_head),
	FIELD_VALUE(struct virtio_balloon, stats_held),
	FIELD_ARRAY(struct virtio_balloon, stats),
	FIELD_VALUE(struct virtio_balloon, stats_ns),
	FIELD_VALUE(struct virtio_balloon, reported_bytes),
	FIELD_LAST,
};

static const struct device_type balloon_type = {
	.name = "virtio-balloon",
	.state_major = 1,
	.state = balloon_state,
	.reset = virtio_type_reset,
	.quiesce = virtio_type_quiesce,
	.loaded = loaded,
	.destroy = destroy,
};

int virtio_balloon_create(struct device **out, struct device_host *host,
                          struct pci_bus *bus,
                          const struct virtio_balloon_config *config,
                          struct error *err)
{
	struct virtio_balloon *b = xalloc(sizeof(*b));
	struct virtio_setup setup = {
		.type = &balloon_type,
		.ops = &balloon_ops,
		.id = VIRTIO_ID_BALLOON,
		.class_code = 0xff0000,
		.features = F_STATS | F_DEFLATE_ON_OOM | F_REPORTING,
		.queue_count = QUEUES,
		.queue_size = QUEUE_SIZE,
		.config_size = CONFIG_SIZE,
		.eventfd = config->eventfd,
		.devfn = config->devfn,
	};
	int rc = virtio_init(&b->v, host, bus, &setup, err);

	if (rc) {
		free(b);
		return rc;
	}
	memset(b->stats, 0xff, sizeof(b->stats));
	*out = &b->v.pci.dev;
	return 0;
}
