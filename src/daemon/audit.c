/* SPDX-License-Identifier: Apache-2.0 */
/*
 * audit - every change and every denial, each record carrying a hash over
 * itself and the one before: a record altered, removed or put in between
 * breaks the chain from there on. (Who can write the registry can also make a
 * whole new chain: keep the last hash elsewhere to notice that.)
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/store.h"

enum { HASH_HEX = 65 };

static void add(EVP_MD_CTX *ctx, const char *text)
{
	/* With its NUL, so that no two records look alike. */
	EVP_DigestUpdate(ctx, text ? text : "", text ? strlen(text) + 1 : 1);
}

/* A record of the host, and one of before there were projects, has one text
 * less: none looks like another's all the same. */
static void hash(const char *before, s64 id, const char *at,
                 const struct record *r, char *hex)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	u8 sum[EVP_MAX_MD_SIZE];
	unsigned size = 0;
	char number[24];

	snprintf(number, sizeof(number), "%" PRId64, id);
	EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
	add(ctx, before);
	add(ctx, number);
	add(ctx, at);
	add(ctx, r->caller);
	add(ctx, r->action);
	add(ctx, r->target);
	add(ctx, r->outcome);
	if (r->project)
		add(ctx, r->project);
	EVP_DigestFinal_ex(ctx, sum, &size);
	EVP_MD_CTX_free(ctx);
	for (unsigned i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", sum[i]);
}

struct last {
	s64 id;
	char hash[HASH_HEX];
};

static int take_last(void *ctx, struct row *row)
{
	struct last *last = ctx;

	last->id = row_int(row, 0);
	snprintf(last->hash, HASH_HEX, "%s", row_text(row, 1));
	return 0;
}

int audit_write(struct daemon *d, const struct record *r, struct error *err)
{
	char at[TIME_SIZE], hex[HASH_HEX];
	struct last last = { 0 };
	int rc = store_query(d->store, take_last, &last, err,
	                     "SELECT id, hash FROM audit ORDER BY id DESC"
	                     " LIMIT 1",
	                     "");

	if (rc < 0)
		return rc;
	time_now(at);
	hash(last.hash, last.id + 1, at, r, hex);
	return store_run(d->store, err,
	                 "INSERT INTO audit(id, at, caller, action, target,"
	                 " outcome, hash, project)"
	                 " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
	                 "ittttttt", last.id + 1, at, r->caller, r->action,
	                 r->target, r->outcome, hex, r->project);
}

json_t *audit_row_json(struct row *row)
{
	return json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s?}", "id",
	                 (json_int_t)row_int(row, 0), "at", row_text(row, 1),
	                 "caller", row_text(row, 2), "action", row_text(row, 3),
	                 "target", row_text(row, 4), "outcome",
	                 row_text(row, 5), "hash", row_text(row, 6), "project",
	                 row_text(row, 7));
}

struct check {
	struct last last;
	s64 broken, records;
};

static int check_one(void *ctx, struct row *row)
{
	struct check *c = ctx;
	struct record r = { row_text(row, 2), row_text(row, 3),
		            row_text(row, 4), row_text(row, 5),
		            row_text(row, 7) };
	char hex[HASH_HEX];

	c->records++;
	hash(c->last.hash, c->last.id + 1, row_text(row, 1), &r, hex);
	if (row_int(row, 0) != c->last.id + 1 || !row_text(row, 6) ||
	    strcmp(hex, row_text(row, 6))) {
		c->broken = row_int(row, 0);
		return 1;
	}
	c->last.id++;
	memcpy(c->last.hash, hex, HASH_HEX);
	return 0;
}

s64 audit_verify(struct daemon *d, s64 *records, char *last_hash, size_t size)
{
	struct check c = { 0 };

	store_query(d->store, check_one, &c, NULL,
	            "SELECT id, at, caller, action, target, outcome, hash,"
	            " project FROM audit ORDER BY id",
	            "");
	*records = c.records;
	snprintf(last_hash, size, "%s", c.last.hash);
	return c.broken;
}
