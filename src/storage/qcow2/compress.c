/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compress - compressed clusters: zlib (a raw deflate stream) and zstd.
 *
 * The stored length is in whole sectors: what lies behind the stream's end is
 * not part of it. Readers tend to ask for one cluster in several pieces, so
 * the last one decompressed is kept.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/alloc.h"
#include "storage/core/iov.h"
#include "storage/qcow2/qcow2.h"

/* The window other readers of the format make room for. */
enum { WINDOW_BITS = 12, MEMORY_LEVEL = 9 };

static int deflate_cluster(const void *in, u32 size, void *out, u32 *out_size)
{
	union {
		const void *in;
		void *p;
	} from = { .in = in }; /* zlib only reads it */
	z_stream z = { .next_in = from.p,
		       .avail_in = size,
		       .next_out = out,
		       .avail_out = size - 1 };
	int rc;

	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS,
	                 MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	rc = deflate(&z, Z_FINISH);
	*out_size = size - 1 - z.avail_out;
	deflateEnd(&z);
	return rc == Z_STREAM_END ? 0 : -ENOSPC;
}

static int inflate_cluster(const void *in, u32 in_size, void *out, u32 size)
{
	union {
		const void *in;
		void *p;
	} from = { .in = in };
	z_stream z = { .next_in = from.p,
		       .avail_in = in_size,
		       .next_out = out,
		       .avail_out = size };
	int rc;

	if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
		return -ENOMEM;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (z.avail_out != 0 || (rc != Z_STREAM_END && rc != Z_BUF_ERROR))
		return -EIO;
	return 0;
}

static int zstd_expand(const void *in, u32 in_size, void *out, u32 size)
{
	ZSTD_DStream *d = ZSTD_createDStream();
	ZSTD_inBuffer from = { in, in_size, 0 };
	ZSTD_outBuffer to = { out, size, 0 };
	size_t rc = 1;

	if (!d)
		return -ENOMEM;
	/* A stream may be cut into frames; it ends when the cluster is full. */
	while (to.pos < to.size && from.pos < from.size) {
		rc = ZSTD_decompressStream(d, &to, &from);
		if (ZSTD_isError(rc))
			break;
	}
	ZSTD_freeDStream(d);
	return ZSTD_isError(rc) || to.pos < to.size ? -EIO : 0;
}

int compress_cluster(u8 method, const void *in, u32 size, void *out,
                     u32 *out_size)
{
	size_t n;

	if (method == COMPRESSION_ZLIB)
		return deflate_cluster(in, size, out, out_size);
	n = ZSTD_compress(out, size - 1, in, size, ZSTD_CLEVEL_DEFAULT);
	if (ZSTD_isError(n))
		return -ENOSPC;
	*out_size = (u32)n;
	return 0;
}

int decompress_cluster(u8 method, const void *in, u32 in_size, void *out,
                       u32 size)
{
	if (method == COMPRESSION_ZLIB)
		return inflate_cluster(in, in_size, out, size);
	return zstd_expand(in, in_size, out, size);
}

static int load(struct qcow2 *q, u64 entry, u8 *out)
{
	u32 unit = q->file->info.sector;
	u64 offset, bytes, from, to;
	u8 *buf;
	int rc;

	compressed_extent(q, entry, &offset, &bytes);
	from = ALIGN_DOWN(offset, (u64)unit);
	to = ALIGN_UP(offset + bytes, (u64)unit);
	buf = try_alloc(1, to - from);
	if (!buf)
		return -ENOMEM;
	rc = meta_read(q, from, buf, to - from);
	if (rc == 0) {
		rc = decompress_cluster(q->h.compression, buf + (offset - from),
		                        (u32)bytes, out, q->cluster_size);
		if (rc == -EIO)
			rc = -EBADMSG;
	}
	free(buf);
	return rc;
}

void inflated_let_go(struct qcow2 *q)
{
	if (pthread_mutex_trylock(&q->inflate_lock) != 0)
		return;
	free(q->inflated);
	q->inflated = NULL;
	q->inflated_entry = 0;
	pthread_mutex_unlock(&q->inflate_lock);
}

int read_compressed(struct qcow2 *q, u64 entry, u64 in_offset, u64 length,
                    const struct iovec *iov, int iov_count, u64 at)
{
	int rc = 0;

	pthread_mutex_lock(&q->inflate_lock);
	if (!q->inflated)
		q->inflated = try_alloc(1, q->cluster_size);
	if (!q->inflated)
		rc = -ENOMEM;
	if (rc == 0 && q->inflated_entry != entry) {
		q->inflated_entry = 0;
		rc = load(q, entry, q->inflated);
		if (rc == 0)
			q->inflated_entry = entry;
	}
	if (rc == 0)
		iov_copy_in(iov, iov_count, at, q->inflated + in_offset,
		            length);
	pthread_mutex_unlock(&q->inflate_lock);
	if (rc == -EBADMSG) {
		pthread_mutex_lock(&q->meta);
		rc = mark_corrupt(q, "the compressed cluster %#" PRIx64, entry);
		pthread_mutex_unlock(&q->meta);
	}
	return rc;
}
