/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - one line per event: time, level, room, words.
 *
 * Rooms below machine/ return errors and log at debug level only; log_guest()
 * reports what a guest did wrong, rate-limited, because a guest can repeat it
 * as often as it likes. Any thread may log. The level and the output are
 * process-wide: the one global outside main().
 */
#pragma once

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* fd is borrowed; -1 silences. name goes before each line (the machine's). */
void log_setup(int fd, enum log_level level, const char *name);
enum log_level log_level(void);
void log_set_level(enum log_level level);

void log_write(enum log_level level, const char *room, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

#define log_error(room, ...) log_write(LOG_ERROR, room, __VA_ARGS__)
#define log_warn(room, ...) log_write(LOG_WARN, room, __VA_ARGS__)
#define log_info(room, ...) log_write(LOG_INFO, room, __VA_ARGS__)
#define log_debug(room, ...)                                                   \
	do {                                                                   \
		if (log_level() >= LOG_DEBUG)                                  \
			log_write(LOG_DEBUG, room, __VA_ARGS__);               \
	} while (0)

/* A guest's mistake: at most 10 lines a second over the whole process. */
void log_guest(const char *room, const char *fmt, ...) PRINTF_LIKE(2, 3);
