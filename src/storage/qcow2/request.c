/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request - how a guest's request finds its way.
 *
 * Fast path, on the submitter's thread: the tables it needs are in memory, it
 * is a read, or a write of clusters that are there already. It is done at once
 * where the files below can; else it becomes a few requests to them, all at
 * once, and never waits. Everything else goes to the workers: they read missing
 * tables and try the fast path again, or do the whole of it blocking (rw.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "storage/core/iov.h"
#include "storage/qcow2/qcow2.h"

enum {
	PARTS_MAX = 32,
	STACK_BYTES = 256 * 1024,
	NOW_PIECES = 4, /* as few, and a vector as short, are done at once */
	NOW_VECTOR = 64,
};

/* Of a request in the workers' queue. */
struct state {
	struct block_request *next; /* the queue's */
	int posted;
	bool post;
};

static struct state *state_of(struct block_request *req)
{
	return (struct state *)(void *)&req
	    ->driver_private[BLOCK_PRIVATE_FRONT];
}

/* Holds: a list in order of arrival. One waits for whatever stands before it
 * and can't be shared with. */

static bool in_the_way(const struct hold *a, const struct hold *b)
{
	return (a->exclusive || b->exclusive) && a->first <= b->last &&
	       b->first <= a->last;
}

static bool must_wait(const struct qcow2 *q, const struct hold *h)
{
	for (const struct hold *o = q->holds; o && o != h; o = o->next)
		if (in_the_way(o, h))
			return true;
	return false;
}

static void hold_append(struct qcow2 *q, struct hold *h)
{
	h->next = NULL;
	h->prev = q->holds_last;
	*(h->prev ? &h->prev->next : &q->holds) = h;
	q->holds_last = h;
	q->exclusive_holds += h->exclusive;
}

void hold_take(struct qcow2 *q, struct hold *h, u64 first, u64 last,
               bool exclusive)
{
	*h = (struct hold){ first, last, exclusive, NULL, NULL };
	pthread_mutex_lock(&q->lock);
	hold_append(q, h);
	while (must_wait(q, h))
		pthread_cond_wait(&q->released, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

void hold_release(struct qcow2 *q, struct hold *h)
{
	pthread_mutex_lock(&q->lock);
	*(h->prev ? &h->prev->next : &q->holds) = h->next;
	*(h->next ? &h->next->prev : &q->holds_last) = h->prev;
	q->exclusive_holds -= h->exclusive;
	/* Two that share do not wait for each other. */
	if (h->exclusive || q->exclusive_holds)
		pthread_cond_broadcast(&q->released);
	pthread_mutex_unlock(&q->lock);
}

/* A request split into requests to the files below. */
struct part {
	struct block_request req;
	struct split *split;
};

struct split {
	struct qcow2 *q;
	struct block_request *req;
	struct hold hold;
	bool held;
	_Atomic unsigned left;
	_Atomic int result;
	struct iovec *slices;
	struct part parts[];
};

static void part_done(struct block_request *req, int result)
{
	struct split *s = ((struct part *)req->ctx)->split;
	struct block_request *whole = s->req;
	int none = 0;

	if (result < 0)
		atomic_compare_exchange_strong(&s->result, &none, result);
	if (atomic_fetch_sub(&s->left, 1) != 1)
		return;
	result = atomic_load(&s->result);
	if (s->held)
		hold_release(s->q, &s->hold);
	free(s->slices);
	free(s);
	block_complete(whole, result);
}

struct piece {
	struct block *to; /* NULL: zeroes */
	u64 at, length, offset;
};

/* What a range is made of, if that can be said at once. Lock held. Returns the
 * number of pieces, or -EAGAIN. */
static int survey(struct qcow2 *q, const struct block_io *io,
                  struct piece *pieces, int most)
{
	u64 at = 0;
	int n = 0;

	while (at < io->length) {
		struct extent e;
		struct piece *p = &pieces[n];

		if (n == most ||
		    extent_peek(q, io->offset + at, io->length - at, &e) < 0)
			return -EAGAIN;
		if (e.kind == EXTENT_COMPRESSED ||
		    (io->op == BLOCK_WRITE &&
		     !(e.kind == EXTENT_DATA && e.in_place)))
			return -EAGAIN;
		*p = (struct piece){ NULL, at, e.length, io->offset + at };
		if (e.kind == EXTENT_DATA) {
			/* The slow path says what is wrong. */
			if (io->op == BLOCK_WRITE
			        ? meta_overlaps(q, e.host, e.length)
			        : !q->external && e.host < q->cluster_size)
				return -EAGAIN;
			p->to = q->data;
			p->offset = e.host;
		} else if (e.kind == EXTENT_HOLE && q->backing &&
		           p->offset < q->backing_bytes) {
			p->to = q->backing;
			p->length = MIN(e.length, q->backing_bytes - p->offset);
		}
		at += p->length;
		n++;
	}
	return n;
}

static void launch(struct split *s, const struct piece *pieces, int n)
{
	struct block_request *req = s->req;
	struct iovec *slice = s->slices;
	int parts = 0;

	for (int i = 0; i < n; i++) {
		struct part *part = &s->parts[parts];

		if (!pieces[i].to) {
			iov_zero(req->iov, req->iov_count, pieces[i].at,
			         pieces[i].length);
			continue;
		}
		part->split = s;
		part->req = (struct block_request){
			.op = req->op,
			.flags = req->flags & BLOCK_REQ_FUA,
			.offset = pieces[i].offset,
			.length = pieces[i].length,
			.iov = req->iov,
			.iov_count = req->iov_count,
			.done = part_done,
			.ctx = part,
		};
		if (slice) {
			part->req.iov = slice;
			part->req.iov_count =
			    iov_slice(slice, req->iov, req->iov_count,
			              pieces[i].at, pieces[i].length);
			slice += part->req.iov_count;
		}
		parts++;
	}
	/* The last one to complete frees s: count first, then let go. */
	for (int i = 0, k = 0; i < n && k < parts; i++)
		if (pieces[i].to)
			block_submit(pieces[i].to, &s->parts[k++].req);
}

static int count_parts(const struct piece *pieces, int n)
{
	int parts = 0;

	for (int i = 0; i < n; i++)
		parts += pieces[i].to != NULL;
	return parts;
}

static struct split *split_make(struct qcow2 *q, struct block_request *req,
                                const struct piece *pieces, int n)
{
	size_t parts = (size_t)count_parts(pieces, n);
	struct split *s = malloc(sizeof(*s) + parts * sizeof(s->parts[0]));

	if (!s)
		return NULL;
	*s = (struct split){ .q = q, .req = req };
	if (n == 1)
		return s;
	s->slices = malloc((size_t)(req->iov_count + n) * sizeof(*s->slices));
	if (s->slices)
		return s;
	free(s);
	return NULL;
}

static struct hold hold_of(const struct qcow2 *q, u64 offset, u64 length)
{
	return (struct hold){ .first = cluster_of(q, offset),
		              .last = cluster_of(q, offset + length - 1) };
}

/* Lock held: the number of pieces, or -EAGAIN. */
static int look(struct qcow2 *q, const struct hold *h,
                const struct block_io *io, struct piece *pieces, int most)
{
	return q->exclusive_holds && must_wait(q, h)
	           ? -EAGAIN
	           : survey(q, io, pieces, most);
}

/* False: this request needs the slow path. */
static bool try_fast(struct qcow2 *q, struct block_request *req)
{
	const struct block_io io = { req->op, req->offset, req->length,
		                     req->iov, req->iov_count };
	struct piece pieces[PARTS_MAX];
	struct split *s;
	struct hold h = hold_of(q, req->offset, req->length);
	int n, parts;

	/* A durable write needs its mapping to be durable, too. */
	if (req->op == BLOCK_WRITE &&
	    (atomic_load(&q->corrupt) ||
	     ((req->flags & BLOCK_REQ_FUA) &&
	      (q->external || atomic_load(&q->meta_dirty)))))
		return false;
	pthread_mutex_lock(&q->lock);
	n = look(q, &h, &io, pieces, PARTS_MAX);
	s = n < 0 ? NULL : split_make(q, req, pieces, n);
	if (s) {
		s->hold = h;
		s->held = true;
		hold_append(q, &s->hold);
	}
	pthread_mutex_unlock(&q->lock);
	if (!s)
		return false;
	parts = count_parts(pieces, n);
	atomic_store(&s->left, (unsigned)parts);
	launch(s, pieces, n);
	if (parts == 0) {
		hold_release(q, &s->hold);
		free(s->slices);
		free(s);
		requests_post(&q->block, req, 0);
	}
	return true;
}

static bool piece_now(const struct block_io *io, const struct piece *p)
{
	struct iovec slice[NOW_VECTOR];
	struct block_io part = { io->op, p->offset, p->length, io->iov,
		                 io->iov_count };

	if (!p->to) {
		iov_zero(io->iov, io->iov_count, p->at, p->length);
		return true;
	}
	if (p->length < io->length) {
		part.iov = slice;
		part.iov_count =
		    iov_slice(slice, io->iov, io->iov_count, p->at, p->length);
	}
	return block_now(p->to, &part);
}

/* With nothing of ours to write it is the file's alone. */
static bool flush_is_passed(struct qcow2 *q)
{
	return !q->external && !atomic_load(&q->corrupt) &&
	       !atomic_load_explicit(&q->meta_dirty, memory_order_acquire);
}

static bool flush_now(struct qcow2 *q, const struct block_io *io)
{
	return q->writable && flush_is_passed(q) && block_now(q->file, io);
}

static bool transfer_now(struct qcow2 *q, const struct block_io *io)
{
	struct hold h = hold_of(q, io->offset, io->length);
	struct piece pieces[NOW_PIECES];
	bool write = io->op == BLOCK_WRITE, done;
	int n;

	if (io->iov_count > NOW_VECTOR || (write && atomic_load(&q->corrupt)))
		return false;
	if (write && atomic_load_explicit(&q->tracking, memory_order_relaxed))
		bitmaps_mark(q, io->offset, io->length);
	pthread_mutex_lock(&q->lock);
	n = look(q, &h, io, pieces, NOW_PIECES);
	done = n >= 0;
	if (done)
		hold_append(q, &h);
	pthread_mutex_unlock(&q->lock);
	if (!done)
		return false;
	for (int i = 0; i < n && done; i++)
		done = piece_now(io, &pieces[i]);
	hold_release(q, &h);
	return done;
}

bool requests_now(struct block *b, const struct block_io *io)
{
	struct qcow2 *q = qcow2_of(b);

	return io->op == BLOCK_FLUSH ? flush_now(q, io) : transfer_now(q, io);
}

static bool try_fast_flush(struct qcow2 *q, struct block_request *req)
{
	struct split *s;

	if (!flush_is_passed(q))
		return false;
	s = malloc(sizeof(*s) + sizeof(s->parts[0]));
	if (!s)
		return false;
	*s = (struct split){ .q = q, .req = req };
	atomic_store(&s->left, 1);
	s->parts[0].split = s;
	s->parts[0].req = (struct block_request){ .op = BLOCK_FLUSH,
		                                  .done = part_done,
		                                  .ctx = &s->parts[0] };
	block_submit(q->file, &s->parts[0].req);
	return true;
}

void requests_post(struct block *b, struct block_request *req, int result)
{
	*state_of(req) = (struct state){ .post = true, .posted = result };
	queue_put(qcow2_of(b)->workers, req);
}

static void cancelled(struct block_request *req)
{
	state_of(req)->post = true;
	state_of(req)->posted = -ECANCELED;
}

bool requests_cancel(struct block *b, struct block_request *req)
{
	return queue_change(qcow2_of(b)->workers, req, cancelled);
}

void requests_submit(struct block *b, struct block_request *req)
{
	struct qcow2 *q = qcow2_of(b);
	bool done = false;

	*state_of(req) = (struct state){ .next = NULL };
	if (req->op != BLOCK_READ && req->op != BLOCK_FLUSH &&
	    atomic_load_explicit(&q->tracking, memory_order_relaxed))
		bitmaps_mark(q, req->offset, req->length);
	if (req->op == BLOCK_READ || req->op == BLOCK_WRITE)
		done = try_fast(q, req);
	else if (req->op == BLOCK_FLUSH && q->writable)
		done = try_fast_flush(q, req);
	if (!done)
		queue_put(q->workers, req);
}

static int flush(struct qcow2 *q)
{
	int rc;

	if (!q->writable)
		return 0;
	if (!atomic_load(&q->meta_dirty))
		return atomic_load(&q->corrupt) ? -EIO : meta_flush(q);
	pthread_mutex_lock(&q->meta);
	rc = commit(q);
	pthread_mutex_unlock(&q->meta);
	return rc;
}

/* Read the tables that the request needs into memory. */
static int warm(struct qcow2 *q, const struct block_request *req)
{
	u64 at = req->offset, end = at + req->length;
	u64 per_table = (u64)q->l2_entries << q->h.cluster_bits;
	int rc = 0;

	pthread_mutex_lock(&q->meta);
	while (at < end && rc == 0) {
		struct table *t;

		rc = l2_get(q, at, false, &t);
		if (rc == 0)
			table_put(t);
		at = ALIGN_DOWN(at, per_table) + per_table;
	}
	pthread_mutex_unlock(&q->meta);
	return rc;
}

static int run_slow(struct qcow2 *q, struct block_request *req)
{
	u64 last = cluster_of(q, req->offset + req->length - 1);
	struct hold h;
	int rc = -EINVAL;

	hold_take(q, &h, cluster_of(q, req->offset), last,
	          req->op != BLOCK_READ);
	switch (req->op) {
	case BLOCK_READ:
		rc = rw_read(q, req->offset, req->length, req->iov,
		             req->iov_count, 0);
		break;
	case BLOCK_WRITE:
		rc = rw_write(q, req->offset, req->length, req->iov,
		              req->iov_count);
		break;
	case BLOCK_WRITE_ZEROES:
		rc = rw_zero(q, req->offset, req->length,
		             !(req->flags & BLOCK_REQ_NO_UNMAP));
		break;
	case BLOCK_DISCARD:
		rc = rw_discard(q, req->offset, req->length);
		break;
	case BLOCK_FLUSH:
		break;
	}
	hold_release(q, &h);
	if (rc == 0 && req->op != BLOCK_READ && (req->flags & BLOCK_REQ_FUA))
		rc = flush(q);
	return rc;
}

static void serve(void *ctx, struct block_request *req)
{
	struct qcow2 *q = ctx;
	int rc;

	if (state_of(req)->post) {
		block_complete(req, state_of(req)->posted);
		return;
	}
	if (req->op == BLOCK_FLUSH) {
		block_complete(req, flush(q));
		return;
	}
	if (req->op != BLOCK_READ && atomic_load(&q->corrupt)) {
		block_complete(req, -EIO);
		return;
	}
	if (req->op == BLOCK_READ || req->op == BLOCK_WRITE) {
		rc = warm(q, req);
		if (rc < 0) {
			block_complete(req, rc);
			return;
		}
		if (try_fast(q, req))
			return;
	}
	block_complete(req, run_slow(q, req));
}

void requests_init(struct qcow2 *q, unsigned workers)
{
	q->workers = queue_create(workers, STACK_BYTES, serve, q);
}

void requests_fini(struct qcow2 *q)
{
	queue_destroy(q->workers);
	q->workers = NULL;
}
