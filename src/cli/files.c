/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/files.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"

static int fail_open(const char *what, const char *path, struct error *err)
{
	int code = errno;

	error_set(err, -code, "cannot open the %s %s: %s", what, path,
	          strerror(code));
	if (code == EACCES || code == EPERM)
		error_hint(err, "ls -l %s shows who may", path);
	return -code;
}

static int close_with(int fd, int code)
{
	close(fd);
	return code;
}

int file_open_input(const char *what, const char *path, struct error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return fail_open(what, path, err);
	if (fstat(fd, &st) < 0)
		return close_with(fd, fail_open(what, path, err));
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		return error_set(
		    err, -EISDIR, "the %s %s is %s, not a file", what, path,
		    S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
	}
	if (st.st_size == 0) {
		close(fd);
		return error_set(err, -ENODATA, "the %s %s is empty", what,
		                 path);
	}
	return fd;
}

/* The block layer locks it for good; asking now gives the better words. */
static int check_lock(int fd, const char *path, bool readonly,
                      struct error *err)
{
	struct flock lock = {
		.l_type = readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
		return 0;
	error_set(err, -EBUSY, "the disk %s is in use by another process",
	          path);
	return error_hint(err, readonly ? "somebody writes to it"
	                                : "stop the other machine, or add "
	                                  ",readonly when both only read");
}

int file_open_disk(const char *path, bool readonly, struct error *err)
{
	struct stat st;
	int rc, fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC |
	                            O_NOCTTY | O_NONBLOCK);

	if (fd < 0 && errno == EISDIR)
		return error_set(err, -EISDIR,
		                 "the disk %s is a directory, not a file",
		                 path);
	if (fd < 0 && !readonly && (errno == EACCES || errno == EROFS)) {
		rc = fail_open("disk", path, err);
		error_hint(err, "add ,readonly if the guest only reads it");
		return rc;
	}
	if (fd < 0)
		return fail_open("disk", path, err);
	if (fstat(fd, &st) < 0)
		return close_with(fd, fail_open("disk", path, err));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		close(fd);
		return error_set(err, -EISDIR,
		                 "the disk %s is %s, not a file or block "
		                 "device",
		                 path,
		                 S_ISDIR(st.st_mode) ? "a directory"
		                                     : "a device or pipe");
	}
	rc = check_lock(fd, path, readonly, err);
	return rc < 0 ? close_with(fd, rc) : fd;
}

int file_open_layer(void *ctx, const char *path, bool readonly,
                    struct error *err)
{
	(void)ctx;
	return file_open_disk(path, readonly, err);
}

bool file_same(const char *a, const char *b)
{
	struct stat sa, sb;

	return stat(a, &sa) == 0 && stat(b, &sb) == 0 &&
	       sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

int file_open_output(const char *what, const char *path, struct error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY,
	              0666);

	return fd < 0 ? fail_open(what, path, err) : fd;
}

int socket_listen(const char *what, const char *where, struct error *err)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	const char *colon = strrchr(where, ':');
	char host[64] = "127.0.0.1";
	int fd, one = 1, code;
	u64 port;

	if (colon && colon != where)
		snprintf(host, sizeof(host), "%.*s",
		         (int)MIN(colon - where, (ptrdiff_t)63), where);
	if (strcmp(host, "localhost") == 0)
		snprintf(host, sizeof(host), "127.0.0.1");
	if (parse_u64(colon ? colon + 1 : where, 1, 65535, &port, NULL) < 0 ||
	    inet_pton(AF_INET, host, &addr.sin_addr) != 1)
		return error_set(err, -EINVAL, "%s: %s is not [ADDRESS]:PORT",
		                 what, where);
	addr.sin_port = htons((u16)port);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, -errno, "%s: %s", what, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(fd, 1) < 0) {
		code = errno;
		close(fd);
		return error_set(err, -code, "%s: cannot listen on %s: %s",
		                 what, where, strerror(code));
	}
	return fd;
}
