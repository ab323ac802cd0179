/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll stack - a set of networks and machines as one unit, from a file:
 *
 *	stack: shop
 *	networks:
 *	  - name: shop-net
 *	machines:
 *	  - name: web
 *	    image: debian:12
 *	    memory: 512M
 *	    nics: [{type: network, network: shop-net, publish: ["8080:80"]}]
 *
 * A network or a machine is a definition as api/openapi.yaml has it; memory is
 *a size, and paths that are not absolute begin at the file. What belongs to a
 *stack says its tag "stack". Networks are made before machines and deleted
 *after them. Applying a file twice does nothing the second time.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/units.h"
#include "cli/net.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "cli/stack_disks.h"
#include "cli/vm.h"
#include "cli/yaml_file.h"

enum { OPT_PRUNE = OPT_OWN, OPT_NO_RUN };

struct stack {
	struct remote remote;
	bool prune, no_run;
	json_t *file;
	json_t *there, *networks; /* what the stack has, by name */
	const char *name;
	char folder[PATH_MAX];
	size_t changes;
};

/* ---- the file ---- */

static int whole_path(struct stack *s, json_t *object, const char *key)
{
	const char *path = json_string_value(json_object_get(object, key));
	char *whole;

	if (!path || path[0] == '/')
		return 0;
	whole = xasprintf("%s/%s", s->folder, path);
	json_object_set_new(object, key, json_string(whole));
	free(whole);
	return 0;
}

static int set_memory(json_t *machine, struct error *err)
{
	json_t *memory = json_object_get(machine, "memory");
	u64 bytes;

	if (!memory)
		return 0;
	if (!json_is_string(memory))
		return error_set(err, -EINVAL,
		                 "memory is not a size, such as 512M");
	if (parse_size(json_string_value(memory), 1, &bytes, err) < 0)
		return error_prefix(err, "memory");
	json_object_del(machine, "memory");
	json_object_set_new(machine, "memory_bytes",
	                    json_integer((json_int_t)bytes));
	return 0;
}

static void set_tag(struct stack *s, json_t *object)
{
	json_t *tags = json_object_get(object, "tags");

	if (!json_is_object(tags)) {
		tags = json_object();
		json_object_set_new(object, "tags", tags);
	}
	json_object_set_new(tags, "stack", json_string(s->name));
}

static int read_machine(struct stack *s, json_t *machine, struct error *err)
{
	json_t *disk;
	size_t i;

	if (!json_is_string(json_object_get(machine, "name")))
		return error_set(err, -EINVAL, "a machine without a name");
	if (set_memory(machine, err) < 0)
		return error_prefix(err, "%s", remote_text(machine, "name"));
	whole_path(s, json_object_get(machine, "boot"), "kernel");
	whole_path(s, json_object_get(machine, "boot"), "initrd");
	json_array_foreach(json_object_get(machine, "disks"), i, disk)
	    whole_path(s, disk, "path");
	set_tag(s, machine);
	return 0;
}

static int read_networks(struct stack *s, struct error *err)
{
	json_t *list = json_object_get(s->file, "networks"), *one;
	size_t i;

	if (list && !json_is_array(list))
		return error_set(err, -EINVAL, "networks is not a list");
	json_array_foreach(list, i, one)
	{
		if (!json_is_string(json_object_get(one, "name")))
			return error_set(err, -EINVAL,
			                 "a network without a name");
		set_tag(s, one);
	}
	return 0;
}

static int read_file(struct stack *s, const char *path, struct error *err)
{
	json_t *machines, *one;
	const char *key;
	size_t i;

	s->file = yaml_file_read(path, err);
	if (!s->file)
		return err->code;
	if (!realpath(path, s->folder))
		return error_set(err, -errno, "%s: %s", path, strerror(errno));
	dirname(s->folder);
	s->name = remote_text(s->file, "stack");
	machines = json_object_get(s->file, "machines");
	if (!s->name[0] || !json_is_array(machines))
		return error_set(err, -EINVAL,
		                 "%s: stack, its name, and machines, a list, "
		                 "are needed",
		                 path);
	json_object_foreach(s->file, key, one)
	{
		if (strcmp(key, "stack") && strcmp(key, "networks") &&
		    strcmp(key, "disks") && strcmp(key, "machines"))
			return error_set(err, -EINVAL, "%s: %s is not known",
			                 path, key);
	}
	if (read_networks(s, err) < 0)
		return error_prefix(err, "%s", path);
	json_array_foreach(machines, i, one)
	{
		if (read_machine(s, one, err) < 0)
			return error_prefix(err, "%s", path);
	}
	json_array_foreach(json_object_get(s->file, "disks"), i, one)
	    whole_path(s, one, "path");
	if (stack_disks_read(s->file, &s->remote, err) < 0)
		return error_prefix(err, "%s", path);
	return 0;
}

/* ---- what is there ---- */

/* Those of the list that bear the stack's tag, by name. */
static int take_tagged(struct stack *s, const char *path, const char *key,
                       json_t **out)
{
	int code = CODE_OK;
	json_t *whole = remote_get(&s->remote, path, &code), *one;
	size_t i;

	*out = json_object();
	json_array_foreach(json_object_get(whole, key), i, one)
	{
		if (strcmp(remote_text(one, "spec.tags.stack"), s->name) == 0)
			json_object_set(*out, remote_text(one, "name"), one);
	}
	json_decref(whole);
	return code;
}

/* The tag is a glob to the daemon: it finds those, and maybe more. */
static int read_there(struct stack *s)
{
	char *tag = xasprintf("stack=%s", s->name), *part = client_escape(tag);
	char *path = xasprintf("/v1/vms?tag=%s", part);
	int code = take_tagged(s, path, "vms", &s->there);

	free(path);
	free(part);
	free(tag);
	return code;
}

static int read_networks_there(struct stack *s)
{
	return take_tagged(s, "/v1/networks", "networks", &s->networks);
}

/* All that is wanted is there; what was not said does not matter. */
static bool covers(json_t *there, json_t *wanted)
{
	const char *key;
	json_t *value;
	size_t i;

	if (json_is_object(wanted)) {
		json_object_foreach(wanted, key, value)
		{
			if (!covers(json_object_get(there, key), value))
				return false;
		}
		return true;
	}
	if (json_is_array(wanted)) {
		if (json_array_size(there) != json_array_size(wanted))
			return false;
		json_array_foreach(wanted, i, value)
		{
			if (!covers(json_array_get(there, i), value))
				return false;
		}
		return true;
	}
	return json_is_null(wanted) ? !there : json_equal(there, wanted);
}

/* The keys that are to change; NULL: none. */
static json_t *difference(json_t *vm, json_t *wanted)
{
	json_t *patch = json_object(), *value;
	const char *key;

	json_object_foreach(wanted, key, value)
	{
		if (!covers(json_object_get(json_object_get(vm, "spec"), key),
		            value))
			json_object_set(patch, key, value);
	}
	if (json_object_size(patch))
		return patch;
	json_decref(patch);
	return NULL;
}

/* ---- apply ---- */

static int say_done(struct stack *s, const char *what, const char *name)
{
	s->changes++;
	if (!s->remote.quiet && !s->remote.dry_run)
		printf("%s %s\n", what, name);
	return CODE_OK;
}

static int ask(struct stack *s, const char *method, const char *name,
               const char *tail, json_t *body, bool follow)
{
	char *part = client_escape(name);
	char *path = name[0] ? xasprintf("/v1/vms/%s%s", part, tail)
	                     : xstrdup("/v1/vms");
	struct error err = { 0 };
	json_t *reply = NULL;
	int code = CODE_OK;

	if (client_call(s->remote.client, method, path, body, &reply, &err) <
	    0) {
		/* Of many: which. */
		error_prefix(&err, "%s",
		             name[0] ? name : remote_text(body, "name"));
		code = remote_failed(&s->remote, &err);
	} else if (follow)
		code = remote_follow(&s->remote, json_incref(reply), name);
	json_decref(reply);
	free(part);
	free(path);
	return code;
}

/* Its definition, with the disks of the stack that it is the first to have. */
static int define(struct stack *s, json_t *wanted, json_t *vm)
{
	const char *name = remote_text(wanted, "name");
	json_t *patch = vm ? difference(vm, wanted) : NULL, *made;
	int code;

	if (vm && !patch)
		return CODE_OK;
	made = json_array();
	code = stack_disks_make(s->file, wanted, s->there, made, &s->remote);
	if (code == CODE_OK)
		code = vm ? ask(s, "PATCH", name, "", patch, false)
		          : ask(s, "POST", "", "", wanted, false);
	if (code == CODE_OK)
		say_done(s, vm ? "changed" : "created", name);
	else
		stack_disks_unmake(made);
	json_decref(made);
	json_decref(patch);
	return code;
}

static int apply_one(struct stack *s, json_t *wanted)
{
	const char *name = remote_text(wanted, "name");
	json_t *vm = json_object_get(s->there, name);
	int code = define(s, wanted, vm);

	if (code != CODE_OK || s->no_run ||
	    (vm && strcmp(remote_text(vm, "state"), "stopped")))
		return code;
	code = ask(s, "POST", name, "/start", NULL, true);
	return code == CODE_OK ? say_done(s, "started", name) : code;
}

/* A network is what it was made: machines have addresses in it. */
static int apply_network(struct stack *s, json_t *wanted)
{
	const char *name = remote_text(wanted, "name");
	json_t *there = json_object_get(s->networks, name), *patch;
	struct error err = { 0 };
	int code;

	if (there) {
		patch = difference(there, wanted);
		if (!patch)
			return CODE_OK;
		json_decref(patch);
		fprintf(stderr,
		        "error: the network %s is there, but not as the file "
		        "says\n"
		        "hint: atoll stack diff shows how; a network is "
		        "changed by deleting it\n",
		        name);
		return CODE_CONFLICT;
	}
	if (client_call(s->remote.client, "POST", "/v1/networks", wanted, NULL,
	                &err) < 0)
		return remote_failed(&s->remote, &err);
	code = net_wait(&s->remote, name);
	return code == CODE_OK ? say_done(s, "created network", name) : code;
}

static int remove_network(struct stack *s, const char *name)
{
	char *part = client_escape(name);
	char *path = xasprintf("/v1/networks/%s", part);
	struct error err = { 0 };
	int code = CODE_OK;

	if (client_call(s->remote.client, "DELETE", path, NULL, NULL, &err) < 0)
		code = remote_failed(&s->remote, &err);
	free(part);
	free(path);
	return code == CODE_OK ? say_done(s, "deleted network", name) : code;
}

static json_t *find_in(struct stack *s, const char *list, const char *name)
{
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(s->file, list), i, one)
	{
		if (strcmp(remote_text(one, "name"), name) == 0)
			return one;
	}
	return NULL;
}

static int remove_one(struct stack *s, const char *name)
{
	json_t *vm = json_object_get(s->there, name);
	int code = ask(s, "DELETE", name, "?force=true", NULL, true);

	if (code != CODE_OK)
		return code;
	say_done(s, "deleted", name);
	s->changes += stack_disks_delete(s->file, remote_at(vm, "spec.disks"),
	                                 &s->remote);
	return code;
}

/* What the file has no more: machines, then networks. */
static int prune(struct stack *s, const char *list, json_t *there,
                 int (*remove)(struct stack *s, const char *name))
{
	int code = CODE_OK;
	const char *name;
	json_t *one;

	json_object_foreach(there, name, one)
	{
		if (find_in(s, list, name))
			continue;
		if (s->prune)
			code = remove(s, name);
		else
			fprintf(stderr,
			        "%s is not in the file any more; --prune "
			        "deletes it\n",
			        name);
		if (code != CODE_OK)
			return code;
	}
	return code;
}

static int apply(struct stack *s)
{
	int code = CODE_OK;
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(s->file, "networks"), i, one)
	{
		code = apply_network(s, one);
		if (code != CODE_OK)
			return code;
	}
	json_array_foreach(json_object_get(s->file, "machines"), i, one)
	{
		code = apply_one(s, one);
		if (code != CODE_OK)
			return code;
	}
	code = prune(s, "machines", s->there, remove_one);
	if (code == CODE_OK)
		code = prune(s, "networks", s->networks, remove_network);
	return code;
}

static void diff_list(struct stack *s, const char *list, json_t *there,
                      const char *kind)
{
	json_t *one, *patch, *old;
	const char *name, *key;
	size_t i;

	json_array_foreach(json_object_get(s->file, list), i, one)
	{
		name = remote_text(one, "name");
		old = json_object_get(there, name);
		patch = old ? difference(old, one) : NULL;
		if (!old || patch) {
			printf("%c %s%s", old ? '~' : '+', kind, name);
			json_object_foreach(patch, key, old) printf(" %s", key);
			putchar('\n');
			s->changes++;
		}
		json_decref(patch);
	}
	json_object_foreach(there, name, old)
	{
		if (!find_in(s, list, name)) {
			printf("- %s%s\n", kind, name);
			s->changes++;
		}
	}
}

static int diff(struct stack *s)
{
	const char *disk;

	diff_list(s, "networks", s->networks, "network ");
	for (size_t i = 0; (disk = stack_disks_missing(s->file, i)); i++) {
		printf("+ disk %s\n", disk);
		s->changes++;
	}
	diff_list(s, "machines", s->there, "");
	return s->changes ? CODE_FAILED : CODE_OK;
}

static int remove_all(struct stack *s)
{
	int code = CODE_OK;
	const char *name;
	json_t *one;

	code = say_confirm(
	    s->remote.yes,
	    "Delete machines (%zu), networks (%zu) and disks (%zu) of %s?",
	    json_object_size(s->there), json_object_size(s->networks),
	    stack_disks_count(s->file), s->name);
	if (code != CODE_OK)
		return code;
	json_object_foreach(s->there, name, one)
	{
		code = remove_one(s, name);
		if (code != CODE_OK)
			return code;
	}
	json_object_foreach(s->networks, name, one)
	{
		code = remove_network(s, name);
		if (code != CODE_OK)
			return code;
	}
	return code;
}

/* ---- the verbs ---- */

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct stack *s = ctx;

	(void)value;
	(void)err;
	*(id == OPT_PRUNE ? &s->prune : &s->no_run) = true;
	return 0;
}

static int with_stack(const char *usage, const char *summary,
                      const struct option_spec *specs,
                      int (*fn)(struct stack *s), int argc, char **argv)
{
	struct stack *s = xalloc(sizeof(*s));
	struct error err = { 0 };
	int code;

	s->remote.own = take_option;
	s->remote.own_ctx = s;
	code = remote_open(&s->remote, usage, summary, specs, argc, argv);
	if (code < 0 && s->remote.name_count != 1)
		code = say_usage("atoll stack takes one file");
	if (code < 0 && read_file(s, s->remote.names[0], &err) < 0)
		code = say_error(&err);
	if (code < 0)
		code = read_there(s);
	if (code == CODE_OK && s->there)
		code = read_networks_there(s);
	if (code == CODE_OK && s->networks)
		code = fn(s);
	json_decref(s->file);
	json_decref(s->there);
	json_decref(s->networks);
	remote_close(&s->remote);
	free(s);
	return code;
}

static int stack_apply(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "prune", NULL, "delete what the file has no more",
		  OPT_PRUNE },
		{ "no-start", NULL, "define only", OPT_NO_RUN },
		REMOTE_OPTIONS,
		{ 0 },
	};

	return with_stack(
	    "atoll stack apply FILE [OPTION]...",
	    "Make networks, disks and machines what a file says, and start "
	    "them.",
	    specs, apply, argc, argv);
}

static int stack_diff(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };

	return with_stack("atoll stack diff FILE",
	                  "What apply would change: fails when it would.",
	                  specs, diff, argc, argv);
}

static int stack_delete(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_YES_OPTION,
		                                    REMOTE_OPTIONS,
		                                    { 0 } };

	return with_stack(
	    "atoll stack delete FILE",
	    "Delete all machines, disks and networks of the stack.", specs,
	    remove_all, argc, argv);
}

int command_stack(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "apply", "make machines what a file says", stack_apply },
		{ "diff", "what that would change", stack_diff },
		{ "delete", "delete them all", stack_delete },
		{ 0 },
	};

	return command_noun(verbs, "Networks, disks and machines as one unit.",
	                    argc, argv);
}
