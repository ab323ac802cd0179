/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/held.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/place.h"

enum { PEER_WAIT_S = 5, BACKLOG = 64, FD_ABOVE = 20, ARGUMENTS_MAX = 8 };
enum { LOCK_AT = 3, LISTEN_AT = 4, DOCUMENT_AT = 5 };

int held_lock(int folder)
{
	int rc, fd = openat(folder, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* A path of any length fits by way of the folder's descriptor. */
static int socket_name(const char *folder, const char *id,
                       struct sockaddr_un *name, struct error *err)
{
	int fd, rc = place_make(folder, err);

	fd = rc < 0 ? rc : open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && rc == 0)
		fd = error_set(err, -errno, "%s: %s", folder, strerror(errno));
	*name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(name->sun_path, sizeof(name->sun_path),
	         "/proc/self/fd/%d/%s.sock", fd, id);
	return fd;
}

static int open_listener(const char *sockets, const char *id, struct error *err)
{
	struct sockaddr_un name;
	int fd, code, folder = socket_name(sockets, id, &name, err);

	if (folder < 0)
		return folder;
	unlink(name.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && (bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0 ||
	                listen(fd, BACKLOG) < 0)) {
		code = errno;
		close(fd);
		fd = -1;
		errno = code;
	}
	if (fd < 0)
		fd = error_set(err, -errno, "the socket of %s: %s", id,
		               strerror(errno));
	close(folder);
	return fd;
}

int held_connect(const char *sockets, const char *id)
{
	struct timeval wait = { PEER_WAIT_S, 0 };
	struct sockaddr_un name;
	int fd, rc, folder = socket_name(sockets, id, &name, NULL);

	if (folder < 0)
		return folder;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	rc = fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0
	         ? -errno
	         : 0;
	close(folder);
	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		return rc;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	return fd;
}

static int document_open(json_t *document, struct error *err)
{
	int fd = memfd_create("held", MFD_CLOEXEC);

	if (fd >= 0 && json_dumpfd(document, fd, JSON_COMPACT) == 0 &&
	    lseek(fd, 0, SEEK_SET) == 0)
		return fd;
	error_set(err, -errno, "a definition: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	return err->code;
}

/* Moves fd up, out of the way of the numbers that the child has for them. */
static int above(int fd)
{
	int up = fcntl(fd, F_DUPFD_CLOEXEC, FD_ABOVE);

	close(fd);
	return up;
}

static size_t arguments(const struct held_start *how, char **argv)
{
	size_t n = 0;

	argv[n++] = strdup("atoll-hold");
	if (how->mode)
		argv[n++] = strdup(how->mode);
	argv[n++] = strdup(how->path);
	argv[n++] = strdup("3");
	argv[n++] = strdup("4");
	argv[n++] = strdup("5");
	return n;
}

static int spawn(const char *program, char **argv, int words, int lock,
                 int listener, int document, struct error *err)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, standard;
	pid_t pid;
	int code;

	sigemptyset(&none);
	sigemptyset(&standard);
	sigaddset(&standard, SIGPIPE);
	sigaddset(&standard, SIGXFSZ);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID |
	                                    POSIX_SPAWN_SETSIGMASK |
	                                    POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &standard);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&files, 0, 1);
	posix_spawn_file_actions_adddup2(&files, words, 2);
	posix_spawn_file_actions_adddup2(&files, lock, LOCK_AT);
	posix_spawn_file_actions_adddup2(&files, listener, LISTEN_AT);
	posix_spawn_file_actions_adddup2(&files, document, DOCUMENT_AT);
	code = posix_spawn(&pid, program, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (code)
		return error_set(err, -code, "cannot start %s: %s", program,
		                 strerror(code));
	/* It forks at once; what goes on is nobody's child. */
	while (waitpid(pid, &code, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(code) || WEXITSTATUS(code))
		return error_set(err, -ECHILD, "%s did not start", program);
	return 0;
}

int held_start(const struct held_start *how, struct error *err)
{
	char *program = place_program("atoll-hold", err);
	char *argv[ARGUMENTS_MAX] = { NULL };
	int lock = above(how->lock), listener = -1, document = -1, words, rc;
	size_t n = arguments(how, argv);

	words = openat(how->folder, "hold.log",
	               O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	rc = words < 0 ? error_set(err, -errno, "hold.log: %s", strerror(errno))
	               : 0;
	if (!program)
		rc = -ENOENT;
	if (rc == 0)
		rc = listener = open_listener(how->sockets, how->id, err);
	if (rc >= 0)
		rc = document = document_open(how->document, err);
	if (rc >= 0) {
		words = above(words);
		listener = above(listener);
		document = above(document);
		rc = spawn(program, argv, words, lock, listener, document, err);
	}
	close(lock);
	if (words >= 0)
		close(words);
	if (listener >= 0)
		close(listener);
	if (document >= 0)
		close(document);
	while (n)
		free(argv[--n]);
	free(program);
	return rc;
}
