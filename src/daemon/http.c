/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http - libwebsockets on its own thread.
 *
 * An exchange is one request and its answer. Two sides hold it: the connection
 * (this thread, until the answer is written or the peer is gone) and the core
 * (the loop's thread, until http_end()); whoever lets go last frees it. All
 * that both touch is under one lock.
 */
#include "daemon/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libwebsockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "daemon/revoked.h"

enum { LISTENERS_MAX = 8, CONNECTIONS_MAX = 1024, PIECE = 16384 };
enum { HEAD_MAX = 4096, KEEPALIVE_S = 60, DRAIN_MAX = 8 << 20 };
enum { LOOK_US = 5000000, FULL_US = 20000, COMPLETIONS_MAX = 100 };

struct listener {
	struct http *http;
	int fd;
	bool tls;
	struct loop_fd *watch;
};

/* An accepted connection on its way to the other thread. */
struct arrival {
	struct arrival *next;
	int fd;
	bool tls;
};

struct exchange {
	struct http_request request;
	struct http *http;
	struct exchange *next, *prev; /* in http->open, while wsi is set */
	struct lws *wsi;              /* NULL: the connection let go */
	bool dispatched, close_after;
	u64 expected; /* bytes of body */
	unsigned completions;
	u64 unread; /* of a body that is too large, to be thrown away */

	/* Under the lock. */
	bool core_done, begun, whole, head_sent, last_sent, gone_posted;
	bool delivering; /* the core is in the call that hands it over */
	int status;
	char type[64];
	char *headers;
	u8 *out;
	size_t out_used, out_at, out_room, whole_size;
};

struct session {
	struct exchange *exchange;
};

struct http {
	struct http_config config;
	struct lws_context *context;
	struct lws_vhost *plain, *secure;
	struct listener listeners[LISTENERS_MAX];
	size_t listener_count;
	pthread_t thread;
	bool started;
	const char *client_ca;   /* borrowed; NULL: peers need no certificate */
	struct revoked *revoked; /* NULL: none is */
	bool clients_checked;
	_Atomic bool quit;
	_Atomic unsigned connections;
	pthread_mutex_t lock;
	struct arrival *arrivals;
	struct exchange *open;
};

/* ---- exchanges ---- */

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
static void connection_done(struct session *s, bool answered)
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

/*
 * While an answer is not written nothing is read. The library would go on to
 * poll for input, which it has no use for then, so that a byte that comes
 * early, or a peer that has said all, would keep this thread busy. But what it
 * does not read from it does not write to either: input is let in for as long
 * as it takes to write to a socket that has room, and one that has none is
 * looked at again soon.
 */
static void hold_input(struct lws *wsi)
{
	lws_rx_flow_control(wsi, 0);
}

static void want_writeable(struct lws *wsi)
{
	struct pollfd p = { .fd = lws_get_socket_fd(wsi), .events = POLLOUT };

	if (poll(&p, 1, 0) == 0) {
		hold_input(wsi);
		lws_set_timer_usecs(wsi, FULL_US);
		return;
	}
	lws_rx_flow_control(wsi, 1);
	lws_callback_on_writable(wsi);
}

static void dispatch(struct exchange *x)
{
	if (x->dispatched)
		return;
	x->dispatched = x->delivering = true;
	/* From here on it takes as long as it takes. */
	lws_set_timeout(x->wsi, NO_PENDING_TIMEOUT, 0);
	hold_input(x->wsi);
	if (!x->request.local)
		lws_set_timer_usecs(x->wsi, LOOK_US);
	loop_post(x->http->config.loop, deliver, x);
}

/* ---- reading a request ---- */

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

/* The one common name in a certificate; false: none, several, or one that is
 * too long or has a NUL in it. */
static bool common_name(X509 *certificate, char *to, size_t size)
{
	const X509_NAME *name = X509_get_subject_name(certificate);
	int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1), n;
	unsigned char *text = NULL;
	bool good;

	if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0)
		return false;
	n = ASN1_STRING_to_UTF8(
	    &text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
	good = n > 0 && (size_t)n < size && !memchr(text, 0, (size_t)n);
	if (good) {
		memcpy(to, text, (size_t)n);
		to[n] = '\0';
	}
	OPENSSL_free(text);
	return good;
}

/* Of one that OpenSSL has found good in the handshake. */
static void read_certificate(struct exchange *x, struct lws *wsi)
{
	SSL *ssl =
	    x->http->client_ca && lws_is_ssl(wsi) ? lws_get_ssl(wsi) : NULL;
	X509 *certificate = ssl ? SSL_get1_peer_certificate(ssl) : NULL;

	if (certificate && SSL_get_verify_result(ssl) == X509_V_OK &&
	    !(x->http->revoked && revoked_has(x->http->revoked, certificate)) &&
	    !common_name(certificate, x->request.certificate,
	                 sizeof(x->request.certificate)))
		x->request.certificate[0] = '\0';
	X509_free(certificate);
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
		read_certificate(x, wsi);
	}
}

static int begin_exchange(struct session *s, struct lws *wsi)
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
		dispatch(x);
		return 0;
	}
	x->request.body = try_alloc(x->expected + 1, 1);
	return x->request.body ? 0 : -1;
}

static void take_body(struct session *s, const void *data, size_t size)
{
	struct exchange *x = s->exchange;

	if (x && x->unread) {
		x->unread -= MIN(x->unread, (u64)size);
		if (!x->unread)
			dispatch(x);
		return;
	}
	if (!x || x->dispatched || x->request.body_size + size > x->expected)
		return;
	memcpy(x->request.body + x->request.body_size, data, size);
	x->request.body_size += size;
	if (x->request.body_size == x->expected)
		dispatch(x);
}

/*
 * Of two requests with bodies in one packet the library takes what follows the
 * second for its body, finds that whole, and begins anew: for ever, if nobody
 * stops it.
 */
static int body_complete(struct session *s)
{
	return s->exchange && ++s->exchange->completions > COMPLETIONS_MAX ? -1
	                                                                   : 0;
}

/* ---- writing an answer ---- */

static bool add_header(struct lws *wsi, const char *line, size_t size, u8 **p,
                       u8 *end)
{
	const char *colon = memchr(line, ':', size);
	char name[80];

	if (!colon || (size_t)(colon - line) + 2 > sizeof(name))
		return true;
	snprintf(name, sizeof(name), "%.*s:", (int)(colon - line), line);
	colon++;
	while (*colon == ' ')
		colon++;
	return !lws_add_http_header_by_name(
	    wsi, (const u8 *)name, (const u8 *)colon,
	    (int)(size - (size_t)(colon - line)), p, end);
}

static bool add_headers(struct exchange *x, struct lws *wsi, u8 **p, u8 *end)
{
	static const char sniff[] = "x-content-type-options: nosniff";
	static const char cache[] = "cache-control: no-store";
	static const char chunked[] = "transfer-encoding: chunked";
	const char *line = x->headers, *next;
	bool ok = add_header(wsi, sniff, strlen(sniff), p, end) &&
	          add_header(wsi, cache, strlen(cache), p, end);

	while (ok && line && *line) {
		next = strchrnul(line, '\n');
		ok = add_header(wsi, line, (size_t)(next - line), p, end);
		line = *next ? next + 1 : next;
	}
	if (ok && !x->whole)
		ok = add_header(wsi, chunked, strlen(chunked), p, end);
	return ok;
}

static int write_head(struct exchange *x, struct lws *wsi)
{
	u8 buffer[LWS_PRE + HEAD_MAX], *start = buffer + LWS_PRE, *p = start;
	u8 *end = buffer + sizeof(buffer) - 1;

	if (lws_add_http_header_status(wsi, (unsigned)x->status, &p, end))
		return -1;
	if (x->type[0] &&
	    lws_add_http_header_by_token(wsi, WSI_TOKEN_HTTP_CONTENT_TYPE,
	                                 (const u8 *)x->type,
	                                 (int)strlen(x->type), &p, end))
		return -1;
	if (x->whole && x->status != 204 &&
	    lws_add_http_header_content_length(wsi, x->whole_size, &p, end))
		return -1;
	if (!add_headers(x, wsi, &p, end) ||
	    lws_finalize_http_header(wsi, &p, end))
		return -1;
	x->head_sent = true;
	return lws_write(wsi, start, (size_t)(p - start),
	                 LWS_WRITE_HTTP_HEADERS) < 0
	           ? -1
	           : 0;
}

static int write_piece(struct exchange *x, struct lws *wsi)
{
	u8 buffer[LWS_PRE + PIECE + 32], *p = buffer + LWS_PRE;
	size_t n = MIN(x->out_used - x->out_at, (size_t)PIECE);

	if (!x->whole)
		p += sprintf((char *)p, "%zx\r\n", n);
	memcpy(p, x->out + x->out_at, n);
	p += n;
	x->out_at += n;
	if (!x->whole) {
		*p++ = '\r';
		*p++ = '\n';
	}
	if (x->out_at == x->out_used)
		x->out_at = x->out_used = 0;
	n = (size_t)(p - buffer) - LWS_PRE;
	return lws_write(wsi, buffer + LWS_PRE, n, LWS_WRITE_HTTP) < 0 ? -1 : 0;
}

static int write_last(struct exchange *x, struct lws *wsi)
{
	u8 buffer[LWS_PRE + 8];

	x->last_sent = true;
	if (x->whole)
		return 0;
	memcpy(buffer + LWS_PRE, "0\r\n\r\n", 5);
	return lws_write(wsi, buffer + LWS_PRE, 5, LWS_WRITE_HTTP) < 0 ? -1 : 0;
}

static int finish(struct session *s, struct lws *wsi)
{
	bool close_after = s->exchange->close_after;

	connection_done(s, true);
	lws_set_timer_usecs(wsi, LWS_SET_TIMER_USEC_CANCEL);
	if (close_after)
		return -1;
	lws_rx_flow_control(wsi, 1);
	return lws_http_transaction_completed(wsi) ? -1 : 0;
}

static bool to_write(const struct exchange *x)
{
	return (x->begun && !x->head_sent) || x->out_at < x->out_used ||
	       (x->core_done && !x->last_sent);
}

static int writeable(struct session *s, struct lws *wsi)
{
	struct exchange *x = s->exchange;
	struct http *h;
	bool done, more;
	int rc = 0;

	if (!x || !x->dispatched)
		return 0;
	h = x->http;
	pthread_mutex_lock(&h->lock);
	if (x->begun && !x->head_sent)
		rc = write_head(x, wsi);
	else if (x->head_sent && x->out_at < x->out_used)
		rc = write_piece(x, wsi);
	else if (x->head_sent && x->core_done && !x->last_sent)
		rc = write_last(x, wsi);
	/* With a whole answer the peer has all that it waits for. */
	if (x->whole && x->core_done && x->head_sent &&
	    x->out_at == x->out_used)
		x->last_sent = true;
	done = x->last_sent && !lws_partial_buffered(wsi);
	more = to_write(x) || lws_partial_buffered(wsi);
	pthread_mutex_unlock(&h->lock);
	if (rc < 0)
		return -1;
	if (done)
		return finish(s, wsi);
	if (more)
		want_writeable(wsi);
	else
		hold_input(wsi);
	return 0;
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
static int look(struct session *s, struct lws *wsi)
{
	struct exchange *x = s->exchange;
	bool more;

	if (!x)
		return 0;
	if (!x->request.local && peer_closed(wsi))
		return -1;
	pthread_mutex_lock(&x->http->lock);
	more = to_write(x) || lws_partial_buffered(wsi);
	pthread_mutex_unlock(&x->http->lock);
	if (!x->request.local)
		lws_set_timer_usecs(wsi, LOOK_US);
	if (more)
		want_writeable(wsi);
	return 0;
}

/* ---- the thread ---- */

/* Woken: connections to adopt, answers to write. */
static void woken(struct http *h)
{
	struct arrival *a, *next;
	struct exchange *x;

	pthread_mutex_lock(&h->lock);
	a = h->arrivals;
	h->arrivals = NULL;
	for (x = h->open; x; x = x->next)
		if (to_write(x))
			want_writeable(x->wsi);
	pthread_mutex_unlock(&h->lock);
	for (; a; a = next) {
		next = a->next;
		/* It closes the descriptor itself when it fails. */
		lws_adopt_socket_vhost(a->tls ? h->secure : h->plain, a->fd);
		free(a);
	}
}

static int verify(X509_STORE_CTX *chain, void *revoked)
{
	return revoked_verify(revoked, chain);
}

/*
 * Whose certificates are taken. Not by libwebsockets' own option: it has its
 * caller decide over each certificate, whatever OpenSSL said. No session is
 * taken up again, so that every connection shows its certificate.
 */
static void require_certificates(struct http *h, SSL_CTX *ctx)
{
	static const u8 id[] = "atolld";

	h->clients_checked =
	    SSL_CTX_load_verify_locations(ctx, h->client_ca, NULL) == 1 &&
	    SSL_CTX_set_session_id_context(ctx, id, sizeof(id) - 1) == 1 &&
	    SSL_CTX_set_num_tickets(ctx, 0) == 1;
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(h->client_ca));
	SSL_CTX_set_verify(
	    ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (h->revoked)
		SSL_CTX_set_cert_verify_callback(ctx, verify, h->revoked);
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason,
                    void *user, void *in, size_t len)
{
	struct session *s = user;
	struct http *h = lws_context_user(lws_get_context(wsi));

	switch (reason) {
	case LWS_CALLBACK_HTTP:
		return begin_exchange(s, wsi);
	case LWS_CALLBACK_HTTP_BODY:
		take_body(s, in, len);
		return 0;
	case LWS_CALLBACK_HTTP_BODY_COMPLETION:
		return s ? body_complete(s) : 0;
	case LWS_CALLBACK_HTTP_WRITEABLE:
		return s ? writeable(s, wsi) : 0;
	case LWS_CALLBACK_TIMER:
		return s ? look(s, wsi) : 0;
	case LWS_CALLBACK_CLOSED_HTTP:
	case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
		if (s)
			connection_done(s, false);
		return 0;
	case LWS_CALLBACK_WSI_CREATE:
		h->connections++;
		return 0;
	case LWS_CALLBACK_WSI_DESTROY:
		h->connections--;
		return 0;
	case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
		if (h && h->client_ca)
			require_certificates(h, user);
		return 0;
	case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
		if (h)
			woken(h);
		return 0;
	default:
		return 0;
	}
}

static void *serve(void *ctx)
{
	struct http *h = ctx;

	while (!h->quit && lws_service(h->context, 0) >= 0)
		;
	return NULL;
}

static void lws_says(int level, const char *line)
{
	(void)level;
	log_debug("http", "%.*s", (int)strcspn(line, "\n"), line);
}

/* ---- listeners ---- */

static void incoming(void *ctx, unsigned events)
{
	struct listener *l = ctx;
	struct http *h = l->http;
	struct arrival *a;
	int fd;

	(void)events;
	fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (h->connections > CONNECTIONS_MAX) {
		close(fd);
		return;
	}
	a = xalloc(sizeof(*a));
	a->fd = fd;
	a->tls = l->tls;
	pthread_mutex_lock(&h->lock);
	a->next = h->arrivals;
	h->arrivals = a;
	pthread_mutex_unlock(&h->lock);
	lws_cancel_service(h->context);
}

static void add_listener(struct http *h, int fd, bool tls)
{
	struct listener *l = &h->listeners[h->listener_count++];

	ASSERT(h->listener_count <= LISTENERS_MAX);
	*l = (struct listener){ .http = h, .fd = fd, .tls = tls };
	l->watch = loop_fd_add(h->config.loop, fd, LOOP_READ, incoming, l);
}

void http_listen(struct http *h, int fd)
{
	add_listener(h, fd, false);
}

static const struct lws_protocols protocols[] = {
	{ "http", on_event, sizeof(struct session), 0, 0, NULL, 0 },
	{ 0 },
};

static void vhost_info(struct lws_context_creation_info *info, const char *name)
{
	memset(info, 0, sizeof(*info));
	info->port = CONTEXT_PORT_NO_LISTEN_SERVER;
	info->protocols = protocols;
	info->vhost_name = name;
	info->keepalive_timeout = KEEPALIVE_S;
	info->alpn = "http/1.1";
}

int http_listen_tls(struct http *h, int fd, const struct http_tls *tls,
                    struct error *err)
{
	struct lws_context_creation_info info;
	int rc;

	vhost_info(&info, "tls");
	info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
	info.ssl_cert_filepath = tls->certificate;
	info.ssl_private_key_filepath = tls->key;
	info.ssl_options_set = SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1 |
	                       SSL_OP_NO_TLSv1_2 | SSL_OP_NO_COMPRESSION;
	h->client_ca = tls->client_ca;
	if (tls->client_crl) {
		rc = revoked_open(&h->revoked, tls->client_crl, err);
		if (rc < 0)
			return rc;
	}
	h->secure = lws_create_vhost(h->context, &info);
	if (!h->secure)
		return error_set(err, -EINVAL,
		                 "cannot use the certificate %s with the key "
		                 "%s",
		                 tls->certificate, tls->key);
	if (tls->client_ca && !h->clients_checked)
		return error_set(err, -EINVAL,
		                 "%s holds no certificates to check callers' "
		                 "by",
		                 tls->client_ca);
	add_listener(h, fd, true);
	return 0;
}

/* ---- begin and end ---- */

int http_create(struct http **out, const struct http_config *config,
                struct error *err)
{
	struct http *h = xalloc(sizeof(*h));
	struct lws_context_creation_info info;

	h->config = *config;
	pthread_mutex_init(&h->lock, NULL);
	lws_set_log_level(LLL_ERR | LLL_WARN, lws_says);
	vhost_info(&info, "plain");
	info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
	               LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
	info.user = h;
	info.gid = (gid_t)-1;
	info.uid = (uid_t)-1;
	h->context = lws_create_context(&info);
	vhost_info(&info, "plain");
	if (h->context)
		h->plain = lws_create_vhost(h->context, &info);
	if (!h->plain) {
		http_destroy(h);
		return error_set(err, -EIO, "cannot set up HTTP");
	}
	*out = h;
	return 0;
}

int http_start(struct http *h, struct error *err)
{
	int code = pthread_create(&h->thread, NULL, serve, h);

	if (code)
		return error_set(err, -code, "cannot start a thread: %s",
		                 strerror(code));
	h->started = true;
	return 0;
}

void http_destroy(struct http *h)
{
	if (!h)
		return;
	if (h->started) {
		h->quit = true;
		lws_cancel_service(h->context);
		pthread_join(h->thread, NULL);
	}
	for (size_t i = 0; i < h->listener_count; i++) {
		loop_fd_remove(h->listeners[i].watch);
		close(h->listeners[i].fd);
	}
	if (h->context)
		lws_context_destroy(h->context);
	revoked_close(h->revoked);
	pthread_mutex_destroy(&h->lock);
	free(h);
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
