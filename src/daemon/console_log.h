/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_log.h - what a machine printed, kept by offset.
 *
 * The bytes that a machine ever printed are numbered from 0. They lie in
 * segments, files called console-OFFSET.log after their first byte; old
 * segments go when the whole is past its limit. The holder writes, the daemon
 * reads, and neither waits for the other.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct error;

struct console_log {
	int folder; /* borrowed */
	int fd;     /* the last segment, for writing; -1: none yet */
	u64 start;  /* of the last segment */
	u64 end;    /* of all */
	u64 limit;  /* bytes kept, about */
};

/* Continues after what is there. */
int console_log_open(struct console_log *log, int folder, u64 limit,
                     struct error *err) MUST_CHECK;
/* All or, with -errno, a part: log->end says how far it came. */
int console_log_write(struct console_log *log, const void *data, size_t size);
void console_log_close(struct console_log *log);

/* What can be read: [*begin, *end). Both 0 when nothing was ever printed. */
void console_log_range(int folder, u64 *begin, u64 *end);
/* At offset, which lies in the range. Bytes read: fewer at a segment's end;
 * 0 at the log's end; -errno. */
ssize_t console_log_read(int folder, u64 offset, void *data, size_t size);
