/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/cgroup/internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/kernel_file.h"

int group_write(const char *folder, const char *file, const char *text)
{
	char *path = xasprintf("%s/%s", folder, file);
	int rc = kernel_file_write(AT_FDCWD, path, text);

	free(path);
	return rc;
}

int group_write_number(const char *folder, const char *file, u64 value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	return group_write(folder, file, text);
}

int group_write_limit(const char *folder, const char *file, u64 value,
                      const char *none)
{
	return value ? group_write_number(folder, file, value)
	             : group_write(folder, file, none);
}

bool group_read(const char *folder, const char *file, char *text, size_t size)
{
	char *path = xasprintf("%s/%s", folder, file);
	bool there = kernel_file_read(AT_FDCWD, path, text, size);

	free(path);
	return there;
}

bool group_has(const char *folder, const char *file)
{
	char *path = xasprintf("%s/%s", folder, file);
	bool has = access(path, F_OK) == 0;

	free(path);
	return has;
}

bool group_has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = text; (at = strstr(at, word)); at += n)
		if ((at == text || isspace((u8)at[-1])) &&
		    (!at[n] || isspace((u8)at[n])))
			return true;
	return false;
}

int group_make(const char *path)
{
	return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

/* "max" and what v1 says for it are more than any host has. */
u64 group_read_size(const char *folder, const char *file)
{
	char text[32];

	if (!group_read(folder, file, text, sizeof(text)) ||
	    !isdigit((u8)*text))
		return UINT64_MAX;
	return strtoull(text, NULL, 10);
}

int group_enter(const char *parent, const char *machine, pid_t pid,
                char **folder)
{
	int rc;

	*folder = xasprintf("%s/%s", parent, machine);
	rc = group_make(*folder);
	return rc < 0 ? rc
	              : group_write_number(*folder, "cgroup.procs", (u64)pid);
}
