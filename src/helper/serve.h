/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.h - atoll-helper's connections.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct error;

struct serve_config {
	int listener;               /* SOCK_SEQPACKET, listening; borrowed */
	uid_t user;                 /* who may connect, beside root */
	const char *uids, *bridges; /* UID_FOLDER; the file of names */
	unsigned linger_ms;         /* ends so long after the last left */
};

int serve(const struct serve_config *config, struct error *err) MUST_CHECK;
