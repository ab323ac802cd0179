/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot.h - atoll snapshot: moments of a named machine, to go back to.
 *
 *	STATE/named/NAME/snapshots/SNAPSHOT/
 *		snapshot.json   written last: without it there is no snapshot
 *		state           memory, processors, devices (saved.h)
 *		disk0, disk1    what the disks held; the same blocks where the
 *		                file system can share them
 *	STATE/named/NAME/snapshots/current
 *		which snapshot the machine goes on from: the next one's parent
 *
 * Each one is whole by itself, so that none needs another when it is deleted.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;

int cmd_snapshot(int argc, char **argv);
int snapshot_diff(int argc, char **argv); /* snapshot_diff.c */

/* ---- snapshot_store.c ---- */

struct snapshots {
	char *folder;  /* of all */
	char *current; /* name, or NULL */
	json_t *all;   /* name -> snapshot.json, in the order of their time */
	int lock_fd;   /* -1: only read */
};

/* Reads them. To change them: nobody else does meanwhile, and what was never
 * finished is cleared away. */
int snapshots_open(struct snapshots *s, const char *machine, bool change,
                   struct error *err) MUST_CHECK;
void snapshots_fini(struct snapshots *s);
/* NULL with words. */
json_t *snapshots_find(const struct snapshots *s, const char *name,
                       struct error *err) MUST_CHECK;
char *snapshots_path(const struct snapshots *s, const char *name,
                     const char *file);
/* In one step, and on the disk when it returns. */
int snapshots_write(const char *folder, const char *file, json_t *json,
                    struct error *err) MUST_CHECK;
/* name NULL: none. */
int snapshots_set_current(const struct snapshots *s, const char *name,
                          struct error *err) MUST_CHECK;
/* Files and folder; nothing there is no failure. */
int snapshots_erase(const char *folder, struct error *err) MUST_CHECK;
int snapshots_sync(const char *folder, struct error *err) MUST_CHECK;
