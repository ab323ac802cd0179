/* SPDX-License-Identifier: Apache-2.0 */
/*
 * perf_map - names of host code, in the form that perf reads:
 *
 *	ADDRESS SIZE NAME	the first two in hexadecimal
 *
 * Blocks are named after the linear address they were translated at, and after
 * who runs it. What a flush of the code cache gives up stays in the file; perf
 * takes the last that was said of an address.
 */
#include "engine/bt/perf_map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

int perf_map_open(FILE **out, struct error *err)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	/* One of a process that is gone, and no link of somebody's. */
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
	          0600);
	*out = fd < 0 ? NULL : fdopen(fd, "w");
	if (!*out) {
		int saved = errno;

		if (fd >= 0)
			close(fd);
		return error_set(err, -saved, "cannot write %s: %s", path,
		                 strerror(saved));
	}
	setvbuf(*out, NULL, _IOLBF, 0); /* whole, however the process ends */
	return 0;
}

void perf_map_add(const struct bt *bt, const struct bt_code *code)
{
	const struct block *b = code->block;

	if (!bt->perf_map)
		return;
	fprintf(bt->perf_map, "%llx %x guest_%s_%#llx\n",
	        (unsigned long long)(uintptr_t)code->entry_saved, code->size,
	        b->key & KEY_USER ? "user" : "kernel",
	        (unsigned long long)(bt->cpu->pcbase + b->off));
}

void perf_map_add_stubs(const struct bt *bt)
{
	if (!bt->perf_map)
		return;
	fprintf(bt->perf_map, "%llx %zx atoll_bt_stubs_%u\n",
	        (unsigned long long)(uintptr_t)bt->exec, bt->start,
	        bt->cpu->index);
}
