/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "launch/launch.h"

static int open_driver(struct error *err)
{
	int code, fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		return fd;
	code = errno;
	error_set(err, -code, "cannot open the tap driver /dev/net/tun: %s",
	          strerror(code));
	if (code == EACCES || code == EPERM)
		error_hint(err, "ls -l /dev/net/tun shows who may");
	return -code;
}

int launch_tap(const char *name, struct error *err)
{
	struct ifreq ifr = { 0 };
	int code, fd;

	if (strlen(name) == 0 || strlen(name) >= sizeof(ifr.ifr_name))
		return error_set(err, -EINVAL,
		                 "tap:%s: not the name of an interface", name);
	fd = open_driver(err);
	if (fd < 0)
		return fd;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	if (ioctl(fd, TUNSETIFF, &ifr) == 0)
		return fd;
	code = errno;
	close(fd);
	/* A wrong kind of interface is not a wrong word of the caller. */
	error_set(err, code == EINVAL ? -ENODEV : -code,
	          "cannot open the tap interface %s: %s", name, strerror(code));
	if (code == EBUSY)
		return error_hint(err, "another machine has it");
	return error_hint(err,
	                  "as root: ip tuntap add dev %s mode tap user "
	                  "YOU vnet_hdr && ip link set %s up",
	                  name, name);
}
