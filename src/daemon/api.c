/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api - one call from its request to its answer.
 *
 * A call that changes something runs in one transaction with its audit record
 * and its idempotency key; what it changes in memory comes after the commit.
 * So whatever kills the daemon, an answer that was given is true, and a call
 * repeated under its key is done once.
 */
#include "daemon/api.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/units.h"
#include "daemon/store.h"

enum { KEY_LIFE_S = 24 * 3600, DIGEST_HEX = 65 };

/* ---- errors ---- */

static const struct {
	const char *code;
	int status;
} codes[] = {
	{ "bad-request", 400 },
	{ "unauthorized", 401 },
	{ "denied", 403 },
	{ "not-found", 404 },
	{ "not-allowed", 405 },
	{ "conflict", 409 },
	{ "precondition", 412 },
	{ "too-large", 413 },
	{ "unsupported-type", 415 },
	{ "key-reuse", 422 },
	{ "locked-out", 429 },
	{ "internal", 500 },
	{ "quota", 409 },
	{ "unavailable", 503 },
	{ "storage", 507 },
	{ "no-capacity", 507 },
};

static int status_of(const char *code)
{
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		if (strcmp(codes[i].code, code) == 0)
			return codes[i].status;
	return 500;
}

const char *error_code_of(int rc)
{
	switch (rc) {
	case -EINVAL:
		return "bad-request";
	case -ENOENT:
		return "not-found";
	case -EEXIST:
	case -EBUSY:
		return "conflict";
	case -EACCES:
	case -EPERM:
		return "denied";
	case -ENOSPC:
	case -EROFS:
	case -EDQUOT:
	case -EFBIG:
		return "storage";
	default:
		return "internal";
	}
}

/* Words may hold what a client or a file put there. */
static json_t *words_json(const char *words)
{
	json_t *text = json_string(words);
	char clean[512];
	size_t n = 0;

	if (text)
		return text;
	for (; words[n] && n + 1 < sizeof(clean); n++)
		clean[n] = (u8)words[n] < 0x80 ? words[n] : '?';
	clean[n] = '\0';
	return json_string(clean);
}

json_t *error_json(const char *code, const char *words, const char *hint)
{
	json_t *o = json_object();

	json_object_set_new(o, "code", json_string(code));
	json_object_set_new(o, "words", words_json(words));
	json_object_set_new(o, "hint",
	                    hint && hint[0] ? words_json(hint) : json_null());
	return o;
}

void call_fail(struct call *c, const char *code, const char *words,
               const char *hint)
{
	json_decref(c->reply);
	c->reply = json_pack("{s:o}", "error", error_json(code, words, hint));
	c->status = status_of(code);
}

void call_fail_error(struct call *c, int rc)
{
	call_fail(c, error_code_of(rc), c->err.text, c->err.hint);
}

/* ---- for handlers ---- */

void api_reply(struct http_request *http, int status, json_t *body)
{
	char *text = json_dumps(body, JSON_COMPACT);

	http_reply(http, status, "application/json", NULL, text, strlen(text));
	free(text);
	json_decref(body);
}

void api_reply_error(struct http_request *http, const char *code,
                     const char *words, const char *hint)
{
	api_reply(http, status_of(code),
	          json_pack("{s:o}", "error", error_json(code, words, hint)));
}

void call_header(struct call *c, const char *name, const char *value)
{
	char *old = c->headers;

	c->headers = xasprintf("%s%s: %s\n", old ? old : "", name, value);
	free(old);
}

const char *call_query(struct call *c, const char *name, char *room,
                       size_t size)
{
	const char *at = c->http->query, *end;
	size_t n = strlen(name);

	for (; *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, '&');
		if (strncmp(at, name, n) || at[n] != '=' ||
		    (size_t)(end - at) < n + 1)
			continue;
		snprintf(room, size, "%.*s", (int)(end - at - (ptrdiff_t)n - 1),
		         at + n + 1);
		return room;
	}
	return NULL;
}

bool call_flag(struct call *c, const char *name, bool *on)
{
	char room[8], words[96];
	const char *text = call_query(c, name, room, sizeof(room));

	*on = text && strcmp(text, "true") == 0;
	if (!text || *on || strcmp(text, "false") == 0)
		return true;
	snprintf(words, sizeof(words), "%.64s is neither true nor false", name);
	call_fail(c, "bad-request", words, "");
	return false;
}

s64 call_number(struct call *c, const char *name, s64 min, s64 max,
                s64 fallback)
{
	char room[32], words[128];
	const char *text = call_query(c, name, room, sizeof(room));
	u64 n;

	if (!text)
		return fallback;
	if (parse_u64(text, (u64)min, (u64)max, &n, NULL) == 0)
		return (s64)n;
	snprintf(words, sizeof(words),
	         "%s is not a number from %" PRId64 " to %" PRId64, name, min,
	         max);
	call_fail(c, "bad-request", words, "");
	return fallback;
}

const char *words_listed(const char *const *words, size_t count, char *room,
                         size_t size)
{
	size_t n = 0;

	room[0] = '\0';
	for (size_t i = 0; i < count && n < size; i++)
		n += (size_t)snprintf(room + n, size - n, "%s%s", i ? ", " : "",
		                      words[i]);
	return room;
}

const char *call_word(struct call *c, const char *name,
                      const char *const *words)
{
	char room[32], all[200];
	const char *text = call_query(c, name, room, sizeof(room));
	size_t n = 0;

	if (!text)
		return NULL;
	for (; words[n]; n++)
		if (strcmp(words[n], text) == 0)
			return words[n];
	error_set(&c->err, -EINVAL, "%s is none of %s", name,
	          words_listed(words, n, all, sizeof(all)));
	call_fail_error(c, -EINVAL);
	return NULL;
}

struct vm *call_vm(struct call *c)
{
	struct vm *vm = vm_find(c->daemon, c->params[0]);
	char words[200];

	if (vm && !vm->deleted)
		return vm;
	snprintf(words, sizeof(words), "there is no machine %s", c->params[0]);
	call_fail(c, "not-found", words, "");
	return NULL;
}

struct vm *call_vm_up(struct call *c)
{
	struct vm *vm = call_vm(c);

	if (!vm || vm_is_up(vm))
		return vm;
	call_fail(c, "conflict", "the machine does not run", "start it first");
	return NULL;
}

bool call_sees(const struct call *c, const struct vm *vm)
{
	return !vm->deleted &&
	       (caller_rights(&c->caller, vm_project(vm)) & RIGHT_READ);
}

bool call_match(struct call *c, s64 revision)
{
	const char *wanted = c->http->headers[HTTP_IF_MATCH];
	char tag[32];

	snprintf(tag, sizeof(tag), "\"%" PRId64 "\"", revision);
	if (!wanted[0] || strcmp(wanted, "*") == 0 || strcmp(wanted, tag) == 0)
		return true;
	call_fail(c, "precondition",
	          "the machine was changed since you looked at it",
	          "get it again, and ask again with its new ETag");
	return false;
}

bool call_known_keys(struct call *c, const char *const *keys)
{
	char words[200];
	json_t *value;
	const char *key;
	size_t i;

	if (c->body && !json_is_object(c->body)) {
		call_fail(c, "bad-request", "the body is not an object", "");
		return false;
	}
	json_object_foreach(c->body, key, value)
	{
		for (i = 0; keys[i] && strcmp(keys[i], key);)
			i++;
		if (keys[i])
			continue;
		snprintf(words, sizeof(words), "%.100s is not known", key);
		call_fail(c, "bad-request", words, "");
		return false;
	}
	return true;
}

static void enqueue(struct call *c, void *ctx)
{
	struct task *t = ctx;

	(void)c;
	if (strcmp(t->kind, "kill") == 0 ||
	    (strcmp(t->kind, "delete") == 0 &&
	     json_is_true(json_object_get(t->params, "force"))))
		task_enqueue_urgent(t);
	else
		task_enqueue(t);
}

static void drop_task(void *ctx)
{
	task_free(ctx);
}

struct list_of {
	json_t *list;
	json_t *(*element)(struct row *row);
};

static int add_element(void *ctx, struct row *row)
{
	const struct list_of *of = ctx;

	json_array_append_new(of->list, of->element(row));
	return 0;
}

void call_list(struct call *c, const char *key,
               json_t *(*element)(struct row *row), const char *sql,
               const char *kinds, ...)
{
	struct list_of of = { json_array(), element };
	va_list ap;
	int rc;

	va_start(ap, kinds);
	rc = store_vquery(c->daemon->store, add_element, &of, &c->err, sql,
	                  kinds, ap);
	va_end(ap);
	if (rc < 0) {
		json_decref(of.list);
		call_fail_error(c, rc);
		return;
	}
	c->status = 200;
	c->reply = json_pack("{s:o}", key, of.list);
}

void call_task_answer(struct call *c, const struct task *t)
{
	char where[64];

	if (!t) {
		call_fail_error(c, -EIO);
		return;
	}
	c->status = 202;
	c->reply = task_json(t);
	snprintf(where, sizeof(where), "/v1/tasks/%" PRId64, t->id);
	call_header(c, "location", where);
}

void call_enqueue(struct call *c, struct task *t)
{
	call_task_answer(c, t);
	if (!t)
		return;
	c->apply = enqueue;
	c->drop = drop_task;
	c->ctx = t;
}

void call_task(struct call *c, struct vm *vm, const char *kind, json_t *params)
{
	call_enqueue(c, task_new(vm, kind, params, c->caller.name, &c->err));
}

/* ---- finding the route ---- */

/* {parts} match one part of a path each. */
static bool match(const char *pattern, const char *path,
                  char params[PARAMS_MAX][PARAM_MAX])
{
	size_t n = 0, size;

	while (*pattern && *path) {
		if (*pattern != '{') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		size = strcspn(path, "/");
		if (size == 0 || size >= PARAM_MAX || n == PARAMS_MAX)
			return false;
		memcpy(params[n], path, size);
		params[n++][size] = '\0';
		path += size;
		pattern = strchr(pattern, '}') + 1;
	}
	return !*pattern && !*path;
}

static bool find_route(struct call *c)
{
	char allowed[64] = "";
	size_t used = 0;

	for (const struct route *r = routes; r->method; r++) {
		if (!match(r->pattern, c->http->path, c->params))
			continue;
		if (strcmp(r->method, c->http->method) == 0) {
			c->route = r;
			return true;
		}
		used += (size_t)snprintf(allowed + used, sizeof(allowed) - used,
		                         "%s%s", used ? ", " : "", r->method);
	}
	if (used) {
		call_header(c, "allow", allowed);
		call_fail(c, "not-allowed", "that can't be done here", "");
	} else {
		call_fail(c, "not-found", "there is nothing here",
		          "api/openapi.yaml describes what there is");
	}
	return false;
}

static bool check_query(struct call *c)
{
	const char *at = c->http->query, *known, *end;
	char words[128];
	size_t size;

	for (; *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, '&');
		size = strcspn(at, "=&");
		for (known = c->route->query; *known;
		     known += strspn(known, " ")) {
			if (strcspn(known, " ") == size &&
			    strncmp(known, at, size) == 0)
				break;
			known += strcspn(known, " ");
		}
		if (*known && at[size] == '=')
			continue;
		snprintf(words, sizeof(words),
		         "the query has %.*s, which is "
		         "not known here",
		         (int)MIN(size, (size_t)64), at);
		call_fail(c, "bad-request", words, "");
		return false;
	}
	return true;
}

/* ---- the body ---- */

static bool says_json(const char *type)
{
	size_t n = strcspn(type, "; ");

	return (n == 16 && strncmp(type, "application/json", n) == 0) ||
	       (n == 28 &&
	        strncmp(type, "application/merge-patch+json", n) == 0);
}

static bool parse_body(struct call *c)
{
	enum route_body kind = c->route->body;
	const char *type = c->http->headers[HTTP_CONTENT_TYPE];
	json_error_t where;
	char words[256];

	if (c->http->body_huge) {
		call_fail(c, "too-large", "the body is larger than 1 MiB", "");
		return false;
	}
	if (c->http->body_bad) {
		call_fail(c, "bad-request",
		          "the body's chunks, or its Transfer-Encoding, make "
		          "no sense",
		          "");
		return false;
	}
	if (kind == BODY_RAW)
		return true;
	if (c->http->body_size == 0) {
		if (kind == BODY_JSON)
			call_fail(c, "bad-request", "the body is missing", "");
		return kind != BODY_JSON;
	}
	if (kind == BODY_NONE) {
		call_fail(c, "bad-request", "there must be no body here", "");
		return false;
	}
	if (!says_json(type)) {
		call_fail(c, "unsupported-type",
		          "the body is not application/json",
		          "say so in Content-Type");
		return false;
	}
	c->body = json_loadb((const char *)c->http->body, c->http->body_size,
	                     JSON_REJECT_DUPLICATES, &where);
	if (c->body && json_is_object(c->body))
		return true;
	if (c->body)
		snprintf(words, sizeof(words), "the body is not an object");
	else
		snprintf(words, sizeof(words),
		         "the body is not JSON: line %d, column %d: %.160s",
		         where.line, where.column, where.text);
	call_fail(c, "bad-request", words, "");
	return false;
}

/* ---- idempotency keys ---- */

static void digest(struct call *c, char *hex)
{
	u8 sum[EVP_MAX_MD_SIZE];
	unsigned size = 0;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
	EVP_DigestUpdate(ctx, c->http->method, strlen(c->http->method) + 1);
	EVP_DigestUpdate(ctx, c->http->path, strlen(c->http->path) + 1);
	EVP_DigestUpdate(ctx, c->http->query, strlen(c->http->query) + 1);
	EVP_DigestUpdate(ctx, c->http->body, c->http->body_size);
	EVP_DigestFinal_ex(ctx, sum, &size);
	EVP_MD_CTX_free(ctx);
	for (unsigned i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", sum[i]);
}

struct known_key {
	struct call *call;
	char digest[DIGEST_HEX];
	bool found;
};

static int take_key(void *ctx, struct row *row)
{
	struct known_key *k = ctx;
	struct call *c = k->call;

	k->found = true;
	if (strcmp(row_text(row, 0), k->digest)) {
		call_fail(c, "key-reuse",
		          "this Idempotency-Key was used for another request",
		          "take a new one");
		return 0;
	}
	c->status = (int)row_int(row, 1);
	c->headers = row_text(row, 2) ? xstrdup(row_text(row, 2)) : NULL;
	c->reply = row_json(row, 3);
	return 0;
}

static bool known_key(struct call *c)
{
	struct known_key k = { .call = c };
	const char *key = c->http->headers[HTTP_IDEMPOTENCY_KEY];

	if (!key[0] || strcmp(c->http->method, "POST"))
		return false;
	digest(c, k.digest);
	store_query(c->daemon->store, take_key, &k, NULL,
	            "SELECT request, status, headers, body FROM keys"
	            " WHERE key = ? AND caller = ? AND at > ?",
	            "tti", key, c->caller.name, (s64)time(NULL) - KEY_LIFE_S);
	return k.found;
}

static int remember_key(struct call *c)
{
	const char *key = c->http->headers[HTTP_IDEMPOTENCY_KEY];
	s64 now = (s64)time(NULL);
	char hex[DIGEST_HEX];

	if (!key[0] || strcmp(c->http->method, "POST"))
		return 0;
	digest(c, hex);
	store_run(c->daemon->store, NULL, "DELETE FROM keys WHERE at <= ?", "i",
	          now - KEY_LIFE_S);
	return store_run(c->daemon->store, &c->err,
	                 "INSERT INTO keys(key, caller, request, status,"
	                 " headers, body, at) VALUES(?, ?, ?, ?, ?, ?, ?)",
	                 "tttitji", key, c->caller.name, hex, (s64)c->status,
	                 c->headers, c->reply, now);
}

/* ---- the call ---- */

static int audit(struct call *c)
{
	char action[96], outcome[16], target[2 * PARAM_MAX + 2];
	const char *name = json_string_value(json_object_get(c->body, "name"));

	snprintf(action, sizeof(action), "%s %s", c->http->method,
	         c->route ? c->route->pattern : "?");
	snprintf(outcome, sizeof(outcome), "%d", c->status);
	/* What is made has its name in the body. */
	snprintf(target, sizeof(target), "%.127s%s%s",
	         c->params[0][0] || !name ? c->params[0] : name,
	         c->params[1][0] ? "/" : "", c->params[1]);
	return audit_write(
	    c->daemon,
	    &(struct record){ .caller = c->caller.name,
	                      .action = action,
	                      .target = target,
	                      .outcome = outcome,
	                      .project = c->project[0] ? c->project : NULL },
	    &c->err);
}

/* A denial, by whom ever. */
static void note_denial(struct call *c)
{
	if (audit(c) < 0)
		log_error("daemon", "audit: %s", c->err.text);
}

static void change(struct call *c)
{
	struct store *store = c->daemon->store;
	int rc = store_begin(store, &c->err);

	if (rc == 0) {
		c->route->fn(c);
		if (c->status >= 400) {
			store_rollback(store);
			if (c->drop)
				c->drop(c->ctx);
			return;
		}
		rc = remember_key(c);
		if (rc == 0)
			rc = audit(c);
		if (rc == 0)
			rc = store_commit(store, &c->err);
	}
	if (rc < 0) {
		store_rollback(store);
		if (c->drop)
			c->drop(c->ctx);
		call_fail_error(c, rc);
		return;
	}
	if (c->apply)
		c->apply(c, c->ctx);
}

static void refuse(struct call *c, const char *code, const char *words,
                   const char *hint)
{
	call_fail(c, code, words, hint);
	note_denial(c);
}

static bool admit(struct call *c)
{
	struct error err = { 0 };
	int rc = auth_caller(c->daemon, c->http, &c->caller, &err);

	if (rc == -EAGAIN) {
		call_fail(c, "locked-out", err.text, "wait a minute");
	} else if (rc < 0) {
		refuse(c, "unauthorized", err.text, err.hint);
		call_header(c, "www-authenticate", "Bearer");
	}
	return rc == 0;
}

/* policy.h decides; this says it. */
static bool may(struct call *c)
{
	bool thing = policy_scope(c->route) == SCOPE_THING;
	enum belonging belonging =
	    thing ? policy_find(c->daemon, c->route, c->params[0], c->project)
		  : BELONGS_HOST;
	char words[200];

	switch (policy_decide(&c->caller, c->route, belonging, c->project)) {
	case POLICY_ALLOWED:
		return true;
	case POLICY_DENIED:
		refuse(c, "denied", "your role does not allow that", "");
		return false;
	case POLICY_HIDDEN:
		snprintf(words, sizeof(words), "there is no %s %s",
		         policy_noun(c->route), c->params[0]);
		call_fail(c, "not-found", words, "");
		/* A foreign thing was reached for. */
		if (belonging != BELONGS_NOWHERE)
			note_denial(c);
		return false;
	}
	return false;
}

static void run(struct call *c)
{
	bool found, reads = strcmp(c->http->method, "GET") == 0;

	snprintf(c->caller.name, sizeof(c->caller.name), "nobody");
	found = find_route(c);
	if (!admit(c) || !found)
		return;
	if (!may(c))
		return;
	for (int i = 0; i < HTTP_HEADERS; i++)
		if (c->http->header_long[i]) {
			call_fail(c, "bad-request", "a header is too long", "");
			return;
		}
	if (!check_query(c) || !parse_body(c))
		return;
	if (known_key(c))
		return;
	if (reads || c->route->quiet)
		c->route->fn(c);
	else
		change(c);
	/* By a handler, which knew more than the route does. */
	if (c->status == 403)
		note_denial(c);
}

static void answer(struct call *c)
{
	char *text = c->text;
	size_t size;

	if (c->reply) {
		text = json_dumps(c->reply, JSON_COMPACT | JSON_ENCODE_ANY);
		c->type = "application/json";
	}
	size = text ? strlen(text) : 0;
	http_reply(c->http, c->status, text ? c->type : NULL, c->headers, text,
	           size);
	free(text);
}

void api_request(void *ctx, struct http_request *request)
{
	struct call c = { .daemon = ctx, .http = request, .status = 204 };

	run(&c);
	c.daemon->requests++;
	c.daemon->requests_failed += c.status >= 400;
	if (!c.deferred)
		answer(&c);
	json_decref(c.body);
	json_decref(c.reply);
	free(c.headers);
}
