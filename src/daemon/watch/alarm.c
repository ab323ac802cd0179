/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alarm - a threshold that a metric of a machine is beyond for some time:
 * an event when that begins and when it ends, and an action if one is asked
 * for. A rule's states live with the daemon alone: after a restart the time is
 * counted anew.
 */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/store.h"
#include "daemon/watch/watch.h"

enum { ALARMS_MAX = 256 };

struct watched {
	struct watched *next;
	char vm_id[ID_SIZE];
	struct alarm_state state;
	bool due; /* the action: other work of the machine's is under way */
};

struct alarm {
	struct alarm *next;
	char *name, *vm; /* a glob */
	char *project;   /* of those in it; NULL: of all */
	enum metric metric;
	bool below;
	u64 threshold, duration_s;
	char *action; /* "none", or a task's kind */
	struct watched *watched;
};

enum alarm_change alarm_step(struct alarm_state *s, bool beyond, u64 now_ns,
                             u64 duration_ns)
{
	if (!beyond) {
		enum alarm_change change =
		    s->raised ? ALARM_CLEARED : ALARM_SAME;

		*s = (struct alarm_state){ 0 };
		return change;
	}
	if (!s->since_ns)
		s->since_ns = now_ns;
	if (s->raised || now_ns - s->since_ns < duration_ns)
		return ALARM_SAME;
	s->raised = true;
	return ALARM_RAISED;
}

static void forget_watched(struct alarm *a)
{
	struct watched *w;

	while ((w = a->watched)) {
		a->watched = w->next;
		free(w);
	}
}

static void alarm_free(struct alarm *a)
{
	forget_watched(a);
	free(a->name);
	free(a->vm);
	free(a->project);
	free(a->action);
	free(a);
}

static struct watched *watched_of(struct alarm *a, const struct vm *vm)
{
	struct watched *w = a->watched;

	while (w && strcmp(w->vm_id, vm->id))
		w = w->next;
	if (!w) {
		w = xalloc(sizeof(*w));
		memcpy(w->vm_id, vm->id, ID_SIZE);
		w->next = a->watched;
		a->watched = w;
	}
	return w;
}

/* ---- looking ---- */

static void act(struct daemon *d, struct alarm *a, struct vm *vm)
{
	struct error err = { 0 };
	char caller[CALLER_MAX];
	struct task *t;

	snprintf(caller, sizeof(caller), "alarm %s", a->name);
	t = task_new(vm, a->action, json_object(), caller, &err);
	if (t)
		task_enqueue(t);
	else
		log_error("daemon", "alarm %s: %s", a->name, err.text);
	if (audit_write(d,
	                &(struct record){ .caller = caller,
	                                  .action = a->action,
	                                  .target = vm->name,
	                                  .outcome = "alarm",
	                                  .project = vm_project(vm) },
	                &err) < 0)
		log_error("daemon", "audit: %s", err.text);
}

static void tell(struct daemon *d, const struct alarm *a, struct vm *vm,
                 enum alarm_change change, u64 value)
{
	event_emit(
	    d, change == ALARM_RAISED ? "alarm.raised" : "alarm.cleared", vm, 0,
	    json_pack("{s:s, s:s, s:I, s:I}", "alarm", a->name, "metric",
	              metric_names[a->metric], "value", (json_int_t)value,
	              "threshold", (json_int_t)a->threshold));
}

static void look(struct daemon *d, struct alarm *a, struct vm *vm)
{
	const struct vm_rates *r = watch_rates(vm);
	struct watched *w = watched_of(a, vm);
	u64 values[METRIC_COUNT];
	enum alarm_change change;
	bool beyond = false;

	if (r) {
		metric_values(r, values);
		beyond = a->below ? values[a->metric] < a->threshold
		                  : values[a->metric] > a->threshold;
	}
	change = alarm_step(&w->state, beyond, loop_now_ns(),
	                    a->duration_s * NSEC_PER_SEC);
	if (change != ALARM_SAME)
		tell(d, a, vm, change, r ? values[a->metric] : 0);
	if (change == ALARM_RAISED)
		w->due = strcmp(a->action, "none") != 0;
	w->due = w->due && w->state.raised;
	if (w->due && !vm->queue) {
		w->due = false;
		act(d, a, vm);
	}
}

static bool is_over(const struct alarm *a, const struct vm *vm)
{
	return !vm->deleted &&
	       (!a->project || strcmp(a->project, vm_project(vm)) == 0) &&
	       fnmatch(a->vm, vm->name, 0) == 0;
}

void alarms_look(struct daemon *d)
{
	for (struct alarm *a = d->alarms; a; a = a->next)
		for (struct vm *vm = d->vms; vm; vm = vm->next)
			if (is_over(a, vm) && (watch_rates(vm) || a->watched))
				look(d, a, vm);
}

void alarms_forget(struct daemon *d, const char *vm_id)
{
	for (struct alarm *a = d->alarms; a; a = a->next)
		for (struct watched **at = &a->watched, *w; (w = *at);)
			if (strcmp(w->vm_id, vm_id) == 0) {
				*at = w->next;
				free(w);
			} else {
				at = &w->next;
			}
}

/* ---- the registry ---- */

static struct alarm *alarm_new(const char *name, const char *vm,
                               const char *project, enum metric metric,
                               bool below, u64 threshold, u64 duration_s,
                               const char *action)
{
	struct alarm *a = xalloc(sizeof(*a));

	a->name = xstrdup(name);
	a->vm = xstrdup(vm);
	a->project = project ? xstrdup(project) : NULL;
	a->metric = metric;
	a->below = below;
	a->threshold = threshold;
	a->duration_s = duration_s;
	a->action = xstrdup(action);
	return a;
}

static void insert(struct daemon *d, struct alarm *a)
{
	struct alarm **at = &d->alarms;

	while (*at && strcmp((*at)->name, a->name) < 0)
		at = &(*at)->next;
	a->next = *at;
	*at = a;
}

static int load_one(void *ctx, struct row *row)
{
	enum metric metric = metric_find(row_text(row, 2));

	if (metric != METRIC_COUNT)
		insert(ctx,
		       alarm_new(row_text(row, 0), row_text(row, 1),
		                 row_text(row, 7), metric, row_int(row, 3) != 0,
		                 (u64)row_int(row, 4), (u64)row_int(row, 5),
		                 row_text(row, 6)));
	return 0;
}

int alarms_load(struct daemon *d, struct error *err)
{
	return store_query(d->store, load_one, d, err,
	                   "SELECT name, vm, metric, below, threshold,"
	                   " duration_s, action, project FROM alarms",
	                   "");
}

void alarms_free(struct daemon *d)
{
	struct alarm *a;

	while ((a = d->alarms)) {
		d->alarms = a->next;
		alarm_free(a);
	}
}

/* ---- the routes ---- */

static bool is_raised(const struct alarm *a, const struct vm *vm)
{
	const struct watched *w = a->watched;

	while (w && strcmp(w->vm_id, vm->id))
		w = w->next;
	return w && w->state.raised;
}

static json_t *alarm_json(const struct daemon *d, const struct alarm *a)
{
	json_t *raised = json_array(), *names = json_array();

	for (const struct watched *w = a->watched; w; w = w->next)
		if (w->state.raised)
			json_array_append_new(raised, json_string(w->vm_id));
	for (const struct vm *vm = d->vms; vm; vm = vm->next)
		if (is_raised(a, vm))
			json_array_append_new(names, json_string(vm->name));
	return json_pack("{s:s, s:s, s:s?, s:s, s:s, s:I, s:I, s:s, s:o, s:o}",
	                 "name", a->name, "vm", a->vm, "project", a->project,
	                 "metric", metric_names[a->metric], "when",
	                 a->below ? "below" : "above", "threshold",
	                 (json_int_t)a->threshold, "duration_s",
	                 (json_int_t)a->duration_s, "action", a->action,
	                 "raised", raised, "machines", names);
}

void api_alarm_list(struct call *c)
{
	json_t *list = json_array();

	for (const struct alarm *a = c->daemon->alarms; a; a = a->next)
		if (caller_rights(&c->caller, a->project) & RIGHT_READ)
			json_array_append_new(list, alarm_json(c->daemon, a));
	c->status = 200;
	c->reply = json_pack("{s:o}", "alarms", list);
}

static const char *text_in(struct call *c, const char *key,
                           const char *fallback)
{
	json_t *value = json_object_get(c->body, key);
	const char *text = json_string_value(value);

	if (!value)
		return fallback;
	return text && text[0] && strlen(text) < 128 ? text : NULL;
}

static bool one_of(const char *text, const char *const *names)
{
	while (*names && strcmp(*names, text))
		names++;
	return *names != NULL;
}

/* Over machines of one project, or, for who may define things in all, over all
 * of them. False: the call has failed. */
static bool read_project(struct call *c, const char **project)
{
	json_t *value = json_object_get(c->body, "project");

	if (value && !json_is_null(value)) {
		*project = call_project(c, NULL, RIGHT_DEFINE | RIGHT_OPERATE);
		return *project != NULL;
	}
	if (caller_rights(&c->caller, NULL) & RIGHT_DEFINE)
		return true;
	call_fail(c, "denied",
	          "you define things in some projects only: name one", "");
	return false;
}

static const char *no_metric(char *room, size_t size)
{
	char all[200];

	snprintf(room, size, "metric is none of those that history keeps: %s",
	         words_listed(metric_names, METRIC_COUNT, all, sizeof(all)));
	return room;
}

/* NULL: the call has failed. */
static struct alarm *read_alarm(struct call *c)
{
	static const char *const keys[] = {
		"name",      "vm",      "metric",     "when", "action",
		"threshold", "project", "duration_s", NULL
	};
	static const char *const actions[] = { "none",  "stop",  "restart",
		                               "pause", "reset", "kill",
		                               NULL };
	json_t *threshold = json_object_get(c->body, "threshold");
	json_t *duration = json_object_get(c->body, "duration_s");
	const char *name = text_in(c, "name", NULL);
	const char *vm = text_in(c, "vm", "*");
	const char *metric = text_in(c, "metric", NULL);
	const char *when = text_in(c, "when", "above");
	const char *action = text_in(c, "action", "none");
	const char *wrong = NULL, *project = NULL;
	char room[256];

	if (!call_known_keys(c, keys) || !read_project(c, &project))
		return NULL;
	if (!name || !spec_name_valid(name))
		wrong = "name is not a name";
	else if (!vm)
		wrong = "vm is not a name or a pattern";
	else if (!metric || metric_find(metric) == METRIC_COUNT)
		wrong = no_metric(room, sizeof(room));
	else if (!when || (strcmp(when, "above") && strcmp(when, "below")))
		wrong = "when is neither above nor below";
	else if (!action || !one_of(action, actions))
		wrong = "action is none of none, stop, restart, pause, reset, "
			"kill";
	else if (!json_is_integer(threshold) ||
	         json_integer_value(threshold) < 0)
		wrong = "threshold is not a whole number";
	else if (duration && (!json_is_integer(duration) ||
	                      json_integer_value(duration) < 0 ||
	                      json_integer_value(duration) > 86400))
		wrong = "duration_s is not from 0 to 86400";
	if (!wrong)
		return alarm_new(name, vm, project, metric_find(metric),
		                 strcmp(when, "below") == 0,
		                 (u64)json_integer_value(threshold),
		                 (u64)json_integer_value(duration), action);
	call_fail(c, "bad-request", wrong, "");
	return NULL;
}

static void keep_alarm(struct call *c, void *ctx)
{
	insert(c->daemon, ctx);
}

static void drop_alarm(void *ctx)
{
	alarm_free(ctx);
}

void api_alarm_create(struct call *c)
{
	struct alarm *a = read_alarm(c);
	unsigned count = 0;
	int rc;

	if (!a)
		return;
	c->apply = keep_alarm;
	c->drop = drop_alarm;
	c->ctx = a;
	for (const struct alarm *o = c->daemon->alarms; o; o = o->next)
		count++;
	if (count >= ALARMS_MAX) {
		call_fail(c, "conflict", "there are 256 alarms already", "");
		return;
	}
	rc = store_run(c->daemon->store, &c->err,
	               "INSERT INTO alarms(name, vm, metric, below, threshold,"
	               " duration_s, action, project)"
	               " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
	               "tttiiitt", a->name, a->vm, metric_names[a->metric],
	               (s64)a->below, (s64)a->threshold, (s64)a->duration_s,
	               a->action, a->project);
	if (rc == -EEXIST) {
		call_fail(c, "conflict", "there is an alarm of that name", "");
	} else if (rc < 0) {
		call_fail_error(c, rc);
	} else {
		c->status = 201;
		c->reply = alarm_json(c->daemon, a);
	}
}

static void remove_alarm(struct call *c, void *ctx)
{
	struct alarm **at = &c->daemon->alarms, *a = ctx;

	while (*at && *at != a)
		at = &(*at)->next;
	if (*at)
		*at = a->next;
	alarm_free(a);
}

static struct alarm *find(struct daemon *d, const char *name)
{
	struct alarm *a = d->alarms;

	while (a && strcmp(a->name, name))
		a = a->next;
	return a;
}

enum belonging alarm_belongs(struct daemon *d, const char *name,
                             char project[PROJECT_SIZE])
{
	const struct alarm *a = find(d, name);

	if (!a)
		return BELONGS_NOWHERE;
	if (!a->project)
		return BELONGS_HOST;
	snprintf(project, PROJECT_SIZE, "%s", a->project);
	return BELONGS_PROJECT;
}

void api_alarm_delete(struct call *c)
{
	struct alarm *a = find(c->daemon, c->params[0]);
	int rc;

	rc = store_run(c->daemon->store, &c->err,
	               "DELETE FROM alarms WHERE name = ?", "t", a->name);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->apply = remove_alarm;
	c->ctx = a;
}
