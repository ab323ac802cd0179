/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs.h - long work on a live disk (live.h) while its user goes on.
 *
 * One job a disk at a time; each has a thread of its own. Any thread may
 * call. A job ends by itself, or when cancelled; then job_destroy().
 */
#pragma once

#include "storage/live.h"

struct job;

enum job_state {
	JOB_RUNNING,
	JOB_READY, /* mirror, commit of the top: caught up, and keeps up;
	            * job_complete() ends it */
	JOB_DONE,
	JOB_FAILED,
	JOB_CANCELLED,
};

struct job_status {
	const char *kind; /* "commit", "mirror", "backup", "rebase" */
	enum job_state state;
	u64 done, total; /* bytes; total may grow while the guest writes */
	bool both;       /* so that it ends, writes wait for the job's copy */
	int result;      /* JOB_FAILED: -errno */
	char words[256]; /* and why */
};

struct job_options {
	u64 rate; /* bytes a second; 0: no limit */
	/* At every change of state, on the job's thread: no calls of this
	 * room from it but job_status(). */
	void (*changed)(void *ctx);
	void *ctx;
	/* For what changes the disk itself; see live.h. */
	struct live_record record;
};

/* Opens the base of a chain anew, for writing, IMAGE_OPEN_NO_BACKING, when
 * the lock that its reader held has been dropped. */
struct job_base {
	int (*open)(void *ctx, struct block **out, struct error *err);
	/* The same for the image above those that go down; only if from is 2
	 * or more. */
	int (*open_above)(void *ctx, struct block **out, struct error *err);
	void *ctx;
	/* What the image that will lie on it is to call it. */
	const char *name, *format;
};

/*
 * Merge images of the chain into the one below them. from: the first of them
 * (0: the top: the base becomes the disk; else the one above then names the
 * base). count: how many images go down and are left out of the chain.
 */
int job_commit(struct job **out, struct block *live, unsigned from,
               unsigned count, const struct job_base *base,
               const struct job_options *options, struct error *err) MUST_CHECK;

/*
 * Copy to target, open for writing and of at least the disk's size, and keep
 * it the same. blank: it reads as zeroes. job_complete() with pivot: the
 * target becomes the disk, and the old image is closed; without: it is closed
 * as the copy of that moment. Taken over if this succeeds.
 */
int job_mirror(struct job **out, struct block *live, struct block *target,
               bool blank, const struct job_options *options,
               struct error *err) MUST_CHECK;

/*
 * Copy what the disk holds at this moment to target (as for job_mirror).
 * bitmap: only what that bitmap of the disk's qcow2 image says has changed;
 * it begins anew at the same moment. Should the job not end well, all is
 * marked again. scratch: see point_open(); -1: closed over, the job fails
 * when it would need it.
 */
int job_backup(struct job **out, struct block *live, struct block *target,
               bool blank, const char *bitmap, int scratch,
               const struct job_options *options, struct error *err) MUST_CHECK;

/*
 * Have the disk's qcow2 image lie on another one, or on none; what it shows
 * stays the same, for what would differ is written into it.
 */
struct job_rebase {
	unsigned layer; /* an image of the present chain: 2 is the one below
	                 * that it lies on now; 0: none of them */
	/* Else one that was opened read-only with all that it lies on; taken
	 * over if this succeeds. NULL: none at all. */
	struct block *backing;
	const char *name, *format; /* as the header is to have it */
};
int job_rebase(struct job **out, struct block *live,
               const struct job_rebase *how, const struct job_options *options,
               struct error *err) MUST_CHECK;

void job_status(struct job *job, struct job_status *out);
void job_set_rate(struct job *job, u64 rate);
/* Asks; job_wait() tells when it happened. A job about to end may do so. */
void job_cancel(struct job *job);
/* -EAGAIN unless JOB_READY. job_wait() tells when it has happened. */
int job_complete(struct job *job, bool pivot);
/* Waits until it is ready or over, or for timeout_ms (-1: for ever). */
enum job_state job_wait(struct job *job, int timeout_ms);
enum job_state job_wait_end(struct job *job, int timeout_ms);
/* Cancels it if need be, and waits. NULL is legal. */
void job_destroy(struct job *job);
