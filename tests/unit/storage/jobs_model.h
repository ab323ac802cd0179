/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs_model.h - a guest that writes while its disk is changed below it.
 *
 * The disk is a chain of recorders (recorder.h): base, middle, top, and a few
 * more for snapshots, copies and backups. The model knows which write every
 * sector holds, and what a cut of the power may leave.
 */
#pragma once

#include "base/types.h"
#include "storage/jobs.h"

enum jobs_work {
	WORK_SNAPSHOT,
	WORK_COMMIT_BELOW, /* middle into base */
	WORK_COMMIT_TOP,   /* top into middle */
	WORK_COMMIT_ALL,   /* top and middle into base */
	WORK_MIRROR,
	WORK_BACKUP,       /* all of it */
	WORK_INCREMENTAL,  /* what a bitmap says, on top of an earlier backup */
	WORK_REBASE_LAYER, /* top onto base, without middle */
	WORK_REBASE_OTHER, /* top onto an image that holds something else */
	WORK_REBASE_ALONE, /* top onto nothing */
	WORKS,
};

struct jobs_options {
	enum jobs_work work;
	u32 seed;
	bool raw_base;
	bool cut;    /* the power, at some moment */
	bool cancel; /* the job, at some moment */
	bool fail;   /* what the job writes to */
	/* The guest writes faster than the job may copy, until that is over;
	 * what is to happen does when its writes go to both. */
	bool busy;
};

struct jobs_figures {
	u64 requests, done, cancelled, failed, cuts;
	u64 both; /* jobs that let writes go to both */
};

/* Fails the cmocka test on any difference. */
void jobs_model_run(const struct jobs_options *options,
                    struct jobs_figures *figures);
