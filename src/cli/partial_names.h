/* SPDX-License-Identifier: Apache-2.0 */
/*
 * partial_names.h - names for files that are being made, where they have to
 * have one (partial.h): who finds one can tell whether somebody still makes it.
 */
#pragma once

#include "base/types.h"

/* It, 8 random digits and 8 that follow from them: nobody else's. */
#define PARTIAL_PREFIX ".atoll-part-"
enum { PARTIAL_NAME_SIZE = sizeof(PARTIAL_PREFIX) + 16 };

int partial_new_name(char name[PARTIAL_NAME_SIZE]) MUST_CHECK;

/* Whether a lock is seen by all who can reach files of that folder. On others'
 * disks and in sandboxes it may be the one machine's affair. */
bool partial_locks_hold(int folder);
/* Files and folders that nobody has locked any more. Where locks hold. */
void partial_remove_dead(int folder);

/* What a signal that ends us takes along: files before the folder that they lie
 * in. */
void partial_watch(const char *path);
void partial_unwatch(const char *path);
