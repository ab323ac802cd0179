/* SPDX-License-Identifier: Apache-2.0 */
/*
 * helped.h - the daemon's connection to atoll-helper, made again after that was
 * started again.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct helped {
	int fd;    /* -1: none */
	pid_t pid; /* who answered last; 0: nobody does */
	bool wanted;
	u64 wait_ns, next_ns; /* between attempts, of the next one */
};

/* Where there is one; there may be none. */
void helped_open(struct helped *h);
void helped_close(struct helped *h);
/* True: there is a new connection, and who answers knows nothing. */
bool helped_renew(struct helped *h, u64 now_ns);
