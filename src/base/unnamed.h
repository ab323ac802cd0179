/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unnamed.h - files that get a name when they are whole: however the making of
 * one ends, nothing is left of it.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

/* A file in the folder, to read and write; the umask is taken from mode. -1 and
 * errno where the file system knows no such files. */
int unnamed_open(int folder, mode_t mode) MUST_CHECK;

/* One that is never to have a name, to read and write: where the file system
 * knows none, its name is taken away at once. -1 and errno. */
int unnamed_scratch(const char *folder) MUST_CHECK;
/* The same in the folder that path is in. */
int unnamed_beside(const char *path) MUST_CHECK;

/* Its name. 0, or -errno: -EEXIST if a file has that already. */
int unnamed_give(int fd, int folder, const char *name) MUST_CHECK;
