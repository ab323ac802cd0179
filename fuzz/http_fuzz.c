/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http_fuzz - bytes on a connection, in the pieces that the first of them say,
 * to the server of http/. Requests that it hands on must be whole and within
 * their bounds; the connection ends when its client has said all.
 *
 * How the core answers is chosen by the path: at once, in pieces, or not until
 * the client is gone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "daemon/http.h"

enum { PATIENCE_S = 10, PIECES = 4, QUEUED = 64 };

static struct {
	struct loop *loop;
	struct http *http;
	struct sockaddr_un name;
	socklen_t name_size;
	unsigned open; /* requests of the core's */
	int client;
	bool closed;
	struct loop_timer late;
} all;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* ---- the core ---- */

static void check(const struct http_request *r)
{
	unsigned sum = 0;

	if (!r->method || !memchr(r->path, 0, sizeof(r->path)) ||
	    !memchr(r->query, 0, sizeof(r->query)) ||
	    r->body_size > HTTP_BODY_MAX || !r->local || r->uid != geteuid())
		abort();
	for (int i = 0; i < HTTP_HEADERS; i++)
		if (!memchr(r->headers[i], 0, HTTP_HEADER_MAX))
			abort();
	for (size_t i = 0; i < r->body_size; i++)
		sum += r->body[i];
	if (sum > 255 * r->body_size)
		abort();
}

static void done(struct http_request *r)
{
	all.open--;
	http_end(r);
}

static void take(void *ctx, struct http_request *r)
{
	(void)ctx;
	check(r);
	all.open++;
	/* Who only has said all may wait for an answer; who hangs up does not.
	 */
	if (strchr(r->path, '~')) {
		shutdown(all.client, SHUT_RDWR);
		return;
	}
	if (strchr(r->path, ',')) {
		http_begin(r, 200, "text/plain", "x-a: b\n");
		for (int i = 0; i < PIECES; i++)
			http_write(r, r->path, strlen(r->path));
		done(r);
		return;
	}
	all.open--;
	http_reply(r, 200, "text/plain", NULL, r->body, r->body_size);
}

static void gone(void *ctx, struct http_request *r)
{
	(void)ctx;
	done(r);
}

/* ---- the client ---- */

static void finish_when_done(void *ctx)
{
	(void)ctx;
	if (all.closed && all.open == 0)
		loop_quit(all.loop, 0);
	else if (all.closed) /* its going is on its way here */
		loop_post(all.loop, finish_when_done, NULL);
}

static void heard(void *ctx, unsigned events)
{
	struct loop_fd **watch = ctx;
	char answer[4096];
	ssize_t n = recv(all.client, answer, sizeof(answer), MSG_DONTWAIT);

	(void)events;
	if (n > 0 || (n < 0 && errno == EAGAIN))
		return;
	loop_fd_remove(*watch);
	*watch = NULL;
	all.closed = true;
	loop_post(all.loop, finish_when_done, NULL);
}

static void too_late(void *ctx)
{
	(void)ctx;
	fprintf(stderr, "%u requests are open, the connection is%s\n", all.open,
	        all.closed ? " not" : "");
	abort();
}

static void say(const u8 *data, size_t size, size_t piece)
{
	size_t n;

	/* The connection is not taken yet: it holds so many, however small. */
	piece = MAX(piece, size / QUEUED + 1);
	for (; size; data += n, size -= n) {
		n = MIN(size, piece);
		/* The server may have had enough. */
		if (send(all.client, data, n, MSG_NOSIGNAL) != (ssize_t)n)
			break;
	}
	shutdown(all.client, SHUT_WR);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct loop_fd *watch;

	if (size < 2)
		return 0;
	all.closed = false;
	all.client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(all.client, (struct sockaddr *)&all.name, all.name_size) <
	    0)
		abort();
	say(data + 2, size - 2, (data[0] | data[1] << 8) + 1u);
	watch = loop_fd_add(all.loop, all.client, LOOP_READ, heard, &watch);
	loop_timer_arm(&all.late, loop_now_ns() + PATIENCE_S * 1000000000ull);
	loop_run(all.loop);
	loop_timer_cancel(&all.late);
	close(all.client);
	return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct http_config config = { .request = take, .gone = gone };
	struct error err = { 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	(void)argc;
	(void)argv;
	all.name.sun_family = AF_UNIX;
	/* No path: the kernel chooses an abstract name. */
	if (fd < 0 ||
	    bind(fd, (struct sockaddr *)&all.name, sizeof(sa_family_t)) < 0 ||
	    listen(fd, 16) < 0)
		abort();
	all.name_size = sizeof(all.name);
	getsockname(fd, (struct sockaddr *)&all.name, &all.name_size);
	log_setup(STDERR_FILENO, LOG_ERROR, "http_fuzz");
	if (loop_create(&all.loop, &err) < 0)
		abort();
	config.loop = all.loop;
	if (http_create(&all.http, &config, &err) < 0)
		abort();
	http_listen(all.http, fd);
	loop_timer_init(&all.late, all.loop, too_late, NULL);
	return http_start(all.http, &err);
}
