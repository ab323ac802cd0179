/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_disks - disks of machines that run, and the jobs on them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/units.h"
#include "daemon/access/quota.h"
#include "daemon/api.h"

/* ---- asking the machine ---- */

static void refuse(struct http_request *http, const char *words, json_t *answer)
{
	json_int_t code = json_integer_value(json_object_get(answer, "code"));

	api_reply_error(http,
	                code == -ENOENT   ? "not-found"
	                : code == -EINVAL ? "bad-request"
	                                  : "conflict",
	                words, holder_hint(answer));
}

static void listed(void *ctx, bool ok, const char *words, json_t *answer)
{
	if (ok)
		api_reply(ctx, 200,
		          json_pack("{s:O, s:O}", "disks",
		                    json_object_get(answer, "disks"), "jobs",
		                    json_object_get(answer, "jobs")));
	else
		refuse(ctx, words, answer);
}

static void done(void *ctx, bool ok, const char *words, json_t *answer)
{
	if (ok)
		http_reply(ctx, 204, NULL, NULL, NULL, 0);
	else
		refuse(ctx, words, answer);
}

void api_disk_list(struct call *c)
{
	struct vm *vm = call_vm_up(c);

	if (!vm)
		return;
	c->deferred = true;
	holder_request(vm, json_pack("{s:s}", "op", "disks"), listed, c->http);
}

/* ---- one disk ---- */

/* Its number, or -1: the call has failed. */
static int disk_of(struct call *c)
{
	int n = parse_disk(c->params[1]);
	char words[200];

	if (n < 0) {
		snprintf(words, sizeof(words), "%s is no disk: vda, vdb, ...",
		         c->params[1]);
		call_fail(c, "not-found", words, "");
	}
	return n;
}

static bool all_numbers(struct call *c)
{
	const char *key;
	json_t *value;
	char words[128];

	json_object_foreach(c->body, key, value)
	{
		if (json_is_integer(value) && json_integer_value(value) >= 0)
			continue;
		snprintf(words, sizeof(words), "%.64s is not a whole number",
		         key);
		call_fail(c, "bad-request", words, "");
		return false;
	}
	return true;
}

/* The body, as a request to the machine. */
static void tell_disk(struct call *c, struct vm *vm, int disk, const char *op,
                      holder_answer_fn *answered, void *ctx)
{
	json_t *message = json_deep_copy(c->body);

	json_object_set_new(message, "op", json_string(op));
	json_object_set_new(message, "disk", json_integer(disk));
	c->deferred = true;
	holder_request(vm, message, answered, ctx);
}

/* ---- limits ---- */

/* A change of the definition, and what comes after it. */
struct throttle {
	void (*apply)(struct call *c, void *ctx);
	void (*drop)(void *ctx);
	void *ctx;
	struct vm *vm;
	size_t disk;
};

static void throttled(void *ctx, bool ok, const char *words, json_t *answer)
{
	char *all;

	if (ok) {
		http_reply(ctx, 204, NULL, NULL, NULL, 0);
		return;
	}
	all = xasprintf("the limits hold from the next start on: %s", words);
	api_reply_error(ctx, "conflict", all, holder_hint(answer));
	free(all);
}

static void apply_throttle(struct call *c, void *ctx)
{
	struct throttle *t = ctx;

	t->apply(c, t->ctx);
	/* The answer is not the machine. */
	json_decref(c->reply);
	c->reply = NULL;
	if (vm_is_up(t->vm)) {
		c->deferred = true;
		disk_limits_tell(t->vm, t->disk, throttled, c->http);
	}
	free(t);
}

static void drop_throttle(void *ctx)
{
	struct throttle *t = ctx;

	t->drop(t->ctx);
	free(t);
}

static void change_limits(struct call *c, struct vm *vm, size_t disk,
                          json_t *patch)
{
	struct throttle *t;

	call_change_vm(c, vm, patch);
	if (!c->apply)
		return;
	t = xalloc(sizeof(*t));
	*t = (struct throttle){ c->apply, c->drop, c->ctx, vm, disk };
	c->apply = apply_throttle;
	c->drop = drop_throttle;
	c->ctx = t;
	if (c->status == 200)
		c->status = 204;
}

void api_disk_throttle(struct call *c)
{
	struct vm *vm = call_vm(c);
	int disk = vm ? disk_of(c) : -1;
	json_t *patch;

	if (disk < 0 || !call_match(c, vm->revision) ||
	    !call_known_keys(c, disk_limit_keys) || !all_numbers(c))
		return;
	if (vm->state == VM_STARTING) {
		call_fail(c, "conflict", "the machine is starting",
		          "ask again when it runs");
		return;
	}
	patch = disk_limits_patch(vm->spec, (size_t)disk, c->body);
	if (patch)
		change_limits(c, vm, (size_t)disk, patch);
	else
		call_fail(c, "not-found", "the machine has no such disk",
		          "atoll vm show has them");
	json_decref(patch);
}

/* ---- size ---- */

/* A machine's own disk counts as large as it was asked to be until it is
 * known what became of that. */
struct resize {
	struct vm *vm; /* borrowed: it answers before it goes */
	struct http_request *http;
};

static void resized(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct resize *r = ctx;

	if (--r->vm->resizes == 0)
		r->vm->disk_asked = 0;
	done(r->http, ok, words, answer);
	free(r);
}

void api_disk_resize(struct call *c)
{
	static const char *const keys[] = { "bytes", NULL };
	struct vm *vm = call_vm_up(c);
	int disk = vm ? disk_of(c) : -1;
	struct resize *r;
	u64 bytes;

	if (disk < 0 || !call_known_keys(c, keys) || !all_numbers(c))
		return;
	bytes = (u64)json_integer_value(json_object_get(c->body, "bytes"));
	if (disk == 0 && json_object_get(vm->spec, "image")) {
		if (!quota_allows_disk(c, vm, bytes))
			return;
		vm->disk_asked = MAX(vm->disk_asked, bytes);
	}
	r = xalloc(sizeof(*r));
	r->vm = vm;
	r->http = c->http;
	vm->resizes++;
	tell_disk(c, vm, disk, "disk-resize", resized, r);
}

/* A task; its kind is the last part of the path. */
void api_disk_work(struct call *c)
{
	struct vm *vm = call_vm_up(c);
	int disk = vm ? disk_of(c) : -1, rc;
	char kind[32];

	if (disk < 0)
		return;
	snprintf(kind, sizeof(kind), "disk-%.16s",
	         strrchr(c->http->path, '/') + 1);
	rc = c->body ? disk_work_check(kind, c->body, &c->err) : 0;
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	if (strcmp(kind, "disk-snapshot") == 0 && !quota_allows_snapshot(c, vm))
		return;
	call_task(c, vm, kind,
	          json_pack("{s:i, s:o}", "disk", disk, "work",
	                    c->body ? json_incref(c->body) : json_object()));
}

void api_job_cancel(struct call *c)
{
	struct vm *vm = call_vm_up(c);
	u64 id;

	if (!vm)
		return;
	if (parse_u64(c->params[1], 1, BIT(53), &id, NULL) < 0) {
		call_fail(c, "not-found", "there is no such job", "");
		return;
	}
	c->deferred = true;
	holder_request(
	    vm,
	    json_pack("{s:s, s:I}", "op", "job-cancel", "job", (json_int_t)id),
	    done, c->http);
}
