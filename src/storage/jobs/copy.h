/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.h - how jobs move data: by the map, in pieces of at most JOB_BUFFER.
 */
#pragma once

#include "storage/jobs/internal.h"

struct job_copy {
	struct block *from, *to;
	bool blank;      /* to reads as zeroes where nothing was written */
	unsigned levels; /* only what the first so many images of from hold */
};

/* length at most JOB_BUFFER. */
int job_copy_range(struct job *j, const struct job_copy *c, u64 offset,
                   u64 length, struct error *err);
/* The whole of from, with figures and rate. */
int job_copy_all(struct job *j, const struct job_copy *c, struct error *err);
/* Whatever has been written to since; until little is left, or once. */
int job_copy_dirty(struct job *j, const struct job_copy *c, bool once,
                   struct error *err);
/* Ready, and keeps up until job_complete(): then 0. */
int job_keep_up(struct job *j, const struct job_copy *c, struct error *err);
