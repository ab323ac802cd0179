/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - what a machine's process and whoever started it say.
 *
 * A Unix stream socket carries messages: a 4-byte little-endian length (at
 * most CONTROL_MESSAGE_MAX), a 4-byte count of descriptors (at most
 * CONTROL_FDS_MAX; they ride on the first byte), then that many bytes of JSON
 * (one object, UTF-8).
 *
 * First, the starter sends {"op":"start","machine":{...}}: the machine file,
 * in which every file is the index of a descriptor sent along
 * (docs/machine-file.md). Later requests: powerdown, reset, quit, pause,
 * resume, status, resize; each may carry an "id", given back in the answer.
 * The machine sends {"event":"started"}, {"event":"console", ...},
 * {"event":"stopped","cause":...,"code":N,"words":...,"hint":...} and then
 * closes.
 */
#pragma once

#include <jansson.h>

#include "base/end.h" /* what "code" in "stopped" may be */
#include "base/types.h"

struct error;

enum { CONTROL_MESSAGE_MAX = 1 << 20, CONTROL_FDS_MAX = 128 };

/* Blocking. 0 or -errno. fds stay the caller's. */
int control_send(int sock, json_t *message, const int *fds, size_t count,
                 struct error *err) MUST_CHECK;
/*
 * Blocking, one message; *message and the descriptors (close-on-exec) are the
 * caller's. -EPIPE: the peer closed. -EPROTO: it sent something else.
 */
int control_receive(int sock, json_t **message, int *fds, size_t room,
                    size_t *count, struct error *err) MUST_CHECK;
