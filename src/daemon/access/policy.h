/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.h - may this caller take this route to this thing?
 *
 * The one place where that is decided. A route says which right it needs
 * (routes.c), its path says of what: of the thing that its first {part} names,
 * in whose project the right must be had; of the host, in all projects; or of
 * "some" project, where the handler shows, or makes, only what the caller may
 * see. A route that says nothing of the kind needs its right on the host, so
 * that one that is forgotten is closed.
 *
 * A thing in a project that the caller can't read is not there for him: 404,
 * in the words for what is not there (decision 0027).
 */
#pragma once

#include "daemon/access/rights.h"

struct daemon;
struct route;

enum scope {
	SCOPE_HOST,  /* the right in all projects */
	SCOPE_SOME,  /* in some; the handler looks at each thing */
	SCOPE_THING, /* in the project of what the path names */
};
enum scope policy_scope(const struct route *route);

/* Whose a thing is. */
enum belonging {
	BELONGS_NOWHERE, /* it is not there */
	BELONGS_PROJECT,
	BELONGS_HOST,
	BELONGS_ALL, /* everybody may read it, the host's change it */
};

enum verdict { POLICY_ALLOWED, POLICY_DENIED, POLICY_HIDDEN };
/* project: of BELONGS_PROJECT. Pure. */
enum verdict policy_decide(const struct caller *caller,
                           const struct route *route, enum belonging belonging,
                           const char *project);
/* Whose it is that the path of a SCOPE_THING names so; project is set for
 * BELONGS_PROJECT. */
enum belonging policy_find(struct daemon *d, const struct route *route,
                           const char *name, char project[PROJECT_SIZE]);
/* "machine", "network": what such a route's path names. */
const char *policy_noun(const struct route *route);
