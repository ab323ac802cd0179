/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - disk images as files: made, described, checked, changed.
 *
 * What tools need beyond reading and writing (block.h). Calls that take a
 * struct block want an open qcow2 image unless they say otherwise, and wait
 * for its requests under way; -ENOTSUP tells that the format can't do it.
 */
#pragma once

#include "storage/block.h"

enum image_preallocation {
	IMAGE_SPARSE,   /* nothing */
	IMAGE_METADATA, /* every guest cluster has its place */
	IMAGE_FALLOC,   /* and the host has reserved it */
	IMAGE_FULL,     /* and it was written */
};

struct image_create {
	const char *path;
	const char *format; /* "raw", "qcow2" */
	u64 size;           /* bytes, a multiple of 512 */
	bool replace;       /* an existing file */
	enum image_preallocation preallocation;
	/* qcow2 only; 0 or NULL is the usual value. */
	const char *backing, *backing_format;
	unsigned version;        /* 2 or 3 (usual) */
	u32 cluster_bytes;       /* 64 KiB */
	u32 refcount_bits;       /* 16 */
	const char *compression; /* "zlib", "zstd" */
	bool lazy_refcounts, extended_l2;
	const char *data_file;
	bool data_file_raw;
	/* What it, and its data file, are opened by as long as their names are
	 * not theirs: files that are there, and lose what they held. NULL: the
	 * names. */
	const char *by, *data_by;
};

int image_create(const struct image_create *how, struct error *err) MUST_CHECK;
/* What that made, to be filled. */
int image_open_new(struct block **out, const struct image_create *how,
                   unsigned flags, struct error *err) MUST_CHECK;

/* The format that the end of a file's name states, other programs' ("vmdk")
 * included; NULL: none. What a file holds states nothing: a guest may have
 * written it. */
const char *image_format_named(const char *path);

/* More flags for block_open.flags. */
enum {
	IMAGE_OPEN_NO_BACKING = 1 << 17, /* only the image itself: for info,
	                                  * check and changes of its header */
	IMAGE_OPEN_AS_IS = 1 << 18,      /* no repair, no refusal of damage */
	IMAGE_OPEN_NO_DATA = 1 << 19,    /* not its data file either: nothing
	                                  * may be read; for image_details() */
};

/* name as the image at base means it: relative to its folder. Freed by the
 * caller. */
char *image_path_beside(const char *base, const char *name);

struct image_snapshot {
	char *id, *name;
	u64 seconds;
	u32 nanoseconds;
	u64 clock_ns, state_bytes, disk_bytes;
};

struct image_bitmap {
	char *name;
	u64 granularity;
	bool enabled, in_use, readable;
};

/* Strings live as long as the block, or until the next change of it. */
struct image_details {
	const char *format; /* "raw": nothing below is set */
	unsigned version;
	u32 cluster_bytes, refcount_bits;
	const char *compression;
	bool lazy_refcounts, extended_l2, dirty, corrupt, data_file_raw;
	const char *backing, *backing_format, *data_file; /* NULL: none */
	struct image_snapshot *snapshots;
	u32 snapshot_count;
	struct image_bitmap *bitmaps;
	u32 bitmap_count;
};

/* Any format. */
void image_details(struct block *b, struct image_details *out);
void image_details_free(struct image_details *details);
/* What a qcow2 image says of itself; nothing else is opened for that, and
 * nothing locked. fd stays the caller's, out is to be freed and *b closed. */
int image_look(struct block **b, int fd, const char *path,
               struct image_details *out, struct error *err) MUST_CHECK;

/* Progress of long work: bytes looked at, of total. Any thread, never two at
 * once. */
struct image_progress {
	void (*step)(void *ctx, u64 done, u64 total); /* may be NULL */
	void *ctx;
};

enum { IMAGE_REPAIR_LEAKS = 1 << 0, IMAGE_REPAIR_ALL = 1 << 1 };

struct image_check {
	u64 corruptions, leaks;             /* found and left */
	u64 corruptions_fixed, leaks_fixed; /* found and repaired */
	u64 clusters, allocated, compressed, fragmented; /* of the guest */
	u64 file_bytes; /* where the last cluster in use ends */
	/* Called for each finding, if set. */
	void (*finding)(void *ctx, const char *words);
	void *ctx;
	const struct image_progress *progress; /* may be NULL */
};

/* Opened with IMAGE_OPEN_AS_IS | IMAGE_OPEN_NO_BACKING, for writing if
 * anything is to be repaired. */
int image_check(struct block *b, unsigned repair, struct image_check *result,
                struct error *err) MUST_CHECK;

/* One cluster of guest data, stored compressed if that is smaller (and the
 * cluster was never written). offset is a multiple of the cluster. */
int image_write_compressed(struct block *b, u64 offset, const void *data,
                           struct error *err) MUST_CHECK;

int image_snapshot_create(struct block *b, const char *name,
                          struct error *err) MUST_CHECK;
/* name is an id or a name. */
int image_snapshot_apply(struct block *b, const char *name,
                         struct error *err) MUST_CHECK;
int image_snapshot_delete(struct block *b, const char *name,
                          struct error *err) MUST_CHECK;

int image_bitmap_create(struct block *b, const char *name, u64 granularity,
                        struct error *err) MUST_CHECK;
int image_bitmap_delete(struct block *b, const char *name,
                        struct error *err) MUST_CHECK;
/* Stop or go on recording. */
int image_bitmap_enable(struct block *b, const char *name, bool enabled,
                        struct error *err) MUST_CHECK;
int image_bitmap_clear(struct block *b, const char *name,
                       struct error *err) MUST_CHECK;
/* Set the bits of a range. */
int image_bitmap_mark(struct block *b, const char *name, u64 offset, u64 length,
                      struct error *err) MUST_CHECK;
/* The first run of bits alike from offset on: *length bytes of the disk. */
int image_bitmap_next(struct block *b, const char *name, u64 offset,
                      bool *dirty, u64 *length, struct error *err) MUST_CHECK;

/* Snapshots inside an image show what it lies on where they hold nothing, too:
 * -EINVAL, with a hint, if it has any. Any format. */
int image_without_snapshots(struct block *b, struct error *err) MUST_CHECK;

/* Name another backing file (NULL: none); contents are the caller's affair. */
int image_set_backing(struct block *b, const char *backing, const char *format,
                      struct error *err) MUST_CHECK;
/* Zero or unmap everything so that the backing file shows. */
int image_make_empty(struct block *b, struct error *err) MUST_CHECK;

/*
 * Contents of one disk to another of at least its size. What is a hole or
 * zero is not written if the target is known to read as zeroes (blank), and
 * written as zeroes if not. compress: the target is a new qcow2 image.
 */
int image_copy(struct block *from, struct block *to, bool blank, bool compress,
               const struct image_progress *progress,
               struct error *err) MUST_CHECK;

/* The same of a raw file to a new one of the same size, at once, where their
 * file system can let both share what they hold. Else -EOPNOTSUPP or what the
 * host says, without words: there is no harm in it. */
int image_share(struct block *from, struct block *to) MUST_CHECK;

/* 0 and *same; *where is the first byte that differs. Where one disk is
 * longer, the rest has to be zero. */
int image_compare(struct block *a, struct block *b, bool *same, u64 *where,
                  const struct image_progress *progress,
                  struct error *err) MUST_CHECK;

/* Which of their units differ: a byte for each, up to the end of the longer
 * one; unit is a power of 2 and at most 1 MiB. */
int image_differences(struct block *a, struct block *b, u64 unit, u8 *differs,
                      struct error *err) MUST_CHECK;

/*
 * Before image (with its chain open) gets `backing` (NULL: none) under it:
 * whatever would look different is written into it.
 */
int image_rebase_data(struct block *image, struct block *backing,
                      const struct image_progress *progress,
                      struct error *err) MUST_CHECK;

/* What image (opened with IMAGE_OPEN_NO_BACKING) holds itself goes down into
 * backing, which is made longer if it must. */
int image_commit_data(struct block *image, struct block *backing,
                      const struct image_progress *progress,
                      struct error *err) MUST_CHECK;
