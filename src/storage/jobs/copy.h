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

int job_copy_range(struct job *j, const struct job_copy *c, u64 offset,
                   u64 length, struct error *err);
int job_flush(struct job *j, struct block *to, struct error *err);
/* The whole of from, with figures and rate. */
int job_copy_all(struct job *j, const struct job_copy *c, struct error *err);
/*
 * The same, of a disk that is written to meanwhile, and then whatever has been
 * written since, until job_complete() is asked for and little is left. It gets
 * there whatever the guest does: in at most three times as long as the rate
 * needs for the disk's size.
 */
int job_follow(struct job *j, const struct job_copy *c, struct error *err);
/* Paused: what is left. */
int job_follow_last(struct job *j, const struct job_copy *c, struct error *err);
