/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll token, atoll audit - access for others, and what everybody did.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "cli/expiry.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

enum {
	OPT_ROLE = OPT_OWN,
	OPT_EXPIRES,
	OPT_LIMIT,
	OPT_AFTER,
	OPT_PROJECT,
	OPT_USER
};

struct wishes {
	const char *role, *expires, *limit, *after, *project, *user;
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct wishes *w = ctx;

	(void)err;
	if (id == OPT_ROLE)
		w->role = value;
	else if (id == OPT_EXPIRES)
		w->expires = value;
	else if (id == OPT_LIMIT)
		w->limit = value;
	else if (id == OPT_PROJECT)
		w->project = value;
	else if (id == OPT_USER)
		w->user = value;
	else
		w->after = value;
	return 0;
}

static const char *expires_of(json_t *e, char *room, size_t size)
{
	const char *text = remote_text(e, "expires");

	snprintf(room, size, "%.19s", text[0] ? text : "never");
	return room;
}

/* What it may: a role somewhere, or what a user may. */
static const char *may_of(json_t *e, char *room, size_t size)
{
	const char *user = remote_text(e, "user");
	const char *project = remote_text(e, "project");

	if (user[0])
		snprintf(room, size, "as %s", user);
	else
		snprintf(room, size, "%s%s%s", remote_text(e, "role"),
		         project[0] ? " in " : "", project);
	return room;
}

static const struct column token_columns[] = {
	{ "NAME", .path = "name" },
	{ "MAY", may_of },
	{ "CREATED", .path = "created", .kind = CELL_TIME },
	{ "EXPIRES", expires_of },
	{ NULL },
};

static int token_list(int argc, char **argv)
{
	return resource_list_of_projects(
	    "atoll token list [OPTION]...", "Tokens, and what they are for.",
	    "/v1/tokens", "tokens", token_columns, argc, argv);
}

static int token_show(int argc, char **argv)
{
	return resource_find("atoll token show NAME",
	                     "One token, but for "
	                     "itself: that was shown once.",
	                     "/v1/tokens", "tokens", token_columns, argc, argv);
}

static int create(struct remote *r, const struct wishes *w)
{
	const char *role = w->role || w->user ? w->role : "user";
	json_t *body =
	    json_pack("{s:s, s:s*, s:s*, s:s*}", "name", r->names[0], "role",
	              role, "project", w->project, "user", w->user);
	struct error err = { 0 };
	json_t *reply = NULL;
	char text[EXPIRY_TEXT];
	s64 at = 0;
	int code = CODE_OK;

	if (w->expires && expiry_parse(w->expires, &at, text, &err) < 0)
		code = say_error(&err);
	else if (at && at <= (s64)time(NULL))
		code = say_usage("--expires %s is over already", w->expires);
	else if (at)
		json_object_set_new(
		    body, "expires_s",
		    json_integer((json_int_t)(at - (s64)time(NULL))));
	if (code == CODE_OK && client_call(r->client, "POST", "/v1/tokens",
	                                   body, &reply, &err) < 0)
		code = remote_failed(r, &err);
	if (reply && r->format == FORMAT_TABLE)
		puts(remote_text(reply, "token"));
	else if (reply)
		remote_print_value(r, reply);
	json_decref(reply);
	json_decref(body);
	return code;
}

static int token_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "role", "ROLE", "as atoll role list shows them (user)",
		  OPT_ROLE },
		{ "project", "PROJECT", "in that one only", OPT_PROJECT },
		{ "user", "NAME", "instead: what that user may", OPT_USER },
		{ "expires", "TIME", "as 12h, 30d or 2026-12-31 (never)",
		  OPT_EXPIRES },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { 0 };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(&r, "atoll token create NAME [OPTION]...",
	                       "Make a token. It is shown this once.", specs,
	                       argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll token create takes one name");
	if (code < 0)
		code = create(&r, &w);
	remote_close(&r);
	return code;
}

static int token_delete(int argc, char **argv)
{
	return resource_delete("atoll token delete NAME...", "Take it back.",
	                       "/v1/tokens", "token", argc, argv);
}

int command_token(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "who has access", token_list },
		{ "show", "one of them", token_show },
		{ "inspect", "the same", token_show },
		{ "create", "give access", token_create },
		{ "delete", "take it back", token_delete },
		{ 0 },
	};

	return command_noun(verbs, "Access to the daemon for others.", argc,
	                    argv);
}

/* ---- audit ---- */

static const struct column audit_columns[] = {
	{ "RECORD", .path = "id", .kind = CELL_NUMBER },
	{ "TIME", .path = "at", .kind = CELL_TIME },
	{ "CALLER", .path = "caller" },
	{ "ACTION", .path = "action" },
	{ "TARGET", .path = "target" },
	{ "OUTCOME", .path = "outcome" },
	{ NULL },
};

static int audit_list(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "after", "RECORD", "those with a higher number", OPT_AFTER },
		{ "limit", "N", "the last N (100), or the first N after RECORD",
		  OPT_LIMIT },
		REMOTE_LIST_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { 0 };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(&r, "atoll audit list [OPTION]...",
	                       "Every change and every denial, oldest first.",
	                       specs, argc, argv);
	char *after, *limit, *path;

	if (code < 0) {
		after = client_escape(w.after ? w.after : "0");
		limit = client_escape(w.limit ? w.limit : "100");
		/* Who does not say from where asks what is new. */
		path = xasprintf("/v1/audit?after=%s&limit=%s&newest=%s", after,
		                 limit, w.after ? "false" : "true");
		code = remote_list(&r, path, "records", audit_columns);
		free(after);
		free(limit);
		free(path);
	}
	remote_close(&r);
	return code;
}

static int audit_verify(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	int code = remote_open(&r, "atoll audit verify",
	                       "Check that no record was altered or removed.",
	                       specs, argc, argv);
	json_t *found;

	if (code < 0) {
		found = remote_get(&r, "/v1/audit/verify", &code);
		if (found && r.format != FORMAT_TABLE)
			remote_print_value(&r, found);
		if (found && json_is_true(json_object_get(found, "valid"))) {
			if (r.format == FORMAT_TABLE)
				printf("%" PRId64 " records, none altered; the "
				       "last is %s\n",
				       remote_number(found, "records"),
				       remote_text(found, "last_hash"));
			code = CODE_OK;
		} else if (found) {
			fprintf(stderr,
			        "error: the audit log was altered at record "
			        "%" PRId64 "\n",
			        remote_number(found, "broken_at"));
			code = CODE_FAILED;
		}
		json_decref(found);
	}
	remote_close(&r);
	return code;
}

int command_audit(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "what was done, and by whom", audit_list },
		{ "verify", "was a record altered?", audit_verify },
		{ 0 },
	};

	return command_noun(verbs, "What was done, and by whom.", argc, argv);
}
