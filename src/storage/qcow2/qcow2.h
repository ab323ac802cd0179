/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2.h - an open qcow2 image, as the files of this folder share it.
 *
 * Two locks:
 *   meta   a mutex held across I/O. Whoever changes metadata, or reads what
 *          is not in memory, holds it; so all metadata work is sequential.
 *   lock   a mutex held for moments, inside meta or alone. It guards what the
 *          fast path looks at without meta: the cache, L1, the holds.
 * Every change to a cached table or to L1 is made with both.
 *
 * A request holds its guest clusters (struct hold), shared for reads and
 * for writes in place, exclusively for whatever changes their mapping. So a
 * host cluster is never freed while data moves in or out of it.
 *
 * Order on disk (commit.c) is what makes a crash harmless: at every moment
 * each stored refcount is at least the number of stored references.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "storage/core/driver.h"
#include "storage/core/queue.h"
#include "storage/image.h"
#include "storage/qcow2/format.h"

enum table_kind { TABLE_L2, TABLE_REFBLOCK, TABLE_KINDS };

/* A cluster of metadata in memory, as on disk (big-endian). */
struct table {
	u64 offset; /* host; 0: not in use */
	enum table_kind kind;
	u8 *data;
	u32 dirty_from, dirty_to; /* bytes; empty: clean */
	unsigned pins;
	struct table *hash_next;
	struct table *older, *newer;           /* by use */
	struct table *dirty_next, **dirty_ref; /* of its kind */
};

struct cache {
	struct table *tables; /* capacity of them */
	u32 capacity, used;
	struct table **hash;
	u32 hash_mask;
	struct table *oldest, *newest;
	struct table *dirty[TABLE_KINDS];
};

struct header {
	u32 version;
	u32 cluster_bits;
	u64 size;
	u32 l1_size;
	u64 l1_offset;
	u64 reftable_offset;
	u32 reftable_clusters;
	u32 snapshots;
	u64 snapshots_offset;
	u64 incompatible, compatible, autoclear;
	u32 refcount_order;
	u32 length;
	u8 compression;
	u64 backing_offset;
	u32 backing_size;
	/* From extensions; "" or 0: none. */
	char backing[BACKING_NAME_MAX + 1];
	char backing_format[32];
	char data_file[BACKING_NAME_MAX + 1];
	bool has_bitmaps;
	u32 bitmaps;
	u64 bitmaps_size, bitmaps_offset;
};

struct run {
	u64 first, count; /* host clusters */
};

struct hold {
	u64 first, last; /* guest clusters */
	bool exclusive;
	struct hold *prev, *next;
};

struct bitmap {
	char *name;
	u64 table_offset;
	u32 table_size;
	u32 flags;
	u8 type, granularity_bits;
	u8 *extra;
	u32 extra_size;
	/* While tracked or loaded: one bit a granule; else NULL. */
	u64 *bits; /* set with atomic operations */
	u64 bit_count;
	bool tracked; /* writes set bits; stored at close */
	struct bitmap *next;
};

struct snapshot {
	u64 l1_offset;
	u32 l1_size;
	char *id, *name;
	u32 seconds, nanoseconds;
	u64 clock_ns;
	u64 state_size;
	u64 disk_size;
	u8 *extra; /* unknown extra data, kept */
	u32 extra_size;
};

struct qcow2 {
	struct block block;
	struct block *file;    /* owned */
	struct block *data;    /* owned if external, else file */
	struct block *backing; /* owned; NULL: none */
	u64 backing_bytes;     /* its size */

	struct header h;
	u8 *head; /* the first cluster as on disk, with our changes */
	u32 cluster_size, l2_bits, l2_entries, entry_bytes;
	u32 subclusters, subcluster_size;
	u32 refcount_bits, refblock_bits; /* log2 of entries a block */
	bool extended, external, raw_data, has_zero;
	bool writable;
	_Atomic bool corrupt; /* no more writing */
	char damage[200];     /* what was found first, in words */
	_Atomic bool damage_told;

	pthread_mutex_t meta, lock;

	u64 *l1; /* under lock */
	u32 l1_dirty_from, l1_dirty_to;
	u64 *reftable;                       /* meta */
	u32 reftable_entries, reftable_used; /* used: behind the last one */
	u32 reftable_dirty_from, reftable_dirty_to;
	struct cache cache;

	/* Allocation; meta. */
	u64 cursor;     /* no free cluster lies before it */
	u64 host_end;   /* bytes: nothing valid lies behind */
	u64 fresh_from; /* bytes: from here on the file was never written */
	u64 packed_at;  /* where the next compressed cluster may start; 0: - */
	struct run *frees; /* references dropped since the last commit */
	u64 free_count, free_room;
	bool committing, rebuilding;
	_Atomic bool meta_dirty; /* commit has work */

	struct snapshot *snapshots; /* h.snapshots of them */
	u64 snapshots_bytes;
	struct bitmap *bitmaps;
	_Atomic bool tracking;

	/* Holds, in order of arrival; lock. */
	struct hold *holds, *holds_last;
	u64 exclusive_holds;
	pthread_cond_t released;

	/* Decompressed cluster kept for the next reader; inflate_lock. */
	pthread_mutex_t inflate_lock;
	u64 inflated_entry;
	u8 *inflated;

	struct queue *workers;
};

static inline struct qcow2 *qcow2_of(struct block *b)
{
	return container_of(b, struct qcow2, block);
}

static inline u64 cluster_of(const struct qcow2 *q, u64 offset)
{
	return offset >> q->h.cluster_bits;
}

static inline u64 in_cluster(const struct qcow2 *q, u64 offset)
{
	return offset & (q->cluster_size - 1);
}

/* header.c */
int header_parse(struct qcow2 *q, u64 file_size, const char *name,
                 struct error *err);
/* Derive the sizes from q->h. */
void header_geometry(struct qcow2 *q);
/* Write the fields of q->h over those in q->head, and their sector. Not
 * flushed. */
int header_update(struct qcow2 *q);
/* Make the first cluster anew, extensions and all. Not flushed. */
int header_rewrite(struct qcow2 *q, struct error *err);
/* Set or clear the dirty bit, durably. A version 2 image has none: 0. */
int header_set_dirty(struct qcow2 *q, bool dirty);

/* cache.c; meta held, except cache_peek */
int cache_init(struct qcow2 *q, u64 bytes);
void cache_fini(struct qcow2 *q);
/* Read if need be, and pin; table_put() unpins. */
int table_get(struct qcow2 *q, enum table_kind kind, u64 offset,
              struct table **out);
/* A new table of zeroes in place of whatever the cluster held. */
int table_new(struct qcow2 *q, enum table_kind kind, u64 offset,
              struct table **out);
void table_put(struct table *t);
/* The bytes were changed; lock held too. */
void table_dirty(struct qcow2 *q, struct table *t, u32 from, u32 to);
int table_write(struct qcow2 *q, struct table *t);
/* Forget a cluster that is no longer metadata. */
void cache_drop(struct qcow2 *q, u64 offset);
void cache_drop_all(struct qcow2 *q);
/* Tables that are clean, and that nobody has pinned, take no memory. */
void cache_let_go(struct qcow2 *q);
/* lock held, meta not needed. NULL if not in memory. */
struct table *cache_peek(struct qcow2 *q, u64 offset);

/* refcount.c; meta held */
int refcount_load(struct qcow2 *q, const char *name, struct error *err);
u64 refcount_read(const void *block, u32 order, u64 index);
void refcount_write(void *block, u32 order, u64 index, u64 value);
int refcount_get(struct qcow2 *q, u64 cluster, u64 *count);
/* More references to clusters in use; all or none. */
int refcount_add(struct qcow2 *q, u64 cluster, u64 count);
/* 1 to want clusters in a row, with refcount 1. */
int clusters_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *got);
/* Exactly want clusters in a row. */
int clusters_alloc_run(struct qcow2 *q, u64 want, u64 *offset);
/* Drop one reference each, once the disk has forgotten them (commit). */
int clusters_free(struct qcow2 *q, u64 offset, u64 count);
/* Commit's last step. */
int clusters_apply_frees(struct qcow2 *q);
/* Bytes for a compressed cluster, packed behind the last one. */
int clusters_alloc_packed(struct qcow2 *q, u32 bytes, u64 *offset);

/* commit.c; meta held */
int commit(struct qcow2 *q);
int commit_all(struct qcow2 *q); /* until nothing is left */
int commit_refblocks(struct qcow2 *q);
int meta_write(struct qcow2 *q, u64 offset, const void *data, u64 length);
int meta_read(struct qcow2 *q, u64 offset, void *data, u64 length);
int meta_flush(struct qcow2 *q);
void meta_mark_dirty(struct qcow2 *q);
/* Whether an offset can be a metadata cluster of this image. */
bool meta_offset_valid(const struct qcow2 *q, u64 offset);
/* Whether guest data at these host bytes would lie over metadata that is known
 * without looking for it. lock held. */
bool meta_overlaps(struct qcow2 *q, u64 host, u64 length);
/* Something is wrong with the image: set the bit, write no more. Returns
 * -EIO. */
int mark_corrupt(struct qcow2 *q, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* map.c */
enum extent_kind {
	EXTENT_HOLE, /* the backing file's, or zeroes without one */
	EXTENT_ZERO,
	EXTENT_DATA,
	EXTENT_COMPRESSED,
};
struct extent {
	enum extent_kind kind;
	u64 length;     /* bytes from the offset asked for */
	u64 host;       /* DATA: offset; COMPRESSED: the entry */
	bool in_place;  /* DATA: may be overwritten where it is */
	bool host_kept; /* HOLE or ZERO with a host cluster behind it */
};
/* With lock held: -EAGAIN if the table is not in memory. */
int extent_peek(struct qcow2 *q, u64 offset, u64 length, struct extent *e);
/* With meta held: reads the table if need be. */
int extent_get(struct qcow2 *q, u64 offset, u64 length, struct extent *e);
/* The table for a guest offset, its own (copied, made if create). meta held.
 * *out is NULL when there is none and create is false. */
int l2_get(struct qcow2 *q, u64 offset, bool create, struct table **out);
u32 l2_index(const struct qcow2 *q, u64 offset);
u64 l2_entry(const struct qcow2 *q, const struct table *t, u32 index,
             u64 *bitmap);
void l2_set(struct qcow2 *q, struct table *t, u32 index, u64 entry, u64 bitmap);
/* Drop the references an L2 entry holds. */
int l2_entry_free(struct qcow2 *q, u64 entry);
void compressed_extent(const struct qcow2 *q, u64 entry, u64 *offset,
                       u64 *bytes);
int l1_grow(struct qcow2 *q, u64 entries, struct error *err);
void l1_set(struct qcow2 *q, u64 index, u64 entry);

/* rw.c: the slow path, on a worker, with the clusters held */
int rw_read(struct qcow2 *q, u64 offset, u64 length, const struct iovec *iov,
            int iov_count, u64 at);
/* iov NULL writes zeroes. */
int rw_write(struct qcow2 *q, u64 offset, u64 length, const struct iovec *iov,
             int iov_count);
int rw_zero(struct qcow2 *q, u64 offset, u64 length, bool unmap);
int rw_discard(struct qcow2 *q, u64 offset, u64 length);

/* request.c: the fast path, the holds and the workers */
void requests_init(struct qcow2 *q, unsigned workers);
void requests_fini(struct qcow2 *q);
void requests_submit(struct block *b, struct block_request *req);
bool requests_now(struct block *b, const struct block_io *io);
void requests_post(struct block *b, struct block_request *req, int result);
bool requests_cancel(struct block *b, struct block_request *req);
/* Wait for the range; last is included. */
void hold_take(struct qcow2 *q, struct hold *h, u64 first, u64 last,
               bool exclusive);
void hold_release(struct qcow2 *q, struct hold *h);

/* compress.c */
int compress_cluster(u8 method, const void *in, u32 size, void *out,
                     u32 *out_size); /* -ENOSPC: does not get smaller */
int decompress_cluster(u8 method, const void *in, u32 in_size, void *out,
                       u32 size);
/* The whole guest cluster of a compressed entry. No lock held. */
int read_compressed(struct qcow2 *q, u64 entry, u64 in_offset, u64 length,
                    const struct iovec *iov, int iov_count, u64 at);
/* The cluster that is kept for the next reader takes no memory. */
void inflated_let_go(struct qcow2 *q);

/* snapshot.c */
int snapshots_load(struct qcow2 *q, const char *name, struct error *err);
void snapshots_free(struct qcow2 *q);
u64 snapshots_bytes(const struct qcow2 *q); /* of the table on disk */
/* A snapshot's L1 table, in host order; freed by the caller. */
int snapshot_l1(struct qcow2 *q, const struct snapshot *s, u64 **out);

/* bitmap.c */
int bitmaps_load(struct qcow2 *q, const char *name, struct error *err);
/* A bitmap's table, in host order; freed by the caller. */
int bitmap_table(struct qcow2 *q, const struct bitmap *b, u64 **out);
/* Mark the tracked ones in use on disk. meta held. */
int bitmaps_begin(struct qcow2 *q);
/* Store the tracked ones; the image is about to close. meta held. */
int bitmaps_store(struct qcow2 *q);
void bitmaps_free(struct qcow2 *q);
void bitmaps_mark(struct qcow2 *q, u64 offset, u64 length);
int bitmaps_resize(struct qcow2 *q, u64 size);

/* check.c; see image.h for struct image_check */
int check_image(struct qcow2 *q, unsigned repair, struct image_check *result,
                struct error *err);

/* rebuild.c: new refcount structures, behind the first `clusters`, that say
 * what counts says. Then the header names them. meta held. */
int refcounts_rebuild(struct qcow2 *q, const u32 *counts, u64 clusters);

/* open.c */
/* -ENOTSUP with words unless b is a qcow2 image. */
int image_qcow2(struct block *b, struct qcow2 **out, struct error *err);
int qcow2_open(struct block **out, const struct block_open *how,
               struct error *err);
/* On a block that is open already (taken over); depth of the chain so far. */
int qcow2_open_on(struct block **out, struct block *file,
                  const struct block_open *how, unsigned depth,
                  struct error *err);
extern const struct block_driver qcow2_driver;

/* resize.c */
int qcow2_resize(struct block *b, u64 size, struct error *err);
int qcow2_map(struct block *b, u64 offset, u64 length,
              struct block_extent *extent);

/* create.c */
int qcow2_create_on(struct block *file, const struct image_create *how,
                    struct error *err);
/* Every guest cluster gets its place; what is there reads as zeroes if the
 * file does. */
int qcow2_preallocate(struct block *b);
