/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_root.h - a file system of a process's own: next to nothing.
 */
#pragma once

#include "base/types.h"

struct error;

/* What of the host's is shown in it, at the same place. */
struct own_root_show {
	const char *path; /* absolute; what is not there is not shown */
	bool folder;      /* with all that lies below; else a file */
};

/*
 * In a mount namespace of our own, and nowhere else. What is left is read-only:
 * what shown lists, up to a NULL path. Nothing else of the host's can be named
 * any more, whatever a sandbox lets through. -errno and words where the host
 * does not let us; then all is as it was.
 */
int own_root_enter(const struct own_root_show *shown,
                   struct error *err) MUST_CHECK;

/* Gives up all that root may do, in a namespace or out of it. */
int own_root_drop(struct error *err) MUST_CHECK;
