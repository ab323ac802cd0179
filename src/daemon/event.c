/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event - what happened, in order, kept for those who ask later.
 */
#include <stdlib.h>

#include "base/log.h"
#include "daemon/api.h"
#include "daemon/daemon.h"
#include "daemon/store.h"

enum { KEPT = 20000 };

json_t *event_row_json(struct row *row)
{
	json_t *o =
	    json_pack("{s:I, s:s, s:s}", "id", (json_int_t)row_int(row, 0),
	              "at", row_text(row, 1), "type", row_text(row, 2));

	json_object_set_new(
	    o, "vm",
	    row_text(row, 3) ? json_pack("{s:s, s:s}", "id", row_text(row, 3),
	                                 "name", row_text(row, 4))
			     : json_null());
	json_object_set_new(o, "task",
	                    row_int(row, 5) ? json_integer(row_int(row, 5))
	                                    : json_null());
	json_object_set_new(o, "data", row_json(row, 6));
	json_object_set_new(o, "project",
	                    row_text(row, 7) ? json_string(row_text(row, 7))
	                                     : json_null());
	return o;
}

static void emit(struct daemon *d, const char *type, const struct vm *vm,
                 const char *project, s64 task, json_t *data)
{
	struct error err = { 0 };
	char at[TIME_SIZE];

	time_now(at);
	if (!data)
		data = json_object();
	if (store_run(d->store, &err,
	              "INSERT INTO events(at, type, vm_id, vm_name, task, data,"
	              " project) VALUES(?, ?, ?, ?, ?, ?, ?)",
	              "ttttijt", at, type, vm ? vm->id : NULL,
	              vm ? vm->name : NULL, task, data, project) < 0) {
		/* The stream has it all the same, under the next number. */
		log_error("daemon", "event %s: %s", type, err.text);
	} else {
		d->last_event = store_last_id(d->store);
		if (d->last_event % 256 == 0)
			store_run(d->store, NULL,
			          "DELETE FROM events WHERE id <= ?", "i",
			          d->last_event - KEPT);
		streams_event(d);
	}
	json_decref(data);
}

void event_emit(struct daemon *d, const char *type, const struct vm *vm,
                s64 task, json_t *data)
{
	emit(d, type, vm, vm ? vm_project(vm) : NULL, task, data);
}

void event_emit_task(const struct task *t, json_t *data)
{
	emit(t->daemon, "task.state", t->vm,
	     t->vm           ? vm_project(t->vm)
	     : t->project[0] ? t->project
	                     : NULL,
	     t->id, data);
}

void event_emit_in(struct daemon *d, const char *project, const char *type,
                   json_t *data)
{
	emit(d, type, NULL, project, 0, data);
}
