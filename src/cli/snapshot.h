/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot.h - atoll snapshot: moments of a machine, to go back to.
 *
 *	snapshot.c         the verbs; create, list, delete
 *	snapshot_revert.c  revert
 *	snapshot_diff.c    diff
 *	snapshot_where.c   whose machine it is
 *	snapshot_remote.c  the same verbs, by the daemon's API
 *	snapshot_store.c   the folders
 *
 * A machine is one that was started by name (named.h), or one that a daemon
 * keeps. That one's snapshots are the daemon's to change: it starts this
 * program, and says where the machine's folder and socket are.
 *
 *	STATE/named/NAME/snapshots/SNAPSHOT/ (or FOLDER/snapshots/SNAPSHOT/)
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
struct image_progress;
struct snapshots;

int cmd_snapshot(int argc, char **argv);
int snapshot_diff(int argc, char **argv); /* snapshot_diff.c */

/* ---- snapshot_where.c ---- */

struct snapshot_of {
	const char *machine;
	const char *folder, *socket; /* as the daemon says; NULL: by name */
};

/* How the daemon is asked. */
struct snapshot_remote {
	const char *where; /* NULL: the user's own */
	bool json, async, quiet, yes;
};

enum {
	SNAPSHOT_JSON = 700,
	SNAPSHOT_FORMAT,
	SNAPSHOT_REMOTE,
	SNAPSHOT_ASYNC,
	SNAPSHOT_QUIET,
	SNAPSHOT_YES,
	SNAPSHOT_FOLDER,
	SNAPSHOT_SOCKET,
};
#define SNAPSHOT_OPT_JSON                                                      \
	{ "json", NULL, "print JSON", SNAPSHOT_JSON },                         \
	{                                                                      \
		"format", "FORMAT", "table or json", SNAPSHOT_FORMAT, 'o'      \
	}
#define SNAPSHOT_OPT_TASK                                                      \
	{ "async", NULL,                                                       \
	  "of a daemon's: print the task's number and don't wait",             \
	  SNAPSHOT_ASYNC },                                                    \
	{                                                                      \
		"quiet", NULL, "no progress", SNAPSHOT_QUIET                   \
	}
/* The last two are the daemon's, for its own machines: where a machine's folder
 * is, and where it is asked. */
#define SNAPSHOT_OPTIONS                                                       \
	{ "remote", "WHERE", "a daemon's: unix:PATH or https://HOST:PORT",     \
	  SNAPSHOT_REMOTE },                                                   \
	    { "machine-folder", "PATH", NULL, SNAPSHOT_FOLDER },               \
	{                                                                      \
		"machine-socket", "PATH", NULL, SNAPSHOT_SOCKET                \
	}
int snapshot_where_option(struct snapshot_of *of, struct snapshot_remote *r,
                          int id, const char *value,
                          struct error *err) MUST_CHECK;
/* Is it a daemon's, to be asked for by the API? Else its name is checked. */
int snapshot_is_remote(const struct snapshot_of *of,
                       const struct snapshot_remote *r, bool *remote,
                       struct error *err) MUST_CHECK;
/* What one of the daemon's was started by: "spec", "revision", "disks". */
int snapshot_definition(int sock, json_t **out, struct error *err) MUST_CHECK;
/* The path of what it goes on from when it is started next; owned. */
char *snapshot_suspended(const struct snapshot_of *of,
                         struct error *err) MUST_CHECK;
/* What the daemon needs to know of that: the definition (of a snapshot, or as
 * snapshot_definition() gave it), and whether another may have gone on from it
 * before. */
int snapshot_write_saved(const struct snapshot_of *of, json_t *definition,
                         bool copy, struct error *err) MUST_CHECK;

/* ---- snapshot_remote.c: exit codes ---- */

struct remote;
/* 0, or an exit code; client_close(r->client) either way. */
int snapshot_open_remote(struct remote *r, const struct snapshot_remote *how);

int snapshot_remote_create(const struct snapshot_of *of,
                           const struct snapshot_remote *r, json_t *body);
/* *s: as they are read from a folder; each with "bytes". 0, or the code. */
int snapshot_remote_list(const struct snapshot_of *of,
                         const struct snapshot_remote *r, struct snapshots *s);
int snapshot_remote_revert(const struct snapshot_of *of,
                           const struct snapshot_remote *r, const char *name,
                           json_t *body);
int snapshot_remote_delete(const struct snapshot_of *of,
                           const struct snapshot_remote *r, const char *name);
/* suspend, pause or resume; body may be NULL, and is taken over. Resume also
 * goes on with one that was suspended. */
int snapshot_remote_act(const struct snapshot_of *of,
                        const struct snapshot_remote *r, const char *verb,
                        json_t *body);
/* *out: what there is to print. 0, or the code. */
int snapshot_remote_diff(const struct snapshot_of *of,
                         const struct snapshot_remote *r, const char *a,
                         const char *b, json_t **out);

/* ---- snapshot_revert.c ---- */

/* How far it is, for the daemon, which has our output go to a file: in its
 * first bytes. */
void snapshot_tell_far(void *ctx, u64 done, u64 total);
/* Disks first, the state last; the machine does not run. */
int snapshot_put_back(const struct snapshot_of *of, const struct snapshots *s,
                      const char *name, const struct image_progress *progress,
                      struct error *err) MUST_CHECK;

/* ---- snapshot_store.c ---- */

struct snapshots {
	char *folder;  /* of all */
	char *current; /* name, or NULL */
	json_t *all;   /* name -> snapshot.json, in the order of their time */
	int lock_fd;   /* -1: only read */
};

/* Reads them. To change them: nobody else does meanwhile, and what was never
 * finished is cleared away. */
int snapshots_open(struct snapshots *s, const struct snapshot_of *of,
                   bool change, struct error *err) MUST_CHECK;
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
