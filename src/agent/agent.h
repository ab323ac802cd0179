/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.h - the host's end of the QEMU guest agent's protocol: a line of JSON
 * each way over a byte stream.
 *
 * What comes from the guest is any bytes. It is taken only while a question is
 * open and only up to the size that its answer may have; everything read out of
 * an answer is checked by agent_*() below, and nothing else looks into one.
 *
 * Whether the agent is there, and what an earlier asker left in the stream, is
 * found out with guest-sync-delimited: bytes are thrown away until the answer
 * to it, which follows a byte 0xff.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;

enum {
	AGENT_ANSWER_USUAL = 256 * 1024,
	/* What a program printed comes in one answer, in base64. */
	AGENT_ANSWER_MOST = 24 << 20,
};

/* ---- the stream ---- */

enum agent_input {
	AGENT_MORE,   /* nothing whole yet */
	AGENT_ANSWER, /* an answer to the open question */
	AGENT_BROKEN, /* what came is no answer: the stream must be synced */
};

struct agent_stream {
	u8 *data; /* of the line under way */
	size_t used, room, most;
	bool open;    /* a question waits for its answer */
	bool syncing; /* it is the sync */
	s64 sync_id;
};

void agent_stream_init(struct agent_stream *s);
void agent_stream_fini(struct agent_stream *s);
/* The bytes that ask for a sync, and await it. Owned by the caller. */
char *agent_sync(struct agent_stream *s, size_t *size);
/* The bytes of a question, and await its answer of at most most bytes. Takes
 * over arguments, may be NULL. */
char *agent_question(struct agent_stream *s, const char *command,
                     json_t *arguments, size_t most, size_t *size);
/* Nobody waits any more: what comes late is thrown away. */
void agent_abandon(struct agent_stream *s);
/*
 * Bytes from the guest. At AGENT_ANSWER *answer is what was in "return", or
 * NULL and *err in the guest's words; the caller's. Bytes after it are of
 * nobody and dropped.
 */
enum agent_input agent_take(struct agent_stream *s, const u8 *data, size_t size,
                            json_t **answer, struct error *err);

/* ---- what answers say ---- */

/* "eth0": [...] as [{"name":..., "mac":..., "addresses":["10.0.2.15/24"]}],
 * at most 32 interfaces with 16 addresses each, loopback left out. */
json_t *agent_interfaces(json_t *answer);
/* A text of printable ASCII and at most max bytes, or NULL: owned. */
char *agent_text(json_t *answer, const char *key, size_t max);

/* Of an answer to guest-get-vcpus: what asks, by guest-set-vcpus, for all that
 * are off line from that number on; NULL: none is. */
json_t *agent_online(json_t *answer, s64 from);

/* How a program stands. */
struct agent_program {
	bool exited;
	int code;              /* or 128 + the signal */
	bool truncated;        /* it printed more than the agent keeps */
	const char *out, *err; /* base64, checked; borrowed; "" if none */
};
/* -EPROTO: it says nothing of the kind. */
int agent_program(json_t *answer, struct agent_program *program,
                  struct error *err) MUST_CHECK;
/* A number of an answer that is one, or of its key; -1: it is none. */
s64 agent_number(json_t *answer, const char *key);
/* Whole, correct base64? */
bool agent_base64(const char *text);
