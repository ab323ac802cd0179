/* SPDX-License-Identifier: Apache-2.0 */
/*
 * works.h - long work on the disks of a running machine: begun, watched,
 * ended.
 *
 * The loop's thread calls, unless it says otherwise. A work that is over stays
 * in the list for whoever wants to know how it ended, until many came after.
 */
#pragma once

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "storage/jobs.h"

struct error;
struct loop;
struct machine;
struct nbd_server;
struct vm_config;
struct works;

enum { WORKS_MAX = 32, WORK_NAME_MAX = 255 };

enum work_then {
	WORK_FINISH, /* caught up: that was it */
	WORK_PIVOT,  /* caught up: the target becomes the disk */
	WORK_STAY,   /* keep the target the same until told otherwise */
};

struct work {
	struct works *works;
	u64 id; /* 0: this place is free */
	unsigned disk;
	const char *kind;
	char *path; /* of what is written, for messages */
	struct job *job;
	enum work_then then;
	u64 rate;

	/* What the disk's image is afterwards, if it is another; -1. */
	int image_fd;
	/* By which name whoever starts the machine again finds it: "" if by
	 * that of now. */
	char record[WORK_NAME_MAX + 1];
	/* A commit's: the image below, and the one above what goes down. */
	int base_fd, above_fd;
	unsigned flags; /* BLOCK_OPEN_*, for both */
	/* A rebase's, of a disk without a path: its image then lies on that
	 * one of its chain. */
	unsigned layer;
	bool rebases;
	bool yields; /* nobody asked for it: works_yield() ends it */
	char *base_path, *base_format, *above_path;

	/* A snapshot's. */
	pthread_t thread;
	bool threaded;
	_Atomic bool returned;
	struct block *overlay;
	struct block *live; /* borrowed */
	/* An export's. */
	struct nbd_server *server;
	struct block *point;
	u64 asker; /* it ends with that */

	enum job_state state; /* as the loop's thread knows it */
	struct error *err;    /* of one without a job; owned */
};

struct works *works_create(struct loop *loop, struct vm_config *config,
                           struct machine *machine);
/* Ends all of it; nothing is changed without being recorded. NULL is legal. */
void works_end(struct works *w);
void works_destroy(struct works *w);

/* A free place with an id; NULL: all are in use. Filled in by the caller, and
 * then begun or given back. */
struct work *works_add(struct works *w, unsigned disk, const char *kind,
                       const char *path);
void works_drop(struct work *work);
/* Options for a job of this work; they live as long as it. */
struct job_options work_options(struct work *work);
/* A job was started for it. */
void work_begun(struct work *work);
/* live_snapshot() on a thread. */
int work_snapshot(struct work *work, struct error *err) MUST_CHECK;

struct work *works_find(struct works *w, u64 id);
/* What nobody asked for is cancelled, and over when this returns: true if there
 * was such. */
bool works_yield(struct works *w, unsigned disk);
/* One that is under way on this disk, an export aside. */
bool works_busy(const struct works *w, unsigned disk);
json_t *works_list(struct works *w);
json_t *work_json(struct work *work);
void work_cancel(struct work *work);
/* Who asked has gone. */
void works_left(struct works *w, u64 asker);
