/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_control - messages with descriptors go through whole; what is not a
 * message is refused, and no descriptor leaks.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "control/control.h"

static int pair[2];

static int setup(void **state)
{
	(void)state;
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
}

static int teardown(void **state)
{
	(void)state;
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static int lowest_free(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

static void messages_arrive(void **state)
{
	json_t *sent = json_pack("{s:s,s:[i,i]}", "op", "start", "n", 1, 2);
	json_t *got = NULL;
	int fds[CONTROL_FDS_MAX], ends[2];
	size_t count = 99;
	char c = 0;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(control_send(pair[0], sent, ends, 2, NULL), 0);
	assert_int_equal(control_send(pair[0], sent, NULL, 0, NULL), 0);
	assert_int_equal(
	    control_receive(pair[1], &got, fds, CONTROL_FDS_MAX, &count, NULL),
	    0);
	assert_int_equal(count, 2);
	assert_true(json_equal(sent, got));
	assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(read(ends[0], &c, 1), 1);
	assert_int_equal(c, 'x');
	json_decref(got);
	assert_int_equal(
	    control_receive(pair[1], &got, fds + 2, 2, &count, NULL), 0);
	assert_int_equal(count, 0);
	json_decref(got);
	json_decref(sent);
	for (int i = 0; i < 2; i++) {
		close(fds[i]);
		close(ends[i]);
	}
}

static void the_most_descriptors_pass(void **state)
{
	json_t *sent = json_pack("{}"), *got;
	int fds[CONTROL_FDS_MAX], out[CONTROL_FDS_MAX];
	size_t count;

	(void)state;
	for (int i = 0; i < CONTROL_FDS_MAX; i++)
		fds[i] = pair[0];
	assert_int_equal(
	    control_send(pair[0], sent, fds, CONTROL_FDS_MAX + 1, NULL),
	    -E2BIG);
	assert_int_equal(
	    control_send(pair[0], sent, fds, CONTROL_FDS_MAX, NULL), 0);
	assert_int_equal(
	    control_receive(pair[1], &got, out, CONTROL_FDS_MAX, &count, NULL),
	    0);
	assert_int_equal(count, CONTROL_FDS_MAX);
	while (count)
		close(out[--count]);
	json_decref(got);
	json_decref(sent);
}

static void closed_socket_is_told(void **state)
{
	json_t *got;
	int fds[1];
	size_t count;

	(void)state;
	shutdown(pair[0], SHUT_WR);
	assert_int_equal(control_receive(pair[1], &got, fds, 1, &count, NULL),
	                 -EPIPE);
}

/* A header and bytes as given; fd rides along if >= 0. */
static void send_raw(u32 size, u32 fd_count, const char *bytes, int fd)
{
	u32 header[2] = { size, fd_count };
	char space[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { header, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = space;
		msg.msg_controllen = sizeof(space);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	assert_int_equal(sendmsg(pair[0], &msg, 0), 1);
	assert_int_equal(write(pair[0], (char *)header + 1, 7), 7);
	assert_int_equal(write(pair[0], bytes, strlen(bytes)), strlen(bytes));
	shutdown(pair[0], SHUT_WR);
}

static void assert_refused(u32 size, u32 fd_count, const char *bytes, int fd,
                           size_t room)
{
	struct error err = { 0 };
	json_t *got;
	int fds[4], free_before;
	size_t count;

	send_raw(size, fd_count, bytes, fd);
	free_before = lowest_free();
	assert_int_equal(
	    control_receive(pair[1], &got, fds, room, &count, &err), -EPROTO);
	assert_true(err.text[0]);
	assert_int_equal(lowest_free(), free_before);
	teardown(NULL);
	assert_int_equal(setup(NULL), 0);
}

static void nonsense_is_refused(void **state)
{
	(void)state;
	assert_refused(0xffffffff, 0, "", -1, 4);
	assert_refused(CONTROL_MESSAGE_MAX + 1, 0, "", -1, 4);
	assert_refused(2, 0, "{", -1, 4);                  /* cut short */
	assert_refused(4, 0, "nope", -1, 4);               /* not JSON */
	assert_refused(2, 0, "[]", -1, 4);                 /* not an object */
	assert_refused(13, 0, "{\"a\":1,\"a\":2}", -1, 4); /* twice */
	assert_refused(2, 1, "{}", -1, 4);     /* descriptor missing */
	assert_refused(2, 0, "{}", 1, 4);      /* one too many */
	assert_refused(2, 1, "{}", 1, 0);      /* no room for it */
	assert_refused(3, 0, "{}\xff", -1, 4); /* not UTF-8 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(messages_arrive, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(the_most_descriptors_pass,
		                                setup, teardown),
		cmocka_unit_test_setup_teardown(closed_socket_is_told, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(nonsense_is_refused, setup,
		                                teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
