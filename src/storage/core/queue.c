/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/core/queue.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/thread.h"
#include "storage/core/driver.h"

struct queue {
	queue_fn *serve;
	void *ctx;
	size_t stack_bytes;
	pthread_mutex_t lock;
	pthread_cond_t work;
	/* Under lock. */
	struct block_request *head, **tail;
	unsigned waiting;  /* requests */
	unsigned sleeping; /* threads */
	bool stop;

	unsigned count, most;
	pthread_t threads[];
};

static struct block_request **next_of(struct block_request *req)
{
	return (struct block_request **)&req
	    ->driver_private[BLOCK_PRIVATE_FRONT];
}

static struct block_request *take(struct queue *q)
{
	struct block_request *req;

	pthread_mutex_lock(&q->lock);
	q->sleeping++;
	while (!q->head && !q->stop)
		pthread_cond_wait(&q->work, &q->lock);
	q->sleeping--;
	req = q->head;
	if (req) {
		q->head = *next_of(req);
		if (!q->head)
			q->tail = &q->head;
		q->waiting--;
	}
	pthread_mutex_unlock(&q->lock);
	return req;
}

static void *queue_thread(void *arg)
{
	struct queue *q = arg;
	struct block_request *req;

	while ((req = take(q)))
		q->serve(q->ctx, req);
	return NULL;
}

/* Lock held: nobody ends threads that are just being made. */
static void add_thread(struct queue *q)
{
	if (thread_start(&q->threads[q->count], q->stack_bytes, queue_thread,
	                 q) == 0)
		q->count++;
}

/* Lock held: the threads that are there will do it, or none can be had. */
static bool has_threads(struct queue *q)
{
	if (q->waiting <= q->sleeping)
		return true;
	if (q->count < q->most)
		add_thread(q);
	return q->count > 0;
}

void queue_put(struct queue *q, struct block_request *req)
{
	struct block_request **end;

	*next_of(req) = NULL;
	pthread_mutex_lock(&q->lock);
	end = q->tail;
	*q->tail = req;
	q->tail = next_of(req);
	q->waiting++;
	if (has_threads(q)) {
		pthread_cond_signal(&q->work);
		req = NULL;
	} else {
		*end = NULL;
		q->tail = end;
		q->waiting--;
	}
	pthread_mutex_unlock(&q->lock);
	if (req)
		q->serve(q->ctx, req);
}

bool queue_change(struct queue *q, struct block_request *req,
                  void (*change)(struct block_request *req))
{
	struct block_request *r;

	pthread_mutex_lock(&q->lock);
	for (r = q->head; r && r != req; r = *next_of(r))
		continue;
	if (r)
		change(r);
	pthread_mutex_unlock(&q->lock);
	return r != NULL;
}

void queue_destroy(struct queue *q)
{
	if (!q)
		return;
	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_broadcast(&q->work);
	pthread_mutex_unlock(&q->lock);
	for (unsigned i = 0; i < q->count; i++)
		pthread_join(q->threads[i], NULL);
	pthread_cond_destroy(&q->work);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

struct queue *queue_create(unsigned most, size_t stack_bytes, queue_fn *serve,
                           void *ctx)
{
	struct queue *q = xalloc(sizeof(*q) + most * sizeof(q->threads[0]));

	*q = (struct queue){ .serve = serve,
		             .ctx = ctx,
		             .stack_bytes = stack_bytes,
		             .most = most };
	q->tail = &q->head;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->work, NULL);
	return q;
}
