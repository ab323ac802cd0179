/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control_fuzz - bytes from a peer on a control socket, some descriptors with
 * the first of them. Each message that is taken must be an object, and come
 * through again as it is; no descriptor may be left open.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "control/control.h"

enum { BYTES_MAX = 64 * 1024, FDS_MAX = 8 };

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void feed(int to, const u8 *data, size_t size, size_t count)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = { 0 };
	struct iovec bytes = { (void *)(uintptr_t)data, size };
	struct msghdr m = { .msg_iov = &bytes, .msg_iovlen = 1 };
	int fds[FDS_MAX];

	for (size_t i = 0; i < count; i++)
		fds[i] = to;
	if (count) {
		m.msg_control = control.room;
		m.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
	}
	if (size && sendmsg(to, &m, MSG_NOSIGNAL) != (ssize_t)size)
		abort();
	shutdown(to, SHUT_WR);
}

/* What is sent on is what came. */
static void pass_on(json_t *message)
{
	int pair[2], fds[CONTROL_FDS_MAX];
	struct error err = { 0 };
	json_t *again = NULL;
	size_t count = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	if (control_send(pair[0], message, NULL, 0, &err) < 0 ||
	    control_receive(pair[1], &again, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0 ||
	    count || !json_equal(message, again))
		abort();
	json_decref(again);
	close(pair[0]);
	close(pair[1]);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	int pair[2], fds[CONTROL_FDS_MAX], probe;
	int before = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct error err = { 0 };
	json_t *message;
	size_t count;

	close(before);
	if (size == 0 || size > BYTES_MAX)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	feed(pair[1], data + 1, size - 1, data[0] % (FDS_MAX + 1));
	for (count = 0; control_receive(pair[0], &message, fds, CONTROL_FDS_MAX,
	                                &count, &err) == 0;
	     count = 0) {
		if (!json_is_object(message))
			abort();
		pass_on(message);
		json_decref(message);
		while (count)
			close(fds[--count]);
	}
	close(pair[0]);
	close(pair[1]);
	/* The lowest free one is what it was. */
	probe = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (probe != before)
		abort();
	close(probe);
	return 0;
}
