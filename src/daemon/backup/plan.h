/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.h - when a machine is backed up by itself, and which of those backups
 * are kept. Pure functions: the clock and the list are the caller's.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;

struct backup_plan {
	u32 every_s;   /* between two; 0: at a time of the day */
	u32 minute;    /* of the host's local day */
	u32 days;      /* bit 0: Monday */
	u32 keep_last; /* as they come; all three 0: all are kept */
	u32 keep_daily, keep_weekly;
	u32 full_every; /* each nth is whole; 0: none has to be */
	u32 freeze;     /* 1: the guest's file systems stand still for it */
};

/* Of what a client sent: all checked, defaults put in. -EINVAL with words. */
int backup_plan_parse(struct backup_plan *out, json_t *sent,
                      struct error *err) MUST_CHECK;
/* As the API shows it; new. */
json_t *backup_plan_json(const struct backup_plan *plan);

/* The first time that is due after another (seconds since 1970). since: when
 * the plan was made, from which every_s counts. */
s64 backup_plan_next(const struct backup_plan *plan, s64 since, s64 after);

/* A list of them is in order, the newest first. */
struct backup_kept {
	s64 at;
	bool planned; /* not made by hand: those are never let go */
	size_t
	    base;  /* the index of the one that it builds on; SIZE_MAX: none */
	bool keep; /* out */
};
/* What the plan asks for, and what that builds on. */
void backup_plan_keep(const struct backup_plan *plan, struct backup_kept *list,
                      size_t count);
