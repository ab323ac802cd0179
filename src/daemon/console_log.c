/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/console_log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

enum { NAME_SIZE = 40, SEGMENTS_MAX = 64 };

static void segment_name(u64 start, char *name)
{
	snprintf(name, NAME_SIZE, "console-%020" PRIu64 ".log", start);
}

static int compare(const void *a, const void *b)
{
	const u64 *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Starts of the segments there are, in order. */
static size_t segments(int folder, u64 *starts)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	size_t n = 0;
	int used;

	while (dir && n < SEGMENTS_MAX && (entry = readdir(dir))) {
		used = 0;
		if (sscanf(entry->d_name, "console-%20" SCNu64 ".log%n",
		           &starts[n], &used) == 1 &&
		    used && !entry->d_name[used])
			n++;
	}
	if (dir)
		closedir(dir);
	qsort(starts, n, sizeof(*starts), compare);
	return n;
}

static u64 segment_size(int folder, u64 start)
{
	char name[NAME_SIZE];
	struct stat st;

	segment_name(start, name);
	return fstatat(folder, name, &st, 0) < 0 ? 0 : (u64)st.st_size;
}

static int open_segment(struct console_log *log)
{
	char name[NAME_SIZE];

	segment_name(log->start, name);
	log->fd = openat(log->folder, name,
	                 O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	return log->fd < 0 ? -errno : 0;
}

int console_log_open(struct console_log *log, int folder, u64 limit,
                     struct error *err)
{
	u64 starts[SEGMENTS_MAX];
	size_t n = segments(folder, starts);
	int rc;

	*log = (struct console_log){ .folder = folder, .fd = -1 };
	log->limit = limit;
	log->start = n ? starts[n - 1] : 0;
	log->end = log->start + (n ? segment_size(folder, log->start) : 0);
	rc = open_segment(log);
	if (rc < 0)
		error_set(err, rc, "cannot write the console log: %s",
		          strerror(-rc));
	return rc;
}

/* A segment is half of what is kept, so that half at least always is. */
static int next_segment(struct console_log *log)
{
	u64 starts[SEGMENTS_MAX], old = log->start;
	char name[NAME_SIZE];
	size_t n;
	int rc, fd = log->fd;

	log->start = log->end;
	rc = open_segment(log);
	if (rc < 0) {
		log->start = old;
		log->fd = fd;
		return rc;
	}
	if (fd >= 0)
		close(fd);
	n = segments(log->folder, starts);
	for (size_t i = 0; i + 1 < n; i++)
		if (log->end - starts[i] > log->limit) {
			segment_name(starts[i], name);
			unlinkat(log->folder, name, 0);
		}
	return 0;
}

int console_log_write(struct console_log *log, const void *data, size_t size)
{
	const u8 *p = data;
	ssize_t n;
	int rc;

	if (log->end - log->start >= log->limit / 2) {
		rc = next_segment(log);
		if (rc < 0)
			return rc;
	}
	while (size) {
		n = write(log->fd, p, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		size -= (size_t)n;
		log->end += (u64)n;
	}
	return 0;
}

void console_log_close(struct console_log *log)
{
	if (log->fd >= 0)
		close(log->fd);
	log->fd = -1;
}

void console_log_range(int folder, u64 *begin, u64 *end)
{
	u64 starts[SEGMENTS_MAX];
	size_t n = segments(folder, starts);

	*begin = n ? starts[0] : 0;
	*end = n ? starts[n - 1] + segment_size(folder, starts[n - 1]) : 0;
}

ssize_t console_log_read(int folder, u64 offset, void *data, size_t size)
{
	u64 starts[SEGMENTS_MAX];
	size_t n = segments(folder, starts);
	char name[NAME_SIZE];
	ssize_t got;
	int fd;

	while (n > 0 && starts[n - 1] > offset)
		n--;
	if (n == 0)
		return 0;
	segment_name(starts[n - 1], name);
	fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	got = pread(fd, data, size, (off_t)(offset - starts[n - 1]));
	if (got < 0)
		got = -errno;
	close(fd);
	return got;
}
