/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack_disks.h - files of disks that are part of a stack:
 *
 *	disks:
 *	  - path: db.qcow2
 *	    size: 10G
 *	machines:
 *	  - name: db
 *	    disks: [{path: db.qcow2}]
 *
 * Such a file is made just before the first machine that has it, and goes with
 * the stack. Files that were there before belong to somebody else: they are
 * neither taken nor deleted. All paths are whole (stack.c).
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;
struct remote;

/* Checks and completes file's "disks", and what its machines say of these
 * (their format). 0, or -EINVAL with words. */
int stack_disks_read(json_t *file, const struct remote *r,
                     struct error *err) MUST_CHECK;
/* Makes those of the machine's that are missing; what was made is appended to
 * made. owned: machines of the stack, by name, as the daemon has them. An exit
 * code; words were printed. */
int stack_disks_make(json_t *file, json_t *machine, json_t *owned, json_t *made,
                     const struct remote *r);
/* Those whose machine was not defined after all. */
void stack_disks_unmake(json_t *made);
/* The file's disks among these of a machine that was deleted; how many. */
size_t stack_disks_delete(json_t *file, json_t *disks, const struct remote *r);
/* How many there are. */
size_t stack_disks_count(json_t *file);
/* The path of the nth that is not there yet, or NULL. */
const char *stack_disks_missing(json_t *file, size_t n);
