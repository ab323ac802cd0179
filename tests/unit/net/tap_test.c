/* SPDX-License-Identifier: Apache-2.0 */
/* A link over a real tap device, in a network namespace of our own: the host
 * answers an ARP request that goes in by the link. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/loop.h"
#include "net/link.h"

enum { SKIPPED = 77, ARP_LENGTH = 42, HOST_LAST = 1 };

/* A tap device that is up, as 10.9.9.1. */
static int open_tap(short extra)
{
	struct ifreq ifr = { .ifr_name = "tap0" };
	struct sockaddr_in *addr = (struct sockaddr_in *)(void *)&ifr.ifr_addr;
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	ifr.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | extra);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0)
		return -1;
	addr->sin_family = AF_INET;
	addr->sin_addr.s_addr = inet_addr("10.9.9.1");
	assert_int_equal(ioctl(sock, SIOCSIFADDR, &ifr), 0);
	ifr.ifr_flags = IFF_UP;
	assert_int_equal(ioctl(sock, SIOCSIFFLAGS, &ifr), 0);
	close(sock);
	return fd;
}

/* RFC 826: who has 10.9.9.1, tell 10.9.9.2. */
static const u8 question[LINK_HDR + ARP_LENGTH] = {
	[LINK_HDR] = 0xff,
	0xff,
	0xff,
	0xff,
	0xff,
	0xff,
	2,
	0,
	0,
	0,
	0,
	2,
	8,
	6,
	0,
	1,
	8,
	0,
	6,
	4,
	0,
	1,
	2,
	0,
	0,
	0,
	0,
	2,
	10,
	9,
	9,
	2,
	0,
	0,
	0,
	0,
	0,
	0,
	10,
	9,
	9,
	1,
};

static bool is_answer(const u8 *frame, ssize_t len)
{
	return len >= ARP_LENGTH && frame[12] == 8 && frame[13] == 6 &&
	       frame[21] == 2 && frame[31] == HOST_LAST;
}

static void host_answers(void **state)
{
	struct iovec iov = { (void *)(uintptr_t)question, sizeof(question) };
	static u8 buf[LINK_HDR + LINK_FRAME_MAX];
	struct error err = { 0 };
	struct link *link;
	struct loop *loop;
	struct pollfd p = { .events = POLLIN };
	bool answered = false;
	ssize_t n;

	(void)state;
	p.fd = open_tap(IFF_VNET_HDR);
	assert_int_equal(loop_create(&loop, &err), 0);
	assert_int_equal(link_open(&link, "tap", p.fd, loop, &err), 0);
	assert_true(link_peer_offloads(link) & LINK_CSUM);
	assert_true(link_peer_offloads(link) & LINK_TSO4);
	link_set_offloads(link, LINK_CSUM | LINK_TSO4 | LINK_TSO6);
	assert_int_equal(link_send(link, &iov, 1), 0);
	/* The host also says things of its own (IPv6). */
	while (!answered && poll(&p, 1, 50000) > 0) {
		n = link_receive(link, buf, sizeof(buf));
		answered = n > 0 && is_answer(buf + LINK_HDR, n - LINK_HDR);
	}
	assert_true(answered);
	link_set_offloads(link, 0);
	assert_int_equal(link_receive(link, buf, LINK_HDR), -EMSGSIZE);
	link_close(link);
	loop_destroy(loop);
}

static void needs_the_header(void **state)
{
	struct error err = { 0 };
	struct link *link = NULL;
	struct loop *loop;

	(void)state;
	assert_int_equal(loop_create(&loop, &err), 0);
	assert_int_equal(link_open(&link, "tap", open_tap(0), loop, &err),
	                 -EINVAL);
	assert_non_null(strstr(err.text, "IFF_VNET_HDR"));
	loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_answers),
		cmocka_unit_test(needs_the_header),
	};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0 || unshare(CLONE_NEWNET) < 0) {
		printf("no tap devices here: %s\n", strerror(errno));
		return SKIPPED;
	}
	close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
