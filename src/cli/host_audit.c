/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll host audit - the hardening checklist, as the daemon sees its host.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/host.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "cli/say.h"

static void print_one(json_t *check)
{
	const char *state = remote_text(check, "state");
	char *words = xasprintf("%s: %s", remote_text(check, "title"),
	                        remote_text(check, "reason"));

	host_line(remote_text(check, "name"),
	          strcmp(state, "not-applicable") ? state : "n/a", words,
	          remote_text(check, "hint"));
	free(words);
}

static void print_table(json_t *all)
{
	json_t *check;
	size_t i;

	json_array_foreach(json_object_get(all, "checks"), i, check)
	    print_one(check);
	printf("\n%" PRId64 " pass, %" PRId64 " fail, %" PRId64
	       " not applicable\n",
	       remote_number(all, "passed"), remote_number(all, "failed"),
	       remote_number(all, "not_applicable"));
}

int host_audit(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct remote r = { 0 };
	int code = remote_open(&r, "atoll host audit [OPTION]...",
	                       "The hardening checklist, and what of it this "
	                       "host and its daemon keep.",
	                       specs, argc, argv);
	json_t *all = NULL;

	if (code < 0 && r.name_count)
		code = say_usage("atoll host audit takes no argument");
	if (code < 0) {
		code = CODE_OK;
		all = remote_get(&r, "/v1/host/audit", &code);
	}
	if (all) {
		if (r.format == FORMAT_TABLE)
			print_table(all);
		else
			remote_print_value(&r, all);
		code = remote_number(all, "failed") ? CODE_FAILED : CODE_OK;
	}
	json_decref(all);
	remote_close(&r);
	return code;
}
