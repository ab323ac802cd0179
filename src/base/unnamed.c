/* SPDX-License-Identifier: Apache-2.0 */
#include "base/unnamed.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"

int unnamed_open(int folder, mode_t mode)
{
	return openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
}

int unnamed_scratch(const char *folder)
{
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char *path;

	if (fd >= 0)
		return fd;
	path = xasprintf("%s/atoll-XXXXXX", folder);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	free(path);
	return fd;
}

int unnamed_beside(const char *path)
{
	char *copy = xstrdup(path);
	int fd = unnamed_scratch(dirname(copy));

	free(copy);
	return fd;
}

int unnamed_give(int fd, int folder, const char *name)
{
	char proc[32];

	/* By its descriptor alone (AT_EMPTY_PATH) only root may. */
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, proc, folder, name, AT_SYMLINK_FOLLOW) < 0
	           ? -errno
	           : 0;
}
