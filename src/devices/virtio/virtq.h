/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtq.h - one split virtqueue, seen from the device (virtio 1.2 section
 * 2.7).
 *
 * Everything the driver writes is read once and checked: indexes, lengths,
 * addresses, chains that loop. What breaks the rules marks the device broken
 * (DEVICE_NEEDS_RESET), and from then on queues yield nothing until a reset.
 *
 * All calls under the device's lock.
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

struct virtio_device;

enum {
	VIRTQ_SIZE_MAX = 512,
	/* Buffers of one chain; more than descriptors, since one descriptor
	 * may straddle two memory slots. */
	VIRTQ_IOV_MAX = VIRTQ_SIZE_MAX + 8,
};
#define VIRTQ_NO_VECTOR ((u16)0xffff)

struct virtq_desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};

/* What the driver is told of, and when; see pace.c. */
struct virtq_pace {
	u16 step;           /* requests of a batch */
	u16 held;           /* answered; the interrupt is yet to come */
	u16 full, patience; /* full batches since the last attempt; and before
	                     * the next */
	bool holding, trying;
	bool late;    /* a request of this notification was not over at once */
	u64 since_ns; /* of the first held */
};

struct virtq {
	struct virtio_device *dev; /* borrowed */
	u16 index;
	u16 max; /* what the device offers; 0: no such queue */

	/* As the driver set it up. */
	u16 size, vector;
	bool enabled;
	gpa_t desc_gpa, driver_gpa, device_gpa;

	/* While it runs; the pointers are into guest memory. */
	bool running;
	const u8 *desc;
	const u16 *avail;
	u16 *used;
	u16 last_avail; /* next to take */
	u16 used_idx;   /* next to give back */
	u16 signalled;  /* used_idx at the last interrupt */
	bool signalled_valid;
	bool again; /* more to do, from the loop */
	struct virtq_pace pace;
};

/* Buffers of one request: iov[0 .. out) from the driver, then in to fill. */
struct virtq_chain {
	u16 head;
	u16 out, in;
	u64 out_bytes, in_bytes;
	struct iovec iov[VIRTQ_IOV_MAX];
	gpa_t gpa[VIRTQ_IOV_MAX];
};

/* Map the rings. false: an address or size is wrong, the device is broken. */
bool virtq_start(struct virtq *q);
void virtq_stop(struct virtq *q);

/* The next request, if any. */
bool virtq_pop(struct virtq *q, struct virtq_chain *chain);
/* Put the last one popped back. */
void virtq_unpop(struct virtq *q);
/* Is there anything to pop? */
bool virtq_ready(const struct virtq *q);

/*
 * All popped, or too few: ask to be told of the next one. true: the ring is
 * not empty, pop again.
 */
bool virtq_wait(struct virtq *q);
/* The same, to be told of the next but so many, if the driver agreed to that.
 */
bool virtq_wait_more(struct virtq *q, u16 more);

/* Hand a chain back; written is what the device put into its buffers. */
void virtq_push(struct virtq *q, u16 head, u32 written);
/* The same for several at once: fill at 0, 1, ..., then publish them all. */
void virtq_fill(struct virtq *q, unsigned at, u16 head, u32 written);
void virtq_publish(struct virtq *q, unsigned count);
/* Interrupt the driver, unless it asked not to be. */
void virtq_interrupt(struct virtq *q);

/* Tell memory's watchers about the first bytes of a chain's in buffers. */
void virtq_written(struct virtq *q, const struct virtq_chain *chain, u64 bytes);

/* Copy between a chain and a flat buffer from offset on; bytes copied. */
size_t virtq_copy_out(const struct virtq_chain *chain, size_t offset, void *buf,
                      size_t len);
size_t virtq_copy_in(struct virtq *q, const struct virtq_chain *chain,
                     size_t offset, const void *buf, size_t len);
