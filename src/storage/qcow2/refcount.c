/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refcount - who uses which host cluster, and where new ones come from.
 *
 * A refcount block counts a range of clusters; a new block is put into the
 * first cluster of the very range it counts, which nobody can have taken
 * before it exists. So making one never needs another.
 *
 * Dropping a reference only notes it: the count in memory and on disk stays
 * until the disk's tables have forgotten the cluster (commit.c, step 6), so
 * no cluster is handed out again while an old table could still name it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"

/* Host offsets in L2 entries have 56 bits. */
#define HOST_MAX ((u64)1 << 56)
/* The last look before a cluster is handed out must stay cheap. */
enum { L1_LOOKED_AT = 8192 };

u64 refcount_read(const void *block, u32 order, u64 index)
{
	const u8 *p = block;

	switch (order) {
	case 6:
		return get64(p + index * 8);
	case 5:
		return get32(p + index * 4);
	case 4:
		return get16(p + index * 2);
	case 3:
		return p[index];
	default: { /* bit 0 is the least significant of a byte */
		u32 bits = 1u << order, per = 8 / bits;

		return p[index / per] >> (index % per * bits) &
		       ((1u << bits) - 1);
	}
	}
}

void refcount_write(void *block, u32 order, u64 index, u64 value)
{
	u8 *p = block;

	switch (order) {
	case 6:
		put64(p + index * 8, value);
		break;
	case 5:
		put32(p + index * 4, (u32)value);
		break;
	case 4:
		put16(p + index * 2, (u16)value);
		break;
	case 3:
		p[index] = (u8)value;
		break;
	default: {
		u32 bits = 1u << order, per = 8 / bits;
		u32 shift = (u32)(index % per) * bits;
		u32 mask = ((1u << bits) - 1) << shift;

		p[index / per] =
		    (u8)((p[index / per] & ~mask) | ((u32)value << shift));
	}
	}
}

static u64 per_block(const struct qcow2 *q)
{
	return (u64)1 << q->refblock_bits;
}

int refcount_load(struct qcow2 *q, const char *name, struct error *err)
{
	u64 bytes = (u64)q->h.reftable_clusters << q->h.cluster_bits;
	u32 n = (u32)(bytes / 8);
	int rc;

	q->reftable = try_alloc(n, 8);
	if (!q->reftable)
		return error_set(err, -ENOMEM, "%s: out of memory", name);
	rc = meta_read(q, q->h.reftable_offset, q->reftable, bytes);
	if (rc < 0)
		return error_set(err, rc, "%s: the refcount table: %s", name,
		                 strerror(-rc));
	q->reftable_entries = n;
	for (u32 i = 0; i < n; i++) {
		q->reftable[i] = get64(&q->reftable[i]);
		if (q->reftable[i])
			q->reftable_used = i + 1;
	}
	return 0;
}

/* The block that counts cluster; *out NULL if there is none. */
static int block_get(struct qcow2 *q, u64 cluster, struct table **out)
{
	u64 i = cluster >> q->refblock_bits, entry;

	*out = NULL;
	entry = i < q->reftable_entries ? q->reftable[i] : 0;
	if (entry == 0)
		return 0;
	if (entry & REFTABLE_RESERVED)
		return mark_corrupt(q, "refcount table entry %#" PRIx64, entry);
	return table_get(q, TABLE_REFBLOCK, entry, out);
}

int refcount_get(struct qcow2 *q, u64 cluster, u64 *count)
{
	struct table *t;
	int rc = block_get(q, cluster, &t);

	if (rc < 0)
		return rc;
	*count = t ? refcount_read(t->data, q->h.refcount_order,
	                           cluster & (per_block(q) - 1))
	           : 0;
	table_put(t);
	return 0;
}

/* Lazy refcounts: from now on the disk's counts are not to be trusted. */
static int before_change(struct qcow2 *q)
{
	if (q->rebuilding || !(q->h.compatible & COMPAT_LAZY_REFCOUNTS))
		return 0;
	return header_set_dirty(q, true);
}

static void block_set(struct qcow2 *q, struct table *t, u64 cluster, u64 count)
{
	u64 index = cluster & (per_block(q) - 1);
	u32 byte = (u32)(index * q->refcount_bits / 8);

	pthread_mutex_lock(&q->lock);
	refcount_write(t->data, q->h.refcount_order, index, count);
	table_dirty(q, t, byte, byte + MAX(1u, q->refcount_bits / 8));
	pthread_mutex_unlock(&q->lock);
}

/* Clusters of one block. */
static int set_run(struct qcow2 *q, u64 first, u64 clusters, u64 count)
{
	struct table *t;
	int rc = before_change(q);

	if (rc == 0)
		rc = block_get(q, first, &t);
	if (rc < 0)
		return rc;
	ASSERT(t); /* the caller read the count, or made the block */
	for (u64 i = 0; i < clusters; i++)
		block_set(q, t, first + i, count);
	table_put(t);
	return 0;
}

static int refcount_set(struct qcow2 *q, u64 cluster, u64 count)
{
	return set_run(q, cluster, 1, count);
}

static u64 refcount_max(const struct qcow2 *q)
{
	return q->refcount_bits == 64 ? UINT64_MAX : BIT(q->refcount_bits) - 1;
}

int refcount_add(struct qcow2 *q, u64 cluster, u64 count)
{
	u64 old;
	int rc = 0;

	for (u64 i = 0; i < count && rc == 0; i++) {
		rc = refcount_get(q, cluster + i, &old);
		if (rc == 0 && old == 0)
			rc = mark_corrupt(q,
			                  "cluster %#" PRIx64 " is in use"
			                  " but counted as free",
			                  cluster + i);
		if (rc == 0 && old == refcount_max(q))
			rc = -E2BIG;
		if (rc == 0)
			rc = refcount_set(q, cluster + i, old + 1);
		if (rc < 0)
			while (i-- > 0)
				if (refcount_get(q, cluster + i, &old) == 0)
					(void)refcount_set(q, cluster + i,
					                   old - 1);
	}
	return rc;
}

static void extend_end(struct qcow2 *q, u64 cluster, u64 count)
{
	u64 end = (cluster + count) << q->h.cluster_bits;

	/* The fast path judges offsets by it. */
	pthread_mutex_lock(&q->lock);
	q->host_end = MAX(q->host_end, end);
	pthread_mutex_unlock(&q->lock);
	q->fresh_from = MAX(q->fresh_from, end);
}

/* Bytes of the file. */
struct range {
	u64 at, end;
};

/* Whether the two meet; then *where is in both. */
static bool meets(const struct range *r, u64 at, u64 size, u64 *where)
{
	if (size == 0 || at >= r->end || at + size <= r->at)
		return false;
	*where = MAX(at, r->at);
	return true;
}

/* What must never be handed out as new: the counts are wrong if one of these
 * clusters, of which *which is told, is it. */
static bool is_metadata(const struct qcow2 *q, u64 first, u64 count, u64 *which)
{
	const struct range r = { first << q->h.cluster_bits,
		                 (first + count) << q->h.cluster_bits };
	u64 reftable = (u64)q->h.reftable_clusters << q->h.cluster_bits;
	u64 at = 0;
	bool found = meets(&r, 0, q->cluster_size, &at) ||
	             meets(&r, q->h.l1_offset, (u64)q->h.l1_size * 8, &at) ||
	             meets(&r, q->h.reftable_offset, reftable, &at);

	for (u32 i = 0; i < MIN(q->h.l1_size, L1_LOOKED_AT) && !found; i++)
		found = meets(&r, q->l1[i] & ENTRY_OFFSET, 1, &at);
	for (u32 i = 0; i < q->reftable_used && !found; i++)
		found = meets(&r, q->reftable[i], 1, &at);
	*which = at >> q->h.cluster_bits;
	return found;
}

/* A block for range i of clusters, put at cluster at, counting nothing. */
static int block_make(struct qcow2 *q, u64 i, u64 at, struct table **out)
{
	u64 offset = at << q->h.cluster_bits, which;
	int rc;

	if (is_metadata(q, at, 1, &which))
		return mark_corrupt(q,
		                    "cluster %#" PRIx64 " is metadata but"
		                    " not counted",
		                    at);
	rc = before_change(q);
	if (rc < 0)
		return rc;
	extend_end(q, at, 1);
	rc = table_new(q, TABLE_REFBLOCK, offset, out);
	if (rc < 0)
		return rc;
	q->reftable[i] = offset;
	q->reftable_used = MAX(q->reftable_used, (u32)i + 1);
	if (q->reftable_dirty_from >= q->reftable_dirty_to) {
		q->reftable_dirty_from = (u32)i;
		q->reftable_dirty_to = (u32)i + 1;
	}
	q->reftable_dirty_from = MIN(q->reftable_dirty_from, (u32)i);
	q->reftable_dirty_to = MAX(q->reftable_dirty_to, (u32)i + 1);
	meta_mark_dirty(q);
	return 0;
}

static u64 covered_end(const struct qcow2 *q)
{
	return (u64)q->reftable_used << q->refblock_bits;
}

/* Blocks for [start, ...) at start itself, enough for count clusters behind
 * them; start begins a range without a block. Returns how many blocks. */
static u64 blocks_for(const struct qcow2 *q, u64 count)
{
	u64 blocks = 1;

	while ((blocks << q->refblock_bits) < blocks + count)
		blocks++;
	return blocks;
}

static int reserve(struct qcow2 *q, u64 start, u64 blocks, u64 count)
{
	int rc = 0;

	for (u64 i = 0; i < blocks && rc == 0; i++) {
		struct table *t;

		rc = block_make(q, (start >> q->refblock_bits) + i, start + i,
		                &t);
		if (rc < 0)
			break;
		for (u64 j = 0; j < per_block(q); j++) {
			u64 at = (i << q->refblock_bits) + j;

			if (at < blocks + count)
				block_set(q, t, start + at, 1);
		}
		table_put(t);
	}
	if (rc == 0)
		extend_end(q, start, blocks + count);
	return rc;
}

/*
 * A larger refcount table, with entries for at least `entries` blocks. It is
 * written behind everything else, then the header names it in one sector.
 */
static int reftable_grow(struct qcow2 *q, u64 entries)
{
	u64 start = (u64)q->reftable_entries << q->refblock_bits;
	u64 per_cluster = q->cluster_size / 8;
	u64 clusters, blocks, bytes;
	struct header old = q->h;
	u64 *bigger, *out;
	u32 old_entries = q->reftable_entries, old_used = q->reftable_used;
	u64 *old_table = q->reftable;
	int rc;

	/* The blocks that count the new table need entries in it as well. */
	clusters =
	    MAX((u64)q->h.reftable_clusters * 2, entries / per_cluster + 1);
	blocks = blocks_for(q, clusters);
	while (clusters * per_cluster < (u64)old_entries + blocks) {
		clusters *= 2;
		blocks = blocks_for(q, clusters);
	}
	bytes = clusters << q->h.cluster_bits;
	if (bytes > REFTABLE_BYTES_MAX)
		return -EFBIG;
	bigger = try_alloc(bytes / 8, 8);
	out = try_alloc(bytes / 8, 8);
	/* The old table must not be written any more from here on, and a full
	 * cache would: leave nothing in it that needs writing. */
	rc = bigger && out ? commit(q) : -ENOMEM;
	if (rc == 0)
		rc = commit_refblocks(q);
	if (rc < 0)
		goto fail;
	q->committing = true;
	memcpy(bigger, old_table, (u64)old_entries * 8);
	q->reftable = bigger;
	q->reftable_entries = (u32)(bytes / 8);
	rc = reserve(q, start, blocks, clusters);
	/* All blocks are on disk before the table that names them. */
	for (u64 i = 0; i < bytes / 8; i++)
		put64(&out[i], bigger[i]);
	while (rc == 0 && q->cache.dirty[TABLE_REFBLOCK])
		rc = table_write(q, q->cache.dirty[TABLE_REFBLOCK]);
	if (rc == 0)
		rc = meta_write(q, (start + blocks) << q->h.cluster_bits, out,
		                bytes);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc == 0) {
		pthread_mutex_lock(&q->lock);
		q->h.reftable_offset = (start + blocks) << q->h.cluster_bits;
		q->h.reftable_clusters = (u32)clusters;
		pthread_mutex_unlock(&q->lock);
		rc = header_update(q);
	}
	if (rc == 0)
		rc = meta_flush(q);
	q->committing = false;
	if (rc < 0) {
		/* The old table still holds; the new blocks are forgotten. */
		for (u64 i = 0; i < blocks; i++)
			cache_drop(q, (start + i) << q->h.cluster_bits);
		pthread_mutex_lock(&q->lock);
		q->h = old;
		pthread_mutex_unlock(&q->lock);
		q->reftable = old_table;
		q->reftable_entries = old_entries;
		q->reftable_used = old_used;
		q->reftable_dirty_from = q->reftable_dirty_to = 0;
		goto fail;
	}
	q->reftable_dirty_from = q->reftable_dirty_to = 0;
	free(out);
	free(old_table);
	return clusters_free(q, old.reftable_offset, old.reftable_clusters);

fail:
	free(bigger);
	free(out);
	return rc;
}

/* See that range i has a block. */
static int block_ensure(struct qcow2 *q, u64 i)
{
	struct table *t;
	int rc = 0;

	if (i >= q->reftable_entries)
		rc = reftable_grow(q, i + 1);
	if (rc < 0 || q->reftable[i])
		return rc;
	rc = block_make(q, i, i << q->refblock_bits, &t);
	if (rc < 0)
		return rc;
	block_set(q, t, i << q->refblock_bits, 1);
	table_put(t);
	return 0;
}

/* Clusters from this one on to the end of its block. */
static u64 block_left(const struct qcow2 *q, u64 cluster)
{
	return per_block(q) - (cluster & (per_block(q) - 1));
}

static int take(struct qcow2 *q, u64 first, u64 count)
{
	u64 which, some;
	int rc = 0;

	if (is_metadata(q, first, count, &which))
		return mark_corrupt(q,
		                    "cluster %#" PRIx64 " is metadata but"
		                    " counted as free",
		                    which);
	for (u64 done = 0; done < count && rc == 0; done += some) {
		some = MIN(count - done, block_left(q, first + done));
		rc = set_run(q, first + done, some, 1);
	}
	if (rc == 0)
		extend_end(q, first, count);
	return rc;
}

/* From a used cluster on to the next that is not, or to the block's end. */
static int skip_used(struct qcow2 *q, u64 *cluster)
{
	u64 last = *cluster + block_left(q, *cluster) - 1;
	struct table *t;
	int rc = block_get(q, *cluster, &t);

	if (rc < 0)
		return rc;
	while (t && *cluster <= last &&
	       refcount_read(t->data, q->h.refcount_order,
	                     *cluster & (per_block(q) - 1)))
		++*cluster;
	table_put(t);
	return 0;
}

/* How many are free from this one on, at most max, within its block. */
static int count_free(struct qcow2 *q, u64 cluster, u64 max, u64 *count)
{
	u64 first = cluster & (per_block(q) - 1), n = 0;
	struct table *t;
	int rc = block_get(q, cluster, &t);

	if (rc < 0)
		return rc;
	max = MIN(max, per_block(q) - first);
	while (n < max && (!t || refcount_read(t->data, q->h.refcount_order,
	                                       first + n) == 0))
		n++;
	table_put(t);
	*count = n;
	return 0;
}

/* The first run of free clusters from *at on, at most want long; ranges
 * without a block get one. */
static int find_free(struct qcow2 *q, u64 *at, u64 want, u64 *got)
{
	u64 c = *at, n = 0, count = 0;
	int rc = 0;

	while (n < want) {
		/* A block of its own would take the middle of the run. */
		if (n > 0 && (c + n) >> q->refblock_bits >= q->reftable_entries)
			break;
		if (n > 0 && !q->reftable[(c + n) >> q->refblock_bits])
			break;
		rc = block_ensure(q, (c + n) >> q->refblock_bits);
		if (rc == 0)
			rc = count_free(q, c + n, want - n, &count);
		if (rc < 0)
			return rc;
		if (count == 0 && n > 0)
			break;
		n += count;
		if (count == 0 && (rc = skip_used(q, &c)) < 0)
			return rc;
		if ((c + n) << q->h.cluster_bits >= HOST_MAX)
			return -EFBIG;
		/* A host block device ends where it ends. */
		if (!q->file->unbounded &&
		    (c + n) << q->h.cluster_bits > block_size(q->file))
			return -ENOSPC;
	}
	*at = c;
	*got = n;
	return 0;
}

int clusters_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *got)
{
	u64 at = q->cursor, n;
	int rc;

	if (atomic_load(&q->corrupt))
		return -EIO;
	rc = find_free(q, &at, want, &n);
	if (rc == 0)
		rc = take(q, at, n);
	if (rc < 0)
		return rc;
	q->cursor = at + n;
	*offset = at << q->h.cluster_bits;
	*got = n;
	return 0;
}

int clusters_alloc_run(struct qcow2 *q, u64 want, u64 *offset)
{
	u64 at = q->cursor, n, blocks, start;
	int rc;

	if (atomic_load(&q->corrupt))
		return -EIO;
	/* A few tries among what is free, then behind everything. */
	for (int i = 0; i < 64 && want < per_block(q) / 2; i++) {
		rc = find_free(q, &at, want, &n);
		if (rc < 0)
			return rc;
		if (n == want) {
			*offset = at << q->h.cluster_bits;
			return take(q, at, n);
		}
		at += n;
	}
	blocks = blocks_for(q, want);
	start = covered_end(q);
	if ((start >> q->refblock_bits) + blocks > q->reftable_entries) {
		rc = reftable_grow(q, (start >> q->refblock_bits) + blocks);
		if (rc < 0)
			return rc;
		start = covered_end(q);
		if ((start >> q->refblock_bits) + blocks > q->reftable_entries)
			return -EFBIG;
	}
	rc = reserve(q, start, blocks, want);
	if (rc == 0)
		*offset = (start + blocks) << q->h.cluster_bits;
	return rc;
}

int clusters_free(struct qcow2 *q, u64 offset, u64 count)
{
	u64 first = cluster_of(q, offset);
	struct run *last;

	if (count == 0)
		return 0;
	last = q->free_count ? &q->frees[q->free_count - 1] : NULL;
	meta_mark_dirty(q);
	if (last && last->first + last->count == first) {
		last->count += count;
		return 0;
	}
	if (q->free_count == q->free_room) {
		u64 room = q->free_room ? q->free_room * 2 : 64;
		struct run *more = realloc(q->frees, room * sizeof(*more));

		if (!more)
			return 0; /* a leak, which check repairs */
		q->frees = more;
		q->free_room = room;
	}
	q->frees[q->free_count++] = (struct run){ first, count };
	return 0;
}

/* Give clusters that are free now back to the host's file system. */
static void release_space(struct qcow2 *q, u64 first, u64 count)
{
	if (count > 0)
		(void)block_sync(q->file, BLOCK_DISCARD,
		                 first << q->h.cluster_bits, NULL,
		                 count << q->h.cluster_bits);
}

static int apply_run(struct qcow2 *q, struct run run)
{
	u64 first = 0, n = 0, count;
	int rc = 0;

	for (u64 c = run.first; c < run.first + run.count && rc == 0; c++) {
		rc = refcount_get(q, c, &count);
		if (rc == 0 && count == 0)
			rc = mark_corrupt(
			    q, "cluster %#" PRIx64 " was freed twice", c);
		if (rc < 0)
			break;
		if (count > 1) {
			rc = refcount_set(q, c, count - 1);
			continue;
		}
		if (n > 0 && first + n != c) {
			release_space(q, first, n);
			n = 0;
		}
		if (n++ == 0)
			first = c;
		cache_drop(q, c << q->h.cluster_bits);
		rc = refcount_set(q, c, 0);
		q->cursor = MIN(q->cursor, c);
	}
	/* Nobody can take them before this is done: meta is held. */
	release_space(q, first, n);
	return rc;
}

int clusters_apply_frees(struct qcow2 *q)
{
	struct run *frees = q->frees;
	u64 n = q->free_count;
	int rc = 0;

	q->frees = NULL;
	q->free_count = q->free_room = 0;
	if (n > 0)
		q->packed_at = 0;
	for (u64 i = 0; i < n && rc == 0; i++)
		rc = apply_run(q, frees[i]);
	free(frees);
	return rc;
}

int clusters_alloc_packed(struct qcow2 *q, u32 bytes, u64 *offset)
{
	u64 at = q->packed_at, room = 0, next, got, count;
	int rc;

	if (at) {
		room = q->cluster_size - in_cluster(q, at);
		rc = refcount_get(q, cluster_of(q, at), &count);
		if (rc < 0)
			return rc;
		if (count == refcount_max(q))
			at = 0;
	}
	if (at && bytes <= room) {
		rc = refcount_add(q, cluster_of(q, at), 1);
		next = at;
	} else {
		rc = clusters_alloc(q, 1, &next, &got);
		if (rc == 0 && at && next == at + room) {
			/* It goes on where the last cluster ends. */
			rc = refcount_add(q, cluster_of(q, at), 1);
			next = at;
		}
	}
	if (rc < 0)
		return rc;
	*offset = next;
	q->packed_at = next + bytes;
	if (in_cluster(q, q->packed_at) == 0)
		q->packed_at = 0;
	return 0;
}
