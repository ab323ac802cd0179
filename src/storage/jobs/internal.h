/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - a live disk, its points and its job, as this folder shares
 * them.
 *
 * Lock order: a live disk's lock, then a point's or a job's. None is held
 * across I/O.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/error.h"
#include "storage/core/driver.h"
#include "storage/jobs.h"

/* What points copy and jobs repeat, at once: a granule. */
#define GRANULE ((u64)64 * KIB)

struct live {
	struct block block;
	struct block *under; /* owned; changes only while paused */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under lock. */
	unsigned paused;
	u64 below; /* requests that have got past the pause */
	struct block_request *held, **held_tail; /* by the pause */
	struct block_request *slow, **slow_tail; /* for our thread */
	bool stop, busy; /* busy: a job, or a change of the chain */
	struct point *points;
	struct job *follower; /* a job that copies what is written, or NULL */
	struct block_request *kept, **kept_tail; /* writes that wait for it */
	bool threaded;
	pthread_rwlock_t graph; /* block_map() against changes of under */
	pthread_t thread;       /* for points, and what is completed here */
};

/* What a live disk knows of a request, in its private words. */
struct live_request {
	struct block_request *next;
	struct block_request *passed; /* the copy that goes below */
	int result;
	bool over; /* with that result: it only has to be completed */
};
struct live_request *live_request_of(struct block_request *req);

struct live *live_of(struct block *b);
/* -EINVAL with words unless it is a live disk that nothing else works on;
 * then it is taken until live_release(). */
int live_claim(struct block *b, struct live **out, struct error *err);
void live_release(struct live *l);
/* Its thread, which is made when there is need of it. 0 or -errno. */
int live_need_thread(struct live *l);
/* Hold everything back, and wait until nothing is under way below. */
void live_pause(struct live *l);
void live_resume(struct live *l);
/* A request of our own past the live disk, counted like the guest's. */
int live_read_under(struct live *l, u64 offset, void *buf, u64 length);
/* Paused: the image below changes. The old one is the caller's. */
struct block *live_replace(struct live *l, struct block *under);

/* The bitmaps that record go on in another image, if it can have any. */
int live_move_bitmaps(struct block *from, struct block *to, struct error *err);

/* point.c; with the live disk's lock held */
bool points_want(struct live *l, const struct block_request *req);
/* Without it, on the live disk's thread: copy what req will overwrite. */
void points_copy(struct live *l, const struct block_request *req);
/* These contents are not needed (any more). */
void point_release(struct block *b, u64 offset, u64 length);
bool point_failed(struct block *b);
/* point_open() while the live disk is paused; scratch -1: none. */
int point_open_paused(struct block **out, struct live *l, int scratch,
                      struct error *err);

/* job.c: what the three kinds of work are made of */
struct job {
	const char *kind;
	struct live *live;
	struct job_options options;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under lock. */
	enum job_state state;
	u64 done, rate;
	u64 total;        /* 0: what is done, and what is left */
	double allowance; /* bytes, of the rate */
	u64 allowed_ns;
	bool cancel, complete, pivot, finishing;
	bool kept; /* a write waits for us */
	struct error err;

	/* The work: runs on the thread, returns 0 or -errno and words. */
	int (*run)(struct job *j, struct error *err);
	/* Gives back what the job holds; also if run was never called. */
	void (*fini)(struct job *j, bool ok);

	u8 *buf;            /* GRANULE * 16 */
	u64 unflushed;      /* bytes that were copied since the last flush */
	u64 cost;           /* bytes of those that the rate has not heard of */
	_Atomic u64 *dirty; /* a bit a granule: to be copied, or again */
	_Atomic u64 left;   /* bytes of those, and of what is being copied */
	_Atomic bool both;  /* changed under the live disk's lock */
	u64 granules, bytes;
	struct block *target; /* mirror, backup; commit: the base */
	bool blank;
	struct block *point;  /* backup */
	_Atomic u64 *wanted;  /* backup: granules to copy, or NULL */
	char *bitmap;         /* backup */
	unsigned from, count; /* commit; rebase: from is the layer */
	struct job_base base; /* commit, rebase; strings owned */
};

#define JOB_BUFFER (16 * GRANULE)
enum { JOB_SKIP = 256 }; /* that part of what is passed over is a cost */

struct job *job_make(const char *kind, struct live *live,
                     const struct job_options *options);
int job_start(struct job **out, struct job *j, struct error *err);
void job_free(struct job *j);
/* A fini: the target is the job's own. */
void job_close_target(struct job *j, bool ok);
/* After length bytes more: account, wait until the rate allows what j->cost
 * says that they were. -ECANCELED; -EAGAIN: a write waits for us, and
 * job_step() of nothing goes on waiting. */
int job_step(struct job *j, u64 length);
void job_set_total(struct job *j, u64 total);
bool job_cancelled(struct job *j);
/* Announces ready, and waits for job_complete(); after wait_ms, or when a write
 * waits for us, it returns -EAGAIN to have work done. 0: finish. */
int job_ready(struct job *j, int wait_ms);
/* From here on no cancel: -ECANCELED if one came before. */
int job_finish(struct job *j);
/* Failure in words: what, at offset. Returns rc. */
int job_failed(struct error *err, int rc, const char *what, u64 offset);

/* written.c: what a job that follows the guest has to copy. All of it at first,
 * then what is written. */
int job_track(struct job *j, struct error *err);
/* No more of that; who waits for the job waits no longer. */
void job_untrack(struct job *j);
/* Next granules that are to be copied from *granule on, taken: false if none up
 * to the end. Of one that was copied job_copied() is told. */
bool job_take_dirty(struct job *j, u64 *granule, u64 *count);
void job_copied(struct job *j, u64 length);
/* From now on a write is over when the job has copied it, too. */
void job_write_both(struct job *j);
/* Writes that wait for that, linked, until NULL; and: this one is over. */
struct block_request *job_take_kept(struct job *j);
struct block_request *job_complete_kept(struct block_request *req);
/* With the live disk's lock held. May the next write be done past us? */
bool written_beside(const struct live *l);
/* The same; a write is over, req's if that is not NULL. True: so is not the
 * request, which the job completes. */
bool written(struct live *l, const struct block_io *io,
             struct block_request *req, int result);
