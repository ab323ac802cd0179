/* SPDX-License-Identifier: Apache-2.0 */
/*
 * terminal.h - the person's terminal in raw mode, and back, whatever happens.
 */
#pragma once

#include <termios.h>

#include "base/types.h"

struct terminal {
	int fd; /* of standard input; -1: not ours to change */
	bool raw;
	struct termios saved, guest;
	int guardian; /* pipe to the process that watches over it; -1: none */
	int guardian_pid;
};

/* Raw mode when fd is a terminal that we are in the foreground of. Before any
 * thread is started. */
void terminal_open(struct terminal *t, int fd);
void terminal_close(struct terminal *t);
/* Back to how it was, and raw again (job control). */
void terminal_restore(struct terminal *t);
void terminal_resume(struct terminal *t);
