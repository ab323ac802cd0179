/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture.c - frames written down as they pass, in pcap's format with times in
 * nanoseconds. A reader that is slow loses records, never the machines frames.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "net/switch/internal.h"

enum { BUFFER = 1 << 20, SNAP = 262144, RECORD = 16, ETHERNET = 1 };

struct capture {
	struct switch_ *sw;
	int fd;
	struct loop_fd *watch;
	char machine[SWITCH_NAME_MAX]; /* "": all */
	bool endless;
	u64 left, lost;
	u8 *buffer;
	size_t used;
};

static void put_u32(u8 *p, u32 v)
{
	memcpy(p, &v, sizeof(v)); /* the magic number says in which order */
}

static void capture_free(struct capture *c)
{
	loop_fd_remove(c->watch);
	close(c->fd);
	free(c->buffer);
	free(c);
}

void capture_end(struct switch_ *sw, struct capture *c)
{
	for (size_t i = 0; i < SWITCH_CAPTURES_MAX; i++)
		if (sw->captures[i] == c)
			sw->captures[i] = NULL;
	capture_free(c);
}

/* False: nobody reads any more. */
static bool push(struct capture *c)
{
	ssize_t n;

	while (c->used) {
		n = send(c->fd, c->buffer, c->used,
		         MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		c->used -= (size_t)n;
		memmove(c->buffer, c->buffer + n, c->used);
	}
	return true;
}

/* Who reads says nothing, but may hang up while no frames pass. */
static bool is_read(const struct capture *c)
{
	u8 drop[64];

	return recv(c->fd, drop, sizeof(drop), MSG_DONTWAIT) != 0;
}

static void ready(void *ctx, unsigned events)
{
	struct capture *c = ctx;

	if (!push(c) || events & LOOP_HANGUP ||
	    (events & LOOP_READ && !is_read(c)) ||
	    (!c->used && !c->endless && !c->left)) {
		capture_end(c->sw, c);
		return;
	}
	if (!c->used)
		loop_fd_set(c->watch, LOOP_READ);
}

static void record(struct capture *c, const u8 *frame, size_t len)
{
	u8 *p = c->buffer + c->used;
	struct timespec now;

	if (!c->endless && !c->left)
		return;
	if (c->used + RECORD + len > BUFFER) {
		c->lost++;
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	put_u32(p, (u32)now.tv_sec);
	put_u32(p + 4, (u32)now.tv_nsec);
	put_u32(p + 8, (u32)len);
	put_u32(p + 12, (u32)len);
	memcpy(p + RECORD, frame, len);
	c->used += RECORD + len;
	c->left -= !c->endless;
	loop_fd_set(c->watch, LOOP_READ | LOOP_WRITE);
}

void capture_frame(struct switch_ *sw, const struct port *port, bool out,
                   const u8 *frame, size_t len)
{
	for (size_t i = 0; i < SWITCH_CAPTURES_MAX; i++) {
		struct capture *c = sw->captures[i];

		if (!c)
			continue;
		/* Of all, a frame is written down once: where it comes in;
		 * what the switch says itself where it goes out. */
		if (c->machine[0] ? strcmp(c->machine, port->machine) == 0
		                  : !out)
			record(c, frame, len);
	}
}

static void write_head(struct capture *c)
{
	put_u32(c->buffer, 0xa1b23c4d);
	put_u32(c->buffer + 4, 2 | 4 << 16); /* version 2.4 */
	memset(c->buffer + 8, 0, 8);
	put_u32(c->buffer + 16, SNAP);
	put_u32(c->buffer + 20, ETHERNET);
	c->used = 24;
}

int switch_capture(struct switch_ *sw, const char *machine, u64 frames, int fd,
                   struct error *err)
{
	struct capture *c;
	size_t i = 0;

	while (i < SWITCH_CAPTURES_MAX && sw->captures[i])
		i++;
	if (i == SWITCH_CAPTURES_MAX) {
		close(fd);
		return error_set(err, -EBUSY, "%d captures run already",
		                 SWITCH_CAPTURES_MAX);
	}
	c = xalloc(sizeof(*c));
	c->sw = sw;
	c->fd = fd;
	snprintf(c->machine, sizeof(c->machine), "%s", machine);
	c->endless = frames == 0;
	c->left = frames;
	c->buffer = xalloc(BUFFER);
	write_head(c);
	c->watch =
	    loop_fd_add(sw->config.loop, fd, LOOP_READ | LOOP_WRITE, ready, c);
	sw->captures[i] = c;
	return 0;
}

json_t *capture_json(const struct switch_ *sw)
{
	json_t *list = json_array();

	for (size_t i = 0; i < SWITCH_CAPTURES_MAX; i++) {
		const struct capture *c = sw->captures[i];

		if (c)
			json_array_append_new(
			    list, json_pack("{s:s, s:I}", "machine", c->machine,
			                    "lost", (json_int_t)c->lost));
	}
	return list;
}
