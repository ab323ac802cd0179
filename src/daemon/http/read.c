/* SPDX-License-Identifier: Apache-2.0 */
/*
 * read - a request, from the first line to the last byte of its body.
 */
#include "daemon/http/internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/alloc.h"

enum { DRAIN_MAX = 8 << 20, COMPLETIONS_MAX = 100 };

static void read_method(struct exchange *x, struct lws *wsi)
{
	static const struct {
		enum lws_token_indexes token;
		const char *name;
	} methods[] = {
		{ WSI_TOKEN_GET_URI, "GET" },
		{ WSI_TOKEN_POST_URI, "POST" },
		{ WSI_TOKEN_PUT_URI, "PUT" },
		{ WSI_TOKEN_PATCH_URI, "PATCH" },
		{ WSI_TOKEN_DELETE_URI, "DELETE" },
		{ WSI_TOKEN_HEAD_URI, "HEAD" },
		{ WSI_TOKEN_OPTIONS_URI, "OPTIONS" },
	};

	x->request.method = "?";
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		if (lws_hdr_total_length(wsi, methods[i].token)) {
			x->request.method = methods[i].name;
			if (lws_hdr_copy(wsi, x->request.path,
			                 sizeof(x->request.path),
			                 methods[i].token) < 0)
				x->request.path[0] = '\0';
			return;
		}
}

static void read_headers(struct exchange *x, struct lws *wsi)
{
	static const struct {
		int token;
		const char *custom;
	} known[HTTP_HEADERS] = {
		[HTTP_ACCEPT] = { WSI_TOKEN_HTTP_ACCEPT, NULL },
		[HTTP_AUTHORIZATION] = { WSI_TOKEN_HTTP_AUTHORIZATION, NULL },
		[HTTP_CONTENT_TYPE] = { WSI_TOKEN_HTTP_CONTENT_TYPE, NULL },
		[HTTP_IF_MATCH] = { WSI_TOKEN_HTTP_IF_MATCH, NULL },
		[HTTP_IF_NONE_MATCH] = { WSI_TOKEN_HTTP_IF_NONE_MATCH, NULL },
		[HTTP_IDEMPOTENCY_KEY] = { -1, "idempotency-key:" },
		[HTTP_LAST_EVENT_ID] = { -1, "last-event-id:" },
	};

	for (int i = 0; i < HTTP_HEADERS; i++) {
		char *to = x->request.headers[i];
		const char *custom = known[i].custom;
		int n;

		if (custom)
			n = lws_hdr_custom_copy(wsi, to, HTTP_HEADER_MAX,
			                        custom, (int)strlen(custom));
		else
			n = lws_hdr_copy(wsi, to, HTTP_HEADER_MAX,
			                 known[i].token);
		if (n >= 0)
			continue;
		to[0] = '\0';
		x->request.header_long[i] =
		    (custom ? lws_hdr_custom_length(wsi, custom,
		                                    (int)strlen(custom))
		            : lws_hdr_total_length(wsi, known[i].token)) >=
		    HTTP_HEADER_MAX;
	}
}

static void read_query(struct exchange *x, struct lws *wsi)
{
	size_t used = 0, room = sizeof(x->request.query);
	int n;

	for (int i = 0; used + 2 < room; i++) {
		if (i)
			x->request.query[used] = '&';
		n = lws_hdr_copy_fragment(
		    wsi, x->request.query + used + (i > 0),
		    (int)(room - used - 1), WSI_TOKEN_HTTP_URI_ARGS, i);
		if (n <= 0)
			break;
		used += (size_t)n + (i > 0);
	}
	x->request.query[used] = '\0';
}

static void read_peer(struct exchange *x, struct lws *wsi)
{
	struct sockaddr_storage name;
	socklen_t size = sizeof(name);
	struct ucred peer;
	socklen_t peer_size = sizeof(peer);
	int fd = lws_get_socket_fd(wsi);

	x->request.uid = (uid_t)-1;
	if (getsockname(fd, (struct sockaddr *)&name, &size) == 0 &&
	    name.ss_family == AF_UNIX &&
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) == 0) {
		x->request.local = true;
		x->request.uid = peer.uid;
		x->request.pid = peer.pid;
	} else {
		lws_get_peer_simple(wsi, x->request.address,
		                    sizeof(x->request.address));
		clients_name(&x->http->clients, wsi, x->request.certificate,
		             sizeof(x->request.certificate));
	}
}

/* Whatever follows the body is not read, and above all not as another request.
 */
static int begin_chunks(struct exchange *x, struct lws *wsi)
{
	static const char *const with_bodies[] = { "POST", "PUT", "PATCH" };
	char coding[16] = "";
	bool body = false;

	x->close_after = true;
	for (size_t i = 0; i < ARRAY_SIZE(with_bodies); i++)
		body |= strcmp(x->request.method, with_bodies[i]) == 0;
	x->chunked = body &&
	             lws_hdr_copy(wsi, coding, sizeof(coding),
	                          WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0 &&
	             strcasecmp(coding, "chunked") == 0 &&
	             !lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH);
	if (x->chunked)
		return 0;
	x->request.body_bad = true;
	exchange_dispatch(x);
	return 0;
}

static void add_piece(void *ctx, const u8 *data, size_t size)
{
	struct exchange *x = ctx;
	struct http_request *r = &x->request;
	u8 *body;

	x->came += size;
	if (x->came > HTTP_BODY_MAX)
		r->body_huge = true;
	if (r->body_huge)
		return;
	body = realloc(r->body, r->body_size + size + 1);
	if (!body) {
		r->body_huge = true;
		return;
	}
	r->body = body;
	memcpy(body + r->body_size, data, size);
	r->body_size += size;
	body[r->body_size] = '\0';
}

static void take_chunks(struct exchange *x, const void *data, size_t size)
{
	enum chunks_end end = chunks_take(&x->chunks, data, size, add_piece, x);

	if (end == CHUNKS_MORE && x->came <= DRAIN_MAX)
		return;
	x->request.body_bad = end == CHUNKS_BAD;
	exchange_dispatch(x);
}

int exchange_begin(struct session *s, struct lws *wsi)
{
	struct exchange *x = try_alloc(1, sizeof(*x));
	char number[24] = "";

	if (!x || s->exchange)
		return -1;
	x->http = lws_context_user(lws_get_context(wsi));
	x->wsi = wsi;
	s->exchange = x;
	pthread_mutex_lock(&x->http->lock);
	x->next = x->http->open;
	if (x->next)
		x->next->prev = x;
	x->http->open = x;
	pthread_mutex_unlock(&x->http->lock);
	read_method(x, wsi);
	read_headers(x, wsi);
	read_query(x, wsi);
	read_peer(x, wsi);
	if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING))
		return begin_chunks(x, wsi);
	if (lws_hdr_copy(wsi, number, sizeof(number),
	                 WSI_TOKEN_HTTP_CONTENT_LENGTH) > 0)
		x->expected = strtoull(number, NULL, 10);
	else if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) ||
	         strcmp(x->request.method, "GET") != 0)
		/* No length: no body, and what may follow is not read. */
		x->close_after = true;
	if (x->expected > HTTP_BODY_MAX) {
		x->request.body_huge = x->close_after = true;
		/* Few clients read an answer while they still send. */
		x->unread = x->expected <= DRAIN_MAX ? x->expected : 0;
		x->expected = 0;
		if (x->unread)
			return 0;
	}
	if (x->expected == 0) {
		exchange_dispatch(x);
		return 0;
	}
	x->request.body = try_alloc(x->expected + 1, 1);
	return x->request.body ? 0 : -1;
}

void exchange_take_body(struct session *s, const void *data, size_t size)
{
	struct exchange *x = s->exchange;

	if (x && x->chunked) {
		if (!x->dispatched)
			take_chunks(x, data, size);
		return;
	}
	if (x && x->unread) {
		x->unread -= MIN(x->unread, (u64)size);
		if (!x->unread)
			exchange_dispatch(x);
		return;
	}
	if (!x || x->dispatched || x->request.body_size + size > x->expected)
		return;
	memcpy(x->request.body + x->request.body_size, data, size);
	x->request.body_size += size;
	if (x->request.body_size == x->expected)
		exchange_dispatch(x);
}

/*
 * Of two requests with bodies in one packet the library takes what follows the
 * second for its body, finds that whole, and begins anew: for ever, if nobody
 * stops it.
 */
int exchange_body_complete(struct session *s)
{
	return s->exchange && ++s->exchange->completions > COMPLETIONS_MAX ? -1
	                                                                   : 0;
}
