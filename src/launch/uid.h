/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uid.h - a user id for each machine, out of a range that nobody else has.
 *
 * The same machine gets the same one as long as the host is up, and most often
 * after that: the search begins at a number made of its name.
 */
#pragma once

#include "base/types.h"

struct error;

/* Above those of systemd's containers, below those of Debian's /etc/subuid on
 * hosts with directory services. */
enum { UID_FIRST = 1900000000, UID_COUNT = 65536 };

/* Where it is written down who has which. */
#define UID_FOLDER "/run/atoll/uids"

/*
 * A descriptor that holds *uid for as long as it is open, for reading alone, or
 * -errno. For root: the folder is nobody else's. folder: UID_FOLDER.
 */
int uid_take(const char *folder, const char *machine, u32 *uid,
             struct error *err) MUST_CHECK;
