/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads - requests done by a pool of threads with blocking calls, one
 * request a thread at a time, taken in the order of submission.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "storage/core/queue.h"
#include "storage/raw/io.h"
#include "storage/raw/raw.h"

enum { STACK_BYTES = 128 * 1024 };

struct pool {
	struct io io;
	struct queue *queue;
};

static void perform(void *ctx, struct block_request *req)
{
	(void)ctx;
	raw_perform(req);
}

static void pool_submit(struct io *io, struct block_request *req)
{
	queue_put(container_of(io, struct pool, io)->queue, req);
}

static void cancelled(struct block_request *req)
{
	raw_state(req)->post = true;
	raw_state(req)->posted = -ECANCELED;
}

static bool pool_cancel(struct io *io, struct block_request *req)
{
	return queue_change(container_of(io, struct pool, io)->queue, req,
	                    cancelled);
}

static void pool_destroy(struct io *io)
{
	struct pool *p = container_of(io, struct pool, io);

	queue_destroy(p->queue);
	free(p);
}

struct io *io_threads_create(unsigned threads)
{
	struct pool *p = xalloc(sizeof(*p));

	p->io = (struct io){ pool_submit, pool_cancel, pool_destroy };
	p->queue = queue_create(threads, STACK_BYTES, perform, NULL);
	return &p->io;
}
