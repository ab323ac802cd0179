/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork - the task that makes copies of a machine that runs.
 *
 * The copies are in the registry from the moment that they were asked for:
 * their names are taken, and they count in quotas. Until the task has ended
 * what is asked of them waits in their queues (vm->arriving). Holders are
 * started, and wait; then a process of its own (cli/fork_kept.c) makes disks,
 * asks the machine for its moment and tells the holders. What becomes of the
 * copies is decided in one place, fork_ended(), however the task ends: those
 * that came to be are machines as others, the rest is deleted.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/guest/identity.h"
#include "daemon/limits/limits.h"
#include "daemon/moment/moment.h"
#include "daemon/store.h"

enum { FIRST, AT_IT, ARRIVING };
enum { TICK_MS = 20, ARRIVE_S = 60 };

static json_t *copies_of(const struct task *t)
{
	return json_object_get(t->params, "copies");
}

static const char *text(json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static struct vm *copy_vm(const struct task *t, json_t *copy)
{
	const char *id = text(copy, "id");

	return id ? vm_find(t->vm->daemon, id) : NULL;
}

static char *document_path(const struct task *t)
{
	char *folder = vm_folder_path(t->vm);
	char *path = xasprintf("%s/fork.json", folder);

	free(folder);
	return path;
}

/* Of a machine that is gone: nobody makes them any more. */
static void orphaned(void *ctx)
{
	vm_delete_soon(ctx, "fork");
}

void fork_lost(struct daemon *d, json_t *params)
{
	json_t *copy;
	size_t i;

	json_array_foreach(json_object_get(params, "copies"), i, copy)
	{
		const char *id = text(copy, "id");
		struct vm *vm = id ? vm_find(d, id) : NULL;

		if (vm)
			loop_post(d->loop, orphaned, vm);
	}
}

void fork_loaded(struct task *t)
{
	struct vm *vm;
	json_t *copy;
	size_t i;

	json_array_foreach(copies_of(t), i, copy)
	{
		vm = copy_vm(t, copy);
		if (vm)
			vm->arriving = true;
	}
}

/* ---- holders that wait ---- */

/* code: what the API calls a failure, when the number does not tell. */
static int prepare(struct task *t, struct vm *vm, const char **code,
                   struct error *err)
{
	struct holder_start how = { .spec = vm->spec,
		                    .revision = vm->revision,
		                    .fork = true };
	int folder = vm_folder(vm, err), rc = folder < 0 ? folder : 0;
	char *from = vm_folder_path(t->vm);

	if (folder >= 0)
		close(folder);
	if (rc == 0 && json_object_get(vm->spec, "image"))
		rc = backup_give_boot(from, vm, err);
	free(from);
	if (rc == 0)
		rc = identity_want(vm, err);
	if (rc == 0) {
		rc = limits_admit(vm, err);
		*code = rc < 0 ? "no-capacity" : NULL;
	}
	if (rc == 0)
		rc = operate_prepare_start(vm, &how, err);
	if (rc == 0) {
		vm_set_state(vm, VM_STARTING);
		rc = holder_start(vm, &how, err);
		if (rc < 0)
			vm_set_state(vm, VM_STOPPED);
	}
	json_decref(how.machine);
	return rc;
}

static json_t *paths_of(struct vm *vm, struct error *err)
{
	json_t *machine = vm_resolve(vm, err), *disk, *list = json_array();
	size_t i;

	json_array_foreach(json_object_get(machine, "disks"), i, disk)
	{
		bool own = !json_is_true(json_object_get(disk, "readonly"));

		json_array_append_new(
		    list, own ? json_incref(json_object_get(disk, "path"))
			      : json_null());
	}
	json_decref(machine);
	return list;
}

/* What a machine's part of the document has in common. */
static json_t *place_of(const struct vm *vm)
{
	char *folder = vm_folder_path(vm), *at = vm_socket_path(vm);
	json_t *o = json_pack("{s:s, s:s, s:s}", "name", vm->name, "folder",
	                      folder, "socket", at);

	free(folder);
	free(at);
	return o;
}

static int prepare_all(struct task *t, json_t *document, const char **code,
                       struct error *err)
{
	json_t *list = json_array(), *copy, *place;
	struct vm *vm;
	size_t i;
	int rc = 0;

	json_object_set_new(document, "copies", list);
	json_array_foreach(copies_of(t), i, copy)
	{
		vm = copy_vm(t, copy);
		if (!vm)
			return error_set(err, -ENOENT, "the copy %s is gone",
			                 text(copy, "name"));
		rc = prepare(t, vm, code, err);
		if (rc < 0)
			return rc;
		place = place_of(vm);
		json_object_set_new(place, "disks", paths_of(vm, err));
		json_array_append_new(list, place);
	}
	return rc;
}

/* ---- the process ---- */

static void take_figures(struct task *t)
{
	json_t *told = NULL;

	if (t->out >= 0 && lseek(t->out, 0, SEEK_SET) == 0)
		told = json_loadfd(t->out, 0, NULL);
	json_decref(t->result);
	t->result = told;
}

/* It has been read, or is read by nobody any more: gone before it is written
 * down how this ended, after which nobody would look for it. */
static void drop_document(const struct task *t)
{
	char *path = document_path(t);

	unlink(path);
	free(path);
}

static void forked(void *ctx, const struct error *failed)
{
	struct task *t = ctx;

	t->job = NULL;
	drop_document(t);
	if (failed && t->cancelling) {
		task_cancelled(t, "cancelled; there are no copies");
	} else if (failed) {
		task_fail_job(t, failed);
	} else {
		take_figures(t);
		t->step = ARRIVING;
		fork_changed(t);
	}
}

static void start(struct task *t, json_t *document)
{
	char *path = document_path(t);
	char *word = xasprintf("--machine-document=%s", path);
	const char *arguments[] = { "atoll", "fork",      word,
		                    "--",    t->vm->name, NULL };
	struct error err = { 0 };

	t->step = AT_IT;
	t->out = memfd_create("fork", MFD_CLOEXEC);
	if (json_dump_file(document, path, JSON_COMPACT) < 0)
		error_set(&err, -EIO, "%s can't be written", path);
	else
		t->job = job_start_to(t->vm->daemon->loop, arguments, t->out,
		                      forked, t, &err);
	free(word);
	free(path);
	if (!t->job)
		task_fail_error(t, &err);
}

/* From here on an earlier daemon's work is looked for, not begun again. */
static int note_begun(struct task *t, struct error *err)
{
	json_object_set_new(t->params, "begun", json_true());
	return task_write_params(t, err);
}

static void begin_now(struct task *t)
{
	json_t *document = place_of(t->vm);
	struct error err = { 0 };
	const char *code = NULL;
	int rc = note_begun(t, &err);

	if (rc == 0)
		rc = prepare_all(t, document, &code, &err);
	if (rc == 0) {
		task_progress(t, 20, "copying the machine");
		start(t, document);
	} else {
		task_fail(t, code ? code : error_code_of(err.code), err.text,
		          err.hint);
	}
	json_decref(document);
}

void fork_begin(struct task *t)
{
	struct vm *vm = t->vm;

	t->deadline_ns = loop_now_ns() + ARRIVE_S * NSEC_PER_SEC;
	if (json_is_true(json_object_get(t->params, "begun"))) {
		drop_document(t);
		t->step = ARRIVING;
		fork_changed(t);
	} else if (vm->state == VM_STARTING) {
		task_arm_ms(t, TICK_MS);
	} else if (!vm_is_up(vm)) {
		task_fail(t, "conflict", "the machine does not run",
		          "start it first");
	} else if (vm->run_revision != vm->revision) {
		task_fail(t, "conflict",
		          "its definition was changed since it started: a copy "
		          "would be another machine",
		          "restart it first");
	} else {
		begin_now(t);
	}
}

/* ---- until they are there ---- */

static bool is_there(const struct vm *vm)
{
	return vm && vm_is_up(vm) && vm->run > 0;
}

/* How many run; those that are on their way are counted in *coming. */
static size_t arrived(const struct task *t, size_t *coming)
{
	size_t i, count = 0;
	json_t *copy;

	*coming = 0;
	json_array_foreach(copies_of(t), i, copy)
	{
		const struct vm *vm = copy_vm(t, copy);

		count += is_there(vm);
		*coming += vm && vm->holder && !vm_is_up(vm);
	}
	return count;
}

static void succeed(struct task *t)
{
	json_t *figures = t->result ? t->result : json_object();

	t->result = NULL;
	task_succeed(t, figures);
}

void fork_changed(struct task *t)
{
	size_t coming, wanted = json_array_size(copies_of(t)), count;

	if (t->step == FIRST) {
		fork_begin(t);
		return;
	}
	if (t->step != ARRIVING)
		return;
	count = arrived(t, &coming);
	if (count == wanted)
		succeed(t);
	else if (coming == 0 || loop_now_ns() >= t->deadline_ns)
		task_fail(t, coming ? "timeout" : "interrupted",
		          "not all copies came to be",
		          "those that did are there");
	else {
		task_progress(t, (int)(50 + count * 49 / wanted),
		              "starting the copies");
		task_arm_ms(t, TICK_MS);
	}
}

void fork_cancel(struct task *t)
{
	if (t->job)
		job_end(t->job);
	else if (t->step == FIRST)
		task_cancelled(t, "cancelled before it began");
	/* Else they are as good as there. */
}

/* ---- what becomes of them ---- */

static void keep(struct vm *vm)
{
	struct error err = { 0 };

	vm->arriving = false;
	if (store_run(vm->daemon->store, &err,
	              "UPDATE vms SET prepared = 1 WHERE id = ?", "t",
	              vm->id) < 0)
		log_error("daemon", "%s: %s", vm->name, err.text);
	vm->prepared = true;
	task_run_queue(vm);
}

void fork_ended(struct task *t)
{
	struct vm *vm;
	json_t *copy;
	size_t i;

	drop_document(t);
	json_array_foreach(copies_of(t), i, copy)
	{
		vm = copy_vm(t, copy);
		if (!vm || !vm->arriving)
			continue;
		/* After a failure of the work itself none is left. */
		if (is_there(vm) && t->step == ARRIVING)
			keep(vm);
		else
			vm_delete_soon(vm, t->caller);
	}
}
