/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll task, atoll event - what the daemon does, and what happened.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

enum { OPT_STATE = OPT_OWN, OPT_VM, OPT_LIMIT, OPT_FOLLOW, OPT_AFTER };

struct filters {
	const char *state, *vm, *limit, *after;
	bool follow;
};

static int filter_option(void *ctx, int id, const char *value,
                         struct error *err)
{
	struct filters *f = ctx;

	(void)err;
	if (id == OPT_STATE)
		f->state = value;
	else if (id == OPT_VM)
		f->vm = value;
	else if (id == OPT_LIMIT)
		f->limit = value;
	else if (id == OPT_AFTER)
		f->after = value;
	else
		f->follow = true;
	return 0;
}

static void add_query(char **path, const char *key, const char *value)
{
	char *old = *path, *part;

	if (!value)
		return;
	part = client_escape(value);
	*path = xasprintf("%s%c%s=%s", old, strchr(old, '?') ? '&' : '?', key,
	                  part);
	free(part);
	free(old);
}

/* ---- tasks ---- */

static const char *text_of(json_t *e, const char *path)
{
	const char *text = remote_text(e, path);

	return text[0] ? text : "-";
}

static const char *state_of(json_t *e, char *room, size_t size)
{
	if (strcmp(remote_text(e, "state"), "running"))
		return text_of(e, "state");
	snprintf(room, size, "running %" PRId64 "%%",
	         remote_number(e, "progress"));
	return room;
}

static const char *words_of(json_t *e, char *room, size_t size)
{
	const char *words = remote_text(e, "error.words");

	(void)room;
	(void)size;
	return words[0] ? words : text_of(e, "words");
}

static const struct column task_columns[] = {
	{ "TASK", .path = "id", .kind = CELL_NUMBER },
	{ "KIND", .path = "kind" },
	{ "MACHINE", .path = "vm.name" },
	{ "STATE", state_of },
	{ "CREATED", .path = "created", .kind = CELL_TIME },
	{ "WORDS", words_of },
	{ NULL },
};

static int task_list(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "state", "STATE",
		  "queued, running, succeeded, failed or cancelled",
		  OPT_STATE },
		{ "vm", "NAME", "of one machine", OPT_VM },
		{ "limit", "N", "the newest N (100)", OPT_LIMIT },
		REMOTE_PROJECT_OPTION,
		REMOTE_LIST_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct filters f = { 0 };
	struct remote r = { .own = filter_option, .own_ctx = &f };
	int code = remote_open(&r, "atoll task list [OPTION]...",
	                       "What was asked of the daemon, newest first.",
	                       specs, argc, argv);
	char *path = xstrdup("/v1/tasks");

	if (code < 0) {
		add_query(&path, "state", f.state);
		add_query(&path, "vm", f.vm);
		add_query(&path, "limit", f.limit);
		code = remote_list(&r, path, "tasks", task_columns);
	}
	free(path);
	remote_close(&r);
	return code;
}

static int show_task(struct remote *r, const char *id)
{
	char *path = resource_path("/v1/tasks", id);
	int code = remote_show(r, path, task_columns);

	free(path);
	return code;
}

static int wait_task(struct remote *r, const char *id)
{
	char *path = resource_path("/v1/tasks", id);
	int code = CODE_OK;
	json_t *task = remote_get(r, path, &code);
	char name[128];

	free(path);
	if (!task)
		return code;
	snprintf(name, sizeof(name), "%s", remote_text(task, "vm.name"));
	return remote_follow(r, task, name);
}

static int cancel_task(struct remote *r, const char *id)
{
	char *part = client_escape(id);
	char *path = xasprintf("/v1/tasks/%s/cancel", part);
	struct error err = { 0 };
	int code = CODE_OK;

	if (client_call(r->client, "POST", path, NULL, NULL, &err) < 0)
		code = remote_failed(r, &err);
	free(part);
	free(path);
	return code;
}

static int on_tasks(const char *usage, const char *summary,
                    int (*fn)(struct remote *r, const char *id), int argc,
                    char **argv)
{
	static const struct option_spec specs[] = {
		{ "timeout", "TIME", "wait no longer; the task goes on",
		  OPT_WAIT },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct remote r = { 0 };
	int code = remote_open(&r, usage, summary, specs, argc, argv), last = 0;
	size_t failed = 0;

	if (code < 0 && r.name_count == 0)
		code = say_usage("which task?");
	if (code < 0) {
		for (size_t i = 0; i < r.name_count; i++) {
			code = fn(&r, r.names[i]);
			failed += code != CODE_OK;
			last = code ? code : last;
		}
		code = remote_sum(r.name_count, failed, last);
	}
	remote_close(&r);
	return code;
}

static int task_show(int argc, char **argv)
{
	return on_tasks("atoll task show TASK...", "What a task did.",
	                show_task, argc, argv);
}

static int task_wait(int argc, char **argv)
{
	return on_tasks("atoll task wait TASK...",
	                "Wait for tasks to end; fails when one did.", wait_task,
	                argc, argv);
}

static int task_cancel(int argc, char **argv)
{
	return on_tasks("atoll task cancel TASK...",
	                "Let a task end where it is.", cancel_task, argc, argv);
}

int command_task(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "what was asked for", task_list },
		{ "show", "one task", task_show },
		{ "wait", "wait for the end", task_wait },
		{ "cancel", "end it where it is", task_cancel },
		{ 0 },
	};

	return command_noun(verbs, "What the daemon was asked to do.", argc,
	                    argv);
}

/* ---- events ---- */

static const char *data_of(json_t *e, char *room, size_t size)
{
	char *text = json_dumps(json_object_get(e, "data"), JSON_COMPACT);

	snprintf(room, size, "%s", text ? text : "");
	free(text);
	return room;
}

static const struct column event_columns[] = {
	{ "EVENT", .path = "id", .kind = CELL_NUMBER },
	{ "TIME", .path = "at", .kind = CELL_TIME },
	{ "TYPE", .path = "type" },
	{ "MACHINE", .path = "vm.name" },
	{ "DATA", data_of },
	{ NULL },
};

/* Lines of text/event-stream, of which only the data ones matter. */
struct lines {
	char *text;
	size_t used, room;
	const struct remote *remote;
};

static void print_event(struct lines *l, const char *data)
{
	json_t *event = json_loads(data, 0, NULL);
	char room[256];

	if (!event || !remote_matches(l->remote, event, event_columns)) {
		json_decref(event);
		return;
	}
	if (l->remote->format != FORMAT_TABLE)
		puts(data);
	else
		printf("%.19s  %-16s %-16s %s\n", remote_text(event, "at"),
		       remote_text(event, "type"), text_of(event, "vm.name"),
		       data_of(event, room, sizeof(room)));
	fflush(stdout);
	json_decref(event);
}

static int take_lines(void *ctx, const void *data, size_t size)
{
	struct lines *l = ctx;
	char *end;

	if (l->used + size + 1 > l->room) {
		l->room = 2 * (l->used + size + 1);
		l->text = xrealloc(l->text, l->room);
	}
	memcpy(l->text + l->used, data, size);
	l->used += size;
	while ((end = memchr(l->text, '\n', l->used))) {
		*end = '\0';
		if (strncmp(l->text, "data: ", 6) == 0)
			print_event(l, l->text + 6);
		l->used -= (size_t)(end + 1 - l->text);
		memmove(l->text, end + 1, l->used);
	}
	return ferror(stdout);
}

static int follow_events(struct remote *r, const char *path)
{
	struct lines l = { .remote = r };
	struct error err = { 0 };
	int rc = client_stream(r->client, path, "text/event-stream", take_lines,
	                       NULL, &l, &err);

	free(l.text);
	return rc < 0 ? remote_failed(r, &err) : CODE_OK;
}

static int event_list(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "after", "EVENT", "those with a higher number", OPT_AFTER },
		{ "limit", "N", "the last N (100), or the first N after EVENT",
		  OPT_LIMIT },
		{ "follow", NULL, "those to come, until Ctrl-C", OPT_FOLLOW },
		REMOTE_PROJECT_OPTION,
		REMOTE_LIST_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct filters f = { 0 };
	struct remote r = { .own = filter_option, .own_ctx = &f };
	int code =
	    remote_open(&r, "atoll event list [OPTION]...",
	                "What happened, oldest first.", specs, argc, argv);
	char *path = xstrdup("/v1/events");

	if (code < 0) {
		add_query(&path, "after", f.after);
		if (!f.follow)
			add_query(&path, "limit", f.limit);
		/* Who does not say from where asks what is new. */
		if (!f.follow && !f.after)
			add_query(&path, "newest", "true");
		code = f.follow
		           ? follow_events(&r, path)
		           : remote_list(&r, path, "events", event_columns);
	}
	free(path);
	remote_close(&r);
	return code;
}

int command_event(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "what happened", event_list },
		{ 0 },
	};

	return command_noun(verbs, "What happened to machines and tasks.", argc,
	                    argv);
}
