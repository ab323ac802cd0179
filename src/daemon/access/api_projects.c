/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_projects - projects and their quotas.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/access/fields.h"
#include "daemon/access/quota.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/network.h"
#include "daemon/store.h"

enum { WORDS_MAX = 256 };

static json_t *project_json(struct daemon *d, const char *name,
                            const char *description, const char *created)
{
	u64 used[QUOTA_COUNT];
	json_t *usage = json_object();

	quota_used(d, name, NULL, used);
	used[QUOTA_BACKUPS] = backups_bytes(d, name);
	for (enum quota q = 0; quota_name(q); q++)
		json_object_set_new(usage, quota_name(q),
		                    json_integer((json_int_t)used[q]));
	return json_pack("{s:s, s:s, s:s, s:o, s:o}", "name", name,
	                 "description", description, "created", created,
	                 "quotas", quota_limits(d, name), "used", usage);
}

struct listing {
	struct call *call;
	json_t *list;
};

static int add_project(void *ctx, struct row *row)
{
	struct listing *l = ctx;
	struct call *c = l->call;

	if (caller_rights(&c->caller, row_text(row, 0)) & RIGHT_READ)
		json_array_append_new(
		    l->list, project_json(c->daemon, row_text(row, 0),
		                          row_text(row, 1), row_text(row, 2)));
	return 0;
}

void api_project_list(struct call *c)
{
	struct listing l = { c, json_array() };

	store_query(c->daemon->store, add_project, &l, NULL,
	            "SELECT name, description, created FROM projects"
	            " ORDER BY name",
	            "");
	c->status = 200;
	c->reply = json_pack("{s:o}", "projects", l.list);
}

static bool quota_known(const char *key)
{
	enum quota q = 0;

	while (quota_name(q) && strcmp(quota_name(q), key))
		q++;
	return quota_name(q) != NULL;
}

static bool quotas_valid(struct call *c, json_t *quotas)
{
	json_t *value;
	const char *key;

	if (quotas && !json_is_object(quotas)) {
		call_fail(c, "bad-request", "quotas is not an object", "");
		return false;
	}
	json_object_foreach(quotas, key, value)
	{
		if (quota_known(key) &&
		    (json_is_null(value) || (json_is_integer(value) &&
		                             json_integer_value(value) >= 0)))
			continue;
		call_fail(c, "bad-request",
		          "quotas are whole numbers of machines, vcpus, "
		          "memory_bytes, disk_bytes, snapshots, backup_bytes, "
		          "or null for none",
		          "");
		return false;
	}
	return true;
}

/* Quotas of the body over those that are; null takes one away. New. */
static json_t *merged_quotas(struct call *c, json_t *quotas)
{
	json_t *value;
	const char *key;

	json_object_foreach(json_object_get(c->body, "quotas"), key, value)
	{
		if (json_is_null(value))
			json_object_del(quotas, key);
		else
			json_object_set(quotas, key, value);
	}
	return quotas;
}

void api_project_create(struct call *c)
{
	static const char *const keys[] = { "name", "description", "quotas",
		                            NULL };
	const char *name, *description = "";
	char now[TIME_SIZE], where[96];
	json_t *quotas;
	int rc;

	if (!call_known_keys(c, keys) || !(name = field_name(c, "name")) ||
	    !field_text(c, "description", WORDS_MAX, &description) ||
	    !quotas_valid(c, json_object_get(c->body, "quotas")))
		return;
	time_now(now);
	quotas = merged_quotas(c, json_object());
	rc = store_run(c->daemon->store, &c->err,
	               "INSERT INTO projects(name, description, quotas,"
	               " created) VALUES(?, ?, ?, ?)",
	               "ttjt", name, description, quotas, now);
	json_decref(quotas);
	if (!field_written(c, rc, "there is a project of that name"))
		return;
	c->status = 201;
	c->reply = project_json(c->daemon, name, description, now);
	snprintf(where, sizeof(where), "/v1/projects/%s", name);
	call_header(c, "location", where);
}

static int take_project(void *ctx, struct row *row)
{
	struct listing *l = ctx;

	l->list = project_json(l->call->daemon, row_text(row, 0),
	                       row_text(row, 1), row_text(row, 2));
	return 0;
}

void api_project_get(struct call *c)
{
	struct listing l = { c, NULL };

	store_query(c->daemon->store, take_project, &l, NULL,
	            "SELECT name, description, created FROM projects"
	            " WHERE name = ?",
	            "t", c->params[0]);
	c->status = 200;
	c->reply = l.list;
}

/* Whoever runs a project may say what it is for; how much of the host it gets
 * is the host's to say. */
void api_project_patch(struct call *c)
{
	static const char *const keys[] = { "description", "quotas", NULL };
	json_t *quotas = json_object_get(c->body, "quotas");
	const char *description = NULL;
	int rc;

	if (!call_known_keys(c, keys) ||
	    !field_text(c, "description", WORDS_MAX, &description) ||
	    !quotas_valid(c, quotas))
		return;
	if (quotas && !(caller_rights(&c->caller, NULL) & RIGHT_ACCESS)) {
		call_fail(c, "denied",
		          "quotas are set by an administrator of the host", "");
		return;
	}
	quotas = merged_quotas(c, quota_limits(c->daemon, c->params[0]));
	rc = store_run(c->daemon->store, &c->err,
	               "UPDATE projects SET quotas = ?1,"
	               " description = coalesce(?2, description)"
	               " WHERE name = ?3",
	               "jtt", quotas, description, c->params[0]);
	json_decref(quotas);
	if (rc < 0)
		call_fail_error(c, rc);
	else
		api_project_get(c);
}

/* What is still in a project, in words; NULL: nothing. */
static const char *held_by(struct daemon *d, const char *project)
{
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (!vm->deleted && strcmp(vm_project(vm), project) == 0)
			return "the project has machines";
	for (struct network *n = d->networks; n; n = n->next)
		if (strcmp(network_project(n), project) == 0)
			return "the project has networks";
	if (store_number(d->store, 0,
	                 "SELECT count(*) FROM alarms WHERE project = ?", "t",
	                 project))
		return "the project has alarms";
	if (store_number(d->store, 0,
	                 "SELECT count(*) FROM image_projects"
	                 " WHERE project = ?",
	                 "t", project))
		return "the project has images";
	return NULL;
}

void api_project_delete(struct call *c)
{
	const char *name = c->params[0], *held;
	struct store *store = c->daemon->store;
	int rc;

	if (!project_exists(c->daemon, name)) {
		field_none(c, "project", name);
		return;
	}
	if (strcmp(name, "default") == 0) {
		call_fail(c, "conflict", "default is always there", "");
		return;
	}
	held = held_by(c->daemon, name);
	if (held) {
		call_fail(c, "conflict", held,
		          "delete them, or move them to another");
		return;
	}
	/* Nobody gets into a project that is made later under its name. */
	rc = store_run(store, &c->err, "DELETE FROM grants WHERE project = ?",
	               "t", name);
	if (rc == 0)
		rc = store_run(store, &c->err,
		               "DELETE FROM tokens WHERE project = ?", "t",
		               name);
	if (rc == 0)
		rc =
		    store_run(store, &c->err,
		              "DELETE FROM projects WHERE name = ?", "t", name);
	if (rc < 0)
		call_fail_error(c, rc);
	else
		call_access_changed(c);
}
