/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rw - the slow path: reads of anything, writes that change the mapping.
 *
 * Runs on a worker, blocking, with the guest clusters held by the request.
 * A write has three parts: plan (find or make the place; meta), data (what
 * the guest wrote, and around it what the new place must hold besides; no
 * lock), link (point the L2 table at it; meta). Until the link, nobody can
 * see the new place; after a crash in between it is a leak.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "storage/core/iov.h"
#include "storage/qcow2/qcow2.h"

/* Bytes planned at once: bounds how much a crash can leak. */
#define PLAN_MAX (8 * MIB)
#define ZERO_BUFFER (256 * KIB)

struct vector {
	const struct iovec *iov;
	int count;
};

struct sync_io {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int result;
};

static void sync_done(struct block_request *req, int result)
{
	struct sync_io *s = req->ctx;

	pthread_mutex_lock(&s->lock);
	s->done = true;
	s->result = result;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

static int sync_vector(struct block *b, enum block_op op, u64 offset,
                       u64 length, const struct iovec *iov, int count)
{
	struct sync_io s = { .lock = PTHREAD_MUTEX_INITIALIZER,
		             .cond = PTHREAD_COND_INITIALIZER };
	struct block_request req = {
		.op = op,
		.flags = BLOCK_REQ_INLINE | BLOCK_REQ_BLOCKING,
		.offset = offset,
		.length = length,
		.iov = iov,
		.iov_count = count,
		.done = sync_done,
		.ctx = &s,
	};

	block_submit(b, &req);
	pthread_mutex_lock(&s.lock);
	while (!s.done)
		pthread_cond_wait(&s.cond, &s.lock);
	pthread_mutex_unlock(&s.lock);
	return s.result;
}

/* Part of a vector, from or to a block. */
static int sync_part(struct block *b, enum block_op op, u64 offset, u64 length,
                     const struct iovec *iov, int count, u64 at)
{
	struct iovec *slice = try_alloc((size_t)count, sizeof(*slice));
	int n, rc;

	if (!slice)
		return -ENOMEM;
	n = iov_slice(slice, iov, count, at, length);
	rc = sync_vector(b, op, offset, length, slice, n);
	free(slice);
	return rc;
}

static int read_backing(struct qcow2 *q, u64 offset, u64 length,
                        const struct iovec *iov, int iov_count, u64 at)
{
	u64 n = 0;
	int rc = 0;

	if (q->backing && offset < q->backing_bytes)
		n = MIN(length, q->backing_bytes - offset);
	if (n > 0)
		rc = sync_part(q->backing, BLOCK_READ, offset, n, iov,
		               iov_count, at);
	if (rc == 0)
		iov_zero(iov, iov_count, at + n, length - n);
	return rc;
}

int rw_read(struct qcow2 *q, u64 offset, u64 length, const struct iovec *iov,
            int iov_count, u64 at)
{
	int rc = 0;

	while (length > 0 && rc == 0) {
		struct extent e;

		pthread_mutex_lock(&q->meta);
		rc = extent_get(q, offset, length, &e);
		pthread_mutex_unlock(&q->meta);
		if (rc < 0)
			break;
		switch (e.kind) {
		case EXTENT_HOLE:
			rc = read_backing(q, offset, e.length, iov, iov_count,
			                  at);
			break;
		case EXTENT_ZERO:
			iov_zero(iov, iov_count, at, e.length);
			break;
		case EXTENT_DATA:
			rc = sync_part(q->data, BLOCK_READ, e.host, e.length,
			               iov, iov_count, at);
			break;
		case EXTENT_COMPRESSED:
			rc = read_compressed(q, e.host, in_cluster(q, offset),
			                     e.length, iov, iov_count, at);
			break;
		}
		offset += e.length;
		at += e.length;
		length -= e.length;
	}
	return rc;
}

/* What lies around a write; zeroes behind the end of the disk. */
static int read_around(struct qcow2 *q, u64 offset, u64 length, u8 *buf)
{
	struct iovec iov = { buf, length };
	u64 size = block_size(&q->block), n = 0;

	if (offset < size)
		n = MIN(length, size - offset);
	memset(buf + n, 0, length - n);
	return n ? rw_read(q, offset, n, &iov, 1, 0) : 0;
}

/* Whether a range reads as zeroes by its mapping alone. meta held. */
static int reads_zero(struct qcow2 *q, u64 offset, u64 length, bool *zero)
{
	u64 size = block_size(&q->block);
	u64 end = MIN(offset + length, size);

	*zero = true;
	while (offset < end && *zero) {
		struct extent e;
		int rc = extent_get(q, offset, end - offset, &e);

		if (rc < 0)
			return rc;
		*zero = e.kind == EXTENT_ZERO ||
		        (e.kind == EXTENT_HOLE &&
		         (!q->backing || offset >= q->backing_bytes));
		offset += e.length;
	}
	return 0;
}

struct plan {
	enum { IN_PLACE, KEEP, NEW } how;
	u64 length;   /* guest bytes from the offset asked for */
	u64 host;     /* IN_PLACE: of the offset; else of its cluster */
	u64 clusters; /* KEEP, NEW */
	u64 from, to; /* guest range to be written */
	bool skip_head, skip_tail; /* the place is zero already, as it must */
};

/* The host cluster that a guest cluster may keep when written to; 0: none.
 * An external file has the one place for each. */
static bool keeps_host(const struct qcow2 *q, u64 guest, u64 entry, u64 *host)
{
	if (q->external) {
		*host = ALIGN_DOWN(guest, (u64)q->cluster_size);
		return true;
	}
	*host = entry & ENTRY_OFFSET;
	return *host && (entry & ENTRY_COPIED) && !(entry & ENTRY_COMPRESSED);
}

/* The clusters from offset on that are alike, and their place. */
static int plan_clusters(struct qcow2 *q, struct table *t, u64 offset,
                         u64 length, struct plan *p)
{
	u64 start = ALIGN_DOWN(offset, (u64)q->cluster_size);
	u32 index = l2_index(q, offset);
	u64 most =
	    cluster_of(q, offset + length - 1) - cluster_of(q, offset) + 1;
	u64 bitmap, host, n = 0;
	bool keep =
	    keeps_host(q, offset, l2_entry(q, t, index, &bitmap), &p->host);
	int rc = 0;

	most = MIN(most, MAX(PLAN_MAX >> q->h.cluster_bits, 1u));
	most = MIN(most, (u64)(q->l2_entries - index));
	while (n < most) {
		u64 at = start + (n << q->h.cluster_bits);
		u64 entry = l2_entry(q, t, index + (u32)n, &bitmap);

		if (keeps_host(q, at, entry, &host) != keep)
			break;
		if (keep && host != p->host + (n << q->h.cluster_bits))
			break;
		n++;
	}
	p->how = keep ? KEEP : NEW;
	if (!keep)
		rc = clusters_alloc(q, n, &p->host, &n);
	p->clusters = n;
	return rc;
}

/* Old data in a cluster that moves has to move as a whole. */
static u64 around_unit(const struct qcow2 *q, const struct plan *p, u64 entry,
                       u64 bitmap)
{
	bool data = (entry & ENTRY_COMPRESSED) || (u32)bitmap;

	return p->how == NEW && data ? q->cluster_size : q->subcluster_size;
}

static int plan_write(struct qcow2 *q, u64 offset, u64 length, struct plan *p)
{
	u64 start = ALIGN_DOWN(offset, (u64)q->cluster_size), end;
	u64 entry, bitmap, last_entry, last_bitmap;
	struct table *t;
	struct extent e;
	u32 index = l2_index(q, offset);
	u64 fresh_from = q->fresh_from;
	bool fresh;
	int rc;

	*p = (struct plan){ .how = IN_PLACE };
	if (atomic_load(&q->corrupt))
		return -EIO;
	rc = extent_get(q, offset, length, &e);
	if (rc < 0)
		return rc;
	if (e.kind == EXTENT_DATA && e.in_place) {
		bool hits;

		pthread_mutex_lock(&q->lock);
		hits = meta_overlaps(q, e.host, e.length);
		pthread_mutex_unlock(&q->lock);
		if (hits)
			return mark_corrupt(
			    q, "guest data at %#" PRIx64 " where metadata is",
			    e.host);
		p->length = e.length;
		p->host = e.host;
		return 0;
	}
	rc = l2_get(q, offset, true, &t);
	if (rc < 0)
		return rc;
	rc = plan_clusters(q, t, offset, length, p);
	if (rc < 0) {
		table_put(t);
		return rc;
	}
	entry = l2_entry(q, t, index, &bitmap);
	last_entry = l2_entry(q, t, index + (u32)p->clusters - 1, &last_bitmap);
	table_put(t);
	end = MIN(offset + length, start + (p->clusters << q->h.cluster_bits));
	p->length = end - offset;
	p->from = ALIGN_DOWN(offset, around_unit(q, p, entry, bitmap));
	p->to = ALIGN_UP(end, around_unit(q, p, last_entry, last_bitmap));
	/* Never written, so that parts which must be zero need no writing. */
	fresh = p->how == NEW && p->host >= fresh_from;
	if (fresh && p->from < offset)
		rc = reads_zero(q, p->from, offset - p->from, &p->skip_head);
	if (fresh && rc == 0 && p->to > end)
		rc = reads_zero(q, end, p->to - end, &p->skip_tail);
	if (rc < 0)
		(void)clusters_free(q, p->host, p->clusters);
	return rc;
}

/* The guest's bytes between what has to stand around them. */
static int write_data(struct qcow2 *q, u64 offset, const struct plan *p,
                      struct vector guest, u64 at)
{
	u64 end = offset + p->length;
	u64 from = p->skip_head ? offset : p->from;
	u64 to = p->skip_tail ? end : p->to;
	u64 head = offset - from, tail = to - end;
	u64 base = p->how == IN_PLACE
	               ? offset - p->host
	               : ALIGN_DOWN(offset, (u64)q->cluster_size) - p->host;
	struct iovec *iov = try_alloc((size_t)guest.count + 2, sizeof(*iov));
	u8 *around = try_alloc(1, head + tail);
	int n = 0, rc = -ENOMEM;

	if (!iov || !around)
		goto out;
	rc = head ? read_around(q, from, head, around) : 0;
	if (rc == 0 && tail)
		rc = read_around(q, end, tail, around + head);
	if (rc < 0)
		goto out;
	if (head)
		iov[n++] = (struct iovec){ around, head };
	n += iov_slice(iov + n, guest.iov, guest.count, at, p->length);
	if (tail)
		iov[n++] = (struct iovec){ around + head, tail };
	rc = sync_vector(q->data, BLOCK_WRITE, from - base, to - from, iov, n);
out:
	free(iov);
	free(around);
	return rc;
}

/* Bits of the subclusters of one cluster that [from, to) covers. */
static u64 covered_bits(const struct qcow2 *q, u64 cluster, u64 from, u64 to)
{
	u64 low = from > cluster ? (from - cluster) / q->subcluster_size : 0;
	u64 high = MIN(to - cluster, (u64)q->cluster_size) / q->subcluster_size;

	return (BIT(high) - 1) & ~(BIT(low) - 1);
}

static int link_clusters(struct qcow2 *q, u64 offset, const struct plan *p)
{
	u64 start = ALIGN_DOWN(offset, (u64)q->cluster_size);
	u32 index = l2_index(q, offset);
	struct table *t;
	int rc = l2_get(q, offset, true, &t);

	for (u64 i = 0; i < p->clusters && rc == 0; i++) {
		u64 guest = start + (i << q->h.cluster_bits), bitmap, bits;
		u64 old = l2_entry(q, t, index + (u32)i, &bitmap);
		u64 entry = (p->host + (i << q->h.cluster_bits)) | ENTRY_COPIED;
		u64 before = bitmap;

		bits = q->extended ? covered_bits(q, guest, p->from, p->to) : 0;
		/* Data that stayed behind in the old place is not ours. */
		if (p->how == NEW)
			bitmap &= ~(u64)UINT32_MAX;
		bitmap = (bitmap | bits) & ~(bits << 32);
		if (entry != old || bitmap != before)
			l2_set(q, t, index + (u32)i, entry,
			       q->extended ? bitmap : 0);
		if (p->how == NEW)
			rc = l2_entry_free(q, old);
	}
	table_put(t);
	return rc;
}

static int write_piece(struct qcow2 *q, u64 offset, u64 length,
                       struct vector guest, u64 at, u64 *written)
{
	struct plan p;
	int rc;

	*written = 0;
	pthread_mutex_lock(&q->meta);
	rc = plan_write(q, offset, length, &p);
	pthread_mutex_unlock(&q->meta);
	if (rc < 0)
		return rc;
	if (p.how == IN_PLACE) {
		p.from = offset;
		p.to = offset + p.length;
	}
	rc = write_data(q, offset, &p, guest, at);
	if (p.how != IN_PLACE) {
		pthread_mutex_lock(&q->meta);
		if (rc == 0)
			rc = link_clusters(q, offset, &p);
		else if (p.how == NEW)
			(void)clusters_free(q, p.host, p.clusters);
		pthread_mutex_unlock(&q->meta);
	}
	*written = p.length;
	return rc;
}

static int write_all(struct qcow2 *q, u64 offset, u64 length,
                     struct vector guest)
{
	u64 at = 0, n;
	int rc = 0;

	while (at < length && rc == 0) {
		rc = write_piece(q, offset + at, length - at, guest, at, &n);
		at += n;
	}
	return rc;
}

int rw_write(struct qcow2 *q, u64 offset, u64 length, const struct iovec *iov,
             int iov_count)
{
	struct vector guest = { iov, iov_count };
	struct iovec zero = { .iov_len = MIN(length, ZERO_BUFFER) };
	int rc = 0;

	if (iov)
		return write_all(q, offset, length, guest);
	zero.iov_base = try_alloc(1, zero.iov_len);
	if (!zero.iov_base)
		return -ENOMEM;
	guest = (struct vector){ &zero, 1 };
	while (length > 0 && rc == 0) {
		u64 n = MIN(length, ZERO_BUFFER);

		rc = write_all(q, offset, n, guest);
		offset += n;
		length -= n;
	}
	free(zero.iov_base);
	return rc;
}

enum clear_how { CLEAR_UNMAP, CLEAR_KEEP, CLEAR_DISCARD };

/* One whole cluster becomes zero, or nothing. meta held. */
static int clear_cluster(struct qcow2 *q, struct table *t, u64 offset,
                         enum clear_how how)
{
	u32 index = l2_index(q, offset);
	u64 bitmap, host, old = l2_entry(q, t, index, &bitmap);
	bool covered = q->backing && offset < q->backing_bytes;
	bool keep = how == CLEAR_KEEP && q->has_zero &&
	            !(old & ENTRY_COMPRESSED) &&
	            keeps_host(q, offset, old, &host) && (old & ENTRY_COPIED);
	u64 entry = 0, zeroes = 0;

	if (old == 0 && bitmap == 0 && !covered)
		return 0; /* nothing there, nothing behind it */
	if (keep)
		entry = old & (ENTRY_OFFSET | ENTRY_COPIED);
	/* Without the zero flag only an unmapped cluster can read as zero. */
	if (q->has_zero && (covered || keep)) {
		zeroes = q->extended ? (u64)UINT32_MAX << 32 : 0;
		entry |= q->extended ? 0 : ENTRY_ZERO;
	}
	if (entry == old && bitmap == zeroes)
		return 0;
	l2_set(q, t, index, entry, zeroes);
	return keep ? 0 : l2_entry_free(q, old);
}

static int clear_table(struct qcow2 *q, u64 offset, u64 end, enum clear_how how)
{
	bool covered = q->backing && offset < q->backing_bytes;
	struct table *t;
	int rc;

	if (atomic_load(&q->corrupt))
		return -EIO;
	rc = l2_get(q, offset, false, &t);
	if (rc < 0 || (!t && !covered))
		return rc;
	table_put(t);
	rc = l2_get(q, offset, true, &t);
	if (rc < 0)
		return rc;
	for (u64 at = offset; at < end && rc == 0; at += q->cluster_size)
		rc = clear_cluster(q, t, at, how);
	table_put(t);
	return rc;
}

/* Whole clusters; the last may be cut by the end of the disk. */
static int clear_clusters(struct qcow2 *q, u64 offset, u64 end,
                          enum clear_how how)
{
	u64 per_table = (u64)q->l2_entries << q->h.cluster_bits;
	int rc = 0;

	if (q->raw_data || (q->external && how != CLEAR_KEEP)) {
		u64 n = MIN(end, block_size(q->data));

		/* A raw file holds the zeroes itself. */
		if (n > offset)
			rc = block_sync_flags(
			    q->data,
			    q->raw_data ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD,
			    how == CLEAR_KEEP ? BLOCK_REQ_NO_UNMAP : 0, offset,
			    NULL, n - offset);
		if (q->raw_data || rc < 0)
			return rc;
	}
	while (offset < end && rc == 0) {
		u64 next = MIN(end, ALIGN_DOWN(offset, per_table) + per_table);

		pthread_mutex_lock(&q->meta);
		rc = clear_table(q, offset, next, how);
		pthread_mutex_unlock(&q->meta);
		offset = next;
	}
	return rc;
}

static void whole_clusters(struct qcow2 *q, u64 offset, u64 length, u64 *from,
                           u64 *to)
{
	u64 end = offset + length, size = block_size(&q->block);

	*from = ALIGN_UP(offset, (u64)q->cluster_size);
	*to = end == size ? end : ALIGN_DOWN(end, (u64)q->cluster_size);
	if (*from > *to)
		*from = *to = end;
}

static int zero_part(struct qcow2 *q, u64 offset, u64 length)
{
	bool zero = false;
	int rc;

	if (length == 0)
		return 0;
	pthread_mutex_lock(&q->meta);
	rc = reads_zero(q, offset, length, &zero);
	pthread_mutex_unlock(&q->meta);
	return rc < 0 || zero ? rc : rw_write(q, offset, length, NULL, 0);
}

int rw_zero(struct qcow2 *q, u64 offset, u64 length, bool unmap)
{
	u64 from, to, end = offset + length;
	int rc;

	whole_clusters(q, offset, length, &from, &to);
	rc = zero_part(q, offset, from - offset);
	if (rc == 0 && from < to && !q->has_zero && q->backing &&
	    from < q->backing_bytes)
		rc = zero_part(q, from, to - from);
	else if (rc == 0 && from < to)
		rc = clear_clusters(q, from, to,
		                    unmap ? CLEAR_UNMAP : CLEAR_KEEP);
	if (rc == 0)
		rc = zero_part(q, to, end - to);
	return rc;
}

int rw_discard(struct qcow2 *q, u64 offset, u64 length)
{
	u64 from, to;

	whole_clusters(q, offset, length, &from, &to);
	/* Unmapping would bring back what the backing file has. */
	if (!q->has_zero && q->backing)
		return 0;
	return from < to ? clear_clusters(q, from, to, CLEAR_DISCARD) : 0;
}
