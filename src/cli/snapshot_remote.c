/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot_remote - the same verbs for machines that a daemon keeps: its API
 * does the work, and what is printed is the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/snapshot.h"

int snapshot_open_remote(struct remote *r, const struct snapshot_remote *how)
{
	const char *where = how->where ? how->where : getenv("ATOLL_REMOTE");
	struct error err = { 0 };

	*r = (struct remote){ .quiet = how->quiet, .async = how->async };
	if (where && !where[0])
		where = NULL;
	return client_open(&r->client, where, &err) < 0 ? say_error(&err) : 0;
}

/* Of the machine's snapshots, or of one, with what follows it; owned. */
static char *path_of(const struct snapshot_of *of, const char *name,
                     const char *verb)
{
	char *vm = resource_path("/v1/vms", of->machine);
	char *all = xasprintf("%s/snapshots", vm);
	char *one = name ? resource_path(all, name) : xstrdup(all);
	char *whole = xasprintf("%s%s", one, verb);

	free(vm);
	free(all);
	free(one);
	return whole;
}

/* A call that begins a task, and its end. name gets the snapshot's, if it is
 * wanted; owned. body and path are taken over. */
static int run_task(struct remote *r, const struct snapshot_of *of,
                    const char *method, char *path, json_t *body, char **name)
{
	struct error err = { 0 };
	json_t *task = NULL;
	int code;

	if (client_call(r->client, method, path, body, &task, &err) < 0) {
		code = remote_failed(r, &err);
	} else {
		if (name)
			*name = xstrdup(remote_text(task, "params.snapshot"));
		code = remote_follow(r, task, of->machine);
	}
	free(path);
	json_decref(body);
	return code;
}

int snapshot_remote_create(const struct snapshot_of *of,
                           const struct snapshot_remote *how, json_t *body)
{
	struct remote r;
	char *name = NULL, *path;
	int code = snapshot_open_remote(&r, how);
	json_t *made;

	if (code) {
		json_decref(body);
		return code;
	}
	code = run_task(&r, of, "POST", path_of(of, NULL, ""), body, &name);
	if (code == CODE_OK && !r.async) {
		path = path_of(of, name, "");
		made = remote_get(&r, path, &code);
		free(path);
		if (made)
			fprintf(stderr, "%s stood still for %.1f ms\n",
			        of->machine,
			        (double)remote_number(made, "pause_us") / 1e3);
		json_decref(made);
		puts(name);
	}
	free(name);
	client_close(r.client);
	return code;
}

/* Milliseconds since 1970. */
static json_int_t time_of(const char *text)
{
	struct tm tm = { 0 };
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

	return rest ? (json_int_t)timegm(&tm) * 1000 +
	                  (rest[0] == '.' ? atoi(rest + 1) : 0)
	            : 0;
}

int snapshot_remote_list(const struct snapshot_of *of,
                         const struct snapshot_remote *how, struct snapshots *s)
{
	char *path = path_of(of, NULL, "");
	struct remote r;
	json_t *whole, *one;
	int code = snapshot_open_remote(&r, how);
	size_t i;

	*s = (struct snapshots){ .all = json_object(), .lock_fd = -1 };
	whole = code ? NULL : remote_get(&r, path, &code);
	json_array_foreach(json_object_get(whole, "snapshots"), i, one)
	{
		json_object_set_new(
		    one, "time", json_integer(time_of(remote_text(one, "at"))));
		json_object_set(s->all, remote_text(one, "name"), one);
	}
	if (remote_text(whole, "current")[0])
		s->current = xstrdup(remote_text(whole, "current"));
	json_decref(whole);
	free(path);
	client_close(r.client);
	return code;
}

int snapshot_remote_revert(const struct snapshot_of *of,
                           const struct snapshot_remote *how, const char *name,
                           json_t *body)
{
	bool starts = json_is_true(json_object_get(body, "start"));
	struct remote r;
	int code = snapshot_open_remote(&r, how);

	if (code) {
		json_decref(body);
		return code;
	}
	code =
	    run_task(&r, of, "POST", path_of(of, name, "/revert"), body, NULL);
	if (code == CODE_OK && !r.async && !starts)
		printf("atoll start %s\n", of->machine);
	client_close(r.client);
	return code;
}

int snapshot_remote_delete(const struct snapshot_of *of,
                           const struct snapshot_remote *how, const char *name)
{
	struct remote r;
	int code = snapshot_open_remote(&r, how);

	if (code == 0)
		code = run_task(&r, of, "DELETE", path_of(of, name, ""), NULL,
		                NULL);
	client_close(r.client);
	return code;
}

/* One that is held and one that was put away: the daemon has two words. */
static const char *word_of(struct remote *r, const char *vm, const char *verb,
                           int *code)
{
	json_t *now;

	if (strcmp(verb, "resume"))
		return verb;
	now = remote_get(r, vm, code);
	if (json_is_true(json_object_get(now, "saved")))
		verb = "start";
	json_decref(now);
	return now ? verb : NULL;
}

int snapshot_remote_act(const struct snapshot_of *of,
                        const struct snapshot_remote *how, const char *verb,
                        json_t *body)
{
	char *vm = resource_path("/v1/vms", of->machine);
	struct remote r;
	int code = snapshot_open_remote(&r, how);

	if (code == 0)
		verb = word_of(&r, vm, verb, &code);
	if (code == 0)
		code = run_task(&r, of, "POST", xasprintf("%s/%s", vm, verb),
		                json_incref(body), NULL);
	client_close(r.client);
	json_decref(body);
	free(vm);
	return code;
}

int snapshot_remote_diff(const struct snapshot_of *of,
                         const struct snapshot_remote *how, const char *a,
                         const char *b, json_t **out)
{
	char *other = client_escape(b);
	char *verb = xasprintf("/diff?with=%s", other);
	char *path = path_of(of, a, verb);
	struct remote r;
	int code = snapshot_open_remote(&r, how);

	if (code == 0)
		*out = remote_get(&r, path, &code);
	client_close(r.client);
	free(path);
	free(verb);
	free(other);
	return code;
}
