/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll vm - machines that a daemon keeps: seen, started, stopped, deleted.
 */
#include "cli/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/units.h"
#include "cli/agent.h"
#include "cli/fork.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "cli/snapshot.h"
#include "cli/watch.h"

enum { OPT_FORCE = OPT_OWN, OPT_DISCARD, OPT_FAST };
/* Of list: what the query of the API calls them. */
enum {
	OPT_STATE = OPT_OWN,
	OPT_TAG,
	OPT_PROJECT,
	OPT_OWNER,
	OPT_EXPIRED,
	OPT_VIEW
};

/* ---- columns ---- */

static const char *state_of(json_t *vm, char *room, size_t size)
{
	const char *state = remote_text(vm, "state");

	if (strcmp(state, "stopped") ||
	    !json_is_object(json_object_get(vm, "last_end")))
		return state;
	snprintf(room, size, "stopped (%s)", remote_text(vm, "last_end.cause"));
	return room;
}

/* The first that the guest says it has, and that others can reach. */
static const char *address_of(json_t *vm, char *room, size_t size)
{
	json_t *one, *address;
	size_t i, k;

	(void)room;
	(void)size;
	json_array_foreach(remote_at(vm, "agent.interfaces"), i, one)
	{
		if (strcmp(remote_text(one, "name"), "lo") == 0)
			continue;
		json_array_foreach(json_object_get(one, "addresses"), k,
		                   address)
		{
			return json_string_value(address);
		}
	}
	return "-";
}

/* "3m", "2h", "5d" since an ISO time. */
static const char *age_of(json_t *vm, char *room, size_t size)
{
	struct tm tm = { 0 };
	long s;

	if (!strptime(remote_text(vm, "since"), "%Y-%m-%dT%H:%M:%S", &tm))
		return "-";
	s = (long)(time(NULL) - timegm(&tm));
	s = MAX(s, 0L);
	if (s < 60)
		snprintf(room, size, "%lds", s);
	else if (s < 3600)
		snprintf(room, size, "%ldm", s / 60);
	else if (s < 86400)
		snprintf(room, size, "%ldh", s / 3600);
	else
		snprintf(room, size, "%ldd", s / 86400);
	return room;
}

static const struct column columns[] = {
	{ "NAME", .path = "name" },
	{ "STATE", state_of },
	{ "SINCE", age_of },
	{ "CPUS", .path = "spec.cpus", .kind = CELL_NUMBER },
	{ "MEMORY", .path = "spec.memory_bytes", .kind = CELL_SIZE },
	{ "IMAGE", .path = "spec.image" },
	{ "ADDRESS", address_of, .wide = true },
	{ "ENGINE", .path = "spec.engine", .wide = true },
	{ "PROJECT", .path = "spec.project", .wide = true },
	{ "OWNER", .path = "spec.owner", .wide = true },
	{ "ID", .path = "id", .wide = true },
	{ NULL },
};

/* Of those whose time is over: whom to ask. */
static const struct column expired_columns[] = {
	{ "NAME", .path = "name" },
	{ "STATE", state_of },
	{ "EXPIRES", .path = "spec.expires" },
	{ "OWNER", .path = "spec.owner" },
	{ "PROJECT", .path = "spec.project" },
	{ NULL },
};

/* ---- list ---- */

/* A path with a query under way. */
static int list_option(void *ctx, int id, const char *value, struct error *err)
{
	static const char *const names[] = { "state", "tag",     "project",
		                             "owner", "expired", "view" };
	char **path = ctx, *old = *path;
	char *text = client_escape(id == OPT_EXPIRED ? "true" : value);

	(void)err;
	*path = xasprintf("%s%c%s=%s", old, strchr(old, '?') ? '&' : '?',
	                  names[id - OPT_OWN], text);
	free(old);
	free(text);
	return 0;
}

static int vm_list(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "state", "STATE", "only those: stopped, running, paused",
		  OPT_STATE },
		{ "tag", "KEY[=GLOB]", "only those with that tag", OPT_TAG },
		{ "project", "PROJECT", "only those in that one", OPT_PROJECT },
		{ "owner", "WHO", "only those of that one", OPT_OWNER },
		{ "expired", NULL, "only those whose time is over",
		  OPT_EXPIRED },
		REMOTE_LIST_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};
	char *path = xstrdup("/v1/vms");
	struct remote r = { .own = list_option, .own_ctx = &path };
	int code = remote_open(&r, "atoll vm list [OPTION]...",
	                       "The machines that the daemon keeps.", specs,
	                       argc, argv);

	if (code < 0 && !remote_wants_data(&r) && !r.wide && !r.columns &&
	    !r.sort && !r.filter_count)
		list_option(&path, OPT_VIEW, "brief", NULL);
	if (code < 0)
		code = remote_list(&r, path, "vms",
		                   strstr(path, "expired=") ? expired_columns
		                                            : columns);
	free(path);
	remote_close(&r);
	return code;
}

/* ---- verbs that are tasks ---- */

struct act {
	const char *verb; /* as the API spells it */
	bool force, discard, fast;
	bool delete;
};

static int act_option(void *ctx, int id, const char *value, struct error *err)
{
	struct act *a = ctx;

	(void)value;
	(void)err;
	if (id == OPT_FORCE)
		a->force = true;
	else if (id == OPT_DISCARD)
		a->discard = true;
	else if (id == OPT_FAST)
		a->fast = true;
	return 0;
}

static bool can_stop(const char *verb)
{
	return strcmp(verb, "stop") == 0 || strcmp(verb, "restart") == 0;
}

/* The daemon gives the guest that long; we wait a little longer. */
static json_t *stop_body(const struct remote *r, const struct act *a)
{
	json_t *body = json_pack("{s:b}", "force", a->force);

	if (r->timeout_s)
		json_object_set_new(
		    body, "timeout_s",
		    json_integer((json_int_t)MIN(r->timeout_s, (u64)86400)));
	return body;
}

static int begin_one(struct remote *r, const struct act *a, const char *name,
                     json_t **task)
{
	char *part = client_escape(name), *path;
	struct error err = { 0 };
	json_t *body = NULL;
	int rc;

	if (a->delete)
		path = xasprintf("/v1/vms/%s%s", part,
		                 a->force ? "?force=true" : "");
	else
		path = xasprintf("/v1/vms/%s/%s", part, a->verb);
	if (can_stop(a->verb))
		body = stop_body(r, a);
	else if (a->discard || a->fast)
		body = json_pack("{s:b}", a->discard ? "discard" : "fast", 1);
	rc = client_call(r->client, a->delete ? "DELETE" : "POST", path, body,
	                 task, &err);
	json_decref(body);
	free(part);
	free(path);
	return rc < 0 ? remote_failed(r, &err) : CODE_OK;
}

/* All are begun before one is waited for. */
static int act_on_all(struct remote *r, const struct act *a, json_t *names)
{
	size_t count = json_array_size(names), failed = 0;
	json_t **tasks = xalloc((count + 1) * sizeof(*tasks));
	int code, last = CODE_OK;

	for (size_t i = 0; i < count; i++) {
		code =
		    begin_one(r, a, json_string_value(json_array_get(names, i)),
		              &tasks[i]);
		failed += code != CODE_OK;
		last = code ? code : last;
	}
	if (can_stop(a->verb))
		r->timeout_s = 0;
	for (size_t i = 0; i < count; i++) {
		if (!tasks[i])
			continue;
		code = remote_follow(
		    r, tasks[i], json_string_value(json_array_get(names, i)));
		failed += code != CODE_OK;
		last = code ? code : last;
	}
	free(tasks);
	return remote_sum(count, failed, last);
}

static int confirm(const struct remote *r, const struct act *a, json_t *names)
{
	size_t count = json_array_size(names);

	if (!a->delete || !count)
		return CODE_OK;
	if (count == 1)
		return say_confirm(r->yes,
		                   "Delete the machine %s and its data?",
		                   json_string_value(json_array_get(names, 0)));
	return say_confirm(r->yes, "Delete %zu machines and their data?",
	                   count);
}

/* Those that only some of the verbs take stand first. */
static const struct option_spec act_options[] = {
	{ "discard", NULL, "boot, and drop what was saved", OPT_DISCARD },
	{ "fast", NULL, "leave memory as it is, larger; goes on sooner",
	  OPT_FAST },
	{ "force", NULL, "end a guest that does not go by itself", OPT_FORCE },
	REMOTE_YES_OPTION,
	REMOTE_TASK_OPTIONS,
	REMOTE_OPTIONS,
	{ 0 },
};

static bool takes(const struct act *a, int option)
{
	switch (option) {
	case OPT_DISCARD:
		return strcmp(a->verb, "start") == 0;
	case OPT_FAST:
		return strcmp(a->verb, "suspend") == 0;
	case OPT_FORCE:
		return can_stop(a->verb) || a->delete;
	case OPT_YES:
		return a->delete;
	default:
		return true;
	}
}

static int act(struct act *a, const char *summary, int argc, char **argv)
{
	struct option_spec specs[ARRAY_SIZE(act_options)];
	size_t n = 0;
	struct remote r = { .own = act_option, .own_ctx = a };
	char usage[80];
	json_t *names;
	int code;

	for (size_t i = 0; i < ARRAY_SIZE(act_options); i++)
		if (takes(a, act_options[i].id))
			specs[n++] = act_options[i];
	snprintf(usage, sizeof(usage), "atoll vm %s NAME... [OPTION]...",
	         a->verb);
	code = remote_open(&r, usage, summary, specs, argc, argv);
	if (code < 0) {
		names = remote_machines(&r, &code);
		if (names) {
			code = confirm(&r, a, names);
			if (code == CODE_OK)
				code = act_on_all(&r, a, names);
		}
		json_decref(names);
	}
	remote_close(&r);
	return code;
}

static const struct {
	const char *verb, *summary;
} acts[] = {
	{ "start", "Start machines." },
	{ "stop", "Press the power button, and wait until the guest is down." },
	{ "restart", "Stop machines, and start them again." },
	{ "kill", "End machines at once, as pulling the plug does." },
	{ "pause", "Halt machines where they are." },
	{ "resume", "Let paused machines go on." },
	{ "suspend",
	  "Save machines and end them; a start goes on from there." },
	{ "reset", "Press the reset button." },
	{ "powerdown", "Press the power button, and don't wait." },
	{ "delete", "Delete machines, with their disks' copies and consoles." },
};

static int vm_act(int argc, char **argv)
{
	struct act a = { .verb = argv[0] };

	a.delete = strcmp(argv[0], "delete") == 0;
	for (size_t i = 0; i < ARRAY_SIZE(acts); i++)
		if (strcmp(acts[i].verb, argv[0]) == 0)
			return act(&a, acts[i].summary, argc, argv);
	return CODE_USAGE;
}

/* ---- wait, log, status ---- */

enum { OPT_FOR = OPT_OWN };

static int for_option(void *ctx, int id, const char *value, struct error *err)
{
	(void)id;
	if (strcmp(value, "running") && strcmp(value, "paused") &&
	    strcmp(value, "stopped"))
		return error_set(err, -EINVAL,
		                 "--for %s is none of running, paused, stopped",
		                 value);
	*(const char **)ctx = value;
	return 0;
}

static int wait_one(struct remote *r, const char *name, const char *state)
{
	char *part = client_escape(name), *path = xasprintf("/v1/vms/%s", part);
	time_t end = time(NULL) + (time_t)r->timeout_s;
	const struct timespec pause = { 0, 100 * 1000 * 1000 };
	int code = -1;
	json_t *vm;

	while (code < 0) {
		vm = remote_get(r, path, &code);
		if (vm && strcmp(remote_text(vm, "state"), state) == 0)
			code = CODE_OK;
		else if (vm && r->timeout_s && time(NULL) > end) {
			fprintf(stderr, "error: %s is %s, not %s\n", name,
			        remote_text(vm, "state"), state);
			code = CODE_TIMEOUT;
		} else if (vm) {
			nanosleep(&pause, NULL);
		}
		json_decref(vm);
	}
	free(part);
	free(path);
	return code;
}

static int vm_wait(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "for", "STATE", "running, paused or stopped (stopped)",
		  OPT_FOR },
		{ "timeout", "TIME", "wait no longer", OPT_WAIT },
		REMOTE_OPTIONS,
		{ 0 },
	};
	const char *state = "stopped";
	struct remote r = { .own = for_option, .own_ctx = &state };
	int code = remote_open(&r, "atoll vm wait NAME... [OPTION]...",
	                       "Wait until machines are in a state.", specs,
	                       argc, argv);
	json_t *names, *one;
	size_t i;

	if (code < 0) {
		names = remote_machines(&r, &code);
		json_array_foreach(names, i, one)
		{
			code = wait_one(&r, json_string_value(one), state);
			if (code != CODE_OK)
				break;
		}
		json_decref(names);
	}
	remote_close(&r);
	return code;
}

static int put(void *ctx, const void *data, size_t size)
{
	(void)ctx;
	return fwrite(data, 1, size, stdout) != size;
}

static int vm_log(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	struct error err = { 0 };
	int code = remote_open(&r, "atoll vm log NAME",
	                       "What the machine's process said last.", specs,
	                       argc, argv);
	char *part, *path;

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll vm log takes one machine");
	if (code < 0) {
		part = client_escape(r.names[0]);
		path = xasprintf("/v1/vms/%s/log", part);
		code = client_stream(r.client, path, NULL, put, NULL, NULL,
		                     &err) < 0
		           ? remote_failed(&r, &err)
		           : CODE_OK;
		free(part);
		free(path);
	}
	remote_close(&r);
	return code;
}

/* ---- others' verbs ---- */

/* As atoll snapshot create and revert. */
static int vm_snapshot(int argc, char **argv)
{
	bool revert = strcmp(argv[0], "revert") == 0;
	char **words = xalloc(((size_t)argc + 2) * sizeof(*words));
	int code;

	words[0] = (char[]){ "snapshot" };
	words[1] = revert ? (char[]){ "revert" } : (char[]){ "create" };
	memcpy(words + 2, argv + 1, (size_t)(argc - 1) * sizeof(*words));
	code = cmd_snapshot(argc + 1, words);
	free(words);
	return code;
}

/* ---- the table ---- */

static const struct command verbs[] = {
	{ "list", "the machines there are", vm_list },
	{ "show", "all that is known of one", vm_show },
	{ "inspect", "the same", vm_show },
	{ "create", "define one", vm_create },
	{ "set", "change a definition", vm_set },
	{ "attach", "give it further disks and cards", vm_attach },
	{ "detach", "take some from it", vm_detach },
	{ "start", "start", vm_act },
	{ "stop", "press the power button, and wait", vm_act },
	{ "restart", "stop and start", vm_act },
	{ "kill", "end at once", vm_act },
	{ "pause", "halt", vm_act },
	{ "resume", "go on", vm_act },
	{ "suspend", "save, and end; a start goes on", vm_act },
	{ "reset", "press the reset button", vm_act },
	{ "powerdown", "press the power button only", vm_act },
	{ "console", "the machine's terminal", vm_console },
	{ "log", "what its process said", vm_log },
	{ "exec", "run a program in the guest", command_exec },
	{ "cp", "copy a file into the guest, or out of it", command_cp },
	{ "top", "what machines use, as it happens", command_top },
	{ "metrics", "what one used", command_metrics },
	{ "snapshot", "save it as it is; it goes on", vm_snapshot },
	{ "revert", "put it back to a snapshot", vm_snapshot },
	{ "fork", "copies of it, while it runs", command_fork },
	{ "rename", "give it another name", vm_rename },
	{ "wait", "wait for a state", vm_wait },
	{ "delete", "delete, with its data", vm_act },
	{ 0 },
};

int command_noun(const struct command *table, const char *summary, int argc,
                 char **argv)
{
	const struct command *c;

	if (argc < 2 || strcmp(argv[1], "--help") == 0 ||
	    strcmp(argv[1], "-h") == 0) {
		printf("usage: atoll %s VERB [OPTION]...\n\n%s\n\nVerbs:\n",
		       argv[0], summary);
		command_list(table);
		return argc < 2 ? CODE_USAGE : CODE_OK;
	}
	if (argv[1][0] == '-')
		return say_usage("atoll %s: %s comes before no verb", argv[0],
		                 argv[1]);
	c = command_find(table, "verb", argv[1]);
	return c ? c->fn(argc - 1, argv + 1) : CODE_USAGE;
}

int command_vm(int argc, char **argv)
{
	return command_noun(verbs, "Machines that a daemon keeps.", argc, argv);
}

int command_vm_verb(int argc, char **argv)
{
	const struct command *c = command_find(verbs, "verb", argv[0]);

	return c ? c->fn(argc, argv) : CODE_USAGE;
}

int command_shell(int argc, char **argv)
{
	return vm_console(argc, argv);
}
