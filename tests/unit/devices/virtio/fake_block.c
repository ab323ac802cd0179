/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_block.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

struct block {
	struct block_info info;
	u8 *data;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct block_request *head, **tail; /* linked by driver_private[0] */
	unsigned under_way, submitted;
	bool hold, stop, at_once, dirty;
	void (*meanwhile)(void *ctx);
	void *ctx;
	int code;
	enum block_op last_op;
	unsigned last_flags;
};

static int carry_out(struct block *b, struct block_request *r)
{
	u8 *at = b->data + r->offset;

	if (b->meanwhile)
		b->meanwhile(b->ctx);
	if (b->code)
		return b->code;
	for (int i = 0; i < r->iov_count; i++) {
		size_t n = r->iov[i].iov_len;

		if (r->op == BLOCK_READ)
			memcpy(r->iov[i].iov_base, at, n);
		else if (r->op == BLOCK_WRITE)
			memcpy(at, r->iov[i].iov_base, n);
		at += n;
	}
	if (r->op == BLOCK_DISCARD || r->op == BLOCK_WRITE_ZEROES)
		memset(at, 0, r->length);
	return 0;
}

static void *work(void *arg)
{
	struct block *b = arg;

	pthread_mutex_lock(&b->lock);
	for (;;) {
		struct block_request *r;
		int rc;

		while (!b->stop && (b->hold || !b->head))
			pthread_cond_wait(&b->cond, &b->lock);
		if (!b->head)
			break;
		r = b->head;
		b->head = r->driver_private[0];
		if (!b->head)
			b->tail = &b->head;
		rc = carry_out(b, r);
		pthread_mutex_unlock(&b->lock);
		r->done(r, rc);
		pthread_mutex_lock(&b->lock);
		b->under_way--;
		pthread_cond_broadcast(&b->cond);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

struct block *fake_block_create(u64 size, u32 sector)
{
	struct block *b = xalloc(sizeof(*b));

	b->info = (struct block_info){ .size = size,
		                       .sector = sector,
		                       .cluster = 65536,
		                       .discard = true };
	b->data = xalloc(size);
	b->tail = &b->head;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->cond, NULL);
	if (pthread_create(&b->thread, NULL, work, b))
		abort();
	return b;
}

void fake_block_destroy(struct block *b)
{
	pthread_mutex_lock(&b->lock);
	b->stop = true;
	pthread_cond_broadcast(&b->cond);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
	pthread_mutex_destroy(&b->lock);
	pthread_cond_destroy(&b->cond);
	free(b->data);
	free(b);
}

void fake_block_set_size(struct block *b, u64 size)
{
	b->info.size = size;
}

void fake_block_set_flags(struct block *b, bool readonly, bool discard)
{
	b->info.readonly = readonly;
	b->info.discard = discard;
}

void fake_block_hold(struct block *b, bool hold)
{
	pthread_mutex_lock(&b->lock);
	b->hold = hold;
	pthread_cond_broadcast(&b->cond);
	pthread_mutex_unlock(&b->lock);
}

void fake_block_at_once(struct block *b, bool at_once)
{
	pthread_mutex_lock(&b->lock);
	b->at_once = at_once;
	pthread_mutex_unlock(&b->lock);
}

void fake_block_dirty(struct block *b, bool dirty)
{
	pthread_mutex_lock(&b->lock);
	b->dirty = dirty;
	pthread_mutex_unlock(&b->lock);
}

void fake_block_meanwhile(struct block *b, void (*fn)(void *ctx), void *ctx)
{
	pthread_mutex_lock(&b->lock);
	b->meanwhile = fn;
	b->ctx = ctx;
	pthread_mutex_unlock(&b->lock);
}

void fake_block_fail(struct block *b, int code)
{
	pthread_mutex_lock(&b->lock);
	b->code = code;
	pthread_mutex_unlock(&b->lock);
}

u8 *fake_block_data(struct block *b)
{
	return b->data;
}

unsigned fake_block_submitted(struct block *b)
{
	unsigned n;

	pthread_mutex_lock(&b->lock);
	n = b->submitted;
	pthread_mutex_unlock(&b->lock);
	return n;
}

enum block_op fake_block_last_op(struct block *b)
{
	return b->last_op;
}

unsigned fake_block_last_flags(struct block *b)
{
	return b->last_flags;
}

/* ---- storage/block.h ---- */

void block_info(const struct block *b, struct block_info *info)
{
	*info = b->info;
}

bool block_submit(struct block *b, struct block_request *r)
{
	u64 sum = 0;

	for (int i = 0; i < r->iov_count; i++)
		sum += r->iov[i].iov_len;
	if (r->op == BLOCK_READ || r->op == BLOCK_WRITE)
		ASSERT(sum == r->length);
	ASSERT(r->op == BLOCK_FLUSH || (r->offset + r->length <= b->info.size &&
	                                r->offset % b->info.sector == 0 &&
	                                r->length % b->info.sector == 0));
	pthread_mutex_lock(&b->lock);
	b->submitted++;
	b->last_op = r->op;
	b->last_flags = r->flags;
	if (b->at_once && (r->flags & BLOCK_REQ_INLINE)) {
		int rc = carry_out(b, r);

		pthread_mutex_unlock(&b->lock);
		r->done(r, rc);
		return true;
	}
	r->driver_private[0] = NULL;
	*b->tail = r;
	b->tail = (struct block_request **)&r->driver_private[0];
	b->under_way++;
	pthread_cond_broadcast(&b->cond);
	pthread_mutex_unlock(&b->lock);
	return false;
}

bool block_is_flushed(struct block *b)
{
	bool flushed;

	pthread_mutex_lock(&b->lock);
	flushed = b->at_once && !b->dirty;
	pthread_mutex_unlock(&b->lock);
	return flushed;
}

void block_drain(struct block *b)
{
	pthread_mutex_lock(&b->lock);
	while (b->under_way)
		pthread_cond_wait(&b->cond, &b->lock);
	pthread_mutex_unlock(&b->lock);
}
