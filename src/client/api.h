/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - calls of atolld's REST API (api/openapi.yaml).
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct client;
struct error;

/* What the daemon said when it refused: error.code of its answer. */
struct api_error {
	int status;    /* of HTTP; 0: it was not reached */
	char code[32]; /* "" when the answer had none */
};

/*
 * remote: NULL for the user's own daemon, which is started when it does not
 * run; "unix:PATH"; or "https://HOST:PORT", with ATOLL_CA for the certificate
 * of who signed the daemon's, and for access ATOLL_TOKEN, or ATOLL_CERTIFICATE
 * and ATOLL_KEY for a certificate of one's own.
 */
int client_open(struct client **out, const char *remote,
                struct error *err) MUST_CHECK;
void client_close(struct client *client); /* NULL is legal */

/*
 * One call. body may be NULL and stays the caller's; *reply (NULL: not wanted)
 * is the caller's, NULL when there was no body. 0; -errno with words for a
 * person: -ECONNREFUSED when the daemon was not reached.
 */
int client_call(struct client *client, const char *method, const char *path,
                json_t *body, json_t **reply, struct error *err) MUST_CHECK;
/* The same for bytes: those of a console. */
int client_send(struct client *client, const char *path, const void *data,
                size_t size, struct error *err) MUST_CHECK;
/* If-Match for the calls that follow; NULL: none. */
void client_if_match(struct client *client, const char *revision);
/* Calls that would change something are not made from here on: -ECANCELED. */
void client_only_reads(struct client *client, bool only);
/* The last of those: "METHOD PATH BODY"; borrowed. */
const char *client_unasked(const struct client *client);
const struct api_error *client_error(const struct client *client);

/* Bytes of an answer that goes on. Not 0 ends it. */
typedef int client_data_fn(void *ctx, const void *data, size_t size);
/* Until the answer ends, fn ends it, or interrupted() is true (asked several
 * times a second; NULL: never). accept may be NULL. */
int client_stream(struct client *client, const char *path, const char *accept,
                  client_data_fn *fn, bool (*interrupted)(void *ctx), void *ctx,
                  struct error *err) MUST_CHECK;

/* A part of a path, with what has a meaning there escaped; owned. */
char *client_escape(const char *part) MUST_CHECK;

/* start.c: run atolld in the background, and wait until it listens. */
int client_start_daemon(struct error *err) MUST_CHECK;
