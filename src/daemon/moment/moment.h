/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moment.h - machines of the daemon's, saved: snapshots, and what a machine
 * goes on from when it is started next.
 *
 * In the machine's folder, as cli/snapshot.h says more of:
 *
 *	snapshots/NAME/    snapshot.json, state, disk0, ...; each whole by
 *itself suspended.state    it goes on from there suspended.json     by which
 *definition; was it a snapshot's ("copy")? saving.state       being written;
 *the holder gives it its name when the machine has ended for it, so that what
 *goes on from a state is never a machine that went on after it resuming.state
 *from its start to the first step of its guest
 *
 * The work is `atoll snapshot`'s and `atoll suspend`'s, in processes of their
 * own: disk_work.c says why.
 */
#pragma once

#include <jansson.h>

#include "daemon/daemon.h"

/* ---- store.c ---- */

bool moment_name_valid(const char *name);
/* As snapshot.json has it; NULL: there is none that is whole. */
json_t *moment_find(const struct vm *vm, const char *name);
/* As the API shows them, the oldest first: {"current", "snapshots"}. */
json_t *moment_list_json(const struct vm *vm);
/* One of them, with its definition; takes found over. */
json_t *moment_json(const struct vm *vm, json_t *found);
/* How many, and how much of the disk. */
u64 moment_count(const struct vm *vm, u64 *bytes);
/* One that was never whole goes. */
void moment_tidy(const struct vm *vm, const char *name);

/* ---- saved.c ---- */

/* Is there something that it goes on from? Sets vm->saved. */
void saved_look(struct vm *vm);
/* By what; NULL with words. */
json_t *saved_read(const struct vm *vm, struct error *err) MUST_CHECK;
/* It does not go on from there any more. */
void saved_discard(struct vm *vm);
/* May the machine, as it is defined now, go on with what was defined then? */
int saved_fits(const struct vm *vm, json_t *then, struct error *err) MUST_CHECK;
/* The whole definition that it then has; new. */
json_t *saved_spec(const struct vm *vm, json_t *then) MUST_CHECK;

/* ---- work.c: tasks ---- */

void moment_create_begin(struct task *t);
void moment_create_changed(struct task *t);
void moment_revert_begin(struct task *t);
void moment_revert_changed(struct task *t);
void moment_delete_begin(struct task *t);
void moment_suspend_begin(struct task *t);
void moment_suspend_changed(struct task *t);
/* Of each of them; it is moved on by its process alone while that is there. */
void moment_cancel(struct task *t);

/* ---- fork.c: the task ---- */

void fork_begin(struct task *t);
void fork_changed(struct task *t);
void fork_cancel(struct task *t);
/* In the queue again, after a restart; ended, however. */
void fork_loaded(struct task *t);
void fork_ended(struct task *t);
/* The machine is gone, with params of a task that it had. */
void fork_lost(struct daemon *d, json_t *params);
