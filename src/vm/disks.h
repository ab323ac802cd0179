/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disks.h - requests about the disks of a running machine, and about the work
 * on them (control/control.h says what they are).
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "base/types.h"

struct claims;
struct error;
struct machine;
struct vm_config;
struct shorten;
struct works;

struct disks {
	struct machine *machine;
	struct vm_config *config;
	struct works *works;
	struct shorten *shorten;
	struct claims *claims;
	u64 asker; /* not 0; an export ends with who asked for it: works_left()
	            */
};

/* What a request brought along; they stay the caller's. */
struct brought {
	const int *fds;
	size_t count;
};
/* The descriptor whose index this is, or -1. */
int brought_fd(const struct brought *b, json_t *index);
/* Whether that is the file which the disk lies in, and which an overlay for it
 * names: since it was looked up the disk may have gone elsewhere. NULL index:
 * nobody said. */
int disk_check_base(const struct vm_config *config, unsigned disk,
                    const struct brought *b, json_t *index,
                    struct error *err) MUST_CHECK;

/* The answer; NULL: op is none of these. */
json_t *disks_request(const struct disks *d, const char *op, json_t *message,
                      const struct brought *brought);
/* Whether op is for one at a time, and not while the machine is saved. */
bool disks_alone(const char *op);
/* How fast a disk may be now, as a machine file says it. */
json_t *disk_limits_json(struct machine *machine, unsigned disk);
/* Whether it is somebody else's turn with one of them. */
bool disks_claimed(const struct disks *d);
/* Words if the machine can't be saved now, for a disk is being changed. */
const char *disks_in_the_way(const struct disks *d);
