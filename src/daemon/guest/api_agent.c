/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_agent - the guest's agent, as the API offers it.
 *
 * Every call is answered when the guest has answered, or not in time. A piece
 * of a file is one call: open, seek, read or write, close, so that nothing is
 * left open in a guest by who goes away in the middle.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/guest/guest.h"

enum { TIMEOUT_S = 20, FREEZE_S = 60, ARGUMENTS_MAX = 256, PATH_BYTES = 4096 };
enum { PIECE_MAX = 256 * 1024 };

/* ---- answers ---- */

static void send_error(struct http_request *http, const struct error *err)
{
	bool late = err->code == -ETIMEDOUT;

	api_reply(http, late ? 503 : 409,
	          json_pack("{s:o}", "error",
	                    error_json(late ? "unavailable" : "conflict",
	                               err->text, err->hint)));
}

/* NULL: the call has failed. */
static struct vm *running(struct call *c)
{
	struct vm *vm = call_vm(c);

	if (vm && c->http->headers[HTTP_IDEMPOTENCY_KEY][0]) {
		/* Its answer is not known yet when the key would be kept. */
		call_fail(c, "bad-request",
		          "a guest is not asked under an Idempotency-Key", "");
		return NULL;
	}
	if (vm && vm->state != VM_RUNNING) {
		call_fail(c, "conflict", "the machine does not run",
		          "start it first");
		return NULL;
	}
	return vm;
}

/* A text of the body without control characters. NULL: the call has failed. */
static const char *text_in(struct call *c, const char *key, size_t max)
{
	json_t *value = json_object_get(c->body, key);
	const char *text = json_string_value(value);

	if (text && text[0] && json_string_length(value) <= max &&
	    strlen(text) == json_string_length(value))
		return text;
	call_fail(c, "bad-request", "a text is missing, empty or too long", "");
	return NULL;
}

/* ---- what there is ---- */

void api_agent_get(struct call *c)
{
	struct vm *vm = call_vm(c);

	if (!vm)
		return;
	c->status = 200;
	c->reply = guest_json(vm);
}

/* ---- freeze and thaw ---- */

static void counted(void *ctx, json_t *answer, const struct error *err)
{
	if (answer)
		api_reply(ctx, 200,
		          json_pack("{s:I}", "filesystems",
		                    (json_int_t)MAX(agent_number(answer, NULL),
		                                    (s64)0)));
	else
		send_error(ctx, err);
}

void api_agent_freeze(struct call *c)
{
	struct vm *vm = running(c);
	bool thaw = strcmp(strrchr(c->http->path, '/'), "/thaw") == 0;

	if (!vm)
		return;
	c->deferred = true;
	guest_ask(vm, thaw ? "guest-fsfreeze-thaw" : "guest-fsfreeze-freeze",
	          NULL, AGENT_ANSWER_USUAL, FREEZE_S, counted, c->http);
}

/* ---- programs ---- */

static void started(void *ctx, json_t *answer, const struct error *err)
{
	struct error nonsense = { 0 };
	s64 pid = agent_number(answer, "pid");

	if (answer && pid < 0) {
		error_set(&nonsense, -EPROTO,
		          "the guest's agent gave no process number");
		err = &nonsense;
		answer = NULL;
	}
	if (answer)
		api_reply(ctx, 200, json_pack("{s:I}", "pid", (json_int_t)pid));
	else
		send_error(ctx, err);
}

static bool texts_valid(json_t *list, size_t most)
{
	json_t *one;
	size_t i;

	if (list && !json_is_array(list))
		return false;
	json_array_foreach(list, i, one)
	{
		const char *text = json_string_value(one);

		if (!text || strlen(text) != json_string_length(one))
			return false;
	}
	return json_array_size(list) <= most;
}

void api_agent_exec(struct call *c)
{
	static const char *const keys[] = { "command", "env", "input", NULL };
	json_t *command = json_object_get(c->body, "command");
	json_t *env = json_object_get(c->body, "env"), *list, *arguments, *one;
	const char *input =
	    json_string_value(json_object_get(c->body, "input"));
	struct vm *vm = running(c);
	size_t i;

	if (!vm || !call_known_keys(c, keys))
		return;
	if (!json_array_size(command) || !texts_valid(command, ARGUMENTS_MAX) ||
	    !texts_valid(env, ARGUMENTS_MAX)) {
		call_fail(c, "bad-request",
		          "command is not a list of texts, or env is not", "");
		return;
	}
	if (json_object_get(c->body, "input") &&
	    (!input || !agent_base64(input))) {
		call_fail(c, "bad-request", "input is not base64", "");
		return;
	}
	list = json_array();
	json_array_foreach(command, i, one)
	{
		if (i)
			json_array_append(list, one);
	}
	arguments =
	    json_pack("{s:O, s:o, s:b}", "path", json_array_get(command, 0),
	              "arg", list, "capture-output", 1);
	if (env)
		json_object_set(arguments, "env", env);
	if (input && input[0])
		json_object_set_new(arguments, "input-data",
		                    json_string(input));
	c->deferred = true;
	guest_ask(vm, "guest-exec", arguments, AGENT_ANSWER_USUAL, TIMEOUT_S,
	          started, c->http);
}

static void status_known(void *ctx, json_t *answer, const struct error *err)
{
	struct agent_program p;
	struct error nonsense = { 0 };

	if (answer && agent_program(answer, &p, &nonsense) < 0) {
		err = &nonsense;
		answer = NULL;
	}
	if (!answer) {
		send_error(ctx, err);
		return;
	}
	api_reply(
	    ctx, 200,
	    json_pack("{s:b, s:o, s:s, s:s, s:b}", "exited", p.exited, "code",
	              p.exited ? json_integer(p.code) : json_null(), "out",
	              p.out, "err", p.err, "truncated", p.truncated));
}

void api_agent_exec_status(struct call *c)
{
	struct vm *vm = running(c);
	u64 pid;

	if (!vm)
		return;
	if (parse_u64(c->params[1], 0, INT64_MAX, &pid, NULL) < 0) {
		call_fail(c, "not-found", "there is no such process", "");
		return;
	}
	c->deferred = true;
	guest_ask(vm, "guest-exec-status",
	          json_pack("{s:I}", "pid", (json_int_t)pid), AGENT_ANSWER_MOST,
	          TIMEOUT_S, status_known, c->http);
}

/* ---- files ---- */

enum step { OPEN, SEEK, TRANSFER, CLOSE, DONE };

struct piece {
	struct http_request *http;
	char *vm_id;
	struct daemon *daemon;
	enum step step;
	s64 handle, offset, size;
	json_t *data;   /* to write; NULL: read */
	json_t *result; /* once there is one */
	struct error err;
};

static void piece_goes_on(struct piece *p);

static void piece_end(struct piece *p)
{
	if (p->result && !p->err.code)
		api_reply(p->http, 200, json_incref(p->result));
	else
		send_error(p->http, &p->err);
	json_decref(p->data);
	json_decref(p->result);
	free(p->vm_id);
	free(p);
}

/* What was read: whole base64, and no more than was asked for. */
static void take_data(struct piece *p, json_t *answer)
{
	const char *data =
	    json_string_value(json_object_get(answer, "buf-b64"));
	s64 count = agent_number(answer, "count");

	if (!data || !agent_base64(data) || count < 0 || count > p->size ||
	    strlen(data) > (size_t)(p->size + 2) / 3 * 4) {
		error_set(&p->err, -EPROTO,
		          "the guest's agent gave something else than was "
		          "asked for");
		return;
	}
	p->result = json_pack(
	    "{s:s, s:I, s:b}", "data", data, "size", (json_int_t)count, "eof",
	    json_is_true(json_object_get(answer, "eof")) || count == 0);
}

static void take_written(struct piece *p, json_t *answer)
{
	s64 count = agent_number(answer, "count");

	if (count != p->size)
		error_set(&p->err, -EIO,
		          "the guest took a part of what was to be written: "
		          "its disk may be full");
	p->result = json_pack("{s:I}", "size", (json_int_t)MAX(count, (s64)0));
}

static void piece_answered(void *ctx, json_t *answer, const struct error *err)
{
	struct piece *p = ctx;

	if (!answer) {
		if (!p->err.code)
			p->err = *err;
		/* What was opened is closed all the same. */
		p->step = p->step == OPEN || p->step == CLOSE ? DONE : CLOSE;
	} else {
		if (p->step == OPEN)
			p->handle = agent_number(answer, NULL);
		if (p->step == TRANSFER && p->data)
			take_written(p, answer);
		else if (p->step == TRANSFER)
			take_data(p, answer);
		p->step++;
	}
	piece_goes_on(p);
}

static void piece_goes_on(struct piece *p)
{
	static const char *const commands[] = { "guest-file-open",
		                                "guest-file-seek", NULL,
		                                "guest-file-close" };
	struct vm *vm = vm_find(p->daemon, p->vm_id);
	const char *command = p->step < DONE ? commands[p->step] : NULL;
	json_t *arguments = json_pack("{s:I}", "handle", (json_int_t)p->handle);

	if (p->step == DONE || !vm) {
		if (!vm)
			error_set(&p->err, -ENOENT, "the machine is gone");
		json_decref(arguments);
		piece_end(p);
		return;
	}
	if (p->step == SEEK) {
		json_object_set_new(arguments, "offset",
		                    json_integer((json_int_t)p->offset));
		json_object_set_new(arguments, "whence", json_integer(0));
	} else if (p->step == TRANSFER && p->data) {
		command = "guest-file-write";
		json_object_set(arguments, "buf-b64", p->data);
	} else if (p->step == TRANSFER) {
		command = "guest-file-read";
		json_object_set_new(arguments, "count",
		                    json_integer((json_int_t)p->size));
	}
	guest_ask(vm, command, arguments, 4 * AGENT_ANSWER_USUAL, TIMEOUT_S,
	          piece_answered, p);
}

/* Bytes that correct base64 stands for. */
static s64 decoded_size(const char *text)
{
	size_t n = strlen(text), pads = 0;

	while (pads < n && text[n - 1 - pads] == '=')
		pads++;
	return (s64)(n / 4 * 3 - pads);
}

static bool number_in(struct call *c, const char *key, s64 max, s64 *value)
{
	json_t *n = json_object_get(c->body, key);

	if (n && (!json_is_integer(n) || json_integer_value(n) < 0 ||
	          json_integer_value(n) > max)) {
		call_fail(c, "bad-request", "offset or size is out of range",
		          "");
		return false;
	}
	if (n)
		*value = json_integer_value(n);
	return true;
}

static void transfer(struct call *c, const char *const *keys, bool write)
{
	struct vm *vm = running(c);
	s64 offset = 0, size = PIECE_MAX;
	const char *path, *data = NULL;
	struct piece *p;

	if (!vm || !call_known_keys(c, keys) ||
	    !(path = text_in(c, "path", PATH_BYTES)) ||
	    !number_in(c, "offset", INT64_MAX, &offset) ||
	    !number_in(c, "size", PIECE_MAX, &size))
		return;
	if (write) {
		data = json_string_value(json_object_get(c->body, "data"));
		if (!data || !agent_base64(data) ||
		    decoded_size(data) > PIECE_MAX) {
			call_fail(c, "bad-request",
			          "data is not base64 of 256 KiB at most", "");
			return;
		}
		size = decoded_size(data);
	}
	p = xalloc(sizeof(*p));
	p->http = c->http;
	p->daemon = c->daemon;
	p->vm_id = xstrdup(vm->id);
	p->offset = offset;
	p->size = size;
	if (data)
		p->data = json_string(data);
	c->deferred = true;
	/* The first piece makes the file anew. */
	guest_ask(vm, "guest-file-open",
	          json_pack("{s:s, s:s}", "path", path, "mode",
	                    !write   ? "r"
	                    : offset ? "r+"
	                             : "w"),
	          AGENT_ANSWER_USUAL, TIMEOUT_S, piece_answered, p);
}

void api_agent_read(struct call *c)
{
	static const char *const keys[] = { "path", "offset", "size", NULL };

	transfer(c, keys, false);
}

void api_agent_write(struct call *c)
{
	static const char *const keys[] = { "path", "offset", "data", NULL };

	transfer(c, keys, true);
}
