/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format.h - the qcow2 format on disk: offsets, bits, byte order.
 *
 * Section names in comments across this folder are those of the format's
 * specification, docs/interop/qcow2 of the QEMU project. All numbers on disk
 * are big-endian.
 */
#pragma once

#include <string.h>

#include "base/types.h"

enum { /* "Header": byte offsets */
       H_MAGIC = 0,
       H_VERSION = 4,
       H_BACKING_OFFSET = 8,
       H_BACKING_SIZE = 16,
       H_CLUSTER_BITS = 20,
       H_SIZE = 24,
       H_CRYPT = 32,
       H_L1_SIZE = 36,
       H_L1_OFFSET = 40,
       H_REFTABLE_OFFSET = 48,
       H_REFTABLE_CLUSTERS = 56,
       H_SNAPSHOTS = 60,
       H_SNAPSHOTS_OFFSET = 64,
       H_V2_LENGTH = 72,
       H_INCOMPATIBLE = 72,
       H_COMPATIBLE = 80,
       H_AUTOCLEAR = 88,
       H_REFCOUNT_ORDER = 96,
       H_LENGTH = 100,
       H_V3_LENGTH = 104,
       H_COMPRESSION = 104,
       H_OUR_LENGTH = 112, /* with compression type and its padding */
};

#define QCOW2_MAGIC 0x514649fbu

enum { /* incompatible features */
       INCOMPAT_DIRTY = 1 << 0,
       INCOMPAT_CORRUPT = 1 << 1,
       INCOMPAT_DATA_FILE = 1 << 2,
       INCOMPAT_COMPRESSION = 1 << 3,
       INCOMPAT_EXTENDED_L2 = 1 << 4,
       INCOMPAT_KNOWN = (1 << 5) - 1,
};
enum { COMPAT_LAZY_REFCOUNTS = 1 << 0 };
enum {
	AUTOCLEAR_BITMAPS = 1 << 0,
	AUTOCLEAR_RAW_DATA = 1 << 1,
	AUTOCLEAR_KNOWN = 3,
};

/* "Header extensions" */
#define EXT_END 0u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURES 0x6803f857u
#define EXT_BITMAPS 0x23852875u
#define EXT_ENCRYPTION 0x0537be77u
#define EXT_DATA_FILE 0x44415441u

enum { COMPRESSION_ZLIB = 0, COMPRESSION_ZSTD = 1 };

enum {
	CLUSTER_BITS_MIN = 9,
	CLUSTER_BITS_MAX = 21,
	CLUSTER_BITS_EXTENDED_MIN = 14,
	BACKING_NAME_MAX = 1023,
	SUBCLUSTERS = 32,
};
/* Bounds that keep a hostile header from costing memory. */
#define L1_BYTES_MAX (32 * MIB)
#define REFTABLE_BYTES_MAX (64 * MIB)
#define SNAPSHOTS_MAX 65536u
#define SNAPSHOT_TABLE_MAX (64 * MIB)
#define BITMAPS_MAX 65535u
#define BITMAP_DIRECTORY_MAX (64 * MIB)

/* "Cluster mapping" and "Host cluster management": entries. */
#define ENTRY_COPIED BIT(63)
#define ENTRY_COMPRESSED BIT(62)
#define ENTRY_OFFSET 0x00fffffffffffe00u
#define ENTRY_ZERO BIT(0)
#define L1_RESERVED 0x7f000000000001ffu
#define L2_RESERVED 0x3f000000000001feu
#define REFTABLE_OFFSET 0xfffffffffffffe00u
#define REFTABLE_RESERVED 0x1ffu

/* "Snapshots": a table entry's fixed part, and extra data as version 3 has. */
enum { SNAPSHOT_HEAD = 40, SNAPSHOT_EXTRA = 16 };

/* "Bitmap directory" */
enum {
	BITMAP_HEAD = 24,
	BITMAP_IN_USE = 1 << 0,
	BITMAP_AUTO = 1 << 1,
	BITMAP_EXTRA_OK = 1 << 2,
	BITMAP_FLAGS_KNOWN = 7,
	BITMAP_TYPE_DIRTY = 1,
};

static inline u16 get16(const void *p)
{
	u16 v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap16(v);
}

static inline u32 get32(const void *p)
{
	u32 v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap32(v);
}

static inline u64 get64(const void *p)
{
	u64 v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap64(v);
}

static inline void put16(void *p, u16 v)
{
	v = __builtin_bswap16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put32(void *p, u32 v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put64(void *p, u64 v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
}
