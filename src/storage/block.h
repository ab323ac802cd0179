/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.h - a virtual disk: asynchronous reads, writes, flushes.
 *
 * Any thread submits; completions run on a thread of the block layer's
 * choosing (the loop's, or a pool's), inside submit only if the request allows
 * that (BLOCK_REQ_INLINE). Requests are unordered among themselves: a flush
 * covers the writes that had completed when it was submitted, no others.
 * Offsets and lengths are bytes, multiples of block_info.sector; a request past
 * the end fails with -EINVAL.
 *
 * A file truncated under us: what was lost reads as -EIO, never as zeroes.
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

struct block;
struct error;
struct loop;

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,
	BLOCK_DISCARD,      /* contents become undefined or zero */
	BLOCK_WRITE_ZEROES, /* reads back as zero; may unmap if allowed */
};

enum {
	BLOCK_REQ_FUA = 1 << 0,      /* write: durable when complete */
	BLOCK_REQ_NO_UNMAP = 1 << 1, /* write zeroes: keep it allocated */
	BLOCK_REQ_INLINE = 1 << 2,   /* may be over before submit returns, if
	                              * that most likely needs no waiting */
	BLOCK_REQ_BLOCKING = 1 << 3, /* the same, and submit may wait */
};

/*
 * Owned by the submitter, untouched by it until done() was called; iov and
 * the memory behind it likewise.
 */
struct block_request {
	enum block_op op;
	unsigned flags;
	u64 offset, length;
	const struct iovec *iov;
	int iov_count;
	void (*done)(struct block_request *req, int result); /* 0 or -errno */
	void *ctx;                                           /* submitter's */
	void *driver_private[8];
};

struct block_info {
	u64 size;    /* bytes */
	u32 sector;  /* 512 or 4096: the unit of requests */
	u32 cluster; /* preferred unit of allocation; 0: none */
	bool readonly;
	bool discard; /* discard and unmap reach the host */
	bool rotational;
};

enum {
	BLOCK_OPEN_READONLY = 1 << 0,
	BLOCK_OPEN_DIRECT = 1 << 1,   /* O_DIRECT */
	BLOCK_OPEN_NO_LOCK = 1 << 2,  /* the caller holds it */
	BLOCK_OPEN_THREADS = 1 << 3,  /* a pool of threads, never io_uring */
	BLOCK_OPEN_NO_FLUSH = 1 << 4, /* cache=unsafe: flushes do nothing */
	BLOCK_OPEN_URING = 1 << 5,    /* io_uring if the host has it; else it is
	                               * used for O_DIRECT only */
};

/*
 * Who opens the further files of a chain (a backing file, an external data
 * file). name is what the image says, base the path of the image that says
 * it, format what the image says the file is. An opener decides whether that
 * file may be used at all: an image can name any path. Returns a descriptor,
 * read-write if writable, or -errno and *err in words.
 */
struct block_opener {
	int (*open)(void *ctx, const char *base, const char *name,
	            const char *format, bool writable, struct error *err);
	void *ctx;
};

/* Opens name by path, relative to the directory of base: for tools that act
 * for the person who started them, never for a machine's process. */
extern const struct block_opener block_opener_paths;

/*
 * Further files that are open already: for a process that may open nothing.
 * One is found by its path, which is what the image says, beside that image;
 * each is given out once, and only as the format it was brought for.
 */
struct block_file {
	const char *path, *format;
	int fd; /* -1 once taken */
};
struct block_files {
	struct block_file *files;
	unsigned count;
};
/* The open() of an opener whose ctx is a struct block_files. */
int block_files_open(void *ctx, const char *base, const char *name,
                     const char *format, bool writable, struct error *err);

struct block_open {
	const char *path;   /* for messages */
	int fd;             /* open descriptor, taken over; -1: open path */
	const char *format; /* "raw", "qcow2"; never probed; NULL is raw */
	unsigned flags;
	/* NULL: an image that needs a further file is refused. */
	const struct block_opener *opener;
	u64 cache_bytes; /* of metadata; 0: the format's own choice */
};

/*
 * Open and lock an image: shared for reading, exclusive for writing (open
 * file description locks), so that -EBUSY says another process has it.
 */
int block_open(struct block **out, const struct block_open *how,
               struct error *err) MUST_CHECK;
/* Waits for requests under way; flushes a writable one. NULL is legal. */
void block_close(struct block *b);

void block_info(const struct block *b, struct block_info *info);
/* True: the request is over, which its flags have to allow. */
bool block_submit(struct block *b, struct block_request *req);

/* Is there nothing that a flush would have to do? Any thread; never waits. */
bool block_is_flushed(struct block *b);

/* One request, waited for. Not from a completion. 0 or -errno. */
int block_sync(struct block *b, enum block_op op, u64 offset, void *buf,
               u64 length);
int block_sync_flags(struct block *b, enum block_op op, unsigned flags,
                     u64 offset, void *buf, u64 length);
/* Wait until no request is under way; new ones may follow. */
void block_drain(struct block *b);
/*
 * Stop a request that has not begun: true, and it completes with -ECANCELED
 * (from another thread, as ever); false: it runs to its own end. The request
 * must not have completed yet.
 */
bool block_cancel(struct block *b, struct block_request *req);

/*
 * Change the size while in use: waits for requests under way. The caller
 * sees that none is submitted meanwhile. New space reads as zeroes.
 */
int block_resize(struct block *b, u64 size, struct error *err) MUST_CHECK;

/*
 * What happened to its file behind its back, in words, as far as can be told:
 * the file was deleted or replaced, is shorter than it was, or has damage that
 * was met since. NULL: nothing.
 */
const char *block_lost(struct block *b);

/*
 * A disk that nobody uses for a while gives back memory that it can do without:
 * what it has read of its tables, which it reads again. Never waits; does
 * nothing where others are at work.
 */
void block_let_go(struct block *b);

/* What a range is made of, as far as the format knows. */
enum {
	BLOCK_EXTENT_DATA = 1 << 0, /* else nothing is stored here */
	BLOCK_EXTENT_ZERO = 1 << 1, /* reads as zeroes */
	BLOCK_EXTENT_COMPRESSED = 1 << 2,
	BLOCK_EXTENT_MAPPED = 1 << 3, /* host_offset is valid */
};
struct block_extent {
	u64 length; /* from the offset asked for; never 0 */
	unsigned flags;
	unsigned depth;  /* 0: this image; 1: its backing file; ... */
	u64 host_offset; /* in the file that holds it */
};
/*
 * The first extent of [offset, offset + length), which lies inside the disk.
 * Advisory while requests are under way. Blocks; not from a completion.
 */
int block_map(struct block *b, u64 offset, u64 length,
              struct block_extent *extent) MUST_CHECK;
