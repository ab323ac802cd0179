/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.h - what a kind of disk gives to block.c, and gets from it.
 *
 * A driver embeds struct block first in its own struct. block.c has checked
 * every request (bounds, alignment, writability, vector length) before submit
 * sees it, and counts it until block_complete(). A driver may complete from
 * any thread of its own; from inside submit only if the request's
 * flags allow it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "storage/block.h"

/* A read, write or flush without a request of its own. */
struct block_io {
	enum block_op op;
	u64 offset, length;
	const struct iovec *iov;
	int iov_count;
	bool may_wait; /* a flush: the thread has nothing else to do */
};

struct block_driver {
	const char *name;
	void (*submit)(struct block *b, struct block_request *req);
	/*
	 * Optional: do it here and now, if nothing has to be waited for, or
	 * that is allowed. True: done; a write durable no more than any other,
	 * a flush as any other. False: it is to be submitted; a part of it may
	 * have been done, and is done again.
	 */
	bool (*now)(struct block *b, const struct block_io *io);
	/* Complete req with result from one of the driver's threads. */
	void (*post)(struct block *b, struct block_request *req, int result);
	/* No request is under way. Frees b, after block_fini(). */
	void (*close)(struct block *b);
	/* Optional; no request is under way and none arrives meanwhile. */
	int (*resize)(struct block *b, u64 size, struct error *err);
	/* Optional; see block_map(). Any thread. */
	int (*map)(struct block *b, u64 offset, u64 length,
	           struct block_extent *extent);
	/* Optional: complete req with -ECANCELED if it has not begun. */
	bool (*cancel)(struct block *b, struct block_request *req);
	/* Optional; no request is under way. Store all; writing has ended, and
	 * the lock becomes a shared one. */
	int (*freeze)(struct block *b);
	/* Optional; see block_lost(). */
	const char *(*lost)(struct block *b);
	/* Optional; see block_let_go(). */
	void (*let_go)(struct block *b);
	/* Optional, of a frozen one: take the shared lock again, or drop it. */
	int (*lock)(struct block *b, bool shared);
};

struct block {
	const struct block_driver *driver;
	struct block_info info; /* all but size, fixed once open */
	_Atomic u64 size;
	/* A file that grows as it is written; reads past its end give zeroes.
	 */
	bool unbounded;

	pthread_mutex_t lock;
	pthread_cond_t idle;
	_Atomic u64 inflight;
	_Atomic u32 drainers; /* who waits for idle */
};

/* driver_private[0] is the front's; drivers keep their state from [1] on. */
enum { BLOCK_PRIVATE_FRONT = 1 };

void block_init(struct block *b, const struct block_driver *driver);
void block_fini(struct block *b);

/* The request is over. It may be gone when this returns. */
void block_complete(struct block_request *req, int result);

/* For a driver on top of another: its driver's now(), if it has one. The
 * caller has checked the range. */
bool block_now(struct block *b, const struct block_io *io);

static inline u64 block_size(const struct block *b)
{
	return atomic_load_explicit(&b->size, memory_order_acquire);
}
