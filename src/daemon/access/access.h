/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.h - projects, roles, users and what is granted to them, as the
 * registry has them.
 *
 *	rights.c       rights, the roles that are always there, callers
 *	policy.c       may a caller take a route to a thing?
 *	registry.c     what a role is, what is granted to whom
 *	quota.c        how much a project may have
 *	api_*.c        the routes
 */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/types.h"
#include "daemon/access/policy.h"
#include "daemon/access/rights.h"

struct call;
struct daemon;
struct vm;

/* ---- registry.c ---- */

/* Of a role, ours or one that was made; 0: there is none of that name. */
unsigned role_rights(struct daemon *d, const char *role);
bool project_exists(struct daemon *d, const char *name);
bool user_exists(struct daemon *d, const char *name);
/* What is granted to a user, added to caller. False: there is no such user,
 * or it is disabled. */
bool user_grants(struct daemon *d, const char *user, struct caller *caller);
/* The same, whether he is disabled or not. */
void user_grants_any(struct daemon *d, const char *user, struct caller *caller);
/* By name or number; 0: there is none. */
s64 token_find(struct daemon *d, const char *name);
/* The user whom the kernel, or a certificate's common name, names. False:
 * nobody. */
bool user_by_uid(struct daemon *d, u32 uid, struct caller *caller);
bool user_by_certificate(struct daemon *d, const char *common_name,
                         struct caller *caller);

/* ---- what belongs where: for policy.c ---- */

enum belonging task_belongs(struct daemon *d, const char *id,
                            char project[PROJECT_SIZE]);
enum belonging image_belongs(struct daemon *d, const char *name,
                             char project[PROJECT_SIZE]);
enum belonging alarm_belongs(struct daemon *d, const char *name,
                             char project[PROJECT_SIZE]);
enum belonging token_belongs(struct daemon *d, const char *name,
                             char project[PROJECT_SIZE]);

/* ---- for handlers ---- */

/* The project that the body names, or fallback, in which the caller must have
 * a right. NULL: the call has failed, as if a project that the caller can't
 * read were not there. */
const char *call_project(struct call *c, const char *fallback, unsigned right);
/* The same of one that is named elsewhere. */
bool call_may(struct call *c, const char *project, unsigned right);
/* A role and where it is to be had, which the caller may give away: he has
 * all its rights there himself. project NULL: everywhere. */
bool call_may_give(struct call *c, const char *role, const char *project);
/* Who has what was changed: those who look on go, where they may no more. */
void call_access_changed(struct call *c);
