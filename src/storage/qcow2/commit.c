/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit - metadata goes to disk in the one order that a crash can't spoil.
 *
 *	1  refcount blocks          (nothing points at what they count yet)
 *	2  flush; refcount table    (points at blocks that are there)
 *	3  flush                    (covers guest data that L2 will point at)
 *	4  L2 tables; flush         (their clusters are counted, their data is
 *	                             there)
 *	5  L1; flush                (points at tables that are there)
 *	6  dropped references       (the disk's tables no longer hold them) are
 *	                            taken off in memory, for the next commit
 *
 * Each sector written in a step is valid by itself beside any mixture of old
 * and new sectors of the same step. What a crash can leave is a count that is
 * too high: a leak.
 *
 * With lazy refcounts the dirty bit was set before the first change; steps 1
 * and 2 then wait for the close, and a crash means a repair.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"
#include "storage/qcow2/qcow2.h"

int meta_read(struct qcow2 *q, u64 offset, void *data, u64 length)
{
	return block_sync(q->file, BLOCK_READ, offset, data, length);
}

int meta_write(struct qcow2 *q, u64 offset, const void *data, u64 length)
{
	union {
		const void *in;
		void *p;
	} from = { .in = data }; /* a write only reads it */

	return block_sync(q->file, BLOCK_WRITE, offset, from.p, length);
}

int meta_flush(struct qcow2 *q)
{
	int rc = block_sync(q->file, BLOCK_FLUSH, 0, NULL, 0);

	if (rc == 0 && q->external)
		rc = block_sync(q->data, BLOCK_FLUSH, 0, NULL, 0);
	/* What the host had taken may be lost, and would not be tried again:
	 * nothing may be built on it. The image on disk is still whole. */
	if (rc < 0)
		atomic_store(&q->corrupt, true);
	return rc;
}

void meta_mark_dirty(struct qcow2 *q)
{
	atomic_store_explicit(&q->meta_dirty, true, memory_order_release);
}

bool meta_offset_valid(const struct qcow2 *q, u64 offset)
{
	return offset >= q->cluster_size && in_cluster(q, offset) == 0 &&
	       offset < q->host_end;
}

static bool overlap(u64 at, u64 length, u64 other, u64 bytes)
{
	return at < other + bytes && other < at + length;
}

bool meta_overlaps(struct qcow2 *q, u64 host, u64 length)
{
	u64 at = ALIGN_DOWN(host, (u64)q->cluster_size);

	if (q->external)
		return false;
	if (host < q->cluster_size ||
	    overlap(host, length, q->h.l1_offset, (u64)q->h.l1_size * 8) ||
	    overlap(host, length, q->h.reftable_offset,
	            (u64)q->h.reftable_clusters << q->h.cluster_bits))
		return true;
	for (; at < host + length; at += q->cluster_size)
		if (cache_peek(q, at))
			return true;
	return false;
}

int mark_corrupt(struct qcow2 *q, const char *fmt, ...)
{
	static const char said[] = "its image is corrupt, and not written any "
				   "more: ";
	size_t n = sizeof(said) - 1;
	va_list ap;

	if (atomic_exchange(&q->corrupt, true))
		return -EIO;
	memcpy(q->damage, said, n);
	va_start(ap, fmt);
	vsnprintf(q->damage + n, sizeof(q->damage) - n, fmt, ap);
	va_end(ap);
	atomic_store(&q->damage_told, true);
	log_debug("storage", "qcow2: %s", q->damage);
	if (q->writable && q->h.version >= 3) {
		q->h.incompatible |= INCOMPAT_CORRUPT;
		if (header_update(q) == 0)
			(void)meta_flush(q);
	}
	return -EIO;
}

static int write_tables(struct qcow2 *q, enum table_kind kind)
{
	struct table *t;
	int rc = 0;

	while (rc == 0 && (t = q->cache.dirty[kind]))
		rc = table_write(q, t);
	return rc;
}

/* Entries [from, to) of a table of u64 in memory, by whole units. */
static int write_entries(struct qcow2 *q, u64 offset, const u64 *entries,
                         u32 count, u32 from, u32 to)
{
	u32 unit = q->file->info.sector / 8, n;
	u64 *out;
	int rc;

	from = ALIGN_DOWN(from, unit);
	to = ALIGN_UP(to, unit);
	n = to - from;
	out = try_alloc(n, sizeof(*out));
	if (!out)
		return -ENOMEM;
	for (u32 i = 0; i < n && from + i < count; i++)
		put64(&out[i], entries[from + i]);
	rc = meta_write(q, offset + (u64)from * 8, out, (u64)n * 8);
	free(out);
	return rc;
}

int commit_refblocks(struct qcow2 *q)
{
	int rc = write_tables(q, TABLE_REFBLOCK);

	if (rc < 0 || q->reftable_dirty_from >= q->reftable_dirty_to)
		return rc;
	rc = meta_flush(q);
	if (rc == 0)
		rc = write_entries(q, q->h.reftable_offset, q->reftable,
		                   q->reftable_entries, q->reftable_dirty_from,
		                   q->reftable_dirty_to);
	if (rc == 0)
		q->reftable_dirty_from = q->reftable_dirty_to = 0;
	return rc;
}

static int commit_l1(struct qcow2 *q)
{
	u32 from = q->l1_dirty_from, to = q->l1_dirty_to;
	int rc;

	if (from >= to)
		return 0;
	rc = write_entries(q, q->h.l1_offset, q->l1, q->h.l1_size, from, to);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc == 0)
		q->l1_dirty_from = q->l1_dirty_to = 0;
	return rc;
}

static bool counting_later(const struct qcow2 *q)
{
	return (q->h.compatible & COMPAT_LAZY_REFCOUNTS) &&
	       (q->h.incompatible & INCOMPAT_DIRTY);
}

int commit(struct qcow2 *q)
{
	bool tables =
	    q->cache.dirty[TABLE_L2] || q->l1_dirty_from < q->l1_dirty_to;
	int rc = 0;

	if (atomic_load(&q->corrupt))
		return -EIO;
	if (!counting_later(q))
		rc = commit_refblocks(q);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc == 0 && q->cache.dirty[TABLE_L2])
		rc = write_tables(q, TABLE_L2);
	if (rc == 0 && tables)
		rc = meta_flush(q);
	if (rc == 0)
		rc = commit_l1(q);
	if (rc < 0)
		return rc;
	/* Cleared before the frees, which make work for the next commit. */
	atomic_store_explicit(&q->meta_dirty, false, memory_order_relaxed);
	q->committing = true;
	rc = clusters_apply_frees(q);
	q->committing = false;
	return rc;
}

static bool anything_left(const struct qcow2 *q)
{
	return atomic_load(&q->meta_dirty) || q->cache.dirty[TABLE_REFBLOCK] ||
	       q->reftable_dirty_from < q->reftable_dirty_to;
}

int commit_all(struct qcow2 *q)
{
	u64 old = q->h.compatible;
	int rc = 0;

	/* Lazy or not, everything now. */
	q->h.compatible &= ~(u64)COMPAT_LAZY_REFCOUNTS;
	while (rc == 0 && anything_left(q))
		rc = commit(q);
	q->h.compatible = old;
	return rc;
}
