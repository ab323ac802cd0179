/* SPDX-License-Identifier: Apache-2.0 */
#include "control/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

static const char *file_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

char *record_name(const char *path, struct error *err)
{
	u64 number;

	if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number)) {
		error_set(err, -EIO, "no random numbers");
		return NULL;
	}
	return xasprintf("%s.%016" PRIx64 RECORD_SUFFIX, path, number);
}

/* disk.qcow2.0123456789abcdef.incoming beside disk.qcow2 */
static bool belongs(const char *path, const char *name)
{
	const char *file = file_of(path);
	size_t n = strlen(file);

	return strncmp(name, file, n) == 0 && name[n] == '.' &&
	       strspn(name + n + 1, "0123456789abcdef") == 16 &&
	       strcmp(name + n + 1 + 16, RECORD_SUFFIX) == 0;
}

static int take(const char *path, const char *name, struct error *err)
{
	const char *file = file_of(path);
	char *folder = xasprintf("%.*s", (int)(file - path), path);
	int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	struct stat st;

	if (!belongs(path, name) || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		rc = error_set(err, -EPERM, "%s is no name for another %s",
		               name, path);
	else if (dir < 0 || renameat(dir, name, dir, file) < 0 ||
	         fsync(dir) < 0)
		rc = error_set(err, -errno, "%s does not become %s: %s", name,
		               path, strerror(errno));
	if (dir >= 0)
		close(dir);
	free(folder);
	return rc;
}

int record_take(const char *path, const char *name, struct error *err)
{
	/* An earlier mirror may have left a link there, to another folder. */
	char *real = realpath(path, NULL);
	int rc = real ? take(real, name, err)
	              : error_set(err, -errno, "%s: %s", path, strerror(errno));

	free(real);
	return rc;
}
