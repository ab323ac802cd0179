/* SPDX-License-Identifier: Apache-2.0 */
/*
 * header - reading, judging and writing the first cluster.
 *
 * All fields of the fixed header lie in the first 512 bytes, so that one
 * sector write changes them together or not at all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"

static const char *const feature_names[] = {
	"dirty bit",        "corrupt bit",         "external data file",
	"compression type", "extended L2 entries",
};

static void parse_fields(struct header *h, const u8 *p)
{
	h->version = get32(p + H_VERSION);
	h->backing_offset = get64(p + H_BACKING_OFFSET);
	h->backing_size = get32(p + H_BACKING_SIZE);
	h->cluster_bits = get32(p + H_CLUSTER_BITS);
	h->size = get64(p + H_SIZE);
	h->l1_size = get32(p + H_L1_SIZE);
	h->l1_offset = get64(p + H_L1_OFFSET);
	h->reftable_offset = get64(p + H_REFTABLE_OFFSET);
	h->reftable_clusters = get32(p + H_REFTABLE_CLUSTERS);
	h->snapshots = get32(p + H_SNAPSHOTS);
	h->snapshots_offset = get64(p + H_SNAPSHOTS_OFFSET);
	if (h->version == 2) {
		h->refcount_order = 4;
		h->length = H_V2_LENGTH;
		return;
	}
	h->incompatible = get64(p + H_INCOMPATIBLE);
	h->compatible = get64(p + H_COMPATIBLE);
	h->autoclear = get64(p + H_AUTOCLEAR);
	h->refcount_order = get32(p + H_REFCOUNT_ORDER);
	h->length = get32(p + H_LENGTH);
	if (h->length > H_COMPRESSION)
		h->compression = p[H_COMPRESSION];
}

static void unknown_feature(const struct qcow2 *q, char *text, size_t size);

static int check_features(const struct qcow2 *q, const char *name,
                          struct error *err)
{
	const struct header *h = &q->h;
	bool other = h->incompatible & INCOMPAT_COMPRESSION;
	char text[128];

	if (h->incompatible & ~(u64)INCOMPAT_KNOWN) {
		unknown_feature(q, text, sizeof(text));
		return error_set(err, -ENOTSUP,
		                 "%s: needs a feature that is not known: %s",
		                 name, text);
	}
	if (other != (h->compression != COMPRESSION_ZLIB) ||
	    h->compression > COMPRESSION_ZSTD)
		return error_set(err, -ENOTSUP,
		                 "%s: compression type %u is not known", name,
		                 h->compression);
	if ((h->incompatible & INCOMPAT_EXTENDED_L2) &&
	    h->cluster_bits < CLUSTER_BITS_EXTENDED_MIN)
		return error_set(err, -EINVAL,
		                 "%s: extended L2 entries with clusters of %u"
		                 " bytes",
		                 name, 1u << h->cluster_bits);
	if (h->autoclear & AUTOCLEAR_RAW_DATA &&
	    (!(h->incompatible & INCOMPAT_DATA_FILE) || h->backing_offset))
		return error_set(err, -EINVAL,
		                 "%s: a raw data file that can't be one", name);
	return 0;
}

static bool region_valid(u64 offset, u64 bytes, u32 cluster_size, u64 limit)
{
	return offset >= cluster_size && IS_ALIGNED(offset, cluster_size) &&
	       offset <= limit && bytes <= limit - offset;
}

static int check_fields(const struct qcow2 *q, u64 file_size, const char *name,
                        struct error *err)
{
	const struct header *h = &q->h;
	u32 cluster = 1u << h->cluster_bits;
	u32 entry = h->incompatible & INCOMPAT_EXTENDED_L2 ? 16 : 8;
	u64 per_l1 = (u64)cluster * (cluster / entry);
	u64 limit = ALIGN_UP(file_size, (u64)cluster);
	u64 reftable = (u64)h->reftable_clusters << h->cluster_bits;

	if (h->size > (u64)INT64_MAX - cluster)
		return error_set(err, -EFBIG, "%s: the disk is too large",
		                 name);
	if ((u64)h->l1_size * 8 > L1_BYTES_MAX ||
	    h->l1_size < (h->size + per_l1 - 1) / per_l1)
		return error_set(err, -EINVAL,
		                 "%s: an L1 table of %u entries does not fit"
		                 " a disk of %" PRIu64 " bytes",
		                 name, h->l1_size, h->size);
	if (h->l1_size > 0 &&
	    !region_valid(h->l1_offset, (u64)h->l1_size * 8, cluster, limit))
		return error_set(err, -EINVAL,
		                 "%s: the L1 table lies outside the file",
		                 name);
	if (reftable == 0 || reftable > REFTABLE_BYTES_MAX ||
	    !region_valid(h->reftable_offset, reftable, cluster, limit))
		return error_set(err, -EINVAL,
		                 "%s: the refcount table lies outside the file",
		                 name);
	if (h->snapshots > SNAPSHOTS_MAX ||
	    (h->snapshots > 0 &&
	     !region_valid(h->snapshots_offset, 1, cluster, limit)))
		return error_set(err, -EINVAL,
		                 "%s: the snapshot table lies outside the file",
		                 name);
	return 0;
}

static int copy_string(char *out, size_t room, const u8 *data, u32 length,
                       const char *what, const char *name, struct error *err)
{
	if (length >= room || memchr(data, '\0', length))
		return error_set(err, -EINVAL, "%s: %s is not valid", name,
		                 what);
	memcpy(out, data, length);
	out[length] = '\0';
	return 0;
}

static int parse_bitmaps(struct header *h, const u8 *data, u32 length,
                         const char *name, struct error *err)
{
	if (length != 24)
		return error_set(err, -EINVAL,
		                 "%s: the bitmaps extension has %u bytes", name,
		                 length);
	h->has_bitmaps = true;
	h->bitmaps = get32(data);
	h->bitmaps_size = get64(data + 8);
	h->bitmaps_offset = get64(data + 16);
	return 0;
}

/* The extensions of a first cluster, one after the other. */
struct extension {
	u32 at, end; /* where it begins, and the room for all of them */
	u32 type, length;
	const u8 *data;
	bool cut; /* longer than the room: there is none behind it */
};

/* The first that lies at or behind x->at. False: there is none. */
static bool extension_at(const struct qcow2 *q, struct extension *x)
{
	if (x->at + 8 > x->end)
		return false;
	x->type = get32(q->head + x->at);
	x->length = get32(q->head + x->at + 4);
	x->data = q->head + x->at + 8;
	x->cut = x->type != EXT_END && x->length > x->end - x->at - 8;
	return x->type != EXT_END && !x->cut;
}

/* The room for them ends where the backing file's name begins. */
static bool extension_first(const struct qcow2 *q, struct extension *x)
{
	u64 name = get64(q->head + H_BACKING_OFFSET);

	x->cut = false;
	x->at = get32(q->head + H_VERSION) == 2 ? H_V2_LENGTH
	                                        : get32(q->head + H_LENGTH);
	x->end = name ? (u32)MIN(name, (u64)q->cluster_size) : q->cluster_size;
	return extension_at(q, x);
}

static bool extension_next(const struct qcow2 *q, struct extension *x)
{
	x->at += 8 + (u32)ALIGN_UP((u64)x->length, 8);
	return extension_at(q, x);
}

static int parse_extensions(struct qcow2 *q, const char *name,
                            struct error *err)
{
	struct header *h = &q->h;
	struct extension x;
	int rc = 0;

	for (bool any = extension_first(q, &x); any && rc == 0;
	     any = extension_next(q, &x)) {
		if (x.type == EXT_BACKING_FORMAT)
			rc = copy_string(
			    h->backing_format, sizeof(h->backing_format),
			    x.data, x.length, "the backing format", name, err);
		else if (x.type == EXT_DATA_FILE)
			rc = copy_string(h->data_file, sizeof(h->data_file),
			                 x.data, x.length,
			                 "the data file's name", name, err);
		else if (x.type == EXT_BITMAPS)
			rc = parse_bitmaps(h, x.data, x.length, name, err);
	}
	if (rc == 0 && x.cut)
		rc = error_set(err, -EINVAL,
		               "%s: header extension %#x is too long", name,
		               x.type);
	return rc;
}

/* What the image's own table calls the first unknown bit. */
static void unknown_feature(const struct qcow2 *q, char *text, size_t size)
{
	const struct header *h = &q->h;
	int bit = __builtin_ctzll(h->incompatible & ~(u64)INCOMPAT_KNOWN);
	struct extension x;

	snprintf(text, size, "bit %d", bit);
	for (bool any = extension_first(q, &x); any;
	     any = extension_next(q, &x))
		for (u32 i = 0; x.type == EXT_FEATURES && i + 48 <= x.length;
		     i += 48)
			if (x.data[i] == 0 && x.data[i + 1] == bit)
				snprintf(text, size, "%.46s (bit %d)",
				         (const char *)x.data + i + 2, bit);
}

static int parse_backing(struct qcow2 *q, const char *name, struct error *err)
{
	struct header *h = &q->h;

	if (h->backing_offset == 0)
		return 0;
	if (h->backing_size > BACKING_NAME_MAX || h->backing_size == 0 ||
	    h->backing_offset < h->length ||
	    h->backing_offset > q->cluster_size - h->backing_size)
		return error_set(err, -EINVAL,
		                 "%s: the backing file's name is not valid",
		                 name);
	return copy_string(h->backing, sizeof(h->backing),
	                   q->head + h->backing_offset, h->backing_size,
	                   "the backing file's name", name, err);
}

void header_geometry(struct qcow2 *q)
{
	struct header *h = &q->h;

	q->cluster_size = 1u << h->cluster_bits;
	q->extended = h->incompatible & INCOMPAT_EXTENDED_L2;
	q->external = h->incompatible & INCOMPAT_DATA_FILE;
	q->raw_data = h->autoclear & AUTOCLEAR_RAW_DATA;
	q->has_zero = h->version >= 3;
	q->entry_bytes = q->extended ? 16 : 8;
	q->l2_bits = h->cluster_bits - (q->extended ? 4 : 3);
	q->l2_entries = 1u << q->l2_bits;
	q->subclusters = q->extended ? SUBCLUSTERS : 1;
	q->subcluster_size = q->cluster_size / q->subclusters;
	q->refcount_bits = 1u << h->refcount_order;
	q->refblock_bits = h->cluster_bits + 3 - h->refcount_order;
}

/* Whether all that a reader wants of the first cluster lies in its first bytes:
 * the name of the backing file, or the mark behind the last extension. */
static bool head_fits(struct qcow2 *q, u32 bytes)
{
	u64 name = get64(q->head + H_BACKING_OFFSET);
	u32 length = get32(q->head + H_BACKING_SIZE);
	struct extension x;

	if (name)
		return name <= bytes && length <= bytes - name;
	if (q->h.version >= 3 && get32(q->head + H_LENGTH) > bytes)
		return false;
	q->cluster_size = bytes; /* as far as there is something to look at */
	for (bool any = extension_first(q, &x); any;
	     any = extension_next(q, &x))
		continue;
	return !x.cut && x.at + 8 <= x.end;
}

/* The first bytes say how long the first cluster is; then all of it, for who
 * may write it again. */
static int read_head(struct qcow2 *q, u64 file_size, const char *name,
                     struct error *err)
{
	struct header *h = &q->h;
	u32 unit = 4096;
	int rc;

	if (file_size < H_V2_LENGTH)
		return error_set(err, -EINVAL, "%s: not a qcow2 image", name);
	q->head = xalloc(unit);
	rc = block_sync(q->file, BLOCK_READ, 0, q->head, unit);
	if (rc < 0)
		return error_set(err, rc, "%s: %s", name, strerror(-rc));
	if (get32(q->head + H_MAGIC) != QCOW2_MAGIC)
		return error_set(err, -EINVAL, "%s: not a qcow2 image", name);
	h->version = get32(q->head + H_VERSION);
	h->cluster_bits = get32(q->head + H_CLUSTER_BITS);
	if (h->version != 2 && h->version != 3)
		return error_set(err, -ENOTSUP,
		                 "%s: qcow2 version %u is not known", name,
		                 h->version);
	if (h->cluster_bits < CLUSTER_BITS_MIN ||
	    h->cluster_bits > CLUSTER_BITS_MAX)
		return error_set(err, -EINVAL, "%s: clusters of 2^%u bytes",
		                 name, h->cluster_bits);
	if (1u << h->cluster_bits > unit &&
	    (q->writable || !head_fits(q, unit))) {
		unit = 1u << h->cluster_bits;
		q->head = xrealloc(q->head, unit);
		rc = block_sync(q->file, BLOCK_READ, 0, q->head, unit);
		if (rc < 0)
			return error_set(err, rc, "%s: %s", name,
			                 strerror(-rc));
	}
	return 0;
}

int header_parse(struct qcow2 *q, u64 file_size, const char *name,
                 struct error *err)
{
	struct header *h = &q->h;
	int rc = read_head(q, file_size, name, err);

	if (rc < 0)
		return rc;
	parse_fields(h, q->head);
	if (h->refcount_order > 6)
		return error_set(err, -EINVAL, "%s: refcounts of 2^%u bits",
		                 name, h->refcount_order);
	if (h->length > 1u << h->cluster_bits || h->length % 8 ||
	    (h->version >= 3 && h->length < H_V3_LENGTH))
		return error_set(err, -EINVAL, "%s: a header of %u bytes", name,
		                 h->length);
	if (get32(q->head + H_CRYPT) != 0)
		return error_set(err, -ENOTSUP,
		                 "%s: encrypted images are not supported",
		                 name);
	header_geometry(q);
	rc = check_features(q, name, err);
	if (rc == 0)
		rc = check_fields(q, file_size, name, err);
	if (rc == 0)
		rc = parse_extensions(q, name, err);
	if (rc == 0)
		rc = parse_backing(q, name, err);
	return rc;
}

static void put_fields(const struct qcow2 *q, u8 *p)
{
	const struct header *h = &q->h;

	put64(p + H_SIZE, h->size);
	put32(p + H_L1_SIZE, h->l1_size);
	put64(p + H_L1_OFFSET, h->l1_offset);
	put64(p + H_REFTABLE_OFFSET, h->reftable_offset);
	put32(p + H_REFTABLE_CLUSTERS, h->reftable_clusters);
	put32(p + H_SNAPSHOTS, h->snapshots);
	put64(p + H_SNAPSHOTS_OFFSET, h->snapshots_offset);
	if (h->version >= 3) {
		put64(p + H_INCOMPATIBLE, h->incompatible);
		put64(p + H_COMPATIBLE, h->compatible);
		put64(p + H_AUTOCLEAR, h->autoclear);
	}
}

int header_update(struct qcow2 *q)
{
	put_fields(q, q->head);
	return meta_write(q, 0, q->head, MAX(512u, q->file->info.sector));
}

int header_set_dirty(struct qcow2 *q, bool dirty)
{
	u64 old = q->h.incompatible;
	int rc;

	if (q->h.version < 3)
		return 0;
	q->h.incompatible &= ~(u64)INCOMPAT_DIRTY;
	if (dirty)
		q->h.incompatible |= INCOMPAT_DIRTY;
	if (q->h.incompatible == old)
		return 0;
	rc = header_update(q);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc < 0)
		q->h.incompatible = old;
	return rc;
}

/* Writes into a first cluster under construction. */
struct writer {
	u8 *to;
	u32 at, room;
	bool full;
};

static void put_extension(struct writer *w, u32 type, const void *data,
                          u32 length)
{
	u32 padded = (u32)ALIGN_UP((u64)length, 8);

	if (w->full || w->room - w->at < padded + 8) {
		w->full = true;
		return;
	}
	put32(w->to + w->at, type);
	put32(w->to + w->at + 4, length);
	if (length > 0)
		memcpy(w->to + w->at + 8, data, length);
	w->at += 8 + padded;
}

static void put_bitmaps(struct writer *w, const struct header *h)
{
	u8 data[24] = { 0 };

	put32(data, h->bitmaps);
	put64(data + 8, h->bitmaps_size);
	put64(data + 16, h->bitmaps_offset);
	put_extension(w, EXT_BITMAPS, data, sizeof(data));
}

static void put_features(struct writer *w)
{
	u8 data[48 * (ARRAY_SIZE(feature_names) + 3)] = { 0 };
	static const struct {
		u8 kind, bit;
		char name[32];
	} more[] = {
		{ 1, 0, "lazy refcounts" },
		{ 2, 0, "bitmaps" },
		{ 2, 1, "raw external data" },
	};
	u8 *p = data;

	for (u8 i = 0; i < ARRAY_SIZE(feature_names); i++, p += 48) {
		p[1] = i;
		memcpy(p + 2, feature_names[i], strlen(feature_names[i]));
	}
	for (size_t i = 0; i < ARRAY_SIZE(more); i++, p += 48) {
		p[0] = more[i].kind;
		p[1] = more[i].bit;
		memcpy(p + 2, more[i].name, strlen(more[i].name));
	}
	put_extension(w, EXT_FEATURES, data, sizeof(data));
}

/* Extensions that we don't know are kept as they are. */
static void keep_unknown(struct writer *w, const struct qcow2 *q)
{
	struct extension x;

	for (bool any = extension_first(q, &x); any;
	     any = extension_next(q, &x))
		if (x.type != EXT_BACKING_FORMAT && x.type != EXT_DATA_FILE &&
		    x.type != EXT_BITMAPS && x.type != EXT_FEATURES)
			put_extension(w, x.type, x.data, x.length);
}

/* ---- the first cluster made anew ---- */

/* Behind the extensions of the cluster on disk. */
static u32 used_end(const struct qcow2 *q)
{
	struct extension x;
	bool any = extension_first(q, &x);

	while (any)
		any = extension_next(q, &x);
	return MIN(x.at + 8, q->cluster_size);
}

/*
 * Where the backing file's name goes: behind the extensions, those of before as
 * well, and not over the name of before. So until the first sector is written
 * the image is what it was.
 */
static u32 place_name(const struct qcow2 *q, u32 end, u32 size)
{
	u32 at = MAX(end, used_end(q)), room = q->cluster_size;
	u64 old = get64(q->head + H_BACKING_OFFSET);
	u32 old_size = get32(q->head + H_BACKING_SIZE);

	if (old && at < old + old_size && old < (u64)at + size)
		at = (u32)(old + old_size);
	/* Small clusters have no room for that. */
	return at <= room && size <= room - at ? at : end;
}

/* Header and extensions; where those end. 0: there is no room. */
static u32 put_head(struct qcow2 *q, u8 *to, bool features)
{
	const struct header *h = &q->h;
	u32 length =
	    h->version == 2 ? H_V2_LENGTH : MAX(h->length, H_OUR_LENGTH);
	struct writer w = { .to = to, .at = length, .room = q->cluster_size };

	memset(to, 0, length);
	memcpy(to, q->head, MIN(h->length, length));
	put32(to + H_MAGIC, QCOW2_MAGIC);
	put32(to + H_VERSION, h->version);
	put32(to + H_CLUSTER_BITS, h->cluster_bits);
	if (h->version >= 3) {
		put32(to + H_REFCOUNT_ORDER, h->refcount_order);
		put32(to + H_LENGTH, length);
		to[H_COMPRESSION] = h->compression;
	}
	if (h->backing_format[0])
		put_extension(&w, EXT_BACKING_FORMAT, h->backing_format,
		              (u32)strlen(h->backing_format));
	if (h->has_bitmaps)
		put_bitmaps(&w, h);
	if (h->data_file[0])
		put_extension(&w, EXT_DATA_FILE, h->data_file,
		              (u32)strlen(h->data_file));
	keep_unknown(&w, q);
	if (features)
		put_features(&w);
	put_extension(&w, EXT_END, NULL, 0);
	return w.full ? 0 : w.at;
}

/* The name at its place, in the header as well. */
static void put_name(const struct qcow2 *q, u8 *to, u32 at)
{
	u32 size = (u32)strlen(q->h.backing);

	put64(to + H_BACKING_OFFSET, size ? at : 0);
	put32(to + H_BACKING_SIZE, size);
	memcpy(to + at, q->h.backing, size);
}

/* All but the first sector, durably; then that one, by which it counts. */
static int write_head(struct qcow2 *q, const u8 *head)
{
	u32 first = MIN(q->file->info.sector, q->cluster_size);
	int rc = 0;

	if (q->cluster_size > first) {
		rc =
		    meta_write(q, first, head + first, q->cluster_size - first);
		if (rc == 0)
			rc = meta_flush(q);
	}
	return rc == 0 ? meta_write(q, 0, head, first) : rc;
}

/* That is what is on disk now, and what the fields speak of. */
static void adopt(struct qcow2 *q, const u8 *head)
{
	memcpy(q->head, head, q->cluster_size);
	q->h.length =
	    q->h.version == 2 ? H_V2_LENGTH : get32(q->head + H_LENGTH);
	q->h.backing_offset = get64(q->head + H_BACKING_OFFSET);
	q->h.backing_size = get32(q->head + H_BACKING_SIZE);
}

/*
 * What lies behind the first sector can't change together with it. So there are
 * two steps: first a header whose extensions all lie in the first sector (the
 * names of features are left out), with the name where nothing was; behind it
 * is still what was. When that counts, the rest is free to be written.
 */
static int write_in_steps(struct qcow2 *q, u8 *lean, u8 *whole, u32 name_at)
{
	u32 first = q->file->info.sector;
	int rc;

	memcpy(lean + first, q->head + first, q->cluster_size - first);
	put_name(q, lean, name_at);
	put_fields(q, lean);
	rc = write_head(q, lean);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc < 0)
		return rc;
	adopt(q, lean);
	rc = write_head(q, whole);
	if (rc == 0)
		adopt(q, whole);
	return rc;
}

static int write_new(struct qcow2 *q, u8 *lean, u8 *whole, struct error *err)
{
	bool features = q->cluster_size >= 1024 && q->h.version >= 3;
	bool had = get32(q->head + H_MAGIC) == QCOW2_MAGIC;
	u32 name = (u32)strlen(q->h.backing), first = q->file->info.sector;
	u32 end = put_head(q, whole, features), lean_end, at;
	int rc;

	if (end == 0 || q->cluster_size - end < name)
		return error_set(err, -ENOSPC,
		                 "the header does not fit a cluster of %u"
		                 " bytes",
		                 q->cluster_size);
	at = place_name(q, end, name);
	/* What is behind the first sector stays until that one counts. */
	if (had && end <= first)
		memcpy(whole + first, q->head + first, q->cluster_size - first);
	put_name(q, whole, at);
	put_fields(q, whole);
	lean_end = put_head(q, lean, false);
	if (had && lean_end <= first && end > first) {
		rc = write_in_steps(q, lean, whole, at);
	} else {
		rc = write_head(q, whole);
		if (rc == 0)
			adopt(q, whole);
	}
	return rc < 0 ? error_set(err, rc, "the header can't be written: %s",
	                          strerror(-rc))
	              : 0;
}

int header_rewrite(struct qcow2 *q, struct error *err)
{
	size_t size = MAX(4096u, q->cluster_size);
	u8 *lean = try_alloc(size, 1), *whole = try_alloc(size, 1);
	int rc = lean && whole ? write_new(q, lean, whole, err)
	                       : error_set(err, -ENOMEM, "out of memory");

	free(lean);
	free(whole);
	return rc;
}
