/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.h - on which thread a raw disk's requests are done.
 *
 * Two backends with one behaviour: io_uring where the host has it, a pool of
 * threads where it has not. Both make all their threads when created, so that
 * a sandbox set up later need not allow new ones.
 */
#pragma once

#include "storage/block.h"

struct io {
	/* Takes valid requests of one raw disk. */
	void (*submit)(struct io *io, struct block_request *req);
	/* Take back a request that has not begun. */
	bool (*cancel)(struct io *io, struct block_request *req);
	/* Nothing is under way. Ends the threads. */
	void (*destroy)(struct io *io);
};

/* 0 or -errno, when the host refuses. */
int io_threads_create(struct io **out, unsigned threads) MUST_CHECK;
int io_uring_create(struct io **out) MUST_CHECK;
