/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resize - another size for the disk, and what its parts are made of.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "storage/qcow2/qcow2.h"

static int set_size(struct qcow2 *q, u64 size)
{
	u64 old = q->h.size;
	int rc;

	q->h.size = size;
	rc = header_update(q);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc < 0)
		q->h.size = old;
	return rc;
}

/*
 * The header says the new size last: until then nothing can see that the new
 * part was being made zero (what the backing file has there, or what an
 * earlier, larger disk left).
 */
static int grow(struct qcow2 *q, u64 old, u64 size, struct error *err)
{
	u64 per_table = (u64)q->l2_entries << q->h.cluster_bits;
	int rc;

	pthread_mutex_lock(&q->meta);
	rc = l1_grow(q, (size + per_table - 1) / per_table, err);
	pthread_mutex_unlock(&q->meta);
	if (rc < 0)
		return rc;
	atomic_store(&q->block.size, size);
	rc = rw_zero(q, old, size - old, true);
	pthread_mutex_lock(&q->meta);
	if (rc == 0)
		rc = commit_all(q);
	if (rc == 0)
		rc = bitmaps_resize(q, size);
	if (rc == 0)
		rc = set_size(q, size);
	pthread_mutex_unlock(&q->meta);
	if (rc == 0)
		return 0;
	atomic_store(&q->block.size, old);
	return error_set(err, rc, "resize: %s", strerror(-rc));
}

static int shrink(struct qcow2 *q, u64 old, u64 size, struct error *err)
{
	u64 from = ALIGN_UP(size, (u64)q->cluster_size);
	int rc;

	pthread_mutex_lock(&q->meta);
	rc = commit_all(q);
	if (rc == 0)
		rc = bitmaps_resize(q, size);
	if (rc == 0)
		rc = set_size(q, size);
	pthread_mutex_unlock(&q->meta);
	if (rc < 0)
		return error_set(err, rc, "resize: %s", strerror(-rc));
	/* Freeing what is beyond can fail without harm: it is out of reach,
	 * and growing makes it zero. */
	if (from < old)
		(void)rw_discard(q, from, old - from);
	atomic_store(&q->block.size, size);
	return 0;
}

int qcow2_resize(struct block *b, u64 size, struct error *err)
{
	struct qcow2 *q = qcow2_of(b);
	u64 old = block_size(b);
	struct hold all;
	int rc = 0;

	if (q->h.version < 3 && q->h.snapshots > 0)
		return error_set(err, -ENOTSUP,
		                 "a version 2 image with snapshots has a fixed"
		                 " size");
	if (atomic_load(&q->corrupt))
		return error_set(err, -EIO, "the image is marked as corrupt");
	hold_take(q, &all, 0, UINT64_MAX, true);
	if (size > old)
		rc = grow(q, old, size, err);
	else if (size < old)
		rc = shrink(q, old, size, err);
	hold_release(q, &all);
	return rc;
}

static void translate(const struct qcow2 *q, u64 offset, const struct extent *e,
                      struct block_extent *out)
{
	out->length = e->length;
	switch (e->kind) {
	case EXTENT_HOLE:
		out->flags = BLOCK_EXTENT_ZERO;
		break;
	case EXTENT_ZERO:
		out->flags = BLOCK_EXTENT_DATA | BLOCK_EXTENT_ZERO;
		break;
	case EXTENT_DATA:
		out->flags = BLOCK_EXTENT_DATA | BLOCK_EXTENT_MAPPED;
		out->host_offset = e->host;
		break;
	case EXTENT_COMPRESSED:
		out->flags = BLOCK_EXTENT_DATA | BLOCK_EXTENT_COMPRESSED;
		break;
	}
	if (e->kind == EXTENT_HOLE && q->backing && offset < q->backing_bytes)
		out->length = MIN(e->length, q->backing_bytes - offset);
}

int qcow2_map(struct block *b, u64 offset, u64 length,
              struct block_extent *extent)
{
	struct qcow2 *q = qcow2_of(b);
	struct extent e;
	int rc;

	pthread_mutex_lock(&q->meta);
	rc = extent_get(q, offset, length, &e);
	pthread_mutex_unlock(&q->meta);
	if (rc < 0)
		return rc;
	*extent = (struct block_extent){ 0 };
	translate(q, offset, &e, extent);
	if (e.kind == EXTENT_HOLE && q->backing && offset < q->backing_bytes) {
		rc = block_map(q->backing, offset, extent->length, extent);
		extent->depth++;
	}
	return rc;
}
