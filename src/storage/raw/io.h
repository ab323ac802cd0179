/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.h - on which thread a raw disk's requests are done.
 *
 * Two backends with one behaviour: io_uring where the host has it, a pool of
 * threads where it has not.
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

struct io *io_threads_create(unsigned threads);
/* 0 or -errno, when the host refuses. */
int io_uring_create(struct io **out) MUST_CHECK;
