/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job - what all long work shares: a thread, figures, a rate, an end.
 */
#include "storage/jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/thread.h"
#include "storage/jobs/internal.h"

enum { STACK_BYTES = 256 * 1024 };

/* Lock held. False: the time is over. */
static bool wait_until(struct job *j, u64 at_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(at_ns / NSEC_PER_SEC),
		               .tv_nsec = (long)(at_ns % NSEC_PER_SEC) };

	return pthread_cond_timedwait(&j->changed, &j->lock, &ts) == 0;
}

struct job *job_make(const char *kind, struct live *live,
                     const struct job_options *options)
{
	struct job *j = xalloc(sizeof(*j));
	pthread_condattr_t attr;

	j->kind = kind;
	j->live = live;
	if (options)
		j->options = *options;
	j->rate = j->options.rate;
	j->allowed_ns = loop_now_ns();
	pthread_mutex_init(&j->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&j->changed, &attr);
	pthread_condattr_destroy(&attr);
	return j;
}

void job_close_target(struct job *j, bool ok)
{
	(void)ok;
	block_close(j->target);
	j->target = NULL;
}

void job_free(struct job *j)
{
	pthread_cond_destroy(&j->changed);
	pthread_mutex_destroy(&j->lock);
	free(j->buf);
	free((void *)(uintptr_t)j->wanted);
	free(j->bitmap);
	free((void *)(uintptr_t)j->base.name);
	free((void *)(uintptr_t)j->base.format);
	free(j);
}

static void set_state(struct job *j, enum job_state state)
{
	pthread_mutex_lock(&j->lock);
	j->state = state;
	pthread_cond_broadcast(&j->changed);
	pthread_mutex_unlock(&j->lock);
	if (j->options.changed)
		j->options.changed(j->options.ctx);
}

static void *job_thread(void *arg)
{
	struct job *j = arg;
	struct error err = { 0 };
	int rc = j->run(j, &err);

	job_untrack(j);
	j->fini(j, rc == 0);
	live_release(j->live);
	if (rc < 0 && rc != -ECANCELED) {
		pthread_mutex_lock(&j->lock);
		j->err = err;
		j->err.code = rc;
		pthread_mutex_unlock(&j->lock);
	}
	set_state(j, rc == 0            ? JOB_DONE
	             : rc == -ECANCELED ? JOB_CANCELLED
	                                : JOB_FAILED);
	return NULL;
}

int job_start(struct job **out, struct job *j, struct error *err)
{
	int rc;

	if (posix_memalign((void **)&j->buf, 4096, JOB_BUFFER) != 0) {
		j->buf = NULL;
		return error_set(err, -ENOMEM, "out of memory");
	}
	*out = j;
	rc = thread_start(&j->thread, STACK_BYTES, job_thread, j);
	return rc ? error_set(err, rc, "no thread for a job") : 0;
}

/* ---- for the work ---- */

int job_failed(struct error *err, int rc, const char *what, u64 offset)
{
	return error_set(err, rc, "%s at %" PRIu64 ": %s", what, offset,
	                 strerror(-rc));
}

void job_set_total(struct job *j, u64 total)
{
	pthread_mutex_lock(&j->lock);
	j->total = total;
	pthread_mutex_unlock(&j->lock);
}

/* Lock held. What the rate has allowed since; a tenth of a second's worth is
 * the most that it saves up. */
static void allow(struct job *j)
{
	u64 now = loop_now_ns();
	double rate = (double)j->rate;

	j->allowance += rate * (double)(now - j->allowed_ns) / 1e9;
	j->allowance = MIN(j->allowance, rate / 10);
	j->allowed_ns = now;
}

/* Lock held: done, and no more left. */
static void account(struct job *j, u64 length)
{
	j->done += length;
	if (!j->total)
		atomic_fetch_sub(&j->left, length);
}

void job_copied(struct job *j, u64 length)
{
	pthread_mutex_lock(&j->lock);
	account(j, length);
	pthread_mutex_unlock(&j->lock);
}

int job_step(struct job *j, u64 length)
{
	bool wait;
	int rc;

	pthread_mutex_lock(&j->lock);
	account(j, length);
	allow(j);
	if (j->rate)
		j->allowance -= (double)j->cost;
	j->cost = 0;
	while ((wait = !j->cancel && j->rate && j->allowance < 0) && !j->kept) {
		double s = -j->allowance / (double)j->rate;

		wait_until(j, loop_now_ns() + (u64)(s * 1e9) + 1);
		allow(j);
	}
	rc = j->cancel ? -ECANCELED : wait ? -EAGAIN : 0;
	pthread_mutex_unlock(&j->lock);
	return rc;
}

int job_ready(struct job *j, int wait_ms)
{
	u64 end = loop_now_ns() + (u64)wait_ms * (NSEC_PER_SEC / 1000);
	bool announce;
	int rc;

	pthread_mutex_lock(&j->lock);
	announce = j->state != JOB_READY;
	pthread_mutex_unlock(&j->lock);
	if (announce)
		set_state(j, JOB_READY);
	pthread_mutex_lock(&j->lock);
	while (!j->cancel && !j->complete && !j->kept)
		if (!wait_until(j, end))
			break;
	rc = j->cancel ? -ECANCELED : j->complete ? 0 : -EAGAIN;
	pthread_mutex_unlock(&j->lock);
	return rc;
}

bool job_cancelled(struct job *j)
{
	bool cancelled;

	pthread_mutex_lock(&j->lock);
	cancelled = j->cancel;
	pthread_mutex_unlock(&j->lock);
	return cancelled;
}

int job_finish(struct job *j)
{
	int rc;

	pthread_mutex_lock(&j->lock);
	rc = j->cancel ? -ECANCELED : 0;
	j->finishing = rc == 0;
	pthread_mutex_unlock(&j->lock);
	return rc;
}

/* ---- for those who watch ---- */

void job_status(struct job *j, struct job_status *out)
{
	pthread_mutex_lock(&j->lock);
	*out = (struct job_status){
		.kind = j->kind,
		.state = j->state,
		.done = j->done,
		.total = j->total ? j->total : j->done + j->left,
		.both = j->both,
		.result = j->state == JOB_FAILED ? j->err.code : 0,
	};
	if (j->state == JOB_FAILED)
		snprintf(out->words, sizeof(out->words), "%.255s", j->err.text);
	pthread_mutex_unlock(&j->lock);
}

void job_set_rate(struct job *j, u64 rate)
{
	pthread_mutex_lock(&j->lock);
	allow(j);
	j->rate = rate;
	j->allowance = MIN(j->allowance, 0);
	pthread_cond_broadcast(&j->changed);
	pthread_mutex_unlock(&j->lock);
}

void job_cancel(struct job *j)
{
	pthread_mutex_lock(&j->lock);
	j->cancel = !j->finishing;
	pthread_cond_broadcast(&j->changed);
	pthread_mutex_unlock(&j->lock);
}

int job_complete(struct job *j, bool pivot)
{
	int rc;

	pthread_mutex_lock(&j->lock);
	rc = j->state == JOB_READY && !j->complete ? 0 : -EAGAIN;
	if (rc == 0) {
		j->complete = true;
		j->pivot = pivot;
		pthread_cond_broadcast(&j->changed);
	}
	pthread_mutex_unlock(&j->lock);
	return rc;
}

static enum job_state wait_for(struct job *j, enum job_state least,
                               int timeout_ms)
{
	u64 end =
	    loop_now_ns() + (u64)MAX(timeout_ms, 0) * (NSEC_PER_SEC / 1000);
	enum job_state state;

	pthread_mutex_lock(&j->lock);
	while (j->state < least)
		if (timeout_ms < 0)
			pthread_cond_wait(&j->changed, &j->lock);
		else if (!wait_until(j, end))
			break;
	state = j->state;
	pthread_mutex_unlock(&j->lock);
	return state;
}

enum job_state job_wait(struct job *j, int timeout_ms)
{
	return wait_for(j, JOB_READY, timeout_ms);
}

enum job_state job_wait_end(struct job *j, int timeout_ms)
{
	return wait_for(j, JOB_DONE, timeout_ms);
}

void job_destroy(struct job *j)
{
	if (!j)
		return;
	job_cancel(j);
	pthread_join(j->thread, NULL);
	job_free(j);
}
