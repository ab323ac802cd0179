/* SPDX-License-Identifier: Apache-2.0 */
/*
 * named.h - machines in the foreground that have a name: one of each name, a
 * socket to ask things on, and a folder for what it leaves.
 *
 *	RUNTIME/named/NAME.lock   held while it runs
 *	RUNTIME/named/NAME.sock   speaks the control protocol
 *	RUNTIME/named/NAME.disks  what its disks are
 *	STATE/named/NAME/         what was suspended, and snapshots
 *
 * RUNTIME and STATE are those of base/place.h.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;

struct named {
	char *socket_path, *disks_path;
	int lock_fd, listen_fd; /* -1: none */
};

/* -EEXIST with words when a machine of that name runs. */
int named_claim(struct named *n, const char *name,
                struct error *err) MUST_CHECK;
void named_release(struct named *n);
/* What its disks are, for those who work on them: they don't ask the machine
 * for a path, for it may be its guest's by then. disks: of the machine file. */
int named_publish(struct named *n, json_t *disks, char *const *paths,
                  bool disposable, struct error *err) MUST_CHECK;
/* -EINVAL with words if nothing of that machine is to be left. */
int named_check_lasting(const char *name, struct error *err) MUST_CHECK;
/* NULL with words. */
json_t *named_disks(const char *name, struct error *err) MUST_CHECK;

/* A socket to the machine of that name; -ENOENT when none runs. */
int named_connect(const char *name, struct error *err) MUST_CHECK;

/* Paths, freed by the caller; the folder is made if make says so. */
char *named_folder(const char *name, bool make, struct error *err) MUST_CHECK;
char *named_suspended(const char *name, struct error *err) MUST_CHECK;

/* A machine that is new under this name: -EEXIST while another is suspended
 * under it. */
int named_fresh(const char *name, struct error *err) MUST_CHECK;

/* All that the machine of this name left: snapshots, suspended ones. */
void named_forget(const char *name);

/* 1 to 63 letters, digits and dashes: it becomes a host name, and a file. */
bool named_valid(const char *name);
/* The same, with words. */
int named_check(const char *name, struct error *err) MUST_CHECK;
