/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_users - users, and what is granted to them.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/access/fields.h"
#include "daemon/api.h"
#include "daemon/store.h"

enum { COMMON_NAME_MAX = 64 };

/* ---- as the API shows them ---- */

static json_t *project_json(const char *project)
{
	return project[0] ? json_string(project) : json_null();
}

struct granted {
	struct call *call;
	json_t *list;
};

/* Where the caller gives access himself, he sees who has it. */
static int add_grant(void *ctx, struct row *row)
{
	struct granted *g = ctx;
	const char *project = row_text(row, 1);
	unsigned rights =
	    caller_rights(&g->call->caller, project[0] ? project : NULL);

	if (rights & RIGHT_ACCESS)
		json_array_append_new(
		    g->list, json_pack("{s:s, s:o}", "role", row_text(row, 0),
		                       "project", project_json(project)));
	return 0;
}

static bool everywhere(const struct call *c)
{
	return caller_rights(&c->caller, NULL) & RIGHT_ACCESS;
}

/* NULL: nothing of it is for the caller to see. */
static json_t *user_json(struct call *c, struct row *row)
{
	struct granted g = { c, json_array() };
	json_t *uid = row_text(row, 1)
	                  ? json_integer((json_int_t)row_int(row, 1))
	                  : json_null();

	store_query(c->daemon->store, add_grant, &g, NULL,
	            "SELECT role, project FROM grants WHERE user = ?"
	            " ORDER BY project, role",
	            "t", row_text(row, 0));
	if (!everywhere(c) && json_array_size(g.list) == 0) {
		json_decref(g.list);
		json_decref(uid);
		return NULL;
	}
	return json_pack("{s:s, s:o, s:s?, s:b, s:s, s:o}", "name",
	                 row_text(row, 0), "uid", uid, "certificate",
	                 row_text(row, 2), "disabled", (int)row_int(row, 3),
	                 "created", row_text(row, 4), "grants", g.list);
}

#define COLUMNS "name, uid, certificate, disabled, created"

static int add_user(void *ctx, struct row *row)
{
	struct granted *g = ctx;
	json_t *user = user_json(g->call, row);

	if (user)
		json_array_append_new(g->list, user);
	return 0;
}

void api_user_list(struct call *c)
{
	struct granted g = { c, json_array() };

	store_query(c->daemon->store, add_user, &g, NULL,
	            "SELECT " COLUMNS " FROM users ORDER BY name", "");
	c->status = 200;
	c->reply = json_pack("{s:o}", "users", g.list);
}

static int take_user(void *ctx, struct row *row)
{
	struct granted *g = ctx;

	g->list = user_json(g->call, row);
	return 0;
}

static void reply_user(struct call *c, const char *name, int status)
{
	struct granted g = { c, NULL };

	store_query(c->daemon->store, take_user, &g, NULL,
	            "SELECT " COLUMNS " FROM users WHERE name = ?", "t", name);
	if (!g.list) {
		field_none(c, "user", name);
		return;
	}
	c->status = status;
	c->reply = g.list;
}

void api_user_get(struct call *c)
{
	reply_user(c, c->params[0], 200);
}

/* ---- made and changed ---- */

struct user {
	json_t *uid; /* borrowed */
	const char *certificate;
};

/* By which the kernel or a certificate tells who it is; false: the call has
 * failed. */
static bool read_user(struct call *c, struct user *u)
{
	json_t *uid = json_object_get(c->body, "uid");

	if (uid && !json_is_null(uid) &&
	    (!json_is_integer(uid) || json_integer_value(uid) < 0 ||
	     json_integer_value(uid) >= UINT32_MAX)) {
		call_fail(c, "bad-request", "uid is not the number of a user",
		          "");
		return false;
	}
	u->uid = json_is_integer(uid) ? uid : NULL;
	if (!field_text(c, "certificate", COMMON_NAME_MAX, &u->certificate))
		return false;
	if (u->certificate && !u->certificate[0]) {
		call_fail(c, "bad-request", "certificate is empty", "");
		return false;
	}
	return true;
}

void api_user_create(struct call *c)
{
	static const char *const keys[] = { "name", "uid", "certificate",
		                            NULL };
	struct user u = { 0 };
	const char *name;
	char now[TIME_SIZE], where[96];
	int rc;

	if (!call_known_keys(c, keys) || !(name = field_name(c, "name")) ||
	    !read_user(c, &u))
		return;
	time_now(now);
	rc = store_run(c->daemon->store, &c->err,
	               "INSERT INTO users(name, uid, certificate, created)"
	               " VALUES(?, ?, ?, ?)",
	               "tjtt", name, u.uid, u.certificate, now);
	if (!field_written(c, rc,
	                   "there is a user of that name, uid or certificate"))
		return;
	reply_user(c, name, 201);
	snprintf(where, sizeof(where), "/v1/users/%s", name);
	call_header(c, "location", where);
}

/* Who changes by what somebody is known could become him: only who may do all
 * that he may. */
static bool covers(struct call *c, const char *user)
{
	struct caller him = { 0 };

	if (!user_exists(c->daemon, user)) {
		field_none(c, "user", user);
		return false;
	}
	/* Of one who is disabled as well: he can be enabled again. */
	user_grants_any(c->daemon, user, &him);
	if (caller_covers(&c->caller, &him))
		return true;
	call_fail(c, "denied",
	          "that user has rights that you do not have yourself", "");
	return false;
}

void api_user_patch(struct call *c)
{
	static const char *const keys[] = { "uid", "certificate", "disabled",
		                            NULL };
	json_t *uid = json_object_get(c->body, "uid");
	json_t *certificate = json_object_get(c->body, "certificate");
	json_t *disabled = json_object_get(c->body, "disabled");
	const char *name = c->params[0];
	struct user u = { 0 };
	bool is_disabled;
	int rc;

	if (!covers(c, name) || !call_known_keys(c, keys) ||
	    !read_user(c, &u) || !field_switch(c, "disabled", &is_disabled))
		return;
	rc = store_run(c->daemon->store, &c->err,
	               "UPDATE users SET"
	               " uid = CASE WHEN ?2 THEN ?3 ELSE uid END,"
	               " certificate = CASE WHEN ?4 THEN ?5"
	               " ELSE certificate END,"
	               " disabled = CASE WHEN ?6 THEN ?7 ELSE disabled END"
	               " WHERE name = ?1",
	               "tijitii", name, (s64)(uid != NULL), u.uid,
	               (s64)(certificate != NULL), u.certificate,
	               (s64)(disabled != NULL), (s64)is_disabled);
	if (!field_written(c, rc, "there is a user of that uid or certificate"))
		return;
	reply_user(c, name, 200);
	call_access_changed(c);
}

void api_user_delete(struct call *c)
{
	const char *name = c->params[0];
	struct store *store = c->daemon->store;
	int rc = store_run(store, &c->err, "DELETE FROM grants WHERE user = ?",
	                   "t", name);

	if (rc == 0)
		rc = store_run(store, &c->err,
		               "DELETE FROM tokens WHERE user = ?", "t", name);
	if (rc == 0)
		rc = store_run(store, &c->err,
		               "DELETE FROM users WHERE name = ?", "t", name);
	if (field_removed(c, rc, "there is no such user"))
		call_access_changed(c);
}

/* ---- grants ---- */

/* What a grant names: the role, and where; "" is everywhere. */
struct grant_of {
	const char *role, *project;
};

/* The caller gives access there himself; false: the call has failed. */
static bool may_grant(struct call *c, const char *project)
{
	if (project[0])
		return call_may(c, project, RIGHT_ACCESS);
	if (everywhere(c))
		return true;
	call_fail(c, "denied",
	          "you give access in some projects only: name one", "");
	return false;
}

static bool user_there(struct call *c)
{
	if (user_exists(c->daemon, c->params[0]))
		return true;
	field_none(c, "user", c->params[0]);
	return false;
}

void api_grant_create(struct call *c)
{
	static const char *const keys[] = { "role", "project", NULL };
	const char *role, *project = "";
	int rc;

	if (!call_known_keys(c, keys) ||
	    !field_text(c, "project", PROJECT_SIZE - 1, &project) ||
	    !(role = field_name(c, "role")) || !may_grant(c, project) ||
	    !user_there(c) ||
	    !call_may_give(c, role, project[0] ? project : NULL))
		return;
	if (store_number(c->daemon->store, 0,
	                 "SELECT count(*) FROM grants WHERE user = ?", "t",
	                 c->params[0]) >= GRANTS_MAX) {
		call_fail(c, "conflict", "that user has 64 grants already", "");
		return;
	}
	rc = store_run(c->daemon->store, &c->err,
	               "INSERT OR IGNORE INTO grants(user, project, role)"
	               " VALUES(?, ?, ?)",
	               "ttt", c->params[0], project, role);
	if (rc < 0)
		call_fail_error(c, rc);
	else
		call_access_changed(c);
}

void api_grant_delete(struct call *c)
{
	char role_room[PARAM_MAX], project_room[PARAM_MAX];
	const char *role = call_query(c, "role", role_room, sizeof(role_room));
	const char *project =
	    call_query(c, "project", project_room, sizeof(project_room));

	if (!role) {
		call_fail(c, "bad-request", "the query has no role", "");
		return;
	}
	project = project ? project : "";
	if (!may_grant(c, project) || !user_there(c))
		return;
	if (field_removed(c,
	                  store_run(c->daemon->store, &c->err,
	                            "DELETE FROM grants WHERE user = ?"
	                            " AND project = ? AND role = ?",
	                            "ttt", c->params[0], project, role),
	                  "that is not granted to that user there"))
		call_access_changed(c);
}
