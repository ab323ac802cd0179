/* SPDX-License-Identifier: Apache-2.0 */
#include "base/given.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/units.h"

const struct given_device given_devices[GIVEN_COUNT] = {
	[GIVEN_KVM] = { "/dev/kvm", "ATOLL_KVM_FD" },
	[GIVEN_USERFAULTFD] = { "/dev/userfaultfd", "ATOLL_USERFAULTFD_FD" },
};

int given_fd(enum given which)
{
	const char *text = getenv(given_devices[which].variable);
	u64 fd;

	return text && parse_u64(text, 3, 1 << 20, &fd, NULL) == 0 ? (int)fd
	                                                           : -1;
}

int given_open(enum given which)
{
	int fd = given_fd(which);

	fd = fd < 0 ? open(given_devices[which].path, O_RDWR | O_CLOEXEC)
	            : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

void given_close(void)
{
	for (unsigned i = 0; i < GIVEN_COUNT; i++) {
		int fd = given_fd((enum given)i);

		if (fd >= 0)
			close(fd);
		unsetenv(given_devices[i].variable);
	}
}
