/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_schedule - when machines are backed up by themselves.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/backup/schedule.h"

static json_t *time_json(s64 at)
{
	char text[TIME_SIZE];
	time_t t = (time_t)at;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S.000Z", &tm);
	return json_string(text);
}

static json_t *schedule_json(const struct vm *vm,
                             const struct backup_schedule *s)
{
	json_t *o = backup_plan_json(&s->plan);

	json_object_set_new(
	    o, "vm", json_pack("{s:s, s:s}", "id", vm->id, "name", vm->name));
	json_object_set_new(
	    o, "next",
	    time_json(backup_plan_next(&s->plan, s->since, s->last)));
	json_object_set_new(o, "failures", json_integer(s->failures));
	json_object_set_new(o, "error",
	                    s->error ? json_string(s->error) : json_null());
	return o;
}

void api_schedule_list(struct call *c)
{
	json_t *list = json_array();

	for (const struct vm *vm = c->daemon->vms; vm; vm = vm->next) {
		const struct backup_schedule *s =
		    backup_schedule_of(c->daemon, vm->id);

		if (s && call_sees(c, vm))
			json_array_append_new(list, schedule_json(vm, s));
	}
	c->status = 200;
	c->reply = json_pack("{s:o}", "schedules", list);
}

/* Of the machine of the path; NULL: the call has failed. */
static struct backup_schedule *call_schedule(struct call *c,
                                             const struct vm *vm)
{
	struct backup_schedule *s =
	    vm ? backup_schedule_of(c->daemon, vm->id) : NULL;

	if (vm && !s)
		call_fail(c, "not-found",
		          "the machine is not backed up by itself",
		          "atoll backup schedule --every, or --at");
	return s;
}

void api_schedule_get(struct call *c)
{
	const struct vm *vm = call_vm(c);
	const struct backup_schedule *s = call_schedule(c, vm);

	if (!s)
		return;
	c->status = 200;
	c->reply = schedule_json(vm, s);
}

/* What the registry will have. */
struct change {
	char vm[ID_SIZE];
	bool gone;
	struct backup_plan plan;
	s64 now;
};

static void apply(struct call *c, void *ctx)
{
	struct change *change = ctx;

	backup_schedule_set(c->daemon, change->vm,
	                    change->gone ? NULL : &change->plan, change->now);
	free(change);
}

/* plan NULL: none. False: the call has failed. */
static bool write(struct call *c, const struct vm *vm,
                  const struct backup_plan *plan, s64 now)
{
	struct change *change;
	int rc = backup_schedule_write(c->daemon, vm->id, plan, now, &c->err);

	if (rc < 0) {
		call_fail_error(c, rc);
		return false;
	}
	change = xalloc(sizeof(*change));
	*change = (struct change){ .gone = !plan, .now = now };
	memcpy(change->vm, vm->id, ID_SIZE);
	if (plan)
		change->plan = *plan;
	c->apply = apply;
	c->drop = free;
	c->ctx = change;
	return true;
}

void api_schedule_put(struct call *c)
{
	const struct vm *vm = call_vm(c);
	struct backup_schedule shown = { 0 };
	int rc;

	if (!vm)
		return;
	rc = backup_plan_parse(&shown.plan, c->body, &c->err);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	shown.since = shown.last = (s64)time(NULL);
	if (!write(c, vm, &shown.plan, shown.since))
		return;
	c->status = 200;
	c->reply = schedule_json(vm, &shown);
}

void api_schedule_delete(struct call *c)
{
	const struct vm *vm = call_vm(c);

	if (call_schedule(c, vm) && write(c, vm, NULL, 0))
		c->status = 204;
}
