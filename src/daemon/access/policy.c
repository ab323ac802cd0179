/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/access/policy.h"

#include <stdio.h>
#include <string.h>

#include "daemon/access/access.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/network.h"
#include "daemon/watch/watch.h"

static enum belonging in_project(const char *found, char project[PROJECT_SIZE])
{
	if (!found)
		return BELONGS_NOWHERE;
	snprintf(project, PROJECT_SIZE, "%s", found);
	return BELONGS_PROJECT;
}

static enum belonging of_vm(struct daemon *d, const char *name,
                            char project[PROJECT_SIZE])
{
	const struct vm *vm = vm_find(d, name);

	return in_project(vm ? vm_project(vm) : NULL, project);
}

static enum belonging of_network(struct daemon *d, const char *name,
                                 char project[PROJECT_SIZE])
{
	const struct network *n = network_find(d, name);

	return in_project(n ? network_project(n) : NULL, project);
}

static enum belonging of_project(struct daemon *d, const char *name,
                                 char project[PROJECT_SIZE])
{
	return in_project(project_exists(d, name) ? name : NULL, project);
}

/* What the path names, by the path's beginning. */
static const struct kind {
	const char *prefix, *noun;
	enum belonging (*find)(struct daemon *d, const char *name,
	                       char project[PROJECT_SIZE]);
} kinds[] = {
	{ "/v1/vms/{vm}", "machine", of_vm },
	{ "/v1/networks/{network}", "network", of_network },
	{ "/v1/tasks/{task}", "task", task_belongs },
	{ "/v1/images/{image}", "image", image_belongs },
	{ "/v1/alarms/{alarm}", "alarm", alarm_belongs },
	{ "/v1/projects/{project}", "project", of_project },
	{ "/v1/tokens/{token}", "token", token_belongs },
	{ "/v1/backups/{backup}", "backup", backup_belongs },
};

static const struct kind *kind_of(const struct route *r)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t n = strlen(kinds[i].prefix);

		if (strncmp(r->pattern, kinds[i].prefix, n) == 0 &&
		    (!r->pattern[n] || r->pattern[n] == '/'))
			return &kinds[i];
	}
	return NULL;
}

enum scope policy_scope(const struct route *r)
{
	if (r->host)
		return SCOPE_HOST;
	if (kind_of(r))
		return SCOPE_THING;
	return r->some ? SCOPE_SOME : SCOPE_HOST;
}

const char *policy_noun(const struct route *r)
{
	return kind_of(r)->noun;
}

enum belonging policy_find(struct daemon *d, const struct route *r,
                           const char *name, char project[PROJECT_SIZE])
{
	return kind_of(r)->find(d, name, project);
}

static bool has(unsigned rights, unsigned needed)
{
	return (rights & needed) == needed;
}

enum verdict policy_decide(const struct caller *c, const struct route *r,
                           enum belonging belonging, const char *project)
{
	enum scope scope = policy_scope(r);
	unsigned here;

	if (scope == SCOPE_HOST)
		return has(caller_rights(c, NULL), r->right) ? POLICY_ALLOWED
		                                             : POLICY_DENIED;
	/* Without the right anywhere: the answer tells nothing of the thing. */
	if (!has(caller_any(c), r->right))
		return POLICY_DENIED;
	if (scope == SCOPE_SOME)
		return POLICY_ALLOWED;
	here = caller_rights(c, belonging == BELONGS_PROJECT ? project : NULL);
	if (belonging == BELONGS_ALL)
		here |= caller_any(c) & RIGHT_READ;
	if (belonging == BELONGS_NOWHERE || !has(here, RIGHT_READ))
		return POLICY_HIDDEN;
	return has(here, r->right) ? POLICY_ALLOWED : POLICY_DENIED;
}
