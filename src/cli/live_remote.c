/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same verbs for machines of the daemon's: its API does the work.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/place.h"
#include "base/units.h"
#include "cli/live.h"
#include "cli/remote.h"
#include "cli/say.h"

/* A daemon that does not run has no machine that does. */
static bool daemon_runs(void)
{
	struct place place;
	bool runs;

	if (place_find(&place, NULL) < 0)
		return false;
	runs = access(place.socket, F_OK) == 0;
	place_fini(&place);
	return runs;
}

static json_t *element(json_t *list, const char *key, s64 number)
{
	json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		if (json_integer_value(json_object_get(one, key)) == number)
			return one;
	}
	return NULL;
}

/* info, and jobs without a job. */
static int show(struct remote *r, const char *base, const char *verb, int disk)
{
	char *path = xasprintf("%s/disks", base);
	int code = CODE_OK;
	json_t *all = remote_get(r, path, &code), *shown;

	free(path);
	if (!all)
		return code;
	shown = strcmp(verb, "jobs") == 0
	            ? json_object_get(all, "jobs")
	            : element(json_object_get(all, "disks"), "disk", disk);
	if (shown)
		remote_print_value(r, shown);
	json_decref(all);
	return shown ? code : say_usage("the machine has no such disk");
}

static int change(struct remote *r, const char *path, json_t *body,
                  const char *name)
{
	struct error err = { 0 };
	json_t *reply = NULL;

	if (client_call(r->client, "POST", path, body, &reply, &err) < 0)
		return remote_failed(r, &err);
	return reply ? remote_follow(r, reply, name) : CODE_OK;
}

static int call(struct remote *r, const struct live_args *a, const char *base,
                int disk, json_t *body)
{
	json_t *job = json_object_get(body, "job");
	char *path;
	int code;

	if (!body)
		return show(r, base, a->verb, disk);
	if (job)
		path = xasprintf("%s/jobs/%" PRId64 "/cancel", base,
		                 (s64)json_integer_value(job));
	else
		path = xasprintf("%s/disks/vd%c/%s", base, 'a' + disk, a->verb);
	code = change(r, path, job ? NULL : body, a->args.names[0]);
	free(path);
	return code;
}

int live_remote(struct live_args *a, json_t *body, const struct error *local)
{
	const char *word = a->args.names[0], *colon = strrchr(word, ':');
	struct remote r = { .quiet = a->args.quiet, .async = a->detach };
	char *name, *part, *base;
	struct error err = { 0 };
	int code;

	if (local && !daemon_runs())
		return say_error(local);
	if (client_open(&r.client, NULL, &err) < 0)
		return say_error(&err);
	name = xasprintf("%.*s", (int)(colon - word), word);
	part = client_escape(name);
	base = xasprintf("/v1/vms/%s", part);
	code = call(&r, a, base, parse_disk(colon + 1), body);
	client_close(r.client);
	free(base);
	free(part);
	free(name);
	return code;
}

void live_put_path(json_t *body, const char *key, const char *path)
{
	char *cwd = path && path[0] != '/' ? getcwd(NULL, 0) : NULL, *whole;

	if (!path)
		return;
	whole = cwd ? xasprintf("%s/%s", cwd, path) : xstrdup(path);
	json_object_set_new(body, key, json_string(whole));
	free(whole);
	free(cwd);
}

void live_put_text(json_t *body, const char *key, const char *text)
{
	if (text)
		json_object_set_new(body, key, json_string(text));
}

void live_put_number(json_t *body, const char *key, u64 number)
{
	if (number)
		json_object_set_new(body, key,
		                    json_integer((json_int_t)number));
}

void live_put_switch(json_t *body, const char *key, bool on)
{
	if (on)
		json_object_set_new(body, key, json_true());
}
