/* SPDX-License-Identifier: Apache-2.0 */
#include "client/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "client/curl.h"

enum { ANSWER_MAX = 64 << 20, CALL_S = 120, CONNECT_S = 10 };

struct client {
	const struct curl *lib;
	CURL *curl;
	struct place place;
	char *socket, *base; /* Unix socket or NULL; start of all URLs */
	bool may_start;
	char *if_match;
	bool only_reads;
	char why[CURL_ERROR_SIZE]; /* what curl says of a failure */
	char *unasked;
	struct api_error error;
};

struct answer {
	char *text;
	size_t used, room;
};

struct streaming {
	client_data_fn *fn;
	bool (*interrupted)(void *ctx);
	void *ctx;
	struct client *client;
	struct answer failure; /* an answer that is none */
};

static int parse_remote(struct client *c, const char *remote, struct error *err)
{
	if (!remote) {
		c->socket = xstrdup(c->place.socket);
		c->may_start = getenv("ATOLL_NO_START") == NULL;
	} else if (strncmp(remote, "unix:", 5) == 0) {
		c->socket = xstrdup(remote + 5);
	} else if (strncmp(remote, "https://", 8) != 0) {
		error_set(err, -EINVAL,
		          "--remote %s is neither unix:PATH nor "
		          "https://HOST:PORT",
		          remote);
		return -EINVAL;
	}
	c->base = xstrdup(c->socket ? "http://atoll" : remote);
	if (c->base[strlen(c->base) - 1] == '/')
		c->base[strlen(c->base) - 1] = '\0';
	return 0;
}

int client_open(struct client **out, const char *remote, struct error *err)
{
	struct client *c = xalloc(sizeof(*c));
	int rc = place_find(&c->place, err);

	if (rc == 0)
		rc = parse_remote(c, remote, err);
	if (rc == 0) {
		c->lib = curl_load(err);
		rc = c->lib ? 0 : err->code;
	}
	if (rc == 0) {
		c->curl = c->lib->easy_init();
		if (!c->curl)
			rc = error_set(err, -ENOMEM, "no memory for HTTP");
	}
	if (rc < 0) {
		client_close(c);
		return rc;
	}
	*out = c;
	return 0;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	if (c->curl)
		c->lib->easy_cleanup(c->curl);
	place_fini(&c->place);
	free(c->socket);
	free(c->base);
	free(c->if_match);
	free(c->unasked);
	free(c);
}

void client_if_match(struct client *c, const char *revision)
{
	free(c->if_match);
	c->if_match = revision ? xasprintf("If-Match: \"%s\"", revision) : NULL;
}

void client_only_reads(struct client *c, bool only)
{
	c->only_reads = only;
}

const char *client_unasked(const struct client *c)
{
	return c->unasked ? c->unasked : "";
}

const struct api_error *client_error(const struct client *c)
{
	return &c->error;
}

char *client_escape(const char *part)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-~";
	char *text = xalloc(3 * strlen(part) + 1), *to = text;

	/* "." and ".." would be steps, not names. */
	if (part[0] && strspn(part, ".") == strlen(part)) {
		for (; *part; part++)
			to += sprintf(to, "%%2E");
		return text;
	}
	for (; *part; part++)
		if (strchr(plain, *part))
			*to++ = *part;
		else
			to += sprintf(to, "%%%02X", (u8)*part);
	return text;
}

/* ---- one request ---- */

static size_t collect(char *data, size_t one, size_t count, void *ctx)
{
	struct answer *a = ctx;
	size_t size = one * count;

	if (a->used + size > ANSWER_MAX)
		return 0;
	if (a->used + size + 1 > a->room) {
		a->room = 2 * (a->used + size) + 4096;
		a->text = xrealloc(a->text, a->room);
	}
	memcpy(a->text + a->used, data, size);
	a->used += size;
	a->text[a->used] = '\0';
	return size;
}

static struct curl_slist *headers(struct client *c, const char *type,
                                  const char *accept)
{
	const char *token = getenv("ATOLL_TOKEN");
	struct curl_slist *list = NULL;
	char *line;

	list = c->lib->slist_append(list, "Expect:");
	if (type) {
		line = xasprintf("Content-Type: %s", type);
		list = c->lib->slist_append(list, line);
		free(line);
	}
	if (accept) {
		line = xasprintf("Accept: %s", accept);
		list = c->lib->slist_append(list, line);
		free(line);
	}
	if (token && token[0]) {
		line = xasprintf("Authorization: Bearer %s", token);
		list = c->lib->slist_append(list, line);
		free(line);
	}
	if (c->if_match)
		list = c->lib->slist_append(list, c->if_match);
	return list;
}

static void prepare(struct client *c, const char *method, const char *path,
                    struct curl_slist *list)
{
	char *url = xasprintf("%s%s", c->base, path);
	const struct {
		CURLoption option;
		const char *file;
	} files[] = { { CURLOPT_CAINFO, getenv("ATOLL_CA") },
		      { CURLOPT_SSLCERT, getenv("ATOLL_CERTIFICATE") },
		      { CURLOPT_SSLKEY, getenv("ATOLL_KEY") } };

	c->lib->easy_reset(c->curl);
	c->why[0] = '\0';
	c->lib->easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->why);
	c->lib->easy_setopt(c->curl, CURLOPT_URL, url);
	c->lib->easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
	c->lib->easy_setopt(c->curl, CURLOPT_HTTPHEADER, list);
	c->lib->easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	c->lib->easy_setopt(c->curl, CURLOPT_PATH_AS_IS, 1L);
	c->lib->easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
	c->lib->easy_setopt(c->curl, CURLOPT_NOPROXY, "*");
	c->lib->easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
	if (c->socket)
		c->lib->easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH,
		                    c->socket);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (files[i].file && files[i].file[0])
			c->lib->easy_setopt(c->curl, files[i].option,
			                    files[i].file);
	free(url);
}

static void set_body(struct client *c, const void *data, size_t size)
{
	c->lib->easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE_LARGE,
	                    (curl_off_t)size);
	c->lib->easy_setopt(c->curl, CURLOPT_COPYPOSTFIELDS, data);
}

/* curl speaks of ports where there is a socket. */
static int unreached_socket(struct client *c, CURLcode code, struct error *err)
{
	long why = 0;

	c->lib->easy_getinfo(c->curl, CURLINFO_OS_ERRNO, &why);
	error_set(err, -ECONNREFUSED, "cannot reach atolld at %s: %s",
	          c->socket,
	          why ? strerror((int)why) : c->lib->easy_strerror(code));
	if (why == EACCES)
		error_hint(err, "it is another user's: only who may enter its "
		                "folder reaches it");
	else if (why == ENOENT || why == ECONNREFUSED)
		error_hint(err, "it does not run; atolld starts it");
	return -ECONNREFUSED;
}

static int unreached(struct client *c, CURLcode code, struct error *err)
{
	if (c->socket)
		return unreached_socket(c, code, err);
	error_set(err, -ECONNREFUSED, "cannot reach atolld at %s: %s", c->base,
	          c->why[0] ? c->why : c->lib->easy_strerror(code));
	if (strstr(c->why, "certificate required"))
		error_hint(err, "ATOLL_CERTIFICATE and ATOLL_KEY name one's "
		                "own");
	else if (code == CURLE_PEER_FAILED_VERIFICATION)
		error_hint(err, "ATOLL_CA names the certificate of who signed "
		                "the daemon's");
	return -ECONNREFUSED;
}

/* A daemon of the user's own is started when it is not there. */
static CURLcode perform(struct client *c, struct error *err)
{
	CURLcode code = c->lib->easy_perform(c->curl);

	if (code == CURLE_COULDNT_CONNECT && c->may_start) {
		c->may_start = false;
		if (client_start_daemon(err) == 0) {
			code = c->lib->easy_perform(c->curl);
		} else {
			/* Whatever kept it from that: there is none. */
			if (err)
				err->code = -ECONNREFUSED;
			return code;
		}
	}
	c->may_start = false;
	if (code != CURLE_OK)
		unreached(c, code, err);
	return code;
}

/* The daemon's own words, where it has some. */
static int refused(struct client *c, const char *text, struct error *err)
{
	json_t *body = json_loads(text ? text : "", 0, NULL);
	const char *code = "", *words = NULL, *hint = NULL;

	if (json_unpack(body, "{s:{s:s, s:s, s?s}}", "error", "code", &code,
	                "words", &words, "hint", &hint) < 0)
		json_unpack(body, "{s:{s:s, s:s}}", "error", "code", &code,
		            "words", &words);
	snprintf(c->error.code, sizeof(c->error.code), "%s", code);
	if (words)
		error_set(err, -EREMOTEIO, "%s", words);
	else
		error_set(err, -EREMOTEIO, "atolld answered %d",
		          c->error.status);
	if (hint && hint[0])
		error_hint(err, "%s", hint);
	json_decref(body);
	return -EREMOTEIO;
}

static int conclude(struct client *c, struct answer *a, json_t **reply,
                    struct error *err)
{
	json_error_t where;
	long status = 0;

	c->lib->easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	c->error.status = (int)status;
	if (status >= 400)
		return refused(c, a->text, err);
	if (!reply)
		return 0;
	*reply = NULL;
	if (!a->used)
		return 0;
	*reply = json_loadb(a->text, a->used, JSON_DECODE_ANY, &where);
	if (!*reply)
		return error_set(err, -EPROTO,
		                 "atolld's answer is not JSON: %s", where.text);
	return 0;
}

static int call(struct client *c, const char *method, const char *path,
                const char *type, const void *data, size_t size, json_t **reply,
                struct error *err)
{
	struct curl_slist *list;
	struct answer a = { 0 };
	int rc;

	if (c->only_reads && strcmp(method, "GET") != 0) {
		free(c->unasked);
		c->unasked =
		    xasprintf("%s %s%s%.*s", method, path, size ? " " : "",
		              (int)size, data ? (const char *)data : "");
		return error_set(err, -ECANCELED, "not done");
	}
	list = headers(c, type, NULL);
	memset(&c->error, 0, sizeof(c->error));
	prepare(c, method, path, list);
	c->lib->easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, collect);
	c->lib->easy_setopt(c->curl, CURLOPT_WRITEDATA, &a);
	c->lib->easy_setopt(c->curl, CURLOPT_TIMEOUT, (long)CALL_S);
	if (data || strcmp(method, "POST") == 0)
		set_body(c, data ? data : "", size);
	rc = perform(c, err) == CURLE_OK ? conclude(c, &a, reply, err)
	                                 : -ECONNREFUSED;
	c->lib->slist_free_all(list);
	free(a.text);
	return rc;
}

int client_call(struct client *c, const char *method, const char *path,
                json_t *body, json_t **reply, struct error *err)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	int rc = call(c, method, path, text ? "application/json" : NULL, text,
	              text ? strlen(text) : 0, reply, err);

	free(text);
	return rc;
}

int client_send(struct client *c, const char *path, const void *data,
                size_t size, struct error *err)
{
	return call(c, "POST", path, "application/octet-stream", data, size,
	            NULL, err);
}

/* ---- an answer that goes on ---- */

static size_t pass_on(char *data, size_t one, size_t count, void *ctx)
{
	struct streaming *s = ctx;
	size_t size = one * count;
	long status = 0;

	s->client->lib->easy_getinfo(s->client->curl, CURLINFO_RESPONSE_CODE,
	                             &status);
	if (status >= 400)
		return collect(data, one, count, &s->failure);
	return s->fn(s->ctx, data, size) == 0 ? size : CURL_WRITEFUNC_ERROR;
}

static int look_up(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c,
                   curl_off_t d)
{
	struct streaming *s = ctx;

	(void)a;
	(void)b;
	(void)c;
	(void)d;
	return s->interrupted && s->interrupted(s->ctx);
}

int client_stream(struct client *c, const char *path, const char *accept,
                  client_data_fn *fn, bool (*interrupted)(void *ctx), void *ctx,
                  struct error *err)
{
	struct streaming s = { fn, interrupted, ctx, c, { 0 } };
	struct curl_slist *list = headers(c, NULL, accept);
	CURLcode code;
	int rc = 0;

	memset(&c->error, 0, sizeof(c->error));
	prepare(c, "GET", path, list);
	c->lib->easy_setopt(c->curl, CURLOPT_HTTPGET, 1L);
	c->lib->easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, pass_on);
	c->lib->easy_setopt(c->curl, CURLOPT_WRITEDATA, &s);
	c->lib->easy_setopt(c->curl, CURLOPT_XFERINFOFUNCTION, look_up);
	c->lib->easy_setopt(c->curl, CURLOPT_XFERINFODATA, &s);
	c->lib->easy_setopt(c->curl, CURLOPT_NOPROGRESS, 0L);
	code = perform(c, err);
	/* Ended from here is no failure. */
	if (code == CURLE_OK)
		rc = conclude(c, &s.failure, NULL, err);
	else if (code != CURLE_WRITE_ERROR && code != CURLE_ABORTED_BY_CALLBACK)
		rc = -ECONNREFUSED;
	c->lib->slist_free_all(list);
	free(s.failure.text);
	return rc;
}
