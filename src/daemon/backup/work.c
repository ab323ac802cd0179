/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work - the task that makes a backup: one disk after the other, each by a
 * process of its own (disk_work.c says why). The disks of a machine that runs
 * are copied as they were at one moment each, while the guest goes on; qcow2
 * images also record what is written from then on, and with the next backup
 * only that is copied. Of one that stands still the images are copied whole.
 *
 * Where it stands is in the head of the folder and in the task's step, which is
 * the number of the next disk.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/access/quota.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/guest/guest.h"
#include "daemon/words.h"

static const char *text(json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static const char *id_of(const struct task *t)
{
	return text(t->params, "backup");
}

/* ---- ends ---- */

static void tidy(struct task *t)
{
	struct error err = { 0 };

	if (backup_discard(t->vm->daemon, id_of(t), true, &err) < 0)
		log_warn("daemon", "%s", err.text);
}

static void fail(struct task *t, const struct error *err)
{
	tidy(t);
	task_fail(t, err->code == -EDQUOT ? "quota" : error_code_of(err->code),
	          err->text, err->hint);
}

/* Its project may have what is there of it by now. */
static int within_quota(struct task *t, json_t *head, struct error *err)
{
	json_int_t bytes = json_integer_value(json_object_get(head, "bytes"));

	return quota_allows_backup(t->vm->daemon, text(head, "project"),
	                           (u64)bytes, err);
}

static s64 size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? 0 : (s64)st.st_blocks * 512;
}

static int keep_boot(struct task *t, struct error *err)
{
	char *folder = vm_folder_path(t->vm);
	char *kept = backup_path(t->vm->daemon, id_of(t), true);
	int rc = backup_link_boot(folder, kept, false, err);

	free(folder);
	free(kept);
	return rc;
}

static void whole(struct task *t, json_t *head)
{
	struct daemon *d = t->vm->daemon;
	struct error err = { 0 };
	json_t *last;
	int rc = 0;

	if (json_object_get(t->vm->spec, "image"))
		rc = keep_boot(t, &err);
	if (rc == 0)
		rc = backup_finish(d, head, &err);
	if (rc < 0) {
		fail(t, &err);
		return;
	}
	if (text(head, "bitmap")) {
		last = json_pack("{s:s, s:s}", "backup", id_of(t), "bitmap",
		                 text(head, "bitmap"));
		/* Without it the next one is whole. */
		if (backup_set_last(d, t->vm->id, last, &err) < 0)
			log_warn("daemon", "%s", err.text);
		json_decref(last);
	}
	task_succeed(t, json_pack("{s:s, s:O}", "backup", id_of(t), "bytes",
	                          json_object_get(head, "bytes")));
}

/* ---- one disk ---- */

static bool records(json_t *disk)
{
	const char *format = text(disk, "format");

	return format && strcmp(format, "qcow2") == 0;
}

static void words_of_running(struct words *w, struct task *t, json_t *head,
                             json_t *disk)
{
	struct daemon *d = t->vm->daemon;
	const char *parent = text(head, "parent"), *format;

	format = text(disk, "format");
	words_add(w, xstrdup("atoll"));
	words_add(w, xstrdup("disk"));
	words_add(w, xstrdup("backup"));
	words_add_socket(w, t->vm);
	words_add(w, xasprintf("--machine-disk=%s", text(disk, "path")));
	words_add(w, xasprintf("--machine-format=%s", format ? format : "raw"));
	words_add(w, xstrdup("--format=qcow2"));
	if (records(disk)) {
		words_add(w, xasprintf("--bitmap=%s", text(head, "bitmap")));
		if (parent) {
			char *base = backup_file(d, parent, false, t->step);

			words_add(w, xasprintf("--base=%s", base));
			free(base);
		}
	}
	words_add(w, xstrdup("--"));
	words_add(w, xasprintf("%s:%d", t->vm->name, t->step));
}

static void words_of_stopped(struct words *w, json_t *disk)
{
	const char *format = text(disk, "format");

	words_add(w, xstrdup("atoll"));
	words_add(w, xstrdup("disk"));
	words_add(w, xstrdup("convert"));
	words_add(w, xasprintf("--from=%s", format ? format : "raw"));
	words_add(w, xstrdup("--to=qcow2"));
	words_add(w, xstrdup("--sync"));
	words_add(w, xstrdup("--"));
	words_add(w, xstrdup(text(disk, "path")));
}

static void over(void *ctx, const struct error *failed);

static bool is_live(json_t *head)
{
	return json_is_true(json_object_get(head, "live"));
}

static void start_disk(struct task *t, json_t *head, json_t *disk)
{
	struct daemon *d = t->vm->daemon;
	struct words w = { .count = 0 };
	struct error err = { 0 };
	char said[64];

	if (is_live(head))
		words_of_running(&w, t, head, disk);
	else
		words_of_stopped(&w, disk);
	words_add(&w, backup_file(d, id_of(t), true, t->step));
	snprintf(said, sizeof(said), "copying disk %d", t->step);
	task_progress(t, MIN(t->step * 20, 90), said);
	t->job = words_start(&w, d->loop, over, t, &err);
	if (!t->job)
		fail(t, &err);
}

static void go_on(struct task *t, json_t *head, bool held);

/* unfrozen: why the guest's file systems do not stand still, or NULL. */
static void held_still(struct task *t, const struct error *unfrozen)
{
	json_t *head = backup_head(t->vm->daemon, id_of(t), true);

	if (unfrozen) {
		tidy(t);
		task_fail(t, "conflict", unfrozen->text, unfrozen->hint);
	} else if (!head) {
		tidy(t);
		task_fail(t, "storage", "the backup's folder is damaged", "");
	} else {
		go_on(t, head, true);
	}
	json_decref(head);
}

/* The next disk that is written to, or the end. held: that disk's file systems
 * stand still, if they are to. */
static void go_on(struct task *t, json_t *head, bool held)
{
	bool freeze = json_is_true(json_object_get(t->params, "freeze"));
	struct error err = { 0 };
	json_t *disks = vm_disks(t->vm, &err), *disk;

	if (!disks) {
		fail(t, &err);
		return;
	}
	while ((disk = json_array_get(disks, (size_t)t->step)) &&
	       json_is_true(json_object_get(disk, "readonly")))
		t->step++;
	if (disk && freeze && !held && is_live(head))
		guest_hold_still(t, t->step, held_still);
	else if (disk)
		start_disk(t, head, disk);
	else
		whole(t, head);
	json_decref(disks);
}

static void disk_done(struct task *t, json_t *head)
{
	char *path = backup_file(t->vm->daemon, id_of(t), true, t->step);
	s64 bytes = size_of(path);
	struct error err = { 0 };
	int rc;

	free(path);
	json_array_append_new(json_object_get(head, "disks"),
	                      json_pack("{s:i, s:I}", "disk", t->step, "bytes",
	                                (json_int_t)bytes));
	json_object_set_new(
	    head, "bytes",
	    json_integer(json_integer_value(json_object_get(head, "bytes")) +
	                 bytes));
	rc = within_quota(t, head, &err);
	if (rc == 0)
		rc = backup_begin(t->vm->daemon, head, &err);
	t->step++;
	if (rc < 0)
		fail(t, &err);
	else
		go_on(t, head, false);
}

/* ---- records that nothing builds on any more ---- */

struct records {
	struct vm *vm; /* borrowed: it answers before it goes */
	int disk;
	char keep[32];
};

static json_t *of_bitmaps(int disk, const char *action, const char *name)
{
	return json_pack("{s:s, s:i, s:s, s:s*}", "op", "disk-bitmap", "disk",
	                 disk, "action", action, "name", name);
}

static void forget_old(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct records *r = ctx;
	json_t *bitmap;
	size_t i;

	(void)words;
	json_array_foreach(json_object_get(ok ? answer : NULL, "bitmaps"), i,
	                   bitmap)
	{
		const char *name = text(bitmap, "name");

		if (name && strncmp(name, "backup-", 7) == 0 &&
		    strcmp(name, r->keep))
			holder_request(r->vm,
			               of_bitmaps(r->disk, "delete", name),
			               NULL, NULL);
	}
	free(r);
}

/* Earlier backups' go, but for the name that this one records under. */
static void forget_records(struct task *t, json_t *disks, const char *keep)
{
	json_t *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		struct records *r;

		if (!records(disk))
			continue;
		r = xalloc(sizeof(*r));
		r->vm = t->vm;
		r->disk = (int)i;
		snprintf(r->keep, sizeof(r->keep), "%s", keep);
		holder_request(t->vm, of_bitmaps((int)i, "list", NULL),
		               forget_old, r);
	}
}

/* ---- the whole ---- */

/* From the beginning, on top of parent, or (NULL) whole. */
static void begin_anew(struct task *t, json_t *parent)
{
	struct daemon *d = t->vm->daemon;
	bool live = vm_is_up(t->vm);
	struct error err = { 0 };
	char at[TIME_SIZE], bitmap[32];
	json_t *head, *disks;
	int rc;

	time_now(at);
	snprintf(bitmap, sizeof(bitmap), "backup-%.8s", id_of(t));
	head = json_pack(
	    "{s:s, s:{s:s, s:s}, s:s, s:s, s:s, s:O?, s:b, s:i, s:[], s:O}",
	    "id", id_of(t), "vm", "id", t->vm->id, "name", t->vm->name,
	    "project", vm_project(t->vm), "at", at, "kind",
	    parent ? "incremental" : "full", "parent",
	    json_object_get(parent, "backup"), "live", live, "bytes", 0,
	    "disks", "spec",
	    live && t->vm->run_spec ? t->vm->run_spec : t->vm->spec);
	if (!parent)
		json_object_set_new(head, "parent", json_null());
	if (live)
		json_object_set_new(
		    head, "bitmap",
		    json_string(parent ? text(parent, "bitmap") : bitmap));
	if (live && !parent) {
		disks = vm_disks(t->vm, &err);
		forget_records(t, disks, bitmap);
		json_decref(disks);
	}
	if (json_is_true(json_object_get(t->params, "scheduled")))
		json_object_set_new(head, "scheduled", json_true());
	t->step = 0;
	rc = within_quota(t, head, &err);
	if (rc == 0)
		rc = backup_set_last(d, t->vm->id, NULL, &err);
	if (rc == 0)
		rc = backup_begin(d, head, &err);
	if (rc < 0)
		fail(t, &err);
	else
		go_on(t, head, false);
	json_decref(head);
}

/* Images of the first attempt are in the way of the second. */
static void begin_whole(struct task *t)
{
	tidy(t);
	begin_anew(t, NULL);
}

static void over(void *ctx, const struct error *failed)
{
	struct task *t = ctx;
	json_t *head = backup_head(t->vm->daemon, id_of(t), true);

	t->job = NULL;
	guest_go_on(t->vm);
	if (t->cancelling) {
		tidy(t);
		task_cancelled(t, "cancelled; nothing was kept");
	} else if (!head) {
		tidy(t);
		task_fail(t, "storage", "the backup's folder is damaged", "");
	} else if (!failed) {
		disk_done(t, head);
	} else if (text(head, "parent") && !text(t->params, "kind")) {
		/* What was recorded is gone: a disk was changed meanwhile. */
		begin_whole(t);
	} else {
		tidy(t);
		task_fail_job(t, failed);
	}
	json_decref(head);
}

void backup_work_begin(struct task *t)
{
	const char *kind = text(t->params, "kind");
	bool may = vm_is_up(t->vm) && (!kind || strcmp(kind, "full"));
	json_t *last;

	if (t->vm->state == VM_STARTING) {
		loop_timer_arm(&t->timer, loop_now_ns() + NSEC_PER_SEC / 2);
		return;
	}
	last = may ? backup_last(t->vm->daemon, t->vm->id) : NULL;
	if (json_object_get(t->vm->spec, "image") && !t->vm->prepared)
		task_fail(t, "conflict", "the machine's disk is not there yet",
		          "its prepare task says why");
	else if (kind && strcmp(kind, "incremental") == 0 && !last)
		task_fail(t, "conflict",
		          vm_is_up(t->vm)
		              ? "there is no backup that it could build on"
		              : "the machine does not run: changes are "
		                "recorded while it does",
		          "make a full one");
	else
		begin_anew(t, last);
	json_decref(last);
}

void backup_work_changed(struct task *t)
{
	if (!t->job && !t->vm->still && t->vm->state != VM_STARTING)
		backup_work_begin(t);
}

void backup_work_cancel(struct task *t)
{
	if (t->job && vm_is_up(t->vm))
		disk_work_cancel_step(t);
	else if (t->job)
		job_kill(t->job);
	else if (t->vm->still) {
		/* What the guest says now comes too late. */
		tidy(t);
		task_cancelled(t, "cancelled; nothing was kept");
	} else
		task_cancelled(t, "cancelled before it began");
}
