/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack - gzip, xz, lzma, zstd, and the LZ4 legacy frames that Linux uses:
 * magic 0x184c2102, then blocks of a 32-bit length and at most 8 MiB each
 * when unpacked.
 */
#include "machine/boot/unpack.h"

#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "machine/boot/file.h"

enum { LZ4_BLOCK = 8 << 20 };

/* A stream, its room, and how much of it came out: -1 if corrupt. */
typedef s64 unpack_fn(const u8 *in, u64 in_size, u8 *out, u64 room);

static s64 unpack_gzip(const u8 *in, u64 in_size, u8 *out, u64 room)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)in,
		       .avail_in = (uInt)in_size,
		       .next_out = out,
		       .avail_out = (uInt)room };
	int rc;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -1;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return rc == Z_STREAM_END ? (s64)z.total_out : -1;
}

static s64 unpack_lzma(const u8 *in, u64 in_size, u8 *out, u64 room)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_ret rc;
	s64 size;

	if (lzma_auto_decoder(&s, 256 * MIB, 0) != LZMA_OK)
		return -1;
	s.next_in = in;
	s.avail_in = in_size;
	s.next_out = out;
	s.avail_out = room;
	do
		rc = lzma_code(&s, LZMA_RUN);
	while (rc == LZMA_OK && s.avail_in && s.avail_out);
	size = (s64)s.total_out;
	lzma_end(&s);
	/* An .lzma stream without an end mark just fills the room. */
	return rc == LZMA_STREAM_END || (rc == LZMA_OK && (u64)size == room)
	           ? size
	           : -1;
}

static s64 unpack_zstd(const u8 *in, u64 in_size, u8 *out, u64 room)
{
	size_t frame = ZSTD_findFrameCompressedSize(in, in_size);
	size_t n;

	if (ZSTD_isError(frame))
		return -1;
	n = ZSTD_decompress(out, room, in, frame);
	return ZSTD_isError(n) ? -1 : (s64)n;
}

static s64 unpack_lz4(const u8 *in, u64 in_size, u8 *out, u64 room)
{
	u64 at = 4, done = 0;

	while (in_size - at >= 4 && done < room) {
		u64 block = get32(in + at);
		int n;

		at += 4;
		if (block == 0 || block > in_size - at ||
		    block > (u64)LZ4_COMPRESSBOUND(LZ4_BLOCK))
			return -1;
		n = LZ4_decompress_safe((const char *)in + at,
		                        (char *)out + done, (int)block,
		                        (int)MIN(room - done, (u64)LZ4_BLOCK));
		if (n <= 0)
			return -1;
		done += (u64)n;
		at += block;
	}
	return (s64)done;
}

static const struct format {
	const char *name;
	u8 magic[6];
	u8 length;
	bool size_outside; /* the trailing size is not part of the stream */
	unpack_fn *fn;
} formats[] = {
	{ "gzip", { 0x1f, 0x8b }, 2, false, unpack_gzip },
	{ "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, true, unpack_lzma },
	{ "lzma", { 0x5d, 0, 0 }, 3, true, unpack_lzma },
	{ "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, true, unpack_lz4 },
	{ "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, true, unpack_zstd },
};

static const struct format *find_format(const u8 *data, u64 size)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (size >= 16 &&
		    !memcmp(data, formats[i].magic, formats[i].length))
			return &formats[i];
	return NULL;
}

const char *unpack_format(const u8 *data, u64 size)
{
	const struct format *f = find_format(data, size);

	return f ? f->name : NULL;
}

int unpack(const u8 *data, u64 size, u64 limit, const char *path, u8 **out,
           u64 *out_size, struct error *err)
{
	const struct format *f = find_format(data, size);
	u64 room;
	s64 got;
	u8 *buf;

	if (!f)
		return error_set(err, -ENOTSUP,
		                 "%s is compressed in a way "
		                 "unknown here",
		                 path);
	room = get32(data + size - 4);
	if (room == 0 || room > limit)
		return error_set(err, -ENOMEM,
		                 "%s unpacks to %" PRIu64
		                 " MiB, more than the %" PRIu64
		                 " MiB there is room for",
		                 path, room / MIB, limit / MIB);
	buf = try_alloc(room, 1);
	if (!buf)
		return error_set(err, -ENOMEM, "no memory to unpack %s", path);
	got = f->fn(data, f->size_outside ? size - 4 : size, buf, room);
	if (got < 0 || (u64)got != room) {
		free(buf);
		error_set(err, -ENOEXEC,
		          "%s is corrupt: its %s data do not "
		          "unpack",
		          path, f->name);
		return error_hint(err, "copy or download it again");
	}
	*out = buf;
	*out_size = room;
	return 0;
}
