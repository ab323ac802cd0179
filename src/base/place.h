/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.h - where the daemon keeps things, for itself and for its clients.
 *
 * For a user: the XDG base directories. For root: the system's. Either is
 * moved as a whole by ATOLL_STATE_DIR and ATOLL_RUNTIME_DIR.
 */
#pragma once

#include "base/types.h"

struct error;

struct place {
	char *state;   /* outlives a boot: the registry, disks, consoles */
	char *runtime; /* ends with the boot: sockets */
	char *socket;  /* of the API, in runtime */
	char *images;  /* the image store; need not exist */
};

/* Makes no folder. -ENOENT when nothing says where home is. */
int place_find(struct place *out, struct error *err) MUST_CHECK;
void place_fini(struct place *place);

/* mkdir -p with mode 0700 for what is new. */
int place_make(const char *folder, struct error *err) MUST_CHECK;

/* Path of a program of ours: beside this one, in the build tree, or where
 * `make install` puts it. NULL with words. */
char *place_program(const char *name, struct error *err) MUST_CHECK;
