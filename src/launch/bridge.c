/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bridge.c - a tap device of our own on a bridge of the host. It is gone when
 * its descriptor is closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "launch/helper.h"
#include "launch/launch.h"

enum { HEADER = 12 }; /* of net/vnet.h */

static int join(int sock, const char *bridge, const char *tap, u64 mtu,
                struct error *err)
{
	struct ifreq ifr = { 0 };

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", bridge);
	ifr.ifr_ifindex = (int)if_nametoindex(tap);
	if (ioctl(sock, SIOCBRADDIF, &ifr) < 0) {
		error_set(err, -errno, "cannot join the bridge %s: %s", bridge,
		          strerror(errno));
		return error_hint(err, "ip link show type bridge shows those "
		                       "of this host");
	}
	memset(&ifr, 0, sizeof(ifr));
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", tap);
	ifr.ifr_mtu = (int)mtu;
	if (ioctl(sock, SIOCSIFMTU, &ifr) < 0)
		return error_set(err, -errno, "an MTU of %d: %s", (int)mtu,
		                 strerror(errno));
	if (ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
		return error_set(err, -errno, "%s: %s", tap, strerror(errno));
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &ifr) < 0)
		return error_set(err, -errno, "%s: %s", tap, strerror(errno));
	return 0;
}

static int make_tap(char *name, struct error *err)
{
	unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	struct ifreq ifr = { .ifr_name = "atoll%d" };
	int header = HEADER, code;
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	if (fd >= 0 && ioctl(fd, TUNSETIFF, &ifr) == 0 &&
	    ioctl(fd, TUNSETVNETHDRSZ, &header) == 0 &&
	    ioctl(fd, TUNSETOFFLOAD, (unsigned long)offloads) == 0) {
		memcpy(name, ifr.ifr_name, IFNAMSIZ);
		return fd;
	}
	code = errno;
	if (fd >= 0)
		close(fd);
	return error_set(err, -code, "cannot make a tap device: %s",
	                 strerror(code));
}

static int open_here(const char *bridge, u64 mtu, struct error *err)
{
	char tap[IFNAMSIZ];
	int fd, sock, rc;

	if (strlen(bridge) == 0 || strlen(bridge) >= IFNAMSIZ)
		return error_set(err, -EINVAL, "%s is not the name of a bridge",
		                 bridge);
	fd = make_tap(tap, err);
	if (fd < 0)
		return fd;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	rc = sock < 0 ? error_set(err, -errno, "a socket: %s", strerror(errno))
	              : join(sock, bridge, tap, mtu, err);
	if (sock >= 0)
		close(sock);
	if (rc == 0)
		return fd;
	close(fd);
	return rc;
}

int launch_bridge(const char *bridge, u64 mtu, struct error *err)
{
	struct error none = { 0 };
	int helper = geteuid() ? helper_connect(&none) : -1, fd;

	if (helper < 0)
		return open_here(bridge, mtu, err);
	fd = helper_bridge(helper, bridge, mtu, err);
	close(helper);
	return fd;
}
