/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of cgroup/ share.
 *
 *	file.c    reading and writing one
 *	where.c   where hierarchies are, and our own group in them
 *	v1.c, v2.c   opening, and a machine's limits
 */
#pragma once

#include "launch/cgroup.h"

enum { CGROUP_PERIOD_US = 100000, CGROUP_TEXT = 4096 };

/* ---- file.c ---- */

int group_write(const char *folder, const char *file, const char *text);
int group_write_number(const char *folder, const char *file, u64 value);
/* 0 is no limit, in the version's own word for it. */
int group_write_limit(const char *folder, const char *file, u64 value,
                      const char *none);
/* Ends text with a NUL, also where it returns false. */
bool group_read(const char *folder, const char *file, char *text, size_t size);
/* "max" and what v1 says for it are more than any host has. */
u64 group_read_size(const char *folder, const char *file);
bool group_has(const char *folder, const char *file);
bool group_has_word(const char *text, const char *word);
int group_make(const char *path) MUST_CHECK;
/* The machine's own below the parent, made if need be. */
int group_enter(const char *parent, const char *machine, pid_t pid,
                char **folder) MUST_CHECK;

/* ---- where.c ---- */

/* Our own group of the hierarchy with that controller (v1), of v2 (NULL), or
 * its mount where our path is another container's; NULL: there is none. */
char *group_own(const char *controller, size_t *mount_size);

/* ---- v1.c, v2.c ---- */

/* kind is set where it was possible. */
int cgroup_v1_open(struct cgroups *g, const char *name) MUST_CHECK;
int cgroup_v2_open(struct cgroups *g, const char *name) MUST_CHECK;
int cgroup_v1_apply(const struct cgroups *g, const char *machine, pid_t pid,
                    const struct cgroup_limits *l) MUST_CHECK;
int cgroup_v2_apply(const struct cgroups *g, const char *machine, pid_t pid,
                    const struct cgroup_limits *l) MUST_CHECK;
/* The scale of BFQ, which ends at 1000, with 100 where ours has it. */
u64 cgroup_bfq_weight(u64 weight);
