/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work - the tasks that save a machine and put it back.
 *
 * Each is one process that does all of it, or nothing. So a task that a daemon
 * died in is begun again by the next one: it waits for a process that is still
 * at it, and finds what is there already.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/moment/moment.h"
#include "daemon/store.h"
#include "daemon/words.h"

enum { KILL_S = 30, TICK_MS = 100, LOOK_MS = 250, DOUBT_MS = 1000 };
enum { FIRST, PUT_BACK, STARTING, IN_DOUBT };

static const char *text(const struct task *t, const char *key)
{
	return json_string_value(json_object_get(t->params, key));
}

static bool is_set(const struct task *t, const char *key)
{
	return json_is_true(json_object_get(t->params, key));
}

/* atoll NOUN VERB with the machine's own place; more follows. */
static void begin_words(struct words *w, const struct task *t, const char *noun,
                        const char *verb)
{
	char *folder = vm_folder_path(t->vm);

	words_add(w, xstrdup("atoll"));
	words_add(w, xstrdup(noun));
	if (verb)
		words_add(w, xstrdup(verb));
	words_add(w, xasprintf("--machine-folder=%s", folder));
	words_add_socket(w, t->vm);
	free(folder);
}

/* Ends the task when it can't be started. */
static void start(struct task *t, struct words *w, job_fn *over)
{
	struct error err = { 0 };

	t->job = words_start_to(w, t->vm->daemon->loop, t->out, over, t, &err);
	if (!t->job)
		task_fail_error(t, &err);
}

void moment_cancel(struct task *t)
{
	/* It ends at once, or is past the point from which it goes through. */
	if (t->job)
		job_end(t->job);
	else if (t->step == IN_DOUBT || t->step == PUT_BACK)
		task_arm_ms(t, TICK_MS);
	else if (t->step == STARTING)
		operate_start_changed(t);
	else
		task_cancelled(t, "cancelled before it began");
}

/* ---- create ---- */

static void created(void *ctx, const struct error *failed)
{
	struct task *t = ctx;

	json_t *found = moment_find(t->vm, text(t, "snapshot"));

	t->job = NULL;
	holder_unask(t->vm, t);
	json_decref(found);
	if (failed)
		moment_tidy(t->vm, text(t, "snapshot"));
	/* An earlier daemon's process may have made it while this one waited
	 * for that. */
	if (found)
		task_succeed(
		    t, json_pack("{s:s}", "snapshot", text(t, "snapshot")));
	else if (!failed)
		task_fail(t, "storage", "the snapshot is damaged", "");
	else if (t->cancelling)
		task_cancelled(t, "cancelled; nothing was kept");
	else
		task_fail_job(t, failed);
}

/* The machine runs; else the task has ended, or waits for that. */
static bool is_ready(struct task *t)
{
	if (t->vm->state == VM_STARTING) {
		task_arm_ms(t, TICK_MS);
		return false;
	}
	if (vm_is_up(t->vm))
		return true;
	task_fail(t, "conflict", "the machine does not run",
	          "start it first; atoll backup keeps what disks hold");
	return false;
}

void moment_create_begin(struct task *t)
{
	const char *name = text(t, "snapshot");
	const char *description = text(t, "description");
	json_t *found = moment_find(t->vm, name);
	struct words w = { .count = 0 };

	json_decref(found);
	if (found) {
		/* By an earlier daemon's process. */
		task_succeed(t, json_pack("{s:s}", "snapshot", name));
		return;
	}
	if (!is_ready(t))
		return;
	begin_words(&w, t, "snapshot", "create");
	if (description && description[0])
		words_add(&w, xasprintf("--description=%s", description));
	if (is_set(t, "fast"))
		words_add(&w, xstrdup("--fast"));
	words_add(&w, xstrdup("--"));
	words_add(&w, xstrdup(t->vm->name));
	words_add(&w, xstrdup(name));
	task_progress(t, 1, "saving memory and disks");
	start(t, &w, created);
	if (t->job)
		task_arm_ms(t, TICK_MS);
}

/* How far the machine's process is with what is being written. */
static void looked(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct task *t = ctx;
	bool suspends = strcmp(t->kind, "suspend") == 0;
	json_int_t done = 0, total = 0;

	(void)words;
	if (!t->job)
		return;
	json_unpack(ok ? answer : NULL, "{s:I, s:I}", "done", &done, "total",
	            &total);
	if (total > 0 && done >= 0 && done <= total)
		task_progress(t, (int)(1 + (double)done / (double)total * 98),
		              suspends ? "saving memory"
		                       : "saving memory and disks");
	task_arm_ms(t, LOOK_MS);
}

static void look(struct task *t)
{
	holder_request(t->vm, json_pack("{s:s}", "op", "snapshot-progress"),
	               looked, t);
}

/* Between two ticks the machine's own changes come here, too. */
void moment_create_changed(struct task *t)
{
	if (!t->job)
		moment_create_begin(t);
	else if (!t->timer.index)
		look(t);
}

/* ---- revert ---- */

/* An earlier daemon may have come that far. */
static void note_put_back(struct task *t)
{
	struct error err = { 0 };

	json_object_set_new(t->params, "put_back", json_true());
	if (task_write_params(t, &err) < 0)
		task_fail_error(t, &err);
	else if (is_set(t, "start")) {
		t->step = STARTING;
		operate_start_begin(t);
	} else {
		task_succeed(t, json_pack("{s:s, s:b}", "snapshot",
		                          text(t, "snapshot"), "saved", 1));
	}
}

static void put_back(void *ctx, const struct error *failed)
{
	struct task *t = ctx;

	t->job = NULL;
	saved_look(t->vm);
	if (!failed)
		note_put_back(t);
	else if (t->cancelling)
		task_cancelled(t, "cancelled; the machine is as it was");
	else
		task_fail_job(t, failed);
}

/* The process says in its output's first bytes how far it is. */
static void look_at_copies(struct task *t)
{
	u64 done = 0, total = 0;
	char said[64] = "", a[32], b[32], words[128];

	if (t->timer.index)
		return;
	if (t->out >= 0 && pread(t->out, said, sizeof(said) - 1, 0) > 0 &&
	    sscanf(said, "%" SCNu64 " %" SCNu64, &done, &total) == 2 &&
	    total > 0 && done <= total) {
		snprintf(words, sizeof(words),
		         "copying its disks back: %s of %s",
		         format_size(done, a, sizeof(a)),
		         format_size(total, b, sizeof(b)));
		task_progress(t, 30 + (int)((double)done / (double)total * 60),
		              words);
	}
	task_arm_ms(t, LOOK_MS);
}

static void put_it_back(struct task *t)
{
	json_t *then = moment_find(t->vm, text(t, "snapshot"));
	struct words w = { .count = 0 };
	struct error err = { 0 };
	int rc = then ? saved_fits(t->vm, then, &err)
	              : error_set(&err, -ENOENT, "the snapshot is gone");

	json_decref(then);
	if (rc < 0) {
		task_fail_error(t, &err);
		return;
	}
	t->step = PUT_BACK;
	begin_words(&w, t, "snapshot", "revert");
	words_add(&w, xstrdup("--"));
	words_add(&w, xstrdup(t->vm->name));
	words_add(&w, xstrdup(text(t, "snapshot")));
	task_progress(t, 30, "copying its disks back");
	t->out = memfd_create("revert", MFD_CLOEXEC);
	start(t, &w, put_back);
	if (t->job)
		task_arm_ms(t, TICK_MS);
}

void moment_revert_changed(struct task *t)
{
	struct vm *vm = t->vm;

	if (t->step == STARTING) {
		operate_start_changed(t);
	} else if (t->job) {
		look_at_copies(t);
	} else if (vm->state == VM_STOPPED && !vm->holder) {
		put_it_back(t);
	} else if (!is_set(t, "force")) {
		task_fail(t, "conflict", "the machine runs",
		          "stop it first, or revert with force: what it did "
		          "since is lost");
	} else if (loop_now_ns() >= t->deadline_ns) {
		task_fail(t, "timeout", "the machine's process does not end",
		          "");
	} else {
		vm_set_wanted(vm, false);
		holder_request(vm, json_pack("{s:s}", "op", "kill"), NULL,
		               NULL);
		task_arm_ms(t, TICK_MS);
	}
}

void moment_revert_begin(struct task *t)
{
	t->deadline_ns = loop_now_ns() + KILL_S * NSEC_PER_SEC;
	if (is_set(t, "put_back"))
		note_put_back(t);
	else
		moment_revert_changed(t);
}

/* ---- delete ---- */

static void deleted(void *ctx, const struct error *failed)
{
	struct task *t = ctx;

	t->job = NULL;
	if (!failed)
		task_succeed(t, NULL);
	else if (t->cancelling)
		task_cancelled(t, "cancelled; the snapshot is not whole, or "
		                  "still there");
	else
		task_fail_job(t, failed);
}

void moment_delete_begin(struct task *t)
{
	const char *name = text(t, "snapshot");
	json_t *found = moment_find(t->vm, name);
	struct words w = { .count = 0 };

	json_decref(found);
	if (!found) {
		moment_tidy(t->vm, name);
		task_succeed(t, NULL);
		return;
	}
	begin_words(&w, t, "snapshot", "delete");
	words_add(&w, xstrdup("--"));
	words_add(&w, xstrdup(t->vm->name));
	words_add(&w, xstrdup(name));
	start(t, &w, deleted);
}

/* ---- suspend ---- */

static void put_away(void *ctx, const struct error *failed)
{
	struct task *t = ctx;

	t->job = NULL;
	holder_unask(t->vm, t);
	t->step = failed ? IN_DOUBT : PUT_BACK;
	t->deadline_ns = loop_now_ns() + (failed ? DOUBT_MS * NSEC_PER_MSEC
	                                         : KILL_S * NSEC_PER_SEC);
	if (failed) {
		t->doubt = xalloc(sizeof(*t->doubt));
		*t->doubt = *failed;
		task_progress(t, t->progress, failed->text);
	}
	moment_suspend_changed(t);
}

/* Its process failed; but an earlier daemon's may have done it, and the
 * machine be on its way out. */
static void fail_in_doubt(struct task *t)
{
	vm_set_wanted(t->vm, is_set(t, "wanted"));
	if (t->cancelling)
		task_cancelled(t, "cancelled; the machine goes on");
	else
		task_fail_job(t, t->doubt);
}

void moment_suspend_begin(struct task *t)
{
	struct words w = { .count = 0 };

	/* An earlier daemon's process has done it. */
	if (t->vm->state == VM_STOPPED && !t->vm->holder && t->vm->saved) {
		task_succeed(t, json_pack("{s:b}", "saved", 1));
		return;
	}
	if (!is_ready(t))
		return;
	begin_words(&w, t, "suspend", NULL);
	if (is_set(t, "fast"))
		words_add(&w, xstrdup("--fast"));
	words_add(&w, xstrdup("--"));
	words_add(&w, xstrdup(t->vm->name));
	/* Its end is what was asked for. */
	vm_set_wanted(t->vm, false);
	task_progress(t, 1, "saving memory");
	start(t, &w, put_away);
	if (t->job)
		task_arm_ms(t, TICK_MS);
}

void moment_suspend_changed(struct task *t)
{
	if (t->step == FIRST) {
		if (!t->job)
			moment_suspend_begin(t);
		else if (!t->timer.index)
			look(t);
	} else if (t->vm->state == VM_STOPPED && !t->vm->holder) {
		if (t->vm->saved)
			task_succeed(t, json_pack("{s:b}", "saved", 1));
		else
			task_fail(t, "conflict",
			          "the machine ended before it was saved",
			          "its last end says why");
	} else if (loop_now_ns() < t->deadline_ns) {
		task_arm_ms(t, TICK_MS);
	} else if (t->step == IN_DOUBT) {
		fail_in_doubt(t);
	} else {
		task_fail(t, "timeout", "the machine's process does not end",
		          "");
	}
}
