/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - the images of the store that the daemon's machines are made from,
 * and whose they are. `atoll image` puts them there: by itself, or for a task.
 */
#pragma once

#include "base/types.h"
#include "daemon/access/rights.h"

struct call;
struct daemon;
struct error;
struct task;

/* Does it belong to a project? */
bool image_project(struct daemon *d, const char *name,
                   char project[PROJECT_SIZE]);

/* It belongs to that project from now on; NULL: to everybody. */
int image_give(struct daemon *d, const char *name, const char *project,
               struct error *err) MUST_CHECK;

void api_image_create(struct call *c);
void api_image_export(struct call *c);
void api_image_tag(struct call *c);
void api_image_delete(struct call *c);

/* ---- work.c: tasks ---- */

/* At the daemon's start: what is left of work that was killed goes. */
void image_tidy(struct daemon *d);

void image_import_begin(struct task *t);
void image_build_begin(struct task *t);
void image_export_begin(struct task *t);
void image_changed(struct task *t);
void image_cancel(struct task *t);
