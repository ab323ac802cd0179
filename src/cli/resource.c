/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/resource.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/body.h"
#include "cli/say.h"

/* The first option is that of what is in projects. */
static const struct option_spec list_options[] = {
	REMOTE_PROJECT_OPTION, REMOTE_LIST_OPTIONS, REMOTE_OPTIONS, { 0 }
};

static int list(const struct option_spec *specs, const char *usage,
                const char *summary, const char *path, const char *key,
                const struct column *columns, int argc, char **argv)
{
	struct remote r = { 0 };
	int code = remote_open(&r, usage, summary, specs, argc, argv);

	if (code < 0 && r.name_count)
		code = say_usage("%s takes no argument", usage);
	if (code < 0)
		code = remote_list(&r, path, key, columns);
	remote_close(&r);
	return code;
}

int resource_list(const char *usage, const char *summary, const char *path,
                  const char *key, const struct column *columns, int argc,
                  char **argv)
{
	return list(list_options + 1, usage, summary, path, key, columns, argc,
	            argv);
}

int resource_list_of_projects(const char *usage, const char *summary,
                              const char *path, const char *key,
                              const struct column *columns, int argc,
                              char **argv)
{
	return list(list_options, usage, summary, path, key, columns, argc,
	            argv);
}

char *resource_path(const char *path, const char *name)
{
	char *part = client_escape(name);
	char *whole = xasprintf("%s/%s", path, part);

	free(part);
	return whole;
}

int resource_show(const char *usage, const char *summary, const char *path,
                  const struct column *columns, int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	int code = remote_open(&r, usage, summary, specs, argc, argv);
	char *where;

	if (code < 0 && r.name_count != 1)
		code = say_usage("%s takes one name", usage);
	if (code < 0) {
		where = resource_path(path, r.names[0]);
		code = remote_show(&r, where, columns);
		free(where);
	}
	remote_close(&r);
	return code;
}

/* Borrowed; NULL: printed. */
static json_t *find_named(json_t *list, const char *what, const char *name)
{
	json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		if (strcmp(remote_text(one, "name"), name) == 0)
			return one;
	}
	fprintf(stderr, "error: there is no %.*s %s\n", (int)strlen(what) - 1,
	        what, name);
	return NULL;
}

int resource_find(const char *usage, const char *summary, const char *path,
                  const char *key, const struct column *columns, int argc,
                  char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	int code = remote_open(&r, usage, summary, specs, argc, argv);
	json_t *whole, *one, *list;

	if (code < 0 && r.name_count != 1)
		code = say_usage("%s takes one name", usage);
	if (code < 0) {
		whole = remote_get(&r, path, &code);
		one = whole ? find_named(json_object_get(whole, key), key,
		                         r.names[0])
		            : NULL;
		if (whole && !one)
			code = CODE_NOT_FOUND;
		if (one) {
			list = json_pack("[O]", one);
			code = remote_print(&r, one, list, columns);
			json_decref(list);
		}
		json_decref(whole);
	}
	remote_close(&r);
	return code;
}

int resource_write(const char *usage, const char *summary, const char *path,
                   bool create, const struct option_spec *specs,
                   const struct body_key *keys, int argc, char **argv)
{
	struct body b = { json_object(), keys };
	struct remote r = { .own = body_option, .own_ctx = &b };
	int code = remote_open(&r, usage, summary, specs, argc, argv);
	char *where;

	if (code < 0 && r.name_count != 1)
		code = say_usage("%s takes one name", usage);
	if (code < 0 && !create && json_object_size(b.json) == 0)
		code = say_usage("%s: what is to be changed?", usage);
	if (code < 0 && create) {
		json_object_set_new(b.json, "name", json_string(r.names[0]));
		code =
		    resource_call(&r, "POST", path, json_incref(b.json), NULL);
	} else if (code < 0) {
		where = resource_path(path, r.names[0]);
		code = resource_call(&r, "PATCH", where, json_incref(b.json),
		                     NULL);
		free(where);
	}
	json_decref(b.json);
	remote_close(&r);
	return code;
}

/* -1: go on; else the exit code. */
static int confirm(const struct remote *r, const char *what)
{
	int code =
	    r->name_count == 1
		? say_confirm(r->yes, "Delete the %s %s?", what, r->names[0])
		: say_confirm(r->yes, "Delete %zu %ss?", r->name_count, what);

	return code == CODE_OK ? -1 : code;
}

int resource_delete(const char *usage, const char *summary, const char *path,
                    const char *what, int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_YES_OPTION,
		                                    REMOTE_OPTIONS,
		                                    { 0 } };
	struct remote r = { 0 };
	size_t failed = 0;
	int last = CODE_OK, code;
	char *one;

	code = remote_open(&r, usage, summary, specs, argc, argv);
	if (code < 0 && r.name_count == 0)
		code = say_usage("%s: which?", usage);
	if (code < 0)
		code = confirm(&r, what);
	for (size_t i = 0; code < 0 && i < r.name_count; i++) {
		one = resource_path(path, r.names[i]);
		last = resource_call(&r, "DELETE", one, NULL, NULL);
		failed += last != CODE_OK;
		free(one);
	}
	if (code < 0)
		code =
		    failed ? remote_sum(r.name_count, failed, last) : CODE_OK;
	remote_close(&r);
	return code;
}

int resource_call(struct remote *r, const char *method, const char *path,
                  json_t *body, const char *key)
{
	struct error err = { 0 };
	json_t *reply = NULL;
	int code = CODE_OK;

	if (client_call(r->client, method, path, body, &reply, &err) < 0)
		code = remote_failed(r, &err);
	else if (reply && r->format != FORMAT_TABLE)
		remote_print_value(r, reply);
	else if (reply && key)
		puts(remote_text(reply, key));
	json_decref(reply);
	json_decref(body);
	return code;
}
