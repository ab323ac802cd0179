/* SPDX-License-Identifier: Apache-2.0 */
#include "base/place.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

#ifndef ATOLL_LIBEXECDIR
#define ATOLL_LIBEXECDIR "/usr/libexec/atoll"
#endif

/* The base directory specification: a path that is not absolute is no path. */
static const char *absolute(const char *variable)
{
	const char *value = getenv(variable);

	return value && value[0] == '/' ? value : NULL;
}

static char *below_home(const char *variable, const char *below)
{
	const char *base = absolute(variable), *home = absolute("HOME");

	if (base)
		return xasprintf("%s/atoll", base);
	return home ? xasprintf("%s/%s/atoll", home, below) : NULL;
}

static char *runtime_of(const char *state)
{
	const char *base = absolute("XDG_RUNTIME_DIR");

	if (absolute("ATOLL_RUNTIME_DIR"))
		return xstrdup(absolute("ATOLL_RUNTIME_DIR"));
	/* A state moved by hand keeps its sockets with it. */
	if (absolute("ATOLL_STATE_DIR"))
		return xasprintf("%s/run", state);
	if (geteuid() == 0)
		return xstrdup("/run/atoll");
	return base ? xasprintf("%s/atoll", base) : xasprintf("%s/run", state);
}

int place_find(struct place *out, struct error *err)
{
	struct place p = { 0 };
	char *data;

	if (absolute("ATOLL_STATE_DIR"))
		p.state = xstrdup(absolute("ATOLL_STATE_DIR"));
	else if (geteuid() == 0)
		p.state = xstrdup("/var/lib/atoll");
	else
		p.state = below_home("XDG_STATE_HOME", ".local/state");
	if (!p.state) {
		error_set(err, -ENOENT,
		          "there is no place for machines: HOME "
		          "and XDG_STATE_HOME are not set");
		return -ENOENT;
	}
	p.runtime = runtime_of(p.state);
	p.socket = xasprintf("%s/atolld.sock", p.runtime);
	data = below_home("XDG_DATA_HOME", ".local/share");
	p.images = xasprintf("%s/images", data ? data : p.state);
	free(data);
	*out = p;
	return 0;
}

void place_fini(struct place *place)
{
	free(place->state);
	free(place->runtime);
	free(place->socket);
	free(place->images);
	memset(place, 0, sizeof(*place));
}

int place_make(const char *folder, struct error *err)
{
	char *copy = xstrdup(folder), *at = copy;
	int rc = 0;

	while (rc == 0 && (at = strchr(at + 1, '/'))) {
		*at = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			rc = -errno;
		*at = '/';
	}
	if (rc == 0 && mkdir(copy, 0700) < 0 && errno != EEXIST)
		rc = -errno;
	free(copy);
	if (rc < 0)
		error_set(err, rc, "cannot make the folder %s: %s", folder,
		          strerror(-rc));
	return rc;
}

char *place_program(const char *name, struct error *err)
{
	/* An install has them in one folder; a build tree by their rooms. */
	static const char *const below[] = { "",           "../libexec/atoll/",
		                             "../vm/",     "../net/",
		                             "../daemon/", "../cli/" };
	const char *override = getenv("ATOLL_LIBEXECDIR");
	char exe[PATH_MAX], *path;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (override) {
		path = xasprintf("%s/%s", override, name);
		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	exe[n < 0 ? 0 : n] = '\0';
	dirname(exe);
	for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
		path = xasprintf("%s/%s%s", exe, below[i], name);
		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	path = xasprintf("%s/%s", ATOLL_LIBEXECDIR, name);
	if (access(path, X_OK) == 0)
		return path;
	free(path);
	error_set(err, -ENOENT, "the program %s is missing", name);
	error_hint(err, "it belongs beside %s or in %s", exe, ATOLL_LIBEXECDIR);
	return NULL;
}
