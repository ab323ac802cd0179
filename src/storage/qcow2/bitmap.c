/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bitmap - persistent dirty bitmaps: which parts of the disk were written.
 *
 * While an image is open for writing, its recording bitmaps live in memory
 * and are marked "in use" on disk, which tells any reader after a crash that
 * they can't be believed. A clean close stores them and takes the mark off.
 * A bit is set before the write it stands for is passed on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"

/* What other programs take: 512 bytes to 2 GiB. */
enum { GRANULARITY_BITS_MIN = 9, GRANULARITY_BITS_MAX = 31 };

static void bitmap_free(struct bitmap *b)
{
	free(b->name);
	free(b->extra);
	free(b->bits);
	free(b);
}

void bitmaps_free(struct qcow2 *q)
{
	while (q->bitmaps) {
		struct bitmap *b = q->bitmaps;

		q->bitmaps = b->next;
		bitmap_free(b);
	}
}

/* Recorded by us: a type we know, with nothing unknown that forbids it. */
static bool usable(const struct bitmap *b)
{
	return b->type == BITMAP_TYPE_DIRTY &&
	       b->granularity_bits >= GRANULARITY_BITS_MIN &&
	       b->granularity_bits <= GRANULARITY_BITS_MAX &&
	       (b->extra_size == 0 || (b->flags & BITMAP_EXTRA_OK));
}

static u64 bits_for(const struct bitmap *b, u64 size)
{
	return (size + BIT(b->granularity_bits) - 1) >> b->granularity_bits;
}

static u64 entries_for(const struct qcow2 *q, const struct bitmap *b, u64 size)
{
	u64 bytes = (bits_for(b, size) + 7) / 8;

	return (bytes + q->cluster_size - 1) >> q->h.cluster_bits;
}

static u64 words_for(const struct qcow2 *q, u64 entries)
{
	return (entries << q->h.cluster_bits) / 8;
}

static int alloc_bits(struct qcow2 *q, struct bitmap *b)
{
	b->bit_count = bits_for(b, q->h.size);
	b->bits = try_alloc(words_for(q, entries_for(q, b, q->h.size)) + 1, 8);
	return b->bits ? 0 : -ENOMEM;
}

static int parse_entry(struct qcow2 *q, const u8 *p, u64 room, u64 *used)
{
	struct bitmap *b, **last = &q->bitmaps;
	u32 name, extra;

	if (room < BITMAP_HEAD)
		return -EINVAL;
	name = get16(p + 18);
	extra = get32(p + 20);
	*used = ALIGN_UP((u64)BITMAP_HEAD + extra + name, 8);
	if (name == 0 || *used > room)
		return -EINVAL;
	b = xalloc(sizeof(*b));
	b->table_offset = get64(p);
	b->table_size = get32(p + 8);
	b->flags = get32(p + 12);
	b->type = p[16];
	b->granularity_bits = p[17];
	b->extra_size = extra;
	b->extra = try_alloc(1, extra);
	b->name = try_alloc(1, name + 1);
	while (*last)
		last = &(*last)->next;
	*last = b; /* freed with the image, whatever comes now */
	if (!b->extra || !b->name)
		return -ENOMEM;
	memcpy(b->extra, p + BITMAP_HEAD, extra);
	memcpy(b->name, p + BITMAP_HEAD + extra, name);
	if (in_cluster(q, b->table_offset) || b->table_offset >= q->host_end ||
	    (u64)b->table_size * 8 > q->host_end - b->table_offset ||
	    b->granularity_bits > 63 || (b->flags & ~(u32)BITMAP_FLAGS_KNOWN) ||
	    (usable(b) && !(b->flags & BITMAP_IN_USE) &&
	     b->table_size != entries_for(q, b, q->h.size)))
		return -EINVAL;
	return 0;
}

int bitmaps_load(struct qcow2 *q, const char *name, struct error *err)
{
	struct header *h = &q->h;
	u64 at = 0, used;
	u8 *dir = NULL;
	int rc = -EINVAL;

	if (!(h->autoclear & AUTOCLEAR_BITMAPS))
		return 0; /* none, or none that can be believed */
	if (!h->has_bitmaps || h->bitmaps == 0 || h->bitmaps > BITMAPS_MAX ||
	    h->bitmaps_size > BITMAP_DIRECTORY_MAX ||
	    !meta_offset_valid(q, h->bitmaps_offset) ||
	    h->bitmaps_size > q->host_end - h->bitmaps_offset)
		goto out;
	dir = try_alloc(1, ALIGN_UP(h->bitmaps_size, (u64)q->cluster_size));
	rc = dir ? meta_read(
		       q, h->bitmaps_offset, dir,
		       ALIGN_UP(h->bitmaps_size, (u64)q->file->info.sector))
	         : -ENOMEM;
	for (u32 i = 0; i < h->bitmaps && rc == 0; i++) {
		rc = parse_entry(q, dir + at, h->bitmaps_size - at, &used);
		at += used;
	}
out:
	free(dir);
	if (rc < 0)
		return error_set(err, rc, "%s: its bitmaps are not valid",
		                 name);
	return 0;
}

int bitmap_table(struct qcow2 *q, const struct bitmap *b, u64 **out)
{
	u64 bytes = ALIGN_UP((u64)b->table_size * 8, (u64)q->file->info.sector);
	u64 *table = try_alloc(1, bytes);
	int rc = table ? 0 : -ENOMEM;

	if (rc == 0 && bytes > 0)
		rc = meta_read(q, b->table_offset, table, bytes);
	if (rc < 0) {
		free(table);
		return rc;
	}
	for (u32 i = 0; i < b->table_size; i++)
		table[i] = get64(&table[i]);
	*out = table;
	return 0;
}

/* "Bitmap data": bit 0 of a byte first. Ours are 64-bit words of the same
 * order on a little-endian host, the only one there is. */
static int read_bits(struct qcow2 *q, struct bitmap *b)
{
	u64 *table;
	int rc = alloc_bits(q, b);

	if (rc == 0)
		rc = bitmap_table(q, b, &table);
	if (rc < 0)
		return rc;
	for (u32 i = 0; i < b->table_size && rc == 0; i++) {
		u8 *to = (u8 *)(void *)b->bits + ((u64)i << q->h.cluster_bits);
		u64 at = table[i] & ENTRY_OFFSET;

		if (at && !meta_offset_valid(q, at))
			rc = -EIO;
		else if (at)
			rc = meta_read(q, at, to, q->cluster_size);
		else if (table[i] & 1)
			memset(to, 0xff, q->cluster_size);
	}
	free(table);
	return rc;
}

static u64 directory_bytes(const struct qcow2 *q)
{
	u64 bytes = 0;

	for (const struct bitmap *b = q->bitmaps; b; b = b->next)
		bytes += ALIGN_UP(
		    (u64)BITMAP_HEAD + b->extra_size + strlen(b->name), 8);
	return bytes;
}

static u8 *make_directory(const struct qcow2 *q)
{
	u8 *dir = try_alloc(
	    1, ALIGN_UP(directory_bytes(q) + 1, (u64)q->cluster_size));
	u8 *p = dir;

	for (const struct bitmap *b = q->bitmaps; b && dir; b = b->next) {
		size_t name = strlen(b->name);

		put64(p, b->table_offset);
		put32(p + 8, b->table_size);
		put32(p + 12, b->flags);
		p[16] = b->type;
		p[17] = b->granularity_bits;
		put16(p + 18, (u16)name);
		put32(p + 20, b->extra_size);
		memcpy(p + BITMAP_HEAD, b->extra, b->extra_size);
		memcpy(p + BITMAP_HEAD + b->extra_size, b->name, name);
		p += ALIGN_UP((u64)BITMAP_HEAD + b->extra_size + name, 8);
	}
	return dir;
}

/* Flags changed, nothing else: the directory stays where it is. */
static int update_directory(struct qcow2 *q)
{
	u8 *dir = make_directory(q);
	int rc = dir ? meta_write(q, q->h.bitmaps_offset, dir,
	                          ALIGN_UP(q->h.bitmaps_size,
	                                   (u64)q->file->info.sector))
	             : -ENOMEM;

	free(dir);
	return rc == 0 ? meta_flush(q) : rc;
}

/* Another list: a directory in a new place, then the header. */
static int move_directory(struct qcow2 *q, struct error *err)
{
	struct header *h = &q->h, old = *h;
	u64 bytes = directory_bytes(q), at = 0;
	u64 clusters = (bytes + q->cluster_size - 1) >> h->cluster_bits;
	u8 *dir = make_directory(q);
	int rc = dir ? 0 : -ENOMEM;

	if (rc == 0 && clusters > 0)
		rc = clusters_alloc_run(q, clusters, &at);
	if (rc == 0)
		rc = commit(q);
	if (rc == 0 && clusters > 0)
		rc = meta_write(q, at, dir, clusters << h->cluster_bits);
	if (rc == 0)
		rc = meta_flush(q);
	free(dir);
	if (rc < 0)
		return error_set(err, rc, "bitmaps: %s", strerror(-rc));
	h->bitmaps = 0;
	for (const struct bitmap *b = q->bitmaps; b; b = b->next)
		h->bitmaps++;
	h->has_bitmaps = h->bitmaps > 0;
	h->bitmaps_offset = at;
	h->bitmaps_size = bytes;
	h->autoclear &= ~(u64)AUTOCLEAR_BITMAPS;
	if (h->has_bitmaps)
		h->autoclear |= AUTOCLEAR_BITMAPS;
	rc = header_rewrite(q, err);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc < 0) {
		*h = old;
		return rc;
	}
	if (!old.has_bitmaps || !(old.autoclear & AUTOCLEAR_BITMAPS))
		return 0;
	return clusters_free(q, old.bitmaps_offset,
	                     (old.bitmaps_size + q->cluster_size - 1) >>
	                         h->cluster_bits);
}

static void update_tracking(struct qcow2 *q)
{
	bool any = false;

	for (const struct bitmap *b = q->bitmaps; b; b = b->next)
		any |= b->tracked && (b->flags & BITMAP_AUTO);
	atomic_store(&q->tracking, any);
}

int bitmaps_begin(struct qcow2 *q)
{
	bool any = false;
	int rc = 0;

	for (struct bitmap *b = q->bitmaps; b && rc == 0; b = b->next) {
		if (!usable(b) || !(b->flags & BITMAP_AUTO) ||
		    (b->flags & BITMAP_IN_USE))
			continue;
		rc = read_bits(q, b);
		b->tracked = rc == 0;
		b->flags |= BITMAP_IN_USE;
		any = true;
	}
	if (rc == 0 && any)
		rc = update_directory(q);
	update_tracking(q);
	return rc;
}

void bitmaps_mark(struct qcow2 *q, u64 offset, u64 length)
{
	if (length == 0)
		return;
	for (struct bitmap *b = q->bitmaps; b; b = b->next) {
		u64 first, last;

		if (!b->tracked || !(b->flags & BITMAP_AUTO))
			continue;
		first = offset >> b->granularity_bits;
		last = (offset + length - 1) >> b->granularity_bits;
		last = MIN(last, b->bit_count - 1);
		for (u64 i = first; i <= last; i++) {
			u64 bit = BIT(i & 63);

			if (!(__atomic_load_n(&b->bits[i / 64],
			                      __ATOMIC_RELAXED) &
			      bit))
				__atomic_fetch_or(&b->bits[i / 64], bit,
				                  __ATOMIC_RELAXED);
		}
	}
}

static bool all_are(const u8 *p, u64 n, u8 value)
{
	return n == 0 || (p[0] == value && memcmp(p, p + 1, n - 1) == 0);
}

/* The bits to clusters of their own, then the table that names them. */
static int store_bits(struct qcow2 *q, struct bitmap *b)
{
	u64 n = entries_for(q, b, q->h.size), at = b->table_offset, got;
	u64 *old = NULL, *out = NULL;
	bool moved = n != b->table_size;
	u64 clusters = (n * 8 + q->cluster_size - 1) >> q->h.cluster_bits;
	int rc = bitmap_table(q, b, &old);

	if (rc < 0)
		return rc;
	out = try_alloc(1, (clusters << q->h.cluster_bits) + 8);
	rc = out ? 0 : -ENOMEM;
	if (rc == 0 && moved && clusters)
		rc = clusters_alloc_run(q, clusters, &at);
	for (u64 i = 0; i < n && rc == 0; i++) {
		const u8 *from = (const u8 *)(const void *)b->bits +
		                 (i << q->h.cluster_bits);
		u64 host = i < b->table_size ? old[i] & ENTRY_OFFSET : 0;

		if (all_are(from, q->cluster_size, 0))
			continue;
		if (host)
			old[i] = 0; /* kept: rewritten in place */
		else
			rc = clusters_alloc(q, 1, &host, &got);
		if (rc == 0)
			rc = meta_write(q, host, from, q->cluster_size);
		put64(&out[i], host);
	}
	if (rc == 0)
		rc = commit(q);
	if (rc == 0 && clusters)
		rc = meta_write(q, at, out, clusters << q->h.cluster_bits);
	if (rc == 0)
		rc = meta_flush(q);
	for (u32 i = 0; i < b->table_size && rc == 0; i++)
		if (old[i] & ENTRY_OFFSET)
			rc = clusters_free(q, old[i] & ENTRY_OFFSET, 1);
	if (rc == 0 && moved)
		rc = clusters_free(
		    q, b->table_offset,
		    ((u64)b->table_size * 8 + q->cluster_size - 1) >>
			q->h.cluster_bits);
	free(old);
	free(out);
	if (rc < 0)
		return rc;
	b->table_offset = at;
	b->table_size = (u32)n;
	return 0;
}

/* Bits past the end of the disk are zero on disk. */
static void trim(struct bitmap *b, u64 words)
{
	u64 i = b->bit_count / 64;

	if (b->bit_count % 64)
		b->bits[i++] &= BIT(b->bit_count % 64) - 1;
	for (; i < words; i++)
		b->bits[i] = 0;
}

int bitmaps_store(struct qcow2 *q)
{
	bool any = false;
	int rc = 0;

	for (struct bitmap *b = q->bitmaps; b && rc == 0; b = b->next) {
		if (!b->tracked)
			continue;
		trim(b, words_for(q, entries_for(q, b, q->h.size)));
		rc = store_bits(q, b);
		if (rc < 0)
			break;
		b->flags &= ~(u32)BITMAP_IN_USE;
		any = true;
	}
	return rc == 0 && any ? update_directory(q) : rc;
}

int bitmaps_resize(struct qcow2 *q, u64 size)
{
	for (struct bitmap *b = q->bitmaps; b; b = b->next) {
		u64 words = words_for(q, entries_for(q, b, size));
		u64 old = words_for(
		    q, entries_for(q, b, b->bit_count << b->granularity_bits));
		u64 *bits;

		if (!b->tracked)
			continue;
		trim(b, old);
		bits = try_alloc(words + 1, 8);
		if (!bits)
			return -ENOMEM;
		memcpy(bits, b->bits, MIN(words, old) * 8);
		free(b->bits);
		b->bits = bits;
		b->bit_count = bits_for(b, size);
	}
	return 0;
}

static struct bitmap *find(struct qcow2 *q, const char *name)
{
	struct bitmap *b = q->bitmaps;

	while (b && strcmp(b->name, name) != 0)
		b = b->next;
	return b;
}

/* Every call below: the image to itself. */
static int enter(struct block *blk, struct qcow2 **q, struct hold *all,
                 bool write, struct error *err)
{
	int rc = image_qcow2(blk, q, err);

	if (rc < 0)
		return rc;
	if (write && !(*q)->writable)
		return error_set(err, -EROFS, "the image is open read-only");
	if (write && (*q)->h.version < 3)
		return error_set(err, -ENOTSUP,
		                 "version 2 images can't have bitmaps");
	hold_take(*q, all, 0, UINT64_MAX, true);
	pthread_mutex_lock(&(*q)->meta);
	return 0;
}

static int leave(struct qcow2 *q, struct hold *all, int rc)
{
	int last = q->writable ? commit_all(q) : 0;

	pthread_mutex_unlock(&q->meta);
	hold_release(q, all);
	return rc < 0 ? rc : last;
}

static int missing(const char *name, struct error *err)
{
	return error_set(err, -ENOENT, "there is no bitmap '%s'", name);
}

static int add(struct qcow2 *q, struct bitmap *b, struct error *err)
{
	u64 n = entries_for(q, b, q->h.size);
	u64 clusters =
	    MAX((n * 8 + q->cluster_size - 1) >> q->h.cluster_bits, (u64)1);
	u8 *zero = try_alloc(1, q->cluster_size);
	int rc = zero ? alloc_bits(q, b) : -ENOMEM;

	if (rc == 0)
		rc = clusters_alloc_run(q, clusters, &b->table_offset);
	for (u64 i = 0; i < clusters && rc == 0; i++)
		rc = meta_write(q, b->table_offset + (i << q->h.cluster_bits),
		                zero, q->cluster_size);
	free(zero);
	if (rc < 0)
		return error_set(err, rc, "bitmap: %s", strerror(-rc));
	b->table_size = (u32)n;
	b->tracked = true;
	b->next = q->bitmaps;
	q->bitmaps = b;
	rc = move_directory(q, err);
	if (rc < 0)
		q->bitmaps = b->next;
	return rc;
}

int image_bitmap_create(struct block *blk, const char *name, u64 granularity,
                        struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	struct bitmap *b;
	int rc;

	if (granularity == 0)
		granularity = 64 * KIB;
	if (granularity & (granularity - 1) ||
	    granularity < BIT(GRANULARITY_BITS_MIN) ||
	    granularity > BIT(GRANULARITY_BITS_MAX))
		return error_set(err, -EINVAL,
		                 "a granularity is a power of two from 512"
		                 " bytes to 2 GiB");
	if (name[0] == '\0' || strlen(name) > 1023)
		return error_set(err, -EINVAL,
		                 "a bitmap's name has 1 to 1023 bytes");
	rc = enter(blk, &q, &all, true, err);
	if (rc < 0)
		return rc;
	if (find(q, name))
		return leave(
		    q, &all,
		    error_set(err, -EEXIST, "there is a bitmap '%s'", name));
	if (q->h.bitmaps >= BITMAPS_MAX)
		return leave(q, &all,
		             error_set(err, -EFBIG, "too many bitmaps"));
	b = xalloc(sizeof(*b));
	b->name = xstrdup(name);
	b->extra = xalloc(1);
	b->flags = BITMAP_AUTO | BITMAP_IN_USE;
	b->type = BITMAP_TYPE_DIRTY;
	b->granularity_bits = (u8)__builtin_ctzll(granularity);
	rc = add(q, b, err);
	if (rc < 0)
		bitmap_free(b);
	update_tracking(q);
	return leave(q, &all, rc);
}

static int drop(struct qcow2 *q, struct bitmap *b, struct error *err)
{
	struct bitmap **at = &q->bitmaps;
	u64 *table = NULL;
	int rc = bitmap_table(q, b, &table);

	while (*at != b)
		at = &(*at)->next;
	*at = b->next;
	if (rc == 0)
		rc = move_directory(q, err);
	else
		rc = error_set(err, rc, "bitmap: %s", strerror(-rc));
	if (rc < 0) {
		*at = b;
		free(table);
		return rc;
	}
	for (u32 i = 0; i < b->table_size && rc == 0; i++)
		if (table[i] & ENTRY_OFFSET)
			rc = clusters_free(q, table[i] & ENTRY_OFFSET, 1);
	if (rc == 0)
		rc = clusters_free(
		    q, b->table_offset,
		    MAX(((u64)b->table_size * 8 + q->cluster_size - 1) >>
		            q->h.cluster_bits,
		        (u64)1));
	free(table);
	bitmap_free(b);
	return rc;
}

int image_bitmap_delete(struct block *blk, const char *name, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	struct bitmap *b;
	int rc = enter(blk, &q, &all, true, err);

	if (rc < 0)
		return rc;
	b = find(q, name);
	rc = b ? drop(q, b, err) : missing(name, err);
	update_tracking(q);
	return leave(q, &all, rc);
}

/* A bitmap that does not record is brought into memory to be changed. */
static int make_tracked(struct qcow2 *q, struct bitmap *b, struct error *err)
{
	int rc;

	if (b->tracked)
		return 0;
	if (!usable(b) || (b->flags & BITMAP_IN_USE))
		return error_set(err, -EINVAL,
		                 "bitmap '%s' was not stored properly; only"
		                 " deleting it is possible",
		                 b->name);
	rc = b->bits ? 0 : read_bits(q, b);
	if (rc == 0) {
		b->tracked = true;
		b->flags |= BITMAP_IN_USE;
		rc = update_directory(q);
	}
	return rc < 0 ? error_set(err, rc, "bitmap: %s", strerror(-rc)) : 0;
}

int image_bitmap_enable(struct block *blk, const char *name, bool enabled,
                        struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	struct bitmap *b;
	int rc = enter(blk, &q, &all, true, err);

	if (rc < 0)
		return rc;
	b = find(q, name);
	rc = b ? make_tracked(q, b, err) : missing(name, err);
	if (rc == 0) {
		b->flags &= ~(u32)BITMAP_AUTO;
		b->flags |= enabled ? BITMAP_AUTO : 0;
	}
	update_tracking(q);
	return leave(q, &all, rc);
}

int image_bitmap_clear(struct block *blk, const char *name, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	struct bitmap *b;
	int rc = enter(blk, &q, &all, true, err);

	if (rc < 0)
		return rc;
	b = find(q, name);
	rc = b ? make_tracked(q, b, err) : missing(name, err);
	for (u64 i = 0; rc == 0 && i <= b->bit_count / 64; i++)
		b->bits[i] = 0;
	return leave(q, &all, rc);
}

int image_bitmap_mark(struct block *blk, const char *name, u64 offset,
                      u64 length, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	struct bitmap *b;
	int rc = enter(blk, &q, &all, true, err);

	if (rc < 0)
		return rc;
	b = find(q, name);
	rc = b ? make_tracked(q, b, err) : missing(name, err);
	if (rc == 0 && length > 0)
		for (u64 i = offset >> b->granularity_bits;
		     i <= (offset + length - 1) >> b->granularity_bits &&
		     i < b->bit_count;
		     i++)
			/* Requests mark theirs before they wait for us. */
			__atomic_fetch_or(&b->bits[i / 64], BIT(i % 64),
			                  __ATOMIC_RELAXED);
	return leave(q, &all, rc);
}

static bool bit_at(const struct bitmap *b, u64 i)
{
	return b->bits[i / 64] >> (i & 63) & 1;
}

static void run_at(const struct qcow2 *q, const struct bitmap *b, u64 offset,
                   bool *dirty, u64 *length)
{
	u64 i = offset >> b->granularity_bits, end;

	*dirty = bit_at(b, i);
	while (i < b->bit_count && bit_at(b, i) == *dirty)
		i++;
	end = MIN(i << b->granularity_bits, block_size(&q->block));
	if (i == b->bit_count)
		end = block_size(&q->block);
	*length = end - offset;
}

int image_bitmap_next(struct block *blk, const char *name, u64 offset,
                      bool *dirty, u64 *length, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	struct bitmap *b;
	int rc = enter(blk, &q, &all, false, err);

	if (rc < 0)
		return rc;
	b = find(q, name);
	if (!b)
		rc = missing(name, err);
	else if (!usable(b) || (!b->tracked && (b->flags & BITMAP_IN_USE)))
		rc = error_set(err, -EINVAL,
		               "bitmap '%s' was not stored properly: take"
		               " everything as changed",
		               name);
	else if (offset >= block_size(&q->block) ||
	         offset >> b->granularity_bits >= bits_for(b, q->h.size))
		rc = error_set(err, -EINVAL, "outside the disk");
	else if (!b->bits && (rc = read_bits(q, b)) < 0)
		rc = error_set(err, rc, "bitmap: %s", strerror(-rc));
	if (rc == 0)
		run_at(q, b, offset, dirty, length);
	return leave(q, &all, rc);
}
