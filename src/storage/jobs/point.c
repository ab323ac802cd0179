/* SPDX-License-Identifier: Apache-2.0 */
/*
 * point - the contents of one moment, while writing goes on.
 *
 * One bit a granule says that the disk below may no longer be asked: its old
 * contents are in the scratch file (or nobody wants them). The bit is set
 * before the write that spoils the granule is passed on. So a reader asks
 * below first and looks at the bit afterwards: still clear, and what it got
 * is from before that write.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/thread.h"
#include "storage/core/iov.h"
#include "storage/jobs/internal.h"
#include "storage/raw/raw.h"

enum { STACK_BYTES = 128 * 1024 };

struct point {
	struct block block;
	struct live *live;     /* borrowed */
	struct block *scratch; /* owned; NULL: none */
	struct point *next;
	pthread_mutex_t lock;
	pthread_cond_t work;
	/* Under lock. */
	u64 *moved; /* a bit a granule */
	int failed;
	struct block_request *queue, **queue_tail;
	bool stop;
	pthread_t thread;
	u8 *reading, *copying; /* a granule each, of the two threads */
};

struct state {
	struct block_request *next;
	int posted;
	bool post;
};

static struct state *state_of(struct block_request *req)
{
	return (struct state *)(void *)&req
	    ->driver_private[BLOCK_PRIVATE_FRONT];
}

static struct point *point_of(struct block *b)
{
	return container_of(b, struct point, block);
}

static bool moved_bit(const struct point *p, u64 granule)
{
	return p->moved[granule / 64] >> (granule % 64) & 1;
}

static bool is_moved(struct point *p, u64 granule, int *failed)
{
	bool moved;

	pthread_mutex_lock(&p->lock);
	moved = moved_bit(p, granule);
	*failed = p->failed;
	pthread_mutex_unlock(&p->lock);
	return moved;
}

static u64 granule_bytes(const struct point *p, u64 granule)
{
	return MIN(GRANULE, block_size(&p->block) - granule * GRANULE);
}

static bool spoils(const struct block_request *req)
{
	return req->op != BLOCK_READ && req->op != BLOCK_FLUSH &&
	       req->length > 0;
}

bool points_want(struct live *l, const struct block_request *req)
{
	bool want = false;

	if (!l->points || !spoils(req))
		return false;
	for (struct point *p = l->points; p && !want; p = p->next) {
		pthread_mutex_lock(&p->lock);
		for (u64 g = req->offset / GRANULE;
		     !p->failed && !want &&
		     g <= (req->offset + req->length - 1) / GRANULE;
		     g++)
			want = !moved_bit(p, g);
		pthread_mutex_unlock(&p->lock);
	}
	return want;
}

static bool is_zero(const u8 *p, u64 n)
{
	return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

static void copy_granule(struct point *p, u64 granule)
{
	u64 n = granule_bytes(p, granule);
	int failed, rc;

	if (is_moved(p, granule, &failed) || failed)
		return;
	rc = block_sync(p->live->under, BLOCK_READ, granule * GRANULE,
	                p->copying, n);
	if (rc == 0 && !p->scratch)
		rc = -ENOSPC;
	else if (rc == 0 && !is_zero(p->copying, n))
		rc = block_sync(p->scratch, BLOCK_WRITE, granule * GRANULE,
		                p->copying, n);
	pthread_mutex_lock(&p->lock);
	p->moved[granule / 64] |= BIT(granule % 64);
	if (rc < 0 && p->failed == 0)
		p->failed = rc;
	pthread_mutex_unlock(&p->lock);
}

/* The list changes only while the live disk is paused, and req is counted. */
void points_copy(struct live *l, const struct block_request *req)
{
	if (!spoils(req))
		return;
	for (struct point *p = l->points; p; p = p->next)
		for (u64 g = req->offset / GRANULE;
		     g <= (req->offset + req->length - 1) / GRANULE; g++)
			copy_granule(p, g);
}

void point_release(struct block *b, u64 offset, u64 length)
{
	struct point *p = point_of(b);

	pthread_mutex_lock(&p->lock);
	for (u64 g = offset / GRANULE; g * GRANULE < offset + length; g++)
		p->moved[g / 64] |= BIT(g % 64);
	pthread_mutex_unlock(&p->lock);
}

bool point_failed(struct block *b)
{
	int failed;

	(void)is_moved(point_of(b), 0, &failed);
	return failed;
}

static int read_granule(struct point *p, u64 granule, u64 from, u64 length)
{
	u64 offset = granule * GRANULE + from;
	int failed, rc = 0;
	bool moved = is_moved(p, granule, &failed);

	if (!moved && !failed) {
		rc = live_read_under(p->live, offset, p->reading, length);
		moved = is_moved(p, granule, &failed);
	}
	if (failed)
		return -EIO;
	if (moved && !p->scratch)
		return -EIO; /* released; a backup never asks again */
	if (moved)
		rc = block_sync(p->scratch, BLOCK_READ, offset, p->reading,
		                length);
	return rc;
}

static int perform(struct point *p, const struct block_request *req)
{
	u64 at = 0;
	int rc = 0;

	while (req->op == BLOCK_READ && at < req->length && rc == 0) {
		u64 offset = req->offset + at;
		u64 from = offset % GRANULE;
		u64 n = MIN(req->length - at, GRANULE - from);

		rc = read_granule(p, offset / GRANULE, from, n);
		if (rc == 0)
			iov_copy_in(req->iov, req->iov_count, at, p->reading,
			            n);
		at += n;
	}
	return rc;
}

static void *point_thread(void *arg)
{
	struct point *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->stop || p->queue) {
		struct block_request *req = p->queue;
		int rc;

		if (!req) {
			pthread_cond_wait(&p->work, &p->lock);
			continue;
		}
		p->queue = state_of(req)->next;
		if (!p->queue)
			p->queue_tail = &p->queue;
		pthread_mutex_unlock(&p->lock);
		rc = state_of(req)->post ? state_of(req)->posted
		                         : perform(p, req);
		block_complete(req, rc);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void enqueue(struct point *p, struct block_request *req)
{
	pthread_mutex_lock(&p->lock);
	*p->queue_tail = req;
	p->queue_tail = &state_of(req)->next;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

static void point_submit(struct block *b, struct block_request *req)
{
	*state_of(req) = (struct state){ .post = false };
	enqueue(point_of(b), req);
}

static void point_post(struct block *b, struct block_request *req, int result)
{
	*state_of(req) = (struct state){ .post = true, .posted = result };
	enqueue(point_of(b), req);
}

static int point_map(struct block *b, u64 offset, u64 length,
                     struct block_extent *extent)
{
	struct point *p = point_of(b);
	int rc = block_map(&p->live->block, offset, length, extent);
	u64 g, end;

	if (rc < 0)
		return rc;
	end = offset + extent->length;
	pthread_mutex_lock(&p->lock);
	if (moved_bit(p, offset / GRANULE)) {
		for (g = offset / GRANULE;
		     g * GRANULE < offset + length && moved_bit(p, g); g++)
			continue;
		*extent = (struct block_extent){ .flags = BLOCK_EXTENT_DATA };
		end = MIN(offset + length, g * GRANULE);
	} else {
		for (g = offset / GRANULE; g * GRANULE < end; g++)
			if (moved_bit(p, g))
				end = g * GRANULE;
	}
	pthread_mutex_unlock(&p->lock);
	extent->length = end - offset;
	return 0;
}

static void point_free(struct point *p)
{
	block_close(p->scratch);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	block_fini(&p->block);
	free(p->moved);
	free(p->reading);
	free(p->copying);
	free(p);
}

static void point_close(struct block *b)
{
	struct point *p = point_of(b), **at;

	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	live_pause(p->live);
	pthread_mutex_lock(&p->live->lock);
	for (at = &p->live->points; *at != p; at = &(*at)->next)
		continue;
	*at = p->next;
	pthread_mutex_unlock(&p->live->lock);
	live_resume(p->live);
	point_free(p);
}

static const struct block_driver point_driver = {
	.name = "point",
	.submit = point_submit,
	.post = point_post,
	.close = point_close,
	.map = point_map,
};

static int open_scratch(struct point *p, int fd, struct error *err)
{
	const struct block_open how = { .path = "scratch file",
		                        .fd = fd,
		                        .flags = BLOCK_OPEN_NO_FLUSH |
		                                 BLOCK_OPEN_NO_LOCK };
	int rc;

	if (fd < 0)
		return 0;
	rc = raw_open(&p->scratch, &how, err);
	return rc < 0 ? rc
	              : block_resize(p->scratch, block_size(&p->block), err);
}

int point_open_paused(struct block **out, struct live *l, int scratch,
                      struct error *err)
{
	struct point *p = xalloc(sizeof(*p));
	u64 size = block_size(&l->block);
	int rc;

	block_init(&p->block, &point_driver);
	p->block.info = l->block.info;
	p->block.info.readonly = true;
	atomic_store(&p->block.size, size);
	p->live = l;
	p->queue_tail = &p->queue;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	rc = open_scratch(p, scratch, err);
	if (rc < 0)
		error_prefix(err, "the file for what is overwritten meanwhile");
	if (rc == 0) {
		p->moved = try_alloc(size / GRANULE / 64 + 1, 8);
		p->reading = try_alloc(1, GRANULE);
		p->copying = try_alloc(1, GRANULE);
		if (!p->moved || !p->reading || !p->copying)
			rc = error_set(err, -ENOMEM, "out of memory");
	}
	if (rc == 0 && (rc = live_need_thread(l)) < 0)
		error_set(err, rc, "no thread for a disk");
	if (rc == 0 &&
	    (rc = thread_start(&p->thread, STACK_BYTES, point_thread, p)) < 0)
		error_set(err, rc, "no thread for a view of a disk");
	if (rc < 0) {
		point_free(p);
		return rc;
	}
	pthread_mutex_lock(&l->lock);
	p->next = l->points;
	l->points = p;
	pthread_mutex_unlock(&l->lock);
	*out = &p->block;
	return 0;
}

int point_open(struct block **out, struct block *live, int scratch,
               struct error *err)
{
	struct live *l;
	int rc = live_claim(live, &l, err);

	if (rc < 0) {
		if (scratch >= 0)
			close(scratch);
		return rc;
	}
	live_pause(l);
	rc = point_open_paused(out, l, scratch, err);
	live_resume(l);
	live_release(l);
	return rc;
}
