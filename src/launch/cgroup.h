/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.h - a control group for each machine, in cgroup v2 or v1.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct error;

enum cgroup_kind { CGROUP_NONE, CGROUP_V1, CGROUP_V2 };

struct cgroups {
	enum cgroup_kind kind;
	/* Folders in which machines have theirs; NULL: none. */
	char *cpu, *memory, *io;
	bool cpuset;
	int helper; /* who does it for us (launch/helper.h); -1: ourselves */
	char words[320]; /* what is missing, for a person; or "" */
};

struct cgroup_limits {
	u64 weight;      /* 1 to 10000; 100 is usual */
	u64 cpu_percent; /* of one processor; 0: no limit */
	const char *pin; /* "0-3,5"; "": anywhere */
	u64 memory_min;  /* never taken from it */
	u64 memory_high; /* pressed above that; 0: no limit */
	u64 memory_max;  /* killed above that, all that it holds; 0: no limit */
	u64 io_weight;   /* 1 to 10000; 100 is usual */
};

/* Always succeeds; kind says what there is. name is one folder's. helper is
 * borrowed; -1: none. */
void cgroups_open(struct cgroups *g, const char *name, int helper);
void cgroups_close(struct cgroups *g);
/* What all machines together count against the rest of the host. */
void cgroups_weigh(const struct cgroups *g, u64 weight);
/* Moves the process there and sets what can be set. -EBUSY: it holds more than
 * memory_max already; all else is set. */
int cgroup_apply(const struct cgroups *g, const char *machine, pid_t pid,
                 const struct cgroup_limits *limits,
                 struct error *err) MUST_CHECK;
/* How many of its processes the kernel ended for want of memory. */
u64 cgroup_starved(const struct cgroups *g, const char *machine);
/* Once its processes have ended. */
void cgroup_remove(const struct cgroups *g, const char *machine);
/* Nanoseconds in which the limit held it back; -1: unknown. */
s64 cgroup_throttled_ns(const struct cgroups *g, const char *machine);
/* No more than all machines together may have, of a group above them that has a
 * limit: a container's. */
void cgroups_clip(const struct cgroups *g, u64 *total, u64 *available);
