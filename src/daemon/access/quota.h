/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quota.h - how much the machines of a project may have together.
 *
 * Defined machines count, whether they run or not: what was promised can be
 * started. What is on its way counts too (a copy of an image that is not made
 * yet, a disk that is being made larger, a snapshot that waits for its turn),
 * and all of it is looked at and written down on the daemon's one thread,
 * within one call: two callers can't both take the last place.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct call;
struct daemon;
struct error;
struct vm;

enum quota {
	QUOTA_MACHINES,
	QUOTA_VCPUS,
	QUOTA_MEMORY,
	QUOTA_DISK,
	QUOTA_SNAPSHOTS,
	QUOTA_BACKUPS,
	QUOTA_COUNT
};

/* As the API spells it; NULL: there are no more. */
const char *quota_name(enum quota quota);
/* What the machines of a project have, one of them (or NULL) left out. Of its
 * backups, which have to be looked for, backups_bytes() tells. */
void quota_used(struct daemon *d, const char *project, const struct vm *but,
                u64 used[QUOTA_COUNT]);
/* A project's limits: an object, without what has none. New. */
json_t *quota_limits(struct daemon *d, const char *project);

/* For handlers: may its project have that, too? The call has failed if not. */
/* count machines of that definition; or vm, which exists, by it from now on. */
bool quota_allows(struct call *c, const struct vm *vm, json_t *next,
                  unsigned count);
/* count copies of vm, which have disks as large as its own. */
bool quota_allows_copies(struct call *c, const struct vm *vm, unsigned count);
bool quota_allows_snapshot(struct call *c, const struct vm *vm);
/* Another backup of so many bytes, beside those that there are? In words. */
int quota_allows_backup(struct daemon *d, const char *project, u64 bytes,
                        struct error *err) MUST_CHECK;
/* A snapshot of the whole machine. It counts by what it takes of the disk;
 * before it is there by *most, what it may take. */
bool quota_allows_moment(struct call *c, const struct vm *vm, u64 *most);
/* The machine's own disk, that much larger or smaller than it is. */
bool quota_allows_disk(struct call *c, const struct vm *vm, u64 bytes);
