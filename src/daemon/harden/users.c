/* SPDX-License-Identifier: Apache-2.0 */
/*
 * users - who may come in, and with what.
 */
#include <string.h>

#include "daemon/api.h"
#include "daemon/harden/harden.h"
#include "daemon/store.h"

enum { CHIEFS_MAX = 3 };

static int take_name(void *ctx, struct row *row)
{
	harden_name(ctx, row_text(row, 0));
	return 0;
}

static void verdict_of(struct harden *h, struct daemon *d,
                       const struct harden_check *check, const char *sql,
                       const char *good)
{
	struct harden_names bad = { "" };

	store_query(d->store, take_name, &bad, NULL, sql, "");
	harden_verdict(h, check, &bad, good);
}

static void check_chiefs(struct harden *h, struct daemon *d)
{
	static const struct harden_check check = {
		"host-administrators", HARDEN_PLATFORM,
		"Few users administer the whole host",
		"grant the role in projects: atoll user grant --project"
	};
	struct harden_names chiefs = { "" };

	store_query(d->store, take_name, &chiefs, NULL,
	            "SELECT DISTINCT user FROM grants"
	            " WHERE role = 'administrator' AND project = ''"
	            " ORDER BY user",
	            "");
	harden_add(h, &check,
	           chiefs.count > CHIEFS_MAX ? HARDEN_FAIL : HARDEN_PASS,
	           "%u:%s", chiefs.count, chiefs.count ? chiefs.text : " none");
}

void harden_users(struct harden *h, struct daemon *d)
{
	static const struct harden_check certificate = {
		"administrator-certificates", HARDEN_CIS,
		"Administrators come in by a certificate or as a user of this "
		"host",
		"atoll user set NAME --certificate"
	};
	static const struct harden_check idle = {
		"users-without-rights", HARDEN_CIS,
		"No user is left over who may do nothing",
		"atoll user delete, or atoll user grant"
	};
	static const struct harden_check gone = {
		"tokens-of-disabled-users", HARDEN_CIS,
		"No token is a disabled user's",
		"atoll token delete: it would work again with the user"
	};

	check_chiefs(h, d);
	verdict_of(h, d, &certificate,
	           "SELECT DISTINCT name FROM users JOIN grants"
	           " ON user = name WHERE role = 'administrator'"
	           " AND certificate IS NULL AND uid IS NULL AND NOT disabled"
	           " ORDER BY name",
	           "each that there is has one");
	verdict_of(h, d, &idle,
	           "SELECT name FROM users WHERE name NOT IN"
	           " (SELECT user FROM grants) ORDER BY name",
	           "each that there is may do something");
	verdict_of(h, d, &gone,
	           "SELECT tokens.name FROM tokens JOIN users"
	           " ON tokens.user = users.name WHERE disabled"
	           " ORDER BY tokens.name",
	           "there is none");
}
