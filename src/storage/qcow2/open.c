/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open - bringing an image up with its chain, and down again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "storage/core/chain.h"
#include "storage/core/formats.h"
#include "storage/qcow2/qcow2.h"
#include "storage/raw/raw.h"

/* A chain longer than this is a mistake, or a loop. */
enum { DEPTH_MAX = 64, WORKERS = 4, WORKERS_READONLY = 2 };

static const char *name_of(const struct block_open *how)
{
	return how->path ? how->path : "disk";
}

int image_qcow2(struct block *b, struct qcow2 **out, struct error *err)
{
	if (b->driver != &qcow2_driver)
		return error_set(err, -ENOTSUP,
		                 "only qcow2 images can do that, not %s",
		                 b->driver->name);
	*out = qcow2_of(b);
	return 0;
}

static int load_l1(struct qcow2 *q, const char *name, struct error *err)
{
	u64 bytes = ALIGN_UP((u64)q->h.l1_size * 8,
	                     (u64)MAX(4096u, q->file->info.sector));
	int rc = 0;

	q->l1 = try_alloc(bytes / 8, 8);
	if (!q->l1)
		return error_set(err, -ENOMEM, "%s: out of memory", name);
	if (q->h.l1_size > 0)
		rc = meta_read(
		    q, q->h.l1_offset, q->l1,
		    ALIGN_UP((u64)q->h.l1_size * 8, (u64)q->file->info.sector));
	if (rc < 0)
		return error_set(err, rc, "%s: the L1 table: %s", name,
		                 strerror(-rc));
	for (u32 i = 0; i < q->h.l1_size; i++)
		q->l1[i] = get64(&q->l1[i]);
	return 0;
}

static int open_further(const struct block_open *how, const char *file,
                        const char *what, const char *format, bool writable,
                        struct error *err)
{
	int fd;

	if (!how->opener) {
		error_set(err, -EPERM, "%s: its %s '%s' was not given",
		          name_of(how), what, file);
		return -EPERM;
	}
	fd = how->opener->open(how->opener->ctx, how->path, file, format,
	                       writable, err);
	if (fd < 0)
		(void)error_prefix(err, "%s: its %s", name_of(how), what);
	return fd;
}

static int open_data_file(struct qcow2 *q, const struct block_open *how,
                          struct error *err)
{
	struct block_open data = { .format = "raw",
		                   .flags = how->flags | RAW_UNBOUNDED };
	int rc;

	q->data = q->file;
	if (!q->external || (how->flags & IMAGE_OPEN_NO_DATA))
		return 0;
	q->data = NULL;
	if (q->h.data_file[0] == '\0')
		return error_set(err, -EINVAL,
		                 "%s: does not name its data file",
		                 name_of(how));
	data.fd = open_further(how, q->h.data_file, "data file", "raw",
	                       q->writable, err);
	if (data.fd < 0)
		return data.fd;
	data.path = path_beside(how->path, q->h.data_file);
	rc = raw_open(&q->data, &data, err);
	free((void *)(uintptr_t)data.path);
	return rc;
}

static int open_backing(struct qcow2 *q, const struct block_open *how,
                        unsigned depth, struct error *err)
{
	struct block_open next = {
		.format = q->h.backing_format,
		.opener = how->opener,
		.flags = (how->flags & (BLOCK_OPEN_DIRECT | BLOCK_OPEN_THREADS |
		                        BLOCK_OPEN_NO_LOCK)) |
		         BLOCK_OPEN_READONLY
	};
	struct block *file;
	char *path;
	int rc;

	if (q->h.backing[0] == '\0' || (how->flags & IMAGE_OPEN_NO_BACKING))
		return 0;
	if (depth >= DEPTH_MAX)
		return error_set(err, -ELOOP,
		                 "%s: the chain of backing files is longer than"
		                 " %d",
		                 name_of(how), DEPTH_MAX);
	if (strcmp(next.format, "raw") != 0 &&
	    strcmp(next.format, "qcow2") != 0) {
		error_set(err, -EINVAL,
		          "%s: the format of its backing file '%s' is %s%s",
		          name_of(how), q->h.backing,
		          next.format[0] ? "not supported: " : "not stated",
		          next.format);
		error_hint(err, "state it with: atoll disk rebase --unsafe"
		                " --backing-format F");
		return -EINVAL;
	}
	next.fd = open_further(how, q->h.backing, "backing file", next.format,
	                       false, err);
	if (next.fd < 0)
		return next.fd;
	path = path_beside(how->path, q->h.backing);
	next.path = path;
	if (strcmp(next.format, "raw") == 0) {
		rc = raw_open(&q->backing, &next, err);
	} else {
		struct block_open below = next;

		below.flags |= RAW_UNBOUNDED;
		rc = raw_open(&file, &below, err);
		if (rc == 0)
			rc = qcow2_open_on(&q->backing, file, &next, depth + 1,
			                   err);
	}
	if (rc == 0)
		q->backing_bytes = block_size(q->backing);
	else if (rc != -ELOOP) /* that says enough, and would say it often */
		(void)error_prefix(err, "%s: its backing file", name_of(how));
	free(path);
	return rc;
}

/* What has to be true before anything is written. */
static int ready_to_write(struct qcow2 *q, const struct block_open *how,
                          struct error *err)
{
	struct image_check found = { 0 };
	int rc;

	if (!q->writable || (how->flags & IMAGE_OPEN_AS_IS))
		return 0;
	if (q->h.incompatible & INCOMPAT_CORRUPT) {
		error_set(err, -EIO, "%s: marked as corrupt, and so read-only",
		          name_of(how));
		error_hint(err, "atoll disk check --repair %s", name_of(how));
		return -EIO;
	}
	if (q->h.incompatible & INCOMPAT_DIRTY) {
		/* It was not closed: refcounts may be behind the tables. */
		rc = check_image(q, IMAGE_REPAIR_LEAKS | IMAGE_REPAIR_ALL,
		                 &found, err);
		if (rc == 0 && found.corruptions > 0)
			rc = error_set(err, -EIO,
			               "%s: was not closed and can't be"
			               " repaired",
			               name_of(how));
		if (rc < 0)
			return rc;
	}
	/* Features we don't know would not be kept true by our writes. */
	if (q->h.autoclear & ~(u64)AUTOCLEAR_KNOWN) {
		q->h.autoclear &= AUTOCLEAR_KNOWN;
		rc = header_update(q);
		if (rc == 0)
			rc = meta_flush(q);
		if (rc < 0)
			return error_set(err, rc, "%s: the header: %s",
			                 name_of(how), strerror(-rc));
	}
	pthread_mutex_lock(&q->meta);
	rc = bitmaps_begin(q);
	pthread_mutex_unlock(&q->meta);
	if (rc < 0)
		return error_set(err, rc, "%s: its bitmaps: %s", name_of(how),
		                 strerror(-rc));
	return 0;
}

static void describe(struct qcow2 *q, bool readonly)
{
	struct block_info *info = &q->block.info;

	info->sector = MAX(512u, q->file->info.sector);
	if (q->data)
		info->sector = MAX(info->sector, q->data->info.sector);
	if (q->backing)
		info->sector = MAX(info->sector, q->backing->info.sector);
	info->cluster = q->cluster_size;
	info->readonly = readonly;
	info->discard = true;
	info->rotational = q->file->info.rotational;
	atomic_store(&q->block.size, ALIGN_UP(q->h.size, (u64)info->sector));
}

static void destroy(struct qcow2 *q)
{
	requests_fini(q);
	block_close(q->backing);
	if (q->data != q->file)
		block_close(q->data);
	block_close(q->file);
	cache_fini(q);
	snapshots_free(q);
	bitmaps_free(q);
	free(q->l1);
	free(q->reftable);
	free(q->frees);
	free(q->head);
	free(q->inflated);
	pthread_cond_destroy(&q->released);
	pthread_mutex_destroy(&q->inflate_lock);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->meta);
	block_fini(&q->block);
	free(q);
}

static int bring_up(struct qcow2 *q, const struct block_open *how,
                    unsigned depth, struct error *err)
{
	const char *name = name_of(how);
	u64 file_size = block_size(q->file);
	int rc = header_parse(q, file_size, name, err);

	if (rc < 0)
		return rc;
	if (q->file->info.sector > q->cluster_size)
		return error_set(err, -EINVAL,
		                 "%s: clusters of %u bytes on sectors of %u",
		                 name, q->cluster_size, q->file->info.sector);
	q->host_end = ALIGN_UP(file_size, (u64)q->cluster_size);
	q->fresh_from = q->file->unbounded ? q->host_end : UINT64_MAX;
	atomic_store(&q->corrupt, (q->h.incompatible & INCOMPAT_CORRUPT) &&
	                              !(how->flags & IMAGE_OPEN_AS_IS));
	rc = cache_init(q, how->cache_bytes);
	if (rc < 0)
		return error_set(err, rc, "%s: out of memory", name);
	rc = load_l1(q, name, err);
	/* A reader needs no refcounts, unless it checks them. */
	if (rc == 0 && q->writable)
		rc = refcount_load(q, name, err);
	if (rc == 0)
		rc = snapshots_load(q, name, err);
	if (rc == 0)
		rc = open_data_file(q, how, err);
	if (rc == 0)
		rc = open_backing(q, how, depth, err);
	if (rc < 0)
		return rc;
	describe(q, !q->writable);
	rc = bitmaps_load(q, name, err);
	if (rc == 0)
		rc = ready_to_write(q, how, err);
	if (rc < 0)
		return rc;
	/* Only to write it again. */
	if (!q->writable) {
		free(q->head);
		q->head = NULL;
	}
	requests_init(q, q->writable ? WORKERS : WORKERS_READONLY);
	return 0;
}

int qcow2_open_on(struct block **out, struct block *file,
                  const struct block_open *how, unsigned depth,
                  struct error *err)
{
	struct qcow2 *q = xalloc(sizeof(*q));
	int rc;

	block_init(&q->block, &qcow2_driver);
	q->file = file;
	q->writable = !(how->flags & BLOCK_OPEN_READONLY);
	pthread_mutex_init(&q->meta, NULL);
	pthread_mutex_init(&q->lock, NULL);
	pthread_mutex_init(&q->inflate_lock, NULL);
	pthread_cond_init(&q->released, NULL);
	rc = bring_up(q, how, depth, err);
	if (rc < 0) {
		destroy(q);
		return rc;
	}
	*out = &q->block;
	return 0;
}

int qcow2_open(struct block **out, const struct block_open *how,
               struct error *err)
{
	struct block_open below = *how;
	struct block *file;
	int rc;

	below.flags |= RAW_UNBOUNDED;
	rc = raw_open(&file, &below, err);
	return rc < 0 ? rc : qcow2_open_on(out, file, how, 0, err);
}

static int store_all(struct qcow2 *q)
{
	int rc;

	if (!q->writable || atomic_load(&q->corrupt))
		return q->writable ? -EIO : 0;
	pthread_mutex_lock(&q->meta);
	rc = bitmaps_store(q);
	if (rc == 0)
		rc = commit_all(q);
	/* Everything is written and counted. */
	if (rc == 0 && (q->h.compatible & COMPAT_LAZY_REFCOUNTS))
		rc = header_set_dirty(q, false);
	pthread_mutex_unlock(&q->meta);
	return rc;
}

static int qcow2_freeze(struct block *b)
{
	struct qcow2 *q = qcow2_of(b);
	struct error unused;
	int rc = store_all(q);

	if (rc == 0)
		rc = meta_flush(q);
	if (rc < 0)
		return rc;
	q->writable = false;
	atomic_store(&q->tracking, false);
	for (struct bitmap *m = q->bitmaps; m; m = m->next)
		m->tracked = false;
	rc = chain_freeze(q->file, &unused);
	return rc == 0 && q->external ? chain_freeze(q->data, &unused) : rc;
}

static int qcow2_lock(struct block *b, bool shared)
{
	struct qcow2 *q = qcow2_of(b);
	int rc = shared ? chain_lock_shared(q->file) : chain_unlock(q->file);

	if (rc == 0 && q->external)
		rc =
		    shared ? chain_lock_shared(q->data) : chain_unlock(q->data);
	return rc;
}

static void qcow2_close(struct block *b)
{
	struct qcow2 *q = qcow2_of(b);
	int rc;

	requests_fini(q);
	rc = store_all(q);
	if (rc < 0)
		log_debug("storage", "closing a qcow2 image: %s",
		          strerror(-rc));
	destroy(q);
}

static const char *qcow2_lost(struct block *b)
{
	struct qcow2 *q = qcow2_of(b);
	const char *words = block_lost(q->file);

	if (!words && q->external)
		words = block_lost(q->data);
	return !words && atomic_load(&q->damage_told) ? q->damage : words;
}

/* A whole chain: what lies below is in use for us alone. */
static void qcow2_let_go(struct block *b)
{
	struct qcow2 *q = qcow2_of(b);

	if (pthread_mutex_trylock(&q->meta) == 0) {
		cache_let_go(q);
		pthread_mutex_unlock(&q->meta);
	}
	inflated_let_go(q);
	if (q->backing)
		block_let_go(q->backing);
}

const struct block_driver qcow2_driver = {
	.name = "qcow2",
	.submit = requests_submit,
	.now = requests_now,
	.post = requests_post,
	.close = qcow2_close,
	.resize = qcow2_resize,
	.map = qcow2_map,
	.cancel = requests_cancel,
	.freeze = qcow2_freeze,
	.lock = qcow2_lock,
	.lost = qcow2_lost,
	.let_go = qcow2_let_go,
};
