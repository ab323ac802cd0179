/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_tokens - access for others, and what everybody did.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "daemon/access/fields.h"
#include "daemon/api.h"
#include "daemon/store.h"

enum { SECRET_BYTES = 32, LIFE_MAX_S = 10 * 365 * 24 * 3600 };
enum { LIST_MAX = 1000, LIST_USUAL = 100 };

static json_t *time_json(s64 seconds)
{
	char text[TIME_SIZE];

	if (!seconds)
		return json_null();
	time_text(seconds, text);
	return json_string(text);
}

#define COLUMNS "id, name, role, created, expires, project, user"

static json_t *token_row_json(struct row *row)
{
	const char *role = row_text(row, 2);

	return json_pack("{s:I, s:s, s:s?, s:s, s:o, s:s?, s:s?}", "id",
	                 (json_int_t)row_int(row, 0), "name", row_text(row, 1),
	                 "role", role[0] ? role : NULL, "created",
	                 row_text(row, 3), "expires",
	                 time_json(row_int(row, 4)), "project",
	                 row_text(row, 5), "user", row_text(row, 6));
}

/* Of the projects in which the caller gives access. */
void api_token_list(struct call *c)
{
	json_t *projects = caller_projects(&c->caller, RIGHT_ACCESS);

	call_list(c, "tokens", token_row_json,
	          "SELECT " COLUMNS
	          " FROM tokens WHERE " PROJECT_AMONG("?1") " ORDER BY name",
	          "j", projects);
	json_decref(projects);
}

static int new_secret(char *secret, size_t size)
{
	u8 bytes[SECRET_BYTES];
	size_t n;

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return -EIO;
	n = (size_t)snprintf(secret, size, "atoll_");
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(secret + n + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

/* Has a role, in one project or in all of them; or is a user's, and has what is
 * granted to him. */
struct token {
	const char *name, *role, *project, *user;
	s64 expires;
};

static bool read_user(struct call *c, struct token *t)
{
	struct caller him = { 0 };

	if (t->role || t->project) {
		call_fail(c, "bad-request",
		          "a user's token has what is granted to the user: no "
		          "role, no project",
		          "");
		return false;
	}
	if (!user_exists(c->daemon, t->user)) {
		call_fail(c, "not-found", "there is no such user",
		          "atoll user list shows them");
		return false;
	}
	user_grants_any(c->daemon, t->user, &him);
	if (caller_covers(&c->caller, &him))
		return true;
	call_fail(c, "denied",
	          "that user has rights that you do not have yourself", "");
	return false;
}

static bool read_role(struct call *c, struct token *t)
{
	if (!t->role) {
		call_fail(c, "bad-request", "there is no role, and no user",
		          "");
		return false;
	}
	if (t->project && !call_project(c, NULL, RIGHT_ACCESS))
		return false;
	if (!t->project && !(caller_rights(&c->caller, NULL) & RIGHT_ACCESS)) {
		call_fail(c, "denied",
		          "you give access in some projects only: name one",
		          "");
		return false;
	}
	return call_may_give(c, t->role, t->project);
}

/* False: the call has failed. */
static bool read_token(struct call *c, struct token *t)
{
	static const char *const keys[] = { "name",    "role", "expires_s",
		                            "project", "user", NULL };
	json_t *life = json_object_get(c->body, "expires_s");
	s64 s = json_integer_value(life);

	if (!call_known_keys(c, keys) || !(t->name = field_name(c, "name")) ||
	    !field_text(c, "role", ROLE_SIZE - 1, &t->role) ||
	    !field_text(c, "project", PROJECT_SIZE - 1, &t->project) ||
	    !field_text(c, "user", USER_SIZE - 1, &t->user))
		return false;
	if (life && (!json_is_integer(life) || s < 1 || s > LIFE_MAX_S)) {
		call_fail(c, "bad-request",
		          "expires_s is not a number of seconds", "");
		return false;
	}
	t->expires = life ? (s64)time(NULL) + s : 0;
	return t->user ? read_user(c, t) : read_role(c, t);
}

static int take_token(void *ctx, struct row *row)
{
	*(json_t **)ctx = token_row_json(row);
	return 0;
}

void api_token_create(struct call *c)
{
	char secret[80], hex[65], now[TIME_SIZE];
	struct token t = { 0 };
	int rc;

	if (!read_token(c, &t))
		return;
	if (c->http->headers[HTTP_IDEMPOTENCY_KEY][0]) {
		/* The answer would have to be kept, and with it the secret. */
		call_fail(c, "bad-request",
		          "a token is not made under an Idempotency-Key", "");
		return;
	}
	rc = new_secret(secret, sizeof(secret));
	if (rc == 0)
		rc = auth_hash(secret, hex, sizeof(hex));
	time_now(now);
	if (rc == 0)
		rc = store_run(c->daemon->store, &c->err,
		               "INSERT INTO tokens(name, hash, role, created,"
		               " expires, project, user)"
		               " VALUES(?, ?, ?, ?, ?, ?, ?)",
		               "ttttitt", t.name, hex, t.role ? t.role : "",
		               now, t.expires, t.project, t.user);
	if (!field_written(c, rc, "there is a token of that name"))
		return;
	rc = store_query(c->daemon->store, take_token, &c->reply, &c->err,
	                 "SELECT " COLUMNS " FROM tokens WHERE name = ?", "t",
	                 t.name);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 201;
	json_object_set_new(c->reply, "token", json_string(secret));
}

void api_token_delete(struct call *c)
{
	int rc = store_run(c->daemon->store, &c->err,
	                   "DELETE FROM tokens WHERE id = ?", "i",
	                   token_find(c->daemon, c->params[0]));

	if (rc < 0)
		call_fail_error(c, rc);
	else
		call_access_changed(c);
}

/* ---- audit ---- */

#define SOME_RECORDS                                                           \
	"SELECT id, at, caller, action, target, outcome, hash, project"        \
	" FROM audit WHERE id > ?1 AND " PROJECT_AMONG("?3")

void api_audit_list(struct call *c)
{
	s64 after = call_number(c, "after", 0, INT64_MAX, 0);
	s64 limit = call_number(c, "limit", 1, LIST_MAX, LIST_USUAL);

	json_t *projects;
	bool newest;

	if (c->status >= 400 || !call_flag(c, "newest", &newest))
		return;
	projects = caller_projects(&c->caller, RIGHT_AUDIT);
	call_list(c, "records", audit_row_json,
	          newest ? LAST_OF(SOME_RECORDS) : FIRST_OF(SOME_RECORDS),
	          "iij", after, limit, projects);
	json_decref(projects);
}

void api_audit_verify(struct call *c)
{
	char last[65];
	s64 records,
	    broken = audit_verify(c->daemon, &records, last, sizeof(last));

	c->status = 200;
	c->reply =
	    json_pack("{s:b, s:I, s:s, s:o}", "valid", broken == 0, "records",
	              (json_int_t)records, "last_hash", last, "broken_at",
	              broken ? json_integer(broken) : json_null());
}
