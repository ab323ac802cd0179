/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_moment - snapshots of machines, and machines put away.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/access/fields.h"
#include "daemon/access/quota.h"
#include "daemon/api.h"
#include "daemon/moment/moment.h"

enum { DESCRIPTION_MAX = 4096, DIFF_MAX = 64 << 20 };

/* ---- the path ---- */

/* The snapshot that it names; NULL, and the call has failed. */
static json_t *call_moment(struct call *c, const struct vm *vm)
{
	json_t *found = vm ? moment_find(vm, c->params[1]) : NULL;

	if (vm && !found)
		field_none(c, "snapshot", c->params[1]);
	return found;
}

void api_moment_list(struct call *c)
{
	struct vm *vm = call_vm(c);

	if (!vm)
		return;
	c->status = 200;
	c->reply = moment_list_json(vm);
}

void api_moment_get(struct call *c)
{
	struct vm *vm = call_vm(c);
	json_t *found = call_moment(c, vm);

	if (!found)
		return;
	c->status = 200;
	c->reply = moment_json(vm, found);
}

/* ---- make ---- */

/* A task of the queue makes it, or is to. */
static bool is_on_its_way(const struct vm *vm, const char *name)
{
	for (const struct task *t = vm->queue; t; t = t->next) {
		const char *its =
		    json_string_value(json_object_get(t->params, "snapshot"));

		if (its && strcmp(t->kind, "snapshot-create") == 0 &&
		    strcmp(its, name) == 0)
			return true;
	}
	return false;
}

static bool name_free(struct call *c, const struct vm *vm, const char *name)
{
	json_t *found = moment_find(vm, name);
	char words[160];

	json_decref(found);
	if (!found && !is_on_its_way(vm, name))
		return true;
	snprintf(words, sizeof(words), "there is a snapshot %.63s already",
	         name);
	call_fail(c, "conflict", words, "");
	return false;
}

/* The time, unless the body says another. */
static bool name_of(struct call *c, char *name, size_t size)
{
	json_t *value = json_object_get(c->body, "name");
	const char *said = json_string_value(value);
	time_t now = time(NULL);
	struct tm tm;

	if (!value) {
		strftime(name, size, "%Y-%m-%d-%H%M%S", gmtime_r(&now, &tm));
		return true;
	}
	if (said && moment_name_valid(said)) {
		snprintf(name, size, "%s", said);
		return true;
	}
	call_fail(c, "bad-request",
	          "name is not 1 to 63 letters, digits and dashes", "");
	return false;
}

void api_moment_create(struct call *c)
{
	static const char *const keys[] = { "name", "description", "fast",
		                            NULL };
	struct vm *vm = call_vm(c);
	const char *description = "";
	char name[64];
	bool fast;
	u64 most;

	if (!vm || !call_match(c, vm->revision) || !call_known_keys(c, keys) ||
	    !name_of(c, name, sizeof(name)) ||
	    !field_text(c, "description", DESCRIPTION_MAX, &description) ||
	    !field_switch(c, "fast", &fast) || !name_free(c, vm, name))
		return;
	if (!vm_is_up(vm) && !vm->queue) {
		call_fail(c, "conflict", "the machine does not run",
		          "start it first; atoll backup keeps what disks "
		          "hold");
		return;
	}
	if (!quota_allows_moment(c, vm, &most))
		return;
	call_task(c, vm, "snapshot-create",
	          json_pack("{s:s, s:s, s:b, s:I}", "snapshot", name,
	                    "description", description, "fast", fast,
	                    "bytes_most", (json_int_t)most));
}

/* ---- back, and away ---- */

void api_moment_revert(struct call *c)
{
	static const char *const keys[] = { "force", "start", NULL };
	struct vm *vm = call_vm(c);
	json_t *found = call_moment(c, vm);
	bool force, start;
	int rc;

	if (!found)
		return;
	if (call_match(c, vm->revision) && call_known_keys(c, keys) &&
	    field_switch(c, "force", &force) &&
	    field_switch(c, "start", &start)) {
		rc = saved_fits(vm, found, &c->err);
		if (rc < 0)
			call_fail_error(c, rc);
		else if (vm->state != VM_STOPPED && !vm->queue && !force)
			call_fail(c, "conflict", "the machine runs",
			          "stop it first, or revert with force: what "
			          "it did since is lost");
		else
			call_task(c, vm, "snapshot-revert",
			          json_pack("{s:s, s:b, s:b}", "snapshot",
			                    c->params[1], "force", force,
			                    "start", start));
	}
	json_decref(found);
}

void api_moment_delete(struct call *c)
{
	struct vm *vm = call_vm(c);
	json_t *found = call_moment(c, vm);

	if (!found)
		return;
	json_decref(found);
	call_task(c, vm, "snapshot-delete",
	          json_pack("{s:s}", "snapshot", c->params[1]));
}

void api_vm_suspend(struct call *c)
{
	static const char *const keys[] = { "fast", NULL };
	struct vm *vm = call_vm(c);
	bool fast;

	if (!vm || !call_match(c, vm->revision) || !call_known_keys(c, keys) ||
	    !field_switch(c, "fast", &fast))
		return;
	if (json_is_true(json_object_get(vm->spec, "disposable"))) {
		call_fail(c, "conflict",
		          "it is disposable: nothing is left of it when it "
		          "ends",
		          "");
		return;
	}
	call_task(c, vm, "suspend",
	          json_pack("{s:b, s:b}", "fast", fast, "wanted", vm->wanted));
}

/* ---- diff ---- */

/* A process compares; what it prints is the answer. */
struct compare {
	struct http_request *http;
	int out;
};

static void compared(void *ctx, const struct error *failed)
{
	struct compare *d = ctx;
	const char *words = failed ? failed->text : NULL;
	json_t *told = NULL;
	struct stat st;

	if (!words && (fstat(d->out, &st) < 0 || st.st_size > DIFF_MAX))
		words = "too much differs to be told";
	if (!words && lseek(d->out, 0, SEEK_SET) == 0)
		told = json_loadfd(d->out, 0, NULL);
	if (told)
		api_reply(d->http, 200, told);
	else
		api_reply_error(d->http, "conflict",
		                words ? words : "it can't be told",
		                failed ? failed->hint : "");
	close(d->out);
	free(d);
}

static void start_compare(struct call *c, const struct vm *vm, const char *with)
{
	struct compare *d = xalloc(sizeof(*d));
	char *own = vm_folder_path(vm);
	char *folder = xasprintf("--machine-folder=%s", own);
	const char *arguments[] = { "atoll", "snapshot", "diff",   "--json",
		                    folder,  "--",       vm->name, c->params[1],
		                    with,    NULL };

	d->http = c->http;
	d->out = memfd_create("diff", MFD_CLOEXEC);
	c->deferred = d->out >= 0 && job_start_to(c->daemon->loop, arguments,
	                                          d->out, compared, d, &c->err);
	free(own);
	free(folder);
	if (c->deferred)
		return;
	if (d->out >= 0)
		close(d->out);
	free(d);
	call_fail(c, "internal", "two snapshots can't be compared",
	          c->err.text);
}

void api_moment_diff(struct call *c)
{
	struct vm *vm = call_vm(c);
	json_t *found = call_moment(c, vm), *other;
	char room[PARAM_MAX];
	const char *with = call_query(c, "with", room, sizeof(room));

	if (!found)
		return;
	json_decref(found);
	if (!with) {
		call_fail(c, "bad-request", "with which one?",
		          "with=NAME names another snapshot of the machine");
		return;
	}
	other = moment_find(vm, with);
	if (other)
		start_compare(c, vm, with);
	else
		field_none(c, "snapshot", with);
	json_decref(other);
}
