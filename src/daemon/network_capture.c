/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network_capture - frames of a network, from its switch to whoever asked. A
 * reader that is slow stops the reading here, and then loses frames there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/network.h"

enum { PENDING_MAX = 1 << 20, RETRY_MS = 20, PIECE = 64 * 1024 };

struct captured {
	struct captured *next;
	struct daemon *daemon;
	struct http_request *http;
	struct caller caller;
	int fd;
	bool begun; /* the answer's head is out */
	bool gone;  /* nobody waits for it; it goes with the switch's answer */
	struct loop_fd *watch;
	struct loop_timer timer;
};

static void captured_free(struct captured *c)
{
	struct captured **at = &c->daemon->captures;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	loop_fd_remove(c->watch);
	loop_timer_fini(&c->timer);
	if (c->fd >= 0)
		close(c->fd);
	free(c);
}

static void finish(struct captured *c)
{
	struct http_request *http = c->http;

	captured_free(c);
	http_end(http);
}

static void readable(void *ctx, unsigned events)
{
	struct captured *c = ctx;
	u8 *data;
	ssize_t n;

	(void)events;
	if (auth_expired(&c->caller)) {
		finish(c);
		return;
	}
	data = xalloc(PIECE);
	n = read(c->fd, data, PIECE);
	if (n > 0 && http_write(c->http, data, (size_t)n) > PENDING_MAX) {
		loop_fd_set(c->watch, 0);
		loop_timer_arm(&c->timer,
		               loop_now_ns() + RETRY_MS * NSEC_PER_MSEC);
	}
	free(data);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		finish(c);
}

static void look_again(void *ctx)
{
	struct captured *c = ctx;

	if (http_pending(c->http) > PENDING_MAX / 2)
		loop_timer_arm(&c->timer,
		               loop_now_ns() + RETRY_MS * NSEC_PER_MSEC);
	else
		loop_fd_set(c->watch, LOOP_READ);
}

static bool may_look(struct captured *c)
{
	return auth_again(c->daemon, &c->caller) &&
	       (caller_rights(&c->caller, NULL) & RIGHT_HOST);
}

static void answered(void *ctx, json_t *reply)
{
	const char *words = json_string_value(json_object_get(reply, "words"));
	struct captured *c = ctx;
	struct http_request *http = c->http;

	if (c->gone) {
		finish(c);
		return;
	}
	if (!may_look(c)) {
		captured_free(c);
		api_reply_error(http, "unauthorized",
		                "access was taken back meanwhile", "");
		return;
	}
	if (json_is_true(json_object_get(reply, "ok"))) {
		c->begun = true;
		http_begin(http, 200, "application/vnd.tcpdump.pcap", NULL);
		c->watch =
		    loop_fd_add(c->daemon->loop, c->fd, LOOP_READ, readable, c);
		return;
	}
	captured_free(c);
	api_reply_error(http, "conflict",
	                words ? words : "the network's switch does not run",
	                "");
}

void network_capture(struct call *call, struct network *n, const char *machine,
                     s64 frames)
{
	struct captured *c;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
	               pair) < 0) {
		call_fail(call, "internal", "no sockets", "");
		return;
	}
	c = xalloc(sizeof(*c));
	c->daemon = call->daemon;
	c->http = call->http;
	c->caller = call->caller;
	c->fd = pair[0];
	loop_timer_init(&c->timer, c->daemon->loop, look_again, c);
	c->next = c->daemon->captures;
	c->daemon->captures = c;
	call->deferred = true;
	network_ask(n,
	            json_pack("{s:s, s:s, s:I}", "op", "capture", "machine",
	                      machine ? machine : "", "frames",
	                      (json_int_t)frames),
	            pair[1], answered, c);
	close(pair[1]);
}

bool network_capture_gone(struct daemon *d, const struct http_request *http)
{
	for (struct captured *c = d->captures; c; c = c->next)
		if (c->http == http) {
			if (c->begun)
				finish(c);
			else
				c->gone = true;
			return true;
		}
	return false;
}

void network_captures_check(struct daemon *d)
{
	struct captured *c, *next;

	for (c = d->captures; c; c = next) {
		next = c->next;
		if (c->begun && !may_look(c))
			finish(c);
	}
}

void network_captures_end(struct daemon *d)
{
	while (d->captures)
		finish(d->captures);
}
