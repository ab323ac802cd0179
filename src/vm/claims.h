/* SPDX-License-Identifier: Apache-2.0 */
/*
 * claims.h - whose turn it is with a disk.
 *
 * Who wants work on a disk looks at its images, gives them names and opens them
 * before the machine is asked. Meanwhile the disk must not go on to another
 * image by the work of somebody else: so they say first that it is their turn,
 * until they hang up.
 */
#pragma once

#include "base/types.h"
#include "machine/machine.h"

struct error;

struct claims {
	u64 asker[MACHINE_DISKS_MAX]; /* 0: nobody's */
};

/* -EAGAIN: another one has it, for a moment most likely. */
int claims_check(const struct claims *c, unsigned disk, u64 asker,
                 struct error *err) MUST_CHECK;
void claims_take(struct claims *c, unsigned disk, u64 asker);
/* Those that are the asker's. */
void claims_drop(struct claims *c, u64 asker);
