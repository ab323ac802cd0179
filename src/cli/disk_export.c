/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk export - an image for any NBD client, read-only. Nobody writes
 * it meanwhile: the lock sees to that.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/disk.h"
#include "cli/live.h"
#include "cli/options.h"
#include "cli/say.h"
#include "storage/nbd.h"

enum { OPT_SOCKET = 1, OPT_NAME, OPT_ONCE, BACKLOG = 8 };

struct export
{
	struct disk_args args;
	const char *socket, *name;
	bool once;
};

static const struct option_spec options[] = {
	{ "socket", "PATH", "where clients connect; removed at the end",
	  OPT_SOCKET },
	{ "name", "NAME", "of the export (disk)", OPT_NAME },
	{ "once", NULL, "end when the last client has left", OPT_ONCE },
	DISK_OPT_FORMAT,
	{ 0 },
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct export *e = ctx;

	switch (id) {
	case OPT_SOCKET:
		e->socket = value;
		return 0;
	case OPT_NAME:
		e->name = value;
		return 0;
	case OPT_ONCE:
		e->once = true;
		return 0;
	default:
		return disk_arg(&e->args, id, value, err);
	}
}

/* One that was killed leaves its socket, at which nobody answers. */
static bool is_dead(const struct sockaddr_un *at)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;
	bool dead;

	if (fd < 0)
		return false;
	dead = lstat(at->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
	       connect(fd, (const struct sockaddr *)at, sizeof(*at)) < 0 &&
	       errno == ECONNREFUSED;
	close(fd);
	return dead;
}

int disk_listen(const char *path, struct error *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	mode_t old;
	int fd, rc;

	if (strlen(path) >= sizeof(at.sun_path))
		return error_set(err, -ENAMETOOLONG,
		                 "%s: longer than the %zu bytes of a socket's "
		                 "path",
		                 path, sizeof(at.sun_path) - 1);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, -errno, "a socket: %s", strerror(errno));
	old = umask(0177);
	rc = bind(fd, (struct sockaddr *)&at, sizeof(at));
	if (rc < 0 && errno == EADDRINUSE && is_dead(&at)) {
		unlink(path);
		rc = bind(fd, (struct sockaddr *)&at, sizeof(at));
	}
	umask(old);
	if (rc == 0)
		rc = listen(fd, BACKLOG);
	if (rc == 0)
		return fd;
	rc = -errno;
	close(fd);
	error_set(err, rc, "%s: %s", path,
	          rc == -EADDRINUSE ? "is there already" : strerror(-rc));
	if (rc == -EADDRINUSE)
		error_hint(err, "say another --socket");
	return rc;
}

/* Until a signal, or until all clients that came have left. */
static void wait_for_end(struct nbd_server *s, bool once)
{
	const struct timespec tick = { .tv_nsec = 50 * 1000 * 1000 };
	unsigned now = 1;
	u64 ever = 0;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	while (sigtimedwait(&set, NULL, once ? &tick : NULL) < 0) {
		nbd_server_clients(s, &now, &ever);
		if (once && ever > 0 && now == 0)
			return;
	}
}

static int export(const struct export *e, struct error *err)
{
	struct nbd_export what = { .name = e->name ? e->name : "disk",
		                   .description = e->args.names[0] };
	struct nbd_server *s;
	struct block *b;
	sigset_t set;
	int fd, rc = disk_open(&b, e->args.names[0], e->args.format,
	                       BLOCK_OPEN_READONLY, err);

	if (rc < 0)
		return rc;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	what.block = b;
	rc = fd = disk_listen(e->socket, err);
	if (rc >= 0)
		rc = nbd_server_start(&s, fd, &what, err);
	if (rc == 0) {
		printf("nbd+unix:///%s?socket=%s\n", what.name, e->socket);
		fflush(stdout);
		wait_for_end(s, e->once);
		nbd_server_stop(s);
	}
	if (fd >= 0)
		unlink(e->socket);
	block_close(b);
	return rc;
}

int disk_export(int argc, char **argv)
{
	struct export e = { 0 };
	struct error err;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk export FILE --socket PATH [OPTION]...",
		             "Let NBD clients read a disk (qemu-img, nbdcopy).",
		             options);
		return 0;
	}
	rc = options_parse(options, argc, argv, take_option, &e, &err);
	if (rc == 0 && e.args.name_count != 1)
		rc = error_set(&err, -EINVAL, "say one FILE");
	if (rc == 0 && !e.socket)
		rc = error_set(&err, -EINVAL, "say where: --socket PATH");
	if (rc == 0 && e.name &&
	    strspn(e.name,
	           "abcdefghijklmnopqrstuvwxyz"
	           "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != strlen(e.name))
		rc = error_set(&err, -EINVAL,
		               "--name %s: not letters, digits, '-', '_', '.'",
		               e.name);
	if (rc == 0)
		rc = export(&e, &err);
	return rc < 0 ? say_error(&err) : 0;
}
