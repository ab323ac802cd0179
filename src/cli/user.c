/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll user, atoll role - who may do what where.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/body.h"
#include "cli/project.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

#define USERS "/v1/users"
#define ROLES "/v1/roles"

enum {
	OPT_UID = OPT_OWN,
	OPT_CERTIFICATE,
	OPT_DISABLE,
	OPT_ENABLE,
	OPT_ROLE,
	OPT_PROJECT,
	OPT_EVERYWHERE,
	OPT_RIGHT,
};

static const struct body_key keys[] = {
	{ OPT_UID, "uid", BODY_NUMBER, NULL },
	{ OPT_CERTIFICATE, "certificate", BODY_NAME, NULL },
	{ OPT_DISABLE, "disabled", BODY_TRUE, NULL },
	{ OPT_ENABLE, "disabled", BODY_FALSE, NULL },
	{ OPT_RIGHT, "rights", BODY_LIST, NULL },
	{ 0 },
};

/* ---- users ---- */

/* "operator in shop, viewer everywhere" */
static const char *grants_of(json_t *user, char *room, size_t size)
{
	json_t *one;
	size_t i, n = 0;

	snprintf(room, size, "-");
	json_array_foreach(json_object_get(user, "grants"), i, one)
	{
		const char *project = remote_text(one, "project");

		n += (size_t)snprintf(room + n, size - n, "%s%s %s%s",
		                      i ? ", " : "", remote_text(one, "role"),
		                      project[0] ? "in " : "everywhere",
		                      project);
		if (n >= size)
			break;
	}
	return room;
}

static const char *uid_of(json_t *user, char *room, size_t size)
{
	json_t *uid = json_object_get(user, "uid");

	if (!json_is_integer(uid))
		return "-";
	snprintf(room, size, "%" PRId64, (s64)json_integer_value(uid));
	return room;
}

static const char *state_of(json_t *user, char *room, size_t size)
{
	(void)room;
	(void)size;
	return json_is_true(json_object_get(user, "disabled")) ? "disabled"
	                                                       : "enabled";
}

static const struct column user_columns[] = {
	{ "NAME", .path = "name" },
	{ "UID", uid_of },
	{ "CERTIFICATE", .path = "certificate" },
	{ "STATE", state_of },
	{ "MAY", grants_of },
	{ NULL },
};

static int user_list(int argc, char **argv)
{
	return resource_list("atoll user list [OPTION]...",
	                     "Users, and what is granted to them.", USERS,
	                     "users", user_columns, argc, argv);
}

static int user_show(int argc, char **argv)
{
	return resource_show("atoll user show NAME", "One user.", USERS,
	                     user_columns, argc, argv);
}

#define USER_OPTIONS                                                           \
	{ "uid", "N", "who has that uid on the daemon's host; or none",        \
	  OPT_UID },                                                           \
	{                                                                      \
		"certificate", "NAME",                                         \
		    "who shows a certificate of that common name; or none",    \
		    OPT_CERTIFICATE                                            \
	}

static int user_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		USER_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};

	return resource_write("atoll user create NAME [OPTION]...",
	                      "Make a user, who may do nothing yet.", USERS,
	                      true, specs, keys, argc, argv);
}

static int user_set(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		USER_OPTIONS,
		{ "disable", NULL, "shut the user out", OPT_DISABLE },
		{ "enable", NULL, "let the user in again", OPT_ENABLE },
		REMOTE_OPTIONS,
		{ 0 },
	};

	return resource_write("atoll user set NAME [OPTION]...",
	                      "Change by what a user is known, or shut one "
	                      "out.",
	                      USERS, false, specs, keys, argc, argv);
}

static int user_delete(int argc, char **argv)
{
	return resource_delete("atoll user delete NAME...",
	                       "Delete users, and their tokens.", USERS, "user",
	                       argc, argv);
}

/* ---- grants ---- */

struct grant {
	const char *role, *project;
	bool everywhere;
};

static int grant_option(void *ctx, int id, const char *value, struct error *err)
{
	struct grant *g = ctx;

	(void)err;
	if (id == OPT_ROLE)
		g->role = value;
	else if (id == OPT_PROJECT)
		g->project = value;
	else
		g->everywhere = true;
	return 0;
}

static int grant(struct remote *r, const struct grant *g)
{
	char *user = resource_path(USERS, r->names[0]);
	char *path = xasprintf("%s/grants", user);
	json_t *body =
	    json_pack("{s:s, s:s?}", "role", g->role, "project", g->project);
	int code = resource_call(r, "POST", path, body, NULL);

	free(user);
	free(path);
	return code;
}

static int revoke(struct remote *r, const struct grant *g)
{
	char *user = resource_path(USERS, r->names[0]);
	char *role = client_escape(g->role);
	char *project = client_escape(g->project ? g->project : "");
	char *path = xasprintf("%s/grants?role=%s%s%s", user, role,
	                       g->project ? "&project=" : "", project);
	int code = resource_call(r, "DELETE", path, NULL, NULL);

	free(user);
	free(role);
	free(project);
	free(path);
	return code;
}

static int change_grant(const char *usage, const char *summary,
                        int (*change)(struct remote *, const struct grant *),
                        int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "role", "ROLE", "as atoll role list shows them", OPT_ROLE },
		{ "project", "PROJECT", "in that one", OPT_PROJECT },
		{ "everywhere", NULL, "in all of them, and on the host",
		  OPT_EVERYWHERE },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct grant g = { 0 };
	struct remote r = { .own = grant_option, .own_ctx = &g };
	int code = remote_open(&r, usage, summary, specs, argc, argv);

	if (code < 0 && (r.name_count != 1 || !g.role))
		code = say_usage("%s takes one name, and --role", usage);
	if (code < 0 && !g.project == !g.everywhere)
		code = say_usage("%s: say --project, or --everywhere", usage);
	if (code < 0)
		code = change(&r, &g);
	remote_close(&r);
	return code;
}

static int user_grant(int argc, char **argv)
{
	return change_grant("atoll user grant NAME --role ROLE [OPTION]...",
	                    "Grant a role.", grant, argc, argv);
}

static int user_revoke(int argc, char **argv)
{
	return change_grant("atoll user revoke NAME --role ROLE [OPTION]...",
	                    "Take a role back.", revoke, argc, argv);
}

int command_user(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "who there is", user_list },
		{ "show", "one of them", user_show },
		{ "inspect", "the same", user_show },
		{ "create", "a new one", user_create },
		{ "set", "change one, or shut one out", user_set },
		{ "grant", "let one do something", user_grant },
		{ "revoke", "take that back", user_revoke },
		{ "delete", "remove some", user_delete },
		{ 0 },
	};

	return command_noun(verbs, "Who may do what.", argc, argv);
}

/* ---- roles ---- */

static const struct column role_columns[] = {
	{ "NAME", .path = "name" },
	{ "RIGHTS", .path = "rights", .kind = CELL_LIST },
	{ NULL },
};

static int role_list(int argc, char **argv)
{
	return resource_list("atoll role list [OPTION]...",
	                     "Roles: those that are always there, and those "
	                     "that were made.",
	                     ROLES, "roles", role_columns, argc, argv);
}

static int role_show(int argc, char **argv)
{
	return resource_find("atoll role show NAME", "One role.", ROLES,
	                     "roles", role_columns, argc, argv);
}

static const struct option_spec role_options[] = {
	{ "right", "RIGHT",
	  "read, operate, define, host, access or audit; repeatable",
	  OPT_RIGHT },
	REMOTE_OPTIONS,
	{ 0 },
};

static int role_create(int argc, char **argv)
{
	return resource_write("atoll role create NAME --right RIGHT...",
	                      "Make a role.", ROLES, true, role_options, keys,
	                      argc, argv);
}

static int role_set(int argc, char **argv)
{
	return resource_write("atoll role set NAME --right RIGHT...",
	                      "Other rights for all who have that role.", ROLES,
	                      false, role_options, keys, argc, argv);
}

static int role_delete(int argc, char **argv)
{
	return resource_delete("atoll role delete NAME...",
	                       "Delete roles that nobody has.", ROLES, "role",
	                       argc, argv);
}

int command_role(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "what there is", role_list },
		{ "show", "one of them", role_show },
		{ "inspect", "the same", role_show },
		{ "create", "one of one's own", role_create },
		{ "set", "other rights", role_set },
		{ "delete", "one that nobody has", role_delete },
		{ 0 },
	};

	return command_noun(verbs, "What can be granted.", argc, argv);
}
