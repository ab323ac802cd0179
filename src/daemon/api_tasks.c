/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_tasks - tasks and events.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "daemon/api.h"
#include "daemon/store.h"

enum { LIST_MAX = 1000, LIST_USUAL = 100, WAIT_MAX_S = 60 };

/* How far a task is that is under way, the registry does not know. */
static void put_live(struct daemon *d, json_t *list)
{
	const struct task *t;
	json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		if (json_is_string(json_object_get(one, "ended")))
			continue;
		t = task_find_active(
		    d, json_integer_value(json_object_get(one, "id")));
		if (t)
			json_array_set_new(list, i, task_json(t));
	}
}

void api_task_list(struct call *c)
{
	static const char *const states[] = { "queued",    "running",
		                              "succeeded", "failed",
		                              "cancelled", NULL };
	char vm_room[PARAM_MAX];
	const char *state = call_word(c, "state", states);
	const char *name = call_query(c, "vm", vm_room, sizeof(vm_room));
	s64 limit = call_number(c, "limit", 1, LIST_MAX, LIST_USUAL);
	s64 before = call_number(c, "before", 0, INT64_MAX, INT64_MAX);

	json_t *projects;

	if (c->status >= 400)
		return;
	projects = caller_projects(&c->caller, RIGHT_READ);
	call_list(c, "tasks", task_row_json,
	          "SELECT " TASK_COLUMNS " FROM tasks"
	          " WHERE id < ?1 AND (?2 IS NULL OR state = ?2)"
	          " AND (?3 IS NULL OR vm_name = ?3 OR vm_id = ?3)"
	          " AND " PROJECT_AMONG("?5") " ORDER BY id DESC LIMIT ?4",
	          "ittij", before, state, name, limit, projects);
	json_decref(projects);
	put_live(c->daemon, json_object_get(c->reply, "tasks"));
}

static s64 task_id(struct call *c)
{
	char words[200];
	u64 id = 0;

	if (parse_u64(c->params[0], 1, INT64_MAX, &id, NULL) < 0) {
		snprintf(words, sizeof(words), "there is no task %s",
		         c->params[0]);
		call_fail(c, "not-found", words, "");
	}
	return (s64)id;
}

void api_task_get(struct call *c)
{
	s64 wait = call_number(c, "wait", 0, WAIT_MAX_S, 0);
	s64 id = c->status >= 400 ? 0 : task_id(c);
	char words[64];

	if (!id)
		return;
	c->reply = task_find_json(c->daemon, id);
	if (!c->reply) {
		snprintf(words, sizeof(words), "there is no task %" PRId64, id);
		call_fail(c, "not-found", words, "old ones are forgotten");
		return;
	}
	c->status = 200;
	if (wait && task_find_active(c->daemon, id))
		stream_task(c, id, (u64)wait * NSEC_PER_SEC);
}

static void cancel(struct call *c, void *ctx)
{
	/* It may have ended meanwhile. */
	struct task *t = task_find_active(c->daemon, *(s64 *)ctx);

	if (t)
		task_cancel(t);
	free(ctx);
}

void api_task_cancel(struct call *c)
{
	s64 id = task_id(c), *kept;

	if (!id)
		return;
	c->reply = task_find_json(c->daemon, id);
	if (!c->reply) {
		call_fail(c, "not-found", "there is no such task",
		          "old ones are forgotten");
		return;
	}
	if (!task_find_active(c->daemon, id)) {
		call_fail(c, "conflict", "the task has ended", "");
		return;
	}
	kept = malloc(sizeof(*kept));
	if (!kept) {
		call_fail(c, "internal", "no memory", "");
		return;
	}
	*kept = id;
	c->status = 202;
	c->apply = cancel;
	c->drop = free;
	c->ctx = kept;
}

/* ---- events ---- */

#define SOME_EVENTS                                                            \
	"SELECT " EVENT_COLUMNS                                                \
	" FROM events WHERE id > ?1 AND " PROJECT_AMONG("?3")

void api_event_list(struct call *c)
{
	bool stream =
	    strstr(c->http->headers[HTTP_ACCEPT], "text/event-stream") != NULL;
	const char *seen = c->http->headers[HTTP_LAST_EVENT_ID];
	s64 after = call_number(c, "after", 0, INT64_MAX,
	                        stream ? c->daemon->last_event : 0);
	s64 limit = call_number(c, "limit", 1, LIST_MAX, LIST_USUAL);
	json_t *projects;
	bool newest;
	u64 number;

	if (c->status >= 400 || !call_flag(c, "newest", &newest))
		return;
	if (stream) {
		if (seen[0] &&
		    parse_u64(seen, 0, INT64_MAX, &number, NULL) == 0)
			after = (s64)number;
		stream_events(c, after);
		return;
	}
	projects = caller_projects(&c->caller, RIGHT_READ);
	call_list(c, "events", event_row_json,
	          newest ? LAST_OF(SOME_EVENTS) : FIRST_OF(SOME_EVENTS), "iij",
	          after, limit, projects);
	json_decref(projects);
	if (c->status == 200)
		json_object_set_new(
		    c->reply, "last",
		    json_integer((json_int_t)c->daemon->last_event));
}
