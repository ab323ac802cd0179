/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll host show, host audit - its host as the daemon sees it: what it has,
 * and the hardening checklist.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/host.h"
#include "cli/options.h"
#include "cli/remote.h"
#include "cli/say.h"

/* ---- show ---- */

static const char *up_of(json_t *host, char *room, size_t size)
{
	s64 s = remote_number(host, "uptime_s");

	if (s < 3600)
		snprintf(room, size, "%" PRId64 "m", s / 60);
	else if (s < 86400)
		snprintf(room, size, "%" PRId64 "h", s / 3600);
	else
		snprintf(room, size, "%" PRId64 "d", s / 86400);
	return room;
}

int host_show(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	static const struct column columns[] = {
		{ "NAME", .path = "name" },
		{ "CPUS", .path = "cpus", .kind = CELL_NUMBER },
		{ "MEMORY", .path = "memory_bytes", .kind = CELL_SIZE },
		{ "FREE", .path = "memory_free_bytes", .kind = CELL_SIZE },
		{ "GIVEN", .path = "memory_committed_bytes",
		  .kind = CELL_SIZE },
		{ "MACHINES", .path = "vms.defined", .kind = CELL_NUMBER },
		{ "RUNNING", .path = "vms.running", .kind = CELL_NUMBER },
		{ "DAEMON UP", up_of },
		{ "KERNEL", .path = "kernel", .wide = true },
		{ "STATE", .path = "state_dir", .wide = true },
		{ "IMAGES", .path = "images_dir", .wide = true },
		{ NULL },
	};
	struct remote r = { 0 };
	int code = remote_open(&r, "atoll host show [OPTION]...",
	                       "The daemon's host: what it has, and what of it "
	                       "machines were given.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count)
		code = say_usage("atoll host show takes no argument");
	if (code < 0)
		code = remote_show(&r, "/v1/host", columns);
	remote_close(&r);
	return code;
}

/* ---- audit ---- */

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
