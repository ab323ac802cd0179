/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_remote - the same verbs on the images of another daemon (--remote, or
 * ATOLL_REMOTE): files are that host's.
 */
#include "cli/image_remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cli/body.h"
#include "cli/resource.h"
#include "cli/say.h"

#define PATH "/v1/images"

enum {
	OPT_NAME = OPT_OWN,
	OPT_KERNEL,
	OPT_INITRD,
	OPT_CMDLINE,
	OPT_IMAGE_FORM,
	OPT_SIZE,
	OPT_PROJECT,
	OPT_REPLACE
};

static const struct column columns[] = {
	{ "NAME", .path = "name" },
	{ "ID", .path = "id" },
	{ "KERNEL", .path = "kernel_version" },
	{ "PROJECT", .path = "project" },
	{ NULL },
};

static const struct body_key keys[] = {
	{ OPT_NAME, "name", BODY_TEXT, NULL },
	{ OPT_KERNEL, "kernel", BODY_TEXT, NULL },
	{ OPT_INITRD, "initrd", BODY_TEXT, NULL },
	{ OPT_CMDLINE, "cmdline", BODY_TEXT, NULL },
	{ OPT_IMAGE_FORM, "format", BODY_TEXT, NULL },
	{ OPT_SIZE, "size", BODY_TEXT, NULL },
	{ OPT_PROJECT, "project", BODY_NAME, NULL },
	{ OPT_REPLACE, "force", BODY_TRUE, NULL },
	{ 0 },
};

/* A call, and the task that it began followed to its end. */
static int follow(struct remote *r, const char *path, json_t *body,
                  const char *name)
{
	struct error err = { 0 };
	json_t *task = NULL;

	if (client_call(r->client, "POST", path, body, &task, &err) < 0)
		return remote_failed(r, &err);
	return remote_follow(r, task, name);
}

static int list(int argc, char **argv)
{
	return resource_list_of_projects(
	    "atoll image list [OPTION]...",
	    "The images that machines are made from.", PATH, "images", columns,
	    argc, argv);
}

static int show(int argc, char **argv)
{
	return resource_show("atoll image inspect NAME", "One image.", PATH,
	                     columns, argc, argv);
}

static int delete (int argc, char **argv)
{
	return resource_delete("atoll image delete NAME...",
	                       "Delete names of images; with its last name an "
	                       "image goes.",
	                       PATH, "image", argc, argv);
}

static int tag(struct remote *r, json_t *body)
{
	char *one = resource_path(PATH, r->names[0]);
	char *path = xasprintf("%s/tag", one);
	int code;

	json_object_set_new(body, "name", json_string(r->names[1]));
	code = resource_call(r, "POST", path, json_incref(body), NULL);
	free(one);
	free(path);
	return code;
}

static int export(struct remote *r, json_t *body)
{
	char *one = resource_path(PATH, r->names[0]);
	char *path = xasprintf("%s/export", one);
	int code;

	json_object_set_new(body, "path", json_string(r->names[1]));
	code = follow(r, path, body, r->names[0]);
	free(one);
	free(path);
	return code;
}

static int import(struct remote *r, json_t *body)
{
	json_object_set_new(body, "path", json_string(r->names[0]));
	return follow(r, PATH, body, r->names[0]);
}

static int build(struct remote *r, json_t *body)
{
	json_object_set_new(body, "name", json_string(r->names[0]));
	json_object_set_new(body, "build", json_true());
	return follow(r, PATH, body, r->names[0]);
}

static const struct {
	const char *verb, *usage, *summary;
	size_t names;
	int (*fn)(struct remote *r, json_t *body);
} verbs[] = {
	{ "tag", "atoll image tag NAME NEW", "Give an image another name.", 2,
	  tag },
	{ "export", "atoll image export NAME PATH.tar",
	  "Write an image to a new file of the daemon's host.", 2, export },
	{ "import", "atoll image import PATH --name NAME:TAG [OPTION]...",
	  "Make an image of files of the daemon's host.", 1, import },
	{ "build", "atoll image build [OPTION]... debian:12",
	  "Build an image from the package sources of the daemon's host.", 1,
	  build },
};

static int act(size_t i, int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "name", "NAME:TAG", "import: what it is called", OPT_NAME },
		{ "kernel", "PATH", "import: what it boots", OPT_KERNEL },
		{ "initrd", "PATH", "import: its first file system",
		  OPT_INITRD },
		{ "cmdline", "TEXT", "import: of the kernel", OPT_CMDLINE },
		{ "disk-format", "F", "import: of the disk", OPT_IMAGE_FORM },
		{ "size", "SIZE", "build: of the disk", OPT_SIZE },
		{ "project", "PROJECT", "whose it is", OPT_PROJECT },
		{ "force", NULL,
		  "one that has the name loses it; export: replace a file",
		  OPT_REPLACE },
		{ "async", NULL, "print the task's number and don't wait",
		  OPT_ASYNC },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct body b = { json_object(), keys };
	struct remote r = { .own = body_option, .own_ctx = &b };
	int code = remote_open(&r, verbs[i].usage, verbs[i].summary, specs,
	                       argc, argv);

	if (code < 0 && r.name_count != verbs[i].names)
		code = say_usage("usage: %s", verbs[i].usage);
	if (code < 0)
		code = verbs[i].fn(&r, b.json);
	json_decref(b.json);
	remote_close(&r);
	return code;
}

bool image_is_remote(int argc, char **argv)
{
	const char *where = getenv("ATOLL_REMOTE");

	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (strcmp(argv[i], "--remote") == 0 ||
		    strncmp(argv[i], "--remote=", 9) == 0)
			return true;
	return where && where[0];
}

int image_remote(int argc, char **argv)
{
	if (strcmp(argv[0], "list") == 0)
		return list(argc, argv);
	if (strcmp(argv[0], "show") == 0 || strcmp(argv[0], "inspect") == 0)
		return show(argc, argv);
	if (strcmp(argv[0], "delete") == 0)
		return delete (argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strcmp(verbs[i].verb, argv[0]) == 0)
			return act(i, argc, argv);
	return say_usage("atoll image %s is done here, by no other daemon",
	                 argv[0]);
}
