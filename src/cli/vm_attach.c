/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll vm attach, vm detach - disks and cards put into a definition and taken
 * out of it again, where vm set says all of them anew.
 *
 * The definition is read, changed and written only if it is still the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

enum { OPT_DISK = OPT_OWN, OPT_NET };

static const char *const lists[] = { "disks", "nics" };

/* ---- one machine's definition, changed ---- */

struct change {
	struct remote *r;
	json_t *vm;   /* as the daemon has it */
	json_t *body; /* the lists of its definition that are to change */
};

static int begin(struct change *c, struct remote *r)
{
	char *path = resource_path("/v1/vms", r->names[0]);
	int code = CODE_OK;

	*c = (struct change){ .r = r, .body = json_object() };
	c->vm = remote_get(r, path, &code);
	free(path);
	return code;
}

/* A list of the definition, to be changed. */
static json_t *list_of(struct change *c, const char *key)
{
	json_t *list = json_object_get(c->body, key);

	if (!list) {
		list = json_copy(
		    json_object_get(json_object_get(c->vm, "spec"), key));
		list = list ? list : json_array();
		json_object_set_new(c->body, key, list);
	}
	return list;
}

static int finish(struct change *c)
{
	char *path = resource_path("/v1/vms", c->r->names[0]), revision[32];
	struct error err = { 0 };
	json_t *vm = NULL;
	int code = CODE_OK;

	snprintf(revision, sizeof(revision), "%" PRId64,
	         remote_number(c->vm, "revision"));
	if (!c->r->if_rev)
		client_if_match(c->r->client, revision);
	if (client_call(c->r->client, "PATCH", path, c->body, &vm, &err) < 0)
		code = remote_failed(c->r, &err);
	if (vm && remote_wants_data(c->r))
		remote_print_value(c->r, vm);
	if (vm && json_is_true(json_object_get(vm, "restart_needed")) &&
	    !c->r->quiet)
		fputs("it takes effect when the machine is started again\n",
		      stderr);
	json_decref(vm);
	free(path);
	return code;
}

static void end(struct change *c)
{
	json_decref(c->vm);
	json_decref(c->body);
}

/* ---- attach ---- */

static int add_option(void *ctx, int id, const char *value, struct error *err)
{
	json_t *more = ctx;

	return id == OPT_DISK ? definition_add_disk(more, value, err)
	                      : definition_add_net(more, value, err);
}

static int attach(struct remote *r, json_t *more)
{
	struct change c;
	int code = begin(&c, r);

	for (size_t i = 0; code == CODE_OK && i < ARRAY_SIZE(lists); i++) {
		json_t *new = json_object_get(more, lists[i]);

		if (new)
			json_array_extend(list_of(&c, lists[i]), new);
	}
	if (code == CODE_OK)
		code = finish(&c);
	end(&c);
	return code;
}

int vm_attach(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "disk", "FILE[,OPTION]...",
		  "format=raw|qcow2, readonly, serial=TEXT", OPT_DISK },
		{ "net", "user|tap:T|NAME", "a network card", OPT_NET },
		{ "if-rev", "N", "only if the definition has that revision",
		  OPT_IF_REV },
		REMOTE_OPTIONS,
		{ 0 },
	};
	json_t *more = json_object();
	struct remote r = { .own = add_option, .own_ctx = more };
	int code = remote_open(&r, "atoll vm attach NAME [OPTION]...",
	                       "Give a machine further disks and network "
	                       "cards, behind those that it has.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll vm attach takes one machine");
	if (code < 0 && json_object_size(more) == 0)
		code = say_usage("what is to be attached? --disk or --net");
	if (code < 0)
		code = attach(&r, more);
	json_decref(more);
	remote_close(&r);
	return code;
}

/* ---- detach ---- */

/* "vdb", its file, or the end of that: its place in the list, or the list's
 * size. */
static size_t find_disk(json_t *spec, const char *what)
{
	json_t *list = json_object_get(spec, "disks"), *one;
	/* The first is its own, with an image. */
	int own = json_object_get(spec, "image") ? 1 : 0;
	size_t i, n = strlen(what);

	json_array_foreach(list, i, one)
	{
		const char *path = remote_text(one, "path");
		size_t size = strlen(path);

		if (parse_disk(what) == (int)i + own ||
		    strcmp(path, what) == 0 ||
		    (size > n && path[size - n - 1] == '/' &&
		     strcmp(path + size - n, what) == 0))
			return i;
	}
	return json_array_size(list);
}

/* By its address, its network, or as --net has it. */
static size_t find_card(json_t *spec, const char *what)
{
	json_t *list = json_object_get(spec, "nics"), *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		if (strcmp(remote_text(one, "mac"), what) == 0 ||
		    strcmp(remote_text(one, "network"), what) == 0 ||
		    (strcmp(what, "user") == 0 &&
		     strcmp(remote_text(one, "type"), what) == 0) ||
		    (strncmp(what, "tap:", 4) == 0 &&
		     strcmp(remote_text(one, "tap"), what + 4) == 0))
			return i;
	}
	return json_array_size(list);
}

static int mark(struct change *c, const char *what)
{
	json_t *spec = json_object_get(c->vm, "spec");
	size_t disk = find_disk(spec, what), card = find_card(spec, what);
	const char *key = disk < json_array_size(json_object_get(spec, "disks"))
	                      ? "disks"
	                      : "nics";
	size_t at = strcmp(key, "disks") ? card : disk;

	if (what[0] && at < json_array_size(json_object_get(spec, key))) {
		/* Its place is kept: others are found by theirs. */
		json_array_set_new(list_of(c, key), at, json_null());
		return CODE_OK;
	}
	fprintf(stderr,
	        "error: %s has no disk and no card %s that could be detached\n"
	        "hint: atoll vm show %s -o json has them: say a disk as vdb or "
	        "by its file, a card by its mac or network\n",
	        c->r->names[0], what, c->r->names[0]);
	return CODE_NOT_FOUND;
}

static void drop_marked(json_t *list)
{
	for (size_t i = json_array_size(list); i > 0; i--)
		if (json_is_null(json_array_get(list, i - 1)))
			json_array_remove(list, i - 1);
}

static int detach(struct remote *r)
{
	struct change c;
	int code = begin(&c, r);

	for (size_t i = 1; code == CODE_OK && i < r->name_count; i++)
		code = mark(&c, r->names[i]);
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		drop_marked(json_object_get(c.body, lists[i]));
	if (code == CODE_OK)
		code = finish(&c);
	end(&c);
	return code;
}

int vm_detach(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "if-rev", "N", "only if the definition has that revision",
		  OPT_IF_REV },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct remote r = { 0 };
	int code = remote_open(&r, "atoll vm detach NAME DEVICE... [OPTION]...",
	                       "Take disks (vdb, or the file) and network "
	                       "cards (mac, or network) from a machine; files "
	                       "stay.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count < 2)
		code = say_usage(
		    "atoll vm detach takes a machine and its devices");
	if (code < 0)
		code = detach(&r);
	remote_close(&r);
	return code;
}
