/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http.h - HTTP/1.1 on sockets, by libwebsockets on a thread of its own.
 *
 * A request that has come whole is handed to the loop's thread, and stays
 * valid until http_end(), and until the call that hands it over returns: there
 * it is answered, at once or much later. The
 * calls below are for the loop's thread; what they queue is copied.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct error;
struct http;
struct loop;

enum { HTTP_BODY_MAX = 1 << 20, HTTP_HEADER_MAX = 256 };

enum http_header {
	HTTP_ACCEPT,
	HTTP_AUTHORIZATION,
	HTTP_CONTENT_TYPE,
	HTTP_IDEMPOTENCY_KEY,
	HTTP_IF_MATCH,
	HTTP_IF_NONE_MATCH,
	HTTP_LAST_EVENT_ID,
	HTTP_HEADERS,
};

struct http_request {
	const char *method;
	char path[512], query[1024];
	char headers[HTTP_HEADERS][HTTP_HEADER_MAX]; /* "": absent */
	bool header_long[HTTP_HEADERS];              /* cut: refuse */
	u8 *body;
	size_t body_size;
	bool body_huge;
	bool body_bad; /* its chunks are none: not read */
	bool local;    /* a Unix socket: uid and pid are the peer's */
	uid_t uid;
	pid_t pid;
	char address[64];     /* of a peer that is not local */
	char certificate[65]; /* the common name of one that was verified */
	void *user;           /* the core's */
};

struct http_config {
	struct loop *loop;
	void (*request)(void *ctx, struct http_request *request);
	/* The peer went away before http_end(); nothing more reaches it. */
	void (*gone)(void *ctx, struct http_request *request);
	void *ctx; /* borrowed */
};

/* Then the listeners, then http_start(). */
int http_create(struct http **out, const struct http_config *config,
                struct error *err) MUST_CHECK;
void http_destroy(struct http *http); /* requests not ended are dropped */

/* Accept connections there; fd is taken over. */
void http_listen(struct http *http, int fd);
/* Files in PEM. */
struct http_tls {
	const char *certificate, *key;
	/* Peers need a certificate that one of these signed; NULL: none. */
	const char *client_ca;
	/* Those of them that are not taken any more: revoked.h; NULL: none. */
	const char *client_crl;
};
/* As http_listen, one at most, with TLS 1.3. */
int http_listen_tls(struct http *http, int fd, const struct http_tls *tls,
                    struct error *err) MUST_CHECK;
int http_start(struct http *http, struct error *err) MUST_CHECK;

/* A whole answer. headers: lines "Name: value\n", or NULL. */
void http_reply(struct http_request *request, int status, const char *type,
                const char *headers, const void *body, size_t size);
/* An answer in pieces: begin, any number of writes, http_end(). */
void http_begin(struct http_request *request, int status, const char *type,
                const char *headers);
/* Bytes queued and not yet taken by the peer, these included. */
size_t http_write(struct http_request *request, const void *data, size_t size);
size_t http_pending(struct http_request *request);
/* Nothing more will be said; the request is invalid afterwards. */
void http_end(struct http_request *request);
