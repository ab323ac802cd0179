/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held.h - starting and finding what outlives the daemon: atoll-hold, one for
 * each machine and each network.
 *
 * A holder inherits the lock on its folder, locked, so that there is no moment
 * at which what was started has no lock; its socket exists before it runs.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;

/* The lock of a folder: a descriptor; -EWOULDBLOCK: somebody has it. */
int held_lock(int folder) MUST_CHECK;
/* To the socket of one, in the folder of sockets. Blocking, with patience. */
int held_connect(const char *sockets, const char *id) MUST_CHECK;

struct held_start {
	const char *mode; /* an option of atoll-hold; NULL: a machine */
	const char *path; /* of its folder, and that folder open: borrowed */
	int folder;
	int lock; /* of held_lock(); taken over */
	const char *sockets, *id;
	json_t *document; /* what it is to hold */
};

int held_start(const struct held_start *how, struct error *err) MUST_CHECK;
