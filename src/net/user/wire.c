/* SPDX-License-Identifier: Apache-2.0 */
#include "net/user/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "net/csum.h"
#include "net/link.h"
#include "net/segment.h"
#include "net/vnet.h"

enum {
	BATCH = 32,
	SLOT = LINK_HDR + LINK_FRAME_MAX,
	QUEUE = 4096, /* a power of two */
	CONGESTED = 256,
	FRAME_MIN = 14,
};

struct wire {
	int fd;
	u8 *slots; /* BATCH of SLOT bytes; only pages that are used exist */
	u8 *whole; /* a large frame with its checksums done */
	struct iovec queue[QUEUE];
	size_t head, tail; /* running counts */
};

struct wire *wire_create(int fd)
{
	struct wire *w = xalloc(sizeof(*w));

	w->fd = fd;
	w->slots = xalloc((size_t)BATCH * SLOT);
	w->whole = xalloc(LINK_FRAME_MAX);
	return w;
}

void wire_destroy(struct wire *w)
{
	if (!w)
		return;
	for (; w->head != w->tail; w->head++)
		free(w->queue[w->head % QUEUE].iov_base);
	free(w->slots);
	free(w->whole);
	free(w);
}

/*
 * The stack reads frames of up to 64 KiB, so a large TCP frame need not be
 * cut, only completed: it is its own one segment.
 */
static void deliver_large(struct wire *w, struct vnet_header *h, u8 *frame,
                          size_t len, wire_frame_fn *fn, void *ctx)
{
	struct segmenter s;
	ssize_t n;

	if (segment_begin(&s, h, frame, len) < 0)
		return;
	s.size = 65535;
	if (s.end - s.ip > 65535)
		s.size = h->gso_size; /* more than IP can say: cut it */
	while ((n = segment_next(&s, w->whole, LINK_FRAME_MAX)) != 0)
		if (n > 0)
			fn(ctx, w->whole, (size_t)n);
}

static void deliver(struct wire *w, u8 *slot, size_t len, wire_frame_fn *fn,
                    void *ctx)
{
	u8 *frame = slot + LINK_HDR;
	struct vnet_header h;

	if (len < LINK_HDR + FRAME_MIN)
		return;
	len -= LINK_HDR;
	vnet_decode(&h, slot);
	if (h.gso_type) {
		deliver_large(w, &h, frame, len, fn, ctx);
		return;
	}
	if (h.flags & VNET_NEEDS_CSUM && csum_finish(&h, frame, len) < 0)
		return;
	fn(ctx, frame, len);
}

int wire_receive(struct wire *w, wire_frame_fn *fn, void *ctx)
{
	struct mmsghdr msgs[BATCH];
	struct iovec iov[BATCH];
	int n;

	memset(msgs, 0, sizeof(msgs));
	for (size_t i = 0; i < BATCH; i++) {
		iov[i].iov_base = w->slots + i * SLOT;
		iov[i].iov_len = SLOT;
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
	}
	n = recvmmsg(w->fd, msgs, BATCH, MSG_DONTWAIT, NULL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
	if (n == 0)
		return -EPIPE;
	for (int i = 0; i < n; i++) {
		/* An empty message is how the end of the stream looks. */
		if (msgs[i].msg_len == 0)
			return -EPIPE;
		if (!(msgs[i].msg_hdr.msg_flags & MSG_TRUNC))
			deliver(w, iov[i].iov_base, msgs[i].msg_len, fn, ctx);
	}
	return 0;
}

void wire_queue(struct wire *w, const void *frame, size_t len)
{
	/* The stack made its checksums or checked them. */
	static const struct vnet_header h = { .flags = VNET_DATA_VALID };
	struct iovec *slot = &w->queue[w->tail % QUEUE];
	u8 *copy;

	if (w->tail - w->head == QUEUE || len < FRAME_MIN ||
	    len > LINK_FRAME_MAX)
		return;
	copy = try_alloc(1, LINK_HDR + len);
	if (!copy)
		return;
	vnet_encode(copy, &h);
	memcpy(copy + LINK_HDR, frame, len);
	slot->iov_base = copy;
	slot->iov_len = LINK_HDR + len;
	w->tail++;
}

int wire_flush(struct wire *w)
{
	struct mmsghdr msgs[BATCH];
	int n;

	while (w->head != w->tail) {
		size_t count = MIN((size_t)BATCH, w->tail - w->head);

		memset(msgs, 0, sizeof(msgs));
		for (size_t i = 0; i < count; i++) {
			msgs[i].msg_hdr.msg_iov =
			    &w->queue[(w->head + i) % QUEUE];
			msgs[i].msg_hdr.msg_iovlen = 1;
		}
		n = sendmmsg(w->fd, msgs, (unsigned)count,
		             MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == ENOBUFS ? 0 : -EPIPE;
		for (int i = 0; i < n; i++, w->head++)
			free(w->queue[w->head % QUEUE].iov_base);
	}
	return 0;
}

bool wire_waiting(const struct wire *w)
{
	return w->head != w->tail;
}

bool wire_congested(const struct wire *w)
{
	return w->tail - w->head >= CONGESTED;
}
