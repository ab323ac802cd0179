/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exchange - the life of a request and its answer, between two threads.
 */
#include "daemon/http/internal.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/loop.h"

enum { LOOK_US = 5000000, FULL_US = 20000 };

static void exchange_free(struct exchange *x)
{
	free(x->request.body);
	free(x->headers);
	free(x->out);
	free(x);
}

static void unlink_exchange(struct exchange *x)
{
	if (x->prev)
		x->prev->next = x->next;
	else
		x->http->open = x->next;
	if (x->next)
		x->next->prev = x->prev;
}

static void tell_gone(void *ctx)
{
	struct exchange *x = ctx;

	x->gone_posted = false;
	if (x->core_done)
		exchange_free(x);
	else
		x->http->config.gone(x->http->config.ctx, &x->request);
}

/* The connection's side lets go. */
void exchange_let_go(struct session *s, bool answered)
{
	struct exchange *x = s->exchange;
	struct http *h;
	bool last;

	if (!x)
		return;
	s->exchange = NULL;
	h = x->http;
	pthread_mutex_lock(&h->lock);
	unlink_exchange(x);
	x->wsi = NULL;
	last = (x->core_done && !x->delivering) || !x->dispatched;
	/* Posted under the lock: the core can't free it in between. */
	if (!last && !answered) {
		x->gone_posted = true;
		loop_post(h->config.loop, tell_gone, x);
	}
	pthread_mutex_unlock(&h->lock);
	if (last)
		exchange_free(x);
}

static void deliver(void *ctx)
{
	struct exchange *x = ctx;
	struct http *h = x->http;
	bool last;

	h->config.request(h->config.ctx, &x->request);
	pthread_mutex_lock(&h->lock);
	x->delivering = false;
	last = x->core_done && !x->wsi && !x->gone_posted;
	pthread_mutex_unlock(&h->lock);
	if (last)
		exchange_free(x);
}

void exchange_dispatch(struct exchange *x)
{
	if (x->dispatched)
		return;
	x->dispatched = x->delivering = true;
	/* From here on it takes as long as it takes. */
	lws_set_timeout(x->wsi, NO_PENDING_TIMEOUT, 0);
	exchange_hold_input(x->wsi);
	if (!x->request.local)
		lws_set_timer_usecs(x->wsi, LOOK_US);
	loop_post(x->http->config.loop, deliver, x);
}

/* ---- when to read and write ---- */

/*
 * While an answer is not written nothing is read. The library would go on to
 * poll for input, which it has no use for then, so that a byte that comes
 * early, or a peer that has said all, would keep this thread busy. But what it
 * does not read from it does not write to either: input is let in for as long
 * as it takes to write to a socket that has room, and one that has none is
 * looked at again soon.
 */
void exchange_hold_input(struct lws *wsi)
{
	lws_rx_flow_control(wsi, 0);
}

void exchange_want_writeable(struct lws *wsi)
{
	struct pollfd p = { .fd = lws_get_socket_fd(wsi), .events = POLLOUT };

	if (poll(&p, 1, 0) == 0) {
		exchange_hold_input(wsi);
		lws_set_timer_usecs(wsi, FULL_US);
		return;
	}
	lws_rx_flow_control(wsi, 1);
	lws_callback_on_writable(wsi);
}

/* A TCP connection whose peer has closed it: with TLS none does that and still
 * listens. On a Unix socket the library notices who hangs up. */
static bool peer_closed(struct lws *wsi)
{
	struct tcp_info info;
	socklen_t size = sizeof(info);

	return getsockopt(lws_get_socket_fd(wsi), IPPROTO_TCP, TCP_INFO, &info,
	                  &size) == 0 &&
	       info.tcpi_state == TCP_CLOSE_WAIT;
}

/* Now and then, while there is an answer to come. */
int exchange_look(struct session *s, struct lws *wsi)
{
	struct exchange *x = s->exchange;
	bool more;

	if (!x)
		return 0;
	if (!x->request.local && peer_closed(wsi))
		return -1;
	pthread_mutex_lock(&x->http->lock);
	more = exchange_to_write(x) || lws_partial_buffered(wsi);
	pthread_mutex_unlock(&x->http->lock);
	if (!x->request.local)
		lws_set_timer_usecs(wsi, LOOK_US);
	if (more)
		exchange_want_writeable(wsi);
	return 0;
}

/* ---- the core's side ---- */

static struct exchange *exchange_of(struct http_request *r)
{
	return container_of(r, struct exchange, request);
}

static size_t queue(struct exchange *x, const void *data, size_t size)
{
	size_t pending = x->out_used - x->out_at;

	if (!x->wsi || size == 0)
		return pending;
	if (x->out_used + size > x->out_room) {
		if (x->out_at)
			memmove(x->out, x->out + x->out_at, pending);
		x->out_at = 0;
		x->out_used = pending;
		x->out_room = MAX(x->out_room, (pending + size) * 2);
		x->out = xrealloc(x->out, x->out_room);
	}
	memcpy(x->out + x->out_used, data, size);
	x->out_used += size;
	return pending + size;
}

static void begin(struct exchange *x, int status, const char *type,
                  const char *headers)
{
	x->begun = true;
	x->status = status;
	snprintf(x->type, sizeof(x->type), "%s", type ? type : "");
	x->headers = headers ? xstrdup(headers) : NULL;
}

void http_reply(struct http_request *r, int status, const char *type,
                const char *headers, const void *body, size_t size)
{
	struct exchange *x = exchange_of(r);

	pthread_mutex_lock(&x->http->lock);
	begin(x, status, type, headers);
	x->whole = true;
	x->whole_size = size;
	queue(x, body, size);
	pthread_mutex_unlock(&x->http->lock);
	http_end(r);
}

void http_begin(struct http_request *r, int status, const char *type,
                const char *headers)
{
	struct exchange *x = exchange_of(r);

	pthread_mutex_lock(&x->http->lock);
	begin(x, status, type, headers);
	pthread_mutex_unlock(&x->http->lock);
	lws_cancel_service(x->http->context);
}

size_t http_write(struct http_request *r, const void *data, size_t size)
{
	struct exchange *x = exchange_of(r);
	size_t pending;

	pthread_mutex_lock(&x->http->lock);
	pending = queue(x, data, size);
	pthread_mutex_unlock(&x->http->lock);
	lws_cancel_service(x->http->context);
	return pending;
}

size_t http_pending(struct http_request *r)
{
	struct exchange *x = exchange_of(r);
	size_t pending;

	pthread_mutex_lock(&x->http->lock);
	pending = x->out_used - x->out_at;
	pthread_mutex_unlock(&x->http->lock);
	return pending;
}

void http_end(struct http_request *r)
{
	struct exchange *x = exchange_of(r);
	struct http *h = x->http;
	bool last, posted;

	pthread_mutex_lock(&h->lock);
	x->core_done = true;
	last = x->wsi == NULL && !x->gone_posted && !x->delivering;
	posted = x->gone_posted;
	pthread_mutex_unlock(&h->lock);
	if (last)
		exchange_free(x);
	else if (!posted)
		lws_cancel_service(h->context);
}
