/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll backup - what machines' disks held, kept by the daemon.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/backup.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

#define PATH "/v1/backups"

enum { OPT_FULL = OPT_OWN, OPT_INCREMENTAL, OPT_VM, OPT_FREEZE };

struct wishes {
	const char *kind, *vm;
	bool freeze;
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct wishes *w = ctx;

	(void)err;
	if (id == OPT_VM)
		w->vm = value;
	else if (id == OPT_FREEZE)
		w->freeze = true;
	else
		w->kind = id == OPT_FULL ? "full" : "incremental";
	return 0;
}

static const struct column columns[] = {
	{ "ID", .path = "id" },
	{ "MACHINE", .path = "vm.name" },
	{ "TAKEN", .path = "at", .kind = CELL_TIME },
	{ "KIND", .path = "kind" },
	{ "SIZE", .path = "bytes", .kind = CELL_SIZE },
	{ "BUILDS ON", .path = "parent" },
	{ NULL },
};

static int backup_list(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "machine", "NAME", "of that one only", OPT_VM },
		REMOTE_PROJECT_OPTION,
		REMOTE_LIST_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { 0 };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(&r, "atoll backup list [OPTION]...",
	                       "Backups of machines, the newest first.", specs,
	                       argc, argv);
	char *vm, *path;

	if (code < 0 && r.name_count)
		code = say_usage("atoll backup list takes no names");
	if (code < 0) {
		vm = client_escape(w.vm ? w.vm : "");
		path = xasprintf(PATH "%s%s", w.vm ? "?vm=" : "", vm);
		code = remote_list(&r, path, "backups", columns);
		free(vm);
		free(path);
	}
	remote_close(&r);
	return code;
}

static int backup_show(int argc, char **argv)
{
	return resource_show("atoll backup show ID", "One backup.", PATH,
	                     columns, argc, argv);
}

static int backup_delete(int argc, char **argv)
{
	return resource_delete("atoll backup delete ID...",
	                       "Delete backups that no other builds on.", PATH,
	                       "backup", argc, argv);
}

/* ---- tasks ---- */

static json_t *call(struct remote *r, char *path, json_t *body, int *code)
{
	struct error err = { 0 };
	json_t *reply = NULL;

	if (client_call(r->client, "POST", path, body, &reply, &err) < 0) {
		*code = remote_failed(r, &err);
		reply = NULL;
	}
	json_decref(body);
	free(path);
	return reply;
}

static int create_one(struct remote *r, void *ctx, const char *name)
{
	const struct wishes *w = ctx;
	char *vm = resource_path("/v1/vms", name);
	char *path = xasprintf("%s/backups", vm);
	json_t *task,
	    *body = json_pack("{s:s*, s:o*}", "kind", w->kind, "freeze",
	                      w->freeze ? json_true() : NULL);
	char *id;
	int code = CODE_FAILED;

	free(vm);
	task = call(r, path, body, &code);
	if (!task)
		return code;
	id = xstrdup(remote_text(task, "params.backup"));
	code = remote_follow(r, task, name);
	/* What it was asked for is its name. */
	if (code == CODE_OK && !r->async && !remote_wants_data(r))
		puts(id);
	free(id);
	return code;
}

static int backup_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "full", NULL, "all that its disks hold", OPT_FULL },
		{ "incremental", NULL, "what has changed since the last one",
		  OPT_INCREMENTAL },
		{ "freeze", NULL,
		  "its file systems stand still as it begins, by the guest's "
		  "agent",
		  OPT_FREEZE },
		REMOTE_TASK_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { 0 };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(&r, "atoll backup create NAME... [OPTION]...",
	                       "Copy what the disks of machines hold now.",
	                       specs, argc, argv);

	if (code < 0)
		code = remote_each_machine(&r, create_one, &w);
	remote_close(&r);
	return code;
}

static int restore(struct remote *r)
{
	char *backup = resource_path(PATH, r->names[0]);
	int code = CODE_FAILED;
	json_t *vm = call(r, xasprintf("%s/restore", backup),
	                  json_pack("{s:s}", "name", r->names[1]), &code);

	free(backup);
	if (vm)
		code = vm_made(r, vm, r->names[1]);
	json_decref(vm);
	return code;
}

static int backup_restore(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		REMOTE_TASK_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct remote r = { 0 };
	int code = remote_open(&r, "atoll backup restore ID NAME [OPTION]...",
	                       "Make a machine NAME with the disks of a "
	                       "backup.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count != 2)
		code = say_usage("atoll backup restore takes a backup and the "
		                 "new machine's name");
	if (code < 0)
		code = restore(&r);
	remote_close(&r);
	return code;
}

static int verify(struct remote *r)
{
	char *backup = resource_path(PATH, r->names[0]);
	int code = CODE_FAILED;
	json_t *reply = call(r, xasprintf("%s/verify", backup), NULL, &code);

	free(backup);
	if (!reply)
		return code;
	if (remote_wants_data(r))
		remote_print_value(r, reply);
	else if (json_is_true(json_object_get(reply, "whole")))
		printf("%s is whole: %" PRId64 " images\n", r->names[0],
		       remote_number(reply, "images"));
	else
		printf("%s is damaged: %s\n", r->names[0],
		       remote_text(reply, "words"));
	code = json_is_true(json_object_get(reply, "whole")) ? CODE_OK
	                                                     : CODE_FAILED;
	json_decref(reply);
	return code;
}

static int backup_verify(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	int code =
	    remote_open(&r, "atoll backup verify ID",
	                "Check the images of a backup, and those below them.",
	                specs, argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll backup verify takes one backup");
	if (code < 0)
		code = verify(&r);
	remote_close(&r);
	return code;
}

int command_backup(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "what there is", backup_list },
		{ "show", "one of them", backup_show },
		{ "inspect", "the same", backup_show },
		{ "create", "copy what a machine's disks hold now",
		  backup_create },
		{ "schedule", "when that is done by itself", backup_schedule },
		{ "restore", "a machine out of one", backup_restore },
		{ "verify", "is it whole?", backup_verify },
		{ "delete", "those that no other builds on", backup_delete },
		{ 0 },
	};

	return command_noun(verbs, "What machines' disks held.", argc, argv);
}
