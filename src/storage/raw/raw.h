/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.h - a plain file or a host block device as a disk.
 *
 * raw.c opens and closes; transfer.c knows how one request becomes system
 * calls; an io backend (uring.c or threads.c) decides on which thread.
 */
#pragma once

#include <stdatomic.h>

#include "storage/core/driver.h"

struct io;

struct raw {
	struct block block;
	struct io *io;
	int fd;
	bool device;   /* a block device, not a file */
	bool direct;   /* O_DIRECT: buffers aligned to mem_align */
	bool no_flush; /* flushes and FUA mean nothing */
	bool no_lock;  /* somebody else's affair */
	u32 mem_align;
	bool in_memory; /* its file system is nowhere else: tmpfs */
	bool named;     /* the file had a name when it was opened */
	/* Bytes that the file has at least: reads before that must succeed,
	 * and a file that is shorter was cut behind our back. */
	_Atomic u64 length;
	/* Changes that are over, and how many of those a flush has made
	 * durable. */
	_Atomic u64 changes, flushed;
	/* Of a flush in raw_now(), and not told to anybody yet: the kernel says
	 * it once. 0 or -errno. */
	_Atomic int flush_failed;
	/* What the file system turned out not to have. */
	_Atomic bool no_punch, no_zero_range;
	/* What is done inside submit; see raw_now(). */
	_Atomic bool no_nowait;
	_Atomic u32 skip_now;
	_Atomic u64 queue_until_ns; /* writes */
};

/* Unbounded: grows as written, for formats that keep their tables in it. */
enum { RAW_UNBOUNDED = 1 << 16 };

/* how->format is not looked at; RAW_ flags may be added to how->flags. */
int raw_open(struct block **out, const struct block_open *how,
             struct error *err) MUST_CHECK;

/* A file's contents, shared with those of `to`, an empty file on the same file
 * system. No request is under way. -EOPNOTSUPP if b is no raw file, or the file
 * system can't. */
int raw_share(struct block *b, int to) MUST_CHECK;
/* The same with another one; what it held, or had reserved, is gone. */
int raw_share_with(struct block *b, struct block *to) MUST_CHECK;

/* Of one request, in driver_private from BLOCK_PRIVATE_FRONT on. */
struct raw_state {
	struct block_request *next; /* in a backend's queue */
	u64 done;                   /* bytes; of a flush: changes it covers */
	struct iovec *iov;          /* our own vector, where one is needed */
	u8 *bounce;                 /* aligned copy of the data */
	int posted;                 /* result, if only to be completed */
	bool post;
};

static inline struct raw *raw_of(const struct block_request *req)
{
	return req->driver_private[0];
}

static inline struct raw_state *raw_state(struct block_request *req)
{
	_Static_assert(sizeof(struct raw_state) <=
	                   sizeof(req->driver_private) -
	                       BLOCK_PRIVATE_FRONT * sizeof(void *),
	               "the state fits in the request");
	return (struct raw_state *)(void *)&req
	    ->driver_private[BLOCK_PRIVATE_FRONT];
}

/* Is the file shorter than it was? */
bool raw_cut_short(const struct raw *raw);
/* Has a flush nothing to do? *changes: how many one that begins now covers. */
bool raw_is_flushed(struct raw *raw, u64 *changes);
/* A flush: if an earlier one failed unheard, this one is to say so. */
void raw_take_failure(struct block_request *req);
/* Ready a read or write; makes an aligned copy where the file needs it. */
int raw_begin(struct block_request *req);
/* The vector of what is left to transfer. 0 or -ENOMEM. */
int raw_remaining(struct block_request *req, const struct iovec **iov,
                  int *count);
/* A transfer call returned n (bytes or -errno): 1: go on; 0: complete;
 * or -errno. */
int raw_step(struct block_request *req, s64 n);
/* Free what raw_begin made and complete the request. */
void raw_finish(struct block_request *req, int result);
/* The driver's now(). */
bool raw_now(struct block *b, const struct block_io *io);
/* All of it, on this thread, blocking; completes the request. */
void raw_perform(struct block_request *req);
