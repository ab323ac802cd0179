/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console.h - a machine's console: what the guest prints goes to the log,
 * whoever listens; what is typed waits until the guest reads it.
 */
#pragma once

#include "base/loop.h"
#include "base/types.h"
#include "daemon/console_log.h"

enum { CONSOLE_INPUT = 64 * 1024 };

struct console {
	struct console_log log;
	loop_fn *printed; /* the log has grown */
	loop_fn *closed;  /* no more will come */
	void *ctx;

	int in, out;                          /* borrowed */
	struct loop_fd *in_watch, *out_watch; /* NULL: nobody is there */
	u8 input[CONSOLE_INPUT];
	size_t input_used;
	bool log_broken;
};

/* The machine's ends are these from here on. */
void console_begin(struct console *c, struct loop *loop, int in, int out);
/* Watches nothing any more, and closes the log. */
void console_end(struct console *c);

/* To the guest, in hexadecimal; NULL: nothing. NULL, or why not. */
const char *console_type(struct console *c, const char *hex);
