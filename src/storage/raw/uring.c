/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring - requests done by the kernel through one io_uring.
 *
 * One thread owns the ring: it alone submits and reaps. Submitters put their
 * request on a list and wake it: through a condition when nothing is under
 * way, through an eventfd when it waits for the kernel. So no vCPU thread
 * copies data or is interrupted by completions, and requests outlive the
 * thread that made them (the kernel cancels what an exiting thread had
 * submitted itself).
 *
 * What a ring can't do (BLKDISCARD), and what the kernel would only hand to a
 * thread of its own (fallocate), goes to a pool of one thread.
 */
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/thread.h"
#include "storage/raw/io.h"
#include "storage/raw/raw.h"

enum { DEPTH = 256, STACK_BYTES = 128 * 1024 };

struct ring {
	struct io io;
	struct io *slow;
	struct io_uring uring;
	pthread_t thread;
	int wake;
	u64 wake_count; /* what the armed read of wake fills */

	pthread_mutex_t lock;
	pthread_cond_t work;
	/* Under lock. */
	struct block_request *head, **tail;
	enum { AWAKE, IDLE, IN_KERNEL } sleep;
	bool stop;

	/* The ring thread's. */
	struct block_request *retry; /* short or interrupted, to go on */
	unsigned inflight;
	bool armed;
};

static void wake(struct ring *r)
{
	u64 one = 1;

	while (write(r->wake, &one, sizeof(one)) < 0 && errno == EINTR)
		continue;
}

static void ring_submit(struct io *io, struct block_request *req)
{
	struct ring *r = container_of(io, struct ring, io);
	bool in_kernel;

	if (!raw_state(req)->post &&
	    (req->op == BLOCK_DISCARD || req->op == BLOCK_WRITE_ZEROES)) {
		r->slow->submit(r->slow, req);
		return;
	}
	raw_state(req)->next = NULL;
	pthread_mutex_lock(&r->lock);
	*r->tail = req;
	r->tail = &raw_state(req)->next;
	in_kernel = r->sleep == IN_KERNEL;
	if (r->sleep == IDLE)
		pthread_cond_signal(&r->work);
	r->sleep = AWAKE;
	pthread_mutex_unlock(&r->lock);
	if (in_kernel)
		wake(r);
}

static bool ring_cancel(struct io *io, struct block_request *req)
{
	struct ring *r = container_of(io, struct ring, io);
	struct block_request *q;

	if (req->op == BLOCK_DISCARD || req->op == BLOCK_WRITE_ZEROES)
		return r->slow->cancel(r->slow, req);
	pthread_mutex_lock(&r->lock);
	for (q = r->head; q && q != req; q = raw_state(q)->next)
		continue;
	if (q) {
		raw_state(q)->post = true;
		raw_state(q)->posted = -ECANCELED;
	}
	pthread_mutex_unlock(&r->lock);
	return q != NULL;
}

static void start(struct ring *r, struct block_request *req)
{
	struct raw_state *st = raw_state(req);
	struct raw *raw = raw_of(req);
	struct io_uring_sqe *sqe;
	const struct iovec *iov = NULL;
	int count = 0, rc = 0;

	if (st->post) {
		raw_finish(req, st->posted);
		return;
	}
	if (req->op != BLOCK_FLUSH) {
		if (st->done == 0 && !st->bounce)
			rc = raw_begin(req);
		if (rc == 0)
			rc = raw_remaining(req, &iov, &count);
		if (rc < 0) {
			raw_finish(req, rc);
			return;
		}
	}
	sqe = io_uring_get_sqe(&r->uring);
	ASSERT(sqe); /* inflight is kept below the ring's depth */
	if (req->op == BLOCK_FLUSH)
		io_uring_prep_fsync(sqe, raw->fd, IORING_FSYNC_DATASYNC);
	else if (req->op == BLOCK_READ)
		io_uring_prep_readv(sqe, raw->fd, iov, (unsigned)count,
		                    req->offset + st->done);
	else
		io_uring_prep_writev2(
		    sqe, raw->fd, iov, (unsigned)count, req->offset + st->done,
		    req->flags & BLOCK_REQ_FUA ? RWF_DSYNC : 0);
	io_uring_sqe_set_data(sqe, req);
	r->inflight++;
}

static void arm_wake(struct ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	ASSERT(sqe);
	io_uring_prep_read(sqe, r->wake, &r->wake_count, sizeof(r->wake_count),
	                   0);
	io_uring_sqe_set_data(sqe, NULL);
	r->armed = true;
}

static void reap(struct ring *r, struct io_uring_cqe *cqe)
{
	struct block_request *req = io_uring_cqe_get_data(cqe);
	int res = cqe->res, rc;

	io_uring_cqe_seen(&r->uring, cqe);
	if (!req) {
		r->armed = false;
		return;
	}
	r->inflight--;
	if (res == -EINTR || res == -EAGAIN)
		rc = 1;
	else if (req->op == BLOCK_FLUSH)
		rc = res;
	else
		rc = raw_step(req, res);
	if (rc <= 0) {
		raw_finish(req, rc);
		return;
	}
	raw_state(req)->next = r->retry;
	r->retry = req;
}

static struct block_request *take(struct ring *r)
{
	struct block_request *req;

	pthread_mutex_lock(&r->lock);
	req = r->head;
	if (req) {
		r->head = raw_state(req)->next;
		if (!r->head)
			r->tail = &r->head;
	}
	pthread_mutex_unlock(&r->lock);
	return req;
}

/* All that there is room for. */
static void fill(struct ring *r)
{
	struct block_request *req;

	while (r->retry && r->inflight < DEPTH - 2) {
		req = r->retry;
		r->retry = raw_state(req)->next;
		start(r, req);
	}
	while (r->inflight < DEPTH - 2 && (req = take(r)))
		start(r, req);
}

/* With nothing under way, until there is a request. False: the end. */
static bool wait_for_work(struct ring *r)
{
	bool more;

	pthread_mutex_lock(&r->lock);
	while (!r->head && !r->stop) {
		r->sleep = IDLE;
		pthread_cond_wait(&r->work, &r->lock);
	}
	r->sleep = AWAKE;
	more = r->head != NULL;
	pthread_mutex_unlock(&r->lock);
	return more;
}

/* About to wait for the kernel. False: a request came in between. */
static bool go_to_sleep(struct ring *r)
{
	bool sleep;

	pthread_mutex_lock(&r->lock);
	sleep = !r->head || r->inflight >= DEPTH - 2;
	if (sleep)
		/* New requests wake us only if there is room for them. */
		r->sleep = r->head ? AWAKE : IN_KERNEL;
	pthread_mutex_unlock(&r->lock);
	return sleep;
}

static void reap_all(struct ring *r)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&r->uring, &cqe) == 0)
		reap(r, cqe);
}

static void enter(struct ring *r, unsigned wait)
{
	int rc = io_uring_submit_and_wait(&r->uring, wait);

	if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
		ASSERT(!"io_uring_enter refused a valid ring");
}

static void *ring_thread(void *arg)
{
	struct ring *r = arg;

	while (r->inflight > 0 || r->retry || wait_for_work(r)) {
		fill(r);
		/* What the page cache has is done when this returns. */
		enter(r, 0);
		reap_all(r);
		if (r->inflight == 0 || r->retry || !go_to_sleep(r))
			continue;
		if (!r->armed)
			arm_wake(r);
		enter(r, 1);
		reap_all(r);
	}
	return NULL;
}

static void ring_destroy(struct io *io)
{
	struct ring *r = container_of(io, struct ring, io);

	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_signal(&r->work);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	io_uring_queue_exit(&r->uring);
	r->slow->destroy(r->slow);
	close(r->wake);
	pthread_cond_destroy(&r->work);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

int io_uring_create(struct io **out)
{
	struct ring *r = xalloc(sizeof(*r));
	int rc;

	r->io = (struct io){ ring_submit, ring_cancel, ring_destroy };
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	r->tail = &r->head;
	rc = io_uring_queue_init(DEPTH, &r->uring, 0);
	if (rc < 0)
		goto no_ring;
	r->wake = eventfd(0, EFD_CLOEXEC);
	rc = r->wake < 0 ? -errno : 0;
	if (rc < 0)
		goto no_wake;
	r->slow = io_threads_create(1);
	rc = thread_start(&r->thread, STACK_BYTES, ring_thread, r);
	if (rc < 0)
		goto no_thread;
	*out = &r->io;
	return 0;

no_thread:
	r->slow->destroy(r->slow);
	close(r->wake);
no_wake:
	io_uring_queue_exit(&r->uring);
no_ring:
	pthread_cond_destroy(&r->work);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return rc;
}
