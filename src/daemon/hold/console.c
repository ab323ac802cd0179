/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/hold/console.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static void console_out(void *ctx, unsigned events)
{
	struct console *c = ctx;
	u8 data[16384];
	ssize_t n = read(c->out, data, sizeof(data));
	int rc;

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		loop_fd_remove(c->out_watch);
		c->out_watch = NULL;
		c->closed(c->ctx);
		return;
	}
	rc = console_log_write(&c->log, data, (size_t)n);
	/* A full disk loses what is printed meanwhile; the guest goes on. */
	if (rc < 0 && !c->log_broken)
		log_warn("hold", "console log: %s", strerror(-rc));
	c->log_broken = rc < 0;
	c->printed(c->ctx);
}

static void console_in(void *ctx, unsigned events)
{
	struct console *c = ctx;
	ssize_t n = write(c->in, c->input, c->input_used);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		n = (ssize_t)c->input_used; /* the guest is gone */
	c->input_used -= (size_t)n;
	memmove(c->input, c->input + n, c->input_used);
	if (c->input_used == 0)
		loop_fd_set(c->in_watch, 0);
}

void console_begin(struct console *c, struct loop *loop, int in, int out)
{
	c->in = in;
	c->out = out;
	c->out_watch = loop_fd_add(loop, out, LOOP_READ, console_out, c);
	c->in_watch = loop_fd_add(loop, in, 0, console_in, c);
}

void console_end(struct console *c)
{
	loop_fd_remove(c->out_watch);
	loop_fd_remove(c->in_watch);
	console_log_close(&c->log);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

const char *console_type(struct console *c, const char *hex)
{
	size_t count = hex ? strlen(hex) / 2 : 0;

	if (!c->in_watch)
		return "the machine does not run";
	if (count > sizeof(c->input) - c->input_used)
		return "the guest does not read what was typed before";
	for (size_t i = 0; i < count; i++) {
		int high = hex_digit(hex[2 * i]);
		int low = hex_digit(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return "input is not hexadecimal";
		c->input[c->input_used + i] = (u8)(high << 4 | low);
	}
	c->input_used += count;
	if (c->input_used)
		loop_fd_set(c->in_watch, LOOP_WRITE);
	return NULL;
}
