/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_disks - disks of machines that run, the jobs on them, and the images.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/units.h"
#include "daemon/access/fields.h"
#include "daemon/access/quota.h"
#include "daemon/api.h"
#include "daemon/store.h"

/* ---- asking the machine ---- */

static void refuse(struct http_request *http, const char *words, json_t *answer)
{
	json_int_t code = json_integer_value(json_object_get(answer, "code"));

	api_reply_error(http,
	                code == -ENOENT   ? "not-found"
	                : code == -EINVAL ? "bad-request"
	                                  : "conflict",
	                words);
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

void api_disk_throttle(struct call *c)
{
	static const char *const keys[] = { "iops", "iops_burst", "bytes_per_s",
		                            "bytes_burst", NULL };
	struct vm *vm = call_vm_up(c);
	int disk = vm ? disk_of(c) : -1;

	if (disk < 0 || !call_known_keys(c, keys) || !all_numbers(c))
		return;
	tell_disk(c, vm, disk, "disk-throttle", done, c->http);
}

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

/* ---- images ---- */

/* What a name leads to; NULL: nothing that is whole. */
static json_t *image_json(const struct daemon *d, const char *name)
{
	char *path =
	    xasprintf("%s/names/%s/manifest.json", d->place.images, name);
	json_t *manifest = json_load_file(path, 0, NULL), *json = NULL;
	const char *id = NULL, *cmdline = NULL, *kernel = "";

	free(path);
	if (manifest &&
	    json_unpack(manifest, "{s:s, s:s, s?s}", "id", &id, "cmdline",
	                &cmdline, "kernel_version", &kernel) == 0)
		json = json_pack("{s:s, s:s, s:s, s:s}", "name", name, "id", id,
		                 "cmdline", cmdline, "kernel_version", kernel);
	json_decref(manifest);
	return json;
}

bool image_exists(const struct daemon *d, const char *name)
{
	json_t *image = name[0] && name[0] != '.' && !strchr(name, '/')
	                    ? image_json(d, name)
	                    : NULL;

	json_decref(image);
	return image != NULL;
}

/* With its project, if it is not everybody's. */
static json_t *image_of_project(const struct daemon *d, const char *name,
                                const char *project)
{
	json_t *one = image_json(d, name);

	if (one)
		json_object_set_new(one, "project",
		                    project ? json_string(project)
		                            : json_null());
	return one;
}

static json_t *image_seen(struct call *c, const char *name)
{
	char project[PROJECT_SIZE];
	enum belonging b = image_belongs(c->daemon, name, project);

	if (b == BELONGS_NOWHERE ||
	    (b == BELONGS_PROJECT &&
	     !(caller_rights(&c->caller, project) & RIGHT_READ)))
		return NULL;
	return image_of_project(c->daemon, name,
	                        b == BELONGS_PROJECT ? project : NULL);
}

bool call_sees_image(struct call *c, const char *name)
{
	json_t *image = image_seen(c, name);

	json_decref(image);
	return image != NULL;
}

void api_image_list(struct call *c)
{
	char *path = xasprintf("%s/names", c->daemon->place.images);
	json_t *list = json_array(), *one;
	struct dirent **entries = NULL;
	int n = scandir(path, &entries, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		one = entries[i]->d_name[0] == '.'
		          ? NULL
		          : image_seen(c, entries[i]->d_name);
		if (one)
			json_array_append_new(list, one);
		free(entries[i]);
	}
	free(entries);
	free(path);
	c->status = 200;
	c->reply = json_pack("{s:o}", "images", list);
}

void api_image_get(struct call *c)
{
	c->reply = image_seen(c, c->params[0]);
	c->status = 200;
}

/* Into a project, or to everybody: null. Machines that were made from it stay
 * as they are. */
void api_image_patch(struct call *c)
{
	static const char *const keys[] = { "project", NULL };
	json_t *project = json_object_get(c->body, "project");
	const char *name = c->params[0], *to = NULL;
	int rc;

	if (!image_exists(c->daemon, name)) {
		field_none(c, "image", name);
		return;
	}
	if (!call_known_keys(c, keys))
		return;
	if (!project) {
		call_fail(c, "bad-request", "project is missing",
		          "null: everybody's");
		return;
	}
	if (!json_is_null(project)) {
		to = call_project(c, NULL, RIGHT_DEFINE);
		if (!to)
			return;
	}
	rc = store_run(c->daemon->store, &c->err,
	               "DELETE FROM image_projects WHERE name = ?", "t", name);
	if (rc == 0 && to)
		rc = store_run(c->daemon->store, &c->err,
		               "INSERT INTO image_projects(name, project)"
		               " VALUES(?, ?)",
		               "tt", name, to);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 200;
	c->reply = image_of_project(c->daemon, name, to);
}
