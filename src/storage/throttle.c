/* SPDX-License-Identifier: Apache-2.0 */
/*
 * throttle - token buckets before a disk.
 *
 * A request that finds nobody waiting and tokens in both buckets goes on at
 * once, on its submitter's thread. The others wait in a list, which one
 * thread serves when the buckets have filled. A bucket may go below zero by
 * one request, so that a request larger than the burst passes some time.
 */
#include "storage/throttle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/thread.h"
#include "storage/core/driver.h"

enum { STACK_BYTES = 64 * 1024 };

struct bucket {
	double rate, burst; /* rate 0: no limit */
	double level;       /* tokens there */
};

struct throttle {
	struct block block;
	struct block *under; /* owned */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	_Atomic bool limited; /* there is a rate */
	/* Under lock. */
	struct bucket requests, bytes;
	u64 filled_ns;
	struct block_request *head, **tail;
	bool stop, threaded;
	pthread_t thread; /* made when there is need of it */
};

/* Of a request, in its own private words and in the one passed on. */
struct state {
	struct block_request *next;
	struct block_request *passed; /* the copy that goes below */
	int posted;
	bool post;
};

static struct state *state_of(struct block_request *req)
{
	return (struct state *)(void *)&req
	    ->driver_private[BLOCK_PRIVATE_FRONT];
}

static struct throttle *throttle_of(struct block *b)
{
	return container_of(b, struct throttle, block);
}

static void fill(struct bucket *b, double seconds)
{
	b->level = MIN(b->level + b->rate * seconds, b->burst);
}

static void fill_all(struct throttle *t)
{
	u64 now = loop_now_ns();
	double seconds = (double)(now - t->filled_ns) / (double)NSEC_PER_SEC;

	fill(&t->requests, seconds);
	fill(&t->bytes, seconds);
	t->filled_ns = now;
}

/* Seconds until the bucket has something. */
static double wait_for(const struct bucket *b)
{
	return b->rate > 0 && b->level <= 0 ? (1 - b->level) / b->rate : 0;
}

static bool limited(const struct block_request *req)
{
	return req->op != BLOCK_FLUSH;
}

static void spend(struct throttle *t, const struct block_request *req)
{
	t->requests.level -= t->requests.rate > 0;
	if (t->bytes.rate > 0)
		t->bytes.level -= (double)req->length;
}

static void passed_done(struct block_request *copy, int result)
{
	struct block_request *req = copy->ctx;

	free(copy);
	block_complete(req, result);
}

static void pass(struct throttle *t, struct block_request *req)
{
	struct block_request *copy = state_of(req)->passed;

	*copy = (struct block_request){
		.op = req->op,
		.flags = req->flags & ~(unsigned)BLOCK_REQ_BLOCKING,
		.offset = req->offset,
		.length = req->length,
		.iov = req->iov,
		.iov_count = req->iov_count,
		.done = passed_done,
		.ctx = req,
	};
	block_submit(t->under, copy);
}

static void *throttle_thread(void *arg);

/* Lock held. False: the host gives us no thread to do it. */
static bool append(struct throttle *t, struct block_request *req)
{
	if (!t->threaded)
		t->threaded = thread_start(&t->thread, STACK_BYTES,
		                           throttle_thread, t) == 0;
	if (!t->threaded)
		return false;
	state_of(req)->next = NULL;
	*t->tail = req;
	t->tail = &state_of(req)->next;
	pthread_cond_signal(&t->changed);
	return true;
}

static void throttle_post(struct block *b, struct block_request *req,
                          int result)
{
	struct throttle *t = throttle_of(b);
	bool threaded;

	*state_of(req) = (struct state){ .post = true, .posted = result };
	pthread_mutex_lock(&t->lock);
	threaded = append(t, req);
	pthread_mutex_unlock(&t->lock);
	if (!threaded)
		block_complete(req, result);
}

static void throttle_submit(struct block *b, struct block_request *req)
{
	struct throttle *t = throttle_of(b);
	struct block_request *copy = malloc(sizeof(*copy));
	bool now;

	if (!copy) {
		throttle_post(b, req, -ENOMEM);
		return;
	}
	*state_of(req) = (struct state){ .passed = copy };
	pthread_mutex_lock(&t->lock);
	fill_all(t);
	now = !limited(req) || (!t->head && wait_for(&t->requests) == 0 &&
	                        wait_for(&t->bytes) == 0);
	if (now && limited(req))
		spend(t, req);
	/* Rather too fast than never. */
	now = now || !append(t, req);
	pthread_mutex_unlock(&t->lock);
	if (now)
		pass(t, req);
}

static bool throttle_now(struct block *b, const struct block_io *io)
{
	struct throttle *t = throttle_of(b);

	return (io->op == BLOCK_FLUSH ||
	        !atomic_load_explicit(&t->limited, memory_order_relaxed)) &&
	       block_now(t->under, io);
}

static bool throttle_cancel(struct block *b, struct block_request *req)
{
	struct throttle *t = throttle_of(b);
	struct block_request *r;

	pthread_mutex_lock(&t->lock);
	for (r = t->head; r && r != req; r = state_of(r)->next)
		continue;
	if (r && !state_of(r)->post) {
		free(state_of(r)->passed);
		state_of(r)->post = true;
		state_of(r)->posted = -ECANCELED;
		pthread_cond_signal(&t->changed);
	}
	pthread_mutex_unlock(&t->lock);
	return r != NULL;
}

static void sleep_until_filled(struct throttle *t, double seconds)
{
	u64 at = loop_now_ns() + (u64)(seconds * (double)NSEC_PER_SEC) + 1;
	struct timespec ts = { .tv_sec = (time_t)(at / NSEC_PER_SEC),
		               .tv_nsec = (long)(at % NSEC_PER_SEC) };

	pthread_cond_timedwait(&t->changed, &t->lock, &ts);
}

static void *throttle_thread(void *arg)
{
	struct throttle *t = arg;

	pthread_mutex_lock(&t->lock);
	while (!t->stop || t->head) {
		struct block_request *req = t->head;
		double a, b;

		if (!req) {
			pthread_cond_wait(&t->changed, &t->lock);
			continue;
		}
		fill_all(t);
		a = wait_for(&t->requests);
		b = wait_for(&t->bytes);
		if (!state_of(req)->post && MAX(a, b) > 0) {
			sleep_until_filled(t, MAX(a, b));
			continue;
		}
		t->head = state_of(req)->next;
		if (!t->head)
			t->tail = &t->head;
		if (!state_of(req)->post)
			spend(t, req);
		pthread_mutex_unlock(&t->lock);
		if (state_of(req)->post)
			block_complete(req, state_of(req)->posted);
		else
			pass(t, req);
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void throttle_close(struct block *b)
{
	struct throttle *t = throttle_of(b);

	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	if (t->threaded)
		pthread_join(t->thread, NULL);
	block_close(t->under);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	block_fini(b);
	free(t);
}

void throttle_resized(struct block *b)
{
	atomic_store(&b->size, block_size(throttle_of(b)->under));
}

static int throttle_resize(struct block *b, u64 size, struct error *err)
{
	int rc = block_resize(throttle_of(b)->under, size, err);

	if (rc == 0)
		throttle_resized(b);
	return rc;
}

static int throttle_map(struct block *b, u64 offset, u64 length,
                        struct block_extent *extent)
{
	return block_map(throttle_of(b)->under, offset, length, extent);
}

static const char *throttle_lost(struct block *b)
{
	return block_lost(throttle_of(b)->under);
}

static void throttle_let_go(struct block *b)
{
	block_let_go(throttle_of(b)->under);
}

static const struct block_driver throttle_driver = {
	.name = "throttle",
	.submit = throttle_submit,
	.now = throttle_now,
	.post = throttle_post,
	.close = throttle_close,
	.resize = throttle_resize,
	.map = throttle_map,
	.cancel = throttle_cancel,
	.lost = throttle_lost,
	.let_go = throttle_let_go,
};

static void set_bucket(struct bucket *b, u64 rate, u64 burst)
{
	b->rate = (double)rate;
	b->burst = MAX(burst ? (double)burst : b->rate / 10, 1.0);
	b->level = MIN(b->level, b->burst);
}

void throttle_set(struct block *b, const struct throttle_limits *limits)
{
	struct throttle *t = throttle_of(b);

	pthread_mutex_lock(&t->lock);
	fill_all(t);
	set_bucket(&t->requests, limits->iops, limits->iops_burst);
	set_bucket(&t->bytes, limits->bytes, limits->bytes_burst);
	atomic_store(&t->limited, limits->iops || limits->bytes);
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

struct block *throttle_open(struct block *b,
                            const struct throttle_limits *limits)
{
	struct throttle *t = xalloc(sizeof(*t));
	pthread_condattr_t attr;

	block_init(&t->block, &throttle_driver);
	block_info(b, &t->block.info);
	atomic_store(&t->block.size, t->block.info.size);
	t->block.unbounded = b->unbounded;
	t->under = b;
	t->tail = &t->head;
	t->filled_ns = loop_now_ns();
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->changed, &attr);
	pthread_condattr_destroy(&attr);
	throttle_set(&t->block, limits);
	/* Full at the start. */
	t->requests.level = t->requests.burst;
	t->bytes.level = t->bytes.burst;
	return &t->block;
}
