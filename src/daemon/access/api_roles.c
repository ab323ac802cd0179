/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_roles - roles: those that are always there, and those of one's own.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/access/fields.h"
#include "daemon/api.h"
#include "daemon/store.h"

static json_t *role_json(const char *name, unsigned rights, bool custom)
{
	return json_pack("{s:s, s:o, s:b}", "name", name, "rights",
	                 rights_json(rights), "custom", custom);
}

static int add_role(void *ctx, struct row *row)
{
	json_array_append_new(
	    ctx, role_json(row_text(row, 0), (unsigned)row_int(row, 1), true));
	return 0;
}

void api_role_list(struct call *c)
{
	json_t *list = json_array();
	const char *name;

	for (size_t i = 0; (name = rights_role_name(i)); i++)
		json_array_append_new(
		    list, role_json(name, rights_of_role(name), false));
	store_query(c->daemon->store, add_role, list, NULL,
	            "SELECT name, rights FROM roles ORDER BY name", "");
	c->status = 200;
	c->reply = json_pack("{s:o}", "roles", list);
}

/* What the body asks for, with the right to read, without which no other is of
 * use; 0: the call has failed. */
static unsigned read_rights(struct call *c)
{
	json_t *list = json_object_get(c->body, "rights"), *one;
	unsigned rights = RIGHT_READ;
	bool wrong = json_array_size(list) == 0;
	size_t i;

	json_array_foreach(list, i, one)
	{
		const char *text = json_string_value(one);
		unsigned right = text ? right_find(text) : 0;

		wrong |= !right;
		rights |= right;
	}
	if (wrong) {
		call_fail(c, "bad-request",
		          "rights is not a list of some of read, operate, "
		          "define, host, access, audit",
		          "");
		return 0;
	}
	if (!(rights & ~caller_rights(&c->caller, NULL)))
		return rights;
	call_fail(c, "denied",
	          "you can't give rights that you do not have yourself", "");
	return 0;
}

void api_role_create(struct call *c)
{
	static const char *const keys[] = { "name", "rights", NULL };
	unsigned rights;
	const char *name;
	char now[TIME_SIZE];

	if (!call_known_keys(c, keys) || !(name = field_name(c, "name")) ||
	    !(rights = read_rights(c)))
		return;
	if (rights_of_role(name)) {
		call_fail(c, "conflict", "there is a role of that name", "");
		return;
	}
	time_now(now);
	if (!field_written(c,
	                   store_run(c->daemon->store, &c->err,
	                             "INSERT INTO roles(name, rights, created)"
	                             " VALUES(?, ?, ?)",
	                             "tit", name, (s64)rights, now),
	                   "there is a role of that name"))
		return;
	c->status = 201;
	c->reply = role_json(name, rights, true);
}

/* The rights of a role of one's own; 0: the call has failed. */
static unsigned own_role(struct call *c)
{
	const char *name = c->params[0];
	unsigned rights = role_rights(c->daemon, name);

	if (rights_of_role(name)) {
		call_fail(c, "conflict", "that role is always as it is",
		          "atoll role create makes another");
		return 0;
	}
	if (!rights)
		field_none(c, "role", name);
	return rights;
}

/* Who has it has its new rights from the next call on. */
void api_role_patch(struct call *c)
{
	static const char *const keys[] = { "rights", NULL };
	unsigned rights, before = own_role(c);
	int rc;

	if (!before || !call_known_keys(c, keys) || !(rights = read_rights(c)))
		return;
	rc = store_run(c->daemon->store, &c->err,
	               "UPDATE roles SET rights = ? WHERE name = ?", "it",
	               (s64)rights, c->params[0]);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 200;
	c->reply = role_json(c->params[0], rights, true);
	call_access_changed(c);
}

void api_role_delete(struct call *c)
{
	const char *name = c->params[0];
	int rc;

	if (!own_role(c))
		return;
	if (store_number(c->daemon->store, 0,
	                 "SELECT (SELECT count(*) FROM grants WHERE role = ?1)"
	                 " + (SELECT count(*) FROM tokens WHERE role = ?1)",
	                 "t", name)) {
		call_fail(c, "conflict", "users or tokens have that role",
		          "atoll user list and atoll token list show them");
		return;
	}
	rc = store_run(c->daemon->store, &c->err,
	               "DELETE FROM roles WHERE name = ?", "t", name);
	if (rc < 0)
		call_fail_error(c, rc);
}
