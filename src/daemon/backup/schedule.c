/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/backup/schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/store.h"

/* The host's clock may be set meanwhile. */
enum { LOOK_S = 30 };
#define CALLER "schedule"

struct backup_schedules {
	struct daemon *daemon; /* borrowed */
	struct loop_timer timer;
	struct backup_schedule *first;
};

static s64 now_s(void)
{
	return time_ns() / (s64)NSEC_PER_SEC;
}

struct backup_schedule *backup_schedule_of(const struct daemon *d,
                                           const char *vm)
{
	struct backup_schedule *s = d->schedules ? d->schedules->first : NULL;

	while (s && strcmp(s->vm, vm))
		s = s->next;
	return s;
}

/* ---- the registry ---- */

static void write_state(struct daemon *d, const struct backup_schedule *s)
{
	struct error err = { 0 };

	if (store_run(d->store, &err,
	              "UPDATE backup_schedules SET last = ?, failures = ?,"
	              " error = ? WHERE vm_id = ?",
	              "iitt", s->last, (s64)s->failures, s->error, s->vm) < 0)
		log_error("daemon", "%s", err.text);
}

int backup_schedule_write(struct daemon *d, const char *vm,
                          const struct backup_plan *plan, s64 now,
                          struct error *err)
{
	json_t *o;
	char *text;
	int rc;

	if (!plan)
		return store_run(d->store, err,
		                 "DELETE FROM backup_schedules"
		                 " WHERE vm_id = ?",
		                 "t", vm);
	o = backup_plan_json(plan);
	text = json_dumps(o, JSON_COMPACT);
	rc = store_run(d->store, err,
	               "INSERT OR REPLACE INTO backup_schedules"
	               "(vm_id, plan, since, last, failures)"
	               " VALUES(?, ?, ?, ?, 0)",
	               "ttii", vm, text, now, now);
	free(text);
	json_decref(o);
	return rc;
}

static void drop(struct daemon *d, const char *vm)
{
	struct backup_schedule **at = &d->schedules->first, *s;

	while (*at && strcmp((*at)->vm, vm))
		at = &(*at)->next;
	s = *at;
	if (!s)
		return;
	*at = s->next;
	free(s->error);
	free(s);
}

static struct backup_schedule *add(struct backup_schedules *all, const char *vm,
                                   const struct backup_plan *plan, s64 since)
{
	struct backup_schedule *s = xalloc(sizeof(*s));

	snprintf(s->vm, sizeof(s->vm), "%s", vm);
	s->plan = *plan;
	s->since = s->last = since;
	s->next = all->first;
	all->first = s;
	return s;
}

static int load_one(void *ctx, struct row *row)
{
	struct backup_schedules *all = ctx;
	struct backup_plan plan;
	struct error err = { 0 };
	json_t *o = row_json(row, 1);
	struct backup_schedule *s;

	if (backup_plan_parse(&plan, o, &err) < 0) {
		log_warn("daemon", "schedule of %s: %s", row_text(row, 0),
		         err.text);
	} else {
		s = add(all, row_text(row, 0), &plan, row_int(row, 2));
		s->last = row_int(row, 3);
		s->failures = (u32)row_int(row, 4);
		s->error = row_text(row, 5) ? xstrdup(row_text(row, 5)) : NULL;
	}
	json_decref(o);
	return 0;
}

/* ---- what is due ---- */

/* How many have been made since the last whole one, itself among them. */
static u32 chain_length(const struct daemon *d, const char *vm)
{
	json_t *last = backup_last(d, vm);
	const char *id = json_string_value(json_object_get(last, "backup"));
	json_t *head = id ? backup_find(d, id) : NULL, *base;
	u32 length = 0;

	while (head) {
		length++;
		id = json_string_value(json_object_get(head, "parent"));
		base = id ? backup_find(d, id) : NULL;
		json_decref(head);
		head = base;
	}
	json_decref(last);
	return length;
}

static bool under_way(const struct vm *vm)
{
	const struct task *t = vm->queue;

	while (t && strcmp(t->kind, "backup"))
		t = t->next;
	return t != NULL;
}

static void note(struct daemon *d, const struct vm *vm, const char *action,
                 const char *target)
{
	struct error err = { 0 };

	if (audit_write(d,
	                &(struct record){ .caller = CALLER,
	                                  .action = action,
	                                  .target = target,
	                                  .outcome = CALLER,
	                                  .project = vm_project(vm) },
	                &err) < 0)
		log_error("daemon", "audit: %s", err.text);
}

static void begin(struct backup_schedule *s, struct vm *vm)
{
	struct daemon *d = vm->daemon;
	struct error err = { 0 };
	char id[ID_SIZE];
	json_t *params;
	struct task *t = NULL;

	if (under_way(vm))
		return;
	if (id_new(id, &err) == 0) {
		params =
		    json_pack("{s:s, s:b}", "backup", id, "scheduled", true);
		if (s->plan.full_every &&
		    chain_length(d, vm->id) >= s->plan.full_every)
			json_object_set_new(params, "kind",
			                    json_string("full"));
		if (s->plan.freeze)
			json_object_set_new(params, "freeze", json_true());
		t = task_new(vm, "backup", params, CALLER, &err);
	}
	if (!t) {
		log_error("daemon", "backup of %s: %s", vm->name, err.text);
		return;
	}
	note(d, vm, "backup", vm->name);
	task_enqueue(t);
}

static void look(void *ctx)
{
	struct backup_schedules *all = ctx;
	struct daemon *d = all->daemon;
	struct error err = { 0 };
	s64 now = now_s(), soonest = now + LOOK_S, due;
	struct backup_schedule *next;

	for (struct backup_schedule *s = all->first; s; s = next) {
		struct vm *vm = vm_find(d, s->vm);

		next = s->next;
		if (!vm || vm->deleted) {
			if (backup_schedule_write(d, s->vm, NULL, 0, &err) < 0)
				log_error("daemon", "%s", err.text);
			drop(d, s->vm);
			continue;
		}
		/* A clock that was put back must not stop it. */
		s->last = MIN(s->last, now);
		if (s->again ||
		    backup_plan_next(&s->plan, s->since, s->last) <= now) {
			s->last = now;
			s->again = false;
			write_state(d, s);
			begin(s, vm);
		}
		due = backup_plan_next(&s->plan, s->since, s->last);
		soonest = MIN(soonest, due);
	}
	loop_timer_arm(&all->timer,
	               loop_now_ns() +
	                   (u64)MAX(soonest - now, (s64)1) * NSEC_PER_SEC);
}

/* ---- what is let go ---- */

static size_t index_of(json_t *mine, const char *id)
{
	json_t *head;
	size_t i;

	json_array_foreach(mine, i, head)
	{
		if (id && strcmp(json_string_value(json_object_get(head, "id")),
		                 id) == 0)
			return i;
	}
	return SIZE_MAX;
}

/* A new machine is being made of it, or of one that builds on it. */
static bool is_read(const struct daemon *d, json_t *mine)
{
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		for (struct task *t = vm->queue; t; t = t->next)
			if (strcmp(t->kind, "restore") == 0 &&
			    index_of(mine, json_string_value(json_object_get(
					       t->params, "backup"))) !=
			        SIZE_MAX)
				return true;
	return false;
}

static json_t *backups_of(const struct daemon *d, const char *vm)
{
	json_t *all = backup_list(d), *mine = json_array(), *head;
	size_t i;

	json_array_foreach(all, i, head)
	{
		const char *of = json_string_value(
		    json_object_get(json_object_get(head, "vm"), "id"));

		if (of && strcmp(of, vm) == 0)
			json_array_append(mine, head);
	}
	json_decref(all);
	return mine;
}

static void let_go(struct daemon *d, const struct vm *vm, const char *id)
{
	struct error err = { 0 };

	if (backup_discard(d, id, false, &err) < 0) {
		log_warn("daemon", "%s", err.text);
		return;
	}
	event_emit(d, "backup.deleted", vm, 0,
	           json_pack("{s:s}", "backup", id));
	note(d, vm, "delete backup", id);
}

/* The newest first: none is ever without what it builds on. */
static void retain(struct daemon *d, const struct backup_schedule *s,
                   const struct vm *vm)
{
	json_t *mine = backups_of(d, vm->id), *head;
	size_t count = json_array_size(mine), i;
	struct backup_kept *list = try_alloc(count + 1, sizeof(*list));

	json_array_foreach(mine, i, head)
	{
		if (!list)
			break;
		list[i].at =
		    time_parse(json_string_value(json_object_get(head, "at")));
		list[i].planned =
		    json_is_true(json_object_get(head, "scheduled"));
		list[i].base = index_of(
		    mine, json_string_value(json_object_get(head, "parent")));
	}
	if (list && !is_read(d, mine)) {
		backup_plan_keep(&s->plan, list, count);
		json_array_foreach(mine, i, head)
		{
			if (!list[i].keep)
				let_go(d, vm,
				       json_string_value(
					   json_object_get(head, "id")));
		}
	}
	free(list);
	json_decref(mine);
}

/* ---- how it went ---- */

static void tell(struct daemon *d, const struct backup_schedule *s,
                 const struct task *t, bool raised)
{
	event_emit(d, raised ? "alarm.raised" : "alarm.cleared", t->vm, t->id,
	           json_pack("{s:s, s:s, s:i, s:i}", "alarm", "backup",
	                     "metric", "backup_failures", "value",
	                     (int)s->failures, "threshold", 0));
}

void backup_schedules_ended(struct daemon *d, const struct task *t)
{
	struct backup_schedule *s;
	const char *words, *code;

	if (strcmp(t->kind, "backup") != 0 || t->state == TASK_CANCELLED)
		return;
	words = json_string_value(json_object_get(t->error, "words"));
	code = json_string_value(json_object_get(t->error, "code"));
	if (t->state == TASK_FAILED)
		event_emit(d, "backup.failed", t->vm, t->id,
		           json_pack("{s:s?}", "words", words));
	s = backup_schedule_of(d, t->vm->id);
	if (!s || !json_is_true(json_object_get(t->params, "scheduled")))
		return;
	free(s->error);
	s->error = NULL;
	s->again = code && strcmp(code, "interrupted") == 0;
	if (t->state == TASK_FAILED) {
		s->error = xstrdup(words ? words : "it failed");
		if (s->failures++ == 0)
			tell(d, s, t, true);
	} else {
		if (s->failures) {
			s->failures = 0;
			tell(d, s, t, false);
		}
		retain(d, s, t->vm);
	}
	write_state(d, s);
}

/* ---- the whole ---- */

void backup_schedule_set(struct daemon *d, const char *vm,
                         const struct backup_plan *plan, s64 now)
{
	drop(d, vm);
	if (plan)
		add(d->schedules, vm, plan, now);
	loop_timer_arm(&d->schedules->timer, loop_now_ns());
}

int backup_schedules_start(struct daemon *d, struct error *err)
{
	struct backup_schedules *all = xalloc(sizeof(*all));

	all->daemon = d;
	loop_timer_init(&all->timer, d->loop, look, all);
	d->schedules = all;
	loop_timer_arm(&all->timer, loop_now_ns());
	return store_query(d->store, load_one, all, err,
	                   "SELECT vm_id, plan, since, last, failures, error"
	                   " FROM backup_schedules",
	                   "");
}

void backup_schedules_stop(struct daemon *d)
{
	if (!d->schedules)
		return;
	loop_timer_fini(&d->schedules->timer);
	while (d->schedules->first)
		drop(d, d->schedules->first->vm);
	free(d->schedules);
	d->schedules = NULL;
}
