/* SPDX-License-Identifier: Apache-2.0 */
/*
 * operate - what each kind of task does with its machine.
 *
 * A task is moved on by its machine's changes of state and by its own timer,
 * both through changed(); each looks at where the machine stands now, so that
 * it does not matter what brought it there, or whether an earlier daemon began
 * the task.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"
#include "daemon/image/image.h"
#include "daemon/limits/limits.h"
#include "daemon/moment/moment.h"
#include "daemon/network.h"
#include "daemon/store.h"

enum { START_S = 120, KILL_S = 30, ANSWER_S = 30, PRESS_S = 5 };
enum { TICK_MS = 500, SOON_MS = 20 };
enum { FIRST, PRESSED, FORCED, STARTING_AGAIN };

static void deadline_s(struct task *t, u64 seconds)
{
	t->deadline_ns = loop_now_ns() + seconds * NSEC_PER_SEC;
}

static bool late(const struct task *t)
{
	return loop_now_ns() >= t->deadline_ns;
}

static void say(struct vm *vm, const char *op)
{
	holder_request(vm, json_pack("{s:s}", "op", op), NULL, NULL);
}

static bool is_down(const struct vm *vm)
{
	return vm->state == VM_STOPPED && !vm->holder;
}

/* ---- start ---- */

/* What the image gives goes before what the definition says. */
static json_t *resolve(struct vm *vm, json_t *spec, struct error *err)
{
	json_t *machine = json_deep_copy(spec), *boot, *manifest, *disk;
	const char *own, *words;
	char *folder, *path, *line;
	struct stat st;
	bool clone;

	if (!json_object_get(machine, "image"))
		return machine;
	folder = vm_folder_path(vm);
	path = xasprintf("%s/manifest.json", folder);
	manifest = json_load_file(path, 0, NULL);
	free(path);
	words = json_string_value(json_object_get(manifest, "cmdline"));
	if (!words) {
		error_set(err, -EBADMSG,
		          "the machine's copy of its image is "
		          "damaged: manifest.json");
		json_decref(machine);
		json_decref(manifest);
		free(folder);
		return NULL;
	}
	boot = json_object_get(machine, "boot");
	own = json_string_value(json_object_get(boot, "cmdline"));
	line = xasprintf("%s systemd.hostname=%s%s%s", words, vm->name,
	                 own[0] ? " " : "", own);
	json_object_set_new(boot, "cmdline", json_string(line));
	free(line);
	if (!json_object_get(boot, "kernel")) {
		path = xasprintf("%s/vmlinuz", folder);
		json_object_set_new(boot, "kernel", json_string(path));
		free(path);
		path = xasprintf("%s/initrd", folder);
		/* Of an image that boots without one it is empty. */
		if (stat(path, &st) < 0 || st.st_size > 0)
			json_object_set_new(boot, "initrd", json_string(path));
		free(path);
	}
	path = xasprintf("%s/root.qcow2", folder);
	/* That of a copy is made while its holder waits. */
	clone = vm->arriving || access(path, F_OK) == 0;
	if (!clone) {
		free(path);
		path = xasprintf("%s/root.raw", folder);
	}
	disk = json_pack("{s:s, s:s, s:b}", "path", path, "format",
	                 clone ? "qcow2" : "raw", "readonly", 0);
	disk_limits_copy(disk, json_object_get(machine, "image_disk"));
	json_array_insert_new(json_object_get(machine, "disks"), 0, disk);
	free(path);
	free(folder);
	json_decref(manifest);
	return machine;
}

json_t *vm_resolve(struct vm *vm, struct error *err)
{
	return resolve(vm, vm->spec, err);
}

json_t *vm_disks(struct vm *vm, struct error *err)
{
	json_t *machine, *disks;

	if (vm_is_up(vm) && vm->run_disks)
		return json_incref(vm->run_disks);
	if (vm_is_up(vm) && vm->run_revision != vm->revision) {
		error_set(err, -EBUSY,
		          "which disks the machine has is being asked");
		error_hint(err, "try again");
		return NULL;
	}
	machine = vm_resolve(vm, err);
	disks = json_incref(json_object_get(machine, "disks"));
	json_decref(machine);
	return disks;
}

/* Written before the holder runs: a daemon that dies in between finds the
 * holder, and knows its run's number. */
static int count_run(struct vm *vm, s64 revision, struct error *err)
{
	int rc = store_run(vm->daemon->store, err,
	                   "UPDATE vms SET run = ?, run_revision = ?,"
	                   " wanted = 1 WHERE id = ?",
	                   "iit", vm->run + 1, revision, vm->id);

	if (rc < 0)
		return rc;
	vm->run++;
	vm->run_revision = revision;
	vm->wanted = true;
	loop_timer_cancel(&vm->restart);
	return 0;
}

/* As it is defined; or as it was when it was saved. */
static int what_to_start(struct vm *vm, struct holder_start *how,
                         struct error *err)
{
	json_t *then = NULL;
	int rc = 0;

	how->revision = vm->revision;
	if (vm->saved) {
		then = saved_read(vm, err);
		rc = then ? saved_fits(vm, then, err) : err->code;
	}
	if (rc == 0 && then) {
		how->spec = saved_spec(vm, then);
		how->restore =
		    json_pack("{s:O}", "copy", json_object_get(then, "copy"));
		how->revision =
		    json_integer_value(json_object_get(then, "revision"));
	} else if (rc == 0) {
		how->spec = json_incref(vm->spec);
	}
	json_decref(then);
	return rc;
}

int operate_prepare_start(struct vm *vm, struct holder_start *how,
                          struct error *err)
{
	int rc;

	how->machine = resolve(vm, how->spec, err);
	rc = how->machine ? network_resolve(vm->daemon, how->machine, err)
	                  : err->code;
	return rc < 0 ? rc : count_run(vm, how->revision, err);
}

static void launch(struct task *t)
{
	struct vm *vm = t->vm;
	struct error err = { 0 };
	struct holder_start how = { .machine = NULL };
	int rc;

	if (json_object_get(vm->spec, "image") && !vm->prepared) {
		task_fail(t, "conflict", "the machine's disk is not there yet",
		          "its prepare task says why: atoll task list "
		          "--vm NAME");
		return;
	}
	if (limits_admit(vm, &err) < 0) {
		vm_set_state(vm, VM_STOPPED);
		vm_set_wanted(vm, false);
		task_fail(t, "no-capacity", err.text, err.hint);
		return;
	}
	rc = what_to_start(vm, &how, &err);
	if (rc == 0)
		rc = operate_prepare_start(vm, &how, &err);
	if (rc == 0) {
		vm_set_state(vm, VM_STARTING);
		rc = holder_start(vm, &how, &err);
		if (rc == -EBUSY) {
			/* Of a run that is over, and on its way out. */
			task_arm_ms(t, SOON_MS);
			rc = late(t) ? rc : 0;
		}
	}
	json_decref(how.machine);
	json_decref(how.spec);
	json_decref(how.restore);
	if (rc < 0) {
		vm_set_state(vm, VM_STOPPED);
		vm_set_wanted(vm, false);
		task_fail_error(t, &err);
	}
}

static void fail_to_start(struct task *t)
{
	json_t *end = t->vm->last_end;
	const char *words = json_string_value(json_object_get(end, "words"));
	const char *hint = json_string_value(json_object_get(end, "hint"));
	char *more;

	/* A tiny guest may have run and ended before we looked. */
	if (json_object_get(end, "cause") &&
	    strcmp(json_string_value(json_object_get(end, "cause")),
	           "failure")) {
		task_succeed(
		    t, json_pack("{s:s, s:O}", "state", "stopped", "end", end));
		return;
	}
	more = t->vm->saved
	           ? xasprintf("%s%swhat was saved is kept; atoll vm start "
	                       "--discard boots without it",
	                       hint ? hint : "", hint ? "; " : "")
	           : xstrdup(hint ? hint : "");
	task_fail(t, "start-failed", words ? words : "it did not start", more);
	free(more);
}

static void start_changed(struct task *t)
{
	struct vm *vm = t->vm;

	if (vm_is_up(vm) && !t->cancelling) {
		task_succeed(
		    t, json_pack("{s:s}", "state", vm_state_name(vm->state)));
	} else if (is_down(vm)) {
		if (t->cancelling)
			task_cancelled(t, "cancelled while it started");
		else
			fail_to_start(t);
	} else if (!vm->holder && t->cancelling) {
		/* It waited for an earlier holder to go. */
		vm_set_state(vm, VM_STOPPED);
		vm_set_wanted(vm, false);
		task_cancelled(t, "cancelled before it started");
	} else if (!vm->holder) {
		launch(t);
	} else if (late(t) || t->cancelling) {
		if (t->step == FIRST && late(t))
			deadline_s(t, KILL_S);
		t->cancelling = true;
		say(vm, "kill");
		task_arm_ms(t, TICK_MS);
	} else {
		task_arm_ms(t, TICK_MS);
	}
}

static void start_begin(struct task *t)
{
	deadline_s(t, START_S);
	if (is_down(t->vm) &&
	    json_is_true(json_object_get(t->params, "discard")))
		saved_discard(t->vm);
	if (vm_is_up(t->vm))
		task_succeed(t, json_pack("{s:s, s:b}", "state",
		                          vm_state_name(t->vm->state),
		                          "already", 1));
	else if (t->vm->holder)
		task_arm_ms(t, TICK_MS);
	else
		launch(t);
}

void operate_start_begin(struct task *t)
{
	start_begin(t);
}

void operate_start_changed(struct task *t)
{
	start_changed(t);
}

/* ---- stop, restart ---- */

static bool forced(const struct task *t)
{
	return json_is_true(json_object_get(t->params, "force"));
}

static void arm_next_press(struct task *t)
{
	u64 now = loop_now_ns();
	u64 left = t->deadline_ns > now ? t->deadline_ns - now : 0;

	task_arm_ms(t, MIN(left / NSEC_PER_MSEC + 1, (u64)PRESS_S * 1000));
}

static void press(struct task *t)
{
	struct vm *vm = t->vm;

	if (vm->state == VM_PAUSED)
		say(vm, "resume");
	/* Its agent is surer to be heard than the button; both do no harm. */
	guest_shutdown(vm);
	say(vm, "powerdown");
	t->step = PRESSED;
	task_progress(t, 10, "the power button was pressed");
	arm_next_press(t);
}

static void stop_down(struct task *t)
{
	bool was_forced = t->step == FORCED;

	task_succeed(t, json_pack("{s:s, s:b}", "state", "stopped", "forced",
	                          was_forced));
}

static void stop_late(struct task *t)
{
	char words[128];

	if (forced(t)) {
		t->step = FORCED;
		task_progress(t, 50, "it did not stop by itself");
		say(t->vm, "quit");
		deadline_s(t, KILL_S);
		task_arm_ms(t, TICK_MS);
		return;
	}
	snprintf(words, sizeof(words),
	         "the guest of %.64s did not shut down in time", t->vm->name);
	vm_set_wanted(t->vm, true);
	task_fail(t, "timeout", words,
	          "ask again with force, or kill the machine");
}

static void wait_down(struct task *t)
{
	struct vm *vm = t->vm;

	if (t->cancelling) {
		vm_set_wanted(vm, true);
		task_cancelled(t, "cancelled; the guest may still shut down");
	} else if (t->step == FORCED) {
		if (late(t))
			say(vm, "kill");
		task_arm_ms(t, TICK_MS);
	} else if (late(t)) {
		stop_late(t);
	} else if (t->step == FIRST && vm_is_up(vm)) {
		press(t);
	} else if (t->step == PRESSED) {
		/* A guest that was still booting did not hear of it. */
		if (!t->timer.index)
			press(t);
	} else {
		task_arm_ms(t, TICK_MS);
	}
}

static void stop_changed(struct task *t)
{
	if (is_down(t->vm))
		stop_down(t);
	else
		wait_down(t);
}

static u64 stop_seconds(const struct task *t)
{
	json_t *asked = json_object_get(t->params, "timeout_s");

	if (!asked)
		asked = json_object_get(t->vm->spec, "stop_timeout_s");
	return (u64)json_integer_value(asked);
}

static void stop_begin(struct task *t)
{
	deadline_s(t, stop_seconds(t));
	vm_set_wanted(t->vm, false);
	stop_changed(t);
}

static void stop_cancel(struct task *t)
{
	stop_changed(t);
}

static void restart_changed(struct task *t)
{
	if (t->step == STARTING_AGAIN) {
		start_changed(t);
	} else if (is_down(t->vm) && !t->cancelling) {
		t->step = STARTING_AGAIN;
		start_begin(t);
	} else if (is_down(t->vm)) {
		task_cancelled(t, "cancelled when it had stopped");
	} else {
		wait_down(t);
	}
}

static void restart_begin(struct task *t)
{
	deadline_s(t, stop_seconds(t));
	restart_changed(t);
}

/* ---- kill ---- */

static void kill_changed(struct task *t)
{
	if (is_down(t->vm)) {
		task_succeed(t, json_pack("{s:s}", "state", "stopped"));
		return;
	}
	if (late(t)) {
		task_fail(t, "timeout", "the machine's process does not end",
		          "");
		return;
	}
	if (t->vm->holder)
		say(t->vm, "kill");
	task_arm_ms(t, SOON_MS * 5);
}

static void kill_begin(struct task *t)
{
	deadline_s(t, KILL_S);
	vm_set_wanted(t->vm, false);
	kill_changed(t);
}

/* A kill goes on: there is no way back. */
static void kill_cancel(struct task *t)
{
	t->cancelling = false;
}

/* ---- requests that atoll-vm answers at once ---- */

static void answered(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct task *t = ctx;

	if (ok)
		task_succeed(t, json_pack("{s:s}", "state",
		                          vm_state_name(t->vm->state)));
	else
		task_fail(t, "conflict", words, holder_hint(answer));
}

static void request_begin(struct task *t)
{
	if (t->vm->state == VM_STARTING) {
		/* Its turn comes when it runs. */
		deadline_s(t, START_S);
		task_arm_ms(t, TICK_MS);
		return;
	}
	if (!vm_is_up(t->vm)) {
		task_fail(t, "conflict", "the machine does not run",
		          "start it first");
		return;
	}
	deadline_s(t, ANSWER_S);
	task_arm_ms(t, ANSWER_S * 1000);
	t->step = PRESSED;
	holder_request(t->vm, json_pack("{s:s}", "op", t->kind), answered, t);
}

static void request_changed(struct task *t)
{
	if (late(t))
		task_fail(t, "timeout", "the machine's process does not answer",
		          "kill the machine");
	else if (t->step == FIRST)
		request_begin(t);
}

static void request_cancel(struct task *t)
{
	task_cancelled(t, "cancelled; it may have been done");
}

/* ---- prepare: the machine's own copy of its image ---- */

static void prepared(void *ctx, const struct error *failed)
{
	struct task *t = ctx;
	struct vm *vm = t->vm;
	struct error err = { 0 };

	t->job = NULL;
	if (t->cancelling) {
		task_cancelled(t, "cancelled while the image was copied");
		return;
	}
	if (failed) {
		task_fail(t, "storage", failed->text, failed->hint);
		return;
	}
	if (store_run(vm->daemon->store, &err,
	              "UPDATE vms SET prepared = 1 WHERE id = ?", "t",
	              vm->id) < 0) {
		task_fail_error(t, &err);
		return;
	}
	vm->prepared = true;
	task_succeed(t, NULL);
}

/* As `atoll image` keeps them: names/NAME leads to a folder. */
static char *image_folder(struct vm *vm, const char *name, struct error *err)
{
	char *path = xasprintf("%s/names/%s", vm->daemon->place.images, name);
	char *real = realpath(path, NULL);

	free(path);
	if (!real) {
		error_set(err, -ENOENT, "there is no image %s", name);
		error_hint(err, "atoll image list shows what there is; atoll "
		                "image build debian:12 makes one");
	}
	return real;
}

static void prepare_begin(struct task *t)
{
	const char *name =
	    json_string_value(json_object_get(t->vm->spec, "image"));
	struct error err = { 0 };
	char *image, *folder;
	int fd;

	if (!name || t->vm->prepared) {
		task_succeed(t, NULL);
		return;
	}
	image = image_folder(t->vm, name, &err);
	fd = image ? vm_folder(t->vm, &err) : err.code;
	folder = vm_folder_path(t->vm);
	if (fd >= 0) {
		bool full =
		    json_is_true(json_object_get(t->vm->spec, "full_copy"));
		const char *arguments[] = {
			"atoll-hold",           "--prepare", image, folder,
			full ? "--full" : NULL, NULL
		};

		close(fd);
		task_progress(t, 10,
		              full ? "copying the image"
		                   : "making its disk on the image");
		t->job = job_start(t->vm->daemon->loop, arguments, prepared, t,
		                   &err);
	}
	free(image);
	free(folder);
	if (!t->job)
		task_fail_error(t, &err);
}

static void prepare_changed(struct task *t)
{
	(void)t; /* moved on by its job alone */
}

static void prepare_cancel(struct task *t)
{
	job_kill(t->job);
}

/* ---- delete ---- */

void vm_discard_folder(struct daemon *d, const char *id)
{
	char *from = xasprintf("%s/machines/%s", d->place.state, id);
	char *trash = xasprintf("%s/trash", d->place.state);
	char *to = xasprintf("%s/%s", trash, id);

	if (place_make(trash, NULL) == 0 && rename(from, to) == 0)
		job_remove_folder(to);
	else if (errno != ENOENT)
		log_warn("daemon", "%s: %s", from, strerror(errno));
	free(from);
	free(trash);
	free(to);
}

/* Out of the registry first: a folder left over is found and removed by the
 * next daemon, a machine without its folder would be a loss. */
static void delete_now(struct task *t)
{
	struct vm *vm = t->vm;
	struct error err = { 0 };
	char *socket;

	if (store_run(vm->daemon->store, &err, "DELETE FROM vms WHERE id = ?",
	              "t", vm->id) < 0) {
		task_fail_error(t, &err);
		return;
	}
	vm->deleted = true;
	loop_timer_cancel(&vm->restart);
	socket = vm_socket_path(vm);
	unlink(socket);
	free(socket);
	vm_discard_folder(vm->daemon, vm->id);
	event_emit(vm->daemon, "vm.deleted", vm, t->id, NULL);
	task_succeed(t, NULL);
}

static void delete_changed(struct task *t)
{
	if (is_down(t->vm)) {
		delete_now(t);
	} else if (!forced(t)) {
		task_fail(t, "conflict", "the machine runs",
		          "stop it first, or delete it with force");
	} else if (late(t)) {
		task_fail(t, "timeout", "the machine's process does not end",
		          "");
	} else {
		say(t->vm, "kill");
		task_arm_ms(t, SOON_MS * 5);
	}
}

static void delete_begin(struct task *t)
{
	deadline_s(t, KILL_S);
	if (is_down(t->vm) || forced(t))
		vm_set_wanted(t->vm, false);
	delete_changed(t);
}

/* ---- the table ---- */

static const struct operation operations[] = {
	{ "start", true, start_begin, start_changed, start_changed },
	{ "stop", true, stop_begin, stop_changed, stop_cancel },
	{ "restart", true, restart_begin, restart_changed, restart_changed },
	{ "kill", true, kill_begin, kill_changed, kill_cancel },
	{ "powerdown", false, request_begin, request_changed, request_cancel },
	{ "pause", true, request_begin, request_changed, request_cancel },
	{ "resume", true, request_begin, request_changed, request_cancel },
	{ "reset", false, request_begin, request_changed, request_cancel },
	{ "prepare", true, prepare_begin, prepare_changed, prepare_cancel },
	{ "delete", true, delete_begin, delete_changed, kill_cancel },
	{ "backup", false, backup_work_begin, backup_work_changed,
	  backup_work_cancel },
	{ "restore", true, backup_restore_begin, backup_restore_changed,
	  backup_restore_cancel },
	{ "snapshot-create", true, moment_create_begin, moment_create_changed,
	  moment_cancel },
	{ "snapshot-revert", true, moment_revert_begin, moment_revert_changed,
	  moment_cancel },
	{ "snapshot-delete", true, moment_delete_begin, prepare_changed,
	  moment_cancel },
	{ "suspend", true, moment_suspend_begin, moment_suspend_changed,
	  moment_cancel },
	{ "fork", true, fork_begin, fork_changed, fork_cancel,
	  .loaded = fork_loaded, .ended = fork_ended },
	{ "image-import", true, image_import_begin, image_changed,
	  image_cancel },
	{ "image-build", true, image_build_begin, image_changed, image_cancel },
	{ "image-export", true, image_export_begin, image_changed,
	  image_cancel },
	{ "disk-snapshot", false, disk_work_begin, disk_work_changed,
	  disk_work_cancel },
	{ "disk-commit", false, disk_work_begin, disk_work_changed,
	  disk_work_cancel },
	{ "disk-rebase", false, disk_work_begin, disk_work_changed,
	  disk_work_cancel },
	{ "disk-mirror", false, disk_work_begin, disk_work_changed,
	  disk_work_cancel },
	{ "disk-backup", false, disk_work_begin, disk_work_changed,
	  disk_work_cancel },
};

const struct operation *operation_find(const char *kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		if (strcmp(operations[i].kind, kind) == 0)
			return &operations[i];
	return NULL;
}

void operate_changed(struct vm *vm)
{
	struct task *t = vm->queue;
	s64 ids[2] = { 0 };
	size_t n = 0;

	/* A long one, and one that passed it. Either may end by this, and
	 * others begin, which are told when they do. */
	for (; t && n < ARRAY_SIZE(ids); t = t->next)
		if (t->state == TASK_RUNNING)
			ids[n++] = t->id;
	for (size_t i = 0; i < n; i++) {
		t = task_find_active(vm->daemon, ids[i]);
		if (t && t->state == TASK_RUNNING)
			t->operation->changed(t);
	}
}
