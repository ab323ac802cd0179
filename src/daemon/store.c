/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/store.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { STATEMENTS_MAX = 256, BUSY_MS = 2000 };

/* Statements are kept prepared, found again by the address of their text. */
struct store {
	sqlite3 *db;
	struct {
		const char *sql;
		sqlite3_stmt *stmt;
	} cache[STATEMENTS_MAX];
	size_t cached;
};

struct row {
	sqlite3_stmt *stmt;
};

static const char first[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);"
    "CREATE TABLE vms(id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL,"
    " spec TEXT NOT NULL, revision INTEGER NOT NULL, created TEXT NOT NULL,"
    " updated TEXT NOT NULL, wanted INTEGER NOT NULL DEFAULT 0,"
    " run INTEGER NOT NULL DEFAULT 0, run_revision INTEGER NOT NULL DEFAULT 0,"
    " prepared INTEGER NOT NULL DEFAULT 0, last_end TEXT);"
    "CREATE TABLE tasks(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " vm_id TEXT NOT NULL, vm_name TEXT NOT NULL, kind TEXT NOT NULL,"
    " state TEXT NOT NULL, params TEXT NOT NULL,"
    " progress INTEGER NOT NULL DEFAULT 0, words TEXT, result TEXT,"
    " error TEXT, caller TEXT NOT NULL, created TEXT NOT NULL, started TEXT,"
    " ended TEXT);"
    "CREATE INDEX tasks_state ON tasks(state);"
    "CREATE INDEX tasks_vm ON tasks(vm_id);"
    "CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " at TEXT NOT NULL, type TEXT NOT NULL, vm_id TEXT, vm_name TEXT,"
    " task INTEGER, data TEXT NOT NULL);"
    "CREATE TABLE keys(key TEXT NOT NULL, caller TEXT NOT NULL,"
    " request TEXT NOT NULL, status INTEGER NOT NULL, headers TEXT,"
    " body TEXT, at INTEGER NOT NULL, PRIMARY KEY(key, caller));"
    "CREATE TABLE tokens(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " name TEXT UNIQUE NOT NULL, hash TEXT UNIQUE NOT NULL,"
    " role TEXT NOT NULL, created TEXT NOT NULL, expires INTEGER,"
    " used TEXT);"
    "CREATE TABLE audit(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " at TEXT NOT NULL, caller TEXT NOT NULL, action TEXT NOT NULL,"
    " target TEXT NOT NULL, outcome TEXT NOT NULL, hash TEXT NOT NULL);";

#define PROJECT_OF_SPEC                                                        \
	"(SELECT CASE WHEN json_valid(spec)"                                   \
	" THEN json_extract(spec, '$.project') END"                            \
	" FROM vms WHERE vms.id = vm_id)"

/* Projects, users, roles: what was there is where its machine is. */
static const char second[] =
    "CREATE TABLE IF NOT EXISTS alarms(name TEXT PRIMARY KEY,"
    " vm TEXT NOT NULL, metric TEXT NOT NULL, below INTEGER NOT NULL,"
    " threshold INTEGER NOT NULL, duration_s INTEGER NOT NULL,"
    " action TEXT NOT NULL);"
    "ALTER TABLE alarms ADD COLUMN project TEXT;"
    "ALTER TABLE audit ADD COLUMN project TEXT;"
    "ALTER TABLE events ADD COLUMN project TEXT;"
    "ALTER TABLE tasks ADD COLUMN project TEXT NOT NULL DEFAULT 'default';"
    "ALTER TABLE tokens ADD COLUMN project TEXT;"
    "ALTER TABLE tokens ADD COLUMN user TEXT;"
    "UPDATE tasks SET project = coalesce(" PROJECT_OF_SPEC ", 'default');"
    "UPDATE events SET project = coalesce(" PROJECT_OF_SPEC ", 'default')"
    " WHERE vm_id IS NOT NULL;"
    "CREATE TABLE projects(name TEXT PRIMARY KEY,"
    " description TEXT NOT NULL, quotas TEXT NOT NULL,"
    " created TEXT NOT NULL);"
    "INSERT OR IGNORE INTO projects"
    " SELECT DISTINCT p, '', '{}', strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    " FROM (SELECT CASE WHEN json_valid(spec)"
    " THEN json_extract(spec, '$.project') END AS p FROM vms"
    " UNION SELECT 'default') WHERE p IS NOT NULL;"
    "CREATE TABLE users(name TEXT PRIMARY KEY, uid INTEGER UNIQUE,"
    " certificate TEXT UNIQUE, disabled INTEGER NOT NULL DEFAULT 0,"
    " created TEXT NOT NULL);"
    "CREATE TABLE grants(user TEXT NOT NULL, project TEXT NOT NULL,"
    " role TEXT NOT NULL, PRIMARY KEY(user, project, role));"
    "CREATE TABLE roles(name TEXT PRIMARY KEY, rights INTEGER NOT NULL,"
    " created TEXT NOT NULL);"
    "CREATE TABLE image_projects(name TEXT PRIMARY KEY,"
    " project TEXT NOT NULL);";

static const char third[] =
    "CREATE TABLE backup_schedules(vm_id TEXT PRIMARY KEY,"
    " plan TEXT NOT NULL, since INTEGER NOT NULL, last INTEGER NOT NULL,"
    " failures INTEGER NOT NULL, error TEXT);";

/* The audit log is added to, and never changed: not by a mistake of ours, nor
 * by who has found a way to have the daemon run a statement. Who has the file
 * can take these away; then the chain of hashes tells. */
#define ADDED_TO_ONLY                                                          \
	" BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;"
static const char fourth[] =
    "CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit" ADDED_TO_ONLY
    "CREATE TRIGGER audit_kept BEFORE DELETE ON audit" ADDED_TO_ONLY
    "CREATE TRIGGER audit_at_its_end BEFORE INSERT ON audit"
    " WHEN NEW.id <= (SELECT max(id) FROM audit)" ADDED_TO_ONLY;

/* From each version of the registry to the next. */
static const char *const steps[] = { first, second, third, fourth };

static int failed(struct store *s, struct error *err)
{
	int code = sqlite3_extended_errcode(s->db), rc = -EIO;

	if ((code & 0xff) == SQLITE_CONSTRAINT)
		rc = -EEXIST;
	else if ((code & 0xff) == SQLITE_FULL || code == SQLITE_IOERR_WRITE)
		rc = -ENOSPC;
	else if ((code & 0xff) == SQLITE_READONLY)
		rc = -EROFS;
	else if ((code & 0xff) == SQLITE_NOTADB ||
	         (code & 0xff) == SQLITE_CORRUPT)
		rc = -EBADMSG;
	return error_set(err, rc, "the registry: %s", sqlite3_errmsg(s->db));
}

static int run_text(struct store *s, const char *sql, struct error *err)
{
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK
	           ? 0
	           : failed(s, err);
}

static int make_tables(struct store *s, struct error *err)
{
	const s64 known = (s64)ARRAY_SIZE(steps);
	s64 version = store_number(s, -1, "PRAGMA user_version", "");
	char pragma[48];
	int rc;

	if (version == known)
		return 0;
	if (version < 0)
		return failed(s, err);
	if (version > known)
		return error_set(err, -EBADMSG,
		                 "the registry was made by a newer atolld "
		                 "(schema %" PRId64 ", this one knows %" PRId64
		                 ")",
		                 version, known);
	rc = store_begin(s, err);
	for (; rc == 0 && version < known; version++)
		rc = run_text(s, steps[version], err);
	snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %" PRId64,
	         known);
	if (rc == 0)
		rc = run_text(s, pragma, err);
	if (rc == 0)
		rc = store_commit(s, err);
	if (rc < 0)
		store_rollback(s);
	return rc;
}

int store_tables(struct store *s, const char *tables, struct error *err)
{
	return run_text(s, tables, err);
}

static int open_file(struct store **out, const char *path, const char *tables,
                     struct error *err)
{
	struct store *s = xalloc(sizeof(*s));
	int rc = 0;

	if (sqlite3_open_v2(path, &s->db,
	                    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
	                    NULL) != SQLITE_OK)
		rc = failed(s, err);
	if (rc == 0) {
		sqlite3_busy_timeout(s->db, BUSY_MS);
		rc = run_text(s,
		              tables ? "PRAGMA journal_mode = WAL;"
		                       "PRAGMA synchronous = OFF;"
		                     : "PRAGMA journal_mode = WAL;"
		                       "PRAGMA synchronous = FULL;"
		                       "PRAGMA foreign_keys = ON;",
		              err);
	}
	if (rc == 0)
		rc =
		    tables ? store_tables(s, tables, err) : make_tables(s, err);
	if (rc < 0) {
		error_prefix(err, "%s", path);
		store_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

int store_open(struct store **out, const char *path, struct error *err)
{
	return open_file(out, path, NULL, err);
}

int store_open_tables(struct store **out, const char *path, const char *tables,
                      struct error *err)
{
	return open_file(out, path, tables, err);
}

void store_close(struct store *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->cached; i++)
		sqlite3_finalize(s->cache[i].stmt);
	sqlite3_close(s->db);
	free(s);
}

int store_begin(struct store *s, struct error *err)
{
	return run_text(s, "BEGIN IMMEDIATE", err);
}

int store_commit(struct store *s, struct error *err)
{
	return run_text(s, "COMMIT", err);
}

void store_rollback(struct store *s)
{
	if (!sqlite3_get_autocommit(s->db))
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
}

static sqlite3_stmt *prepare(struct store *s, const char *sql,
                             struct error *err)
{
	sqlite3_stmt *stmt = NULL;

	for (size_t i = 0; i < s->cached; i++)
		if (s->cache[i].sql == sql &&
		    !sqlite3_stmt_busy(s->cache[i].stmt))
			return s->cache[i].stmt;
	if (sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt,
	                       NULL) != SQLITE_OK) {
		failed(s, err);
		return NULL;
	}
	ASSERT(s->cached < STATEMENTS_MAX);
	s->cache[s->cached].sql = sql;
	s->cache[s->cached++].stmt = stmt;
	return stmt;
}

static void bind(sqlite3_stmt *stmt, const char *kinds, va_list ap)
{
	for (int i = 1; *kinds; kinds++, i++) {
		if (*kinds == 'i') {
			sqlite3_bind_int64(stmt, i, va_arg(ap, s64));
		} else if (*kinds == 't') {
			sqlite3_bind_text(stmt, i, va_arg(ap, const char *), -1,
			                  SQLITE_TRANSIENT);
		} else {
			json_t *json = va_arg(ap, json_t *);

			if (json)
				sqlite3_bind_text(
				    stmt, i,
				    json_dumps(json,
				               JSON_COMPACT | JSON_ENCODE_ANY),
				    -1, free);
			else
				sqlite3_bind_null(stmt, i);
		}
	}
}

static int step_all(struct store *s, sqlite3_stmt *stmt, row_fn *fn, void *ctx,
                    struct error *err)
{
	struct row row = { stmt };
	int rc = 0, got;

	while ((got = sqlite3_step(stmt)) == SQLITE_ROW && rc == 0)
		if (fn)
			rc = fn(ctx, &row);
	if (rc == 0 && got != SQLITE_DONE)
		rc = failed(s, err);
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return rc;
}

int store_vquery(struct store *s, row_fn *fn, void *ctx, struct error *err,
                 const char *sql, const char *kinds, va_list ap)
{
	sqlite3_stmt *stmt = prepare(s, sql, err);

	if (!stmt)
		return -EIO;
	bind(stmt, kinds, ap);
	return step_all(s, stmt, fn, ctx, err);
}

int store_run(struct store *s, struct error *err, const char *sql,
              const char *kinds, ...)
{
	va_list ap;
	int rc;

	va_start(ap, kinds);
	rc = store_vquery(s, NULL, NULL, err, sql, kinds, ap);
	va_end(ap);
	return rc;
}

int store_query(struct store *s, row_fn *fn, void *ctx, struct error *err,
                const char *sql, const char *kinds, ...)
{
	va_list ap;
	int rc;

	va_start(ap, kinds);
	rc = store_vquery(s, fn, ctx, err, sql, kinds, ap);
	va_end(ap);
	return rc;
}

const char *row_text(struct row *row, int column)
{
	return (const char *)sqlite3_column_text(row->stmt, column);
}

s64 row_int(struct row *row, int column)
{
	return sqlite3_column_int64(row->stmt, column);
}

json_t *row_json(struct row *row, int column)
{
	const char *text = row_text(row, column);

	return text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
}

s64 store_last_id(struct store *s)
{
	return sqlite3_last_insert_rowid(s->db);
}

s64 store_changes(struct store *s)
{
	return sqlite3_changes64(s->db);
}

static int take_number(void *ctx, struct row *row)
{
	*(s64 *)ctx = row_int(row, 0);
	return 0;
}

s64 store_number(struct store *s, s64 fallback, const char *sql,
                 const char *kinds, ...)
{
	s64 number = fallback;
	va_list ap;

	va_start(ap, kinds);
	store_vquery(s, take_number, &number, NULL, sql, kinds, ap);
	va_end(ap);
	return number;
}
