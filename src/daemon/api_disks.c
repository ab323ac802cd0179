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
#include "daemon/api.h"

/* ---- asking the machine ---- */

/* One that runs; NULL: the call has failed. */
static struct vm *running(struct call *c)
{
	struct vm *vm = call_vm(c);

	if (!vm || vm->state == VM_RUNNING || vm->state == VM_PAUSED)
		return vm;
	call_fail(c, "conflict", "the machine does not run", "start it first");
	return NULL;
}

static void send_json(struct http_request *http, int status, json_t *body)
{
	char *text = json_dumps(body, JSON_COMPACT);

	http_reply(http, status, "application/json", NULL, text, strlen(text));
	free(text);
	json_decref(body);
}

static void refuse(struct http_request *http, const char *words, json_t *answer)
{
	json_int_t code = json_integer_value(json_object_get(answer, "code"));
	bool absent = code == -ENOENT;
	bool wrong = code == -EINVAL;

	send_json(http,
	          absent  ? 404
	          : wrong ? 400
	                  : 409,
	          json_pack("{s:o}", "error",
	                    error_json(absent  ? "not-found"
	                               : wrong ? "bad-request"
	                                       : "conflict",
	                               words, "")));
}

static void listed(void *ctx, bool ok, const char *words, json_t *answer)
{
	if (ok)
		send_json(ctx, 200,
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
	struct vm *vm = running(c);

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

static void tell_disk(struct call *c, const char *op, const char *const *keys)
{
	struct vm *vm = running(c);
	int disk = vm ? disk_of(c) : -1;
	json_t *message;

	if (disk < 0 || !call_known_keys(c, keys) || !all_numbers(c))
		return;
	message = json_deep_copy(c->body);
	json_object_set_new(message, "op", json_string(op));
	json_object_set_new(message, "disk", json_integer(disk));
	c->deferred = true;
	holder_request(vm, message, done, c->http);
}

void api_disk_throttle(struct call *c)
{
	static const char *const keys[] = { "iops", "iops_burst", "bytes_per_s",
		                            "bytes_burst", NULL };

	tell_disk(c, "disk-throttle", keys);
}

void api_disk_resize(struct call *c)
{
	static const char *const keys[] = { "bytes", NULL };

	tell_disk(c, "disk-resize", keys);
}

/* A task; its kind is the last part of the path. */
void api_disk_work(struct call *c)
{
	struct vm *vm = running(c);
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
	call_task(c, vm, kind,
	          json_pack("{s:i, s:o}", "disk", disk, "work",
	                    c->body ? json_incref(c->body) : json_object()));
}

void api_job_cancel(struct call *c)
{
	struct vm *vm = running(c);
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

void api_image_list(struct call *c)
{
	char *path = xasprintf("%s/names", c->daemon->place.images);
	json_t *list = json_array(), *one;
	struct dirent **entries = NULL;
	int n = scandir(path, &entries, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		one = entries[i]->d_name[0] == '.'
		          ? NULL
		          : image_json(c->daemon, entries[i]->d_name);
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
	const char *name = c->params[0];
	char words[200];

	if (name[0] != '.' && !strchr(name, '/'))
		c->reply = image_json(c->daemon, name);
	if (c->reply) {
		c->status = 200;
		return;
	}
	snprintf(words, sizeof(words), "there is no image %s", name);
	call_fail(c, "not-found", words, "atoll image import brings one");
}
