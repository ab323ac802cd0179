/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot - internal snapshots: a second L1 table, and counts.
 *
 * These operations change counts and flags in many places that no order of
 * writing keeps in step. So the dirty bit is set first and cleared last: an
 * image caught in between is repaired when next opened for writing, and the
 * header, which says what snapshots there are, changes in one sector.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"

static void snapshot_free(struct snapshot *s)
{
	free(s->id);
	free(s->name);
	free(s->extra);
}

void snapshots_free(struct qcow2 *q)
{
	for (u32 i = 0; q->snapshots && i < q->h.snapshots; i++)
		snapshot_free(&q->snapshots[i]);
	free(q->snapshots);
	q->snapshots = NULL;
}

static u64 entry_bytes(const struct snapshot *s)
{
	return ALIGN_UP(SNAPSHOT_HEAD + SNAPSHOT_EXTRA + s->extra_size +
	                    strlen(s->id) + strlen(s->name),
	                8);
}

u64 snapshots_bytes(const struct qcow2 *q)
{
	return q->snapshots_bytes;
}

/* The table, read as far as it is needed. */
struct reader {
	struct qcow2 *q;
	u8 *data;
	u64 have, at;
};

static const u8 *need(struct reader *r, u64 bytes)
{
	u64 chunk = 64 * KIB;

	if (bytes > SNAPSHOT_TABLE_MAX - r->at)
		return NULL;
	while (r->at + bytes > r->have) {
		u8 *more = realloc(r->data, r->have + chunk);

		if (!more)
			return NULL;
		r->data = more;
		if (meta_read(r->q, r->q->h.snapshots_offset + r->have,
		              r->data + r->have, chunk) < 0)
			return NULL;
		r->have += chunk;
	}
	return r->data + r->at;
}

static char *string(const u8 *p, u32 length)
{
	char *s = try_alloc(1, (size_t)length + 1);

	if (s)
		memcpy(s, p, length);
	return s;
}

static int parse_one(struct reader *r, struct snapshot *s)
{
	struct qcow2 *q = r->q;
	const u8 *p = need(r, SNAPSHOT_HEAD);
	u32 id, name, extra, known;

	if (!p)
		return -EINVAL;
	s->l1_offset = get64(p);
	s->l1_size = get32(p + 8);
	id = get16(p + 12);
	name = get16(p + 14);
	s->seconds = get32(p + 16);
	s->nanoseconds = get32(p + 20);
	s->clock_ns = get64(p + 24);
	s->state_size = get32(p + 32);
	s->disk_size = q->h.size;
	extra = get32(p + 36);
	if (extra > MIB || (u64)s->l1_size * 8 > L1_BYTES_MAX)
		return -EINVAL;
	p = need(r, (u64)SNAPSHOT_HEAD + extra + id + name);
	if (!p)
		return -EINVAL;
	p += SNAPSHOT_HEAD;
	if (extra >= 8)
		s->state_size = get64(p);
	if (extra >= 16)
		s->disk_size = get64(p + 8);
	known = MIN(extra, (u32)SNAPSHOT_EXTRA);
	s->extra_size = extra - known;
	s->extra = try_alloc(1, s->extra_size);
	s->id = string(p + extra, id);
	s->name = string(p + extra + id, name);
	if (!s->extra || !s->id || !s->name)
		return -ENOMEM;
	memcpy(s->extra, p + known, s->extra_size);
	r->at += ALIGN_UP((u64)SNAPSHOT_HEAD + extra + id + name, 8);
	return 0;
}

int snapshots_load(struct qcow2 *q, const char *name, struct error *err)
{
	struct reader r = { .q = q };
	u32 n = q->h.snapshots;
	int rc = 0;

	q->snapshots = try_alloc(n, sizeof(*q->snapshots));
	if (!q->snapshots)
		return error_set(err, -ENOMEM, "%s: out of memory", name);
	for (u32 i = 0; i < n && rc == 0; i++)
		rc = parse_one(&r, &q->snapshots[i]);
	q->snapshots_bytes = r.at;
	free(r.data);
	if (rc < 0)
		return error_set(err, rc, "%s: its snapshot table is not valid",
		                 name);
	return 0;
}

int snapshot_l1(struct qcow2 *q, const struct snapshot *s, u64 **out)
{
	u64 bytes =
	    ALIGN_UP((u64)s->l1_size * 8, (u64)MAX(512u, q->file->info.sector));
	u64 *l1 = try_alloc(1, MAX(bytes, 512u));
	int rc = l1 ? 0 : -ENOMEM;

	if (rc == 0 && s->l1_size > 0)
		rc = meta_read(q, s->l1_offset, l1, bytes);
	if (rc < 0) {
		free(l1);
		return rc;
	}
	for (u32 i = 0; i < s->l1_size; i++)
		l1[i] = get64(&l1[i]);
	*out = l1;
	return 0;
}

static void put_entry(u8 *p, const struct snapshot *s)
{
	size_t id = strlen(s->id), name = strlen(s->name);

	put64(p, s->l1_offset);
	put32(p + 8, s->l1_size);
	put16(p + 12, (u16)id);
	put16(p + 14, (u16)name);
	put32(p + 16, s->seconds);
	put32(p + 20, s->nanoseconds);
	put64(p + 24, s->clock_ns);
	put32(p + 32, s->state_size > UINT32_MAX ? 0 : (u32)s->state_size);
	put32(p + 36, SNAPSHOT_EXTRA + s->extra_size);
	p += SNAPSHOT_HEAD;
	put64(p, s->state_size);
	put64(p + 8, s->disk_size);
	p += SNAPSHOT_EXTRA;
	memcpy(p, s->extra, s->extra_size);
	memcpy(p + s->extra_size, s->id, id);
	memcpy(p + s->extra_size + id, s->name, name);
}

/*
 * Put a list of snapshots in force: a new table in a new place, then the
 * header. On success the list is the image's own.
 */
static int install(struct qcow2 *q, struct snapshot *list, u32 n)
{
	struct header old = q->h;
	u64 old_bytes = q->snapshots_bytes, bytes = 0, at = 0, clusters;
	u8 *table, *p;
	int rc;

	for (u32 i = 0; i < n; i++)
		bytes += entry_bytes(&list[i]);
	if (bytes > SNAPSHOT_TABLE_MAX)
		return -EFBIG;
	clusters = (bytes + q->cluster_size - 1) >> q->h.cluster_bits;
	p = table = try_alloc(1, clusters << q->h.cluster_bits);
	rc = table ? 0 : -ENOMEM;
	if (rc == 0 && n > 0)
		rc = clusters_alloc_run(q, clusters, &at);
	for (u32 i = 0; i < n && rc == 0; i++) {
		put_entry(p, &list[i]);
		p += entry_bytes(&list[i]);
	}
	if (rc == 0)
		rc = commit(q);
	if (rc == 0 && n > 0)
		rc = meta_write(q, at, table, clusters << q->h.cluster_bits);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc == 0) {
		q->h.snapshots = n;
		q->h.snapshots_offset = at;
		rc = header_update(q);
	}
	if (rc == 0)
		rc = meta_flush(q);
	free(table);
	if (rc < 0) {
		q->h = old;
		return rc;
	}
	free(q->snapshots);
	q->snapshots = list;
	q->snapshots_bytes = bytes;
	return clusters_free(q, old.snapshots_offset,
	                     (old_bytes + q->cluster_size - 1) >>
	                         q->h.cluster_bits);
}

/* One more reference to all that an L1 table reaches, or one less. */
static int count_tree(struct qcow2 *q, const u64 *l1, u32 entries, bool more)
{
	int rc = 0;

	for (u32 i = 0; i < entries && rc == 0; i++) {
		u64 at = l1[i] & ENTRY_OFFSET;
		struct table *t = NULL;

		if (!at)
			continue;
		rc = table_get(q, TABLE_L2, at, &t);
		for (u32 k = 0; k < q->l2_entries && rc == 0; k++) {
			u64 bitmap, e = l2_entry(q, t, k, &bitmap);
			u64 first = e & ENTRY_OFFSET, bytes = q->cluster_size;

			if (e & ENTRY_COMPRESSED)
				compressed_extent(q, e, &first, &bytes);
			if (!first)
				continue;
			if (!more) {
				rc = l2_entry_free(q, e);
				continue;
			}
			rc = refcount_add(q, cluster_of(q, first),
			                  cluster_of(q, first + bytes - 1) -
			                      cluster_of(q, first) + 1);
		}
		table_put(t);
		if (rc < 0)
			break;
		rc = more ? refcount_add(q, cluster_of(q, at), 1)
		          : clusters_free(q, at, 1);
	}
	return rc;
}

/* Make the flags of the active tables say what the counts say. */
static int update_flags(struct qcow2 *q)
{
	int rc = 0;

	for (u32 i = 0; i < q->h.l1_size && rc == 0; i++) {
		u64 at = q->l1[i] & ENTRY_OFFSET, count = 0;
		struct table *t = NULL;

		if (!at)
			continue;
		rc = table_get(q, TABLE_L2, at, &t);
		for (u32 k = 0; k < q->l2_entries && rc == 0; k++) {
			u64 bitmap, e = l2_entry(q, t, k, &bitmap), want;

			if ((e & ENTRY_COMPRESSED) || !(e & ENTRY_OFFSET))
				continue;
			rc = refcount_get(q, cluster_of(q, e & ENTRY_OFFSET),
			                  &count);
			want = (e & ~ENTRY_COPIED) |
			       (count == 1 ? ENTRY_COPIED : 0);
			if (rc == 0 && want != e)
				l2_set(q, t, k, want, bitmap);
		}
		table_put(t);
		if (rc < 0)
			break;
		rc = refcount_get(q, cluster_of(q, at), &count);
		if (rc == 0)
			l1_set(q, i, at | (count == 1 ? ENTRY_COPIED : 0));
	}
	return rc;
}

static int begin(struct qcow2 *q, struct hold *all, struct error *err)
{
	int rc;

	if (!q->writable)
		return error_set(err, -EROFS, "the image is open read-only");
	if (q->external)
		return error_set(err, -ENOTSUP,
		                 "an image with a data file of its own can't"
		                 " have internal snapshots");
	hold_take(q, all, 0, UINT64_MAX, true);
	pthread_mutex_lock(&q->meta);
	rc = commit_all(q);
	if (rc == 0)
		rc = header_set_dirty(q, true);
	if (rc == 0)
		return 0;
	pthread_mutex_unlock(&q->meta);
	hold_release(q, all);
	return error_set(err, rc, "snapshot: %s", strerror(-rc));
}

static int report(struct qcow2 *q, int rc, struct error *err)
{
	switch (rc) {
	case 0:
		return 0;
	case -ENOENT:
		return error_set(err, rc, "there is no such snapshot");
	case -EEXIST:
		return error_set(err, rc, "there is a snapshot of that name");
	case -E2BIG:
		return error_set(err, rc,
		                 "refcounts of %u bits can't count that many"
		                 " snapshots",
		                 q->refcount_bits);
	default:
		return error_set(err, rc, "snapshot: %s", strerror(-rc));
	}
}

/* rc < 0: half done. What is there is counted anew, as after a crash. */
static int finish(struct qcow2 *q, struct hold *all, int rc, struct error *err)
{
	bool begun = rc < 0 && rc != -ENOENT && rc != -EEXIST;
	struct image_check found = { 0 };
	int mend = commit_all(q);

	if (mend == 0 && begun) {
		cache_drop_all(q);
		mend = check_image(q, IMAGE_REPAIR_ALL, &found, NULL);
	}
	if (begun && (mend < 0 || found.corruptions))
		/* The dirty bit stays, and the next opening counts: a close of
		 * ours must not take it off, nor a write trust the flags. */
		atomic_store(&q->corrupt, true);
	else if (mend == 0)
		mend = header_set_dirty(q, false);
	pthread_mutex_unlock(&q->meta);
	hold_release(q, all);
	return report(q, rc < 0 ? rc : mend, err);
}

static int find(struct qcow2 *q, const char *name)
{
	for (u32 i = 0; i < q->h.snapshots; i++)
		if (strcmp(q->snapshots[i].id, name) == 0)
			return (int)i;
	for (u32 i = 0; i < q->h.snapshots; i++)
		if (strcmp(q->snapshots[i].name, name) == 0)
			return (int)i;
	return -ENOENT;
}

/* A free id: one more than the largest number in use. */
static char *next_id(struct qcow2 *q)
{
	unsigned long most = 0;

	for (u32 i = 0; i < q->h.snapshots; i++)
		most = MAX(most, strtoul(q->snapshots[i].id, NULL, 10));
	return xasprintf("%lu", most + 1);
}

static int write_l1_copy(struct qcow2 *q, const u64 *l1, u32 entries, u64 *at)
{
	u64 bytes = MAX(ALIGN_UP((u64)entries * 8, (u64)q->cluster_size),
	                (u64)q->cluster_size);
	u64 *out = try_alloc(1, bytes);
	int rc = out ? clusters_alloc_run(q, bytes >> q->h.cluster_bits, at)
	             : -ENOMEM;

	for (u32 i = 0; i < entries && rc == 0; i++)
		put64(&out[i], l1[i] & ~ENTRY_COPIED);
	if (rc == 0)
		rc = meta_write(q, *at, out, bytes);
	free(out);
	return rc;
}

static int create(struct qcow2 *q, const char *name)
{
	u32 n = q->h.snapshots;
	struct snapshot *list = try_alloc(n + 1, sizeof(*list));
	struct snapshot *s = list ? &list[n] : NULL;
	struct timespec now;
	int rc;

	if (!s)
		return -ENOMEM;
	memcpy(list, q->snapshots, n * sizeof(*list));
	clock_gettime(CLOCK_REALTIME, &now);
	s->id = next_id(q);
	s->name = xstrdup(name);
	s->extra = xalloc(1);
	s->seconds = (u32)now.tv_sec;
	s->nanoseconds = (u32)now.tv_nsec;
	s->disk_size = q->h.size;
	s->l1_size = q->h.l1_size;
	rc = count_tree(q, q->l1, q->h.l1_size, true);
	if (rc == 0)
		rc = update_flags(q);
	if (rc == 0)
		rc = write_l1_copy(q, q->l1, s->l1_size, &s->l1_offset);
	if (rc == 0)
		rc = install(q, list, n + 1);
	if (rc < 0) {
		snapshot_free(s);
		free(list);
	}
	return rc;
}

int image_snapshot_create(struct block *b, const char *name, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	int rc = image_qcow2(b, &q, err);

	if (rc < 0)
		return rc;
	if (name[0] == '\0' || strlen(name) > 255)
		return error_set(err, -EINVAL,
		                 "a snapshot's name has 1 to 255 bytes");
	rc = begin(q, &all, err);
	if (rc < 0)
		return rc;
	if (find(q, name) >= 0)
		rc = -EEXIST;
	else if (q->h.snapshots == SNAPSHOTS_MAX)
		rc = -EFBIG;
	else if (q->refcount_bits == 1)
		rc = -E2BIG;
	else
		rc = create(q, name);
	return finish(q, &all, rc, err);
}

static int remove_at(struct qcow2 *q, u32 i)
{
	u32 n = q->h.snapshots;
	struct snapshot *list = try_alloc(n, sizeof(*list)), gone;
	u64 *l1 = NULL;
	int rc;

	if (!list)
		return -ENOMEM;
	gone = q->snapshots[i];
	memcpy(list, q->snapshots, i * sizeof(*list));
	memcpy(list + i, q->snapshots + i + 1, (n - i - 1) * sizeof(*list));
	rc = snapshot_l1(q, &gone, &l1);
	if (rc == 0)
		rc = install(q, list, n - 1);
	if (rc < 0) {
		free(list);
		free(l1);
		return rc;
	}
	rc = count_tree(q, l1, gone.l1_size, false);
	if (rc == 0)
		rc = clusters_free(
		    q, gone.l1_offset,
		    MAX((u64)gone.l1_size * 8 + q->cluster_size - 1,
		        (u64)q->cluster_size) >>
			q->h.cluster_bits);
	/* The counts have to have come down before the flags follow. */
	if (rc == 0)
		rc = commit_all(q);
	if (rc == 0)
		rc = update_flags(q);
	free(l1);
	snapshot_free(&gone);
	return rc;
}

int image_snapshot_delete(struct block *b, const char *name, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	int rc = image_qcow2(b, &q, err), i;

	if (rc == 0)
		rc = begin(q, &all, err);
	if (rc < 0)
		return rc;
	i = find(q, name);
	return finish(q, &all, i < 0 ? i : remove_at(q, (u32)i), err);
}

/* The snapshot's tables become the active ones; what was active goes. */
static int apply(struct qcow2 *q, const struct snapshot *s)
{
	u64 per_table = (u64)q->l2_entries << q->h.cluster_bits;
	u32 needed = (u32)((s->disk_size + per_table - 1) / per_table);
	u32 entries = MAX(s->l1_size, needed);
	struct header old = q->h;
	u64 *l1 = NULL, *fresh, *was = q->l1, at, bytes;
	int rc;

	if (s->disk_size > (u64)INT64_MAX - q->cluster_size ||
	    (u64)entries * 8 > L1_BYTES_MAX)
		return -EIO;
	bytes = ALIGN_UP((u64)entries * 8 + 1, 4096);
	fresh = try_alloc(1, bytes);
	rc = fresh ? snapshot_l1(q, s, &l1) : -ENOMEM;
	for (u32 i = 0; i < s->l1_size && rc == 0; i++) {
		fresh[i] = l1[i] & ENTRY_OFFSET;
		if (l1[i] & L1_RESERVED)
			rc = mark_corrupt(q, "a snapshot's L1 entry %#" PRIx64,
			                  l1[i]);
	}
	if (rc == 0)
		rc = count_tree(q, fresh, s->l1_size, true);
	if (rc == 0)
		rc = write_l1_copy(q, fresh, entries, &at);
	if (rc == 0)
		rc = commit(q);
	if (rc == 0) {
		q->h.l1_offset = at;
		q->h.l1_size = entries;
		q->h.size = s->disk_size;
		rc = header_update(q);
	}
	if (rc == 0)
		rc = meta_flush(q);
	free(l1);
	if (rc < 0) {
		q->h = old;
		free(fresh);
		return rc;
	}
	pthread_mutex_lock(&q->lock);
	q->l1 = fresh;
	pthread_mutex_unlock(&q->lock);
	atomic_store(&q->block.size,
	             ALIGN_UP(q->h.size, (u64)q->block.info.sector));
	rc = count_tree(q, was, old.l1_size, false);
	if (rc == 0)
		rc = clusters_free(
		    q, old.l1_offset,
		    ((u64)old.l1_size * 8 + q->cluster_size - 1) >>
			q->h.cluster_bits);
	if (rc == 0)
		rc = commit_all(q);
	if (rc == 0)
		rc = update_flags(q);
	free(was);
	return rc;
}

int image_snapshot_apply(struct block *b, const char *name, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	int rc = image_qcow2(b, &q, err), i;

	if (rc == 0)
		rc = begin(q, &all, err);
	if (rc < 0)
		return rc;
	i = find(q, name);
	rc = i < 0 ? i : apply(q, &q->snapshots[i]);
	if (rc == 0) {
		/* All may have changed, and the size too. */
		rc = bitmaps_resize(q, q->h.size);
		bitmaps_mark(q, 0, block_size(&q->block));
	}
	return finish(q, &all, rc, err);
}
