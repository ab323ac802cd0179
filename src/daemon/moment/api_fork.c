/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_fork - copies of a machine that runs: their places in the registry, and
 * the task that makes them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "daemon/access/fields.h"
#include "daemon/access/quota.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/moment/moment.h"

enum { COPIES_MAX = 256, NAME_BYTES = 63 };

/* What is written down in the call, and comes to be after it. */
struct forked {
	struct vm **vms;
	size_t count;
	struct task *task;
};

/* ---- what was asked for ---- */

/* Names of the copies; NULL, and the call has failed. */
static json_t *names_of(struct call *c, const struct vm *vm)
{
	json_t *count = json_object_get(c->body, "count");
	json_t *name = json_object_get(c->body, "name");
	json_t *names = json_object_get(c->body, "names");
	const char *prefix = name ? json_string_value(name) : vm->name;
	json_int_t n = count ? json_integer_value(count) : 1;

	if (names) {
		if (!name && !count && json_is_array(names) &&
		    json_array_size(names) &&
		    json_array_size(names) <= COPIES_MAX)
			return json_incref(names);
		call_fail(c, "bad-request",
		          "names is a list of names, instead of count and "
		          "name",
		          "");
		return NULL;
	}
	if ((count && !json_is_integer(count)) || n < 1 || n > COPIES_MAX) {
		call_fail(c, "bad-request",
		          "count is not a whole number from 1 to 256", "");
		return NULL;
	}
	names = json_array();
	for (json_int_t i = 1; i <= n; i++)
		json_array_append_new(names,
		                      json_sprintf("%s-%" JSON_INTEGER_FORMAT,
		                                   prefix ? prefix : "/", i));
	return names;
}

/* Ports of the host are not shared. */
static json_t *definition(struct call *c, const struct vm *vm, const char *name,
                          const char *id, bool disposable)
{
	json_t *spec = backup_new_spec(c->daemon, vm->spec, name, id), *nic;
	size_t i;

	json_object_set_new(spec, "disposable", json_boolean(disposable));
	json_object_set_new(spec, "autostart",
	                    json_pack("{s:b, s:i}", "enabled", 0, "order", 0));
	json_array_foreach(json_object_get(spec, "nics"), i, nic)
	{
		json_object_set_new(nic, "publish", json_array());
	}
	return spec;
}

/* ---- the call ---- */

static void insert_all(struct call *c, void *ctx)
{
	struct forked *f = ctx;

	for (size_t i = 0; i < f->count; i++) {
		f->vms[i]->arriving = true;
		vm_insert(f->vms[i]);
		event_emit(c->daemon, "vm.created", f->vms[i], 0, NULL);
	}
	task_enqueue(f->task);
	free(f->vms);
	free(f);
}

static void drop_all(void *ctx)
{
	struct forked *f = ctx;

	for (size_t i = 0; i < f->count; i++)
		vm_free(f->vms[i]);
	task_free(f->task);
	free(f->vms);
	free(f);
}

static bool add_copy(struct call *c, struct forked *f, const struct vm *vm,
                     json_t *name, bool disposable, json_t *copies)
{
	const char *text = json_string_value(name);
	struct vm *copy;
	char id[ID_SIZE];
	json_t *spec;
	int rc;

	if (!text || !spec_name_valid(text)) {
		call_fail(c, "bad-request",
		          "the name of a copy is not a name for a machine", "");
		return false;
	}
	if (id_new(id, &c->err) < 0) {
		call_fail_error(c, -EIO);
		return false;
	}
	spec = definition(c, vm, text, id, disposable);
	if (!call_may_make_vm(c, spec, true)) {
		json_decref(spec);
		return false;
	}
	copy = vm_new(c->daemon, spec);
	f->vms[f->count++] = copy;
	memcpy(copy->id, id, ID_SIZE);
	rc = spec_fill(spec, &c->err);
	if (rc == 0)
		rc = call_write_vm(c, copy);
	if (rc == -EEXIST)
		error_set(&c->err, rc, "the name %s is there twice", text);
	if (rc < 0)
		call_fail_error(c, rc);
	json_array_append_new(copies,
	                      json_pack("{s:s, s:s}", "id", id, "name", text));
	return rc == 0;
}

static bool can_fork(struct call *c, const struct vm *vm)
{
	json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(vm->spec, "nics"), i, nic)
	{
		if (!json_object_get(nic, "tap"))
			continue;
		call_fail(c, "conflict",
		          "it has a tap interface of the host, which copies "
		          "can't share",
		          "");
		return false;
	}
	if (vm_is_up(vm) || vm->queue)
		return true;
	call_fail(c, "conflict", "the machine does not run", "start it first");
	return false;
}

static void make_all(struct call *c, struct vm *vm, json_t *names,
                     bool disposable)
{
	struct forked *f = xalloc(sizeof(*f));
	json_t *copies = json_array(), *name;
	size_t i;
	bool done = true;

	f->vms = xalloc(json_array_size(names) * sizeof(struct vm *));
	c->apply = insert_all;
	c->drop = drop_all;
	c->ctx = f;
	json_array_foreach(names, i, name)
	{
		done = done && add_copy(c, f, vm, name, disposable, copies);
	}
	if (!done) {
		json_decref(copies);
		return;
	}
	call_task_answer(
	    c, f->task = task_new(vm, "fork",
	                          json_pack("{s:o, s:b}", "copies", copies,
	                                    "disposable", disposable),
	                          c->caller.name, &c->err));
}

void api_vm_fork(struct call *c)
{
	static const char *const keys[] = { "count", "name", "names",
		                            "disposable", NULL };
	struct vm *vm = call_vm(c);
	bool disposable;
	json_t *names;

	if (!vm || !call_match(c, vm->revision) || !call_known_keys(c, keys) ||
	    !field_switch(c, "disposable", &disposable))
		return;
	names = names_of(c, vm);
	if (names && can_fork(c, vm) &&
	    quota_allows_copies(c, vm, (unsigned)json_array_size(names)))
		make_all(c, vm, names, disposable);
	json_decref(names);
}
