/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console - terminal plumbing.
 *
 * The lock guards the ring. It is taken with a device's lock held, so devices
 * are called without it.
 */
#include "machine/console.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"

/* WRITE_MAX: what a pipe that polls writable takes without blocking. */
enum { RING = 64 * 1024, WRITE_MAX = 4096, INPUT = 4096 };

struct console {
	struct loop *loop;
	int in, out;
	bool out_file; /* a regular file: epoll does not take it */
	bool in_file;
	struct loop_fd *in_watch, *out_watch;
	_Atomic u64 *first_ns;
	struct console_device device[CONSOLE_DEVICES];

	/* The loop's thread alone. */
	u8 input[INPUT];
	size_t input_at, input_end;

	pthread_mutex_t lock; /* the rest */
	u8 ring[RING];
	size_t head, used; /* bytes from head on */
	bool posted;       /* a call of drain is under way */
	bool blocked[CONSOLE_DEVICES];
	bool broken;           /* out refuses: throw bytes away */
	_Atomic unsigned last; /* who printed last */
};

/* At most WRITE_MAX bytes from the ring to the descriptor. */
static bool write_some(struct console *c)
{
	u8 buf[WRITE_MAX];
	size_t size, part;
	ssize_t n;

	pthread_mutex_lock(&c->lock);
	size = MIN(c->used, sizeof(buf));
	part = MIN(size, RING - c->head);
	memcpy(buf, c->ring + c->head, part);
	memcpy(buf + part, c->ring, size - part);
	pthread_mutex_unlock(&c->lock);
	if (!size)
		return false;
	n = write(c->out, buf, size);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	pthread_mutex_lock(&c->lock);
	if (n < 0) {
		c->broken = true; /* the reader has gone */
		n = (ssize_t)c->used;
	}
	c->head = (c->head + (size_t)n) % RING;
	c->used -= (size_t)n;
	pthread_mutex_unlock(&c->lock);
	return true;
}

static void wake_devices(struct console *c)
{
	bool blocked[CONSOLE_DEVICES];

	pthread_mutex_lock(&c->lock);
	memcpy(blocked, c->blocked, sizeof(blocked));
	if (c->used < RING / 2)
		memset(c->blocked, 0, sizeof(c->blocked));
	else
		memset(blocked, 0, sizeof(blocked));
	pthread_mutex_unlock(&c->lock);
	for (int i = 0; i < CONSOLE_DEVICES; i++)
		if (blocked[i])
			c->device[i].writable(c->device[i].ctx);
}

static bool ring_empty(struct console *c)
{
	bool empty;

	pthread_mutex_lock(&c->lock);
	empty = c->used == 0;
	pthread_mutex_unlock(&c->lock);
	return empty;
}

static void out_ready(void *ctx, unsigned events)
{
	struct console *c = ctx;

	(void)events;
	write_some(c);
	wake_devices(c);
	if (ring_empty(c))
		loop_fd_set(c->out_watch, 0);
}

/* Posted by console_output: start writing. */
static void drain(void *ctx)
{
	struct console *c = ctx;

	pthread_mutex_lock(&c->lock);
	c->posted = false;
	pthread_mutex_unlock(&c->lock);
	if (c->out_file) {
		while (write_some(c))
			;
		wake_devices(c);
		return;
	}
	if (!ring_empty(c))
		loop_fd_set(c->out_watch, LOOP_WRITE);
}

size_t console_output(struct console *c, unsigned index, const u8 *data,
                      size_t size)
{
	size_t taken, tail, part;
	bool post;

	c->last = index;
	if (c->first_ns && !*c->first_ns && size)
		*c->first_ns = loop_now_ns();
	pthread_mutex_lock(&c->lock);
	if (c->out < 0 || c->broken) {
		pthread_mutex_unlock(&c->lock);
		return size;
	}
	taken = MIN(size, RING - c->used);
	tail = (c->head + c->used) % RING;
	part = MIN(taken, RING - tail);
	memcpy(c->ring + tail, data, part);
	memcpy(c->ring, data + part, taken - part);
	c->used += taken;
	if (taken < size)
		c->blocked[index] = true;
	post = taken && !c->posted;
	if (post)
		c->posted = true;
	pthread_mutex_unlock(&c->lock);
	if (post)
		loop_post(c->loop, drain, c);
	return taken;
}

/* ---- input ---- */

static void pass_input(struct console *c)
{
	struct console_device *d = &c->device[c->last];

	if (!d->input)
		d = &c->device[0];
	if (d->input && c->input_at < c->input_end)
		c->input_at += d->input(d->ctx, c->input + c->input_at,
		                        c->input_end - c->input_at);
}

/* false: nothing came, or the end. */
static bool read_more(struct console *c)
{
	ssize_t n = read(c->in, c->input, sizeof(c->input));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0) {
		loop_fd_remove(c->in_watch);
		c->in_watch = NULL;
		c->in = -1;
		return false;
	}
	c->input_at = 0;
	c->input_end = (size_t)n;
	return true;
}

static void in_ready(void *ctx, unsigned events)
{
	struct console *c = ctx;

	(void)events;
	if (c->input_at == c->input_end)
		read_more(c);
	pass_input(c);
	if (c->in_watch)
		loop_fd_set(c->in_watch,
		            c->input_at == c->input_end ? LOOP_READ : 0);
}

static void room_again(void *ctx)
{
	struct console *c = ctx;

	pass_input(c);
	while (c->in_file && c->in >= 0 && c->input_at == c->input_end) {
		if (!read_more(c))
			return;
		pass_input(c);
	}
	if (c->in_watch && c->input_at == c->input_end)
		loop_fd_set(c->in_watch, LOOP_READ);
}

void console_input_room(struct console *c)
{
	loop_post(c->loop, room_again, c);
}

/* ---- life ---- */

static bool pollable(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 &&
	       (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd));
}

struct console *console_create(struct loop *loop, int in, int out,
                               _Atomic u64 *first_ns)
{
	struct console *c = xalloc(sizeof(*c));

	c->loop = loop;
	c->in = in;
	c->out = out;
	c->first_ns = first_ns;
	c->out_file = out >= 0 && !pollable(out);
	c->in_file = in >= 0 && !pollable(in);
	pthread_mutex_init(&c->lock, NULL);
	if (out >= 0 && !c->out_file)
		c->out_watch = loop_fd_add(loop, out, 0, out_ready, c);
	if (c->in_file)
		loop_post(loop, room_again, c);
	else if (in >= 0)
		c->in_watch = loop_fd_add(loop, in, LOOP_READ, in_ready, c);
	return c;
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	loop_fd_remove(c->in_watch);
	loop_fd_remove(c->out_watch);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void console_attach(struct console *c, unsigned index,
                    const struct console_device *device)
{
	c->device[index] = *device;
}

void console_flush(struct console *c, unsigned wait_ms)
{
	u64 until = loop_now_ns() + wait_ms * NSEC_PER_MSEC;

	if (c->out < 0)
		return;
	while (!ring_empty(c)) {
		struct pollfd p = { .fd = c->out, .events = POLLOUT };
		u64 now = loop_now_ns();

		if (now >= until ||
		    poll(&p, 1, (int)((until - now) / NSEC_PER_MSEC) + 1) <= 0)
			return;
		write_some(c);
		wake_devices(c);
	}
}

unsigned console_last(const struct console *c)
{
	return c->last;
}

void console_set_last(struct console *c, unsigned index)
{
	c->last = MIN(index, CONSOLE_DEVICES - 1u);
}
