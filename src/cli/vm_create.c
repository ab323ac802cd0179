/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll vm create, vm set, launch: options become a definition, or the part of
 * one that is to change.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "cli/vm.h"
#include "cli/vm_resources.h"

enum {
	OPT_APPEND = OPT_OWN,
	OPT_AUTOSTART,
	OPT_CPUS,
	OPT_DESCRIPTION,
	OPT_DEVICE,
	OPT_DISK,
	OPT_ENGINE,
	OPT_FILE,
	OPT_IMAGE,
	OPT_IMAGE_DISK,
	OPT_FULL,
	OPT_INITRD,
	OPT_KERNEL,
	OPT_MAX_CPUS,
	OPT_MEMORY,
	OPT_MODULE,
	OPT_NAME,
	OPT_NET,
	OPT_PUBLISH,
	OPT_RESTART,
	OPT_STOP_TIMEOUT,
	OPT_TAG,
};

#define CLONE_OPTION                                                           \
	{                                                                      \
		"full", NULL, "its disk is a copy of the image's", OPT_FULL    \
	}
#define DEFINITION                                                             \
	{ "cpus", "N", "virtual CPUs (1)", OPT_CPUS },                         \
	    { "max-cpus", "N", "what they may grow to while it runs",          \
	      OPT_MAX_CPUS },                                                  \
	    { "memory", "SIZE", "guest memory, as 512M or 2G (512M)",          \
	      OPT_MEMORY },                                                    \
	    { "engine", "ENGINE", "auto, kvm, bt or interp", OPT_ENGINE },     \
	    { "kernel", "FILE", "bzImage, PVH or multiboot ELF", OPT_KERNEL }, \
	    { "initrd", "FILE", "initial RAM disk", OPT_INITRD },              \
	    { "module", "FILE", "multiboot module; may be repeated",           \
	      OPT_MODULE },                                                    \
	    { "append", "WORDS", "added to the kernel command line",           \
	      OPT_APPEND },                                                    \
	    { "disk", "FILE[,OPTION]...",                                      \
	      "format=, readonly, cache=, serial=, iops=, iops-burst=, "       \
	      "rate=, rate-burst=",                                            \
	      OPT_DISK },                                                      \
	    { "image-disk", "OPTION[,OPTION]...",                              \
	      "limits of the disk on the image: iops=, iops-burst=, rate=, "   \
	      "rate-burst=",                                                   \
	      OPT_IMAGE_DISK },                                                \
	    { "net", "user|tap:T|NAME[,OPTION]...|none",                       \
	      "network cards (user); repeatable; address=A, send=SIZE, "       \
	      "receive=SIZE, frames=N, trusted",                               \
	      OPT_NET },                                                       \
	    { "publish", "[A:]PORT:PORT[/udp]",                                \
	      "forward a host port to the guest", OPT_PUBLISH },               \
	    { "device", "NAME", "testdev or debug-exit; repeatable",           \
	      OPT_DEVICE },                                                    \
	    { "tag", "KEY=VALUE", "for finding it; repeatable", OPT_TAG },     \
	    { "description", "WORDS", "for people", OPT_DESCRIPTION },         \
	    { "restart", "no|on-failure|always", "when it ends by itself",     \
	      OPT_RESTART },                                                   \
	    { "autostart", "ORDER|no", "with the host, lower ORDER first",     \
	      OPT_AUTOSTART },                                                 \
	{                                                                      \
		"stop-timeout", "TIME", "for the guest to shut down (60)",     \
		    OPT_STOP_TIMEOUT                                           \
	}

struct definition {
	json_t *spec;
	bool nets_given;
	json_t *publish; /* for the first card that is no tap; owned */
};

static json_t *below(json_t *spec, const char *key)
{
	json_t *value = json_object_get(spec, key);

	if (!value) {
		value = json_object();
		json_object_set_new(spec, key, value);
	}
	return value;
}

json_t *definition_list(json_t *spec, const char *key)
{
	json_t *value = json_object_get(spec, key);

	if (!value) {
		value = json_array();
		json_object_set_new(spec, key, value);
	}
	return value;
}

json_t *definition_path(const char *path, struct error *err)
{
	char *real = realpath(path, NULL);
	json_t *value = real ? json_string(real) : NULL;

	if (!value)
		error_set(err, -ENOENT, "%s: %s", path, strerror(errno));
	free(real);
	return value;
}

static int set_path(json_t *object, const char *key, const char *path,
                    struct error *err)
{
	json_t *value = definition_path(path, err);

	return value ? json_object_set_new(object, key, value) : -ENOENT;
}

static int set_number(json_t *object, const char *key, u64 n)
{
	return json_object_set_new(object, key, json_integer((json_int_t)n));
}

/* KEY=VALUE of a card in a network, or a word. */
static int plug_option(json_t *nic, const char *part, struct error *err)
{
	static const struct {
		const char *word, *key;
	} limits[] = { { "send", "send_bytes_per_s" },
		       { "receive", "receive_bytes_per_s" },
		       { "frames", "send_frames_per_s" } };
	size_t n = strcspn(part, "=");
	u64 value = 0;

	if (strcmp(part, "trusted") == 0)
		return json_object_set_new(nic, "trusted", json_true());
	if (strncmp(part, "address=", 8) == 0)
		return json_object_set_new(nic, "address",
		                           json_string(part + 8));
	for (size_t i = 0; part[n] && i < ARRAY_SIZE(limits); i++) {
		if (strlen(limits[i].word) != n ||
		    strncmp(limits[i].word, part, n) != 0)
			continue;
		if (parse_size(part + n + 1, 1, &value, err) < 0)
			return error_prefix(err, "--net");
		return set_number(below(nic, "limits"), limits[i].key, value);
	}
	return error_set(err, -EINVAL,
	                 "--net: %s is none of address=A, send=SIZE, "
	                 "receive=SIZE, frames=N, trusted",
	                 part);
}

static int add_plug(json_t *nics, const char *value, struct error *err)
{
	char *copy = xstrdup(value), *rest = copy, *part = strsep(&rest, ",");
	json_t *nic =
	    json_pack("{s:s, s:s}", "type", "network", "network", part);
	int rc = 0;

	if (!part[0] || strchr(part, ':') || strcmp(part, "tap") == 0)
		rc = error_set(err, -EINVAL,
		               "--net %s is none of user, tap:NAME, a "
		               "network's name, none",
		               value);
	while (rc == 0 && (part = strsep(&rest, ",")))
		rc = plug_option(nic, part, err);
	if (rc == 0)
		json_array_append(nics, nic);
	json_decref(nic);
	free(copy);
	return rc;
}

int definition_add_net(json_t *spec, const char *value, struct error *err)
{
	json_t *nics = definition_list(spec, "nics");

	if (strcmp(value, "none") == 0)
		return 0;
	if (strcmp(value, "user") == 0)
		return json_array_append_new(
		    nics, json_pack("{s:s}", "type", "user"));
	if (strncmp(value, "tap:", 4) == 0)
		return json_array_append_new(
		    nics,
		    json_pack("{s:s, s:s}", "type", "tap", "tap", value + 4));
	return add_plug(nics, value, err);
}

static int add_tag(struct definition *d, const char *value, struct error *err)
{
	const char *equals = strchr(value, '=');
	char *key;

	if (!equals || equals == value)
		return error_set(err, -EINVAL, "--tag %s is not KEY=VALUE",
		                 value);
	key = xasprintf("%.*s", (int)(equals - value), value);
	json_object_set_new(below(d->spec, "tags"), key,
	                    json_string(equals + 1));
	free(key);
	return 0;
}

static int set_engine(struct definition *d, const char *value)
{
	const char *comma = strchr(value, ',');
	char *name = xasprintf(
	    "%.*s", (int)(comma ? comma - value : (ptrdiff_t)strlen(value)),
	    value);

	json_object_set_new(d->spec, "engine", json_string(name));
	if (comma)
		json_object_set_new(d->spec, "engine_options",
		                    json_string(comma + 1));
	free(name);
	return 0;
}

static int set_autostart(struct definition *d, const char *value,
                         struct error *err)
{
	json_t *a = below(d->spec, "autostart");
	bool no = strcmp(value, "no") == 0;
	u64 order = 0;
	int rc = no ? 0 : parse_u64(value, 0, 1000000, &order, err);

	if (rc < 0)
		return error_prefix(err, "--autostart");
	json_object_set_new(a, "enabled", json_boolean(!no));
	return set_number(a, "order", order);
}

static int load_file(struct definition *d, const char *path, struct error *err)
{
	json_error_t where;
	json_t *file = json_load_file(path, JSON_REJECT_DUPLICATES, &where);

	if (!json_is_object(file)) {
		json_decref(file);
		return error_set(err, -EINVAL, "%s, line %d: %s", path,
		                 where.line, where.text);
	}
	/* What the command line says goes before it. */
	json_object_update_missing(d->spec, file);
	d->nets_given = d->nets_given || json_object_get(file, "nics");
	json_decref(file);
	return 0;
}

static int text_option(json_t *object, const char *key, const char *value,
                       struct error *err)
{
	json_t *text = json_string(value);

	if (!text)
		return error_set(err, -EINVAL, "%s is not UTF-8", key);
	return json_object_set_new(object, key, text);
}

static int take_number(struct definition *d, int id, const char *value,
                       struct error *err)
{
	u64 n = 0;
	int rc;

	if (id == OPT_MEMORY) {
		rc = parse_size(value, 1, &n, err);
		return rc < 0 ? error_prefix(err, "--memory")
		              : set_number(d->spec, "memory_bytes", n);
	}
	if (id == OPT_CPUS) {
		rc = parse_u64(value, 1, 64, &n, err);
		return rc < 0 ? error_prefix(err, "--cpus")
		              : set_number(d->spec, "cpus", n);
	}
	if (id == OPT_MAX_CPUS) {
		rc = parse_u64(value, 0, 64, &n, err);
		return rc < 0 ? error_prefix(err, "--max-cpus")
		              : set_number(d->spec, "max_cpus", n);
	}
	rc = parse_duration(value, &n, err);
	if (rc < 0)
		return error_prefix(err, "--stop-timeout");
	return set_number(d->spec, "stop_timeout_s",
	                  (n + NSEC_PER_SEC - 1) / NSEC_PER_SEC);
}

static int take_boot(struct definition *d, int id, const char *value,
                     struct error *err)
{
	json_t *boot = below(d->spec, "boot"), *path;

	if (id == OPT_KERNEL)
		return set_path(boot, "kernel", value, err);
	if (id == OPT_INITRD)
		return set_path(boot, "initrd", value, err);
	if (id == OPT_APPEND)
		return text_option(boot, "cmdline", value, err);
	path = definition_path(value, err);
	return path ? json_array_append_new(definition_list(boot, "modules"),
	                                    path)
	            : -ENOENT;
}

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct definition *d = ctx;

	if (id >= OPT_RESOURCES)
		return resources_option(d->spec, id, value, err);
	switch (id) {
	case OPT_CPUS:
	case OPT_MAX_CPUS:
	case OPT_MEMORY:
	case OPT_STOP_TIMEOUT:
		return take_number(d, id, value, err);
	case OPT_KERNEL:
	case OPT_INITRD:
	case OPT_APPEND:
	case OPT_MODULE:
		return take_boot(d, id, value, err);
	case OPT_DISK:
		return definition_add_disk(d->spec, value, err);
	case OPT_NET:
		d->nets_given = true;
		return definition_add_net(d->spec, value, err);
	case OPT_TAG:
		return add_tag(d, value, err);
	case OPT_ENGINE:
		return set_engine(d, value);
	case OPT_AUTOSTART:
		return set_autostart(d, value, err);
	case OPT_FILE:
		return load_file(d, value, err);
	case OPT_PUBLISH:
		return json_array_append_new(d->publish, json_string(value));
	case OPT_DEVICE:
		return json_array_append_new(
		    definition_list(d->spec, "devices"), json_string(value));
	case OPT_RESTART:
		return text_option(below(d->spec, "restart"), "policy", value,
		                   err);
	case OPT_IMAGE:
		return text_option(d->spec, "image", value, err);
	case OPT_IMAGE_DISK:
		return definition_image_disk(d->spec, value, err);
	case OPT_FULL:
		return json_object_set_new(d->spec, "full_copy", json_true());
	case OPT_NAME:
		return text_option(d->spec, "name", value, err);
	default:
		return text_option(d->spec, "description", value, err);
	}
}

/* Networks as `atoll run` has them: one, unless something else was said. */
static int finish_nets(struct definition *d, bool whole)
{
	json_t *nic;
	size_t i;

	if (whole && !d->nets_given)
		json_array_append_new(definition_list(d->spec, "nics"),
		                      json_pack("{s:s}", "type", "user"));
	if (json_array_size(d->publish) == 0)
		return 0;
	json_array_foreach(json_object_get(d->spec, "nics"), i, nic)
	{
		if (strcmp(remote_text(nic, "type"), "tap")) {
			json_object_set(nic, "publish", d->publish);
			return 0;
		}
	}
	return say_usage("--publish needs --net user or a network");
}

static void definition_fini(struct definition *d)
{
	json_decref(d->spec);
	json_decref(d->publish);
}

int vm_made(struct remote *r, json_t *vm, const char *name)
{
	s64 id = remote_number(vm, "task");
	char path[64];
	json_t *task;
	int code = CODE_OK;

	if (remote_wants_data(r))
		remote_print_value(r, vm);
	else if (!r->quiet)
		puts(name);
	if (!id || r->async)
		return CODE_OK;
	/* Its disks are being copied. */
	snprintf(path, sizeof(path), "/v1/tasks/%" PRId64, id);
	task = remote_get(r, path, &code);
	return task ? remote_follow(r, task, name) : code;
}

static int create(struct remote *r, struct definition *d, const char *name)
{
	struct error err = { 0 };
	json_t *vm = NULL;
	int code = finish_nets(d, true);

	if (code != 0)
		return code;
	if (text_option(d->spec, "name", name, &err) < 0 ||
	    client_call(r->client, "POST", "/v1/vms", d->spec, &vm, &err) < 0)
		return remote_failed(r, &err);
	code = vm_made(r, vm, name);
	json_decref(vm);
	return code;
}

static int start(struct remote *r, const char *name)
{
	char *part = client_escape(name);
	char *path = xasprintf("/v1/vms/%s/start", part);
	struct error err = { 0 };
	json_t *task = NULL;
	int code;

	if (client_call(r->client, "POST", path, NULL, &task, &err) < 0)
		code = remote_failed(r, &err);
	else
		code = remote_follow(r, task, name);
	free(part);
	free(path);
	return code;
}

int vm_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "image", "IMAGE", "its kernel, and a disk that lies on its",
		  OPT_IMAGE },
		CLONE_OPTION,
		{ "file", "FILE", "a definition in JSON", OPT_FILE },
		DEFINITION,
		RESOURCE_OPTIONS,
		{ "async", NULL, "don't wait for its disk", OPT_ASYNC },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct definition d = { .spec = json_object(),
		                .publish = json_array() };
	struct remote r = { .own = take_option, .own_ctx = &d };
	int code = remote_open(&r, "atoll vm create NAME [OPTION]...",
	                       "Define a machine; start starts it.", specs,
	                       argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll vm create takes one name");
	if (code < 0)
		code = create(&r, &d, r.names[0]);
	remote_close(&r);
	definition_fini(&d);
	return code;
}

int command_launch(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		CLONE_OPTION,
		DEFINITION,
		RESOURCE_OPTIONS,
		{ "async", NULL, "print its start's number and don't wait",
		  OPT_ASYNC },
		{ "timeout", "TIME", "wait no longer; what was begun goes on",
		  OPT_WAIT },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct definition d = { .spec = json_object(),
		                .publish = json_array() };
	struct remote r = { .own = take_option, .own_ctx = &d };
	struct error err = { 0 };
	int code = remote_open(&r, "atoll launch IMAGE NAME [OPTION]...",
	                       "Define a machine from an image and start it.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count != 2)
		code = say_usage("atoll launch takes an image and a name");
	if (code < 0 && text_option(d.spec, "image", r.names[0], &err) < 0)
		code = say_error(&err);
	if (code < 0) {
		/* One number is what a program reads then. */
		r.quiet = r.quiet || r.async;
		code = create(&r, &d, r.names[1]);
		if (code == CODE_OK)
			code = start(&r, r.names[1]);
	}
	remote_close(&r);
	definition_fini(&d);
	return code;
}

static int change(struct remote *r, struct definition *d)
{
	char *part = client_escape(r->names[0]);
	char *path = xasprintf("/v1/vms/%s", part);
	struct error err = { 0 };
	json_t *vm = NULL;
	int code = finish_nets(d, false);

	if (code == 0 &&
	    client_call(r->client, "PATCH", path, d->spec, &vm, &err) < 0)
		code = remote_failed(r, &err);
	if (vm && remote_wants_data(r))
		remote_print_value(r, vm);
	/* A name is another at once. */
	if (vm && json_is_true(json_object_get(vm, "restart_needed")) &&
	    !r->quiet &&
	    json_object_size(d->spec) > !!json_object_get(d->spec, "name"))
		fputs("it takes effect when the machine is started again\n",
		      stderr);
	json_decref(vm);
	free(part);
	free(path);
	return code;
}

int vm_set(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "name", "NAME", "what it is called from now on", OPT_NAME },
		DEFINITION,
		RESOURCE_OPTIONS,
		{ "if-rev", "N", "only if the definition has that revision",
		  OPT_IF_REV },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct definition d = { .spec = json_object(),
		                .publish = json_array() };
	struct remote r = { .own = take_option, .own_ctx = &d };
	int code =
	    remote_open(&r, "atoll vm set NAME OPTION...",
	                "Change a machine's definition.", specs, argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll vm set takes one machine");
	if (code < 0 && json_object_size(d.spec) == 0)
		code = say_usage("what is to be changed?");
	if (code < 0)
		code = change(&r, &d);
	remote_close(&r);
	definition_fini(&d);
	return code;
}
