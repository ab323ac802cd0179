/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rights.h - what can be allowed, the roles that are made of it, and what a
 * caller has been granted where. Nothing here knows the registry.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

enum right {
	RIGHT_NONE = 0,    /* whoever got in */
	RIGHT_READ = 1,    /* see machines, tasks and events */
	RIGHT_OPERATE = 2, /* start, stop and the like; the console */
	RIGHT_DEFINE = 4,  /* define, change and delete */
	RIGHT_HOST = 8,    /* name files and interfaces of the host */
	RIGHT_ACCESS = 16, /* give access to others */
	RIGHT_AUDIT = 32,  /* read the audit log */
};

enum { GRANTS_MAX = 64, PROJECT_SIZE = 64, ROLE_SIZE = 64, USER_SIZE = 64 };
enum { CALLER_MAX = 160 };

struct grant {
	char project[PROJECT_SIZE]; /* "": all of them, and the host */
	unsigned rights;
};

struct caller {
	char name[CALLER_MAX]; /* "uid 1000", "token ci", "user anna" */
	char role[ROLE_SIZE];  /* the first one granted; "" if none is */
	/* How to find out again what is granted: auth.c. */
	s64 token;
	char user[USER_SIZE];
	s64 expires; /* seconds since 1970; 0: never */
	struct grant grants[GRANTS_MAX];
	unsigned grant_count;
};

/* What a role may that is always there; 0: there is none of that name. */
unsigned rights_of_role(const char *role);
/* The n-th of those; NULL: there are no more. */
const char *rights_role_name(size_t n);

unsigned right_find(const char *name); /* 0: none of that name */
json_t *rights_json(unsigned rights);  /* a list of names */

/* More rights in a project, or in all. False: there are 64 grants already. */
bool caller_grant(struct caller *caller, const char *project, unsigned rights);
/* What it may do in a project; NULL: on the host, and so in all projects. The
 * host's own right is never had in a project alone: what it allows reaches
 * beyond any project. */
unsigned caller_rights(const struct caller *caller, const char *project);
/* What it may do in some project. */
unsigned caller_any(const struct caller *caller);
/* May it, everywhere, all that the other may? */
bool caller_covers(const struct caller *caller, const struct caller *other);
/* The projects in which it has a right: a list of names; NULL: in all. */
json_t *caller_projects(const struct caller *caller, unsigned right);
