/* SPDX-License-Identifier: Apache-2.0 */
/*
 * works - the list of long work, and what has to be written down for it.
 *
 * When another image takes a disk's place, whoever started the machine has to
 * make the disk's path lead to it (control/record.h), while the disk stands
 * still. The work's thread asks for that itself, on a socket of its own: the
 * loop's thread may be waiting for that disk. If the starter goes away
 * meanwhile, nobody knows whether it did that: then this process ends on the
 * spot, for both images are whole, and hold the same.
 */
#include "vm/works.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/end.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/thread.h"
#include "control/control.h"
#include "storage/nbd.h"
#include "vm/config.h"
#include "vm/session.h"

enum { STACK_BYTES = 256 * 1024, ROUND_MS = 20 };

struct works {
	struct loop *loop;
	struct vm_config *config;
	struct machine *machine;
	struct work list[WORKS_MAX];
	u64 last_id;
	pthread_mutex_t talks; /* who has it may use config->records_fd */
};

struct works *works_create(struct loop *loop, struct vm_config *config,
                           struct machine *machine)
{
	struct works *w = xalloc(sizeof(*w));

	w->loop = loop;
	w->config = config;
	w->machine = machine;
	pthread_mutex_init(&w->talks, NULL);
	return w;
}

/* ---- what is to be written down ---- */

static int talk(int fd, const struct work *work)
{
	json_t *message = json_pack("{s:i,s:s}", "disk", (int)work->disk,
	                            "name", work->record),
	       *answer;
	int fds[CONTROL_FDS_MAX];
	json_int_t result;
	size_t count = 0;

	if (control_send(fd, message, NULL, 0, NULL) < 0 ||
	    control_receive(fd, &answer, fds, CONTROL_FDS_MAX, &count, NULL) <
	        0)
		_exit(END_QUIT);
	json_decref(message);
	while (count)
		close(fds[--count]);
	result = json_integer_value(json_object_get(answer, "result"));
	json_decref(answer);
	return result < 0 && result > -4096 ? (int)result : 0;
}

/* On the work's thread, while the disk stands still. */
static int write_down(void *ctx)
{
	struct work *work = ctx;
	struct works *w = work->works;
	int rc;

	if (!work->record[0])
		return 0;
	if (w->config->records_fd < 0)
		return -EPERM;
	pthread_mutex_lock(&w->talks);
	rc = talk(w->config->records_fd, work);
	pthread_mutex_unlock(&w->talks);
	return rc;
}

/* ---- the list ---- */

static bool over(const struct work *work)
{
	return work->state >= JOB_DONE;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void works_drop(struct work *work)
{
	nbd_server_stop(work->server);
	block_close(work->point);
	job_destroy(work->job);
	if (work->threaded)
		pthread_join(work->thread, NULL);
	block_close(work->overlay);
	close_fd(&work->image_fd);
	close_fd(&work->base_fd);
	close_fd(&work->above_fd);
	free(work->base_path);
	free(work->base_format);
	free(work->above_path);
	free(work->path);
	free(work->err);
	*work = (struct work){ .id = 0 };
}

struct work *works_add(struct works *w, unsigned disk, const char *kind,
                       const char *path)
{
	struct work *at = NULL;

	/* A free place, or that of the one which was over first. */
	for (struct work *e = w->list; e < w->list + WORKS_MAX; e++)
		if (!e->id || (over(e) && (!at || (at->id && e->id < at->id))))
			at = e;
	if (!at)
		return NULL;
	if (at->id)
		works_drop(at);
	*at = (struct work){
		.works = w,
		.id = ++w->last_id,
		.disk = disk,
		.kind = kind,
		.path = path ? xstrdup(path) : NULL,
		.image_fd = -1,
		.base_fd = -1,
		.above_fd = -1,
		.live = machine_disk(w->machine, disk),
	};
	return at;
}

struct work *works_find(struct works *w, u64 id)
{
	for (struct work *e = w->list; e < w->list + WORKS_MAX; e++)
		if (id && e->id == id)
			return e;
	return NULL;
}

bool works_busy(const struct works *w, unsigned disk)
{
	for (const struct work *e = w->list; e < w->list + WORKS_MAX; e++)
		if (e->id && e->disk == disk && !over(e) && !e->server)
			return true;
	return false;
}

/* ---- one work ---- */

/* It is over: what the disk's file is now is for who saves the machine; what
 * was merged or copied is held open no more, for it may have been deleted. */
static void settle(struct work *work)
{
	int *fd = &work->works->config->disk_fds[work->disk];

	if (work->state == JOB_DONE && work->rebases)
		vm_config_rebase_disk(work->works->config, work->disk,
		                      work->layer);
	if (work->state == JOB_DONE && work->image_fd >= 0) {
		close_fd(fd);
		*fd = work->image_fd;
		work->image_fd = -1;
	}
	if (!over(work))
		return;
	close_fd(&work->image_fd);
	close_fd(&work->base_fd);
	close_fd(&work->above_fd);
}

/* How far it is; one that has caught up is told what comes then. */
static void look(struct work *work)
{
	struct job_status s;

	if (over(work) || !work->job)
		return;
	job_status(work->job, &s);
	work->state = s.state;
	if (s.state == JOB_READY && work->then != WORK_STAY)
		(void)job_complete(work->job, work->then == WORK_PIVOT);
	settle(work);
}

static void look_at_all(void *ctx)
{
	struct works *w = ctx;

	for (struct work *e = w->list; e < w->list + WORKS_MAX; e++)
		if (e->id)
			look(e);
}

static void job_changed(void *ctx)
{
	struct work *work = ctx;

	loop_post(work->works->loop, look_at_all, work->works);
}

struct job_options work_options(struct work *work)
{
	return (struct job_options){
		.rate = work->rate,
		.changed = job_changed,
		.ctx = work,
		.record = { write_down, work },
	};
}

void work_begun(struct work *work)
{
	look(work);
}

static void snapshot_over(void *ctx)
{
	struct work *work = ctx;

	pthread_join(work->thread, NULL);
	work->threaded = false;
	work->state = work->overlay ? JOB_FAILED : JOB_DONE;
	block_close(work->overlay);
	work->overlay = NULL;
	settle(work);
}

static void *snapshot_thread(void *arg)
{
	struct work *work = arg;
	const struct live_record record = { write_down, work };

	if (live_snapshot(work->live, work->overlay, &record, work->err) == 0)
		work->overlay = NULL;
	atomic_store(&work->returned, true);
	loop_post(work->works->loop, snapshot_over, work);
	return NULL;
}

int work_snapshot(struct work *work, struct error *err)
{
	int rc;

	work->err = xalloc(sizeof(*work->err));
	rc = thread_start(&work->thread, STACK_BYTES, snapshot_thread, work);
	work->threaded = rc == 0;
	return rc < 0 ? error_set(err, rc, "no thread for a snapshot") : 0;
}

static const char *state_name(const struct work *work)
{
	static const char *const names[] = {
		[JOB_RUNNING] = "running",     [JOB_READY] = "ready",
		[JOB_DONE] = "done",           [JOB_FAILED] = "failed",
		[JOB_CANCELLED] = "cancelled",
	};

	return names[work->state];
}

json_t *work_json(struct work *work)
{
	struct job_status s = { .words = "" };
	json_t *json;

	look(work);
	if (work->job)
		job_status(work->job, &s);
	else if (work->state == JOB_FAILED)
		snprintf(s.words, sizeof(s.words), "%.255s", work->err->text);
	json = json_pack("{s:I,s:i,s:s,s:s,s:I,s:I,s:I,s:b,s:s?}", "job",
	                 (json_int_t)work->id, "disk", (int)work->disk, "kind",
	                 work->kind, "state", state_name(work), "done",
	                 (json_int_t)s.done, "total", (json_int_t)s.total,
	                 "rate", (json_int_t)work->rate, "both", s.both, "path",
	                 work->path);
	if (work->state == JOB_FAILED)
		json_object_set_new(json, "words", session_words(s.words));
	if (work->state == JOB_FAILED && !work->job)
		json_object_set_new(json, "code",
		                    json_integer(work->err->code));
	if (work->server) {
		unsigned now = 0;
		u64 ever = 0;

		nbd_server_clients(work->server, &now, &ever);
		json_object_set_new(json, "clients", json_integer(now));
		json_object_set_new(json, "clients_ever",
		                    json_integer((json_int_t)ever));
	}
	return json;
}

json_t *works_list(struct works *w)
{
	json_t *list = json_array();

	/* In the order of their beginning. */
	for (u64 id = w->last_id < 4 * WORKS_MAX ? 1
	                                         : w->last_id - 4 * WORKS_MAX;
	     id <= w->last_id; id++)
		if (works_find(w, id))
			json_array_append_new(list,
			                      work_json(works_find(w, id)));
	return list;
}

void work_cancel(struct work *work)
{
	if (over(work))
		return;
	if (work->job)
		job_cancel(work->job);
	if (!work->server)
		return;
	nbd_server_stop(work->server);
	work->server = NULL;
	block_close(work->point);
	work->point = NULL;
	work->state = JOB_CANCELLED;
}

/* It is past its last step, or one piece away from being cancelled. */
bool works_yield(struct works *w, unsigned disk)
{
	bool any = false;

	for (struct work *e = w->list; e < w->list + WORKS_MAX; e++) {
		if (!e->id || e->disk != disk || !e->yields || over(e))
			continue;
		job_cancel(e->job);
		job_wait_end(e->job, -1);
		look(e);
		any = true;
	}
	return any;
}

void works_left(struct works *w, u64 asker)
{
	for (struct work *e = w->list; e < w->list + WORKS_MAX; e++)
		if (e->id && e->server && e->asker == asker)
			work_cancel(e);
}

/* ---- the end ---- */

static void end_one(struct work *work)
{
	work_cancel(work);
	if (work->job)
		job_wait_end(work->job, -1);
	works_drop(work);
}

void works_end(struct works *w)
{
	if (!w)
		return;
	for (struct work *e = w->list; e < w->list + WORKS_MAX; e++)
		if (e->id)
			end_one(e);
}

void works_destroy(struct works *w)
{
	if (!w)
		return;
	pthread_mutex_destroy(&w->talks);
	free(w);
}
