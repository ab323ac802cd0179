/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild - refcount structures made anew, beside the old ones.
 *
 * They lie behind everything else and the header names them in one sector
 * when they are complete: a crash before that leaves the old ones in force.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "storage/qcow2/qcow2.h"

struct layout {
	u64 at; /* first cluster of the new structures */
	u64 blocks, table_clusters;
};

static struct layout lay_out(const struct qcow2 *q, u64 clusters)
{
	struct layout l = { clusters, 1, 1 };
	u64 per_block = (u64)1 << q->refblock_bits;
	u64 per_table = q->cluster_size / 8;

	for (;;) {
		u64 total = clusters + l.blocks + l.table_clusters;

		if (l.blocks * per_block < total)
			l.blocks = (total + per_block - 1) / per_block;
		else if (l.table_clusters * per_table < l.blocks)
			l.table_clusters++;
		else
			return l;
	}
}

static int write_block(struct qcow2 *q, const struct layout *l, u64 i,
                       const u32 *counts, u64 clusters, u8 *buf)
{
	u64 per_block = (u64)1 << q->refblock_bits;
	u64 end = clusters + l->blocks + l->table_clusters;

	memset(buf, 0, q->cluster_size);
	for (u64 j = 0; j < per_block; j++) {
		u64 c = i * per_block + j;
		u64 count = c < clusters ? counts[c] : c < end;

		if (q->refcount_bits < 32 && count >> q->refcount_bits)
			return -E2BIG;
		refcount_write(buf, q->h.refcount_order, j, count);
	}
	return meta_write(q, (l->at + i) << q->h.cluster_bits, buf,
	                  q->cluster_size);
}

int refcounts_rebuild(struct qcow2 *q, const u32 *counts, u64 clusters)
{
	struct layout l = lay_out(q, clusters);
	u64 table_bytes = l.table_clusters << q->h.cluster_bits;
	u64 table_at = (l.at + l.blocks) << q->h.cluster_bits;
	struct header old = q->h;
	u64 *table = try_alloc(table_bytes / 8, 8);
	u64 *out = try_alloc(table_bytes / 8, 8);
	u8 *buf = try_alloc(1, q->cluster_size);
	int rc = table && out && buf ? 0 : -ENOMEM;

	if (rc == 0 && table_bytes > REFTABLE_BYTES_MAX)
		rc = -EFBIG;
	for (u64 i = 0; i < l.blocks && rc == 0; i++) {
		table[i] = (l.at + i) << q->h.cluster_bits;
		put64(&out[i], table[i]);
		rc = write_block(q, &l, i, counts, clusters, buf);
	}
	if (rc == 0)
		rc = meta_write(q, table_at, out, table_bytes);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc == 0) {
		q->h.reftable_offset = table_at;
		q->h.reftable_clusters = (u32)l.table_clusters;
		rc = header_update(q);
	}
	if (rc == 0)
		rc = meta_flush(q);
	free(out);
	free(buf);
	if (rc < 0) {
		q->h = old;
		free(table);
		return rc;
	}
	cache_drop_all(q);
	free(q->reftable);
	q->reftable = table;
	q->reftable_entries = (u32)(table_bytes / 8);
	q->reftable_used = (u32)l.blocks;
	q->reftable_dirty_from = q->reftable_dirty_to = 0;
	q->cursor = 0;
	q->packed_at = 0;
	q->free_count = 0;
	q->host_end = MAX(q->host_end, (l.at + l.blocks + l.table_clusters)
	                                   << q->h.cluster_bits);
	if (q->fresh_from != UINT64_MAX)
		q->fresh_from = q->host_end;
	return 0;
}
