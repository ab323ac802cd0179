/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h - requests that wait for a thread, in order of arrival, and the
 * threads.
 *
 * A thread is made when more waits than threads do, up to a number: a disk that
 * is seldom used, as the lower ones of a long chain are, has none or one.
 */
#pragma once

#include "storage/block.h"

struct queue;

/* Called on a thread of the queue's, or on the one that puts the request if the
 * host gives us no thread at all; it completes the request. */
typedef void queue_fn(void *ctx, struct block_request *req);

/* most: threads. */
struct queue *queue_create(unsigned most, size_t stack_bytes, queue_fn *serve,
                           void *ctx);
/* Nothing waits. Ends the threads; NULL is legal. */
void queue_destroy(struct queue *q);

/* The first of a driver's private words is the queue's until it is served. */
void queue_put(struct queue *q, struct block_request *req);
/* Calls change, if it has not been served; whether that is so. */
bool queue_change(struct queue *q, struct block_request *req,
                  void (*change)(struct block_request *req));
