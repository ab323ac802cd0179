/* SPDX-License-Identifier: Apache-2.0 */
#include "base/unnamed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int unnamed_open(int folder, mode_t mode)
{
	return openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
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
