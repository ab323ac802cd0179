/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/access/rights.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	unsigned rights;
} roles[] = {
	{ "administrator", RIGHT_READ | RIGHT_OPERATE | RIGHT_DEFINE |
	                       RIGHT_HOST | RIGHT_ACCESS | RIGHT_AUDIT },
	{ "operator", RIGHT_READ | RIGHT_OPERATE | RIGHT_DEFINE },
	{ "user", RIGHT_READ | RIGHT_OPERATE },
	{ "auditor", RIGHT_READ | RIGHT_AUDIT },
	{ "viewer", RIGHT_READ },
};

static const struct {
	const char *name;
	unsigned right;
} names[] = {
	{ "read", RIGHT_READ },     { "operate", RIGHT_OPERATE },
	{ "define", RIGHT_DEFINE }, { "host", RIGHT_HOST },
	{ "access", RIGHT_ACCESS }, { "audit", RIGHT_AUDIT },
};

unsigned rights_of_role(const char *role)
{
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
		if (strcmp(roles[i].name, role) == 0)
			return roles[i].rights;
	return 0;
}

const char *rights_role_name(size_t n)
{
	return n < ARRAY_SIZE(roles) ? roles[n].name : NULL;
}

unsigned right_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(names[i].name, name) == 0)
			return names[i].right;
	return 0;
}

json_t *rights_json(unsigned rights)
{
	json_t *list = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (rights & names[i].right)
			json_array_append_new(list, json_string(names[i].name));
	return list;
}

bool caller_grant(struct caller *c, const char *project, unsigned rights)
{
	struct grant *g = c->grants;

	while (g < c->grants + c->grant_count && strcmp(g->project, project))
		g++;
	if (g == c->grants + GRANTS_MAX)
		return false;
	if (g == c->grants + c->grant_count) {
		c->grant_count++;
		snprintf(g->project, sizeof(g->project), "%s", project);
		g->rights = 0;
	}
	g->rights |= project[0] ? rights & ~(unsigned)RIGHT_HOST : rights;
	return true;
}

unsigned caller_rights(const struct caller *c, const char *project)
{
	unsigned rights = 0;

	for (unsigned i = 0; i < c->grant_count; i++)
		if (!c->grants[i].project[0] ||
		    (project && strcmp(c->grants[i].project, project) == 0))
			rights |= c->grants[i].rights;
	return rights;
}

unsigned caller_any(const struct caller *c)
{
	unsigned rights = 0;

	for (unsigned i = 0; i < c->grant_count; i++)
		rights |= c->grants[i].rights;
	return rights;
}

bool caller_covers(const struct caller *c, const struct caller *other)
{
	for (unsigned i = 0; i < other->grant_count; i++) {
		const struct grant *g = &other->grants[i];

		if (g->rights &
		    ~caller_rights(c, g->project[0] ? g->project : NULL))
			return false;
	}
	return true;
}

json_t *caller_projects(const struct caller *c, unsigned right)
{
	json_t *list;

	if ((caller_rights(c, NULL) & right) == right)
		return NULL;
	list = json_array();
	for (unsigned i = 0; i < c->grant_count; i++)
		if ((caller_rights(c, c->grants[i].project) & right) == right)
			json_array_append_new(
			    list, json_string(c->grants[i].project));
	return list;
}
