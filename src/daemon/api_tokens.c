/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_tokens - access for others, and what everybody did.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/units.h"
#include "daemon/api.h"
#include "daemon/store.h"

enum { SECRET_BYTES = 32, LIFE_MAX_S = 10 * 365 * 24 * 3600 };
enum { LIST_MAX = 1000, LIST_USUAL = 100 };

/* Of seconds since 1970, as the API spells times. */
static json_t *time_json(s64 seconds)
{
	time_t t = (time_t)seconds;
	char text[TIME_SIZE];
	struct tm tm;

	if (!seconds)
		return json_null();
	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S.000Z", &tm);
	return json_string(text);
}

static json_t *token_json(s64 id, const char *name, const char *role,
                          const char *created, s64 expires)
{
	return json_pack("{s:I, s:s, s:s, s:s, s:o}", "id", (json_int_t)id,
	                 "name", name, "role", role, "created", created,
	                 "expires", time_json(expires));
}

static json_t *token_row_json(struct row *row)
{
	return token_json(row_int(row, 0), row_text(row, 1), row_text(row, 2),
	                  row_text(row, 3), row_int(row, 4));
}

void api_token_list(struct call *c)
{
	call_list(c, "tokens", token_row_json,
	          "SELECT id, name, role, created, expires"
	          " FROM tokens ORDER BY name",
	          "");
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

/* False: the call has failed. */
static bool read_token(struct call *c, const char **name, const char **role,
                       s64 *expires)
{
	static const char *const keys[] = { "name", "role", "expires_s", NULL };
	json_t *life = json_object_get(c->body, "expires_s");
	s64 s = json_integer_value(life);

	if (!call_known_keys(c, keys))
		return false;
	*name = json_string_value(json_object_get(c->body, "name"));
	*role = json_string_value(json_object_get(c->body, "role"));
	if (!*name || !spec_name_valid(*name)) {
		call_fail(c, "bad-request", "name is not a name", "");
		return false;
	}
	if (!*role || !auth_rights(*role)) {
		call_fail(c, "bad-request",
		          "role is none of administrator, operator, user, "
		          "auditor, viewer",
		          "");
		return false;
	}
	if (life && (!json_is_integer(life) || s < 1 || s > LIFE_MAX_S)) {
		call_fail(c, "bad-request",
		          "expires_s is not a number of seconds", "");
		return false;
	}
	*expires = life ? (s64)time(NULL) + s : 0;
	return true;
}

void api_token_create(struct call *c)
{
	char secret[80], hex[65], now[TIME_SIZE];
	const char *name, *role;
	s64 expires;
	int rc;

	if (!read_token(c, &name, &role, &expires))
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
		               " expires) VALUES(?, ?, ?, ?, ?)",
		               "tttti", name, hex, role, now, expires);
	if (rc == -EEXIST) {
		call_fail(c, "conflict", "there is a token of that name", "");
		return;
	}
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 201;
	c->reply = token_json(store_last_id(c->daemon->store), name, role, now,
	                      expires);
	json_object_set_new(c->reply, "token", json_string(secret));
}

void api_token_delete(struct call *c)
{
	int rc = store_run(c->daemon->store, &c->err,
	                   "DELETE FROM tokens WHERE name = ?1 OR id = ?1", "t",
	                   c->params[0]);

	if (rc < 0)
		call_fail_error(c, rc);
	else if (store_changes(c->daemon->store) == 0)
		call_fail(c, "not-found", "there is no such token", "");
}

/* ---- audit ---- */

void api_audit_list(struct call *c)
{
	s64 after = call_number(c, "after", 0, INT64_MAX, 0);
	s64 limit = call_number(c, "limit", 1, LIST_MAX, LIST_USUAL);

	if (c->status >= 400)
		return;
	call_list(c, "records", audit_row_json,
	          "SELECT id, at, caller, action, target, outcome, hash"
	          " FROM audit WHERE id > ? ORDER BY id LIMIT ?",
	          "ii", after, limit);
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
