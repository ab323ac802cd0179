/* SPDX-License-Identifier: Apache-2.0 */
/*
 * map - from guest offsets to what is there: L1, L2, subclusters.
 *
 * Without extended L2 entries a cluster is treated as one of one subcluster,
 * so that there is one way through this file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"

static u64 l1_index(const struct qcow2 *q, u64 offset)
{
	return offset >> (q->h.cluster_bits + q->l2_bits);
}

u32 l2_index(const struct qcow2 *q, u64 offset)
{
	return (u32)(offset >> q->h.cluster_bits) & (q->l2_entries - 1);
}

u64 l2_entry(const struct qcow2 *q, const struct table *t, u32 index,
             u64 *bitmap)
{
	const u8 *p = t->data + (u64)index * q->entry_bytes;

	*bitmap = q->extended ? get64(p + 8) : 0;
	return get64(p);
}

void l2_set(struct qcow2 *q, struct table *t, u32 index, u64 entry, u64 bitmap)
{
	u32 at = index * q->entry_bytes;

	pthread_mutex_lock(&q->lock);
	put64(t->data + at, entry);
	if (q->extended)
		put64(t->data + at + 8, bitmap);
	table_dirty(q, t, at, at + q->entry_bytes);
	pthread_mutex_unlock(&q->lock);
}

void compressed_extent(const struct qcow2 *q, u64 entry, u64 *offset,
                       u64 *bytes)
{
	/* "Compressed Clusters Descriptor" */
	u32 x = 62 - (q->h.cluster_bits - 8);
	u64 sectors = (entry & (ENTRY_COMPRESSED - 1)) >> x;

	*offset = entry & (BIT(x) - 1);
	*bytes = (sectors + 1) * 512 - (*offset & 511);
}

/* What the entry says of one subcluster. -EIO: nothing that can be. */
static int classify(const struct qcow2 *q, u64 entry, u64 bitmap, u32 sub,
                    struct extent *e)
{
	u64 host = entry & ENTRY_OFFSET;
	bool allocated = host != 0 || (q->external && (entry & ENTRY_COPIED));

	e->host = 0;
	e->in_place = e->host_kept = false;
	if (entry & ENTRY_COMPRESSED) {
		u64 offset, bytes;

		compressed_extent(q, entry, &offset, &bytes);
		if (q->external || (entry & ENTRY_COPIED) ||
		    offset < q->cluster_size || offset >= q->host_end)
			return -EIO;
		e->kind = EXTENT_COMPRESSED;
		e->host = entry;
		return 0;
	}
	if (entry & L2_RESERVED)
		return -EIO;
	if (host &&
	    (in_cluster(q, host) || (!q->external && host >= q->host_end)))
		return -EIO;
	if (q->extended) {
		bool alloc = bitmap & BIT(sub), zero = bitmap & BIT(sub + 32);

		if ((alloc && zero) || (alloc && !allocated) ||
		    (entry & ENTRY_ZERO))
			return -EIO;
		e->kind = alloc  ? EXTENT_DATA
		          : zero ? EXTENT_ZERO
		                 : EXTENT_HOLE;
	} else if (entry & ENTRY_ZERO) {
		if (!q->has_zero)
			return -EIO;
		e->kind = EXTENT_ZERO;
	} else {
		e->kind = allocated ? EXTENT_DATA : EXTENT_HOLE;
	}
	e->host_kept = allocated && e->kind != EXTENT_DATA;
	if (allocated) {
		e->host = host;
		e->in_place = entry & ENTRY_COPIED;
	}
	return 0;
}

/* Same thing, and where both have a host offset, right behind it. */
static bool goes_on(const struct extent *a, const struct extent *b)
{
	if (a->kind != b->kind || a->kind == EXTENT_COMPRESSED ||
	    a->in_place != b->in_place || a->host_kept != b->host_kept)
		return false;
	return a->kind != EXTENT_DATA || a->host + a->length == b->host;
}

/* t NULL: a whole table of holes. */
static int extent_in(struct qcow2 *q, const struct table *t, u64 offset,
                     u64 length, struct extent *e)
{
	u64 table_bytes = (u64)q->l2_entries << q->h.cluster_bits;
	u64 end =
	    MIN(offset + length, ALIGN_DOWN(offset, table_bytes) + table_bytes);
	u64 at = offset;

	*e = (struct extent){ .kind = EXTENT_HOLE, .length = end - offset };
	if (!t)
		return 0;
	e->length = 0;
	while (at < end) {
		u64 bitmap, entry = l2_entry(q, t, l2_index(q, at), &bitmap);
		u32 sub = (u32)(in_cluster(q, at) / q->subcluster_size);
		u64 next = ALIGN_DOWN(at, (u64)q->subcluster_size) +
		           q->subcluster_size;
		struct extent now;
		int rc = classify(q, entry, bitmap, sub, &now);

		/* "Standard Cluster Descriptor": an external file is mapped one
		 * to one. */
		if (rc == 0 && q->external && now.host &&
		    now.host != ALIGN_DOWN(at, (u64)q->cluster_size))
			rc = -EIO;
		if (rc < 0)
			return at == offset ? rc : 0;
		if (now.kind == EXTENT_COMPRESSED)
			next = ALIGN_DOWN(at, (u64)q->cluster_size) +
			       q->cluster_size;
		else if (now.kind == EXTENT_DATA)
			now.host += in_cluster(q, at);
		now.length = MIN(next, end) - at;
		if (at == offset)
			*e = now;
		else if (goes_on(e, &now))
			e->length += now.length;
		else
			break;
		at += now.length;
	}
	return 0;
}

static int l1_entry(struct qcow2 *q, u64 offset, u64 *table)
{
	u64 i = l1_index(q, offset), entry;

	if (i >= q->h.l1_size)
		return -EIO;
	entry = q->l1[i];
	if (entry & L1_RESERVED)
		return -EIO;
	*table = entry & ENTRY_OFFSET;
	return 0;
}

int extent_peek(struct qcow2 *q, u64 offset, u64 length, struct extent *e)
{
	struct table *t = NULL;
	u64 at;

	if (l1_entry(q, offset, &at) < 0)
		return -EAGAIN; /* the slow path says what is wrong */
	if (at) {
		t = cache_peek(q, at);
		if (!t || t->kind != TABLE_L2)
			return -EAGAIN;
	}
	return extent_in(q, t, offset, length, e) < 0 ? -EAGAIN : 0;
}

int extent_get(struct qcow2 *q, u64 offset, u64 length, struct extent *e)
{
	struct table *t;
	int rc = l2_get(q, offset, false, &t);

	if (rc < 0)
		return rc;
	rc = extent_in(q, t, offset, length, e);
	table_put(t);
	if (rc < 0)
		return mark_corrupt(
		    q, "the L2 entry for guest offset %#" PRIx64 " can't be",
		    offset);
	return 0;
}

void l1_set(struct qcow2 *q, u64 index, u64 entry)
{
	u32 i = (u32)index;

	pthread_mutex_lock(&q->lock);
	q->l1[i] = entry;
	if (q->l1_dirty_from >= q->l1_dirty_to) {
		q->l1_dirty_from = i;
		q->l1_dirty_to = i + 1;
	}
	q->l1_dirty_from = MIN(q->l1_dirty_from, i);
	q->l1_dirty_to = MAX(q->l1_dirty_to, i + 1);
	pthread_mutex_unlock(&q->lock);
	meta_mark_dirty(q);
}

/* A table of the image's own where there was none, or a shared one. */
static int l2_make(struct qcow2 *q, u64 offset, u64 old, struct table **out)
{
	struct table *from = NULL, *t = NULL;
	u64 at, got;
	int rc = clusters_alloc(q, 1, &at, &got);

	if (rc < 0)
		return rc;
	if (old)
		rc = table_get(q, TABLE_L2, old, &from);
	if (rc == 0)
		rc = table_new(q, TABLE_L2, at, &t);
	if (rc < 0) {
		table_put(from);
		(void)clusters_free(q, at, 1);
		return rc;
	}
	if (from) {
		pthread_mutex_lock(&q->lock);
		memcpy(t->data, from->data, q->cluster_size);
		pthread_mutex_unlock(&q->lock);
		table_put(from);
	}
	l1_set(q, l1_index(q, offset), at | ENTRY_COPIED);
	if (old)
		rc = clusters_free(q, old, 1);
	*out = t;
	return rc;
}

int l2_get(struct qcow2 *q, u64 offset, bool create, struct table **out)
{
	u64 at;
	bool own;

	*out = NULL;
	if (l1_entry(q, offset, &at) < 0)
		return mark_corrupt(
		    q, "the L1 entry for guest offset %#" PRIx64 " can't be",
		    offset);
	own = q->l1[l1_index(q, offset)] & ENTRY_COPIED;
	if (at && !meta_offset_valid(q, at))
		return mark_corrupt(q, "an L2 table at %#" PRIx64, at);
	if (create && (!at || !own))
		return l2_make(q, offset, at, out);
	return at ? table_get(q, TABLE_L2, at, out) : 0;
}

int l2_entry_free(struct qcow2 *q, u64 entry)
{
	u64 offset = entry & ENTRY_OFFSET, bytes;

	if (q->external)
		return 0;
	if (entry & ENTRY_COMPRESSED) {
		u64 first, last;

		compressed_extent(q, entry, &offset, &bytes);
		first = cluster_of(q, offset);
		last = cluster_of(q, offset + bytes - 1);
		return clusters_free(q, first << q->h.cluster_bits,
		                     last - first + 1);
	}
	return offset ? clusters_free(q, offset, 1) : 0;
}

/*
 * An L1 table of at least `entries`, in a new place. The header names the new
 * one only after it is on disk with all that it points at.
 */
int l1_grow(struct qcow2 *q, u64 entries, struct error *err)
{
	u64 bytes = ALIGN_UP(entries * 8, (u64)q->cluster_size), at;
	struct header old = q->h;
	u64 *bigger, *out;
	int rc;

	if (entries <= q->h.l1_size)
		return 0;
	if (bytes > L1_BYTES_MAX)
		return error_set(err, -EFBIG,
		                 "the disk would be too large for clusters of"
		                 " %u bytes",
		                 q->cluster_size);
	bigger = try_alloc(bytes / 8, 8);
	out = try_alloc(bytes / 8, 8);
	rc = bigger && out ? 0 : -ENOMEM;
	if (rc == 0)
		rc = clusters_alloc_run(q, bytes >> q->h.cluster_bits, &at);
	if (rc == 0)
		rc = commit(q);
	if (rc == 0) {
		memcpy(bigger, q->l1, (u64)q->h.l1_size * 8);
		for (u32 i = 0; i < q->h.l1_size; i++)
			put64(&out[i], q->l1[i]);
		rc = meta_write(q, at, out, bytes);
	}
	if (rc == 0)
		rc = meta_flush(q);
	if (rc == 0) {
		q->h.l1_offset = at;
		q->h.l1_size = (u32)entries;
		rc = header_update(q);
	}
	if (rc == 0)
		rc = meta_flush(q);
	free(out);
	if (rc < 0) {
		q->h = old;
		free(bigger);
		return error_set(err, rc, "a larger L1 table: %s",
		                 strerror(-rc));
	}
	pthread_mutex_lock(&q->lock);
	free(q->l1);
	q->l1 = bigger;
	pthread_mutex_unlock(&q->lock);
	bytes = ALIGN_UP((u64)old.l1_size * 8, (u64)q->cluster_size);
	return clusters_free(q, old.l1_offset, bytes >> q->h.cluster_bits);
}
