/* SPDX-License-Identifier: Apache-2.0 */
#include "recorder.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "storage/core/driver.h"
#include "storage/core/iov.h"
#include "support.h"

enum { SECTOR = 512, ROOM = 96 * 1024 * 1024 };

struct version {
	u64 sector;
	u8 data[SECTOR];
};

/* One open. */
struct view {
	struct block block;
	struct recorder *r;
	struct block_request *queue[512]; /* under the recorder's lock */
	size_t queued;
	bool stop;
	pthread_t thread;
};

struct recorder {
	u8 *now;     /* as reads see it */
	u8 *durable; /* as of the last flush */
	u64 size, durable_size, touched;
	struct version *pending; /* sectors written since, in order */
	size_t pending_count, pending_room;
	u32 random; /* under lock */
	u32 faults; /* random, too; under serving */
	u64 operations, cut_at;
	_Atomic bool cut;
	u32 fail_one_in;
	int fail_error;
	_Atomic bool reads_fail;

	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_mutex_t serving;
};

static struct view *view_of(struct block *b)
{
	return container_of(b, struct view, block);
}

struct state {
	bool post;
	int result;
};

static struct state *state_of(struct block_request *req)
{
	return (struct state *)(void *)&req
	    ->driver_private[BLOCK_PRIVATE_FRONT];
}

static void remember(struct recorder *r, u64 offset, u64 length)
{
	for (u64 at = offset; at < offset + length; at += SECTOR) {
		struct version *v;

		if (r->pending_count == r->pending_room) {
			r->pending_room =
			    r->pending_room ? r->pending_room * 2 : 1024;
			r->pending =
			    xrealloc(r->pending, r->pending_room * sizeof(*v));
		}
		v = &r->pending[r->pending_count++];
		v->sector = at / SECTOR;
		memcpy(v->data, r->now + at, SECTOR);
	}
}

/* What is durable now is not undone by what was written before it. */
static void forget_versions(struct recorder *r, u64 offset, u64 end)
{
	size_t keep = 0;

	for (size_t i = 0; i < r->pending_count; i++) {
		u64 at = r->pending[i].sector * SECTOR;

		if (at < offset || at >= end)
			r->pending[keep++] = r->pending[i];
	}
	r->pending_count = keep;
}

static void settle(struct recorder *r)
{
	for (size_t i = 0; i < r->pending_count; i++)
		memcpy(r->durable + r->pending[i].sector * SECTOR,
		       r->pending[i].data, SECTOR);
	r->pending_count = 0;
	r->durable_size = r->size;
}

static int serve(struct recorder *r, struct block_request *req)
{
	u64 end = req->offset + req->length;

	if (r->cut)
		return -EIO;
	if (req->op != BLOCK_READ) {
		r->operations++;
		if (r->cut_at && r->operations >= r->cut_at) {
			r->cut = true;
			return -EIO;
		}
	}
	if (r->fail_one_in && (r->reads_fail || req->op != BLOCK_READ) &&
	    random_next(&r->faults) % r->fail_one_in == 0)
		return r->fail_error;
	if (end > ROOM)
		return -ENOSPC;
	switch (req->op) {
	case BLOCK_READ:
		iov_copy_in(req->iov, req->iov_count, 0, r->now + req->offset,
		            req->length);
		return 0;
	case BLOCK_WRITE:
		iov_copy_out(req->iov, req->iov_count, 0, r->now + req->offset,
		             req->length);
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
		memset(r->now + req->offset, 0, req->length);
		break;
	case BLOCK_FLUSH:
		settle(r);
		return 0;
	}
	if (req->flags & BLOCK_REQ_FUA)
		forget_versions(r, req->offset, end);
	else
		remember(r, req->offset, req->length);
	r->touched = MAX(r->touched, end);
	if (req->op != BLOCK_DISCARD)
		r->size = MAX(r->size, end);
	if (req->flags & BLOCK_REQ_FUA) {
		memcpy(r->durable + req->offset, r->now + req->offset,
		       req->length);
		r->durable_size = MAX(r->durable_size, end);
	}
	return 0;
}

static void *run(void *arg)
{
	struct view *v = arg;
	struct recorder *r = v->r;

	for (;;) {
		struct block_request *req = NULL;
		int rc;

		pthread_mutex_lock(&r->lock);
		while (!v->queued && !v->stop)
			pthread_cond_wait(&r->work, &r->lock);
		if (v->queued) {
			/* Any one of them: requests are unordered. */
			size_t i = random_next(&r->random) % v->queued;

			req = v->queue[i];
			v->queue[i] = v->queue[--v->queued];
		}
		pthread_cond_broadcast(&r->work);
		pthread_mutex_unlock(&r->lock);
		if (!req)
			return NULL;
		pthread_mutex_lock(&r->serving);
		rc =
		    state_of(req)->post ? state_of(req)->result : serve(r, req);
		if (r->size > block_size(&v->block))
			atomic_store(&v->block.size, r->size);
		pthread_mutex_unlock(&r->serving);
		block_complete(req, rc);
	}
}

static void put(struct view *v, struct block_request *req)
{
	struct recorder *r = v->r;

	pthread_mutex_lock(&r->lock);
	while (v->queued == ARRAY_SIZE(v->queue))
		pthread_cond_wait(&r->work, &r->lock);
	v->queue[v->queued++] = req;
	pthread_cond_broadcast(&r->work);
	pthread_mutex_unlock(&r->lock);
}

/* Some are done at once; of some writes a part is, and they come again. */
static bool now(struct block *b, const struct block_io *io)
{
	struct view *v = view_of(b);
	struct recorder *r = v->r;
	struct block_request req = { .op = io->op,
		                     .offset = io->offset,
		                     .length = io->length,
		                     .iov = io->iov,
		                     .iov_count = io->iov_count };
	u32 luck;
	int rc;

	pthread_mutex_lock(&r->lock);
	luck = random_next(&r->random) % 4;
	pthread_mutex_unlock(&r->lock);
	if (luck < 2)
		return false;
	if (luck == 2 && io->op == BLOCK_WRITE)
		req.length = ALIGN_DOWN(io->length / 2, (u64)SECTOR);
	pthread_mutex_lock(&r->serving);
	rc = req.length || req.op == BLOCK_FLUSH ? serve(r, &req) : 0;
	if (r->size > block_size(b))
		atomic_store(&b->size, r->size);
	pthread_mutex_unlock(&r->serving);
	return rc == 0 && req.length == io->length;
}

static void submit(struct block *b, struct block_request *req)
{
	*state_of(req) = (struct state){ .post = false };
	put(view_of(b), req);
}

static void post(struct block *b, struct block_request *req, int result)
{
	*state_of(req) = (struct state){ .post = true, .result = result };
	put(view_of(b), req);
}

static void close_recorder(struct block *b)
{
	struct view *v = view_of(b);

	pthread_mutex_lock(&v->r->lock);
	v->stop = true;
	pthread_cond_broadcast(&v->r->work);
	pthread_mutex_unlock(&v->r->lock);
	pthread_join(v->thread, NULL);
	block_fini(b);
	free(v);
}

static int resize(struct block *b, u64 size, struct error *err)
{
	struct recorder *r = view_of(b)->r;

	(void)err;
	pthread_mutex_lock(&r->serving);
	if (size < r->size)
		memset(r->now + size, 0, r->size - size);
	r->size = size;
	atomic_store(&b->size, size);
	pthread_mutex_unlock(&r->serving);
	return 0;
}

static const struct block_driver driver = {
	.name = "recorder",
	.submit = submit,
	.now = now,
	.post = post,
	.close = close_recorder,
	.resize = resize,
};

/* Pages come as they are touched; calloc() would touch them all where freed
 * memory is filled (MALLOC_PERTURB_), as test runners like to ask for. */
static u8 *reserve(void)
{
	void *p = mmap(NULL, ROOM, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

struct recorder *recorder_create(u32 seed)
{
	struct recorder *r = xalloc(sizeof(*r));

	r->random = r->faults = seed | 1;
	r->now = reserve();
	r->durable = reserve();
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	pthread_mutex_init(&r->serving, NULL);
	return r;
}

void recorder_destroy(struct recorder *r)
{
	munmap(r->now, ROOM);
	munmap(r->durable, ROOM);
	free(r->pending);
	pthread_mutex_destroy(&r->serving);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->work);
	free(r);
}

struct block *recorder_open(struct recorder *r)
{
	struct view *v = xalloc(sizeof(*v));

	v->r = r;
	block_init(&v->block, &driver);
	v->block.info.sector = SECTOR;
	v->block.unbounded = true;
	atomic_store(&v->block.size, r->size);
	pthread_create(&v->thread, NULL, run, v);
	return &v->block;
}

void recorder_cut_after(struct recorder *r, u64 operations)
{
	pthread_mutex_lock(&r->serving);
	r->cut_at = operations ? r->operations + operations : 0;
	pthread_mutex_unlock(&r->serving);
}

bool recorder_was_cut(const struct recorder *r)
{
	return r->cut;
}

void recorder_fail(struct recorder *r, u32 one_in, int error)
{
	r->reads_fail = true;
	r->fail_one_in = one_in;
	r->fail_error = error;
}

void recorder_fail_writes(struct recorder *r, u32 one_in, int error)
{
	pthread_mutex_lock(&r->serving);
	r->reads_fail = false;
	r->fail_one_in = one_in;
	r->fail_error = error;
	pthread_mutex_unlock(&r->serving);
}

void recorder_power_up(struct recorder *r)
{
	/* Writes reach the disk in any order, or not at all: going through
	 * them in order and tossing a coin leaves any version of each. */
	u32 odds = random_next(&r->random) % 4;
	u64 size = r->durable_size;

	for (size_t i = 0; i < r->pending_count; i++) {
		struct version *v = &r->pending[i];

		if (random_next(&r->random) % 4 < odds)
			continue;
		memcpy(r->durable + v->sector * SECTOR, v->data, SECTOR);
		size = MAX(size, (v->sector + 1) * SECTOR);
	}
	/* Sectors of a discarded range behind the end do not make it grow. */
	size = MIN(size, MAX(r->size, r->durable_size));
	r->pending_count = 0;
	memcpy(r->now, r->durable, MAX(r->touched, size));
	r->size = r->durable_size = size;
	r->cut = false;
	r->cut_at = 0;
	r->fail_one_in = 0;
}

void recorder_save(struct recorder *r, const char *path)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(r->now, 1, r->size, f), r->size);
	assert_int_equal(fclose(f), 0);
}

void recorder_load(struct recorder *r, const char *path)
{
	FILE *f = fopen(path, "rb");

	assert_non_null(f);
	memset(r->now, 0, r->touched);
	memset(r->durable, 0, r->touched);
	r->size = fread(r->now, 1, ROOM, f);
	fclose(f);
	memcpy(r->durable, r->now, r->size);
	r->touched = r->durable_size = r->size;
	r->pending_count = 0;
}

u64 recorder_operations(const struct recorder *r)
{
	return r->operations;
}
