/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start.c - a daemon when somebody first needs one.
 *
 * Two clients at once may both start one: the second daemon finds the state
 * taken and ends, and its starter waits for the first one's socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/place.h"
#include "client/api.h"

enum { READY_AT = 3, WAIT_MS = 30000, LOOK_MS = 20 };

static bool listens(const struct place *place)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int folder = open(place->runtime, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd;
	bool ok;

	if (folder < 0)
		return false;
	snprintf(name.sun_path, sizeof(name.sun_path),
	         "/proc/self/fd/%d/atolld.sock", folder);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ok =
	    fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0;
	if (fd >= 0)
		close(fd);
	close(folder);
	return ok;
}

/* Its words go to a file: nobody else hears them. */
static int spawn(const char *program, int log, int ready, pid_t *pid)
{
	char *argv[] = { (char[]){ "atolld" }, (char[]){ "--ready-fd" },
		         (char[]){ "3" }, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	int code, up = fcntl(ready, F_DUPFD_CLOEXEC, READY_AT + 10);

	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr,
	                         POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, 0, 1);
	posix_spawn_file_actions_adddup2(&files, log, 2);
	posix_spawn_file_actions_adddup2(&files, up, READY_AT);
	posix_spawn_file_actions_addclosefrom_np(&files, READY_AT + 1);
	code = posix_spawn(pid, program, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	close(up);
	return code;
}

static bool wait_ready(const struct place *place, int ready)
{
	u64 end = loop_now_ns() + WAIT_MS * NSEC_PER_MSEC;
	struct pollfd p = { .fd = ready, .events = POLLIN };
	char byte;

	if (poll(&p, 1, WAIT_MS) > 0 && read(ready, &byte, 1) == 1)
		return true;
	/* It ended: because another one is there, or about to be. */
	for (int i = 0; loop_now_ns() < end && i < 100; i++) {
		if (listens(place))
			return true;
		poll(NULL, 0, LOOK_MS);
	}
	return false;
}

int client_start_daemon(struct error *err)
{
	char *program = place_program("atolld", err), *log;
	struct place place;
	int ends[2] = { -1, -1 }, code, rc, fd = -1;
	pid_t pid;

	if (!program)
		return -ENOENT;
	rc = place_find(&place, err);
	if (rc < 0) {
		free(program);
		return rc;
	}
	log = xasprintf("%s/atolld.log", place.state);
	rc = place_make(place.state, err);
	if (rc == 0) {
		fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (fd < 0)
			rc = error_set(err, -errno,
			               "cannot start atolld: %s: %s", log,
			               strerror(errno));
	}
	if (rc == 0 && pipe2(ends, O_CLOEXEC) < 0)
		rc = error_set(err, -errno, "pipe: %s", strerror(errno));
	if (rc == 0) {
		code = spawn(program, fd, ends[1], &pid);
		close(ends[1]);
		if (code)
			rc = error_set(err, -code, "cannot start %s: %s",
			               program, strerror(code));
		else if (!wait_ready(&place, ends[0]))
			rc = error_set(err, -ECONNREFUSED,
			               "atolld did not start");
		if (rc == -ECONNREFUSED)
			error_hint(err, "%s says why", log);
		close(ends[0]);
	}
	if (fd >= 0)
		close(fd);
	place_fini(&place);
	free(program);
	free(log);
	return rc;
}
