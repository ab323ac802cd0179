/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network.h - the networks there are, each a switch in a process of its own
 * that outlives the daemon (hold/network.c, net/switch).
 */
#pragma once

#include "daemon/daemon.h"

struct call;

enum network_state { NETWORK_STARTING, NETWORK_RUNNING, NETWORK_FAILED };

struct network {
	struct daemon *daemon; /* borrowed */
	struct network *next;
	char id[ID_SIZE];
	char *name;
	json_t *spec; /* whole, with defaults; never changed */
	char created[TIME_SIZE], since[TIME_SIZE];
	enum network_state state;
	pid_t pid; /* of its switch */
	int fd;    /* to the switch; -1: not connected */
	struct loop_fd *watch;
	struct loop_timer retry;
	unsigned failures; /* in a row */
	struct error why;  /* of NETWORK_FAILED */
};

/* ---- network.c ---- */

/* Finds those that run, starts the others, ends what is left of those that
 * were deleted. */
int network_load_all(struct daemon *d, struct error *err) MUST_CHECK;
void network_free_all(struct daemon *d); /* they go on */
struct network *network_find(struct daemon *d, const char *name);
/* One in no list yet; spec is taken over. */
struct network *network_new(struct daemon *d, json_t *spec);
void network_free(struct network *n); /* NULL is legal */
/* Begins to keep it. */
void network_insert(struct network *n);
/* Ends it; it is out of the registry already, and invalid afterwards. */
void network_remove(struct network *n);
const char *network_project(const struct network *n);
json_t *network_json(const struct network *n);
/* Names of the machines that have a card in it. */
json_t *network_users(const struct network *n);

/* Where the switches are: put into the cards of a machine that starts. */
int network_resolve(struct daemon *d, json_t *machine,
                    struct error *err) MUST_CHECK;
/* The networks that a definition names exist. */
int network_check(struct daemon *d, json_t *spec, struct error *err) MUST_CHECK;

/* One request to its switch, with a descriptor (-1: none; it stays the
 * caller's). fn is always called once, not from here; reply NULL: none came. */
typedef void network_answer_fn(void *ctx, json_t *reply);
void network_ask(struct network *n, json_t *message, int fd,
                 network_answer_fn *fn, void *ctx);

/* ---- network_spec.c ---- */

/* A whole definition out of what a client sent; NULL with words. The address
 * range is one of no other network here if none was given. */
json_t *network_spec_parse(struct daemon *d, json_t *sent,
                           struct error *err) MUST_CHECK;

/* ---- network_capture.c ---- */

/* What passes, as the answer to c, which is deferred. */
void network_capture(struct call *c, struct network *n, const char *machine,
                     s64 frames);
/* That was one's: it has ended. */
bool network_capture_gone(struct daemon *d, const struct http_request *http);
/* Of those who may look on no more they end. */
void network_captures_check(struct daemon *d);
void network_captures_end(struct daemon *d);
