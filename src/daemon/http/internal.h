/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of http/ share.
 *
 * An exchange is one request and its answer. Two sides hold it: the connection
 * (libwebsockets' thread, until the answer is written or the peer is gone) and
 * the core (the loop's thread, until http_end()); whoever lets go last frees
 * it. All that both touch is under one lock.
 *
 *	server.c     the thread, listeners, TLS
 *	client.c     certificates that callers show
 *	read.c       a request
 *	exchange.c   its life
 *	write.c      the answer
 */
#pragma once

#include <libwebsockets.h>
#include <pthread.h>

#include "daemon/http.h"

struct arrival;
struct revoked;

/* Who must show a certificate, and which are taken. */
struct clients {
	const char *ca;          /* borrowed; NULL: peers need none */
	struct revoked *revoked; /* NULL: none is */
	bool checked;            /* the library took ca */
};

/* ---- chunks.c ---- */

struct chunks {
	int state;
	u64 left;
	unsigned digits, skipped;
};
enum chunks_end { CHUNKS_MORE, CHUNKS_END, CHUNKS_BAD };
/* fn gets the pieces of the body in what came; nothing behind the end is
 * looked at. */
typedef void chunks_fn(void *ctx, const u8 *data, size_t size);
enum chunks_end chunks_take(struct chunks *c, const u8 *data, size_t size,
                            chunks_fn *fn, void *ctx);

struct exchange {
	struct http_request request;
	struct http *http;
	struct exchange *next, *prev; /* in http->open, while wsi is set */
	struct lws *wsi;              /* NULL: the connection let go */
	bool dispatched, close_after;
	u64 expected; /* bytes of body */
	unsigned completions;
	u64 unread; /* of a body that is too large, to be thrown away */
	bool chunked;
	struct chunks chunks;
	u64 came; /* of it */

	/* Under the lock. */
	bool core_done, begun, whole, head_sent, last_sent, gone_posted;
	bool delivering; /* the core is in the call that hands it over */
	int status;
	char type[64];
	char *headers;
	u8 *out;
	size_t out_used, out_at, out_room, whole_size;
};

/* What libwebsockets keeps with a connection. */
struct session {
	struct exchange *exchange;
};

struct listener {
	struct http *http;
	int fd;
	bool tls;
	struct loop_fd *watch;
};

enum { LISTENERS_MAX = 8 };

struct http {
	struct http_config config;
	struct lws_context *context;
	struct lws_vhost *plain, *secure;
	struct listener listeners[LISTENERS_MAX];
	size_t listener_count;
	pthread_t thread;
	bool started;
	struct clients clients;
	_Atomic bool quit;
	_Atomic unsigned connections;
	pthread_mutex_t lock;
	struct arrival *arrivals;
	struct exchange *open;
};

/* All but the core's calls are made on libwebsockets' thread. Those that
 * return int: -1 closes the connection. */

/* ---- client.c ---- */

/* For what is listened to with TLS. */
void clients_require(struct clients *clients, SSL_CTX *ctx);
/* The common name of a certificate that was verified; or "". */
void clients_name(const struct clients *clients, struct lws *wsi, char *to,
                  size_t size);

/* ---- read.c ---- */

int exchange_begin(struct session *s, struct lws *wsi) MUST_CHECK;
void exchange_take_body(struct session *s, const void *data, size_t size);
int exchange_body_complete(struct session *s) MUST_CHECK;

/* ---- exchange.c ---- */

/* To the core. */
void exchange_dispatch(struct exchange *x);
/* The connection's side lets go. */
void exchange_let_go(struct session *s, bool answered);
/* Now and then, while there is an answer to come. */
int exchange_look(struct session *s, struct lws *wsi) MUST_CHECK;
void exchange_want_writeable(struct lws *wsi);
void exchange_hold_input(struct lws *wsi);

/* ---- write.c ---- */

/* Under the lock. */
bool exchange_to_write(const struct exchange *x);
int exchange_writeable(struct session *s, struct lws *wsi) MUST_CHECK;
