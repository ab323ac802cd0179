/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/cgroup/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"

/* Of /proc/self/mountinfo: where the hierarchy that has the option (v1), or
 * the one of v2 (NULL), is mounted, and what part of it. */
static char *mount_of(const char *controller)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[CGROUP_TEXT], point[CGROUP_TEXT], type[32], options[512];
	char *found = NULL, *dash;

	while (f && !found && fgets(line, sizeof(line), f)) {
		dash = strstr(line, " - ");
		if (!dash ||
		    sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1 ||
		    sscanf(dash + 3, "%31s %*s %511s", type, options) != 2)
			continue;
		for (char *c = options; *c; c++)
			if (*c == ',')
				*c = ' ';
		if (controller ? strcmp(type, "cgroup") == 0 &&
		                     group_has_word(options, controller)
		               : strcmp(type, "cgroup2") == 0)
			found = xstrdup(point);
	}
	if (f)
		fclose(f);
	return found;
}

/* Of /proc/self/cgroup: our path in that hierarchy. */
static char *path_of(const char *controller)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[CGROUP_TEXT], *names, *path, *found = NULL;

	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		names = strchr(line, ':');
		path = names ? strchr(names + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		for (char *c = ++names; *c; c++)
			if (*c == ',')
				*c = ' ';
		if (controller ? group_has_word(names, controller)
		               : strncmp(line, "0:", 2) == 0 && !names[0])
			found = xstrdup(strcmp(path, "/") ? path : "");
	}
	if (f)
		fclose(f);
	return found;
}

/* Our own group, or the mount where that is another container's path. */
char *group_own(const char *controller, size_t *mount_size)
{
	char *mount = mount_of(controller), *path = path_of(controller);
	char *group = NULL;
	struct stat st;

	*mount_size = mount ? strlen(mount) : 0;
	if (mount && path) {
		group = xasprintf("%s%s", mount, path);
		if (stat(group, &st) < 0) {
			free(group);
			group = xstrdup(mount);
		}
	}
	free(mount);
	free(path);
	return group;
}
