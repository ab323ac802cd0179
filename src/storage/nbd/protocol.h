/* SPDX-License-Identifier: Apache-2.0 */
/*
 * protocol.h - the numbers of the NBD protocol (its document doc/proto.md),
 * and one session of it over anything that carries bytes. All big-endian.
 */
#pragma once

#include "storage/nbd.h"

#define NBD_MAGIC 0x4e42444d41474943u        /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC 0x49484156454f5054u /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC 0x3e889045565a9u

enum {
	NBD_REQUEST_MAGIC = 0x25609513,
	NBD_SIMPLE_MAGIC = 0x67446698,
	NBD_CHUNK_MAGIC = 0x668e33ef,
};

/* Handshake flags, ours and the client's. */
enum { NBD_FIXED_NEWSTYLE = 1 << 0, NBD_NO_ZEROES = 1 << 1 };

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED = 8,
	NBD_OPT_LIST_META = 9,
	NBD_OPT_SET_META = 10,
};

#define NBD_REP_ERR(n) (0x80000000u + (n))
enum { NBD_REP_ACK = 1, NBD_REP_SERVER, NBD_REP_INFO, NBD_REP_META };
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9)

enum { NBD_INFO_EXPORT = 0, NBD_INFO_BLOCK_SIZE = 3 };

/* Transmission flags. */
enum {
	NBD_HAS_FLAGS = 1 << 0,
	NBD_READ_ONLY = 1 << 1,
	NBD_SEND_FLUSH = 1 << 2,
	NBD_SEND_DF = 1 << 7,
	NBD_MULTI_CONN = 1 << 8,
	NBD_SEND_CACHE = 1 << 10,
};

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};
enum { NBD_CMD_FLAG_DF = 1 << 2, NBD_CMD_FLAG_ONE = 1 << 3 };

enum { NBD_CHUNK_DONE = 1 << 0 };
enum {
	NBD_CHUNK_NONE = 0,
	NBD_CHUNK_DATA = 1,
	NBD_CHUNK_HOLE = 2,
	NBD_CHUNK_STATUS = 5,
	NBD_CHUNK_ERROR = 0x8001,
};
enum { NBD_STATE_HOLE = 1 << 0, NBD_STATE_ZERO = 1 << 1 };

/* Errors have the protocol's own numbers. */
enum {
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_EOVERFLOW = 75,
};

/* Where bytes come from and go to: all of them, or -errno; read: -ECONNRESET
 * at the end. */
struct nbd_pipe {
	int (*read)(void *ctx, void *buf, size_t size);
	int (*write)(void *ctx, const void *buf, size_t size);
	void *ctx;
};

enum {
	NBD_NAME_MAX = 4096,
	NBD_OPTION_MAX = 16 * 1024, /* longer ones are read and refused */
	NBD_PAYLOAD_MAX = 32 * 1024 * 1024,
};

struct nbd_session {
	const struct nbd_pipe *pipe;
	const struct nbd_export *export;
	u64 size;
	u32 sector;
	bool no_zeroes, structured, allocation;
	u8 *buf;
	size_t room;
};

/* handshake.c: 0: to the transmission; 1: the client left; or -errno. */
int nbd_handshake(struct nbd_session *s);
/* transmission.c: until the client leaves: 0, or -errno. */
int nbd_transmission(struct nbd_session *s);
/* Both. */
int nbd_session_run(const struct nbd_pipe *pipe,
                    const struct nbd_export *export);

static inline int nbd_read(struct nbd_session *s, void *buf, size_t size)
{
	return s->pipe->read(s->pipe->ctx, buf, size);
}

static inline int nbd_write(struct nbd_session *s, const void *buf, size_t size)
{
	return s->pipe->write(s->pipe->ctx, buf, size);
}

/* Read and forget. */
int nbd_skip(struct nbd_session *s, u64 size);

static inline void nbd_put(u8 *p, unsigned bytes, u64 value)
{
	while (bytes-- > 0) {
		p[bytes] = (u8)value;
		value >>= 8;
	}
}

static inline u64 nbd_get(const u8 *p, unsigned bytes)
{
	u64 value = 0;

	while (bytes-- > 0)
		value = value << 8 | *p++;
	return value;
}
