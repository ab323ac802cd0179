/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk_work - tasks on the disks of a machine that runs.
 *
 * The work is begun and tidied up after by `atoll disk`, in a process of its
 * own that speaks to the holder: what it takes to open files and to give them
 * other names is there already, and a slow disk does not hold up the loop. The
 * task ends with that process; cancelling it cancels the machine's job, by
 * which the process ends.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"
#include "daemon/words.h"

enum { TICK_MS = 500, TEXT_MAX = 4096 };

/* ---- what a task takes, and atoll disk's word for it ---- */

/* STILL is for us: the guest's file systems stand still as it begins. */
enum type { TEXT, PATH, NUMBER, SWITCH, STILL };

struct param {
	const char *key;
	enum type type;
};

struct verb {
	const char *kind, *verb;
	bool target; /* "path" is where to: an argument, needed */
	struct param params[6];
};

static const struct verb verbs[] = {
	{ "disk-snapshot",
	  "snapshot",
	  false,
	  { { "name", TEXT }, { "freeze", STILL } } },
	{ "disk-commit",
	  "commit",
	  false,
	  { { "layer", NUMBER },
	    { "count", NUMBER },
	    { "all", SWITCH },
	    { "keep", SWITCH },
	    { "rate", NUMBER } } },
	{ "disk-rebase",
	  "rebase",
	  false,
	  { { "layer", NUMBER }, { "rate", NUMBER } } },
	{ "disk-mirror",
	  "mirror",
	  true,
	  { { "format", TEXT }, { "pivot", SWITCH }, { "rate", NUMBER } } },
	{ "disk-backup",
	  "backup",
	  true,
	  { { "format", TEXT },
	    { "bitmap", TEXT },
	    { "base", PATH },
	    { "rate", NUMBER },
	    { "freeze", STILL } } },
};

static const struct verb *find(const char *kind)
{
	const struct verb *v = verbs;

	while (strcmp(v->kind, kind))
		v++;
	return v;
}

static const struct param *param_of(const struct verb *v, const char *key)
{
	static const struct param target = { "path", PATH };

	if (v->target && strcmp(key, "path") == 0)
		return &target;
	for (size_t i = 0; i < ARRAY_SIZE(v->params) && v->params[i].key; i++)
		if (strcmp(v->params[i].key, key) == 0)
			return &v->params[i];
	return NULL;
}

static bool fits(const struct param *p, json_t *value)
{
	const char *text = json_string_value(value);

	switch (p->type) {
	case PATH:
		return text && text[0] == '/' && strlen(text) < TEXT_MAX;
	case TEXT:
		return text && text[0] && strlen(text) < 64 &&
		       !strchr(text, '/');
	case NUMBER:
		return json_is_integer(value) && json_integer_value(value) >= 0;
	case SWITCH:
	case STILL:
		return json_is_boolean(value);
	}
	return false;
}

int disk_work_check(const char *kind, json_t *params, struct error *err)
{
	const struct verb *v = find(kind);
	const struct param *p;
	const char *key;
	json_t *value;

	json_object_foreach(params, key, value)
	{
		p = param_of(v, key);
		if (!p)
			return error_set(err, -EINVAL, "%.64s is not known",
			                 key);
		if (!fits(p, value))
			return error_set(err, -EINVAL,
			                 "%s is not what it should be", key);
	}
	return v->target && !json_object_get(params, "path")
	           ? error_set(err, -EINVAL, "path is missing")
	           : 0;
}

/* ---- the process ---- */

static void add_params(struct words *w, const struct verb *v, json_t *params)
{
	for (size_t i = 0; i < ARRAY_SIZE(v->params) && v->params[i].key; i++) {
		const struct param *p = &v->params[i];
		json_t *value = json_object_get(params, p->key);

		if (!value || json_is_false(value) || p->type == STILL)
			continue;
		if (p->type == SWITCH)
			words_add(w, xasprintf("--%s", p->key));
		else if (p->type == NUMBER)
			words_add(w, xasprintf("--%s=%" PRIu64, p->key,
			                       (u64)json_integer_value(value)));
		else
			words_add(w, xasprintf("--%s=%s", p->key,
			                       json_string_value(value)));
	}
}

static int disk_of(const struct task *t)
{
	return (int)json_integer_value(json_object_get(t->params, "disk"));
}

static void make_words(struct words *w, struct task *t, json_t *disk)
{
	const struct verb *v = find(t->kind);
	const char *path = json_string_value(json_object_get(disk, "path"));
	const char *format = json_string_value(json_object_get(disk, "format"));

	words_add(w, xstrdup("atoll"));
	words_add(w, xstrdup("disk"));
	words_add(w, xstrdup(v->verb));
	words_add_socket(w, t->vm);
	words_add(w, xasprintf("--machine-disk=%s", path));
	words_add(w, xasprintf("--machine-format=%s", format ? format : "raw"));
	add_params(w, v, json_object_get(t->params, "work"));
	words_add(w, xstrdup("--"));
	words_add(w, xasprintf("%s:%d", t->vm->name, disk_of(t)));
	if (v->target)
		words_add(w, xstrdup(json_string_value(json_object_get(
				 json_object_get(t->params, "work"), "path"))));
}

static void over(void *ctx, const struct error *failed)
{
	struct task *t = ctx;

	t->job = NULL;
	holder_unask(t->vm, t);
	guest_go_on(t->vm);
	if (!failed)
		task_succeed(t, NULL);
	else if (t->cancelling)
		task_cancelled(t, "cancelled; the disk is as it was");
	else
		task_fail_job(t, failed);
}

static void start(struct task *t, json_t *disks)
{
	json_t *disk = json_array_get(disks, (size_t)disk_of(t));
	struct words w = { .count = 0 };
	struct error err = { 0 };

	if (!disk) {
		task_fail(t, "not-found", "the machine has no such disk", "");
		return;
	}
	make_words(&w, t, disk);
	t->job = words_start(&w, t->daemon->loop, over, t, &err);
	if (t->job)
		task_arm_ms(t, TICK_MS);
	else
		task_fail_error(t, &err);
}

/* unfrozen: why it is not to begin, or NULL. */
static void begin(struct task *t, const struct error *unfrozen)
{
	struct error err = { 0 };
	json_t *disks;

	if (t->cancelling) {
		task_cancelled(t, "cancelled; the disk is as it was");
		return;
	}
	if (unfrozen) {
		task_fail(t, "conflict", unfrozen->text, unfrozen->hint);
		return;
	}
	disks = vm_disks(t->vm, &err);
	if (disks)
		start(t, disks);
	else
		task_fail_error(t, &err);
	json_decref(disks);
}

void disk_work_begin(struct task *t)
{
	json_t *work = json_object_get(t->params, "work");

	if (!vm_is_up(t->vm))
		task_fail(t, "conflict", "the machine does not run",
		          "start it first, or change the disk with atoll disk");
	else if (json_is_true(json_object_get(work, "freeze")))
		guest_hold_still(t, disk_of(t), begin);
	else
		begin(t, NULL);
}

/* ---- while it goes on ---- */

/* The job of a disk that runs, out of an answer to "disks". */
json_t *disk_work_job(int disk, json_t *answer)
{
	json_t *job;
	size_t i;

	json_array_foreach(json_object_get(answer, "jobs"), i, job)
	{
		const char *state =
		    json_string_value(json_object_get(job, "state"));
		const char *kind =
		    json_string_value(json_object_get(job, "kind"));

		if (json_integer_value(json_object_get(job, "disk")) == disk &&
		    state && kind && strcmp(kind, "export") &&
		    (!strcmp(state, "running") || !strcmp(state, "ready")))
			return job;
	}
	return NULL;
}

static void looked(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct task *t = ctx;
	json_t *job = ok ? disk_work_job(disk_of(t), answer) : NULL;
	json_int_t done = json_integer_value(json_object_get(job, "done"));
	json_int_t total = json_integer_value(json_object_get(job, "total"));

	(void)words;
	if (!t->job)
		return;
	if (job && t->cancelling)
		holder_request(t->vm,
		               json_pack("{s:s, s:O}", "op", "job-cancel",
		                         "job", json_object_get(job, "job")),
		               NULL, NULL);
	else if (job && total > 0)
		task_progress(t, (int)(done * 99 / total), "copying");
	task_arm_ms(t, TICK_MS);
}

void disk_work_changed(struct task *t)
{
	/* Between two ticks the machine's own changes come here, too. */
	if (t->job && !t->timer.index)
		holder_request(t->vm, json_pack("{s:s}", "op", "disks"), looked,
		               t);
}

void disk_work_cancel(struct task *t)
{
	loop_timer_cancel(&t->timer);
	disk_work_changed(t);
}

/* ---- for others that have such a process ---- */

static void cancel_job(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct task *t = ctx;
	json_t *job = ok ? disk_work_job(t->step, answer) : NULL;

	(void)words;
	if (t->job && job)
		holder_request(t->vm,
		               json_pack("{s:s, s:O}", "op", "job-cancel",
		                         "job", json_object_get(job, "job")),
		               NULL, NULL);
	else if (t->job)
		job_end(t->job);
}

void disk_work_cancel_step(struct task *t)
{
	holder_request(t->vm, json_pack("{s:s}", "op", "disks"), cancel_job, t);
}
