/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork_remote - copies of a machine that a daemon keeps, made by its API.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/fork.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"

/* What the task says of them, now that it has ended. */
static void tell(const struct remote *r, const char *machine, json_t *task,
                 bool json)
{
	json_t *copies = remote_at(task, "params.copies"), *copy;
	json_t *result = json_object_get(task, "result"), *whole;
	double pause = (double)remote_number(result, "pause_us") / 1e3;
	double ms = json_number_value(json_object_get(result, "ms"));
	size_t i;

	if (json) {
		whole =
		    json_pack("{s:O?, s:O?, s:O?}", "pause_us",
		              json_object_get(result, "pause_us"), "ms",
		              json_object_get(result, "ms"), "copies", copies);
		remote_print_value(r, whole);
		json_decref(whole);
		return;
	}
	json_array_foreach(copies, i, copy) puts(remote_text(copy, "name"));
	if (json_array_size(copies))
		fprintf(stderr, "%s stood still for %.1f ms; %.1f ms a copy\n",
		        machine, pause, ms / (double)json_array_size(copies));
}

static int run(struct remote *r, const char *machine, json_t *body, bool json)
{
	char *vm = resource_path("/v1/vms", machine), room[64];
	char *path = xasprintf("%s/fork", vm);
	struct error err = { 0 };
	json_t *task = NULL;
	int code;

	if (client_call(r->client, "POST", path, body, &task, &err) < 0) {
		code = remote_failed(r, &err);
	} else {
		snprintf(room, sizeof(room), "/v1/tasks/%" PRId64,
		         remote_number(task, "id"));
		code = remote_follow(r, task, machine);
		task = code == CODE_OK && !r->async ? remote_get(r, room, &code)
		                                    : NULL;
		if (task)
			tell(r, machine, task, json);
		json_decref(task);
	}
	free(vm);
	free(path);
	return code;
}

int fork_remote(const struct snapshot_of *of, const struct snapshot_remote *how,
                json_t *body)
{
	struct remote r;
	int code = snapshot_open_remote(&r, how);

	if (code == 0)
		code = run(&r, of->machine, body, how->json);
	client_close(r.client);
	json_decref(body);
	return code;
}
