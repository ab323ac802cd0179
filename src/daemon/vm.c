/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm - the machines there are, and what becomes of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/console_log.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"
#include "daemon/limits/limits.h"
#include "daemon/moment/moment.h"
#include "daemon/store.h"
#include "daemon/watch/watch.h"

/* Back-off of restarts, doubled each time; a run that long was a good one. */
enum { RESTART_FIRST_MS = 1000, RESTART_MOST_MS = 60000, GOOD_RUN_S = 60 };
enum { DISPOSE_MS = 50 };

bool vm_is_up(const struct vm *vm)
{
	return vm->state == VM_RUNNING || vm->state == VM_PAUSED;
}

const char *vm_state_name(enum vm_state state)
{
	static const char *const names[] = { "stopped", "starting", "running",
		                             "paused" };

	return names[state];
}

const char *vm_project(const struct vm *vm)
{
	const char *name =
	    json_string_value(json_object_get(vm->spec, "project"));

	return name ? name : "default"; /* of a registry from before */
}

bool vm_expired(const struct vm *vm, s64 now)
{
	s64 end =
	    time_parse(json_string_value(json_object_get(vm->spec, "expires")));

	return end >= 0 && end <= now;
}

static void restart_due(void *ctx);

struct vm *vm_new(struct daemon *d, json_t *spec)
{
	struct vm *vm = xalloc(sizeof(*vm));

	vm->daemon = d;
	vm->spec = spec;
	vm->name = xstrdup(json_string_value(json_object_get(spec, "name")));
	vm->revision = 1;
	time_now(vm->created);
	memcpy(vm->updated, vm->created, TIME_SIZE);
	memcpy(vm->since, vm->created, TIME_SIZE);
	loop_timer_init(&vm->restart, d->loop, restart_due, vm);
	return vm;
}

void vm_free(struct vm *vm)
{
	struct task *t;

	if (!vm)
		return;
	holder_forget(vm);
	guest_still_forget(vm);
	guest_gone(vm);
	watch_vm_free(vm);
	loop_timer_fini(&vm->restart);
	while ((t = vm->queue)) {
		vm->queue = t->next;
		task_free(t);
	}
	vm_set_spec(vm, NULL);
	json_decref(vm->last_end);
	free(vm->name);
	free(vm);
}

void vm_insert(struct vm *vm)
{
	struct vm **at = &vm->daemon->vms;

	while (*at && strcmp((*at)->name, vm->name) < 0)
		at = &(*at)->next;
	vm->next = *at;
	*at = vm;
	vm->daemon->vm_count++;
}

static void unlink_vm(struct vm *vm)
{
	struct vm **at = &vm->daemon->vms;

	while (*at && *at != vm)
		at = &(*at)->next;
	if (!*at)
		return;
	*at = vm->next;
	vm->daemon->vm_count--;
}

void vm_remove(struct vm *vm)
{
	unlink_vm(vm);
	alarms_forget(vm->daemon, vm->id);
	history_forget(watch_history(vm->daemon), vm->id);
	streams_vm_gone(vm);
}

void vm_reorder(struct vm *vm)
{
	unlink_vm(vm);
	vm_insert(vm);
}

struct vm *vm_find(struct daemon *d, const char *name)
{
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (!vm->deleted &&
		    (strcmp(vm->name, name) == 0 || strcmp(vm->id, name) == 0))
			return vm;
	return NULL;
}

static int load_one(void *ctx, struct row *row)
{
	struct daemon *d = ctx;
	json_t *spec = row_json(row, 1);
	const char *at;
	struct vm *vm;

	if (!spec || !json_string_value(json_object_get(spec, "name"))) {
		log_error("daemon", "machine %s in the registry is damaged",
		          row_text(row, 0));
		json_decref(spec);
		return 0;
	}
	vm = vm_new(d, spec);
	snprintf(vm->id, ID_SIZE, "%s", row_text(row, 0));
	vm->revision = row_int(row, 2);
	snprintf(vm->created, TIME_SIZE, "%s", row_text(row, 3));
	snprintf(vm->updated, TIME_SIZE, "%s", row_text(row, 4));
	vm->wanted = row_int(row, 5) != 0;
	vm->run = row_int(row, 6);
	vm->run_revision = row_int(row, 7);
	vm->prepared = row_int(row, 8) != 0;
	vm->last_end = row_json(row, 9);
	at = json_string_value(json_object_get(vm->last_end, "at"));
	snprintf(vm->since, TIME_SIZE, "%s", at ? at : vm->created);
	saved_look(vm);
	vm_insert(vm);
	return 0;
}

int vm_load_all(struct daemon *d, struct error *err)
{
	return store_query(d->store, load_one, d, err,
	                   "SELECT id, spec, revision, created, updated,"
	                   " wanted, run, run_revision, prepared, last_end"
	                   " FROM vms ORDER BY name DESC",
	                   "");
}

void vm_free_all(struct daemon *d)
{
	struct vm *vm;

	while ((vm = d->vms)) {
		d->vms = vm->next;
		vm_free(vm);
	}
	task_free_all(d);
}

char *vm_folder_path(const struct vm *vm)
{
	return xasprintf("%s/machines/%s", vm->daemon->place.state, vm->id);
}

int vm_folder(const struct vm *vm, struct error *err)
{
	char *path = vm_folder_path(vm);
	int fd = -1, rc;

	rc = vm->deleted ? error_set(err, -ENOENT, "%s is deleted", vm->name)
	                 : place_make(path, err);
	if (rc == 0) {
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			rc = error_set(err, -errno, "%s: %s", path,
			               strerror(errno));
	}
	free(path);
	return rc < 0 ? rc : fd;
}

void vm_set_spec(struct vm *vm, json_t *spec)
{
	json_decref(vm->spec);
	vm->spec = spec;
	for (size_t i = 0; i < ARRAY_SIZE(vm->spec_text); i++) {
		free(vm->spec_text[i]);
		vm->spec_text[i] = NULL;
	}
}

json_t *vm_head_json(const struct vm *vm)
{
	json_t *o = json_object();

	json_object_set_new(o, "id", json_string(vm->id));
	json_object_set_new(o, "name", json_string(vm->name));
	json_object_set_new(o, "state", json_string(vm_state_name(vm->state)));
	json_object_set_new(o, "since", json_string(vm->since));
	json_object_set_new(o, "wanted",
	                    json_string(vm->wanted ? "running" : "stopped"));
	json_object_set_new(o, "revision", json_integer(vm->revision));
	json_object_set_new(o, "restart_needed",
	                    json_boolean(vm->state != VM_STOPPED &&
	                                 vm->run_revision != vm->revision));
	json_object_set_new(o, "saved", json_boolean(vm->saved));
	json_object_set_new(o, "restarts", json_integer(vm->restarts));
	json_object_set_new(o, "pid",
	                    vm->pid ? json_integer(vm->pid) : json_null());
	json_object_set_new(
	    o, "task", vm->queue ? json_integer(vm->queue->id) : json_null());
	json_object_set_new(o, "last_end",
	                    vm->last_end ? json_incref(vm->last_end)
	                                 : json_null());
	json_object_set_new(o, "created", json_string(vm->created));
	json_object_set_new(o, "updated", json_string(vm->updated));
	json_object_set_new(o, "agent",
	                    vm->guest ? guest_json(vm) : json_null());
	return o;
}

json_t *vm_json(const struct vm *vm)
{
	json_t *o = vm_head_json(vm);

	json_object_set(o, "spec", vm->spec);
	return o;
}

void vm_set_wanted(struct vm *vm, bool wanted)
{
	struct error err = { 0 };

	loop_timer_cancel(&vm->restart);
	vm->restart_open = false;
	if (vm->wanted == wanted)
		return;
	vm->wanted = wanted;
	if (store_run(vm->daemon->store, &err,
	              "UPDATE vms SET wanted = ? WHERE id = ?", "it",
	              (s64)wanted, vm->id) < 0)
		log_error("daemon", "%s: %s", vm->name, err.text);
}

char *vm_socket_path(const struct vm *vm)
{
	return xasprintf("%s/machines/%s.sock", vm->daemon->place.runtime,
	                 vm->id);
}

void vm_set_state(struct vm *vm, enum vm_state state)
{
	if (vm->state == state)
		return;
	vm->state = state;
	time_now(vm->since);
	if (state == VM_STOPPED)
		vm->pid = 0;
	event_emit(vm->daemon, "vm.state", vm, 0,
	           json_pack("{s:s}", "state", vm_state_name(state)));
}

void vm_came_up(struct vm *vm, enum vm_state state)
{
	if (vm->state == VM_STOPPED || vm->state == VM_STARTING)
		vm->running_ns = loop_now_ns();
	vm->saved = false;
	vm_set_state(vm, state);
	limits_apply(vm);
	operate_changed(vm);
}

static bool failed(json_t *end)
{
	const char *cause = json_string_value(json_object_get(end, "cause"));
	s64 code = json_integer_value(json_object_get(end, "code"));

	/* debug-exit: 1 is what a guest that is content writes. */
	if (cause && strcmp(cause, "guest-exit") == 0)
		return code > 1;
	return !cause || (strcmp(cause, "power-off") != 0 &&
	                  strcmp(cause, "suspended") != 0);
}

static bool is_disposable(const struct vm *vm)
{
	return json_is_true(json_object_get(vm->spec, "disposable"));
}

void vm_delete_soon(struct vm *vm, const char *caller)
{
	struct error err = { 0 };
	struct task *t = task_new(vm, "delete", json_pack("{s:b}", "force", 1),
	                          caller, &err);

	vm->arriving = false;
	if (t)
		task_enqueue_urgent(t);
	else
		log_error("daemon", "%s: %s", vm->name, err.text);
}

static void dispose_later(struct vm *vm)
{
	loop_timer_arm(&vm->restart,
	               loop_now_ns() + DISPOSE_MS * NSEC_PER_MSEC);
}

/* Once its queue is empty: what is in it may start it again. */
static void dispose(struct vm *vm)
{
	if (vm->state != VM_STOPPED || vm->holder || vm->deleted)
		return;
	if (vm->queue || vm->arriving)
		dispose_later(vm);
	else
		vm_delete_soon(vm, "disposable");
}

/* What is in its queue may start it again, or stop it: then that is waited
 * for. */
static void plan_restart(struct vm *vm, json_t *end)
{
	json_t *restart = json_object_get(vm->spec, "restart");
	const char *policy =
	    json_string_value(json_object_get(restart, "policy"));
	s64 most = json_integer_value(json_object_get(restart, "max_attempts"));
	u64 now = loop_now_ns(), wait_ms = RESTART_FIRST_MS;

	if (is_disposable(vm)) {
		dispose_later(vm);
		return;
	}
	if (!vm->wanted)
		return;
	if (vm->queue) {
		vm->restart_open = true;
		loop_timer_arm(&vm->restart,
		               now + RESTART_FIRST_MS * NSEC_PER_MSEC);
		return;
	}
	if (strcmp(policy, "no") == 0 ||
	    (strcmp(policy, "on-failure") == 0 && !failed(end))) {
		vm_set_wanted(vm, false);
		return;
	}
	if (vm->running_ns && now - vm->running_ns > GOOD_RUN_S * NSEC_PER_SEC)
		vm->restarts = 0;
	if (most && vm->restarts >= most) {
		event_emit(vm->daemon, "vm.restart-given-up", vm, 0,
		           json_pack("{s:i}", "attempts", vm->restarts));
		vm_set_wanted(vm, false);
		return;
	}
	for (unsigned i = 0; i < vm->restarts && wait_ms < RESTART_MOST_MS; i++)
		wait_ms *= 2;
	wait_ms = MIN(wait_ms, (u64)RESTART_MOST_MS);
	event_emit(vm->daemon, "vm.restart-planned", vm, 0,
	           json_pack("{s:I, s:i}", "in_ms", (json_int_t)wait_ms,
	                     "attempt", (int)vm->restarts + 1));
	loop_timer_arm(&vm->restart, now + wait_ms * NSEC_PER_MSEC);
}

/* A start that nobody asked for just now. */
static void start_by_policy(struct vm *vm, const char *caller)
{
	struct error err = { 0 };
	struct task *t = task_new(vm, "start", json_object(), caller, &err);

	if (t)
		task_enqueue(t);
	else
		log_error("daemon", "%s: %s", vm->name, err.text);
}

static void restart_due(void *ctx)
{
	struct vm *vm = ctx;

	if (is_disposable(vm)) {
		dispose(vm);
		return;
	}
	if (vm->state != VM_STOPPED || !vm->wanted)
		return;
	if (vm->restart_open) {
		vm->restart_open = false;
		plan_restart(vm, vm->last_end);
		return;
	}
	if (vm->queue)
		return;
	vm->restarts++;
	start_by_policy(vm, "restart policy");
}

void vm_ended(struct vm *vm, json_t *end)
{
	struct error err = { 0 };
	char now[TIME_SIZE];

	time_now(now);
	if (!json_object_get(end, "at"))
		json_object_set_new(end, "at", json_string(now));
	limits_explain(vm, end);
	json_decref(vm->last_end);
	vm->last_end = json_incref(end);
	if (store_run(vm->daemon->store, &err,
	              "UPDATE vms SET last_end = ? WHERE id = ?", "jt", end,
	              vm->id) < 0)
		log_error("daemon", "%s: %s", vm->name, err.text);
	saved_look(vm);
	vm_set_state(vm, VM_STOPPED);
	guest_gone(vm);
	limits_vm_ended(vm);
	event_emit(vm->daemon, "vm.ended", vm, 0, json_incref(end));
	operate_changed(vm);
	plan_restart(vm, end);
	streams_console(vm);
	json_decref(end);
}

void vm_console_grew(struct vm *vm, u64 end)
{
	vm->console_end = end;
	streams_console(vm);
}

static int by_order(const void *a, const void *b)
{
	struct vm *const *x = a, *const *y = b;
	s64 i = json_integer_value(
	    json_object_get(json_object_get((*x)->spec, "autostart"), "order"));
	s64 j = json_integer_value(
	    json_object_get(json_object_get((*y)->spec, "autostart"), "order"));

	return i < j ? -1 : i > j;
}

/*
 * After a boot of the host: those that are to start with it. Otherwise: those
 * that should run and ended while no daemon was there.
 */
void vm_autostart(struct daemon *d, bool host_booted)
{
	struct vm **list = try_alloc(d->vm_count + 1, sizeof(struct vm *));
	size_t n = 0;

	for (struct vm *vm = d->vms; list && vm; vm = vm->next) {
		json_t *a = json_object_get(vm->spec, "autostart");

		if (vm->state != VM_STOPPED || vm->holder || vm->queue)
			continue;
		if (is_disposable(vm) && vm->run)
			dispose_later(vm);
		if (host_booted && json_is_true(json_object_get(a, "enabled")))
			list[n++] = vm;
		else if (!host_booted && vm->wanted)
			plan_restart(vm, vm->last_end);
		else if (host_booted)
			vm_set_wanted(vm, false);
	}
	if (list)
		qsort(list, n, sizeof(struct vm *), by_order);
	for (size_t i = 0; i < n; i++) {
		vm_set_wanted(list[i], true);
		start_by_policy(list[i], "autostart");
	}
	free(list);
}
