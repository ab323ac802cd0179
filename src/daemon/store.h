/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - the registry's file: SQLite in write-ahead mode.
 *
 * Statements are written where they are used; arguments follow a string of
 * their kinds: 't' const char * (NULL is NULL), 'i' s64, 'j' json_t *. What
 * changes together is between store_begin() and store_commit(), which is
 * durable once it has returned.
 */
#pragma once

#include <jansson.h>
#include <stdarg.h>

#include "base/types.h"

struct error;
struct store;
struct row;

/* Makes the file and its tables. -EBADMSG: not a registry, or a newer one. */
int store_open(struct store **out, const char *path,
               struct error *err) MUST_CHECK;
/* Another file, of tables that may be lost: changes are not flushed one by
 * one. tables is as for store_tables(). */
int store_open_tables(struct store **out, const char *path, const char *tables,
                      struct error *err) MUST_CHECK;
/* Tables of a part of the daemon: CREATE TABLE IF NOT EXISTS, so that they are
 * added to a registry from before. */
int store_tables(struct store *store, const char *tables,
                 struct error *err) MUST_CHECK;
void store_close(struct store *store); /* NULL is legal */

int store_begin(struct store *store, struct error *err) MUST_CHECK;
int store_commit(struct store *store, struct error *err) MUST_CHECK;
void store_rollback(struct store *store);

/* 0; -EEXIST where a value must be unique; -ENOSPC; -EIO. */
int store_run(struct store *store, struct error *err, const char *sql,
              const char *kinds, ...);

/* Calls fn for each row; what it returns, if not 0, ends the query. */
typedef int row_fn(void *ctx, struct row *row);
int store_query(struct store *store, row_fn *fn, void *ctx, struct error *err,
                const char *sql, const char *kinds, ...);
int store_vquery(struct store *store, row_fn *fn, void *ctx, struct error *err,
                 const char *sql, const char *kinds, va_list ap);

/* Valid while fn runs. */
const char *row_text(struct row *row, int column); /* NULL for NULL */
s64 row_int(struct row *row, int column);
json_t *row_json(struct row *row, int column); /* new; NULL for NULL */

s64 store_last_id(struct store *store);
s64 store_changes(struct store *store);
/* One number, or fallback when there is no row. */
s64 store_number(struct store *store, s64 fallback, const char *sql,
                 const char *kinds, ...);
