/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "launch/helper.h"

enum { BACKLOG = 64, LISTEN_AT = 3, OPEN_FOLDERS = 32 };

/* ---- folders ---- */

/* Only what root made, and what has no second name elsewhere: the folder was
 * root's alone until now. */
static int hand_one(const char *path, uid_t uid, gid_t gid)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return -errno;
	if (st.st_uid != 0 || (!S_ISDIR(st.st_mode) && st.st_nlink > 1))
		return 0;
	return lchown(path, uid, gid) < 0 ? -errno : 0;
}

static int hand_below(const char *folder, uid_t uid, gid_t gid)
{
	char *const paths[] = { xstrdup(folder), NULL };
	FTS *all = fts_open(paths, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
	FTSENT *at;
	int rc = all ? 0 : -errno;

	while (rc == 0 && (at = fts_read(all)))
		if (at->fts_info != FTS_DP)
			rc = hand_one(at->fts_path, uid, gid);
	if (all)
		fts_close(all);
	free(paths[0]);
	return rc;
}

static int hand_over(const struct place *place, const struct passwd *to,
                     struct error *err)
{
	char *sockets = xasprintf("%s/machines", place->runtime);
	const char *folder = place->state;
	struct stat st;
	int rc = stat(folder, &st) < 0 ? -errno : 0;

	if (rc == 0 && st.st_uid != to->pw_uid)
		rc = hand_below(folder, to->pw_uid, to->pw_gid);
	/* Of what else is there some is root's for good: UID_FOLDER. */
	if (rc == 0) {
		folder = place->runtime;
		rc = hand_one(folder, to->pw_uid, to->pw_gid);
	}
	if (rc == 0 && stat(sockets, &st) == 0 && st.st_uid != to->pw_uid)
		rc = hand_below(sockets, to->pw_uid, to->pw_gid);
	free(sockets);
	return rc < 0 ? error_set(err, rc, "cannot give %s to %s: %s", folder,
	                          to->pw_name, strerror(-rc))
	              : 0;
}

/* ---- the helper ---- */

static int open_listener(const char *path, const struct passwd *to,
                         struct error *err)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd, code;

	if (strlen(path) >= sizeof(name.sun_path))
		return error_set(err, -ENAMETOOLONG,
		                 "%s: too long for a socket", path);
	memcpy(name.sun_path, path, strlen(path));
	unlink(path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof(name)) == 0 &&
	    chmod(path, 0600) == 0 &&
	    lchown(path, to->pw_uid, to->pw_gid) == 0 &&
	    listen(fd, BACKLOG) == 0)
		return fd;
	code = errno;
	if (fd >= 0)
		close(fd);
	return error_set(err, -code, "%s: %s", path, strerror(code));
}

static int spawn(int listener, uid_t user, struct error *err)
{
	char *program = place_program("atoll-helper", err), number[16];
	char *argv[] = { (char[]){ "atoll-helper" },
		         (char[]){ "--listen-fd" },
		         (char[]){ "3" },
		         (char[]){ "--user" },
		         number,
		         NULL };
	/* What it is told is told here: nothing of our environment. */
	char *variables[] = { (char[]){ "PATH=/usr/sbin:/usr/bin:/sbin:/bin" },
		              NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	pid_t pid;
	int code;

	if (!program)
		return -ENOENT;
	snprintf(number, sizeof(number), "%u", user);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, 0, 1);
	posix_spawn_file_actions_adddup2(&files, listener, LISTEN_AT);
	code = posix_spawn(&pid, program, &files, &attr, argv, variables);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	free(program);
	return code ? error_set(err, -code, "cannot start atoll-helper: %s",
	                        strerror(code))
	            : 0;
}

/* Connected, and it answers. */
static int hello(struct error *err)
{
	int fd = helper_connect(err), rc = fd < 0 ? fd : helper_hello(fd, err);

	if (rc < 0 && fd >= 0)
		close(fd);
	return rc < 0 ? rc : fd;
}

static int find_helper(const char *folder, const struct passwd *to,
                       struct error *err)
{
	char *path = xasprintf("%s/helper.sock", folder);
	int listener, rc;

	setenv("ATOLL_HELPER", path, 1);
	rc = hello(err);
	if (rc < 0) { /* none, or one of another version: ours instead */
		rc = listener = open_listener(path, to, err);
		if (rc >= 0)
			rc = spawn(listener, to->pw_uid, err);
		if (rc == 0)
			rc = hello(err);
		if (listener >= 0)
			close(listener);
	}
	free(path);
	return rc;
}

/* ---- the user ---- */

static int become(const struct passwd *to, struct error *err)
{
	if (initgroups(to->pw_name, to->pw_gid) < 0 ||
	    setresgid(to->pw_gid, to->pw_gid, to->pw_gid) < 0 ||
	    setresuid(to->pw_uid, to->pw_uid, to->pw_uid) < 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_set(err, -errno, "cannot become %s: %s",
		                 to->pw_name, strerror(errno));
	return 0;
}

int privileges_give_up(const struct place *place, const char *user, int *helper,
                       struct error *err)
{
	const struct passwd *to = getpwnam(user);
	int rc;

	if (geteuid() != 0)
		return error_set(err, -EPERM,
		                 "--user is for root: this is user %u already",
		                 geteuid());
	if (!to || to->pw_uid == 0) {
		error_set(err, -ENOENT, "there is no ordinary user %s", user);
		return error_hint(err,
		                  "systemd-sysusers makes the user atoll; "
		                  "or: useradd --system %s",
		                  user);
	}
	rc = hand_over(place, to, err);
	if (rc == 0)
		rc = *helper = find_helper(place->runtime, to, err);
	if (rc < 0)
		return rc;
	/* Those whom we start look in the same places. */
	setenv("ATOLL_STATE_DIR", place->state, 1);
	setenv("ATOLL_RUNTIME_DIR", place->runtime, 1);
	setenv("HOME", place->state, 1);
	return become(to, err);
}
