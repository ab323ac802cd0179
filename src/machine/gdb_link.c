/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb_link - "$data#cc", acknowledged by + or -, until both agree not to.
 */
#include "machine/gdb_link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"

enum { OUT_MAX = 4 * GDB_PACKET_MAX };
enum parse { IDLE, BODY, SUM1, SUM2 };

struct gdb_link {
	struct loop *loop;
	int listen_fd, fd;
	struct loop_fd *listen_watch, *watch;
	struct gdb_link_events events;

	enum parse parse;
	char in[GDB_PACKET_MAX + 1];
	size_t in_used;
	u8 sum, claimed;
	bool acks;

	char out[OUT_MAX];
	size_t out_used;
};

static void drop(struct gdb_link *link)
{
	loop_fd_remove(link->watch);
	link->watch = NULL;
	if (link->fd >= 0)
		close(link->fd);
	link->fd = -1;
}

static void lost(struct gdb_link *link)
{
	drop(link);
	link->events.closed(link->events.ctx);
}

static void push(struct gdb_link *link)
{
	while (link->out_used) {
		ssize_t n = send(link->fd, link->out, link->out_used,
		                 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			break; /* a broken one shows as a hang-up */
		memmove(link->out, link->out + n, link->out_used - (size_t)n);
		link->out_used -= (size_t)n;
	}
	loop_fd_set(link->watch, LOOP_READ | (link->out_used ? LOOP_WRITE : 0));
}

static void queue(struct gdb_link *link, const char *data, size_t size)
{
	if (link->fd < 0 || size > OUT_MAX - link->out_used)
		return; /* a debugger that asks and never reads */
	memcpy(link->out + link->out_used, data, size);
	link->out_used += size;
}

void gdb_link_send(struct gdb_link *link, const char *data, size_t size)
{
	char tail[4];
	u8 sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += (u8)data[i];
	snprintf(tail, sizeof(tail), "#%02x", sum);
	queue(link, "$", 1);
	queue(link, data, size);
	queue(link, tail, 3);
	if (link->fd >= 0)
		push(link);
}

void gdb_link_no_acks(struct gdb_link *link)
{
	link->acks = false;
}

static u8 hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return (u8)(c - '0');
	return (u8)((c | 0x20) - 'a' + 10) & 0xf;
}

static void packet_done(struct gdb_link *link)
{
	bool good = link->claimed == link->sum;

	if (link->acks)
		queue(link, good ? "+" : "-", 1);
	link->parse = IDLE;
	if (!good) {
		push(link);
		return;
	}
	link->in[link->in_used] = 0;
	link->events.packet(link->events.ctx, link->in, link->in_used);
}

static void take_byte(struct gdb_link *link, char c)
{
	switch (link->parse) {
	case IDLE:
		if (c == '$') {
			link->parse = BODY;
			link->in_used = 0;
			link->sum = 0;
		} else if (c == 3) {
			link->events.interrupt(link->events.ctx);
		}
		break;
	case BODY:
		if (c == '#') {
			link->parse = SUM1;
		} else if (link->in_used == GDB_PACKET_MAX) {
			link->parse = IDLE;
		} else {
			link->in[link->in_used++] = c;
			link->sum += (u8)c;
		}
		break;
	case SUM1:
		link->claimed = (u8)(hex_value(c) << 4);
		link->parse = SUM2;
		break;
	case SUM2:
		link->claimed |= hex_value(c);
		packet_done(link);
		break;
	}
}

static void ready(void *ctx, unsigned events)
{
	struct gdb_link *link = ctx;
	char buf[1024];
	ssize_t n;

	if (events & LOOP_WRITE)
		push(link);
	if (!(events & (LOOP_READ | LOOP_HANGUP)))
		return;
	n = recv(link->fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		lost(link);
		return;
	}
	for (ssize_t i = 0; i < n && link->fd >= 0; i++)
		take_byte(link, buf[i]);
}

static void incoming(void *ctx, unsigned events)
{
	struct gdb_link *link = ctx;
	int fd =
	    accept4(link->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	if (link->fd >= 0) { /* one is enough */
		close(fd);
		return;
	}
	link->fd = fd;
	link->parse = IDLE;
	link->acks = true;
	link->out_used = 0;
	link->watch = loop_fd_add(link->loop, fd, LOOP_READ, ready, link);
	link->events.connected(link->events.ctx);
}

struct gdb_link *gdb_link_create(struct loop *loop, int listen_fd,
                                 const struct gdb_link_events *events)
{
	struct gdb_link *link = xalloc(sizeof(*link));

	link->loop = loop;
	link->listen_fd = listen_fd;
	link->fd = -1;
	link->events = *events;
	link->listen_watch =
	    loop_fd_add(loop, listen_fd, LOOP_READ, incoming, link);
	return link;
}

void gdb_link_destroy(struct gdb_link *link)
{
	if (!link)
		return;
	drop(link);
	loop_fd_remove(link->listen_watch);
	close(link->listen_fd);
	free(link);
}

void gdb_link_hang_up(struct gdb_link *link)
{
	if (link->fd >= 0)
		push(link);
	drop(link);
}

bool gdb_link_up(const struct gdb_link *link)
{
	return link->fd >= 0;
}
