/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_image - the images there are, whose they are, and their names.
 *
 * The store is `atoll image`'s, too (cli/image.h): what is changed here is
 * changed under its lock, in one step for whoever looks.
 */
#include "daemon/image/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/access/fields.h"
#include "daemon/api.h"
#include "daemon/store.h"

enum { NAME_MAX_BYTES = 127, TEXT_MAX_BYTES = 4096 };

/* What a name leads to; NULL: nothing that is whole. */
static json_t *image_json(const struct daemon *d, const char *name)
{
	char *path =
	    xasprintf("%s/names/%s/manifest.json", d->place.images, name);
	json_t *manifest = json_load_file(path, 0, NULL), *json = NULL;
	const char *id = NULL, *cmdline = NULL, *kernel = "";

	free(path);
	if (manifest &&
	    json_unpack(manifest, "{s:s, s:s, s?s}", "id", &id, "cmdline",
	                &cmdline, "kernel_version", &kernel) == 0)
		json = json_pack("{s:s, s:s, s:s, s:s}", "name", name, "id", id,
		                 "cmdline", cmdline, "kernel_version", kernel);
	json_decref(manifest);
	return json;
}

/* It leads out of no folder. */
static bool image_can_be(const char *name)
{
	return name[0] && name[0] != '.' && !strchr(name, '/');
}

bool image_exists(const struct daemon *d, const char *name)
{
	json_t *image = image_can_be(name) ? image_json(d, name) : NULL;

	json_decref(image);
	return image != NULL;
}

/* With its project, if it is not everybody's. */
static json_t *image_of_project(const struct daemon *d, const char *name,
                                const char *project)
{
	json_t *one = image_json(d, name);

	if (one)
		json_object_set_new(one, "project",
		                    project ? json_string(project)
		                            : json_null());
	return one;
}

static json_t *image_seen(struct call *c, const char *name)
{
	char project[PROJECT_SIZE];
	bool of_one = image_project(c->daemon, name, project);

	if (!image_can_be(name) ||
	    (of_one && !(caller_rights(&c->caller, project) & RIGHT_READ)))
		return NULL;
	return image_of_project(c->daemon, name, of_one ? project : NULL);
}

bool call_sees_image(struct call *c, const char *name)
{
	json_t *image = image_seen(c, name);

	json_decref(image);
	return image != NULL;
}

void api_image_list(struct call *c)
{
	char *path = xasprintf("%s/names", c->daemon->place.images);
	json_t *list = json_array(), *one;
	struct dirent **entries = NULL;
	int n = scandir(path, &entries, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		one = entries[i]->d_name[0] == '.'
		          ? NULL
		          : image_seen(c, entries[i]->d_name);
		if (one)
			json_array_append_new(list, one);
		free(entries[i]);
	}
	free(entries);
	free(path);
	c->status = 200;
	c->reply = json_pack("{s:o}", "images", list);
}

void api_image_get(struct call *c)
{
	c->reply = image_seen(c, c->params[0]);
	c->status = 200;
	/* It went after the path was looked at. */
	if (!c->reply)
		field_none(c, "image", c->params[0]);
}

int image_give(struct daemon *d, const char *name, const char *project,
               struct error *err)
{
	int rc =
	    store_run(d->store, err,
	              "DELETE FROM image_projects WHERE name = ?", "t", name);

	if (rc == 0 && project)
		rc = store_run(d->store, err,
		               "INSERT INTO image_projects(name, project)"
		               " VALUES(?, ?)",
		               "tt", name, project);
	return rc;
}

/* Into a project, or to everybody: null. Machines that were made from it stay
 * as they are. */
void api_image_patch(struct call *c)
{
	static const char *const keys[] = { "project", NULL };
	json_t *project = json_object_get(c->body, "project");
	const char *name = c->params[0], *to = NULL;
	int rc;

	if (!image_exists(c->daemon, name)) {
		field_none(c, "image", name);
		return;
	}
	if (!call_known_keys(c, keys))
		return;
	if (!project) {
		call_fail(c, "bad-request", "project is missing",
		          "null: everybody's");
		return;
	}
	if (!json_is_null(project)) {
		to = call_project(c, NULL, RIGHT_DEFINE);
		if (!to)
			return;
	}
	rc = image_give(c->daemon, name, to, &c->err);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 200;
	c->reply = image_of_project(c->daemon, name, to);
}

/* May the caller do with it what he likes? */
static bool image_changes(struct call *c, const char *name)
{
	char project[PROJECT_SIZE];
	bool of_one = image_project(c->daemon, name, project);

	return caller_rights(&c->caller, of_one ? project : NULL) &
	       RIGHT_DEFINE;
}

/* ---- names ---- */

static bool name_valid(const char *name)
{
	size_t size = strlen(name);

	return size && size <= NAME_MAX_BYTES && name[0] != '.' &&
	       name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz"
	                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:") == size;
}

/* What the body calls it. */
static bool said_name(struct call *c, const char **name)
{
	*name = json_string_value(json_object_get(c->body, "name"));
	if (*name && name_valid(*name))
		return true;
	call_fail(c, "bad-request",
	          "name is not letters, digits and .-_:, as debian:12", "");
	return false;
}

/* The lock of the store; -1, and the call has failed. Nobody waits for an
 * import on the daemon's one thread. */
static int lock_store(struct call *c)
{
	char *path = xasprintf("%s/.lock", c->daemon->place.images);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
		free(path);
		return fd;
	}
	if (fd >= 0 && errno == EWOULDBLOCK) {
		call_fail(c, "conflict",
		          "images are being changed by another command",
		          "try again when it is done");
	} else {
		error_set(&c->err, -errno, "%s: %s", path, strerror(errno));
		call_fail_error(c, c->err.code);
	}
	if (fd >= 0)
		close(fd);
	free(path);
	return -1;
}

static char *name_path(const struct daemon *d, const char *name)
{
	return xasprintf("%s/names/%s", d->place.images, name);
}

/* What a name leads to; NULL: nothing. */
static char *folder_of(const struct daemon *d, const char *name)
{
	char *path = name_path(d, name), *real = realpath(path, NULL);

	free(path);
	return real;
}

static int set_name(const struct daemon *d, const char *name,
                    const char *folder, struct error *err)
{
	char *target = xasprintf("../%s", strrchr(folder, '/') + 1);
	char *fresh = name_path(d, ".new"), *path = name_path(d, name);
	int rc = 0;

	unlink(fresh);
	if (symlink(target, fresh) < 0 || rename(fresh, path) < 0)
		rc = error_set(err, -errno, "cannot name the image %s: %s",
		               name, strerror(errno));
	free(target);
	free(fresh);
	free(path);
	return rc;
}

static void tag(struct call *c, const char *name, bool force)
{
	char project[PROJECT_SIZE], words[256];
	bool of_one = image_project(c->daemon, c->params[0], project);
	char *folder = folder_of(c->daemon, c->params[0]);
	int rc;

	if (!folder) {
		field_none(c, "image", c->params[0]);
	} else if (image_exists(c->daemon, name) &&
	           (!force || !image_changes(c, name))) {
		snprintf(words, sizeof(words),
		         "there is an image %.127s already", name);
		call_fail(c, "conflict", words,
		          "with force it loses the name, if it is yours");
	} else {
		rc = image_give(c->daemon, name, of_one ? project : NULL,
		                &c->err);
		if (rc == 0)
			rc = set_name(c->daemon, name, folder, &c->err);
		if (rc < 0) {
			call_fail_error(c, rc);
		} else {
			c->status = 201;
			c->reply = image_of_project(c->daemon, name,
			                            of_one ? project : NULL);
		}
	}
	free(folder);
}

void api_image_tag(struct call *c)
{
	static const char *const keys[] = { "name", "force", NULL };
	const char *name;
	bool force;
	int lock;

	if (!call_known_keys(c, keys) || !said_name(c, &name) ||
	    !field_switch(c, "force", &force))
		return;
	lock = lock_store(c);
	if (lock < 0)
		return;
	tag(c, name, force);
	close(lock);
}

/* ---- delete ---- */

static bool has_other_name(const struct daemon *d, const char *name,
                           const char *folder)
{
	char *path = xasprintf("%s/names", d->place.images);
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool other = false;

	while (dir && !other && (entry = readdir(dir))) {
		char *real;

		if (entry->d_name[0] == '.' || strcmp(entry->d_name, name) == 0)
			continue;
		real = folder_of(d, entry->d_name);
		other = real && strcmp(real, folder) == 0;
		free(real);
	}
	if (dir)
		closedir(dir);
	free(path);
	return other;
}

/* With its last name an image goes: a process removes it, if no disk lies on
 * it. */
struct removal {
	struct daemon *daemon;
	struct http_request *http;
	char *name;
};

static void removed(void *ctx, const struct error *failed)
{
	struct removal *r = ctx;
	struct error err = { 0 };

	if (!failed && image_give(r->daemon, r->name, NULL, &err) < 0)
		failed = &err;
	if (failed)
		api_reply_error(r->http, "conflict", failed->text,
		                failed->hint);
	else
		http_reply(r->http, 204, NULL, NULL, NULL, 0);
	free(r->name);
	free(r);
}

static void remove_image(struct call *c)
{
	struct removal *r = xalloc(sizeof(*r));
	const char *arguments[] = { "atoll", "image",      "delete",
		                    "--",    c->params[0], NULL };

	*r = (struct removal){ c->daemon, c->http, xstrdup(c->params[0]) };
	c->deferred =
	    job_start(c->daemon->loop, arguments, removed, r, &c->err) != NULL;
	if (c->deferred)
		return;
	free(r->name);
	free(r);
	call_fail_error(c, -EIO);
}

static void drop_name(struct call *c)
{
	char *path = name_path(c->daemon, c->params[0]);
	int rc = image_give(c->daemon, c->params[0], NULL, &c->err);

	if (rc == 0 && unlink(path) < 0)
		rc =
		    error_set(&c->err, -errno, "%s: %s", path, strerror(errno));
	if (rc < 0)
		call_fail_error(c, rc);
	else
		c->status = 204;
	free(path);
}

void api_image_delete(struct call *c)
{
	int lock = lock_store(c);
	char *folder;

	if (lock < 0)
		return;
	folder = folder_of(c->daemon, c->params[0]);
	if (!folder)
		field_none(c, "image", c->params[0]);
	else if (has_other_name(c->daemon, c->params[0], folder))
		drop_name(c);
	else
		remove_image(c);
	free(folder);
	close(lock);
}

/* ---- what takes a while ---- */

static void image_task(struct call *c, const char *kind, json_t *params,
                       const char *project)
{
	call_enqueue(c, task_new_image(c->daemon, kind, params, c->caller.name,
	                               project ? project : "", &c->err));
}

/* A text of the body; with path, a path of the host. Not there: NULL, and that
 * is as it may be. */
static bool text_of(struct call *c, const char *key, bool path, json_t *to)
{
	json_t *value = json_object_get(c->body, key);
	const char *s = json_string_value(value);
	char words[96];

	if (!value)
		return true;
	if (s && s[0] && strlen(s) < TEXT_MAX_BYTES && (!path || s[0] == '/')) {
		for (; *s && (u8)*s >= ' ' && *s != 0x7f; s++)
			;
		if (!*s) {
			json_object_set(to, key, value);
			return true;
		}
	}
	snprintf(words, sizeof(words), "%s is not %s", key,
	         path ? "an absolute path" : "what it should be");
	call_fail(c, "bad-request", words, "");
	return false;
}

/* A name for what is made; one that is there goes on being what it is, unless
 * force. */
static bool new_name(struct call *c, json_t *params)
{
	const char *name;
	bool force;

	if (!said_name(c, &name) || !field_switch(c, "force", &force))
		return false;
	if (image_exists(c->daemon, name) && !force) {
		call_fail(c, "conflict",
		          "there is an image of that name "
		          "already",
		          "with force it loses the name");
		return false;
	}
	json_object_set_new(params, "name", json_string(name));
	return true;
}

static bool project_of(struct call *c, json_t *params, const char **project)
{
	json_t *value = json_object_get(c->body, "project");

	*project = NULL;
	if (!value || json_is_null(value))
		return true;
	*project = call_project(c, NULL, RIGHT_DEFINE);
	if (!*project)
		return false;
	json_object_set_new(params, "project", json_string(*project));
	return true;
}

static bool says_enough(struct call *c, bool build)
{
	const char *path = json_string_value(json_object_get(c->body, "path"));
	bool archive = path && strlen(path) > 4 &&
	               strcmp(path + strlen(path) - 4, ".tar") == 0;

	if (build == (json_object_get(c->body, "path") != NULL))
		call_fail(c, "bad-request",
		          "say the path of what it is made of, or build", "");
	else if (!build && !archive && !json_object_get(c->body, "kernel"))
		call_fail(c, "bad-request", "kernel is missing",
		          "what does it boot? An export (.tar) has its own");
	else
		return true;
	return false;
}

void api_image_create(struct call *c)
{
	static const char *const keys[] = { "name",    "path",    "kernel",
		                            "initrd",  "cmdline", "format",
		                            "project", "force",   "build",
		                            "size",    NULL };
	json_t *params = json_object();
	const char *project = NULL;
	bool build;

	if (!call_known_keys(c, keys) || !new_name(c, params) ||
	    !text_of(c, "path", true, params) ||
	    !text_of(c, "kernel", true, params) ||
	    !text_of(c, "initrd", true, params) ||
	    !text_of(c, "cmdline", false, params) ||
	    !text_of(c, "format", false, params) ||
	    !text_of(c, "size", false, params) ||
	    !project_of(c, params, &project) ||
	    !field_switch(c, "build", &build) || !says_enough(c, build))
		json_decref(params);
	else
		image_task(c, build ? "image-build" : "image-import", params,
		           project);
}

void api_image_export(struct call *c)
{
	static const char *const keys[] = { "path", "force", NULL };
	char project[PROJECT_SIZE];
	json_t *params;
	bool force;

	if (!image_exists(c->daemon, c->params[0])) {
		field_none(c, "image", c->params[0]);
		return;
	}
	params = json_pack("{s:s}", "name", c->params[0]);
	if (!call_known_keys(c, keys) || !text_of(c, "path", true, params) ||
	    !field_switch(c, "force", &force)) {
		json_decref(params);
	} else if (!json_object_get(params, "path")) {
		call_fail(c, "bad-request", "path is missing", "");
		json_decref(params);
	} else {
		json_object_set_new(params, "force", json_boolean(force));
		image_task(c, "image-export", params,
		           image_project(c->daemon, c->params[0], project)
		               ? project
		               : NULL);
	}
}
