/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_vms - machines and their consoles.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/access/fields.h"
#include "daemon/access/quota.h"
#include "daemon/api.h"
#include "daemon/console_log.h"
#include "daemon/limits/limits.h"
#include "daemon/network.h"
#include "daemon/store.h"
#include "daemon/watch/watch.h"

enum { INPUT_MAX = 32 * 1024, LOG_MAX = 64 * 1024, READ_MAX = 1 << 20 };

static void set_etag(struct call *c, s64 revision)
{
	char tag[32];

	snprintf(tag, sizeof(tag), "\"%" PRId64 "\"", revision);
	call_header(c, "etag", tag);
}

/* ---- get ---- */

void api_vm_get(struct call *c)
{
	struct vm *vm = call_vm(c);
	char tag[32];

	if (!vm)
		return;
	set_etag(c, vm->revision);
	snprintf(tag, sizeof(tag), "\"%" PRId64 "\"", vm->revision);
	/* The state is no part of the revision: only a definition that is
	 * wanted unchanged is asked for so. */
	if (strcmp(c->http->headers[HTTP_IF_NONE_MATCH], tag) == 0) {
		c->status = 304;
		return;
	}
	c->status = 200;
	c->reply = vm_json(vm);
}

/* ---- define ---- */

/* old: what it was before, NULL for a new one. */
static bool may_define(struct call *c, json_t *spec, json_t *old)
{
	static const char *const parts[] = { "boot", "nics" };
	bool same = old != NULL;

	for (size_t i = 0; same && i < ARRAY_SIZE(parts); i++)
		same = json_equal(json_object_get(spec, parts[i]),
		                  json_object_get(old, parts[i]));
	/* How fast they are is no file's name. */
	same = same && disk_limits_same_disks(spec, old);
	if (same || !spec_touches_host(spec) ||
	    (caller_rights(&c->caller, NULL) & RIGHT_HOST))
		return true;
	call_fail(c, "denied",
	          "your role may not name files or interfaces of the host",
	          "use an image");
	return false;
}

static bool names_network(json_t *spec, const char *name)
{
	json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(spec, "nics"), i, nic)
	{
		const char *one =
		    json_string_value(json_object_get(nic, "network"));

		if (one && strcmp(one, name) == 0)
			return true;
	}
	return false;
}

/* In the words for one that is really not there. */
static bool no_network(struct call *c, const char *name)
{
	error_set(&c->err, -ENOENT, "there is no network %s", name);
	error_hint(&c->err, "atoll net create %s makes it", name);
	call_fail_error(c, -ENOENT);
	return false;
}

static bool no_image(struct call *c, const char *name)
{
	error_set(&c->err, -ENOENT, "there is no image %s", name);
	error_hint(&c->err, "atoll image list shows what there is; atoll image "
	                    "build debian:12 makes one");
	call_fail_error(c, -ENOENT);
	return false;
}

/* Images and networks that a definition names anew are such as the caller can
 * see; others are not there for him. Of what is restored or copied the image
 * may be gone: its machine has what it needs. */
static bool names_own(struct call *c, json_t *spec, json_t *old)
{
	const char *image = json_string_value(json_object_get(spec, "image"));
	json_t *nic;
	size_t i;

	if (image && !old && !(caller_rights(&c->caller, NULL) & RIGHT_READ) &&
	    !call_sees_image(c, image))
		return no_image(c, image);
	json_array_foreach(json_object_get(spec, "nics"), i, nic)
	{
		const char *name =
		    json_string_value(json_object_get(nic, "network"));
		const struct network *n =
		    name ? network_find(c->daemon, name) : NULL;

		if (n && !names_network(old, name) &&
		    !(caller_rights(&c->caller, network_project(n)) &
		      RIGHT_OPERATE))
			return no_network(c, name);
	}
	return true;
}

/* In a project in which the caller defines machines, within its quotas. */
static bool may_have(struct call *c, json_t *spec, const struct vm *vm)
{
	const char *project =
	    json_string_value(json_object_get(spec, "project"));

	return call_may(c, project, RIGHT_DEFINE) &&
	       names_own(c, spec, vm ? vm->spec : NULL) &&
	       quota_allows(c, vm, spec, 1);
}

static bool name_free(struct call *c, const char *name, const struct vm *self)
{
	struct vm *other = vm_find(c->daemon, name);
	char words[128];

	if (!other || other == self)
		return true;
	snprintf(words, sizeof(words), "there is a machine %s already", name);
	call_fail(c, "conflict", words, "");
	return false;
}

struct created {
	struct vm *vm;
	struct task *prepare; /* NULL: nothing to prepare */
};

static void insert_vm(struct call *c, void *ctx)
{
	struct created *made = ctx;

	(void)c;
	vm_insert(made->vm);
	event_emit(c->daemon, "vm.created", made->vm, 0, NULL);
	if (made->prepare)
		task_enqueue(made->prepare);
	free(made);
}

static void drop_vm(void *ctx)
{
	struct created *made = ctx;

	task_free(made->prepare);
	vm_free(made->vm);
	free(made);
}

int call_write_vm(struct call *c, struct vm *vm)
{
	return store_run(c->daemon->store, &c->err,
	                 "INSERT INTO vms(id, name, spec, revision, created,"
	                 " updated) VALUES(?, ?, ?, 1, ?, ?)",
	                 "ttjtt", vm->id, vm->name, vm->spec, vm->created,
	                 vm->updated);
}

bool call_may_make_vm(struct call *c, json_t *spec, bool own_files)
{
	int rc;

	if (!may_have(c, spec, NULL))
		return false;
	rc = network_check(c->daemon, spec, &c->err);
	if (rc < 0) {
		call_fail_error(c, rc);
		return false;
	}
	return (own_files || may_define(c, spec, NULL)) &&
	       name_free(c, json_string_value(json_object_get(spec, "name")),
	                 NULL);
}

void api_vm_create(struct call *c)
{
	json_t *spec = spec_parse(c->body, &c->err);
	const char *image;
	char id[ID_SIZE];

	if (!spec) {
		call_fail_error(c, -EINVAL);
		return;
	}
	image = json_string_value(json_object_get(spec, "image"));
	if (!call_may_make_vm(c, spec, false) ||
	    (image && !call_sees_image(c, image) && !no_image(c, image))) {
		json_decref(spec);
		return;
	}
	if (id_new(id, &c->err) < 0) {
		call_fail_error(c, -EIO);
		json_decref(spec);
		return;
	}
	call_make_vm(c, spec, id,
	             json_object_get(spec, "image") ? "prepare" : NULL,
	             json_object());
}

void call_make_vm(struct call *c, json_t *spec, const char *id,
                  const char *kind, json_t *params)
{
	struct created *made;
	char where[64];
	int rc;

	made = xalloc(sizeof(*made));
	made->vm = vm_new(c->daemon, spec);
	c->apply = insert_vm;
	c->drop = drop_vm;
	c->ctx = made;
	memcpy(made->vm->id, id, ID_SIZE);
	rc = spec_fill(spec, &c->err);
	if (rc == 0)
		rc = call_write_vm(c, made->vm);
	if (rc == 0 && kind) {
		made->prepare = task_new(made->vm, kind, json_incref(params),
		                         c->caller.name, &c->err);
		rc = made->prepare ? 0 : -EIO;
	}
	json_decref(params);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 201;
	c->reply = vm_json(made->vm);
	if (made->prepare)
		json_object_set_new(c->reply, "task",
		                    json_integer(made->prepare->id));
	set_etag(c, 1);
	snprintf(where, sizeof(where), "/v1/vms/%s", made->vm->id);
	call_header(c, "location", where);
}

/* ---- change ---- */

struct changed {
	struct vm *vm;
	json_t *spec;
	s64 run_revision; /* then */
	char updated[TIME_SIZE];
};

static void apply_change(struct call *c, void *ctx)
{
	struct changed *ch = ctx;
	struct vm *vm = ch->vm;
	bool live = ch->run_revision != vm->run_revision, moved;
	json_t *before = json_incref(vm->spec);

	moved = strcmp(vm_project(vm), json_string_value(json_object_get(
					   ch->spec, "project"))) != 0;
	vm_set_spec(vm, ch->spec);
	vm->revision++;
	vm->run_revision = ch->run_revision;
	limits_apply(vm);
	/* One that runs by another definition may have others there. */
	if (live)
		disk_limits_tell_changed(vm, before);
	json_decref(before);
	memcpy(vm->updated, ch->updated, TIME_SIZE);
	free(vm->name);
	vm->name =
	    xstrdup(json_string_value(json_object_get(ch->spec, "name")));
	/* Its place in the order of names may be another. */
	vm_reorder(vm);
	free(ch);
	if (moved) {
		/* Others look at it now, and other rules. */
		alarms_forget(c->daemon, vm->id);
		streams_check(c->daemon);
	}
	event_emit(c->daemon, "vm.changed", vm, 0,
	           json_pack("{s:I}", "revision", (json_int_t)vm->revision));
	c->reply = vm_json(vm);
}

static void drop_change(void *ctx)
{
	struct changed *ch = ctx;

	json_decref(ch->spec);
	free(ch);
}

static bool same_image(json_t *a, json_t *b)
{
	json_t *x = json_object_get(a, "image"),
	       *y = json_object_get(b, "image");

	return (!x && !y) || (x && y && json_equal(x, y));
}

/* It goes by all of it without a restart. */
static bool goes_by(const struct vm *vm, json_t *spec)
{
	return vm->run_revision == vm->revision &&
	       limits_change_is_live(vm->spec, spec) &&
	       (vm_is_up(vm) || disk_limits_same(vm->spec, spec));
}

void call_change_vm(struct call *c, struct vm *vm, json_t *patch)
{
	struct changed *ch;
	json_t *spec;
	int rc;

	spec = spec_patch(vm->spec, patch, &c->err);
	if (!spec) {
		call_fail_error(c, -EINVAL);
		return;
	}
	ch = xalloc(sizeof(*ch));
	ch->vm = vm;
	ch->spec = spec;
	ch->run_revision = vm->run_revision + goes_by(vm, spec);
	time_now(ch->updated);
	c->apply = apply_change;
	c->drop = drop_change;
	c->ctx = ch;
	if (!same_image(vm->spec, spec)) {
		call_fail(c, "bad-request",
		          "image can't be changed: the disk is its copy",
		          "make another machine");
		return;
	}
	if (!may_have(c, spec, vm) || !may_define(c, spec, vm->spec) ||
	    !name_free(c, json_string_value(json_object_get(spec, "name")), vm))
		return;
	rc = network_check(c->daemon, spec, &c->err);
	if (rc == 0)
		rc = spec_fill(spec, &c->err);
	if (rc == 0 && limits_admit_change(vm, spec, &c->err) < 0) {
		call_fail(c, "no-capacity", c->err.text, c->err.hint);
		return;
	}
	if (rc == 0)
		rc = store_run(
		    c->daemon->store, &c->err,
		    "UPDATE vms SET name = ?, spec = ?, revision = ?,"
		    " run_revision = ?, updated = ? WHERE id = ?",
		    "tjiitt", json_string_value(json_object_get(spec, "name")),
		    spec, vm->revision + 1, ch->run_revision, ch->updated,
		    vm->id);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 200;
	set_etag(c, vm->revision + 1);
}

void api_vm_patch(struct call *c)
{
	struct vm *vm = call_vm(c);

	if (vm && call_match(c, vm->revision))
		call_change_vm(c, vm, c->body);
}

/* ---- tasks of a machine ---- */

void api_vm_delete(struct call *c)
{
	struct vm *vm = call_vm(c);
	bool wanted;

	if (!vm || !call_match(c, vm->revision) ||
	    !call_flag(c, "force", &wanted))
		return;
	if (!wanted && vm->state != VM_STOPPED && !vm->queue) {
		call_fail(c, "conflict", "the machine runs",
		          "stop it first, or delete it with force");
		return;
	}
	call_task(c, vm, "delete", json_pack("{s:b}", "force", wanted));
}

static const char *last_part(const struct call *c)
{
	return strrchr(c->http->path, '/') + 1;
}

void api_vm_action(struct call *c)
{
	struct vm *vm = call_vm(c);
	const char *kind = last_part(c);

	if (!vm || !call_match(c, vm->revision))
		return;
	call_task(c, vm, kind, json_object());
}

void api_vm_start(struct call *c)
{
	static const char *const keys[] = { "discard", NULL };
	struct vm *vm = call_vm(c);
	bool discard;

	if (!vm || !call_match(c, vm->revision) || !call_known_keys(c, keys) ||
	    !field_switch(c, "discard", &discard))
		return;
	vm->restarts = 0;
	call_task(c, vm, "start",
	          c->body ? json_incref(c->body) : json_object());
}

void api_vm_stop(struct call *c)
{
	static const char *const keys[] = { "force", "timeout_s", NULL };
	struct vm *vm = call_vm(c);
	json_t *timeout = json_object_get(c->body, "timeout_s");
	s64 s = json_integer_value(timeout);
	bool force;

	if (!vm || !call_match(c, vm->revision) || !call_known_keys(c, keys) ||
	    !field_switch(c, "force", &force))
		return;
	if (timeout && (!json_is_integer(timeout) || s < 1 || s > 86400)) {
		call_fail(c, "bad-request",
		          "timeout_s is not a whole number from 1 to 86400",
		          "");
		return;
	}
	call_task(c, vm, last_part(c),
	          c->body ? json_incref(c->body) : json_object());
}

/* ---- what it does right now ---- */

static void status_answered(void *ctx, bool ok, const char *words,
                            json_t *answer)
{
	struct http_request *http = ctx;

	if (ok)
		api_reply(http, 200,
		          json_pack("{s:O, s:O}", "state",
		                    json_object_get(answer, "state"), "report",
		                    json_object_get(answer, "report")));
	else
		api_reply_error(http, "conflict", words, holder_hint(answer));
}

void api_vm_status(struct call *c)
{
	struct vm *vm = call_vm_up(c);

	if (!vm)
		return;
	c->deferred = true;
	holder_request(vm, json_pack("{s:s}", "op", "status"), status_answered,
	               c->http);
}

/* The last words of its process, for whoever looks for a fault. */
void api_vm_log(struct call *c)
{
	struct vm *vm = call_vm(c);
	int folder, fd;
	ssize_t n;
	off_t size;

	if (!vm)
		return;
	folder = vm_folder(vm, &c->err);
	fd = folder < 0 ? -1 : openat(folder, "vm.log", O_RDONLY | O_CLOEXEC);
	if (folder >= 0)
		close(folder);
	c->text = xalloc(LOG_MAX + 1);
	if (fd >= 0) {
		size = lseek(fd, 0, SEEK_END);
		n = pread(fd, c->text, LOG_MAX, MAX(size - LOG_MAX, (off_t)0));
		c->text[MAX(n, (ssize_t)0)] = '\0';
		close(fd);
	}
	c->status = 200;
	c->type = "text/plain; charset=utf-8";
}

/* ---- the console ---- */

static void read_now(struct call *c, int folder, u64 offset, u64 size)
{
	u8 *data = try_alloc(1, size + 1);
	u64 used = 0;
	ssize_t n = 1;

	if (!data) {
		call_fail(c, "internal", "no memory", "");
		return;
	}
	while (used < size && n > 0) {
		n = console_log_read(folder, offset + used, data + used,
		                     size - used);
		used += n > 0 ? (u64)n : 0;
	}
	c->deferred = true;
	http_reply(c->http, 200, "application/octet-stream", c->headers, data,
	           used);
	free(data);
}

void api_console_read(struct call *c)
{
	struct vm *vm = call_vm(c);
	char room[16], number[24];
	const char *follow = call_query(c, "follow", room, sizeof(room));
	u64 begin = 0, end = 0, offset, tail, limit;
	int folder;

	if (!vm)
		return;
	offset = (u64)call_number(c, "offset", 0, INT64_MAX, -1);
	tail = (u64)call_number(c, "tail", 0, INT64_MAX, INT64_MAX);
	limit = (u64)call_number(c, "limit", 0, READ_MAX, READ_MAX);
	if (c->status >= 400)
		return;
	if (follow && strcmp(follow, "run") && strcmp(follow, "always")) {
		call_fail(c, "bad-request", "follow is neither run nor always",
		          "");
		return;
	}
	folder = vm_folder(vm, &c->err);
	if (folder < 0) {
		call_fail_error(c, folder);
		return;
	}
	console_log_range(folder, &begin, &end);
	if (offset > (u64)INT64_MAX) /* not asked for */
		offset = tail < end ? end - tail : 0;
	offset = MIN(MAX(offset, begin), end);
	snprintf(number, sizeof(number), "%" PRIu64, offset);
	call_header(c, "atoll-console-offset", number);
	if (follow)
		stream_console(c, vm, offset, strcmp(follow, "run") == 0);
	else
		read_now(c, folder, offset, MIN(limit, end - offset));
	close(folder);
}

static void console_answered(void *ctx, bool ok, const char *words,
                             json_t *answer)
{
	struct http_request *http = ctx;

	if (ok)
		http_reply(http, 204, NULL, NULL, NULL, 0);
	else
		api_reply_error(http, "conflict", words, holder_hint(answer));
}

void api_console_write(struct call *c)
{
	struct vm *vm = call_vm(c);
	size_t size = c->http->body_size;
	char *hex;

	if (!vm)
		return;
	if (size > INPUT_MAX) {
		call_fail(c, "too-large", "more than 32 KiB at once", "");
		return;
	}
	hex = xalloc(2 * size + 1);
	for (size_t i = 0; i < size; i++)
		snprintf(hex + 2 * i, 3, "%02x", c->http->body[i]);
	c->deferred = true;
	holder_request(vm, json_pack("{s:s, s:s}", "op", "input", "data", hex),
	               console_answered, c->http);
	free(hex);
}

void api_console_size(struct call *c)
{
	static const char *const keys[] = { "columns", "rows", NULL };
	struct vm *vm = call_vm(c);
	json_t *columns = json_object_get(c->body, "columns");
	json_t *rows = json_object_get(c->body, "rows");
	s64 x = json_integer_value(columns), y = json_integer_value(rows);

	if (!vm || !call_known_keys(c, keys))
		return;
	if (x < 1 || x > UINT16_MAX || y < 1 || y > UINT16_MAX) {
		call_fail(c, "bad-request",
		          "columns and rows are whole numbers from 1 to 65535",
		          "");
		return;
	}
	c->deferred = true;
	holder_request(vm,
	               json_pack("{s:s, s:I, s:I}", "op", "resize", "columns",
	                         (json_int_t)x, "rows", (json_int_t)y),
	               console_answered, c->http);
}
