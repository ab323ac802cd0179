/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll vm rename - another name for a machine, running or not.
 */
#include <stdio.h>
#include <stdlib.h>

#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

static bool in_network(json_t *vm)
{
	json_t *nic;
	size_t i;

	json_array_foreach(remote_at(vm, "spec.nics"), i, nic)
	{
		if (remote_text(nic, "network")[0])
			return true;
	}
	return false;
}

static int rename_to(struct remote *r, const char *old, const char *name)
{
	char *path = resource_path("/v1/vms", old);
	json_t *body = json_pack("{s:s}", "name", name), *vm = NULL;
	struct error err = { 0 };
	int code = CODE_OK;

	if (!body)
		code = say_usage("the name is not UTF-8");
	else if (client_call(r->client, "PATCH", path, body, &vm, &err) < 0)
		code = remote_failed(r, &err);
	if (vm && remote_wants_data(r))
		remote_print_value(r, vm);
	/* The switch goes by what it was told when the machine came. */
	if (vm && !r->quiet && in_network(vm) &&
	    json_is_true(json_object_get(vm, "restart_needed")))
		fprintf(stderr,
		        "its networks call it %s until it is started again\n",
		        old);
	json_decref(vm);
	json_decref(body);
	free(path);
	return code;
}

int vm_rename(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "if-rev", "N", "only if the definition has that revision",
		  OPT_IF_REV },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct remote r = { 0 };
	int code =
	    remote_open(&r, "atoll vm rename NAME NEW [OPTION]...",
	                "Give a machine another name.", specs, argc, argv);

	if (code < 0 && r.name_count != 2)
		code = say_usage("atoll vm rename takes a name and a new one");
	if (code < 0)
		code = rename_to(&r, r.names[0], r.names[1]);
	remote_close(&r);
	return code;
}
