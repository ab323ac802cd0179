/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.h - another image takes a disk's place: its path comes to lead there.
 *
 * A disk is known by its path, and keeps it. Before an image takes its place
 * (a snapshot's overlay, what a chain was merged into, the other side of a
 * mirror), it gets a name of its own beside the disk's path, RECORD_SUFFIX at
 * the end. While the disk stands still and both hold the same, whoever started
 * the machine renames that to the path. A crash finds the one or the other.
 */
#pragma once

#include "base/types.h"

struct error;

#define RECORD_SUFFIX ".incoming"

/* A name beside path that is not in use yet; freed by the caller. */
char *record_name(const char *path, struct error *err) MUST_CHECK;

/*
 * What was made ready as `name`, a file name, becomes path, and that is on
 * stable storage. name has to be one of record_name()'s for this path: who
 * asks for this may be a machine that was taken over by its guest.
 */
int record_take(const char *path, const char *name,
                struct error *err) MUST_CHECK;
