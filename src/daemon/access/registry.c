/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry - what roles, users and tokens are, as they were written down.
 */
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "daemon/access/access.h"
#include "daemon/api.h"
#include "daemon/image/image.h"
#include "daemon/store.h"

unsigned role_rights(struct daemon *d, const char *role)
{
	unsigned rights = rights_of_role(role);

	if (rights)
		return rights;
	return (unsigned)store_number(
	    d->store, 0, "SELECT rights FROM roles WHERE name = ?", "t", role);
}

bool project_exists(struct daemon *d, const char *name)
{
	return store_number(d->store, 0,
	                    "SELECT count(*) FROM projects WHERE name = ?", "t",
	                    name) != 0;
}

bool user_exists(struct daemon *d, const char *name)
{
	return store_number(d->store, 0,
	                    "SELECT count(*) FROM users WHERE name = ?", "t",
	                    name) != 0;
}

/* ---- users ---- */

struct found {
	struct daemon *d;
	struct caller *caller;
	bool any;
};

static int take_grant(void *ctx, struct row *row)
{
	struct found *f = ctx;
	struct caller *c = f->caller;
	const char *role = row_text(row, 1);

	f->any = true;
	snprintf(c->user, sizeof(c->user), "%s", row_text(row, 0));
	if (!role)
		return 0;
	if (!c->role[0])
		snprintf(c->role, sizeof(c->role), "%s", role);
	caller_grant(c, row_text(row, 2), role_rights(f->d, role));
	return 0;
}

/* Wider ones first: the role that is shown is the one everywhere. */
#define GRANTS_OF                                                              \
	"SELECT users.name, grants.role, grants.project FROM users"            \
	" LEFT JOIN grants ON grants.user = users.name"                        \
	" WHERE NOT users.disabled AND users."
#define IN_ORDER " = ? ORDER BY grants.project, grants.role"

void user_grants_any(struct daemon *d, const char *user, struct caller *caller)
{
	struct found f = { d, caller, false };

	store_query(d->store, take_grant, &f, NULL,
	            "SELECT user, role, project FROM grants WHERE user = ?",
	            "t", user);
}

bool user_grants(struct daemon *d, const char *user, struct caller *caller)
{
	struct found f = { d, caller, false };

	store_query(d->store, take_grant, &f, NULL, GRANTS_OF "name" IN_ORDER,
	            "t", user);
	return f.any;
}

static void call_him(struct caller *caller)
{
	snprintf(caller->name, sizeof(caller->name), "user %s", caller->user);
}

bool user_by_uid(struct daemon *d, u32 uid, struct caller *caller)
{
	struct found f = { d, caller, false };

	store_query(d->store, take_grant, &f, NULL, GRANTS_OF "uid" IN_ORDER,
	            "i", (s64)uid);
	call_him(caller);
	return f.any;
}

bool user_by_certificate(struct daemon *d, const char *common_name,
                         struct caller *caller)
{
	struct found f = { d, caller, false };

	store_query(d->store, take_grant, &f, NULL,
	            GRANTS_OF "certificate" IN_ORDER, "t", common_name);
	call_him(caller);
	return f.any;
}

/* ---- whose a thing is ---- */

struct whose {
	char *project;
	enum belonging belonging;
};

static int take_whose(void *ctx, struct row *row)
{
	struct whose *w = ctx;

	w->belonging = row_text(row, 0) ? BELONGS_PROJECT : BELONGS_HOST;
	if (row_text(row, 0))
		snprintf(w->project, PROJECT_SIZE, "%s", row_text(row, 0));
	return 0;
}

enum belonging task_belongs(struct daemon *d, const char *id,
                            char project[PROJECT_SIZE])
{
	struct whose w = { project, BELONGS_NOWHERE };
	u64 number;

	if (parse_u64(id, 1, INT64_MAX, &number, NULL) == 0)
		store_query(d->store, take_whose, &w, NULL,
		            "SELECT project FROM tasks WHERE id = ?", "i",
		            (s64)number);
	return w.belonging;
}

s64 token_find(struct daemon *d, const char *name)
{
	/* A name may look like another one's number. */
	return store_number(d->store, 0,
	                    "SELECT id FROM tokens WHERE name = ?1 OR id = ?1"
	                    " ORDER BY name = ?1 DESC LIMIT 1",
	                    "t", name);
}

enum belonging token_belongs(struct daemon *d, const char *name,
                             char project[PROJECT_SIZE])
{
	struct whose w = { project, BELONGS_NOWHERE };

	store_query(d->store, take_whose, &w, NULL,
	            "SELECT project FROM tokens WHERE id = ?", "i",
	            token_find(d, name));
	return w.belonging;
}

/* One that nothing is written about is everybody's: images are made beside
 * the daemon. */
enum belonging image_belongs(struct daemon *d, const char *name,
                             char project[PROJECT_SIZE])
{
	if (!image_exists(d, name))
		return BELONGS_NOWHERE;
	return image_project(d, name, project) ? BELONGS_PROJECT : BELONGS_ALL;
}

bool image_project(struct daemon *d, const char *name,
                   char project[PROJECT_SIZE])
{
	struct whose w = { project, BELONGS_NOWHERE };

	store_query(d->store, take_whose, &w, NULL,
	            "SELECT project FROM image_projects WHERE name = ?", "t",
	            name);
	return w.belonging == BELONGS_PROJECT;
}

/* ---- for handlers ---- */

static void no_project(struct call *c, const char *project)
{
	char words[128];

	snprintf(words, sizeof(words), "there is no project %.64s", project);
	call_fail(c, "not-found", words, "atoll project list shows them");
}

bool call_may(struct call *c, const char *project, unsigned right)
{
	unsigned has = caller_rights(&c->caller, project);

	if ((has & right) == right && (has & RIGHT_READ) &&
	    project_exists(c->daemon, project)) {
		snprintf(c->project, sizeof(c->project), "%s", project);
		return true;
	}
	if (!(has & RIGHT_READ) || !project_exists(c->daemon, project))
		no_project(c, project);
	else
		call_fail(c, "denied",
		          "your role in that project does not allow that", "");
	return false;
}

const char *call_project(struct call *c, const char *fallback, unsigned right)
{
	json_t *value = json_object_get(c->body, "project");
	const char *project = value ? json_string_value(value) : fallback;

	if (!project || !spec_name_valid(project)) {
		call_fail(c, "bad-request", "project is not a name", "");
		return NULL;
	}
	return call_may(c, project, right) ? project : NULL;
}

static void check_streams(struct call *c, void *ctx)
{
	(void)ctx;
	streams_check(c->daemon);
}

void call_access_changed(struct call *c)
{
	c->apply = check_streams;
}

bool call_may_give(struct call *c, const char *role, const char *project)
{
	unsigned rights = role_rights(c->daemon, role);
	unsigned own = caller_rights(&c->caller, project);
	char words[160];

	if (!rights) {
		snprintf(words, sizeof(words), "there is no role %.64s", role);
		call_fail(c, "not-found", words, "atoll role list shows them");
		return false;
	}
	if (project)
		rights &= ~(unsigned)RIGHT_HOST;
	if (!(rights & ~own))
		return true;
	call_fail(c, "denied",
	          "you can't give rights that you do not have there yourself",
	          "");
	return false;
}
