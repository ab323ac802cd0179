/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GUEST_LINES_PER_SEC = 10 };

static struct {
	_Atomic int fd;
	_Atomic int level;
	char name[64];
	_Atomic s64 second;
	_Atomic int lines;
} out = { .fd = STDERR_FILENO, .level = LOG_WARN };

void log_setup(int fd, enum log_level level, const char *name)
{
	out.fd = fd;
	out.level = (int)level;
	snprintf(out.name, sizeof(out.name), "%s", name ? name : "");
}

enum log_level log_level(void)
{
	return (enum log_level)atomic_load_explicit(&out.level,
	                                            memory_order_relaxed);
}

void log_set_level(enum log_level level)
{
	out.level = (int)level;
}

PRINTF_LIKE(3, 0)
static void write_line(enum log_level level, const char *room, const char *fmt,
                       va_list ap)
{
	static const char *const names[] = { "error", "warning", "info",
		                             "debug" };
	char line[1024];
	struct timespec ts;
	int n, fd = out.fd;

	if (fd < 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	n = snprintf(line, sizeof(line),
	             "[%6lld.%06ld] %s%s%s %s: ", (long long)ts.tv_sec,
	             ts.tv_nsec / 1000, out.name, out.name[0] ? " " : "",
	             names[level], room);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	if ((size_t)n > sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	/* One write a line: lines of several threads do not mix. */
	if (write(fd, line, (size_t)n) < 0)
		return;
}

void log_write(enum log_level level, const char *room, const char *fmt, ...)
{
	va_list ap;

	if (level > log_level())
		return;
	va_start(ap, fmt);
	write_line(level, room, fmt, ap);
	va_end(ap);
}

void log_guest(const char *room, const char *fmt, ...)
{
	struct timespec ts;
	va_list ap;

	if (log_level() < LOG_INFO)
		return;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	if (atomic_exchange(&out.second, ts.tv_sec) != ts.tv_sec)
		out.lines = 0;
	if (atomic_fetch_add(&out.lines, 1) >= GUEST_LINES_PER_SEC)
		return;
	va_start(ap, fmt);
	write_line(LOG_INFO, room, fmt, ap);
	va_end(ap);
}
