/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_backup - backups of machines, and machines out of backups.
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

static const char *text(json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

/* The head without what is the daemon's own. */
static json_t *shown(json_t *head)
{
	json_t *o = json_copy(head);

	json_object_del(o, "bitmap");
	if (!json_object_get(o, "scheduled"))
		json_object_set_new(o, "scheduled", json_false());
	return o;
}

/* Of the path; NULL, and the call has failed. */
static json_t *call_backup(struct call *c)
{
	json_t *head = backup_find(c->daemon, c->params[0]);

	if (!head)
		field_none(c, "backup", c->params[0]);
	return head;
}

/* ---- make ---- */

void api_backup_create(struct call *c)
{
	static const char *const keys[] = { "kind", "freeze", NULL };
	struct vm *vm = call_vm(c);
	json_t *kind = json_object_get(c->body, "kind"), *params;
	const char *word = json_string_value(kind);
	char id[ID_SIZE];
	bool freeze;

	if (!vm || !call_known_keys(c, keys) ||
	    !field_switch(c, "freeze", &freeze))
		return;
	if (kind &&
	    (!word || (strcmp(word, "full") && strcmp(word, "incremental")))) {
		call_fail(c, "bad-request",
		          "kind is neither full nor incremental", "");
		return;
	}
	if (quota_allows_backup(c->daemon, vm_project(vm), 0, &c->err) < 0) {
		call_fail(c, "quota", c->err.text, c->err.hint);
		return;
	}
	if (id_new(id, &c->err) < 0) {
		call_fail_error(c, -EIO);
		return;
	}
	params = json_pack("{s:s}", "backup", id);
	if (word)
		json_object_set(params, "kind", kind);
	if (freeze)
		json_object_set_new(params, "freeze", json_true());
	call_task(c, vm, "backup", params);
}

/* ---- look ---- */

void api_backup_list(struct call *c)
{
	json_t *all = backup_list(c->daemon), *list = json_array(), *head;
	char room[PARAM_MAX];
	const char *vm = call_query(c, "vm", room, sizeof(room));
	size_t i;

	json_array_foreach(all, i, head)
	{
		json_t *of = json_object_get(head, "vm");
		const char *project = text(head, "project");

		if (vm && strcmp(text(of, "id"), vm) &&
		    strcmp(text(of, "name"), vm))
			continue;
		if (caller_rights(&c->caller, project) & RIGHT_READ)
			json_array_append_new(list, shown(head));
	}
	json_decref(all);
	c->status = 200;
	c->reply = json_pack("{s:o}", "backups", list);
}

void api_backup_get(struct call *c)
{
	json_t *head = call_backup(c);

	if (!head)
		return;
	c->status = 200;
	c->reply = shown(head);
	json_decref(head);
}

/* ---- delete ---- */

/* Is a task under way that reads it? Of the machine it was made of, the next
 * one may build on it. */
static bool in_use(struct daemon *d, json_t *head)
{
	const char *id = text(head, "id");
	const char *of = text(json_object_get(head, "vm"), "id");

	for (struct vm *vm = d->vms; vm; vm = vm->next)
		for (struct task *t = vm->queue; t; t = t->next) {
			const char *needs = text(t->params, "backup");

			if (strcmp(t->kind, "restore") == 0 && needs &&
			    strcmp(needs, id) == 0)
				return true;
			if (strcmp(t->kind, "backup") == 0 &&
			    strcmp(vm->id, of) == 0)
				return true;
		}
	return false;
}

void api_backup_delete(struct call *c)
{
	json_t *head = call_backup(c);
	int rc;

	if (!head)
		return;
	if (in_use(c->daemon, head)) {
		call_fail(c, "conflict", "a task is under way that needs it",
		          "wait for it: atoll task list");
	} else if (backup_is_base(c->daemon, c->params[0])) {
		call_fail(c, "conflict", "another backup builds on it",
		          "delete the later ones first");
	} else {
		rc = backup_discard(c->daemon, c->params[0], false, &c->err);
		if (rc < 0)
			call_fail_error(c, rc);
		else
			c->status = 204;
	}
	json_decref(head);
}

/* ---- restore ---- */

/* Whatever its disks were, their copies are qcow2. */
static json_t *definition(struct call *c, json_t *head, const char *name,
                          const char *id)
{
	json_t *spec =
	    backup_new_spec(c->daemon, json_object_get(head, "spec"), name, id);
	json_t *disk;
	size_t i;

	json_object_set(spec, "project", json_object_get(head, "project"));
	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		if (!json_is_true(json_object_get(disk, "readonly")))
			json_object_set_new(disk, "format",
			                    json_string("qcow2"));
	}
	return spec;
}

void api_backup_restore(struct call *c)
{
	static const char *const keys[] = { "name", NULL };
	const char *name = text(c->body, "name");
	json_t *head = call_backup(c), *spec;
	char id[ID_SIZE];

	if (!head || !call_known_keys(c, keys)) {
		json_decref(head);
		return;
	}
	if (!name || strlen(name) > 63 || !spec_name_valid(name)) {
		call_fail(c, "bad-request",
		          "name is not a name for the new machine", "");
	} else if (id_new(id, &c->err) < 0) {
		call_fail_error(c, -EIO);
	} else {
		spec = definition(c, head, name, id);
		if (call_may_make_vm(c, spec, true))
			call_make_vm(
			    c, spec, id, "restore",
			    json_pack("{s:s}", "backup", c->params[0]));
		else
			json_decref(spec);
	}
	json_decref(head);
}

/* ---- verify ---- */

/* Every image of the backup and of those below it, one after the other. */
struct look {
	struct daemon *daemon;
	struct http_request *http;
	json_t *files; /* paths */
	size_t next;
};

static json_t *verdict(bool whole, const char *words, size_t images)
{
	return json_pack("{s:b, s:s, s:I}", "whole", whole, "words", words,
	                 "images", (json_int_t)images);
}

static void looked(void *ctx, const struct error *failed);

static bool look_at_next(struct look *l, struct error *err)
{
	const char *path = json_string_value(json_array_get(l->files, l->next));
	const char *arguments[] = { "atoll", "disk", "check", "--format=qcow2",
		                    "--",    path,   NULL };

	return job_start(l->daemon->loop, arguments, looked, l, err) != NULL;
}

static void looked(void *ctx, const struct error *failed)
{
	struct look *l = ctx;
	struct error err = { 0 };

	if (!failed && ++l->next < json_array_size(l->files)) {
		if (look_at_next(l, &err))
			return;
		failed = &err;
	}
	api_reply(l->http, 200,
	          verdict(!failed, failed ? failed->text : "", l->next));
	json_decref(l->files);
	free(l);
}

/* False: one of those below is gone. */
static bool add_files(struct daemon *d, json_t *files, const char *id)
{
	json_t *head = backup_find(d, id), *disk;
	const char *parent = text(head, "parent");
	bool whole = head != NULL;
	size_t i;

	json_array_foreach(json_object_get(head, "disks"), i, disk)
	{
		char *path = backup_file(
		    d, id, false,
		    (int)json_integer_value(json_object_get(disk, "disk")));

		json_array_append_new(files, json_string(path));
		free(path);
	}
	if (parent)
		whole = whole && add_files(d, files, parent);
	json_decref(head);
	return whole;
}

/* What is known at once is the call's own answer, which is written down with
 * its status. */
void api_backup_verify(struct call *c)
{
	json_t *head = call_backup(c), *files = json_array();
	struct look *l;
	bool all = head && add_files(c->daemon, files, c->params[0]);

	json_decref(head);
	if (!head) {
		json_decref(files);
		return;
	}
	if (!all || json_array_size(files) == 0) {
		c->status = 200;
		c->reply = verdict(
		    all, all ? "" : "a backup that it builds on is gone", 0);
		json_decref(files);
		return;
	}
	l = xalloc(sizeof(*l));
	*l = (struct look){ c->daemon, c->http, files, 0 };
	c->deferred = look_at_next(l, &c->err);
	if (c->deferred)
		return;
	call_fail_error(c, c->err.code);
	json_decref(files);
	free(l);
}
