/* SPDX-License-Identifier: Apache-2.0 */
/*
 * claim.h - a turn with a machine's disks, until the connection is closed.
 *
 * What is found out about a disk's images, and made ready beside them, holds
 * when the machine is asked: nobody else's work comes between.
 */
#pragma once

#include "base/types.h"

struct error;

enum { CLAIM_ALL = -1 };

/* disk: its number, or CLAIM_ALL. Another's turn is waited for, a few seconds.
 * -EBUSY: it was not over by then, or long work is under way. */
int claim_disks(int sock, int disk, struct error *err) MUST_CHECK;
