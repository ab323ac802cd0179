/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task - what was asked for and takes a while. Each machine has a queue whose
 * first task runs; so nothing ever fails because something else is under way.
 * What is done with images has one queue of its own.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/backup/schedule.h"
#include "daemon/daemon.h"
#include "daemon/moment/moment.h"
#include "daemon/store.h"

enum { KEPT = 10000 };

static const char *const state_names[] = { "queued", "running", "succeeded",
	                                   "failed", "cancelled" };

const char *task_state_name(enum task_state state)
{
	return state_names[state];
}

static void timer_fired(void *ctx)
{
	struct task *t = ctx;

	if (t->state == TASK_RUNNING)
		t->operation->changed(t);
}

static struct task *make(struct daemon *d, struct vm *vm, const char *kind,
                         json_t *params)
{
	struct task *t = xalloc(sizeof(*t));

	t->daemon = d;
	t->vm = vm;
	t->kind = xstrdup(kind);
	t->params = params;
	t->out = -1;
	t->operation = operation_find(kind);
	loop_timer_init(&t->timer, d->loop, timer_fired, t);
	return t;
}

static struct task **queue_of(const struct task *t)
{
	return t->vm ? &t->vm->queue : &t->daemon->image_queue;
}

/* Written down; NULL, and it is freed. */
static struct task *note(struct task *t, const char *caller,
                         const char *project, struct error *err)
{
	snprintf(t->caller, sizeof(t->caller), "%s", caller);
	snprintf(t->project, sizeof(t->project), "%s", project);
	time_now(t->created);
	if (store_run(t->daemon->store, err,
	              "INSERT INTO tasks(vm_id, vm_name, kind, state, params,"
	              " caller, created, project)"
	              " VALUES(?, ?, ?, 'queued', ?, ?, ?, ?)",
	              "tttjttt", t->vm ? t->vm->id : "",
	              t->vm ? t->vm->name : "", t->kind, t->params, t->caller,
	              t->created, t->project) < 0) {
		task_free(t);
		return NULL;
	}
	t->id = store_last_id(t->daemon->store);
	return t;
}

struct task *task_new(struct vm *vm, const char *kind, json_t *params,
                      const char *caller, struct error *err)
{
	return note(make(vm->daemon, vm, kind, params), caller, vm_project(vm),
	            err);
}

struct task *task_new_image(struct daemon *d, const char *kind, json_t *params,
                            const char *caller, const char *project,
                            struct error *err)
{
	return note(make(d, NULL, kind, params), caller, project, err);
}

void task_free(struct task *t)
{
	if (!t)
		return;
	if (t->vm)
		holder_unask(t->vm, t);
	job_forget(t->job);
	if (t->out >= 0)
		close(t->out);
	loop_timer_fini(&t->timer);
	free(t->kind);
	free(t->words);
	free(t->doubt);
	json_decref(t->params);
	json_decref(t->result);
	json_decref(t->error);
	free(t);
}

void task_free_all(struct daemon *d)
{
	struct task *t;

	while ((t = d->image_queue)) {
		d->image_queue = t->next;
		task_free(t);
	}
}

/* ---- as the API shows it ---- */

static void set_text(json_t *o, const char *key, const char *text)
{
	json_object_set_new(o, key,
	                    text && text[0] ? json_string(text) : json_null());
}

static void set_json(json_t *o, const char *key, json_t *value)
{
	json_object_set_new(o, key, value ? json_incref(value) : json_null());
}

json_t *task_json(const struct task *t)
{
	json_t *o = json_object();

	json_object_set_new(o, "id", json_integer(t->id));
	set_text(o, "kind", t->kind);
	json_object_set_new(o, "vm",
	                    t->vm ? json_pack("{s:s, s:s}", "id", t->vm->id,
	                                      "name", t->vm->name)
	                          : json_null());
	set_text(o, "state", task_state_name(t->state));
	json_object_set_new(o, "progress", json_integer(t->progress));
	set_text(o, "words", t->words);
	json_object_set(o, "params", t->params);
	set_json(o, "result", t->result);
	set_json(o, "error", t->error);
	set_text(o, "caller", t->caller);
	set_text(o, "created", t->created);
	set_text(o, "started", t->started);
	set_text(o, "ended", t->ended);
	set_text(o, "project", t->project);
	return o;
}

json_t *task_row_json(struct row *row)
{
	json_t *o = json_object();

	json_object_set_new(o, "id", json_integer(row_int(row, 0)));
	set_text(o, "kind", row_text(row, 3));
	json_object_set_new(o, "vm",
	                    row_text(row, 1)[0]
	                        ? json_pack("{s:s, s:s}", "id",
	                                    row_text(row, 1), "name",
	                                    row_text(row, 2))
	                        : json_null());
	set_text(o, "state", row_text(row, 4));
	json_object_set_new(o, "progress", json_integer(row_int(row, 6)));
	set_text(o, "words", row_text(row, 7));
	json_object_set_new(o, "params", row_json(row, 5));
	set_text(o, "caller", row_text(row, 10));
	set_text(o, "created", row_text(row, 11));
	set_text(o, "started", row_text(row, 12));
	set_text(o, "ended", row_text(row, 13));
	set_text(o, "project", row_text(row, 14));
	json_object_set_new(o, "result",
	                    row_text(row, 8) ? row_json(row, 8) : json_null());
	json_object_set_new(o, "error",
	                    row_text(row, 9) ? row_json(row, 9) : json_null());
	return o;
}

static int take_row(void *ctx, struct row *row)
{
	*(json_t **)ctx = task_row_json(row);
	return 0;
}

json_t *task_find_json(struct daemon *d, s64 id)
{
	struct task *t = task_find_active(d, id);
	json_t *found = NULL;

	if (t)
		return task_json(t);
	store_query(d->store, take_row, &found, NULL,
	            "SELECT " TASK_COLUMNS " FROM tasks WHERE id = ?", "i", id);
	return found;
}

struct task *task_find_active(struct daemon *d, s64 id)
{
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		for (struct task *t = vm->queue; t; t = t->next)
			if (t->id == id)
				return t;
	for (struct task *t = d->image_queue; t; t = t->next)
		if (t->id == id)
			return t;
	return NULL;
}

/* ---- life ---- */

static void write_down(struct task *t)
{
	struct error err = { 0 };

	if (store_run(t->daemon->store, &err,
	              "UPDATE tasks SET state = ?, progress = ?, words = ?,"
	              " result = ?, error = ?, started = ?, ended = ?"
	              " WHERE id = ?",
	              "titjjtti", task_state_name(t->state), (s64)t->progress,
	              t->words, t->result, t->error,
	              t->started[0] ? t->started : NULL,
	              t->ended[0] ? t->ended : NULL, t->id) < 0)
		log_error("daemon", "task %" PRId64 ": %s", t->id, err.text);
}

static void tell(struct task *t)
{
	json_t *data =
	    json_pack("{s:s, s:s, s:i}", "kind", t->kind, "state",
	              task_state_name(t->state), "progress", t->progress);

	if (t->error)
		json_object_set(data, "error", t->error);
	event_emit_task(t, data);
}

static void forget_old(struct daemon *d, s64 newest)
{
	if (newest % 256 == 0)
		store_run(d->store, NULL,
		          "DELETE FROM tasks WHERE id < ? AND"
		          " state NOT IN ('queued', 'running')",
		          "i", newest - KEPT);
}

static void unlink_task(struct task *t)
{
	struct task **at = queue_of(t);

	while (*at && *at != t)
		at = &(*at)->next;
	if (*at)
		*at = t->next;
}

/* A machine that is out of the registry, with what waited for its turn. */
static void reap(void *ctx)
{
	struct vm *vm = ctx;
	struct task *t;

	while ((t = vm->queue)) {
		vm->queue = t->next;
		t->state = TASK_FAILED;
		time_now(t->ended);
		t->error =
		    error_json("not-found", "the machine was deleted", "");
		write_down(t);
		tell(t);
		if (t->operation->ended)
			t->operation->ended(t);
		streams_task(vm->daemon, t->id);
		task_free(t);
	}
	vm_remove(vm);
	vm_free(vm);
}

static void run_images(struct daemon *d);

static void conclude(struct task *t, enum task_state state)
{
	struct vm *vm = t->vm;
	struct daemon *d = t->daemon;

	t->state = state;
	if (state == TASK_SUCCEEDED)
		t->progress = 100;
	time_now(t->ended);
	d->tasks_done++;
	d->tasks_failed += state == TASK_FAILED;
	write_down(t);
	unlink_task(t);
	tell(t);
	if (t->operation->ended)
		t->operation->ended(t);
	streams_task(d, t->id);
	forget_old(d, t->id);
	backup_schedules_ended(d, t);
	task_free(t);
	if (!vm)
		run_images(d);
	else if (vm->deleted)
		/* Later: whoever called may still look at the machine. */
		loop_post(d->loop, reap, vm);
	else if (vm->queue)
		task_run_queue(vm);
	else
		streams_console(vm); /* one may have waited for this */
}

void task_succeed(struct task *t, json_t *result)
{
	t->result = result;
	conclude(t, TASK_SUCCEEDED);
}

void task_fail(struct task *t, const char *code, const char *words,
               const char *hint)
{
	t->error = error_json(code, words, hint);
	conclude(t, TASK_FAILED);
}

void task_fail_error(struct task *t, const struct error *err)
{
	task_fail(t, error_code_of(err->code), err->text, err->hint);
}

void task_fail_job(struct task *t, const struct error *failed)
{
	task_fail(t, job_code(failed), failed->text, failed->hint);
}

void task_cancelled(struct task *t, const char *words)
{
	t->error = error_json("cancelled", words, "");
	conclude(t, TASK_CANCELLED);
}

void task_arm_ms(struct task *t, u64 ms)
{
	loop_timer_arm(&t->timer, loop_now_ns() + ms * NSEC_PER_MSEC);
}

int task_write_params(struct task *t, struct error *err)
{
	return store_run(t->daemon->store, err,
	                 "UPDATE tasks SET params = ? WHERE id = ?", "ji",
	                 t->params, t->id);
}

void task_progress(struct task *t, int percent, const char *words)
{
	if (t->progress == percent && t->words && strcmp(t->words, words) == 0)
		return;
	t->progress = percent;
	free(t->words);
	t->words = xstrdup(words);
	tell(t);
}

void task_cancel(struct task *t)
{
	if (t->state == TASK_QUEUED) {
		task_cancelled(t, "cancelled before it began");
	} else if (!t->cancelling) {
		t->cancelling = true;
		t->operation->cancel(t);
	}
}

static bool is_one_of(const struct task *t, const char *const *kinds)
{
	while (*kinds && strcmp(*kinds, t->kind))
		kinds++;
	return *kinds != NULL;
}

/* A copy of a disk may take hours, and is carried by a process of its own. */
static bool is_long(const struct task *t)
{
	static const char *const kinds[] = { "backup",      "disk-snapshot",
		                             "disk-commit", "disk-rebase",
		                             "disk-mirror", "disk-backup",
		                             NULL };

	return is_one_of(t, kinds);
}

/* What does not wait for those: it changes nothing that they go by, or ends
 * them with the machine. Not what starts one: their disks are theirs then. */
static bool passes(const struct task *t)
{
	static const char *const kinds[] = { "stop",   "powerdown", "pause",
		                             "resume", "reset",     "kill",
		                             NULL };

	return is_one_of(t, kinds);
}

/* The first one; or the first that passes those before it, if all of them are
 * long ones. */
struct task *task_next_to_run(const struct vm *vm)
{
	struct task *t = vm->queue;

	if (!t || t->state == TASK_QUEUED)
		return t;
	for (; t; t = t->next) {
		if (is_long(t))
			continue;
		return t->state == TASK_QUEUED && passes(t) ? t : NULL;
	}
	return NULL;
}

static void run(struct task *t)
{
	t->state = TASK_RUNNING;
	time_now(t->started);
	write_down(t);
	tell(t);
	t->operation->begin(t);
}

void task_run_queue(struct vm *vm)
{
	struct task *t;

	/* One that begins may end at once. */
	while (!vm->clearing && !vm->deleted && !vm->arriving &&
	       (t = task_next_to_run(vm)))
		run(t);
}

/* One after the other: they all change the store. */
static void run_images(struct daemon *d)
{
	if (d->image_queue && d->image_queue->state == TASK_QUEUED)
		run(d->image_queue);
}

static void append(struct task *t)
{
	struct task **at = queue_of(t);

	while (*at)
		at = &(*at)->next;
	*at = t;
}

void task_enqueue(struct task *t)
{
	append(t);
	if (t->vm)
		task_run_queue(t->vm);
	else
		run_images(t->daemon);
}

/* Numbers rise along a queue. */
static struct task *behind(const struct vm *vm, s64 id)
{
	struct task *t = vm->queue;

	while (t && t->id <= id)
		t = t->next;
	return t;
}

void task_enqueue_urgent(struct task *t)
{
	struct vm *vm = t->vm;
	struct task *other;
	s64 asked = 0;

	append(t);
	/* None of them gets its turn. Each is asked once: it may be gone then,
	 * and others with it, or go on, as one that kills the machine does. */
	vm->clearing = true;
	while ((other = behind(vm, asked)) && other != t) {
		asked = other->id;
		task_cancel(other);
	}
	vm->clearing = false;
	task_run_queue(vm);
}

/* ---- after a restart ---- */

static int load_one(void *ctx, struct row *row)
{
	struct daemon *d = ctx;
	struct vm *vm = vm_find(d, row_text(row, 1));
	json_t *params = row_json(row, 5);
	const char *state = row_text(row, 4);
	struct task *t;

	if ((!vm && row_text(row, 1)[0]) || !operation_find(row_text(row, 3))) {
		if (strcmp(row_text(row, 3), "fork") == 0)
			fork_lost(d, params);
		json_decref(params);
		return 0;
	}
	t = make(d, vm, row_text(row, 3), params ? params : json_object());
	t->id = row_int(row, 0);
	snprintf(t->caller, sizeof(t->caller), "%s", row_text(row, 10));
	snprintf(t->created, TIME_SIZE, "%s", row_text(row, 11));
	snprintf(t->project, sizeof(t->project), "%s", row_text(row, 14));
	append(t);
	if (t->operation->loaded)
		t->operation->loaded(t);
	if (strcmp(state, "running") == 0 && !t->operation->repeatable) {
		t->state = TASK_RUNNING;
		snprintf(t->started, TIME_SIZE, "%s",
		         row_text(row, 12) ? row_text(row, 12) : "");
	}
	return 0;
}

static struct task *running(const struct vm *vm)
{
	struct task *t = vm->queue;

	while (t && t->state != TASK_RUNNING)
		t = t->next;
	return t;
}

/* Those that were running begin again where that does no harm; of the others
 * nobody knows how far they came. */
int task_load_all(struct daemon *d, struct error *err)
{
	int rc = store_query(d->store, load_one, d, err,
	                     "SELECT " TASK_COLUMNS " FROM tasks"
	                     " WHERE state IN ('queued', 'running')"
	                     " ORDER BY id",
	                     "");
	struct task *t;

	if (rc < 0)
		return rc;
	for (struct vm *vm = d->vms, *next; vm; vm = next) {
		next = vm->next;
		vm->clearing = true;
		while ((t = running(vm)))
			task_fail(t, "interrupted",
			          "the daemon ended while this was under way",
			          "look at the machine, then ask again");
		vm->clearing = false;
		task_run_queue(vm);
	}
	run_images(d);
	/* Of machines that are gone. */
	return store_run(d->store, err,
	                 "UPDATE tasks SET state = CASE kind WHEN 'delete'"
	                 " THEN 'succeeded' ELSE 'failed' END"
	                 " WHERE state IN ('queued', 'running') AND vm_id != ''"
	                 " AND vm_id NOT IN (SELECT id FROM vms)",
	                 "");
}
