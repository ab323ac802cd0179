/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads - requests done by a pool of threads with blocking calls, one
 * request a thread at a time, taken in the order of submission.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/thread.h"
#include "storage/raw/io.h"
#include "storage/raw/raw.h"

enum { STACK_BYTES = 128 * 1024 };

struct pool {
	struct io io;
	pthread_mutex_t lock;
	pthread_cond_t work;
	/* Under lock. */
	struct block_request *head, **tail;
	bool stop;

	unsigned count;
	pthread_t threads[];
};

static struct block_request *take(struct pool *p)
{
	struct block_request *req;

	pthread_mutex_lock(&p->lock);
	while (!p->head && !p->stop)
		pthread_cond_wait(&p->work, &p->lock);
	req = p->head;
	if (req) {
		p->head = raw_state(req)->next;
		if (!p->head)
			p->tail = &p->head;
	}
	pthread_mutex_unlock(&p->lock);
	return req;
}

static void *pool_thread(void *arg)
{
	struct pool *p = arg;
	struct block_request *req;

	while ((req = take(p)))
		raw_perform(req);
	return NULL;
}

static void pool_submit(struct io *io, struct block_request *req)
{
	struct pool *p = container_of(io, struct pool, io);

	raw_state(req)->next = NULL;
	pthread_mutex_lock(&p->lock);
	*p->tail = req;
	p->tail = &raw_state(req)->next;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

static bool pool_cancel(struct io *io, struct block_request *req)
{
	struct pool *p = container_of(io, struct pool, io);
	struct block_request *r;

	pthread_mutex_lock(&p->lock);
	for (r = p->head; r && r != req; r = raw_state(r)->next)
		continue;
	if (r) {
		raw_state(r)->post = true;
		raw_state(r)->posted = -ECANCELED;
	}
	pthread_mutex_unlock(&p->lock);
	return r != NULL;
}

static void pool_destroy(struct io *io)
{
	struct pool *p = container_of(io, struct pool, io);

	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->count; i++)
		pthread_join(p->threads[i], NULL);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int io_threads_create(struct io **out, unsigned threads)
{
	struct pool *p = xalloc(sizeof(*p) + threads * sizeof(p->threads[0]));
	int rc = 0;

	p->io = (struct io){ pool_submit, pool_cancel, pool_destroy };
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	p->tail = &p->head;
	while (rc == 0 && p->count < threads) {
		rc = thread_start(&p->threads[p->count], STACK_BYTES,
		                  pool_thread, p);
		p->count += rc == 0;
	}
	if (p->count == 0) {
		pool_destroy(&p->io);
		return rc;
	}
	*out = &p->io;
	return 0;
}
