/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control - messages and descriptors over a Unix stream socket.
 *
 * The header is two 32-bit little-endian words: bytes of JSON, descriptors.
 */
#include "control/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

enum { HEADER = 8 };

union fd_space {
	char buf[CMSG_SPACE(sizeof(int) * CONTROL_FDS_MAX)];
	struct cmsghdr align;
};

static void put32(u8 *p, u32 v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (u8)(v >> 8 * i);
}

static u32 get32(const u8 *p)
{
	return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static int send_failed(struct error *err)
{
	int code = errno;

	if (code == EPIPE || code == ECONNRESET)
		return error_set(err, -EPIPE,
		                 "the control socket was closed "
		                 "by the other side");
	return error_set(err, -code, "sending on the control socket: %s",
	                 strerror(code));
}

static int send_all(int sock, const void *data, size_t size, struct error *err)
{
	const u8 *p = data;

	while (size) {
		ssize_t n = send(sock, p, size, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return send_failed(err);
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

/* Descriptors ride on the header's first byte. */
static int send_header(int sock, u8 *header, const int *fds, size_t count,
                       struct error *err)
{
	union fd_space space = { 0 };
	struct iovec iov = { header, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (count) {
		struct cmsghdr *c;

		msg.msg_control = space.buf;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
	}
	do
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		return send_failed(err);
	return send_all(sock, header + 1, HEADER - 1, err);
}

static void put_header(u8 *header, size_t size, size_t count)
{
	put32(header, (u32)size);
	put32(header + 4, (u32)count);
}

int control_send(int sock, json_t *message, const int *fds, size_t count,
                 struct error *err)
{
	u8 header[HEADER];
	char *text;
	size_t size;
	int rc;

	if (count > CONTROL_FDS_MAX)
		return error_set(err, -E2BIG,
		                 "%zu descriptors in one message; "
		                 "%d are the most",
		                 count, CONTROL_FDS_MAX);
	text = json_dumps(message, JSON_COMPACT);
	if (!text)
		return error_set(err, -EINVAL,
		                 "a control message is not "
		                 "valid JSON");
	size = strlen(text);
	if (size > CONTROL_MESSAGE_MAX) {
		free(text);
		return error_set(err, -EMSGSIZE,
		                 "a control message of %zu "
		                 "bytes is too long",
		                 size);
	}
	put_header(header, size, count);
	rc = send_header(sock, header, fds, count, err);
	if (rc == 0)
		rc = send_all(sock, text, size, err);
	free(text);
	return rc;
}

u8 *control_bytes(const json_t *message, size_t *size)
{
	char *text = json_dumps(message, JSON_COMPACT);
	size_t length = text ? strlen(text) : 0;
	u8 *bytes = text ? malloc(HEADER + length) : NULL;

	if (bytes) {
		put_header(bytes, length, 0);
		memcpy(bytes + HEADER, text, length);
		*size = HEADER + length;
	}
	free(text);
	return bytes;
}

/* ---- receiving ---- */

static int receive_failed(ssize_t n, bool started, struct error *err)
{
	int code = errno;

	if (n == 0 && !started)
		return error_set(err, -EPIPE,
		                 "the control socket was closed "
		                 "by the other side");
	if (n == 0)
		return error_set(err, -EPROTO,
		                 "a control message was cut "
		                 "short");
	if (code == ECONNRESET)
		return error_set(err, -EPIPE,
		                 "the control socket was closed "
		                 "by the other side");
	return error_set(err, -code, "receiving on the control socket: %s",
	                 strerror(code));
}

static int receive_all(int sock, void *data, size_t size, struct error *err)
{
	u8 *p = data;

	while (size) {
		ssize_t n = recv(sock, p, size, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return receive_failed(n, true, err);
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

static void close_all(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

/* Collect what came along: all of it, so that none leaks. */
static size_t take_fds(struct msghdr *msg, int *fds)
{
	size_t count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c;
	     c = CMSG_NXTHDR(msg, c)) {
		size_t bytes;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		bytes = c->cmsg_len - CMSG_LEN(0);
		bytes = MIN(bytes, sizeof(int) * (CONTROL_FDS_MAX - count));
		memcpy(fds + count, CMSG_DATA(c), bytes);
		count += bytes / sizeof(int);
	}
	return count;
}

static int receive_first(int sock, u8 *first, int *fds, size_t *count,
                         struct error *err)
{
	union fd_space space;
	struct iovec iov = { first, 1 };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = space.buf,
		              .msg_controllen = sizeof(space.buf) };
	ssize_t n;

	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		return receive_failed(n, false, err);
	*count = take_fds(&msg, fds);
	if (msg.msg_flags & MSG_CTRUNC)
		return error_set(err, -EPROTO,
		                 "a control message brought too "
		                 "many descriptors");
	return 0;
}

static int receive_json(int sock, u32 size, json_t **message, struct error *err)
{
	char *text = try_alloc(size + 1, 1);
	json_error_t why;
	int rc;

	if (!text)
		return error_set(err, -ENOMEM,
		                 "no memory for a control "
		                 "message");
	rc = receive_all(sock, text, size, err);
	if (rc == 0) {
		*message = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
		if (!*message)
			rc = error_set(err, -EPROTO,
			               "a control message is "
			               "not valid JSON: %s",
			               why.text);
	}
	free(text);
	if (rc == 0 && !json_is_object(*message)) {
		json_decref(*message);
		rc = error_set(err, -EPROTO,
		               "a control message is not an "
		               "object");
	}
	return rc;
}

int control_receive(int sock, json_t **message, int *fds, size_t room,
                    size_t *count, struct error *err)
{
	int got[CONTROL_FDS_MAX];
	size_t got_count = 0;
	u8 header[HEADER];
	json_t *json = NULL;
	int rc = receive_first(sock, header, got, &got_count, err);

	if (rc == 0)
		rc = receive_all(sock, header + 1, HEADER - 1, err);
	if (rc == 0 && (get32(header) > CONTROL_MESSAGE_MAX ||
	                get32(header + 4) != got_count || got_count > room))
		rc = error_set(err, -EPROTO,
		               "a control message of %u bytes "
		               "with %zu of %u descriptors makes no sense",
		               get32(header), got_count, get32(header + 4));
	if (rc == 0)
		rc = receive_json(sock, get32(header), &json, err);
	if (rc < 0) {
		close_all(got, got_count);
		return rc;
	}
	*message = json;
	if (got_count)
		memcpy(fds, got, got_count * sizeof(*fds));
	*count = got_count;
	return 0;
}
