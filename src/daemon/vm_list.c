/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_list - the machines there are, narrowed, whole or in brief.
 *
 * The list is text from the start: what a definition looks like is kept from
 * one list to the next (struct vm), and a tree of all machines is never made,
 * which would take longer than all the rest.
 */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "daemon/api.h"

/* ---- which ---- */

/* "key" or "key=glob" */
static bool has_tag(const struct vm *vm, const char *wanted)
{
	json_t *tags = json_object_get(vm->spec, "tags"), *value;
	size_t n = strcspn(wanted, "=");
	char key[128];

	snprintf(key, sizeof(key), "%.*s", (int)n, wanted);
	value = json_object_get(tags, key);
	return value &&
	       (!wanted[n] ||
	        fnmatch(wanted + n + 1, json_string_value(value), 0) == 0);
}

/* What a list is asked to be narrowed to; "" or false: not by that. */
struct wanted {
	const char *state; /* NULL: any */
	char tag[300], project[PROJECT_SIZE], owner[130];
	bool expired, brief;
};

static void read_wanted(struct call *c, struct wanted *w)
{
	static const char *const views[] = { "whole", "brief", NULL };
	static const char *const states[] = { "stopped", "starting", "running",
		                              "paused", NULL };
	const char *view = call_word(c, "view", views);

	memset(w, 0, sizeof(*w));
	w->state = call_word(c, "state", states);
	call_query(c, "tag", w->tag, sizeof(w->tag));
	call_query(c, "project", w->project, sizeof(w->project));
	call_query(c, "owner", w->owner, sizeof(w->owner));
	w->brief = view && strcmp(view, "brief") == 0;
	/* What fails has failed the call. */
	w->expired = call_flag(c, "expired", &w->expired) && w->expired;
}

static bool owned_by(const struct vm *vm, const char *who)
{
	const char *owner =
	    json_string_value(json_object_get(vm->spec, "owner"));

	return owner && strcmp(owner, who) == 0;
}

static bool is_wanted(const struct vm *vm, const struct wanted *w, s64 now)
{
	return (!w->state || strcmp(w->state, vm_state_name(vm->state)) == 0) &&
	       (!w->tag[0] || has_tag(vm, w->tag)) &&
	       (!w->project[0] || strcmp(w->project, vm_project(vm)) == 0) &&
	       (!w->owner[0] || owned_by(vm, w->owner)) &&
	       (!w->expired || vm_expired(vm, now));
}

/* ---- as text ---- */

static json_t *brief_spec(const struct vm *vm)
{
	static const char *const keys[] = { "cpus",  "memory_bytes",
		                            "image", "project",
		                            "owner", "expires",
		                            "tags" };
	json_t *o = json_object(), *value;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		value = json_object_get(vm->spec, keys[i]);
		if (value)
			json_object_set(o, keys[i], value);
	}
	return o;
}

/* The definition, kept until there is another. */
static const char *spec_text(struct vm *vm, bool brief)
{
	char **kept = &vm->spec_text[brief];
	json_t *spec;

	if (!*kept) {
		spec = brief ? brief_spec(vm) : json_incref(vm->spec);
		*kept = json_dumps(spec, JSON_COMPACT);
		json_decref(spec);
	}
	return *kept;
}

static json_t *brief_head(const struct vm *vm)
{
	json_t *cause = json_object_get(vm->last_end, "cause");

	return json_pack(
	    "{s:s, s:s, s:s, s:s, s:o}", "id", vm->id, "name", vm->name,
	    "state", vm_state_name(vm->state), "since", vm->since, "last_end",
	    cause ? json_pack("{s:O}", "cause", cause) : json_null());
}

static void put_vm(FILE *to, struct vm *vm, bool brief)
{
	json_t *head = brief ? brief_head(vm) : vm_head_json(vm);
	char *text = json_dumps(head, JSON_COMPACT);

	/* The definition goes in before the head's last brace. */
	text[strlen(text) - 1] = '\0';
	fprintf(to, "%s,\"spec\":%s}", text, spec_text(vm, brief));
	free(text);
	json_decref(head);
}

void api_vm_list(struct call *c)
{
	s64 now = (s64)time(NULL);
	const char *between = "";
	struct wanted w;
	size_t size = 0;
	FILE *to;

	read_wanted(c, &w);
	if (c->status >= 400)
		return;
	to = open_memstream(&c->text, &size);
	if (!to) {
		call_fail(c, "internal", "no memory", "");
		return;
	}
	fputs("{\"vms\":[", to);
	for (struct vm *vm = c->daemon->vms; vm; vm = vm->next)
		if (call_sees(c, vm) && is_wanted(vm, &w, now)) {
			fputs(between, to);
			put_vm(to, vm, w.brief);
			between = ",";
		}
	fputs("]}", to);
	fclose(to);
	c->status = 200;
	c->type = "application/json";
}
