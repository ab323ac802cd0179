/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restore - the task that gives a new machine the disks of a backup: copies, so
 * that neither needs the other afterwards.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/store.h"

static const char *backup_of(const struct task *t)
{
	return json_string_value(json_object_get(t->params, "backup"));
}

static bool of_image(const struct vm *vm)
{
	return json_object_get(vm->spec, "image") != NULL;
}

char *backup_restored_disk(const struct daemon *d, const char *vm, bool image,
                           int disk)
{
	return image && disk == 0
	           ? xasprintf("%s/machines/%s/root.qcow2", d->place.state, vm)
	           : xasprintf("%s/machines/%s/disk-%d.qcow2", d->place.state,
	                       vm, disk);
}

int backup_link_boot(const char *kept, const struct vm *vm, struct error *err)
{
	static const char *const files[] = { "vmlinuz", "initrd",
		                             "manifest.json" };
	char *folder = vm_folder_path(vm);
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(files); i++) {
		char *from = xasprintf("%s/%s", kept, files[i]);
		char *to = xasprintf("%s/%s", folder, files[i]);

		if (link(from, to) < 0 && errno != EEXIST && errno != ENOENT)
			rc = error_set(err, -errno, "%s: %s", to,
			               strerror(errno));
		free(from);
		free(to);
	}
	free(folder);
	return rc;
}

static void whole(struct task *t)
{
	char *kept = backup_path(t->vm->daemon, backup_of(t), false);
	struct error err = { 0 };
	int rc = of_image(t->vm) ? backup_link_boot(kept, t->vm, &err) : 0;

	free(kept);
	if (rc == 0)
		rc = store_run(t->vm->daemon->store, &err,
		               "UPDATE vms SET prepared = 1 WHERE id = ?", "t",
		               t->vm->id);
	if (rc < 0) {
		task_fail(t, error_code_of(rc), err.text, err.hint);
		return;
	}
	t->vm->prepared = true;
	task_succeed(t, json_pack("{s:s}", "backup", backup_of(t)));
}

static void over(void *ctx, const char *words);

static void next_disk(struct task *t)
{
	struct daemon *d = t->vm->daemon;
	json_t *head = backup_find(d, backup_of(t));
	json_t *disk =
	    json_array_get(json_object_get(head, "disks"), (size_t)t->step);
	int n = (int)json_integer_value(json_object_get(disk, "disk"));
	struct error err = { 0 };
	char *from, *to;

	if (!head) {
		task_fail(t, "not-found", "the backup is gone", "");
	} else if (!disk) {
		whole(t);
	} else {
		from = backup_file(d, backup_of(t), false, n);
		to = backup_restored_disk(d, t->vm->id, of_image(t->vm), n);
		const char *arguments[] = {
			"atoll",      "disk",   "convert", "--from=qcow2",
			"--to=qcow2", "--sync", "--force", "--",
			from,         to,       NULL
		};

		task_progress(t, MIN(t->step * 20, 90), "copying its disks");
		t->job = job_start(d->loop, arguments, over, t, &err);
		if (!t->job)
			task_fail(t, error_code_of(err.code), err.text,
			          err.hint);
		free(from);
		free(to);
	}
	json_decref(head);
}

static void over(void *ctx, const char *words)
{
	struct task *t = ctx;

	t->job = NULL;
	if (words && strncmp(words, "error: ", 7) == 0)
		words += 7;
	if (t->cancelling) {
		task_cancelled(t, "cancelled while its disks were copied");
	} else if (words) {
		task_fail(t, "storage", words,
		          "delete the machine, and restore it again");
	} else {
		t->step++;
		next_disk(t);
	}
}

void backup_restore_begin(struct task *t)
{
	struct error err = { 0 };
	int folder = vm_folder(t->vm, &err);

	if (folder < 0) {
		task_fail(t, error_code_of(folder), err.text, err.hint);
		return;
	}
	close(folder);
	t->step = 0;
	next_disk(t);
}

void backup_restore_changed(struct task *t)
{
	(void)t; /* moved on by its jobs alone */
}

void backup_restore_cancel(struct task *t)
{
	job_kill(t->job);
}
