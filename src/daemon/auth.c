/* SPDX-License-Identifier: Apache-2.0 */
/*
 * auth - who calls, and what that one may do.
 *
 * On the Unix socket the kernel says who it is: the daemon's own user and
 * root are administrators, others may be users that were made. Over TLS a
 * certificate may say it. Everybody else needs a token. Tokens are kept as
 * hashes: 256 random bits need no slow one.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "daemon/api.h"
#include "daemon/store.h"

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

/* A few callers in a row whom nobody knows, from one address, and it waits:
 * kept with the daemon, in a small table in which the oldest makes room. Who
 * has proved who he is by a certificate, or is the daemon's own user, does not
 * wait for others. */
enum { WRONG_MAX = 10, LOCKED_S = 60 };

static struct wrong *find_wrong(struct daemon *d, const char *from)
{
	for (size_t i = 0; i < ARRAY_SIZE(d->wrong); i++)
		if (strcmp(d->wrong[i].from, from) == 0)
			return &d->wrong[i];
	return NULL;
}

/* The address, or the user of this host. */
static void whence(const struct http_request *r, char *text, size_t size)
{
	if (r->local)
		snprintf(text, size, "uid %u", (unsigned)r->uid);
	else
		snprintf(text, size, "%s", r->address);
}

static bool is_own(const struct http_request *r)
{
	return r->local && (r->uid == 0 || r->uid == geteuid());
}

static bool locked_out(struct daemon *d, const char *from)
{
	struct wrong *w = find_wrong(d, from);

	if (!w || w->count < WRONG_MAX)
		return false;
	if (loop_now_ns() - w->last_ns < LOCKED_S * NSEC_PER_SEC)
		return true;
	w->count = 0;
	return false;
}

static void count_wrong(struct daemon *d, const char *from)
{
	struct wrong *w = find_wrong(d, from);
	struct error err = { 0 };

	if (!w) {
		w = &d->wrong[0];
		for (size_t i = 1; i < ARRAY_SIZE(d->wrong); i++)
			if (d->wrong[i].last_ns < w->last_ns)
				w = &d->wrong[i];
		snprintf(w->from, sizeof(w->from), "%s", from);
		w->count = 0;
	}
	if (loop_now_ns() - w->last_ns > LOCKED_S * NSEC_PER_SEC)
		w->count = 0;
	w->last_ns = loop_now_ns();
	/* What is refused from now on is not written down: it is no news, and
	 * there may be much of it. */
	if (++w->count == WRONG_MAX &&
	    audit_write(d,
	                &(struct record){ .caller = "nobody",
	                                  .action = "lockout",
	                                  .target = from,
	                                  .outcome = "429" },
	                &err) < 0)
		log_error("daemon", "audit: %s", err.text);
}

/* ---- who ---- */

struct found {
	struct daemon *d;
	struct caller *caller;
	bool any;
};

static int take_token(void *ctx, struct row *row)
{
	struct found *f = ctx;
	struct caller *c = f->caller;
	const char *role = row_text(row, 2), *project = row_text(row, 4);
	const char *user = row_text(row, 5);

	f->any = true;
	c->token = row_int(row, 0);
	c->expires = row_int(row, 3);
	if (user) {
		snprintf(c->name, sizeof(c->name), "user %.63s, token %.63s",
		         user, row_text(row, 1));
		f->any = user_grants(f->d, user, c);
		return 0;
	}
	snprintf(c->name, sizeof(c->name), "token %s", row_text(row, 1));
	snprintf(c->role, sizeof(c->role), "%s", role);
	caller_grant(c, project ? project : "", role_rights(f->d, role));
	return 0;
}

bool auth_expired(const struct caller *c)
{
	return c->expires && c->expires <= (s64)time(NULL);
}

#define TOKEN "SELECT id, name, role, expires, project, user FROM tokens WHERE "

static int by_token(struct daemon *d, const char *secret, struct caller *caller,
                    struct error *err)
{
	struct found f = { d, caller, false };
	char hex[65];

	if (auth_hash(secret, hex, sizeof(hex)) < 0)
		return error_set(err, -EIO, "no SHA-256");
	store_query(d->store, take_token, &f, NULL, TOKEN "hash = ?", "t", hex);
	if (!f.any)
		return error_set(err, -EACCES, "the token is not known");
	if (auth_expired(caller))
		return error_set(err, -EACCES, "the token has expired");
	return 0;
}

/* Who came without a token. */
static int by_itself(struct daemon *d, struct http_request *r,
                     struct caller *caller, struct error *err)
{
	if (is_own(r)) {
		snprintf(caller->name, sizeof(caller->name), "uid %u",
		         (unsigned)r->uid);
		snprintf(caller->role, sizeof(caller->role), "administrator");
		caller_grant(caller, "", rights_of_role(caller->role));
		return 0;
	}
	if (r->local ? user_by_uid(d, r->uid, caller)
	             : r->certificate[0] &&
	                   user_by_certificate(d, r->certificate, caller))
		return 0;
	if (r->certificate[0]) {
		error_set(err, -EACCES, "nobody has the certificate of %.64s",
		          r->certificate);
		error_hint(err, "an administrator says whose it is: atoll user "
		                "create NAME --certificate COMMON-NAME");
		return -EACCES;
	}
	error_set(err, -EACCES, "who are you? A token is needed here");
	error_hint(err, "an administrator makes one: atoll token create NAME");
	return -EACCES;
}

static int find_caller(struct daemon *d, struct http_request *r,
                       struct caller *caller, struct error *err)
{
	const char *given = r->headers[HTTP_AUTHORIZATION];

	if (!given[0])
		return by_itself(d, r, caller, err);
	if (strncmp(given, "Bearer ", 7) == 0)
		return by_token(d, given + 7, caller, err);
	return error_set(err, -EACCES, "only Bearer tokens are understood");
}

int auth_caller(struct daemon *d, struct http_request *r, struct caller *caller,
                struct error *err)
{
	bool guesses = r->headers[HTTP_AUTHORIZATION][0] && !is_own(r), out;
	struct caller found = { 0 };
	char from[64];
	int rc = -EAGAIN;

	whence(r, from, sizeof(from));
	out = locked_out(d, from);
	/* One who waits does not learn whether he guessed right. */
	if (!guesses || !out)
		rc = find_caller(d, r, &found, err);
	if (rc == 0)
		*caller = found;
	else if (out)
		rc = error_set(err, -EAGAIN,
		               "too many unknown callers from there");
	else if (!is_own(r))
		count_wrong(d, from);
	return rc;
}

bool auth_again(struct daemon *d, struct caller *caller)
{
	struct caller now = { 0 };
	struct found f = { d, &now, false };

	if (caller->token)
		store_query(d->store, take_token, &f, NULL, TOKEN "id = ?", "i",
		            caller->token);
	else if (caller->user[0])
		f.any = user_grants(d, caller->user, &now);
	else
		return true; /* the daemon's own user */
	snprintf(now.name, sizeof(now.name), "%s", caller->name);
	*caller = now;
	return f.any && !auth_expired(caller);
}
