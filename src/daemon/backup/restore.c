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

json_t *backup_new_spec(const struct daemon *d, json_t *of, const char *name,
                        const char *id)
{
	json_t *spec = json_deep_copy(of), *one;
	bool image = json_object_get(spec, "image") != NULL;
	size_t i;

	json_object_set_new(spec, "name", json_string(name));
	json_array_foreach(json_object_get(spec, "nics"), i, one)
	{
		json_object_del(one, "mac");
		json_object_del(one, "address");
	}
	json_array_foreach(json_object_get(spec, "disks"), i, one)
	{
		char *path;

		if (json_is_true(json_object_get(one, "readonly")))
			continue;
		path = backup_restored_disk(d, id, image, (int)i + image);
		json_object_set_new(one, "path", json_string(path));
		/* Whatever that one's is. */
		json_object_set_new(one, "format", json_string("qcow2"));
		free(path);
	}
	return spec;
}

int backup_link_boot(const char *from_folder, const char *to_folder, bool again,
                     struct error *err)
{
	static const char *const files[] = { "vmlinuz", "initrd",
		                             "manifest.json" };
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(files); i++) {
		char *from = xasprintf("%s/%s", from_folder, files[i]);
		char *to = xasprintf("%s/%s", to_folder, files[i]);

		if (link(from, to) < 0 && errno != ENOENT &&
		    !(again && errno == EEXIST))
			rc = error_set(err, -errno, "%s: %s", to,
			               strerror(errno));
		free(from);
		free(to);
	}
	return rc;
}

int backup_give_boot(const char *kept, const struct vm *vm, struct error *err)
{
	char *folder = vm_folder_path(vm);
	int rc = backup_link_boot(kept, folder, true, err);

	free(folder);
	return rc;
}

static void whole(struct task *t)
{
	char *kept = backup_path(t->vm->daemon, backup_of(t), false);
	struct error err = { 0 };
	int rc = of_image(t->vm) ? backup_give_boot(kept, t->vm, &err) : 0;

	free(kept);
	if (rc == 0)
		rc = store_run(t->vm->daemon->store, &err,
		               "UPDATE vms SET prepared = 1 WHERE id = ?", "t",
		               t->vm->id);
	if (rc < 0) {
		task_fail_error(t, &err);
		return;
	}
	t->vm->prepared = true;
	task_succeed(t, json_pack("{s:s}", "backup", backup_of(t)));
}

static void over(void *ctx, const struct error *failed);

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
			task_fail_error(t, &err);
		free(from);
		free(to);
	}
	json_decref(head);
}

static void over(void *ctx, const struct error *failed)
{
	struct task *t = ctx;

	t->job = NULL;
	if (t->cancelling) {
		task_cancelled(t, "cancelled while its disks were copied");
	} else if (failed) {
		task_fail(t, "storage", failed->text,
		          failed->hint[0]
		              ? failed->hint
		              : "delete the machine, and restore it again");
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
		task_fail_error(t, &err);
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
