/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/named.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/image.h"
#include "cli/saved.h"

enum { NAME_BYTES = 63, ENDING_US = 10000000, STEP_US = 2000 };

bool named_valid(const char *name)
{
	size_t len = strlen(name);

	return len && len <= NAME_BYTES && name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz"
	                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == len;
}

int named_check(const char *name, struct error *err)
{
	if (named_valid(name))
		return 0;
	return error_set(err, -EINVAL,
	                 "%s: not 1 to 63 letters, digits and dashes", name);
}

static char *sockets(struct error *err)
{
	struct place place;
	char *folder = NULL;

	if (place_find(&place, err) == 0) {
		folder = xasprintf("%s/named", place.runtime);
		place_fini(&place);
	}
	return folder;
}

static int make_address(struct sockaddr_un *a, const char *path,
                        struct error *err)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(a->sun_path)) {
		error_set(err, -ENAMETOOLONG, "the path %s is too long", path);
		return error_hint(err, "set ATOLL_RUNTIME_DIR to a shorter "
		                       "one");
	}
	memcpy(a->sun_path, path, strlen(path));
	return 0;
}

/* The lock says that the name is ours, so a socket there is a dead one's. */
static int listen_at(const char *path, struct error *err)
{
	struct sockaddr_un address;
	int rc = make_address(&address, path, err), fd;

	if (rc < 0)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	if (fd < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 16) < 0) {
		rc = error_set(err, -errno, "cannot listen at %s: %s", path,
		               strerror(errno));
		if (fd >= 0)
			close(fd);
		return rc;
	}
	return fd;
}

/* A socket, or -errno. flags: more of those of socket(). */
static int connect_to(const struct sockaddr_un *address, int flags)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0), rc;

	if (fd >= 0 && connect(fd, (const struct sockaddr *)address,
	                       sizeof(*address)) == 0)
		return fd;
	rc = -errno;
	if (fd >= 0)
		close(fd);
	return rc;
}

static bool is_nobody(int rc)
{
	return rc == -ENOENT || rc == -ECONNREFUSED;
}

static bool somebody_listens(const char *socket_path)
{
	struct sockaddr_un address;
	struct error err;
	int fd;

	if (make_address(&address, socket_path, &err) < 0)
		return true;
	fd = connect_to(&address, SOCK_NONBLOCK);
	if (fd >= 0)
		close(fd);
	return !is_nobody(fd);
}

/* A machine that has ended leaves the name when its starter has put away what
 * is to be: who starts it again at once waits for that. */
static int lock_name(const char *path, const char *socket_path,
                     const char *name, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_set(err, -errno, "cannot open %s: %s", path,
		                 strerror(errno));
	for (unsigned us = 0; us < ENDING_US; us += STEP_US) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		if (somebody_listens(socket_path))
			break;
		usleep(STEP_US);
	}
	close(fd);
	error_set(err, -EEXIST, "a machine named %s runs already", name);
	return error_hint(err, "choose another --name");
}

int named_claim(struct named *n, const char *name, struct error *err)
{
	char *folder = sockets(err), *lock;
	int rc = folder ? place_make(folder, err) : err->code;

	*n = (struct named){ .lock_fd = -1, .listen_fd = -1 };
	if (rc < 0) {
		free(folder);
		return rc;
	}
	lock = xasprintf("%s/%s.lock", folder, name);
	n->socket_path = xasprintf("%s/%s.sock", folder, name);
	n->disks_path = xasprintf("%s/%s.disks", folder, name);
	n->lock_fd = lock_name(lock, n->socket_path, name, err);
	if (n->lock_fd >= 0)
		n->listen_fd = listen_at(n->socket_path, err);
	free(lock);
	free(folder);
	if (n->listen_fd < 0) {
		rc = err->code;
		named_release(n);
		return rc;
	}
	return 0;
}

void named_release(struct named *n)
{
	if (n->lock_fd >= 0) {
		unlink(n->socket_path);
		unlink(n->disks_path);
		close(n->lock_fd);
	}
	if (n->listen_fd >= 0)
		close(n->listen_fd);
	free(n->socket_path);
	free(n->disks_path);
	*n = (struct named){ .lock_fd = -1, .listen_fd = -1 };
}

int named_publish(struct named *n, json_t *disks, char *const *paths,
                  bool disposable, struct error *err)
{
	json_t *list = json_array(), *disk;
	size_t i;
	int rc;

	json_array_foreach(disks, i, disk)
	{
		json_t *format = json_object_get(disk, "format");
		json_t *readonly = json_object_get(disk, "readonly");

		json_array_append_new(
		    list, json_pack("{s:s, s:O?, s:O?, s:b}", "path", paths[i],
		                    "format", format, "readonly", readonly,
		                    "disposable", disposable));
	}
	unlink(n->disks_path); /* of a dead one */
	rc = json_dump_file(list, n->disks_path, JSON_COMPACT);
	json_decref(list);
	return rc < 0 ? error_set(err, -EIO, "cannot write %s", n->disks_path)
	              : 0;
}

json_t *named_disks(const char *name, struct error *err)
{
	char *folder = sockets(err), *path;
	json_t *list;

	if (!folder)
		return NULL;
	path = xasprintf("%s/%s.disks", folder, name);
	list = json_load_file(path, 0, NULL);
	if (!list)
		error_set(err, -ENOENT, "no machine named %s runs", name);
	free(path);
	free(folder);
	return list;
}

int named_check_lasting(const char *name, struct error *err)
{
	json_t *list = named_disks(name, err), *first;
	int rc = list ? 0 : err->code;

	first = json_array_get(list, 0);
	if (rc == 0 && json_is_true(json_object_get(first, "disposable"))) {
		rc = error_set(err, -EBUSY, "%s is to leave nothing behind",
		               name);
		error_hint(err, "it was started with --rm");
	}
	json_decref(list);
	return rc;
}

int named_connect(const char *name, struct error *err)
{
	char *folder = sockets(err), *path;
	struct sockaddr_un address;
	int rc;

	if (!folder)
		return err->code;
	path = xasprintf("%s/%s.sock", folder, name);
	rc = make_address(&address, path, err);
	if (rc == 0) {
		rc = connect_to(&address, 0);
		if (is_nobody(rc))
			rc = error_set(err, -ENOENT, "no machine named %s runs",
			               name);
		else if (rc < 0)
			error_set(err, rc, "cannot reach %s: %s", path,
			          strerror(-rc));
	}
	free(path);
	free(folder);
	return rc;
}

char *named_folder(const char *name, bool make, struct error *err)
{
	struct place place;
	char *folder;

	if (place_find(&place, err) < 0)
		return NULL;
	folder = xasprintf("%s/named/%s", place.state, name);
	place_fini(&place);
	if (make && place_make(folder, err) < 0) {
		free(folder);
		return NULL;
	}
	return folder;
}

void named_forget(const char *name)
{
	char *folder = named_folder(name, false, NULL);

	if (folder)
		image_remove_tree(folder);
	free(folder);
}

int named_fresh(const char *name, struct error *err)
{
	char *path = named_suspended(name, err), *current;
	int rc = 0;

	if (!path)
		return err->code;
	current = named_folder(name, false, err);
	if (saved_is_there(path)) {
		rc = error_set(err, -EEXIST, "a machine named %s is suspended",
		               name);
		error_hint(err, "atoll resume %s, or delete %.150s", name,
		           path);
	} else {
		char *from = xasprintf("%s/snapshots/current.json", current);

		/* Of one that was killed; and this one comes of no snapshot. */
		saved_forget_disks(path);
		unlink(from);
		free(from);
	}
	free(current);
	free(path);
	return rc;
}

char *named_suspended(const char *name, struct error *err)
{
	char *folder = named_folder(name, false, err), *path = NULL;

	if (folder)
		path = xasprintf("%s/suspended.state", folder);
	free(folder);
	return path;
}
