/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port.c - one cable of the switch.
 *
 * A batch is read into slots that all ports share; what goes to other ports
 * goes out of those slots, so that a frame is copied only when its taker has
 * no room just now. A limit on what a machine sends stops the reading of its
 * cable: its card finds the cable busy, and nothing is lost.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "net/switch/internal.h"
#include "net/vnet.h"

enum { BATCH_LIMITED = 4 };

static void port_events(void *ctx, unsigned events);

static bool waiting(const struct port *p)
{
	return p->head != p->tail;
}

/* Reads and writes that make sense now. */
static void watch_what_matters(struct port *p)
{
	unsigned events = 0;

	if (!p->watch)
		return;
	if (!bucket_empty(&p->send_bytes) && !bucket_empty(&p->send_frames))
		events |= LOOP_READ;
	if (waiting(p) && !bucket_empty(&p->receive_bytes))
		events |= LOOP_WRITE;
	loop_fd_set(p->watch, events);
}

static void send_due(void *ctx)
{
	struct port *p = ctx;
	u64 now = loop_now_ns();

	bucket_fill(&p->send_bytes, now);
	bucket_fill(&p->send_frames, now);
	watch_what_matters(p);
}

static void receive_due(void *ctx)
{
	struct port *p = ctx;

	port_flush(p);
	watch_what_matters(p);
}

struct port *port_create(struct switch_ *sw, enum port_kind kind, int fd)
{
	struct port *p = xalloc(sizeof(*p));

	p->sw = sw;
	p->kind = kind;
	p->fd = fd;
	loop_timer_init(&p->send_timer, sw->config.loop, send_due, p);
	loop_timer_init(&p->receive_timer, sw->config.loop, receive_due, p);
	p->watch = loop_fd_add(sw->config.loop, fd, LOOP_READ, port_events, p);
	return p;
}

void port_destroy(struct port *p)
{
	if (!p)
		return;
	loop_fd_remove(p->watch);
	loop_timer_fini(&p->send_timer);
	loop_timer_fini(&p->receive_timer);
	close(p->fd);
	for (; p->head != p->tail; p->head++)
		free(p->queue[p->head % PORT_QUEUE].iov_base);
	free(p);
}

/* ---- out ---- */

/* How many of count frames went. */
static int send_some(struct port *p, struct mmsghdr *msgs, unsigned count)
{
	int n;

	if (p->kind == PORT_TAP) {
		for (n = 0; n < (int)count; n++)
			if (writev(p->fd, msgs[n].msg_hdr.msg_iov,
			           (int)msgs[n].msg_hdr.msg_iovlen) < 0 &&
			    (errno == EAGAIN || errno == ENOBUFS))
				break;
		return n;
	}
	do {
		n = sendmmsg(p->fd, msgs, count, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN && errno != ENOBUFS)
		p->gone = true;
	return MAX(n, 0);
}

static size_t bytes_of(const struct msghdr *m)
{
	size_t n = 0;

	for (size_t i = 0; i < m->msg_iovlen; i++)
		n += m->msg_iov[i].iov_len;
	return n;
}

static void count_sent(struct port *p, const struct mmsghdr *msgs, int n)
{
	for (int i = 0; i < n; i++) {
		size_t len = bytes_of(&msgs[i].msg_hdr) - LINK_HDR;

		p->counters.received_frames++;
		p->counters.received_bytes += len;
		bucket_take(&p->receive_bytes, len);
	}
}

/* How many may go now. */
static unsigned allowed(struct port *p, unsigned count)
{
	u64 now;

	if (!p->receive_bytes.per_s)
		return count;
	now = loop_now_ns();
	bucket_fill(&p->receive_bytes, now);
	if (!bucket_empty(&p->receive_bytes))
		return 1;
	loop_timer_arm(&p->receive_timer,
	               now + bucket_wait_ns(&p->receive_bytes));
	return 0;
}

/* The queue, as far as there is room. */
static void flush_queue(struct port *p)
{
	struct mmsghdr msgs[PORT_BATCH];
	unsigned count;
	int n;

	while (waiting(p) && !p->gone) {
		count = (unsigned)MIN((size_t)PORT_BATCH, p->tail - p->head);
		count = allowed(p, count);
		memset(msgs, 0, sizeof(msgs));
		for (unsigned i = 0; i < count; i++) {
			msgs[i].msg_hdr.msg_iov =
			    &p->queue[(p->head + i) % PORT_QUEUE];
			msgs[i].msg_hdr.msg_iovlen = 1;
		}
		n = count ? send_some(p, msgs, count) : 0;
		count_sent(p, msgs, n);
		for (int i = 0; i < n; i++, p->head++) {
			struct iovec *v = &p->queue[p->head % PORT_QUEUE];

			p->queued_bytes -= v->iov_len;
			free(v->iov_base);
		}
		if (n < (int)count || count == 0)
			return;
	}
}

static void queue_frame(struct port *p, const struct iovec iov[2])
{
	size_t len = iov[0].iov_len + iov[1].iov_len;
	struct iovec *v = &p->queue[p->tail % PORT_QUEUE];
	u8 *copy = NULL;

	if (p->tail - p->head < PORT_QUEUE &&
	    p->queued_bytes + len <= PORT_QUEUE_BYTES)
		copy = try_alloc(1, len);
	if (!copy) {
		p->counters.dropped++;
		return;
	}
	memcpy(copy, iov[0].iov_base, iov[0].iov_len);
	memcpy(copy + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
	v->iov_base = copy;
	v->iov_len = len;
	p->queued_bytes += len;
	p->tail++;
}

static void flush_batch(struct port *p)
{
	struct mmsghdr msgs[PORT_BATCH];
	unsigned done = 0;

	/* Frames do not overtake those that wait. */
	while (done < p->batched && !waiting(p) && !p->gone) {
		unsigned count = allowed(p, p->batched - done);
		int n;

		memset(msgs, 0, sizeof(msgs));
		for (unsigned i = 0; i < count; i++) {
			msgs[i].msg_hdr.msg_iov = p->batch[done + i];
			msgs[i].msg_hdr.msg_iovlen = 2;
		}
		n = count ? send_some(p, msgs, count) : 0;
		count_sent(p, msgs, n);
		done += (unsigned)n;
		if (n < (int)count || count == 0)
			break;
	}
	for (; done < p->batched; done++)
		queue_frame(p, p->batch[done]);
	p->batched = 0;
}

void port_flush(struct port *p)
{
	bool waited = waiting(p);

	flush_queue(p);
	flush_batch(p);
	if (waited != waiting(p))
		watch_what_matters(p);
}

void port_send(struct port *p, const u8 *data, size_t len)
{
	struct iovec *iov;

	if (p->gone)
		return;
	if (p->batched == PORT_BATCH)
		flush_batch(p);
	iov = p->batch[p->batched++];
	iov[0].iov_base = (u8 *)(uintptr_t)data;
	iov[0].iov_len = LINK_HDR;
	iov[1].iov_base = (u8 *)(uintptr_t)data + LINK_HDR;
	iov[1].iov_len = len - LINK_HDR;
}

/* ---- in ---- */

static void take(struct port *p, u8 *slot, size_t len)
{
	if (len < LINK_HDR + ETHERNET_HEADER) {
		p->counters.refused[VERDICT_MALFORMED]++;
		return;
	}
	p->counters.sent_frames++;
	p->counters.sent_bytes += len - LINK_HDR;
	bucket_take(&p->send_bytes, len - LINK_HDR);
	bucket_take(&p->send_frames, 1);
	switch_frame(p->sw, p, slot, len);
}

static void read_tap(struct port *p)
{
	ssize_t n;

	for (int i = 0; i < PORT_BATCH; i++) {
		u8 *slot = p->sw->slots + (size_t)i * PORT_SLOT;

		n = read(p->fd, slot, PORT_SLOT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			p->gone = true;
			return;
		}
		take(p, slot, (size_t)n);
	}
}

static void read_socket(struct port *p)
{
	bool limited = p->send_bytes.per_s || p->send_frames.per_s;
	struct mmsghdr msgs[PORT_BATCH];
	struct iovec iov[PORT_BATCH];
	u8 *slots = p->sw->slots;
	int n;

	memset(msgs, 0, sizeof(msgs));
	for (size_t i = 0; i < PORT_BATCH; i++) {
		iov[i].iov_base = slots + i * PORT_SLOT;
		iov[i].iov_len = PORT_SLOT;
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
	}
	n = recvmmsg(p->fd, msgs, limited ? BATCH_LIMITED : PORT_BATCH,
	             MSG_DONTWAIT, NULL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		p->gone = true;
		return;
	}
	for (int i = 0; i < n && !p->gone; i++) {
		/* An empty message is how the end of the stream looks. */
		if (msgs[i].msg_len == 0)
			p->gone = true;
		else if (msgs[i].msg_hdr.msg_flags & MSG_TRUNC)
			p->counters.refused[VERDICT_MALFORMED]++;
		else
			take(p, iov[i].iov_base, msgs[i].msg_len);
	}
}

static void slow_down(struct port *p)
{
	u64 now = loop_now_ns(), wait;

	bucket_fill(&p->send_bytes, now);
	bucket_fill(&p->send_frames, now);
	wait = MAX(bucket_wait_ns(&p->send_bytes),
	           bucket_wait_ns(&p->send_frames));
	if (!wait)
		return;
	loop_timer_arm(&p->send_timer, now + wait);
	watch_what_matters(p);
}

static void port_events(void *ctx, unsigned events)
{
	struct port *p = ctx;
	struct switch_ *sw = p->sw;

	sw->now_ns = loop_now_ns();
	if (events & LOOP_WRITE)
		port_flush(p);
	if (events & (LOOP_READ | LOOP_HANGUP)) {
		if (p->kind == PORT_TAP)
			read_tap(p);
		else
			read_socket(p);
		switch_flush(sw);
		if (p->send_bytes.per_s || p->send_frames.per_s)
			slow_down(p);
	}
	if (p->gone)
		switch_port_gone(sw, p);
}
