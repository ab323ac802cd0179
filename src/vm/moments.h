/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moments.h - requests to save or copy a machine (save, snapshot, fork;
 * control/control.h says what they are).
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "base/types.h"
#include "machine/machine.h"
#include "vm/disks.h"

struct loop;
struct machine;
struct vm_config;

/* An answer, and the descriptors that go with it; borrowed. */
enum { REPLY_FDS_MAX = 120 };
struct reply {
	json_t *body;
	int fds[REPLY_FDS_MAX];
	unsigned fd_count;
};

struct moments {
	struct loop *loop;
	struct machine *machine;
	struct vm_config *config;
	/* Sends the answer to a request of asker; takes over body and id. */
	void (*answer)(void *asker, json_t *id, struct reply *reply);
	struct share *shares;
	void *asker; /* of what is being written; NULL: gone */
	json_t *id;
	bool busy;  /* with that, its asker there or not */
	bool whole; /* it was to save; its disks go with the answer */
	bool forks; /* what is asked for is a copy, and may take a while */
	u64 since_ns;
	/* Files that share what raw disks hold at the moment; -1: none. */
	int shared[MACHINE_DISKS_MAX];
};

/* The rest is the caller's. */
void moments_init(struct moments *m);
void moments_fini(struct moments *m);
/* A request that is answered later: NULL; else why not. */
json_t *moments_snapshot(struct moments *m, void *asker, json_t *message,
                         const struct brought *brought);
/* The same; the machine is frozen. */
json_t *moments_save(struct moments *m, void *asker, json_t *message,
                     const struct brought *brought);
/* Either. */
json_t *moments_fork(struct moments *m, void *asker, json_t *message,
                     const struct brought *brought, struct reply *reply);
/* An answer: how far it is that is being written. */
json_t *moments_progress(struct moments *m);
/* It comes to nothing; its asker is told so. */
void moments_cancel(struct moments *m);
/* It has gone: what it asked for comes to nothing, too. */
void moments_forget(struct moments *m, void *asker);
