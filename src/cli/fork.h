/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork.h - atoll fork: copies of a running machine.
 *
 *	fork.c          the command line; what is asked of the machine
 *	fork_disks.c    what it and its copies write to from then on
 *	fork_machine.c  a copy's machine file
 *	fork_hold.c     copies while they run
 *	fork_kept.c     those of a machine that a daemon keeps
 *
 * A process of its own holds the copies when the command has returned. Each
 * has a folder as every named machine has (named.h), with its console:
 *
 *	STATE/named/NAME/console.log   what it prints
 *	STATE/named/NAME/console.in    a pipe: what is typed
 */
#pragma once

#include <jansson.h>
#include <sys/stat.h>

#include "base/types.h"
#include "cli/named.h"
#include "cli/run.h"
#include "cli/snapshot.h"
#include "control/control.h"
#include "storage/image.h"

struct error;

enum { FORKS_MAX = 1000 };

/* What the machine gave; descriptors are ours, and are read-only. */
struct fork_source {
	json_t *answer;
	int fds[CONTROL_FDS_MAX];
	size_t count;
	int state; /* the state's file */
	int hold;  /* open as long as anybody maps the memory */
	json_t *origin;
};

struct fork_disks;

struct fork_copy {
	char *name;
	struct named named;
	struct worker worker; /* pid 0: none */
	int overlays[RUN_DISKS_MAX + 1];
	unsigned overlay_count;
	/* Ours until it runs; the pipe to its end, so that it stays open. */
	int console_in, console_out;
	pid_t nets[RUN_NETS_MAX];
	int net_ready[RUN_NETS_MAX], net_link[RUN_NETS_MAX];
	unsigned net_count;
	u64 started_ns;
	bool stopped;
};

/* ---- fork.c ---- */

/* The machine behind sock, of which all is ready, is asked for its moment; its
 * files come open for reading alone. */
int fork_ask(struct fork_source *s, int sock, struct fork_disks *d,
             struct error *err) MUST_CHECK;
void fork_source_fini(struct fork_source *s);
/* Descriptors of a hundred machines are more than a shell allows. */
void fork_allow_files(void);
/* A name for it. */
int fork_new_moment(char moment[17], struct error *err) MUST_CHECK;

/* ---- fork_kept.c ---- */

/* As the daemon's document says; an exit code. */
int fork_kept(const char *document);
/* The same by its API: the exit code. */
int fork_remote(const struct snapshot_of *of, const struct snapshot_remote *how,
                json_t *body);

/* ---- fork_disks.c ---- */

/* disk.qcow2 -> disk.fork-MOMENT.qcow2; owned. */
char *fork_kept_name(const char *path, const char *moment);
/* An empty image over base, which is of that format. */
struct image_create fork_overlay_how(const char *path, const char *base,
                                     const char *format, u64 size);
/* The same, as large as disk says: open, or -errno. */
int fork_overlay_create(const char *path, const char *base, json_t *disk,
                        struct error *err) MUST_CHECK;

/* Where a disk with a path lies, and what it becomes. */
struct fork_path {
	char *path; /* NULL: no path leads to it */
	char *kept; /* what it was, under another name */
	char *next; /* the overlay, until it has the path */
	bool taken; /* it has */
	/* A raw file stays what it is: a copy's disk lies on what it held at
	 * the moment, a file that shares that with it. */
	bool raw;
	bool used; /* and the machine said that it goes on there */
	struct stat was;
	int base; /* that file, to say which one it is; -1 */
};

/* Those that the machine writes to. */
struct fork_disks {
	json_t *list; /* as the machine lists them */
	const char *moment;
	unsigned count;
	struct fork_path paths[RUN_DISKS_MAX + 1];
	/* The machine's own; of a raw one the file that is to share. */
	int overlays[RUN_DISKS_MAX + 1];
};

void fork_disks_init(struct fork_disks *d, const char *moment);
int fork_disks_list(struct fork_disks *d, int sock, const char *machine,
                    const char *moment, struct error *err) MUST_CHECK;
/* A copy's: of each disk an empty file without a name. */
int fork_disks_overlays(struct fork_disks *d, int *out, const char *folder,
                        struct error *err) MUST_CHECK;
/* The machine's own; paths lead to them when this returns, and read the same
 * as before as long as nobody writes there. */
int fork_disks_take(struct fork_disks *d, int sock, const char *folder,
                    struct error *err) MUST_CHECK;
/* For the request; their descriptors are added to fds. */
json_t *fork_disks_message(struct fork_disks *d, int *fds, size_t *count);
/* What lies below those with paths goes to the answer. */
int fork_disks_below(struct fork_disks *d, struct fork_source *s,
                     struct error *err) MUST_CHECK;
/* A path whose overlay the machine did not come to use gets its file back. */
void fork_disks_fini(struct fork_disks *d);

/* A raw disk's path, of which that can be; fd: an empty file to try it with. */
int fork_try_raw(const char *machine, const char *path, int fd,
                 struct error *err) MUST_CHECK;
/* Names of files below disks: the same for all copies of one moment. */
char *fork_base_name(json_t *disk, const char *moment);

/* Sends the machine file to the copy's process, which waits for it. */
int fork_machine_start(struct fork_copy *c, const struct fork_source *s,
                       const char *moment, struct error *err) MUST_CHECK;

/* Until all have ended. remove: nothing is left of them then. */
void fork_hold(struct fork_copy *copies, unsigned count, bool remove);
/* Wait for "started"; the words of one that failed. */
int fork_wait_started(struct fork_copy *c, struct error *err) MUST_CHECK;
void fork_copy_fini(struct fork_copy *c, bool remove);

int command_fork(int argc, char **argv);
