/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream - answers that go on: events, a console, a task waited for.
 *
 * A peer that reads slowly gets its bytes later, from the registry or the
 * console log: nothing is kept for it but its place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/console_log.h"
#include "daemon/network.h"
#include "daemon/store.h"

enum { PENDING_MAX = 256 * 1024, RETRY_MS = 50, PIECE = 32 * 1024 };

enum kind { EVENTS, CONSOLE, TASK };

struct stream {
	struct stream *next;
	struct daemon *daemon;
	struct http_request *http;
	enum kind kind;
	struct vm *vm; /* borrowed */
	u64 offset;
	bool until_stopped;
	s64 id; /* of the last event, or the task */
	struct caller caller;
	char project[PROJECT_SIZE]; /* of a task */
	json_t *projects;           /* of events: caller_projects() */
	struct loop_timer timer;
};

static void stream_free(struct stream *s)
{
	struct stream **at = &s->daemon->streams;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	loop_timer_fini(&s->timer);
	json_decref(s->projects);
	free(s);
}

static void stream_end(struct stream *s)
{
	struct http_request *http = s->http;

	stream_free(s);
	http_end(http);
}

void api_gone(void *ctx, struct http_request *request)
{
	struct daemon *d = ctx;

	for (struct stream *s = d->streams; s; s = s->next)
		if (s->http == request) {
			stream_end(s);
			return;
		}
	if (network_capture_gone(d, request))
		return;
	/* Answered already: http_reply() has let go of it. */
}

static void again_soon(struct stream *s)
{
	loop_timer_arm(&s->timer, loop_now_ns() + RETRY_MS * NSEC_PER_MSEC);
}

/* ---- events, as text/event-stream ---- */

static int send_event(void *ctx, struct row *row)
{
	struct stream *s = ctx;
	json_t *event = event_row_json(row);
	char *json = json_dumps(event, JSON_COMPACT), *text;
	size_t pending;

	s->id = row_int(row, 0);
	text = xasprintf("id: %" PRId64 "\nevent: %s\ndata: %s\n\n", s->id,
	                 row_text(row, 2), json);
	pending = http_write(s->http, text, strlen(text));
	free(text);
	free(json);
	json_decref(event);
	return pending > PENDING_MAX;
}

static void push_events(struct stream *s)
{
	if (auth_expired(&s->caller))
		stream_end(s);
	else if (http_pending(s->http) > PENDING_MAX ||
	         store_query(s->daemon->store, send_event, s, NULL,
	                     "SELECT " EVENT_COLUMNS
	                     " FROM events WHERE id > ?1"
	                     " AND " PROJECT_AMONG("?2") " ORDER BY id",
	                     "ij", s->id, s->projects) > 0)
		again_soon(s);
}

void streams_event(struct daemon *d)
{
	struct stream *s, *next;

	for (s = d->streams; s; s = next) {
		next = s->next;
		if (s->kind == EVENTS)
			push_events(s);
	}
}

/* ---- consoles ---- */

/* False: the stream has ended. */
static bool push_console(struct stream *s)
{
	struct vm *vm = s->vm;
	ssize_t n = 0;
	int folder;
	bool more;
	u8 *data;

	if (auth_expired(&s->caller)) {
		stream_end(s);
		return false;
	}
	folder = vm_folder(vm, NULL);
	data = try_alloc(1, PIECE);
	while (folder >= 0 && data && http_pending(s->http) < PENDING_MAX &&
	       (n = console_log_read(folder, s->offset, data, PIECE)) > 0) {
		http_write(s->http, data, (size_t)n);
		s->offset += (u64)n;
	}
	free(data);
	if (folder >= 0)
		close(folder);
	/* The peer has yet to take what it was given. */
	more = n > 0 || http_pending(s->http) >= PENDING_MAX;
	if (more)
		again_soon(s);
	if (more || !s->until_stopped || vm->state != VM_STOPPED ||
	    vm->holder || vm->queue)
		return true;
	stream_end(s);
	return false;
}

void streams_console(struct vm *vm)
{
	struct stream *s, *next;

	for (s = vm->daemon->streams; s; s = next) {
		next = s->next;
		if (s->kind == CONSOLE && s->vm == vm)
			push_console(s);
	}
}

void streams_vm_gone(struct vm *vm)
{
	struct stream *s, *next;

	for (s = vm->daemon->streams; s; s = next) {
		next = s->next;
		if (s->kind == CONSOLE && s->vm == vm)
			stream_end(s);
	}
}

/* ---- tasks waited for ---- */

static void answer_task(struct stream *s)
{
	json_t *task = task_find_json(s->daemon, s->id);
	struct http_request *http = s->http;

	stream_free(s);
	api_reply(http, 200, task);
}

void streams_task(struct daemon *d, s64 id)
{
	struct stream *s, *next;

	for (s = d->streams; s; s = next) {
		next = s->next;
		if (s->kind == TASK && s->id == id)
			/* Its last words are in the registry by now, but it
			 * is in memory too, until its end is over. */
			loop_timer_arm(&s->timer, loop_now_ns());
	}
}

/* ---- who may look on no more ---- */

static bool still(struct stream *s)
{
	struct caller *c = &s->caller;

	if (!auth_again(s->daemon, c))
		return false;
	switch (s->kind) {
	case EVENTS:
		json_decref(s->projects);
		s->projects = caller_projects(c, RIGHT_READ);
		return caller_any(c) & RIGHT_READ;
	case CONSOLE:
		return caller_rights(c, vm_project(s->vm)) & RIGHT_OPERATE;
	case TASK:
		return caller_rights(c, s->project) & RIGHT_READ;
	}
	return false;
}

static void turn_away(struct stream *s)
{
	struct http_request *http = s->http;

	if (s->kind == TASK) {
		stream_free(s);
		api_reply_error(http, "unauthorized",
		                "access was taken back meanwhile", "");
	} else {
		stream_end(s);
	}
}

void streams_check(struct daemon *d)
{
	struct stream *s, *next;

	for (s = d->streams; s; s = next) {
		next = s->next;
		if (!still(s))
			turn_away(s);
	}
	network_captures_check(d);
}

/* ---- all ---- */

static void timer_fired(void *ctx)
{
	struct stream *s = ctx;

	if (s->kind == EVENTS)
		push_events(s);
	else if (s->kind == CONSOLE)
		push_console(s);
	else
		answer_task(s);
}

static struct stream *stream_new(struct call *c, enum kind kind)
{
	struct stream *s = xalloc(sizeof(*s));

	s->daemon = c->daemon;
	s->http = c->http;
	s->kind = kind;
	s->caller = c->caller;
	memcpy(s->project, c->project, sizeof(s->project));
	loop_timer_init(&s->timer, c->daemon->loop, timer_fired, s);
	s->next = c->daemon->streams;
	c->daemon->streams = s;
	c->deferred = true;
	return s;
}

void stream_events(struct call *c, s64 after)
{
	struct stream *s = stream_new(c, EVENTS);

	s->id = after;
	s->projects = caller_projects(&s->caller, RIGHT_READ);
	http_begin(s->http, 200, "text/event-stream", NULL);
	/* Something at once, so that the peer knows that it listens. */
	http_write(s->http, ": hello\n\n", 9);
	push_events(s);
}

void stream_console(struct call *c, struct vm *vm, u64 offset,
                    bool until_stopped)
{
	struct stream *s = stream_new(c, CONSOLE);

	s->vm = vm;
	s->offset = offset;
	s->until_stopped = until_stopped;
	http_begin(s->http, 200, "application/octet-stream", c->headers);
	push_console(s);
}

void stream_task(struct call *c, s64 id, u64 wait_ns)
{
	struct stream *s = stream_new(c, TASK);

	s->id = id;
	loop_timer_arm(&s->timer, loop_now_ns() + wait_ns);
}

void streams_end(struct daemon *d)
{
	while (d->streams)
		stream_end(d->streams);
}
