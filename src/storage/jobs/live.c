/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live - the filter that stands between a disk's user and its image.
 *
 * Requests go on at once, on their submitter's thread, unless the disk is
 * paused (then they wait in a list) or a point in time wants what they would
 * overwrite (then our thread copies that first). A job that follows the guest
 * is told of a write when it is over (written.c), and may hold its request
 * until it has copied that.
 */
#include "storage/jobs/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/thread.h"
#include "storage/core/chain.h"
#include "storage/image.h"
#include "storage/raw/raw.h"

enum { STACK_BYTES = 128 * 1024 };

static const struct block_driver live_driver;

struct live_request *live_request_of(struct block_request *req)
{
	return (struct live_request *)(void *)&req
	    ->driver_private[BLOCK_PRIVATE_FRONT];
}

struct live *live_of(struct block *b)
{
	return container_of(b, struct live, block);
}

/* One that got past the pause is over. True: a job completes its request. */
static bool leave(struct live *l, const struct block_io *io,
                  struct block_request *req, int result)
{
	bool kept;

	pthread_mutex_lock(&l->lock);
	kept = written(l, io, req, result);
	/* Our thread sleeps on it too, and is not to be woken each time. */
	if (--l->below == 0 && l->paused)
		pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	return kept;
}

static void passed_done(struct block_request *copy, int result)
{
	struct block_request *req = copy->ctx;
	const struct block_io io = { .op = copy->op,
		                     .offset = copy->offset,
		                     .length = copy->length };
	bool kept = leave(live_of(req->driver_private[0]), &io, req, result);

	free(copy);
	if (!kept)
		block_complete(req, result);
}

static void pass(struct live *l, struct block_request *req)
{
	struct block_request *copy = live_request_of(req)->passed;

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
	block_submit(l->under, copy);
}

static void append(struct block_request ***tail, struct block_request *req)
{
	live_request_of(req)->next = NULL;
	**tail = req;
	*tail = &live_request_of(req)->next;
}

static void *live_thread(void *arg);

/* Lock held. */
static int need_thread(struct live *l)
{
	int rc = 0;

	if (!l->threaded)
		rc = thread_start(&l->thread, STACK_BYTES, live_thread, l);
	l->threaded = rc == 0;
	return rc;
}

int live_need_thread(struct live *l)
{
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = need_thread(l);
	pthread_mutex_unlock(&l->lock);
	return rc;
}

static void live_post(struct block *b, struct block_request *req, int result)
{
	struct live *l = live_of(b);
	bool threaded;

	*live_request_of(req) =
	    (struct live_request){ .over = true, .result = result };
	pthread_mutex_lock(&l->lock);
	threaded = need_thread(l) == 0;
	if (threaded) {
		append(&l->slow_tail, req);
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
	/* Who gets no thread from the host hears of it here and now. */
	if (!threaded)
		block_complete(req, result);
}

/* Lock held, not paused. True: pass it on now; false: our thread will, which is
 * there when there are points. */
static bool admit(struct live *l, struct block_request *req)
{
	l->below++;
	if (!points_want(l, req))
		return true;
	append(&l->slow_tail, req);
	pthread_cond_broadcast(&l->changed);
	return false;
}

static void live_submit(struct block *b, struct block_request *req)
{
	struct live *l = live_of(b);
	bool now = false;

	*live_request_of(req) =
	    (struct live_request){ .passed =
		                       malloc(sizeof(struct block_request)) };
	if (!live_request_of(req)->passed) {
		live_post(b, req, -ENOMEM);
		return;
	}
	pthread_mutex_lock(&l->lock);
	if (l->paused)
		append(&l->held_tail, req);
	else
		now = admit(l, req);
	pthread_mutex_unlock(&l->lock);
	if (now)
		pass(l, req);
}

/* A write may have been made in part before it is submitted: then it is marked
 * when it is done there. */
static bool live_now(struct block *b, const struct block_io *io)
{
	struct live *l = live_of(b);
	bool may, done;

	pthread_mutex_lock(&l->lock);
	may = !l->paused && (io->op == BLOCK_READ || io->op == BLOCK_FLUSH ||
	                     (!l->points && written_beside(l)));
	l->below += may;
	pthread_mutex_unlock(&l->lock);
	if (!may)
		return false;
	done = block_now(l->under, io);
	(void)leave(l, io, NULL, 0);
	return done;
}

void live_pause(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	l->paused++;
	while (l->below > 0)
		pthread_cond_wait(&l->changed, &l->lock);
	pthread_mutex_unlock(&l->lock);
	pthread_rwlock_wrlock(&l->graph);
}

void live_resume(struct live *l)
{
	struct block_request *list = NULL, *req, **tail = &list;

	pthread_rwlock_unlock(&l->graph);
	pthread_mutex_lock(&l->lock);
	l->paused--;
	while (l->paused == 0 && (req = l->held)) {
		l->held = live_request_of(req)->next;
		if (admit(l, req))
			append(&tail, req);
	}
	if (!l->held)
		l->held_tail = &l->held;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	while ((req = list)) {
		list = live_request_of(req)->next;
		pass(l, req);
	}
}

int live_read_under(struct live *l, u64 offset, void *buf, u64 length)
{
	const struct block_io io = { .op = BLOCK_READ };
	int rc;

	pthread_mutex_lock(&l->lock);
	while (l->paused)
		pthread_cond_wait(&l->changed, &l->lock);
	l->below++;
	pthread_mutex_unlock(&l->lock);
	rc = block_sync(l->under, BLOCK_READ, offset, buf, length);
	(void)leave(l, &io, NULL, rc);
	return rc;
}

struct block *live_replace(struct live *l, struct block *under)
{
	struct block *old = l->under;

	l->under = under;
	return old;
}

static void serve(struct live *l, struct block_request *req)
{
	if (live_request_of(req)->over) {
		block_complete(req, live_request_of(req)->result);
		return;
	}
	points_copy(l, req);
	pass(l, req);
}

static void *live_thread(void *arg)
{
	struct live *l = arg;

	pthread_mutex_lock(&l->lock);
	while (!l->stop || l->slow) {
		struct block_request *req = l->slow;

		if (!req) {
			pthread_cond_wait(&l->changed, &l->lock);
			continue;
		}
		l->slow = live_request_of(req)->next;
		if (!l->slow)
			l->slow_tail = &l->slow;
		pthread_mutex_unlock(&l->lock);
		serve(l, req);
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

static void live_free(struct live *l)
{
	pthread_rwlock_destroy(&l->graph);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	block_fini(&l->block);
	free(l);
}

static void live_close(struct block *b)
{
	struct live *l = live_of(b);

	ASSERT(!l->busy && !l->points);
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	if (l->threaded)
		pthread_join(l->thread, NULL);
	block_close(l->under);
	live_free(l);
}

/* Whether another size does no harm. */
static int check_points(struct live *l, struct error *err)
{
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = l->points ? -EBUSY : 0;
	pthread_mutex_unlock(&l->lock);
	return rc < 0 ? error_set(err, rc,
	                          "the contents of an earlier moment are in "
	                          "use")
	              : 0;
}

static int set_size(struct live *l, u64 size, struct error *err)
{
	int rc = check_points(l, err);

	if (rc == 0)
		rc = block_resize(l->under, size, err);
	if (rc == 0)
		atomic_store(&l->block.size, size);
	return rc;
}

static int live_resize(struct block *b, u64 size, struct error *err)
{
	struct live *l;
	int rc = live_claim(b, &l, err);

	if (rc < 0)
		return rc;
	rc = set_size(l, size, err);
	live_release(l);
	return rc;
}

int live_grow(struct block *live, u64 size, struct error *err)
{
	struct live *l;
	int rc = live_claim(live, &l, err);

	if (rc < 0)
		return rc;
	if (size < block_size(live)) {
		rc = error_set(err, -EINVAL,
		               "a disk in use can't be made smaller");
	} else {
		live_pause(l);
		rc = set_size(l, size, err);
		live_resume(l);
	}
	live_release(l);
	return rc;
}

int live_with_image(struct block *live,
                    int (*fn)(struct block *image, void *ctx,
                              struct error *err),
                    void *ctx, struct error *err)
{
	struct live *l;
	int rc = live_claim(live, &l, err);

	if (rc < 0)
		return rc;
	live_pause(l);
	rc = fn(l->under, ctx, err);
	live_resume(l);
	live_release(l);
	return rc;
}

static int share_with(struct block *image, void *ctx, struct error *err)
{
	int rc = raw_share(image, *(const int *)ctx);

	if (rc == -EXDEV || rc == -EINVAL || rc == -ENOTTY)
		rc = -EOPNOTSUPP;
	return rc < 0
	           ? error_set(err, rc, "the disk's file can't be shared: %s",
	                       strerror(-rc))
	           : 0;
}

int live_share(struct block *live, int to, struct error *err)
{
	return live_with_image(live, share_with, &to, err);
}

static int live_map(struct block *b, u64 offset, u64 length,
                    struct block_extent *extent)
{
	struct live *l = live_of(b);
	int rc;

	pthread_rwlock_rdlock(&l->graph);
	rc = block_map(l->under, offset, length, extent);
	pthread_rwlock_unlock(&l->graph);
	return rc;
}

static const char *live_lost(struct block *b)
{
	struct live *l = live_of(b);
	const char *words;

	pthread_rwlock_rdlock(&l->graph);
	words = block_lost(l->under);
	pthread_rwlock_unlock(&l->graph);
	return words;
}

static void live_let_go(struct block *b)
{
	struct live *l = live_of(b);

	if (pthread_rwlock_tryrdlock(&l->graph) != 0)
		return;
	block_let_go(l->under);
	pthread_rwlock_unlock(&l->graph);
}

static bool live_cancel(struct block *b, struct block_request *req)
{
	struct live *l = live_of(b);
	struct block_request **at, *r;

	pthread_mutex_lock(&l->lock);
	for (at = &l->held; (r = *at) && r != req;
	     at = &live_request_of(r)->next)
		continue;
	if (r) {
		*at = live_request_of(r)->next;
		if (!*at)
			l->held_tail = at;
		free(live_request_of(r)->passed);
	}
	pthread_mutex_unlock(&l->lock);
	if (r)
		live_post(b, r, -ECANCELED);
	return r != NULL;
}

static const struct block_driver live_driver = {
	.name = "live",
	.submit = live_submit,
	.now = live_now,
	.post = live_post,
	.close = live_close,
	.resize = live_resize,
	.map = live_map,
	.cancel = live_cancel,
	.lost = live_lost,
	.let_go = live_let_go,
};

struct block *live_open(struct block *b)
{
	struct live *l = xalloc(sizeof(*l));

	block_init(&l->block, &live_driver);
	block_info(b, &l->block.info);
	atomic_store(&l->block.size, l->block.info.size);
	l->under = b;
	l->held_tail = &l->held;
	l->slow_tail = &l->slow;
	l->kept_tail = &l->kept;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	pthread_rwlock_init(&l->graph, NULL);
	return &l->block;
}

struct block *live_image(struct block *live)
{
	return live_of(live)->under;
}

int live_claim(struct block *b, struct live **out, struct error *err)
{
	struct live *l = live_of(b);
	bool busy;

	if (b->driver != &live_driver)
		return error_set(err, -EINVAL,
		                 "this disk can't be changed while in use");
	pthread_mutex_lock(&l->lock);
	busy = l->busy;
	l->busy = true;
	pthread_mutex_unlock(&l->lock);
	if (busy) {
		error_set(err, -EBUSY, "another job works on this disk");
		error_hint(err, "atoll disk jobs lists it, and can cancel it");
		return -EBUSY;
	}
	*out = l;
	return 0;
}

void live_release(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	l->busy = false;
	pthread_mutex_unlock(&l->lock);
}

/* ---- external snapshot ---- */

unsigned live_below(struct block *live)
{
	struct live *l = live_of(live);
	unsigned count = 0;

	pthread_rwlock_rdlock(&l->graph);
	for (struct block *b = l->under, *next; b; b = next) {
		next = chain_backing(b);
		count += (next ? 1 : 0) + chain_has_data_file(b);
	}
	pthread_rwlock_unlock(&l->graph);
	return count;
}

static int too_deep(struct error *err)
{
	error_set(err, -E2BIG, "the disk lies on %d files already, the most",
	          LIVE_BELOW_MAX);
	return error_hint(err, "atoll disk commit NAME:DISK makes fewer of "
	                       "them; where others need them, atoll disk "
	                       "rebase");
}

static int check_overlay(struct live *l, struct block *overlay,
                         struct error *err)
{
	struct image_details d;
	int rc = 0;

	image_details(overlay, &d);
	if (strcmp(d.format, "qcow2") != 0 || !d.backing || !d.backing_format ||
	    chain_backing(overlay))
		rc = error_set(err, -EINVAL,
		               "the overlay is not a qcow2 image on top of "
		               "this disk");
	else if (overlay->info.readonly || l->block.info.readonly)
		rc = error_set(err, -EROFS, "the disk is read-only");
	else if (live_below(&l->block) >= LIVE_BELOW_MAX)
		rc = too_deep(err);
	else if (block_size(overlay) != block_size(&l->block) ||
	         overlay->info.sector > l->block.info.sector)
		rc = error_set(err, -EINVAL,
		               "the overlay is of another size than the disk");
	image_details_free(&d);
	return rc;
}

/* The bits of a bitmap, as one of the overlay. */
static int move_bitmap(struct block *from, struct block *to,
                       const struct image_bitmap *map, struct error *err)
{
	u64 size = block_size(from), length;
	int rc = image_bitmap_create(to, map->name, map->granularity, err);

	for (u64 at = 0; at < size && rc == 0; at += length) {
		bool dirty;

		rc = image_bitmap_next(from, map->name, at, &dirty, &length,
		                       err);
		if (rc == 0 && dirty)
			rc = image_bitmap_mark(to, map->name, at, length, err);
	}
	return rc;
}

int live_move_bitmaps(struct block *from, struct block *to, struct error *err)
{
	struct image_details d, t;
	int rc = 0;

	image_details(from, &d);
	image_details(to, &t);
	for (u32 i = 0; i < d.bitmap_count && t.version >= 3 && rc == 0; i++) {
		if (!d.bitmaps[i].enabled || !d.bitmaps[i].readable ||
		    d.bitmaps[i].in_use)
			continue;
		rc = move_bitmap(from, to, &d.bitmaps[i], err);
		/* It was left there by a snapshot, and has since recorded all
		 * that came down: at least what this one holds. */
		if (rc == -EEXIST)
			rc = 0;
	}
	image_details_free(&d);
	image_details_free(&t);
	return rc;
}

static int switch_to(struct live *l, struct block *overlay,
                     const struct live_record *record, struct error *err)
{
	int rc = live_move_bitmaps(l->under, overlay, err);

	if (rc == 0) {
		rc = block_sync(overlay, BLOCK_FLUSH, 0, NULL, 0);
		if (rc == 0)
			rc = block_sync(l->under, BLOCK_FLUSH, 0, NULL, 0);
		if (rc < 0)
			error_set(err, rc, "flush: %s", strerror(-rc));
	}
	if (rc == 0 && record && record->record) {
		rc = record->record(record->ctx);
		if (rc < 0)
			error_set(err, rc, "the change was not recorded: %s",
			          strerror(-rc));
	}
	/* What is recorded has to happen: a base that can't be closed for
	 * writing has failed, and says so at the next write below. */
	if (rc == 0) {
		struct error late;

		(void)chain_freeze(l->under, &late);
		l->under->info.readonly = true;
		(void)chain_swap_backing(overlay, live_replace(l, overlay));
	}
	return rc;
}

int live_snapshot(struct block *live, struct block *overlay,
                  const struct live_record *record, struct error *err)
{
	struct live *l;
	int rc = live_claim(live, &l, err);

	if (rc < 0)
		return rc;
	rc = check_overlay(l, overlay, err);
	if (rc == 0) {
		live_pause(l);
		rc = switch_to(l, overlay, record, err);
		live_resume(l);
	}
	live_release(l);
	return rc;
}
