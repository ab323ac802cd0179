/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/kvm/kvm_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/units.h"

int kvm_device_open(void)
{
	const char *given = getenv("ATOLL_KVM_FD");
	u64 number;
	int fd;

	if (given && parse_u64(given, 3, 1 << 20, &number, NULL) == 0)
		fd = fcntl((int)number, F_DUPFD_CLOEXEC, 0);
	else
		fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}
