/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schedule.h - machines that are backed up by themselves: one schedule each.
 *
 *	plan.c          when, and what is kept: pure functions
 *	schedule.c      begins backups that are due, and lets old ones go
 *	api_schedule.c  the routes
 *
 * A time that passed while no daemon was there is caught up once. One that
 * comes while the last backup is still being made is left out.
 */
#pragma once

#include "daemon/backup/plan.h"
#include "daemon/daemon.h"

struct backup_schedule {
	struct backup_schedule *next;
	char vm[ID_SIZE];
	struct backup_plan plan;
	s64 since;    /* when it was made; seconds since 1970, as the next */
	s64 last;     /* when it was last looked at and due */
	bool again;   /* the daemon ended while one was being made */
	u32 failures; /* in a row */
	char *error;  /* of the last one; NULL: it was good */
};

int backup_schedules_start(struct daemon *d, struct error *err) MUST_CHECK;
void backup_schedules_stop(struct daemon *d);
/* A backup has ended, well or not. Of any kind of task: others are passed
 * over. */
void backup_schedules_ended(struct daemon *d, const struct task *task);

struct backup_schedule *backup_schedule_of(const struct daemon *d,
                                           const char *vm);
/* Of a machine, instead of what it had; NULL: none. In the registry, by the
 * caller's transaction; then in what runs. */
int backup_schedule_write(struct daemon *d, const char *vm,
                          const struct backup_plan *plan, s64 now,
                          struct error *err) MUST_CHECK;
void backup_schedule_set(struct daemon *d, const char *vm,
                         const struct backup_plan *plan, s64 now);
