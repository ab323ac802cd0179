/* SPDX-License-Identifier: Apache-2.0 */
/*
 * privileges.h - root at the start, an ordinary user from then on.
 */
#pragma once

#include "base/types.h"

struct error;
struct place;

/*
 * Hands the daemon's folders to that user, the first time; starts atoll-helper,
 * unless one is there; and becomes the user. The helper is told to children by
 * ATOLL_HELPER. *helper: a connection that keeps it from leaving meanwhile.
 * Before any thread.
 */
int privileges_give_up(const struct place *place, const char *user, int *helper,
                       struct error *err) MUST_CHECK;
