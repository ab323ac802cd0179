/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check - is the image what its own rules say, and if not, make it so.
 *
 * References are counted by walking every table; then the counts on disk are
 * compared. A repair never edits counts in place: it writes new refcount
 * structures from what was walked (rebuild.c), so it works however damaged
 * the old ones are, and being cut short does no harm.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"

struct walk {
	struct qcow2 *q;
	struct image_check *result;
	u32 *counts;
	u64 clusters; /* of the file */
	u64 last_used;
	u64 tables, tables_done; /* L1 entries to look at, twice the active */
	u8 *buf;                 /* an L2 table, or a bitmap's */
	/* Flags in the active tables that contradict the counts. */
	u64 wrong_flags;
	bool broken;      /* found what a new count can't repair */
	bool refs_broken; /* the refcount structures themselves */
};

static void say(struct walk *w, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void say(struct walk *w, const char *fmt, ...)
{
	char words[200];
	va_list ap;

	if (!w->result->finding)
		return;
	va_start(ap, fmt);
	vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	w->result->finding(w->result->ctx, words);
}

/* Told as if each L1 entry were as much of the disk as any other. */
static void advance(struct walk *w)
{
	const struct image_progress *p = w->result->progress;
	u64 size = w->q->h.size;

	/* A repair looks once more. */
	w->tables_done = MIN(w->tables_done + 1, w->tables);
	if (p && p->step)
		p->step(p->ctx,
		        (u64)((double)size / (double)w->tables *
		              (double)w->tables_done),
		        size);
}

static void corruption(struct walk *w, const char *what, u64 at)
{
	w->result->corruptions++;
	w->broken = true;
	say(w, "%s (%#" PRIx64 ")", what, at);
}

/* One reference to each cluster that the bytes touch. */
static void refer(struct walk *w, u64 offset, u64 bytes, const char *what)
{
	u64 first = cluster_of(w->q, offset), last;

	if (bytes == 0)
		return;
	last = cluster_of(w->q, offset + bytes - 1);
	if (offset + bytes < offset || last >= w->clusters) {
		corruption(w, what, offset);
		return;
	}
	for (u64 c = first; c <= last; c++)
		if (w->counts[c] < UINT32_MAX)
			w->counts[c]++;
	w->last_used = MAX(w->last_used, last + 1);
}

static void walk_entry(struct walk *w, u64 entry, u64 bitmap, u64 guest,
                       bool active)
{
	struct qcow2 *q = w->q;
	u64 host = entry & ENTRY_OFFSET, bytes;

	if (entry & ENTRY_COMPRESSED) {
		compressed_extent(q, entry, &host, &bytes);
		if (q->external || (entry & ENTRY_COPIED))
			corruption(w, "a compressed cluster that can't be",
			           guest);
		refer(w, host, bytes, "a compressed cluster outside the file");
		w->result->compressed += active;
		w->result->allocated += active;
		return;
	}
	if ((entry & L2_RESERVED) || in_cluster(q, host) ||
	    (q->extended && (entry & ENTRY_ZERO)) ||
	    (!q->has_zero && (entry & ENTRY_ZERO)) ||
	    (q->external && host && host != guest)) {
		corruption(w, "an L2 entry that can't be, for guest offset",
		           guest);
		return;
	}
	if (((u32)bitmap & (u32)(bitmap >> 32)) ||
	    ((u32)bitmap && !host && !q->external)) {
		corruption(w, "subclusters that can't be, for guest offset",
		           guest);
		return;
	}
	if (host && !q->external)
		refer(w, host, q->cluster_size, "a cluster outside the file");
	if (host || (q->external && (entry & ENTRY_COPIED)))
		w->result->allocated += active;
}

static int walk_l2(struct walk *w, u64 at, u64 guest, bool active)
{
	struct qcow2 *q = w->q;
	u64 next = 0;
	int rc = meta_read(q, at, w->buf, q->cluster_size);

	for (u32 i = 0; i < q->l2_entries && rc == 0; i++) {
		const u8 *p = w->buf + (u64)i * q->entry_bytes;
		u64 entry = get64(p), host = entry & ENTRY_OFFSET;

		walk_entry(w, entry, q->extended ? get64(p + 8) : 0,
		           guest + ((u64)i << q->h.cluster_bits), active);
		if (active && host && !(entry & ENTRY_COMPRESSED)) {
			w->result->fragmented += next && next != host;
			next = host + q->cluster_size;
		}
	}
	return rc;
}

static int walk_l1(struct walk *w, const u64 *l1, u32 entries, bool active)
{
	struct qcow2 *q = w->q;
	u64 per_table = (u64)q->l2_entries << q->h.cluster_bits;
	int rc = 0;

	for (u32 i = 0; i < entries && rc == 0; i++) {
		u64 at = l1[i] & ENTRY_OFFSET;

		advance(w);
		if ((l1[i] & L1_RESERVED) || in_cluster(q, at)) {
			corruption(w, "an L1 entry that can't be", l1[i]);
			continue;
		}
		if (!at)
			continue;
		if (cluster_of(q, at) >= w->clusters) {
			corruption(w, "an L2 table outside the file", at);
			continue;
		}
		refer(w, at, q->cluster_size, "an L2 table");
		rc = walk_l2(w, at, i * per_table, active);
	}
	return rc;
}

static int walk_snapshot(struct walk *w, const struct snapshot *s)
{
	u64 bytes = (u64)s->l1_size * 8;
	u64 *l1 = NULL;
	int rc;

	if (in_cluster(w->q, s->l1_offset) ||
	    cluster_of(w->q, s->l1_offset + bytes) > w->clusters) {
		corruption(w, "a snapshot's L1 table outside the file",
		           s->l1_offset);
		return 0;
	}
	refer(w, s->l1_offset, bytes, "a snapshot's L1 table");
	rc = snapshot_l1(w->q, s, &l1);
	if (rc == 0)
		rc = walk_l1(w, l1, s->l1_size, false);
	free(l1);
	return rc;
}

static int walk_bitmaps(struct walk *w)
{
	struct qcow2 *q = w->q;
	int rc = 0;

	if (!q->h.has_bitmaps || !(q->h.autoclear & AUTOCLEAR_BITMAPS))
		return 0;
	refer(w, q->h.bitmaps_offset, q->h.bitmaps_size,
	      "the bitmap directory outside the file");
	for (struct bitmap *b = q->bitmaps; b && rc == 0; b = b->next) {
		u64 *table;

		refer(w, b->table_offset, (u64)b->table_size * 8,
		      "a bitmap table outside the file");
		rc = bitmap_table(q, b, &table);
		if (rc < 0)
			break;
		for (u32 i = 0; i < b->table_size; i++)
			if (table[i] & ENTRY_OFFSET)
				refer(w, table[i] & ENTRY_OFFSET,
				      q->cluster_size,
				      "a bitmap outside the file");
		free(table);
	}
	return rc;
}

/* Everything but the refcount structures themselves. */
static int walk_all(struct walk *w)
{
	struct qcow2 *q = w->q;
	int rc;

	refer(w, 0, 1, "the header");
	refer(w, q->h.l1_offset, (u64)q->h.l1_size * 8,
	      "the L1 table outside the file");
	rc = walk_l1(w, q->l1, q->h.l1_size, true);
	refer(w, q->h.snapshots_offset, snapshots_bytes(q),
	      "the snapshot table outside the file");
	for (u32 i = 0; i < q->h.snapshots && rc == 0; i++)
		rc = walk_snapshot(w, &q->snapshots[i]);
	if (rc == 0)
		rc = walk_bitmaps(w);
	return rc;
}

/* delta +1 counts the refcount structures, -1 takes them out again. */
static void refer_structures(struct walk *w, int delta)
{
	struct qcow2 *q = w->q;
	u64 table = cluster_of(q, q->h.reftable_offset);

	for (u64 c = table; c < table + q->h.reftable_clusters; c++)
		w->counts[c] += (u32)delta;
	for (u32 i = 0; i < q->reftable_used; i++) {
		u64 at = q->reftable[i];

		if (!at)
			continue;
		if ((at & REFTABLE_RESERVED) || in_cluster(q, at) ||
		    cluster_of(q, at) >= w->clusters) {
			if (delta > 0) {
				w->result->corruptions++;
				w->refs_broken = true;
				say(w,
				    "refcount table entry %u can't be"
				    " (%#" PRIx64 ")",
				    i, at);
			}
			continue;
		}
		w->counts[cluster_of(q, at)] += (u32)delta;
		w->last_used = MAX(w->last_used, cluster_of(q, at) + 1);
	}
}

static int stored_count(struct walk *w, u64 cluster, u64 *count)
{
	struct qcow2 *q = w->q;
	u64 i = cluster >> q->refblock_bits;
	u64 at = i < q->reftable_entries ? q->reftable[i] : 0;

	*count = 0;
	if (!at || (at & REFTABLE_RESERVED) || in_cluster(q, at) ||
	    cluster_of(q, at) >= w->clusters)
		return 0;
	return refcount_get(q, cluster, count);
}

/* Behind the end of the file: whether the block there is worth a look. One
 * that is named more than once was found out already. */
static bool block_counts(const struct walk *w, u64 cluster)
{
	const struct qcow2 *q = w->q;
	u64 at = q->reftable[cluster >> q->refblock_bits];

	return at && cluster_of(q, at) < w->clusters &&
	       w->counts[cluster_of(q, at)] == 1;
}

static int compare_counts(struct walk *w, u64 *low, u64 *high)
{
	struct qcow2 *q = w->q;
	u64 end = MAX(w->clusters, (u64)q->reftable_used << q->refblock_bits);
	u64 per_block = (u64)1 << q->refblock_bits;

	*low = *high = 0;
	for (u64 c = 0; c < end; c++) {
		u64 count, want = c < w->clusters ? w->counts[c] : 0;
		int rc;

		if (c >= w->clusters && !block_counts(w, c)) {
			c |= per_block - 1;
			continue;
		}
		rc = stored_count(w, c, &count);
		if (rc < 0)
			return rc;
		if (count == want)
			continue;
		*(count < want ? low : high) += 1;
		say(w,
		    "%s: cluster %" PRIu64 " has count %" PRIu64 " and %" PRIu64
		    " references",
		    count < want ? "corruption" : "leak", c, count, want);
	}
	return 0;
}

/*
 * "Cluster mapping": the flag in active tables says that the count is one.
 * set false: take wrong ones off; true: put missing ones on. Counts, or
 * changes nothing, if !fix.
 */
static int flags_table(struct walk *w, u64 *entries, u32 count, u32 step,
                       bool set, bool fix, bool *changed)
{
	struct qcow2 *q = w->q;

	*changed = false;
	for (u32 i = 0; i < count; i++) {
		u64 e = get64(&entries[i * step]), at = e & ENTRY_OFFSET;
		bool has = e & ENTRY_COPIED, should;
		u64 uses;
		int rc;

		if (!at || (e & ENTRY_COMPRESSED) ||
		    cluster_of(q, at) >= w->clusters)
			continue;
		/* What counts is the count on disk, too high as it may be. */
		uses = w->counts[cluster_of(q, at)];
		rc = fix ? 0 : stored_count(w, cluster_of(q, at), &uses);
		if (rc < 0)
			return rc;
		should = uses == 1;
		if (has == should)
			continue;
		if (!fix) {
			w->wrong_flags++;
		} else if (should == set) {
			put64(&entries[i * step], e ^ ENTRY_COPIED);
			*changed = true;
		}
	}
	return 0;
}

static int fix_flags(struct walk *w, bool set, bool fix)
{
	struct qcow2 *q = w->q;
	u32 n = ALIGN_UP(MAX(q->h.l1_size, 1u), q->file->info.sector / 8);
	u64 *l1 = try_alloc(n, 8);
	bool changed;
	int rc = 0;

	if (!l1)
		return -ENOMEM;
	for (u32 i = 0; i < q->h.l1_size && rc == 0; i++) {
		u64 at = q->l1[i] & ENTRY_OFFSET;

		advance(w);
		put64(&l1[i], q->l1[i]);
		if (!at || in_cluster(q, at) ||
		    cluster_of(q, at) >= w->clusters || q->external)
			continue;
		rc = meta_read(q, at, w->buf, q->cluster_size);
		if (rc < 0)
			break;
		rc = flags_table(w, (u64 *)(void *)w->buf, q->l2_entries,
		                 q->entry_bytes / 8, set, fix, &changed);
		if (rc == 0 && changed)
			rc = meta_write(q, at, w->buf, q->cluster_size);
	}
	if (rc == 0)
		rc = flags_table(w, l1, q->h.l1_size, 1, set, fix, &changed);
	if (rc == 0 && changed) {
		rc = meta_write(q, q->h.l1_offset, l1, (u64)n * 8);
		for (u32 i = 0; i < q->h.l1_size; i++)
			q->l1[i] = get64(&l1[i]);
	}
	free(l1);
	return rc == 0 && fix ? meta_flush(q) : rc;
}

/* Space that nobody refers to goes back to the host. */
static void release_unused(struct walk *w)
{
	u64 bits = w->q->h.cluster_bits, start = 0;

	for (u64 c = 1; c <= w->clusters; c++) {
		if (c < w->clusters && w->counts[c] == 0) {
			start = start ? start : c;
			continue;
		}
		if (start)
			(void)block_sync(w->q->file, BLOCK_DISCARD,
			                 start << bits, NULL,
			                 (c - start) << bits);
		start = 0;
	}
}

static int repair_counts(struct walk *w)
{
	struct qcow2 *q = w->q;
	int rc;

	/* A flag too many invites writing into what is shared: off first. */
	rc = fix_flags(w, false, true);
	refer_structures(w, -1);
	if (rc == 0)
		rc = refcounts_rebuild(q, w->counts, w->clusters);
	if (rc == 0)
		rc = fix_flags(w, true, true);
	if (rc == 0)
		release_unused(w);
	return rc;
}

static int clear_marks(struct qcow2 *q)
{
	int rc;

	if (!(q->h.incompatible & (INCOMPAT_DIRTY | INCOMPAT_CORRUPT)))
		return 0;
	q->h.incompatible &= ~(u64)(INCOMPAT_DIRTY | INCOMPAT_CORRUPT);
	rc = header_update(q);
	return rc == 0 ? meta_flush(q) : rc;
}

static int judge(struct walk *w, unsigned repair)
{
	struct image_check *r = w->result;
	struct qcow2 *q = w->q;
	u64 low, high, wrong;
	bool mend;
	int rc = walk_all(w);

	if (rc < 0)
		return rc;
	refer_structures(w, 1);
	rc = compare_counts(w, &low, &high);
	if (rc == 0)
		rc = fix_flags(w, false, false);
	if (rc < 0)
		return rc;
	if (w->wrong_flags)
		say(w,
		    "corruption: %" PRIu64 " entries are marked wrongly as"
		    " shared or not",
		    w->wrong_flags);
	r->file_bytes = w->last_used << q->h.cluster_bits;
	r->clusters = (q->h.size + q->cluster_size - 1) >> q->h.cluster_bits;
	/* What a repair of counts would mend, and what not. */
	wrong = low + w->wrong_flags + (w->refs_broken ? 1 : 0);
	mend = wrong ? repair & IMAGE_REPAIR_ALL : high && repair;
	if (!mend) {
		r->corruptions += low + w->wrong_flags;
		r->leaks += high;
	} else {
		rc = repair_counts(w);
		if (rc < 0)
			return rc;
		r->corruptions_fixed += wrong;
		r->corruptions -= w->refs_broken ? 1 : 0;
		r->leaks_fixed += high;
	}
	if ((repair & IMAGE_REPAIR_ALL) && r->corruptions == 0)
		rc = clear_marks(q);
	return rc;
}

int check_image(struct qcow2 *q, unsigned repair, struct image_check *result,
                struct error *err)
{
	struct walk w = { .q = q,
		          .result = result,
		          .clusters = cluster_of(q, q->host_end) };
	int rc;

	w.tables = 2 * (u64)q->h.l1_size;
	for (u32 i = 0; i < q->h.snapshots; i++)
		w.tables += q->snapshots[i].l1_size;
	w.counts = try_alloc(w.clusters + 1, sizeof(*w.counts));
	w.buf = try_alloc(1, q->cluster_size);
	rc = w.counts && w.buf ? 0 : -ENOMEM;
	q->rebuilding = true;
	if (rc == 0)
		rc = judge(&w, repair);
	q->rebuilding = false;
	free(w.counts);
	free(w.buf);
	if (rc < 0)
		return error_set(err, rc, "the check could not finish: %s",
		                 strerror(-rc));
	return 0;
}

int image_check(struct block *b, unsigned repair, struct image_check *result,
                struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	int rc = image_qcow2(b, &q, err);

	if (rc < 0)
		return rc;
	if (repair && !q->writable)
		return error_set(err, -EROFS, "the image is open read-only");
	hold_take(q, &all, 0, UINT64_MAX, true);
	pthread_mutex_lock(&q->meta);
	rc = q->writable ? commit_all(q) : 0;
	if (rc < 0)
		rc = error_set(err, rc, "%s", strerror(-rc));
	else if (!q->reftable)
		rc = refcount_load(q, "the image", err);
	if (rc == 0)
		rc = check_image(q, repair, result, err);
	pthread_mutex_unlock(&q->meta);
	hold_release(q, &all);
	return rc;
}
