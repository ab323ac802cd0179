/* SPDX-License-Identifier: Apache-2.0 */
/*
 * untaken.h - a disk's path that leads to an overlay which its machine never
 * took.
 *
 * Who copies a machine gives the disk's path to an empty overlay first, and
 * then asks the machine to go on in it (cli/fork_disks.c). One that is killed
 * in between leaves it there. It reads as the disk does, so nothing is lost;
 * but the machine's own file has only its second name by then, and work that
 * changes names is refused.
 */
#pragma once

#include "base/types.h"

struct error;

/*
 * For who has the turn with the disk (cli/claim.h), of which path is the real
 * one and format what its file is: such an overlay makes way for the machine's
 * file. It has to be, byte for byte, what a copy makes, lie on a file that has
 * the name a copy gives and is what the machine has open, and be in nobody's
 * use. false: the path leads to another file than the machine's, and stays so.
 */
bool untaken_put_right(int sock, unsigned disk, const char *path,
                       const char *format) MUST_CHECK;
/* What to say of such a path. Returns -EBUSY. */
int untaken_refuse(const char *path, struct error *err);
