/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live.h - atoll disk on a machine that runs: NAME:DISK instead of a file.
 *
 * The machine's process may open nothing, so what a verb needs is opened here
 * and sent to it (control/control.h). Which file a disk is comes from whoever
 * started the machine, never from the machine itself.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "cli/disk.h"

struct error;
struct option_spec;

/* Whether the words of a verb are meant for a machine: NULL, or its function.
 * argv[0] is the verb. */
int (*live_verb(int argc, char **argv))(int argc, char **argv);

/* A disk of a running machine. */
struct live_disk {
	char *machine;
	int sock;
	unsigned number;
	char *path;   /* real, absolute; NULL: none leads to it */
	char *format; /* of that file */
	bool readonly;
	bool foreign; /* seen when it is our turn: the machine has another file
	               * open than what is there */
};

/* What all of these verbs take. */
struct live_args {
	struct disk_args args;
	const char *socket, *path, *disk_format; /* of one of the daemon's */
	u64 rate;
	bool lines, detach, turn;
	/* live_work(): the job's number; it was seen to be as far as to wait
	 * for --finish; it is known to have ended badly. */
	json_int_t job;
	bool ready, failed;
	/* For live_work(): should this process be killed, or let go of the
	 * job, another one comes back from there in its place. */
	bool guarded;
	/* For live_work(): names at the disk's path change, so that the machine
	 * is to have what is there, and not another file. */
	bool renames;
	bool left, alone; /* it lets go of it; it is that other one */
	int guard;        /* to whom; 0: nobody */
	pid_t guard_pid;
	const char *verb;
	struct live_disk disk;
};

enum {
	LIVE_OPT_RATE = 800,
	LIVE_OPT_LINES,
	LIVE_OPT_SOCKET,
	LIVE_OPT_PATH,
	LIVE_OPT_DISK_FORMAT,
	LIVE_OPT_DETACH
};
/* The last four are the daemon's, for its own machines: where one is asked,
 * which of its files the disk is and of what format, and that progress comes as
 * lines of numbers. */
#define LIVE_OPTIONS                                                           \
	DISK_OPT_JSON, DISK_OPT_QUIET,                                         \
	    { "machine-socket", "PATH", NULL, LIVE_OPT_SOCKET },               \
	    { "machine-format", "F", NULL, LIVE_OPT_DISK_FORMAT },             \
	    { "machine-disk", "PATH", NULL, LIVE_OPT_PATH },                   \
	{                                                                      \
		"progress-lines", NULL, NULL, LIVE_OPT_LINES                   \
	}
#define LIVE_OPT_OF_JOBS                                                       \
	{ "rate", "SIZE", "at most so many bytes a second", LIVE_OPT_RATE },   \
	{                                                                      \
		"detach", NULL, "print the job's number and don't wait",       \
		    LIVE_OPT_DETACH                                            \
	}
#define LIVE_OPT_FREEZE(id)                                                    \
	{                                                                      \
		"freeze", NULL,                                                \
		    "its file systems stand still as it begins, by the "       \
		    "guest's agent",                                           \
		    id                                                         \
	}
/* What a machine of nobody's daemon is told of that: -ENOTSUP. */
int live_no_agent(struct error *err);
int live_arg(struct live_args *a, int id, const char *value, struct error *err);

/* A verb: ctx has what option reads, and *a inside; fn does it on the disk,
 * which is open. The exit code. */
struct live_verb {
	const char *usage, *summary;
	const struct option_spec *specs;
	int (*option)(void *ctx, int id, const char *value, struct error *err);
	int (*fn)(void *ctx, struct error *err);
	/* The same for a machine of the daemon's: what its API is sent; NULL:
	 * it is asked. Of none: the daemon can't. */
	json_t *(*remote)(void *ctx, struct error *err);
	bool stopped; /* also of a machine of the daemon's that does not run */
	bool turn;    /* no other's work on the disk comes between (claim.h) */
};
int live_main(const struct live_verb *verb, int argc, char **argv, void *ctx,
              struct live_args *a);

/* live_remote.c. The exit code; local: why no machine was found here, which a
 * daemon that does not run has not either. NULL: it is started to be asked. */
int live_remote(struct live_args *a, json_t *body, const struct error *local);
/* A key, if there is something to say. */
void live_put_path(json_t *body, const char *key, const char *path);
void live_put_text(json_t *body, const char *key, const char *text);
void live_put_number(json_t *body, const char *key, u64 number);
void live_put_switch(json_t *body, const char *key, bool on);

/* To the socket of one of the daemon's machines. */
int live_connect(const char *path, struct error *err) MUST_CHECK;
/* NAME:DISK, the first of args->names, resolved and connected. */
int live_open_disk(struct live_args *a, struct error *err) MUST_CHECK;
void live_close_disk(struct live_args *a);

/* One request about the disk; message is taken over and gets "disk". *answer
 * may be NULL. */
int live_ask(struct live_args *a, json_t *message, const int *fds, size_t count,
             json_t **answer, struct error *err) MUST_CHECK;
/* The same for one that begins a job: followed to its end, with progress; a
 * signal leaves it alone. *left: it goes on without us. */
int live_work(struct live_args *a, const char *what, json_t *message,
              const int *fds, size_t count, bool *left,
              struct error *err) MUST_CHECK;
/* Job `id` to its end. */
int live_follow(struct live_args *a, const char *what, json_int_t id,
                bool *left, struct error *err) MUST_CHECK;

/* ---- images below a disk (live_chain.c) ---- */

struct live_layer {
	char *path, *format; /* absolute */
	dev_t dev;           /* which file that was */
	ino_t ino;
};
struct live_chain {
	struct live_layer *layers; /* the disk itself first */
	unsigned count;
};
/* What changes names beside the disk needs: that it is a file with one. */
int live_check_path(const struct live_disk *d, struct error *err) MUST_CHECK;
int live_chain_read(struct live_chain *c, const char *path, const char *format,
                    struct error *err) MUST_CHECK;
void live_chain_free(struct live_chain *c);
/* How the image above calls the base: relative to its folder if it can. */
const char *live_name_for(const char *above, const char *base);

/* ---- the verbs ---- */

int live_snapshot_verb(int argc, char **argv);
int live_commit_verb(int argc, char **argv);
int live_rebase_verb(int argc, char **argv);
int live_mirror_verb(int argc, char **argv);
int live_backup_verb(int argc, char **argv);
int live_export_verb(int argc, char **argv);
int live_resize_verb(int argc, char **argv);
int live_throttle_verb(int argc, char **argv);
int live_bitmap_verb(int argc, char **argv);
int live_jobs_verb(int argc, char **argv);
int live_info_verb(int argc, char **argv);

/* disk_export.c: a socket that only its owner may connect to. */
int disk_listen(const char *path, struct error *err) MUST_CHECK;
