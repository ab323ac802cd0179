/* SPDX-License-Identifier: Apache-2.0 */
/* Who may do what where: the policy over all its inputs, the registry of
 * before there were projects, the chain of the audit log. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "daemon/access/access.h"
#include "daemon/api.h"
#include "daemon/store.h"

enum { RIGHTS_ALL = 63 };

/* ---- callers ---- */

static void test_grants(void **state)
{
	struct caller c = { 0 };
	char name[16];

	(void)state;
	assert_int_equal(caller_any(&c), 0);
	assert_true(caller_grant(&c, "web", RIGHTS_ALL));
	/* The host's files are not a project's to name. */
	assert_int_equal(caller_rights(&c, "web"), RIGHTS_ALL & ~RIGHT_HOST);
	assert_int_equal(caller_rights(&c, "we"), 0);
	assert_int_equal(caller_rights(&c, NULL), 0);
	assert_true(caller_grant(&c, "web", RIGHT_READ));
	assert_int_equal(c.grant_count, 1);
	assert_true(caller_grant(&c, "", RIGHT_READ));
	assert_int_equal(caller_rights(&c, "other"), RIGHT_READ);
	assert_int_equal(caller_rights(&c, NULL), RIGHT_READ);
	while (c.grant_count < GRANTS_MAX) {
		snprintf(name, sizeof(name), "p%u", c.grant_count);
		assert_true(caller_grant(&c, name, RIGHT_READ));
	}
	assert_false(caller_grant(&c, "more", RIGHTS_ALL));
	assert_int_equal(caller_rights(&c, "more"), RIGHT_READ);
}

static void test_projects_of_caller(void **state)
{
	struct caller c = { 0 }, other = { 0 };
	json_t *list;

	(void)state;
	caller_grant(&c, "a", RIGHT_READ | RIGHT_AUDIT);
	caller_grant(&c, "b", RIGHT_READ);
	list = caller_projects(&c, RIGHT_AUDIT);
	assert_int_equal(json_array_size(list), 1);
	assert_string_equal(json_string_value(json_array_get(list, 0)), "a");
	json_decref(list);
	caller_grant(&c, "", RIGHT_AUDIT);
	assert_null(caller_projects(&c, RIGHT_AUDIT));

	caller_grant(&other, "b", RIGHT_READ);
	assert_true(caller_covers(&c, &other));
	caller_grant(&other, "", RIGHT_READ);
	assert_false(caller_covers(&c, &other));
}

/* ---- the policy ---- */

static const struct route thing = { .pattern = "/v1/vms/{vm}/start" };
static const struct route some = { .pattern = "/v1/vms", .some = true };
static const struct route host = { .pattern = "/v1/host" };
static const struct route forgotten = { .pattern = "/v1/new" };
static const struct route near = { .pattern = "/v1/vms/{vm}x" };

static void test_scopes(void **state)
{
	unsigned things = 0, count = 0;

	(void)state;
	assert_int_equal(policy_scope(&thing), SCOPE_THING);
	assert_int_equal(policy_scope(&some), SCOPE_SOME);
	assert_int_equal(policy_scope(&host), SCOPE_HOST);
	assert_int_equal(policy_scope(&forgotten), SCOPE_HOST);
	assert_int_equal(policy_scope(&near), SCOPE_HOST);
	for (const struct route *r = routes; r->method; r++, count++) {
		bool of_vm = strncmp(r->pattern, "/v1/vms/{", 9) == 0;

		things += policy_scope(r) == SCOPE_THING;
		if (of_vm)
			assert_int_equal(policy_scope(r), SCOPE_THING);
		/* Whoever got in: only who he is. */
		if (r->right == RIGHT_NONE)
			assert_string_equal(r->pattern, "/v1");
		/* The host's files are never a project's. */
		if (r->right & RIGHT_HOST)
			assert_true(policy_scope(r) != SCOPE_SOME);
	}
	assert_true(things > 20 && things < count);
}

static enum verdict decide(const struct caller *c, const struct route *kind,
                           unsigned right, enum belonging belonging)
{
	struct route r = *kind;

	r.right = right;
	return policy_decide(c, &r, belonging, "mine");
}

/* All rights, on the host, in the project and in another, against all rights
 * that a route may need. */
static void test_policy(void **state)
{
	static const struct route *const kinds[] = { &thing, &some, &host };

	(void)state;
	for (unsigned n = 0; n < 64 * 64; n++) {
		for (unsigned bit = 0; bit < 6; bit++) {
			unsigned right = BIT(bit), mine = n % 64, all = n / 64;
			struct caller c = { 0 }, foreign = { 0 };
			enum verdict v, w;

			caller_grant(&c, "mine", mine);
			caller_grant(&c, "", all);
			caller_grant(&foreign, "other", mine);

			/* On the host: what is had on the host. */
			v = decide(&c, &host, right, BELONGS_HOST);
			assert_int_equal(v == POLICY_ALLOWED,
			                 (all & right) != 0);
			assert_true(v != POLICY_HIDDEN);

			/* In the project: what is had in either, and read. */
			v = decide(&c, &thing, right, BELONGS_PROJECT);
			mine &= ~(unsigned)RIGHT_HOST;
			assert_int_equal(v == POLICY_ALLOWED,
			                 ((mine | all) & right) &&
			                     ((mine | all) & RIGHT_READ));

			/* What is another's answers as what is not there. */
			v = decide(&foreign, &thing, right, BELONGS_PROJECT);
			w = decide(&foreign, &thing, right, BELONGS_NOWHERE);
			assert_int_equal(v, w);
			assert_true(v != POLICY_ALLOWED);
			for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
				assert_true(decide(&(struct caller){ 0 },
				                   kinds[k], right,
				                   BELONGS_PROJECT) ==
				            POLICY_DENIED);

			/* Everybody's: read by all, changed on the host. */
			v = decide(&foreign, &thing, right, BELONGS_ALL);
			assert_int_equal(v == POLICY_ALLOWED,
			                 right == RIGHT_READ &&
			                     (mine & RIGHT_READ));
		}
	}
}

static void test_roles(void **state)
{
	(void)state;
	assert_int_equal(rights_of_role("administrator"), RIGHTS_ALL);
	assert_int_equal(rights_of_role("king"), 0);
	assert_int_equal(rights_of_role(""), 0);
	for (size_t i = 0; rights_role_name(i); i++)
		assert_true(rights_of_role(rights_role_name(i)) & RIGHT_READ);
	for (unsigned bit = 0; bit < 6; bit++) {
		json_t *list = rights_json(BIT(bit));

		assert_int_equal(json_array_size(list), 1);
		assert_int_equal(
		    right_find(json_string_value(json_array_get(list, 0))),
		    BIT(bit));
		json_decref(list);
	}
	assert_int_equal(right_find("rule"), 0);
}

/* ---- the registry ---- */

/* As it was before there were projects, with a machine whose definition is
 * damaged, and an audit record whose hash was made then. */
static const char before[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);"
    "CREATE TABLE vms(id TEXT PRIMARY KEY, name TEXT, spec TEXT);"
    "CREATE TABLE tasks(id INTEGER PRIMARY KEY, vm_id TEXT);"
    "CREATE TABLE events(id INTEGER PRIMARY KEY, vm_id TEXT);"
    "CREATE TABLE tokens(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " name TEXT UNIQUE NOT NULL, hash TEXT, role TEXT NOT NULL);"
    "CREATE TABLE audit(id INTEGER PRIMARY KEY, at TEXT, caller TEXT,"
    " action TEXT, target TEXT, outcome TEXT, hash TEXT);"
    "INSERT INTO vms VALUES('v1', 'web', '{\"project\":\"shop\"}');"
    "INSERT INTO vms VALUES('v2', 'old', '{}');"
    "INSERT INTO vms VALUES('v3', 'bad', '{');"
    "INSERT INTO tasks VALUES(1, 'v1'), (2, 'v2'), (3, 'v3'), (4, 'gone');"
    "INSERT INTO events VALUES(1, 'v1'), (2, NULL), (3, 'v3');"
    "INSERT INTO tokens VALUES(5, 'ci', 'h', 'operator');"
    "INSERT INTO audit VALUES(1, '2026-01-01T00:00:00.000Z', 'uid 0',"
    " 'POST /v1/vms', 'web', '201',"
    " '35879ecdb7e027c15cba0351344ecb37'"
    " || '5b0482a2a5c666b85290e68ebd0d20b5');"
    "PRAGMA user_version = 1;";

struct rig {
	char folder[32];
	struct daemon d;
};

static int setup(void **state)
{
	struct rig *r = xalloc(sizeof(*r));
	struct error err = { 0 };
	char *path;
	int rc;

	strcpy(r->folder, "/tmp/atoll-access-XXXXXX");
	if (!mkdtemp(r->folder))
		return -1;
	path = xasprintf("%s/registry.db", r->folder);
	rc = store_open_tables(&r->d.store, path, before, &err);
	store_close(r->d.store);
	if (rc == 0)
		rc = store_open(&r->d.store, path, &err);
	if (rc < 0)
		fprintf(stderr, "%s\n", err.text);
	free(path);
	*state = r;
	return rc;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	char *command = xasprintf("rm -rf %s", r->folder);
	int rc = system(command);

	store_close(r->d.store);
	free(command);
	free(r);
	return rc;
}

static s64 count(struct rig *r, const char *sql)
{
	return store_number(r->d.store, -1, sql, "");
}

static void test_upgrade(void **state)
{
	struct rig *r = *state;
	char project[PROJECT_SIZE] = "";

	assert_int_equal(count(r, "SELECT count(*) FROM projects"), 2);
	assert_true(project_exists(&r->d, "default"));
	assert_true(project_exists(&r->d, "shop"));
	assert_int_equal(
	    count(r, "SELECT count(*) FROM tasks WHERE project = 'default'"),
	    3);
	assert_int_equal(task_belongs(&r->d, "1", project), BELONGS_PROJECT);
	assert_string_equal(project, "shop");
	assert_int_equal(task_belongs(&r->d, "9", project), BELONGS_NOWHERE);
	assert_int_equal(task_belongs(&r->d, "1x", project), BELONGS_NOWHERE);
	assert_int_equal(
	    count(r, "SELECT count(*) FROM events WHERE project IS NULL"), 1);
	/* A token of before is for all projects. */
	assert_int_equal(token_belongs(&r->d, "ci", project), BELONGS_HOST);
}

/* A name that looks like another one's number. */
static void test_token_names(void **state)
{
	struct rig *r = *state;

	assert_int_equal(token_find(&r->d, "ci"), 5);
	assert_int_equal(token_find(&r->d, "5"), 5);
	store_run(r->d.store, NULL,
	          "INSERT INTO tokens(id, name, role, project)"
	          " VALUES(8, '5', 'user', 'shop')",
	          "");
	assert_int_equal(token_find(&r->d, "5"), 8);
	assert_int_equal(token_find(&r->d, "none"), 0);
}

static void test_users(void **state)
{
	struct rig *r = *state;
	struct caller c = { 0 };

	store_run(r->d.store, NULL,
	          "INSERT INTO users(name, uid, certificate, created)"
	          " VALUES('anna', 1000, 'anna.example', '')",
	          "");
	store_run(r->d.store, NULL,
	          "INSERT INTO roles VALUES('watcher', 33, '')", "");
	store_run(r->d.store, NULL,
	          "INSERT INTO grants VALUES('anna', 'shop', 'watcher'),"
	          " ('anna', 'shop', 'user'), ('anna', 'shop', 'unknown')",
	          "");
	assert_true(user_by_uid(&r->d, 1000, &c));
	assert_string_equal(c.name, "user anna");
	assert_int_equal(caller_rights(&c, "shop"),
	                 RIGHT_READ | RIGHT_OPERATE | RIGHT_AUDIT);
	assert_int_equal(caller_rights(&c, "default"), 0);
	memset(&c, 0, sizeof(c));
	assert_true(user_by_certificate(&r->d, "anna.example", &c));
	memset(&c, 0, sizeof(c));
	assert_false(user_by_certificate(&r->d, "anna.exampl", &c));
	assert_false(user_by_uid(&r->d, 1001, &c));
	/* Taken back, from one call to the next. */
	c = (struct caller){ .user = "anna" };
	assert_true(auth_again(&r->d, &c));
	assert_true(caller_any(&c) & RIGHT_OPERATE);
	store_run(r->d.store, NULL, "DELETE FROM grants WHERE role = 'user'",
	          "");
	assert_true(auth_again(&r->d, &c));
	assert_false(caller_any(&c) & RIGHT_OPERATE);
	store_run(r->d.store, NULL, "UPDATE users SET disabled = 1", "");
	assert_false(auth_again(&r->d, &c));
	assert_false(user_by_uid(&r->d, 1000, &c));
	c = (struct caller){ .token = 99 };
	assert_false(auth_again(&r->d, &c));
}

static void write_record(struct rig *r, const char *outcome,
                         const char *project)
{
	struct error err = { 0 };

	assert_int_equal(audit_write(&r->d,
	                             &(struct record){ .caller = "user anna",
	                                               .action = "GET /v1",
	                                               .target = "x",
	                                               .outcome = outcome,
	                                               .project = project },
	                             &err),
	                 0);
}

static void test_audit(void **state)
{
	struct rig *r = *state;
	s64 records;
	char last[65];

	assert_int_equal(audit_verify(&r->d, &records, last, sizeof(last)), 0);
	write_record(r, "200", NULL);
	write_record(r, "403", "shop");
	write_record(r, "200", NULL);
	assert_int_equal(audit_verify(&r->d, &records, last, sizeof(last)), 0);
	assert_int_equal(records, 4);
	/* The registry refuses what changes it; without that: */
	assert_true(store_run(r->d.store, NULL,
	                      "UPDATE audit SET target = 'y' WHERE id = 3",
	                      "") < 0);
	assert_int_equal(
	    store_run(r->d.store, NULL, "DROP TRIGGER audit_unchanged", ""), 0);
	assert_int_equal(
	    store_run(r->d.store, NULL, "DROP TRIGGER audit_kept", ""), 0);
	/* Into another project, or out of all of them. */
	store_run(r->d.store, NULL,
	          "UPDATE audit SET project = 'default' WHERE id = 3", "");
	assert_int_equal(audit_verify(&r->d, &records, last, sizeof(last)), 3);
	store_run(r->d.store, NULL,
	          "UPDATE audit SET project = NULL WHERE id = 3", "");
	assert_int_equal(audit_verify(&r->d, &records, last, sizeof(last)), 3);
	store_run(r->d.store, NULL,
	          "UPDATE audit SET project = 'shop' WHERE id = 3", "");
	assert_int_equal(audit_verify(&r->d, &records, last, sizeof(last)), 0);
	store_run(r->d.store, NULL, "DELETE FROM audit WHERE id = 2", "");
	assert_int_equal(audit_verify(&r->d, &records, last, sizeof(last)), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grants),
		cmocka_unit_test(test_projects_of_caller),
		cmocka_unit_test(test_scopes),
		cmocka_unit_test(test_policy),
		cmocka_unit_test(test_roles),
		cmocka_unit_test_setup_teardown(test_upgrade, setup, teardown),
		cmocka_unit_test_setup_teardown(test_token_names, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_users, setup, teardown),
		cmocka_unit_test_setup_teardown(test_audit, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
