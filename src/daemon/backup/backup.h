/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backup.h - what machines' disks held, kept by the daemon.
 *
 * A backup is a folder, backups/ID below the state folder: backup.json (its
 * head: whose it is, when, of what definition, on what it builds) and a qcow2
 * image for each disk that is written to, N.qcow2. One that builds on another
 * holds what has changed since, and has that one's images below its own. A
 * folder has its name once all is there and on the disk; before, it is
 * ID.partial, which the next daemon removes.
 *
 * last/VM says for each machine which backup the next one can build on, and
 * under which name changes are recorded. It is gone from the begin of a backup
 * to its end: after one that failed nobody knows what the records hold, and the
 * next one is whole.
 */
#pragma once

#include <jansson.h>

#include "daemon/daemon.h"

/* ---- store.c ---- */

/* At the daemon's start: what was cut short goes. */
void backups_tidy(struct daemon *d);
/* The head; NULL: there is none of that id. */
json_t *backup_find(const struct daemon *d, const char *id);
/* All heads, the newest first. */
json_t *backup_list(const struct daemon *d);
/* Of a project's that are whole. */
u64 backups_bytes(const struct daemon *d, const char *project);
char *backup_path(const struct daemon *d, const char *id,
                  bool partial) MUST_CHECK;
char *backup_file(const struct daemon *d, const char *id, bool partial,
                  int disk) MUST_CHECK;
/* Does another build on it? */
bool backup_is_base(const struct daemon *d, const char *id);
/* Out of the list, then away. */
int backup_discard(const struct daemon *d, const char *id, bool partial,
                   struct error *err) MUST_CHECK;
/* The folder of one that begins, with its head. */
int backup_begin(const struct daemon *d, json_t *head,
                 struct error *err) MUST_CHECK;
json_t *backup_head(const struct daemon *d, const char *id, bool partial);
/* It is whole: has its name from now on. */
int backup_finish(const struct daemon *d, json_t *head,
                  struct error *err) MUST_CHECK;
/* {"backup": ID, "bitmap": NAME}; NULL: none. */
json_t *backup_last(const struct daemon *d, const char *vm);
/* NULL: none any more. */
int backup_set_last(const struct daemon *d, const char *vm, json_t *last,
                    struct error *err) MUST_CHECK;

/* ---- work.c, restore.c: tasks ---- */

void backup_work_begin(struct task *t);
void backup_work_changed(struct task *t);
void backup_work_cancel(struct task *t);
void backup_restore_begin(struct task *t);
void backup_restore_changed(struct task *t);
void backup_restore_cancel(struct task *t);
/* What a machine of an image boots by is in no disk: the files of a folder
 * that has it get second names in another. None of these is ever written to.
 * again: they may be there already. */
int backup_link_boot(const char *from, const char *to, bool again,
                     struct error *err) MUST_CHECK;
/* The same, in the machine's. */
int backup_give_boot(const char *from, const struct vm *vm,
                     struct error *err) MUST_CHECK;
/* Where disk n of a machine lies that was restored. */
char *backup_restored_disk(const struct daemon *d, const char *vm,
                           bool of_image, int disk) MUST_CHECK;
/* The definition of a new machine, as that one: what is one machine's alone is
 * made up anew, and disks that are written to lie where restored ones do. */
json_t *backup_new_spec(const struct daemon *d, json_t *spec, const char *name,
                        const char *id);

/* The daemon's for policy.c. */
enum belonging backup_belongs(struct daemon *d, const char *id,
                              char project[PROJECT_SIZE]);
