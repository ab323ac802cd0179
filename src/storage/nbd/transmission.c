/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transmission - requests for data and their answers, one after the other.
 *
 * Structured replies go out in chunks as the data is read, zeroes as holes; a
 * simple reply says first whether all went well, so it is read whole before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "storage/nbd/protocol.h"

/* At most this much a chunk; what "do not fragment" may ask for. */
#define CHUNK ((u64)256 * KIB)
enum { EXTENTS_MAX = 512, CONTEXT_ID = 1 };

struct request {
	u16 flags, type;
	u64 handle, offset;
	u32 length;
};

static u32 number_of(int rc)
{
	return rc == -ENOMEM   ? NBD_ENOMEM
	       : rc == -EINVAL ? NBD_EINVAL
	                       : NBD_EIO;
}

static int simple(struct nbd_session *s, const struct request *r, u32 error)
{
	u8 head[16];

	nbd_put(head, 4, NBD_SIMPLE_MAGIC);
	nbd_put(head + 4, 4, error);
	nbd_put(head + 8, 8, r->handle);
	return nbd_write(s, head, sizeof(head));
}

static int chunk_head(struct nbd_session *s, const struct request *r, u16 flags,
                      u16 type, u32 length)
{
	u8 head[20];

	nbd_put(head, 4, NBD_CHUNK_MAGIC);
	nbd_put(head + 4, 2, flags);
	nbd_put(head + 6, 2, type);
	nbd_put(head + 8, 8, r->handle);
	nbd_put(head + 16, 4, length);
	return nbd_write(s, head, sizeof(head));
}

static int chunk_error(struct nbd_session *s, const struct request *r,
                       u32 error)
{
	u8 body[6] = { 0 }; /* no words */
	int rc;

	nbd_put(body, 4, error);
	rc = chunk_head(s, r, NBD_CHUNK_DONE, NBD_CHUNK_ERROR, sizeof(body));
	return rc == 0 ? nbd_write(s, body, sizeof(body)) : rc;
}

static int failed(struct nbd_session *s, const struct request *r, u32 error)
{
	return s->structured && (r->type == NBD_CMD_READ ||
	                         r->type == NBD_CMD_BLOCK_STATUS)
	           ? chunk_error(s, r, error)
	           : simple(s, r, error);
}

/* Any bytes, of a disk that gives sectors; out points into the buffer, which
 * has room for two sectors more. */
static int read_disk(struct nbd_session *s, u64 offset, u64 length, u8 **out)
{
	u64 from = ALIGN_DOWN(offset, (u64)s->sector);
	u64 to = ALIGN_UP(offset + length, (u64)s->sector);

	*out = s->buf + (offset - from);
	return block_sync(s->export->block, BLOCK_READ, from, s->buf,
	                  to - from);
}

static int make_room(struct nbd_session *s, u64 length)
{
	size_t want = length + 2 * (size_t)s->sector;
	u8 *more;

	if (want <= s->room)
		return 0;
	more = malloc(want);
	if (!more)
		return -ENOMEM;
	free(s->buf);
	s->buf = more;
	s->room = want;
	return 0;
}

static int read_simple(struct nbd_session *s, const struct request *r)
{
	u8 *data = NULL;
	int rc = make_room(s, r->length), sent;

	if (rc == 0)
		rc = read_disk(s, r->offset, r->length, &data);
	if (rc < 0)
		return simple(s, r, number_of(rc));
	sent = simple(s, r, 0);
	return sent == 0 ? nbd_write(s, data, r->length) : sent;
}

/* The first part of a range that is alike; whole bytes of any disk. */
static int next_extent(struct nbd_session *s, u64 offset, u64 length,
                       u64 *alike, u32 *state)
{
	u64 from = ALIGN_DOWN(offset, (u64)s->sector);
	u64 to = ALIGN_UP(offset + length, (u64)s->sector);
	struct block_extent e;
	int rc = block_map(s->export->block, from, to - from, &e);

	if (rc < 0)
		return rc;
	*alike = MIN(length, e.length - (offset - from));
	*state = e.flags & BLOCK_EXTENT_ZERO ? NBD_STATE_ZERO : 0;
	if (*state && !(e.flags & BLOCK_EXTENT_DATA))
		*state |= NBD_STATE_HOLE;
	return 0;
}

static int send_hole(struct nbd_session *s, const struct request *r, u16 flags,
                     u64 offset, u64 length)
{
	u8 body[12];
	int rc = chunk_head(s, r, flags, NBD_CHUNK_HOLE, sizeof(body));

	nbd_put(body, 8, offset);
	nbd_put(body + 8, 4, length);
	return rc == 0 ? nbd_write(s, body, sizeof(body)) : rc;
}

/* *fault: the disk's; the return value is the connection's. */
static int send_data(struct nbd_session *s, const struct request *r, u16 flags,
                     u64 offset, u64 length, int *fault)
{
	u8 *data, place[8];
	int rc;

	*fault = read_disk(s, offset, length, &data);
	if (*fault < 0)
		return 0;
	nbd_put(place, 8, offset);
	rc = chunk_head(s, r, flags, NBD_CHUNK_DATA, (u32)(8 + length));
	if (rc == 0)
		rc = nbd_write(s, place, sizeof(place));
	return rc == 0 ? nbd_write(s, data, length) : rc;
}

static int read_chunks(struct nbd_session *s, const struct request *r)
{
	bool whole = r->flags & NBD_CMD_FLAG_DF;
	u64 at = 0;
	int rc = 0, fault = 0;

	if (whole && r->length > CHUNK)
		return chunk_error(s, r, NBD_EOVERFLOW);
	while (at < r->length && rc == 0 && fault == 0) {
		u64 n = MIN(r->length - at, CHUNK);
		u32 state = 0;
		u16 flags;

		if (!whole)
			fault = next_extent(s, r->offset + at, n, &n, &state);
		if (fault < 0)
			break;
		flags = at + n == r->length ? NBD_CHUNK_DONE : 0;
		rc = state & NBD_STATE_ZERO
		         ? send_hole(s, r, flags, r->offset + at, n)
		         : send_data(s, r, flags, r->offset + at, n, &fault);
		at += n;
	}
	if (rc == 0 && fault < 0)
		rc = chunk_error(s, r, number_of(fault));
	return rc;
}

static int block_status(struct nbd_session *s, const struct request *r)
{
	u8 body[4 + EXTENTS_MAX * 8];
	unsigned most = r->flags & NBD_CMD_FLAG_ONE ? 1 : EXTENTS_MAX, n = 0;
	u32 last = 0, length = 0;
	u64 at = 0;
	int rc;

	if (!s->allocation)
		return failed(s, r, NBD_EINVAL);
	while (at < r->length) {
		u64 alike;
		u32 state;

		rc = next_extent(s, r->offset + at, r->length - at, &alike,
		                 &state);
		if (rc < 0)
			return failed(s, r, number_of(rc));
		if (n > 0 && state == last) {
			length += (u32)alike;
		} else {
			if (n == most)
				break;
			length = (u32)alike;
			last = state;
			n++;
		}
		nbd_put(body + 4 + (n - 1) * 8, 4, length);
		nbd_put(body + 8 + (n - 1) * 8, 4, state);
		at += alike;
	}
	nbd_put(body, 4, CONTEXT_ID);
	rc = chunk_head(s, r, NBD_CHUNK_DONE, NBD_CHUNK_STATUS, 4 + n * 8);
	return rc == 0 ? nbd_write(s, body, 4 + n * 8) : rc;
}

static bool inside(const struct nbd_session *s, const struct request *r)
{
	return r->length > 0 && r->offset <= s->size &&
	       r->length <= s->size - r->offset;
}

static int one_request(struct nbd_session *s, const struct request *r)
{
	switch (r->type) {
	case NBD_CMD_READ:
		if (!inside(s, r) || r->length > NBD_PAYLOAD_MAX)
			return failed(s, r, NBD_EINVAL);
		return s->structured ? read_chunks(s, r) : read_simple(s, r);
	case NBD_CMD_BLOCK_STATUS:
		return inside(s, r) ? block_status(s, r)
		                    : failed(s, r, NBD_EINVAL);
	case NBD_CMD_FLUSH:
		return simple(s, r, 0);
	case NBD_CMD_CACHE:
		return simple(s, r, inside(s, r) ? 0 : NBD_EINVAL);
	case NBD_CMD_TRIM:
	case NBD_CMD_WRITE_ZEROES:
		return simple(s, r, NBD_EPERM);
	default:
		return simple(s, r, NBD_EINVAL);
	}
}

int nbd_transmission(struct nbd_session *s)
{
	int rc = make_room(s, CHUNK);

	while (rc == 0) {
		struct request r;
		u8 head[28];

		rc = nbd_read(s, head, sizeof(head));
		if (rc < 0)
			break;
		if (nbd_get(head, 4) != NBD_REQUEST_MAGIC)
			return -EPROTO;
		r.flags = (u16)nbd_get(head + 4, 2);
		r.type = (u16)nbd_get(head + 6, 2);
		r.handle = nbd_get(head + 8, 8);
		r.offset = nbd_get(head + 16, 8);
		r.length = (u32)nbd_get(head + 24, 4);
		if (r.type == NBD_CMD_DISC)
			return 0;
		if (r.type != NBD_CMD_WRITE) {
			rc = one_request(s, &r);
			continue;
		}
		/* Its data follows, wanted or not. */
		if (r.length > NBD_PAYLOAD_MAX)
			return -EPROTO;
		rc = nbd_skip(s, r.length);
		if (rc == 0)
			rc = simple(s, &r, NBD_EPERM);
	}
	return rc;
}
