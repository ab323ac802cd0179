/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server - libwebsockets on its own thread, and what it listens to.
 */
#include "daemon/http/internal.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "daemon/revoked.h"

enum { CONNECTIONS_MAX = 1024, KEEPALIVE_S = 60 };

/* An accepted connection on its way to the other thread. */
struct arrival {
	struct arrival *next;
	int fd;
	bool tls;
};

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
		if (exchange_to_write(x))
			exchange_want_writeable(x->wsi);
	pthread_mutex_unlock(&h->lock);
	for (; a; a = next) {
		next = a->next;
		/* It closes the descriptor itself when it fails. */
		lws_adopt_socket_vhost(a->tls ? h->secure : h->plain, a->fd);
		free(a);
	}
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason,
                    void *user, void *in, size_t len)
{
	struct session *s = user;
	struct http *h = lws_context_user(lws_get_context(wsi));

	switch (reason) {
	case LWS_CALLBACK_HTTP:
		return exchange_begin(s, wsi);
	case LWS_CALLBACK_HTTP_BODY:
		exchange_take_body(s, in, len);
		return 0;
	case LWS_CALLBACK_HTTP_BODY_COMPLETION:
		return s ? exchange_body_complete(s) : 0;
	case LWS_CALLBACK_HTTP_WRITEABLE:
		return s ? exchange_writeable(s, wsi) : 0;
	case LWS_CALLBACK_TIMER:
		return s ? exchange_look(s, wsi) : 0;
	case LWS_CALLBACK_CLOSED_HTTP:
	case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
		if (s)
			exchange_let_go(s, false);
		return 0;
	case LWS_CALLBACK_WSI_CREATE:
		h->connections++;
		return 0;
	case LWS_CALLBACK_WSI_DESTROY:
		h->connections--;
		return 0;
	case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
		if (h && h->clients.ca)
			clients_require(&h->clients, user);
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
	h->clients.ca = tls->client_ca;
	if (tls->client_crl) {
		rc = revoked_open(&h->clients.revoked, tls->client_crl, err);
		if (rc < 0)
			return rc;
	}
	h->secure = lws_create_vhost(h->context, &info);
	if (!h->secure)
		return error_set(err, -EINVAL,
		                 "cannot use the certificate %s with the key "
		                 "%s",
		                 tls->certificate, tls->key);
	if (tls->client_ca && !h->clients.checked)
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
	revoked_close(h->clients.revoked);
	pthread_mutex_destroy(&h->lock);
	free(h);
}
