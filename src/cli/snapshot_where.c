/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot_where - a machine that was started by name here, or one of a
 * daemon's. Of the same name, the one that is here is meant.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/named.h"
#include "cli/saved.h"
#include "cli/snapshot.h"
#include "control/control.h"

int snapshot_where_option(struct snapshot_of *of, struct snapshot_remote *r,
                          int id, const char *value, struct error *err)
{
	switch (id) {
	case SNAPSHOT_JSON:
		r->json = true;
		return 0;
	case SNAPSHOT_FORMAT:
		r->json = strcmp(value, "json") == 0;
		if (r->json || strcmp(value, "table") == 0)
			return 0;
		return error_set(err, -EINVAL,
		                 "--format %s is neither table nor json",
		                 value);
	case SNAPSHOT_REMOTE:
		r->where = value;
		return 0;
	case SNAPSHOT_ASYNC:
		r->async = true;
		return 0;
	case SNAPSHOT_QUIET:
		r->quiet = true;
		return 0;
	case SNAPSHOT_YES:
		r->yes = true;
		return 0;
	case SNAPSHOT_FOLDER:
		of->folder = value;
		return 0;
	case SNAPSHOT_SOCKET:
		of->socket = value;
		return 0;
	default:
		return error_set(err, -EINVAL, "%s: one name too many", value);
	}
}

/* It runs, or has left something. */
static bool is_here(const char *machine)
{
	struct error ignored = { 0 };
	json_t *disks;
	char *folder;
	bool left;

	if (!named_valid(machine))
		return false;
	folder = named_folder(machine, false, &ignored);
	left = folder && access(folder, F_OK) == 0;
	free(folder);
	if (left)
		return true;
	disks = named_disks(machine, &ignored);
	json_decref(disks);
	return disks != NULL;
}

/* Who never had a daemon gets none by a name that is misspelt. */
static bool has_daemon(void)
{
	struct error ignored = { 0 };
	struct place place;
	char *registry;
	bool has;

	if (place_find(&place, &ignored) < 0)
		return false;
	registry = xasprintf("%s/registry.db", place.state);
	has = access(place.socket, F_OK) == 0 || access(registry, F_OK) == 0;
	free(registry);
	place_fini(&place);
	return has;
}

int snapshot_is_remote(const struct snapshot_of *of,
                       const struct snapshot_remote *r, bool *remote,
                       struct error *err)
{
	const char *where = getenv("ATOLL_REMOTE");

	*remote = false;
	if (of->folder)
		return 0;
	*remote = r->where || (where && where[0]) ||
	          (!is_here(of->machine) && has_daemon());
	return *remote ? 0 : named_check(of->machine, err);
}

int snapshot_definition(int sock, json_t **out, struct error *err)
{
	int fds[CONTROL_FDS_MAX], rc;
	size_t count = 0;

	rc = saved_request(sock, json_pack("{s:s}", "op", "definition"), NULL,
	                   0, out, fds, &count, err);
	while (count)
		close(fds[--count]);
	return rc;
}

char *snapshot_suspended(const struct snapshot_of *of, struct error *err)
{
	return of->folder ? xasprintf("%s/suspended.state", of->folder)
	                  : named_suspended(of->machine, err);
}

int snapshot_write_saved(const struct snapshot_of *of, json_t *definition,
                         bool copy, struct error *err)
{
	json_t *json;
	int rc;

	if (!of->folder)
		return 0;
	json = json_pack("{s:O?, s:O?, s:b}", "spec",
	                 json_object_get(definition, "spec"), "revision",
	                 json_object_get(definition, "revision"), "copy", copy);
	rc = snapshots_write(of->folder, "suspended.json", json, err);
	json_decref(json);
	return rc;
}
