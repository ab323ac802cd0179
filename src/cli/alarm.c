/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll alarm, atoll report, atoll host policy - rules over what machines use,
 * what follows from it, and how much of the host they may have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"
#include "cli/watch.h"

enum {
	OPT_VM = OPT_OWN,
	OPT_METRIC,
	OPT_ABOVE,
	OPT_BELOW,
	OPT_FOR,
	OPT_ACTION,
	OPT_OVERCOMMIT,
	OPT_HEADROOM,
	OPT_PROJECT,
};

/* A body under way: options put their keys into it. */
struct wishes {
	json_t *body;
};

/* A size or a number; "80%" of a processor is 800 thousandths. */
static int parse_threshold(const char *value, u64 *n, struct error *err)
{
	size_t length = strlen(value);
	char number[24];
	int rc;

	if (length < 2 || length > sizeof(number) || value[length - 1] != '%')
		return parse_size(value, 1, n, err);
	memcpy(number, value, length - 1);
	number[length - 1] = '\0';
	rc = parse_u64(number, 0, 100 * 1024, n, err);
	*n *= 10;
	return rc;
}

static int put_threshold(struct wishes *w, const char *when, const char *value,
                         struct error *err)
{
	u64 n;
	int rc = parse_threshold(value, &n, err);

	if (rc < 0)
		return rc;
	json_object_set_new(w->body, "when", json_string(when));
	json_object_set_new(w->body, "threshold", json_integer((json_int_t)n));
	return 0;
}

static int put_number(struct wishes *w, const char *key, u64 n)
{
	json_object_set_new(w->body, key, json_integer((json_int_t)n));
	return 0;
}

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct wishes *w = ctx;
	u64 n;
	int rc;

	switch (id) {
	case OPT_VM:
		json_object_set_new(w->body, "vm", json_string(value));
		return 0;
	case OPT_METRIC:
		json_object_set_new(w->body, "metric", json_string(value));
		return 0;
	case OPT_ACTION:
		json_object_set_new(w->body, "action", json_string(value));
		return 0;
	case OPT_PROJECT:
		json_object_set_new(w->body, "project", json_string(value));
		return 0;
	case OPT_ABOVE:
		return put_threshold(w, "above", value, err);
	case OPT_BELOW:
		return put_threshold(w, "below", value, err);
	case OPT_FOR:
		rc = parse_duration(value, &n, err);
		return rc < 0 ? rc
		              : put_number(w, "duration_s", n / NSEC_PER_SEC);
	case OPT_OVERCOMMIT:
		rc = parse_u64(value, 100, 1000, &n, err);
		return rc < 0 ? rc : put_number(w, "overcommit_percent", n);
	default:
		rc = parse_size(value, 1, &n, err);
		return rc < 0 ? rc : put_number(w, "headroom_bytes", n);
	}
}

/* ---- alarms ---- */

static int alarm_list(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "NAME", .path = "name" },
		{ "MACHINES", .path = "vm" },
		{ "PROJECT", .path = "project" },
		{ "METRIC", .path = "metric" },
		{ "WHEN", .path = "when" },
		{ "THRESHOLD", .path = "threshold", .kind = CELL_NUMBER },
		{ "SECONDS", .path = "duration_s", .kind = CELL_NUMBER },
		{ "ACTION", .path = "action" },
		{ "RAISED", .path = "machines", .kind = CELL_LIST },
		{ NULL },
	};

	return resource_list_of_projects(
	    "atoll alarm list [OPTION]...", "Rules over what machines use.",
	    "/v1/alarms", "alarms", columns, argc, argv);
}

static int alarm_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "vm", "GLOB", "which machines [*]", OPT_VM },
		{ "project", "PROJECT", "of which project (all)", OPT_PROJECT },
		{ "metric", "NAME",
		  "cpu, ready, steal (thousandths of a processor), "
		  "memory_used ...: as atoll metrics lists them",
		  OPT_METRIC },
		{ "above", "N", "raised when it is above that: 800 or 80%, 2G",
		  OPT_ABOVE },
		{ "below", "N", "or below that", OPT_BELOW },
		{ "for", "TIME", "for so long [0s]", OPT_FOR },
		{ "action", "ACTION",
		  "none, stop, restart, pause, reset or kill [none]",
		  OPT_ACTION },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { json_object() };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(&r, "atoll alarm create NAME [OPTION]...",
	                       "Be told when a metric crosses a threshold.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll alarm create takes one name");
	if (code < 0 && !json_object_get(w.body, "metric"))
		code = say_usage("say of what: --metric, as atoll metrics "
		                 "lists them");
	if (code < 0 && !json_object_get(w.body, "threshold"))
		code = say_usage("say when: --above N or --below N");
	if (code < 0) {
		json_object_set_new(w.body, "name", json_string(r.names[0]));
		code = resource_call(&r, "POST", "/v1/alarms",
		                     json_incref(w.body), NULL);
	}
	json_decref(w.body);
	remote_close(&r);
	return code;
}

static int alarm_delete(int argc, char **argv)
{
	return resource_delete("atoll alarm delete NAME...", "Remove rules.",
	                       "/v1/alarms", "alarm", argc, argv);
}

int command_alarm(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "what there is, and what is raised", alarm_list },
		{ "create", "a rule", alarm_create },
		{ "delete", "remove rules", alarm_delete },
		{ 0 },
	};

	return command_noun(verbs, "Rules over what machines use.", argc, argv);
}

/* ---- reports ---- */

static int report_sizing(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "NAME", .path = "name" },
		{ "VCPUS", .path = "cpus", .kind = CELL_NUMBER },
		{ "ADVISED", .path = "cpus_advised", .kind = CELL_NUMBER },
		{ "BUSIEST", .path = "cpu_busiest", .kind = CELL_NUMBER },
		{ "MEMORY", .path = "memory_bytes", .kind = CELL_SIZE },
		{ "ADVISED", .path = "memory_bytes_advised",
		  .kind = CELL_SIZE },
		{ "MOST USED", .path = "memory_most_bytes", .kind = CELL_SIZE },
		{ "WORDS", .path = "words" },
		{ NULL },
	};

	return resource_list("atoll report sizing [OPTION]...",
	                     "What machines should have, by what they used.",
	                     "/v1/reports/sizing", "vms", columns, argc, argv);
}

static int report_sprawl(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "NAME", .path = "name" },
		{ "STATE", .path = "state" },
		{ "OWNER", .path = "owner" },
		{ "EXPIRES", .path = "expires", .kind = CELL_TIME },
		{ "WHY", .path = "reasons", .kind = CELL_LIST },
		{ NULL },
	};

	return resource_list("atoll report sprawl [OPTION]...",
	                     "Machines that may be there for nobody.",
	                     "/v1/reports/sprawl", "vms", columns, argc, argv);
}

int command_report(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "sizing", "what machines should have", report_sizing },
		{ "sprawl", "machines that nobody seems to need",
		  report_sprawl },
		{ 0 },
	};

	return command_noun(verbs, "What follows from what was seen.", argc,
	                    argv);
}

/* ---- the host's policy ---- */

static int change_policy(struct remote *r, json_t *body)
{
	struct error err = { 0 };

	if (json_object_size(body) == 0 ||
	    client_call(r->client, "PATCH", "/v1/host/policy", body, NULL,
	                &err) == 0)
		return CODE_OK;
	return remote_failed(r, &err);
}

int host_policy(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "OVERCOMMIT%", .path = "overcommit_percent",
		  .kind = CELL_NUMBER },
		{ "HEADROOM", .path = "headroom_bytes", .kind = CELL_SIZE },
		{ "CGROUP", .path = "cgroup" },
		{ "LIMITS MEMORY", .path = "memory" },
		{ "WEIGHS DISKS", .path = "io" },
		{ "WORDS", .path = "words" },
		{ NULL },
	};
	static const struct option_spec specs[] = {
		{ "overcommit", "PERCENT",
		  "of the host's memory that machines may have together "
		  "(100: none)",
		  OPT_OVERCOMMIT },
		{ "headroom", "SIZE", "kept for the host itself",
		  OPT_HEADROOM },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct wishes w = { json_object() };
	struct remote r = { .own = take_option, .own_ctx = &w };
	int code = remote_open(&r, "atoll host policy [OPTION]...",
	                       "How much of the host machines may have.", specs,
	                       argc, argv);

	if (code < 0 && r.name_count)
		code = say_usage("atoll host policy takes no argument");
	if (code < 0) {
		code = change_policy(&r, w.body);
		if (code == CODE_OK && !(r.dry_run && json_object_size(w.body)))
			code = remote_show(&r, "/v1/host/policy", columns);
	}
	json_decref(w.body);
	remote_close(&r);
	return code;
}
