/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_fuzz - requests to a daemon with an empty registry in memory, by an
 * administrator: a line each, "ROUTE PATH-PARTS QUERY KEY MATCH BODY", parted
 * by tabs, ROUTE as "GET /v1/vms/{vm}" or the number of one. What earlier lines
 * made, later ones change. Every request is answered once, never with an error
 * of the inside, and errors have the shape that the API promises.
 *
 * It stands in for http/, and no program is started.
 */
#include <errno.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/limits/limits.h"
#include "daemon/network.h"
#include "daemon/store.h"
#include "daemon/watch/watch.h"

enum { LINES_MAX = 16, FIELDS = 6 };

struct exchange {
	struct http_request request;
	unsigned begun, ended;
};

static struct {
	char folder[32];
	size_t routes;
} all;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* ---- in the place of others ---- */

int posix_spawn(pid_t *pid, const char *path,
                const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attr, char *const argv[],
                char *const envp[])
{
	(void)pid;
	(void)path;
	(void)actions;
	(void)attr;
	(void)argv;
	(void)envp;
	return ENOENT;
}

pid_t fork(void)
{
	errno = EAGAIN;
	return -1;
}

static void check_error(int status, const void *body, size_t size)
{
	json_t *reply = json_loadb(body, size, 0, NULL);
	json_t *error = json_object_get(reply, "error");

	if (status == 500 ||
	    !json_string_length(json_object_get(error, "code")) ||
	    !json_string_length(json_object_get(error, "words"))) {
		fprintf(stderr, "%.*s\n", (int)size, (const char *)body);
		abort();
	}
	json_decref(reply);
}

void http_begin(struct http_request *r, int status, const char *type,
                const char *headers)
{
	struct exchange *x = container_of(r, struct exchange, request);

	if (status < 200 || status > 599 || x->begun++)
		abort();
	if (type && headers && strchr(type, '\n'))
		abort();
}

void http_reply(struct http_request *r, int status, const char *type,
                const char *headers, const void *body, size_t size)
{
	http_begin(r, status, type, headers);
	if (status >= 400)
		check_error(status, body, size);
	http_end(r);
}

size_t http_write(struct http_request *r, const void *data, size_t size)
{
	(void)r;
	(void)data;
	return size;
}

size_t http_pending(struct http_request *r)
{
	(void)r;
	return 0;
}

void http_end(struct http_request *r)
{
	struct exchange *x = container_of(r, struct exchange, request);

	if (!x->begun || x->ended++)
		abort();
}

void http_destroy(struct http *http)
{
	(void)http;
}

/* ---- a request ---- */

/* The pattern, its {parts} filled with the words of parts. */
static void fill_path(char *to, size_t size, const char *pattern,
                      const char *parts)
{
	size_t n = 0, word;

	for (; *pattern && n + 1 < size; pattern++) {
		if (*pattern != '{') {
			to[n++] = *pattern;
			continue;
		}
		pattern = strchr(pattern, '}');
		word = strcspn(parts, " ");
		snprintf(to + n, size - n, "%.*s", (int)word, parts);
		n += strlen(to + n);
		parts += word + (parts[word] == ' ');
	}
	to[n] = '\0';
}

static const struct route *find_route(const char *text)
{
	size_t n = strcspn(text, " ");

	for (size_t i = 0; text[n] && i < all.routes; i++)
		if (strncmp(routes[i].method, text, n) == 0 &&
		    strcmp(routes[i].pattern, text + n + 1) == 0)
			return &routes[i];
	return &routes[strtoul(text, NULL, 10) % all.routes];
}

static void set_header(struct http_request *r, enum http_header which,
                       const char *text)
{
	r->header_long[which] = strlen(text) >= HTTP_HEADER_MAX;
	if (!r->header_long[which])
		strcpy(r->headers[which], text);
}

static void ask(struct daemon *d, char *line)
{
	struct exchange x = { .request = { .local = true, .uid = geteuid() } };
	struct http_request *r = &x.request;
	const struct route *route;
	char *field[FIELDS], *rest = line;

	for (int i = 0; i < FIELDS; i++) {
		field[i] = i + 1 < FIELDS ? strsep(&rest, "\t") : rest;
		if (!field[i])
			field[i] = line + strlen(line);
	}
	route = find_route(field[0]);
	r->method = route->method;
	fill_path(r->path, sizeof(r->path), route->pattern, field[1]);
	snprintf(r->query, sizeof(r->query), "%s", field[2]);
	set_header(r, HTTP_IDEMPOTENCY_KEY, field[3]);
	set_header(r, HTTP_IF_MATCH, field[4]);
	r->body_size = strlen(field[5]);
	if (r->body_size) {
		set_header(r, HTTP_CONTENT_TYPE, "application/json");
		/* Not terminated, as it is not from the network. */
		r->body = xalloc(r->body_size);
		memcpy(r->body, field[5], r->body_size);
	}
	api_request(d, r);
	if (!x.ended)
		api_gone(d, r);
	if (!x.begun && !x.ended)
		abort();
	free(r->body);
}

/* ---- a daemon ---- */

static void begin(struct daemon *d)
{
	struct error err = { 0 };

	*d = (struct daemon){ .started_ns = loop_now_ns() };
	if (place_find(&d->place, &err) < 0 ||
	    loop_create(&d->loop, &err) < 0 ||
	    store_open(&d->store, ":memory:", &err) < 0 ||
	    limits_start(d, &err) < 0 || vm_load_all(d, &err) < 0 ||
	    watch_start(d, &err) < 0 || network_load_all(d, &err) < 0 ||
	    task_load_all(d, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
}

static void end(struct daemon *d)
{
	streams_end(d);
	network_free_all(d);
	watch_stop(d);
	vm_free_all(d);
	limits_stop(d);
	store_close(d->store);
	loop_destroy(d->loop);
	place_fini(&d->place);
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void remove_folder(void)
{
	nftw(all.folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	while (routes[all.routes].method)
		all.routes++;
	strcpy(all.folder, "/dev/shm/atoll-api-fuzz-XXXXXX");
	if (!mkdtemp(all.folder))
		abort();
	atexit(remove_folder);
	setenv("ATOLL_STATE_DIR", all.folder, 1);
	setenv("ATOLL_RUNTIME_DIR", all.folder, 1);
	setenv("XDG_DATA_HOME", all.folder, 1);
	log_setup(STDERR_FILENO, LOG_ERROR, "api_fuzz");
	return 0;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	char *text = xalloc(size + 1), *rest = text, *line;
	struct daemon d;

	memcpy(text, data, size);
	begin(&d);
	for (int i = 0; i < LINES_MAX && (line = strsep(&rest, "\n")); i++)
		ask(&d, line);
	end(&d);
	free(text);
	return 0;
}
