/* SPDX-License-Identifier: Apache-2.0 */
/*
 * given.h - devices of the host that a machine's process may not open by
 * itself: as another user, in a root of its own. Whoever starts it passes them
 * on, and says in its environment as which descriptors.
 */
#pragma once

#include "base/types.h"

enum given { GIVEN_KVM, GIVEN_USERFAULTFD, GIVEN_COUNT };

struct given_device {
	const char *path, *variable;
};
extern const struct given_device given_devices[GIVEN_COUNT];

/* The one we were given, or -1. */
int given_fd(enum given which);
/* A new descriptor of it, by its path if it was not given; or -errno. */
int given_open(enum given which) MUST_CHECK;
/* Nobody needs any of them from now on. */
void given_close(void);
