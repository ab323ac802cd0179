/* SPDX-License-Identifier: Apache-2.0 */
/*
 * auth - who calls, and what that one may do.
 *
 * On the Unix socket the kernel says who it is: the daemon's own user and
 * root are administrators; nobody else is let in without a token. Elsewhere a
 * token is the only way. Tokens are kept as hashes: 256 random bits need no
 * slow one.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/loop.h"
#include "daemon/api.h"
#include "daemon/store.h"

static const struct {
	const char *name;
	unsigned rights;
} roles[] = {
	{ "administrator", RIGHT_READ | RIGHT_OPERATE | RIGHT_DEFINE |
	                       RIGHT_HOST | RIGHT_TOKENS | RIGHT_AUDIT },
	{ "operator", RIGHT_READ | RIGHT_OPERATE | RIGHT_DEFINE },
	{ "user", RIGHT_READ | RIGHT_OPERATE },
	{ "auditor", RIGHT_READ | RIGHT_AUDIT },
	{ "viewer", RIGHT_READ },
};

unsigned auth_rights(const char *role)
{
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
		if (strcmp(roles[i].name, role) == 0)
			return roles[i].rights;
	return 0;
}

int auth_hash(const char *secret, char *hex, size_t size)
{
	u8 sum[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	if (size < 65 ||
	    !EVP_Digest(secret, strlen(secret), sum, &n, EVP_sha256(), NULL))
		return -EIO;
	for (unsigned i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", sum[i]);
	return 0;
}

/* ---- lockout ---- */

/* A few wrong tokens from an address, and it waits: kept with the daemon, by
 * a small table in which the oldest makes room. */
enum { WRONG_MAX = 10, LOCKED_S = 60 };

static struct wrong *find_wrong(struct daemon *d, const char *address)
{
	for (size_t i = 0; i < ARRAY_SIZE(d->wrong); i++)
		if (strcmp(d->wrong[i].address, address) == 0)
			return &d->wrong[i];
	return NULL;
}

bool auth_locked_out(struct daemon *d, struct http_request *r)
{
	struct wrong *w = r->local ? NULL : find_wrong(d, r->address);
	u64 now = loop_now_ns();

	if (!w || w->count < WRONG_MAX)
		return false;
	if (now - w->last_ns < LOCKED_S * NSEC_PER_SEC)
		return true;
	w->count = 0;
	return false;
}

static void count_wrong(struct daemon *d, struct http_request *r)
{
	struct wrong *w;

	if (r->local)
		return;
	w = find_wrong(d, r->address);
	if (!w) {
		w = &d->wrong[0];
		for (size_t i = 1; i < ARRAY_SIZE(d->wrong); i++)
			if (d->wrong[i].last_ns < w->last_ns)
				w = &d->wrong[i];
		snprintf(w->address, sizeof(w->address), "%s", r->address);
		w->count = 0;
	}
	w->count++;
	w->last_ns = loop_now_ns();
}

/* ---- who ---- */

struct found {
	struct caller *caller;
	s64 id, expires;
	char role[32];
};

static int take_token(void *ctx, struct row *row)
{
	struct found *f = ctx;

	f->id = row_int(row, 0);
	snprintf(f->caller->name, sizeof(f->caller->name), "token %s",
	         row_text(row, 1));
	snprintf(f->role, sizeof(f->role), "%s", row_text(row, 2));
	f->expires = row_int(row, 3);
	return 0;
}

static int by_token(struct daemon *d, struct http_request *r,
                    const char *secret, struct caller *caller,
                    struct error *err)
{
	struct found f = { .caller = caller };
	char hex[65];

	if (auth_hash(secret, hex, sizeof(hex)) < 0)
		return error_set(err, -EIO, "no SHA-256");
	store_query(d->store, take_token, &f, NULL,
	            "SELECT id, name, role, expires FROM tokens WHERE hash = ?",
	            "t", hex);
	if (!f.id) {
		count_wrong(d, r);
		return error_set(err, -EACCES, "the token is not known");
	}
	if (f.expires && f.expires <= (s64)time(NULL))
		return error_set(err, -EACCES, "the token has expired");
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
		if (strcmp(roles[i].name, f.role) == 0) {
			caller->role = roles[i].name;
			caller->rights = roles[i].rights;
		}
	return 0;
}

int auth_caller(struct daemon *d, struct http_request *r, struct caller *caller,
                struct error *err)
{
	const char *given = r->headers[HTTP_AUTHORIZATION];

	if (given[0]) {
		if (strncmp(given, "Bearer ", 7) == 0)
			return by_token(d, r, given + 7, caller, err);
		return error_set(err, -EACCES,
		                 "only Bearer tokens are understood");
	}
	if (r->local && (r->uid == 0 || r->uid == geteuid())) {
		snprintf(caller->name, sizeof(caller->name), "uid %u",
		         (unsigned)r->uid);
		caller->role = roles[0].name;
		caller->rights = roles[0].rights;
		return 0;
	}
	error_set(err, -EACCES, "who are you? A token is needed here");
	error_hint(err, "an administrator makes one: atoll token create NAME");
	return -EACCES;
}
