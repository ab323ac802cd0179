/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll project, atoll quota - whose machines are, and how much these may be.
 */
#include "cli/project.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cli/body.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

#define PATH "/v1/projects"

enum {
	OPT_DESCRIPTION = OPT_OWN,
	OPT_MACHINES,
	OPT_VCPUS,
	OPT_MEMORY,
	OPT_DISK,
	OPT_SNAPSHOTS,
	OPT_BACKUPS,
	OPT_PROJECT,
};

#define QUOTA_OPTIONS                                                          \
	{ "machines", "N", "machines, or none: any number", OPT_MACHINES },    \
	    { "vcpus", "N", "processors of all of them", OPT_VCPUS },          \
	    { "memory", "SIZE", "what they have or may grow to", OPT_MEMORY }, \
	    { "disk", "SIZE", "their copies of images", OPT_DISK },            \
	    { "snapshots", "N", "of their disks", OPT_SNAPSHOTS },             \
	{                                                                      \
		"backups", "SIZE", "what backups take", OPT_BACKUPS            \
	}

static const struct body_key keys[] = {
	{ OPT_DESCRIPTION, "description", BODY_TEXT, NULL },
	{ OPT_MACHINES, "machines", BODY_NUMBER, "quotas" },
	{ OPT_VCPUS, "vcpus", BODY_NUMBER, "quotas" },
	{ OPT_MEMORY, "memory_bytes", BODY_SIZE, "quotas" },
	{ OPT_DISK, "disk_bytes", BODY_SIZE, "quotas" },
	{ OPT_SNAPSHOTS, "snapshots", BODY_NUMBER, "quotas" },
	{ OPT_BACKUPS, "backup_bytes", BODY_SIZE, "quotas" },
	{ 0 },
};

/* ---- projects ---- */

static const struct column project_columns[] = {
	{ "NAME", .path = "name" },
	{ "MACHINES", .path = "used.machines", .kind = CELL_NUMBER },
	{ "VCPUS", .path = "used.vcpus", .kind = CELL_NUMBER },
	{ "MEMORY", .path = "used.memory_bytes", .kind = CELL_SIZE },
	{ "DISK", .path = "used.disk_bytes", .kind = CELL_SIZE },
	{ "DESCRIPTION", .path = "description" },
	{ NULL },
};

static int project_list(int argc, char **argv)
{
	return resource_list("atoll project list [OPTION]...",
	                     "Projects, and what their machines have.", PATH,
	                     "projects", project_columns, argc, argv);
}

static int project_show(int argc, char **argv)
{
	return resource_show("atoll project show NAME", "One project.", PATH,
	                     project_columns, argc, argv);
}

static int project_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "description", "WORDS", "for people", OPT_DESCRIPTION },
		QUOTA_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};

	return resource_write("atoll project create NAME [OPTION]...",
	                      "Make a project.", PATH, true, specs, keys, argc,
	                      argv);
}

static int project_set(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "description", "WORDS", "for people", OPT_DESCRIPTION },
		REMOTE_OPTIONS,
		{ 0 },
	};

	return resource_write("atoll project set NAME [OPTION]...",
	                      "Say what a project is for.", PATH, false, specs,
	                      keys, argc, argv);
}

static int project_delete(int argc, char **argv)
{
	return resource_delete("atoll project delete NAME...",
	                       "Delete projects in which there is nothing.",
	                       PATH, "project", argc, argv);
}

int command_project(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "what there is", project_list },
		{ "show", "one of them", project_show },
		{ "inspect", "the same", project_show },
		{ "create", "a new one", project_create },
		{ "set", "change one", project_set },
		{ "delete", "one in which there is nothing", project_delete },
		{ 0 },
	};

	return command_noun(verbs, "Whose machines are.", argc, argv);
}

/* ---- quotas ---- */

static const char *of(json_t *project, const char *key, bool bytes, char *room,
                      size_t size)
{
	json_t *limit =
	    json_object_get(json_object_get(project, "quotas"), key);
	s64 used = json_integer_value(
	    json_object_get(json_object_get(project, "used"), key));
	char has[32], may[32] = "any";

	snprintf(has, sizeof(has), "%" PRId64, used);
	if (bytes)
		format_size((u64)used, has, sizeof(has));
	if (limit && bytes)
		format_size((u64)json_integer_value(limit), may, sizeof(may));
	else if (limit)
		snprintf(may, sizeof(may), "%" PRId64,
		         (s64)json_integer_value(limit));
	snprintf(room, size, "%s / %s", has, may);
	return room;
}

static const char *machines_of(json_t *e, char *room, size_t size)
{
	return of(e, "machines", false, room, size);
}

static const char *vcpus_of(json_t *e, char *room, size_t size)
{
	return of(e, "vcpus", false, room, size);
}

static const char *memory_of(json_t *e, char *room, size_t size)
{
	return of(e, "memory_bytes", true, room, size);
}

static const char *disk_of(json_t *e, char *room, size_t size)
{
	return of(e, "disk_bytes", true, room, size);
}

static const char *snapshots_of(json_t *e, char *room, size_t size)
{
	return of(e, "snapshots", false, room, size);
}

static const char *backups_of(json_t *e, char *room, size_t size)
{
	return of(e, "backup_bytes", true, room, size);
}

static const struct column quota_columns[] = {
	{ "PROJECT", .path = "name" }, { "MACHINES", machines_of },
	{ "VCPUS", vcpus_of },         { "MEMORY", memory_of },
	{ "DISK", disk_of },           { "SNAPSHOTS", snapshots_of },
	{ "BACKUPS", backups_of },     { NULL },
};

static int quota_list(int argc, char **argv)
{
	return resource_list("atoll quota list [OPTION]...",
	                     "What projects have, and what they may have.",
	                     PATH, "projects", quota_columns, argc, argv);
}

static int quota_show(int argc, char **argv)
{
	return resource_show("atoll quota show PROJECT",
	                     "What a project has, and what it may have.", PATH,
	                     quota_columns, argc, argv);
}

static int quota_set(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		QUOTA_OPTIONS,
		REMOTE_OPTIONS,
		{ 0 },
	};

	return resource_write("atoll quota set PROJECT [OPTION]...",
	                      "Say how much a project may have.", PATH, false,
	                      specs, keys, argc, argv);
}

int command_quota(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "of all projects", quota_list },
		{ "show", "of one", quota_show },
		{ "inspect", "the same", quota_show },
		{ "set", "how much it may have", quota_set },
		{ 0 },
	};

	return command_noun(verbs, "How much a project may have.", argc, argv);
}

/* ---- images ---- */

int image_set(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "project", "PROJECT", "whose it is; none: everybody's",
		  OPT_PROJECT },
		REMOTE_OPTIONS,
		{ 0 },
	};
	static const struct body_key image_keys[] = {
		{ OPT_PROJECT, "project", BODY_NAME, NULL },
		{ 0 },
	};

	return resource_write("atoll image set NAME --project PROJECT",
	                      "Say to the daemon whose an image is.",
	                      "/v1/images", false, specs, image_keys, argc,
	                      argv);
}
