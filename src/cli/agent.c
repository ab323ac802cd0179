/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll exec, atoll cp - through the guest's agent. A file goes in pieces, each
 * a call of its own.
 */
#include "cli/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "cli/disk.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"

enum { OPT_INPUT = OPT_OWN, OPT_ENV };
enum { PIECE = 128 * 1024, INPUT_MAX = 512 * 1024 };
enum { FIRST_MS = 10, MOST_MS = 500 };

/* ---- base64 ---- */

static char *encode(const void *data, size_t size)
{
	char *text = xalloc((size + 2) / 3 * 4 + 1);

	EVP_EncodeBlock((unsigned char *)text, data, (int)size);
	return text;
}

/* Owned; NULL: it is none. */
static u8 *decode(const char *text, size_t *size)
{
	size_t n = strlen(text), pads = 0;
	u8 *data = try_alloc(n / 4 * 3 + 4, 1);

	while (pads < 2 && pads < n && text[n - 1 - pads] == '=')
		pads++;
	if (data &&
	    (n % 4 || n > INT32_MAX ||
	     EVP_DecodeBlock(data, (const unsigned char *)text, (int)n) < 0)) {
		free(data);
		return NULL;
	}
	*size = n / 4 * 3 - pads;
	return data;
}

static bool write_all(int fd, const u8 *data, size_t size)
{
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno != EINTR)
			return false;
		data += n > 0 ? n : 0;
		size -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

/* A call whose answer is wanted; body is taken over. NULL: printed. */
static json_t *call(struct remote *r, const char *method, const char *path,
                    json_t *body, int *code)
{
	struct error err = { 0 };
	json_t *reply = NULL;

	if (client_call(r->client, method, path, body, &reply, &err) < 0)
		*code = remote_failed(r, &err);
	json_decref(body);
	return reply;
}

/* ---- exec ---- */

struct wishes {
	bool input;
	json_t *env;
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct wishes *w = ctx;

	(void)err;
	if (id == OPT_INPUT)
		w->input = true;
	else
		json_array_append_new(w->env, json_string(value));
	return 0;
}

/* Standard input, whole; NULL: printed. */
static char *read_input(void)
{
	u8 *data = try_alloc(1, INPUT_MAX + 1);
	size_t used = 0;
	ssize_t n = 1;
	char *text = NULL;

	while (data && used <= INPUT_MAX && n > 0) {
		n = read(STDIN_FILENO, data + used, INPUT_MAX + 1 - used);
		used += n > 0 ? (size_t)n : 0;
	}
	if (!data || n < 0 || used > INPUT_MAX)
		say_usage("standard input can't be read, or is larger than "
		          "512 KiB: copy it with atoll cp");
	else
		text = encode(data, used);
	free(data);
	return text;
}

static void put_output(json_t *status, const char *key, int fd)
{
	size_t size = 0;
	u8 *data = decode(remote_text(status, key), &size);

	if (data && !write_all(fd, data, size))
		fprintf(stderr, "error: output: %s\n", strerror(errno));
	free(data);
}

static int wait_for_end(struct remote *r, const char *path)
{
	u64 end = r->timeout_s ? loop_now_ns() + r->timeout_s * NSEC_PER_SEC
	                       : UINT64_MAX;
	unsigned wait_ms = FIRST_MS;
	int code = CODE_OK;

	for (;;) {
		json_t *status = call(r, "GET", path, NULL, &code);
		struct timespec ts = { 0, (long)wait_ms * 1000000 };

		if (!status)
			return code;
		if (json_is_true(json_object_get(status, "exited"))) {
			put_output(status, "out", STDOUT_FILENO);
			put_output(status, "err", STDERR_FILENO);
			if (json_is_true(json_object_get(status, "truncated")))
				fputs("error: it printed more than the "
				      "guest's agent keeps\n",
				      stderr);
			code = (int)remote_number(status, "code");
			json_decref(status);
			return code;
		}
		json_decref(status);
		if (loop_now_ns() >= end) {
			fputs("error: it still runs in the guest\n", stderr);
			return CODE_TIMEOUT;
		}
		nanosleep(&ts, NULL);
		wait_ms = MIN(wait_ms * 2, (unsigned)MOST_MS);
	}
}

static int run_program(struct remote *r, struct wishes *w)
{
	char *vm = resource_path("/v1/vms", r->names[0]), *path;
	json_t *command = json_array(), *body, *started;
	char *input = NULL;
	int code = CODE_OK;

	for (size_t i = 1; i < r->name_count; i++)
		json_array_append_new(command, json_string(r->names[i]));
	body = json_pack("{s:o, s:O}", "command", command, "env", w->env);
	if (w->input) {
		input = read_input();
		if (!input) {
			json_decref(body);
			free(vm);
			return CODE_FAILED;
		}
		json_object_set_new(body, "input", json_string(input));
		free(input);
	}
	path = xasprintf("%s/agent/exec", vm);
	started = call(r, "POST", path, body, &code);
	free(path);
	if (started) {
		path = xasprintf("%s/agent/exec/%" PRId64, vm,
		                 remote_number(started, "pid"));
		code = wait_for_end(r, path);
		free(path);
	}
	json_decref(started);
	free(vm);
	return code;
}

int command_exec(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "input", NULL, "give it standard input (512 KiB at most)",
		  OPT_INPUT },
		{ "env", "NAME=VALUE", "of its environment", OPT_ENV },
		{ "timeout", "TIME", "wait no longer; it goes on", OPT_WAIT },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { .env = json_array() };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(
	    &r, "atoll exec NAME [OPTION]... -- COMMAND [ARGUMENT]...",
	    "Run a program in a guest by its agent; its exit code is ours.",
	    specs, argc, argv);

	if (code < 0 && r.name_count < 2)
		code = say_usage("atoll exec takes a machine and a command: "
		                 "atoll exec NAME -- COMMAND");
	if (code < 0)
		code = run_program(&r, &w);
	json_decref(w.env);
	remote_close(&r);
	return code;
}

/* ---- cp ---- */

/* "NAME:/path" is one in a guest. */
static const char *guest_path(const char *text, char *name, size_t size)
{
	const char *colon = strchr(text, ':');

	if (!colon || colon == text ||
	    memchr(text, '/', (size_t)(colon - text)))
		return NULL;
	snprintf(name, size, "%.*s", (int)(colon - text), text);
	return colon + 1;
}

static int copy_out(struct remote *r, const char *url, const char *from, int to)
{
	int code = CODE_OK;
	s64 offset = 0;
	bool end = false;

	while (!end) {
		json_t *piece =
		    call(r, "POST", url,
		         json_pack("{s:s, s:I, s:i}", "path", from, "offset",
		                   (json_int_t)offset, "size", (int)PIECE),
		         &code);
		size_t size = 0;
		u8 *data;

		if (!piece)
			return code;
		data = decode(remote_text(piece, "data"), &size);
		end = size == 0;
		if (!data || !write_all(to, data, size)) {
			fprintf(stderr, "error: cannot write: %s\n",
			        strerror(errno));
			code = CODE_FAILED;
			end = true;
		}
		offset += (s64)size;
		free(data);
		json_decref(piece);
	}
	return code;
}

static int copy_in(struct remote *r, const char *url, int from, const char *to)
{
	struct disk_progress bar;
	struct stat st = { 0 };
	u8 *data = xalloc(PIECE);
	int code = CODE_OK;
	s64 offset = 0;
	ssize_t n;

	/* Of a pipe nobody knows how much is to come. */
	disk_progress_begin(&bar, to,
	                    r->quiet || r->dry_run || fstat(from, &st) < 0 ||
	                        !S_ISREG(st.st_mode));
	do {
		size_t used = 0;
		json_t *done;
		char *text;

		do {
			n = read(from, data + used, PIECE - used);
			used += n > 0 ? (size_t)n : 0;
		} while ((n > 0 && used < PIECE) || (n < 0 && errno == EINTR));
		if (n < 0) {
			fprintf(stderr, "error: cannot read: %s\n",
			        strerror(errno));
			code = CODE_FAILED;
			break;
		}
		if (used == 0 && offset)
			break;
		text = encode(data, used);
		done = call(r, "POST", url,
		            json_pack("{s:s, s:I, s:s}", "path", to, "offset",
		                      (json_int_t)offset, "data", text),
		            &code);
		free(text);
		json_decref(done);
		offset += (s64)used;
		if (bar.progress.step && st.st_size > 0)
			bar.progress.step(bar.progress.ctx,
			                  MIN((u64)offset, (u64)st.st_size),
			                  (u64)st.st_size);
	} while (code == CODE_OK && n > 0);
	disk_progress_end(&bar);
	free(data);
	return code;
}

/* Into a folder goes a file of the same name. */
static char *target(const char *to, const char *from)
{
	const char *last = strrchr(from, '/');
	size_t n = strlen(to);
	struct stat st;

	if ((n && to[n - 1] == '/') ||
	    (stat(to, &st) == 0 && S_ISDIR(st.st_mode)))
		return xasprintf("%s%s%s", to, to[n - 1] == '/' ? "" : "/",
		                 last ? last + 1 : from);
	return xstrdup(to);
}

static int copy(struct remote *r, const char *from, const char *to)
{
	char vm[128], other[128], *url, *path = NULL, *inside;
	const char *guest_from = guest_path(from, vm, sizeof(vm));
	const char *guest_to =
	    guest_path(to, guest_from ? other : vm, sizeof(vm));
	int fd, code;

	if (!guest_from == !guest_to)
		return say_usage("one of the two is NAME:PATH, the other a "
		                 "path here");
	path = guest_from ? target(to, guest_from) : xstrdup(from);
	inside =
	    guest_to && guest_to[0] && guest_to[strlen(guest_to) - 1] == '/'
		? target(guest_to, from)
		: xstrdup(guest_to ? guest_to : "");
	fd = strcmp(path, "-") == 0
	         ? dup(guest_from ? STDOUT_FILENO : STDIN_FILENO)
	     : guest_from
	         ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)
	         : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "error: %s: %s\n", path, strerror(errno));
		free(path);
		free(inside);
		return CODE_FAILED;
	}
	free(path);
	url = resource_path("/v1/vms", vm);
	path = xasprintf("%s/agent/%s", url, guest_from ? "read" : "write");
	code = guest_from ? copy_out(r, path, guest_from, fd)
	                  : copy_in(r, path, fd, inside);
	free(url);
	free(path);
	free(inside);
	if (close(fd) < 0 && code == CODE_OK) {
		fprintf(stderr, "error: %s: %s\n", to, strerror(errno));
		code = CODE_FAILED;
	}
	return code;
}

int command_cp(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	int code = remote_open(&r, "atoll cp [NAME:]PATH [NAME:]PATH",
	                       "Copy a file into a guest, or out of it, by its "
	                       "agent. - is standard input or output.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count != 2)
		code = say_usage("atoll cp takes two paths");
	if (code < 0)
		code = copy(&r, r.names[0], r.names[1]);
	remote_close(&r);
	return code;
}
