/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

struct link {
	struct link_config config;
	struct fake_frame sent[FAKE_FRAMES], waiting[FAKE_FRAMES];
	unsigned sent_count, given, taken, offloads;
	bool full, want, down;
};

struct link *fake_link_create(void)
{
	return xalloc(sizeof(struct link));
}

void fake_link_destroy(struct link *l)
{
	free(l);
}

const struct fake_frame *fake_link_sent(struct link *l, unsigned i)
{
	return i < l->sent_count ? &l->sent[i % FAKE_FRAMES] : NULL;
}

void fake_link_full(struct link *l, bool full)
{
	l->full = full;
	if (!full && l->config.writable)
		l->config.writable(l->config.ctx);
}

static void pump(struct link *l)
{
	if (l->want && l->config.readable && l->given != l->taken)
		l->config.readable(l->config.ctx);
}

void fake_link_give(struct link *l, const void *frame, size_t len)
{
	struct fake_frame *f = &l->waiting[l->given++ % FAKE_FRAMES];

	memset(f->bytes, 0, LINK_HDR);
	memcpy(f->bytes + LINK_HDR, frame, len);
	f->len = LINK_HDR + len;
	pump(l);
}

unsigned fake_link_waiting(struct link *l)
{
	return l->given - l->taken;
}

bool fake_link_wanted(struct link *l)
{
	return l->want;
}

unsigned fake_link_offloads(struct link *l)
{
	return l->offloads;
}

void fake_link_carrier(struct link *l, bool up)
{
	l->down = !up;
	if (l->config.carrier)
		l->config.carrier(l->config.ctx, up);
}

/* ---- net/link.h ---- */

void link_attach(struct link *l, const struct link_config *config)
{
	if (config)
		l->config = *config;
	else
		memset(&l->config, 0, sizeof(l->config));
	l->want = config != NULL;
}

void link_set_offloads(struct link *l, unsigned offloads)
{
	l->offloads = offloads;
}

unsigned link_peer_offloads(const struct link *l)
{
	(void)l;
	return LINK_CSUM | LINK_TSO4 | LINK_TSO6 | LINK_TSO_ECN;
}

bool link_carrier(const struct link *l)
{
	return !l->down;
}

int link_send(struct link *l, const struct iovec *iov, int count)
{
	struct fake_frame *f = &l->sent[l->sent_count % FAKE_FRAMES];

	if (l->full)
		return -EAGAIN;
	f->len = 0;
	for (int i = 0; i < count; i++) {
		ASSERT(f->len + iov[i].iov_len <= sizeof(f->bytes));
		memcpy(f->bytes + f->len, iov[i].iov_base, iov[i].iov_len);
		f->len += iov[i].iov_len;
	}
	l->sent_count++;
	return 0;
}

ssize_t link_receive(struct link *l, void *buf, size_t room)
{
	const struct fake_frame *f = &l->waiting[l->taken % FAKE_FRAMES];

	if (l->given == l->taken)
		return -EAGAIN;
	ASSERT(f->len <= room);
	memcpy(buf, f->bytes, f->len);
	l->taken++;
	return (ssize_t)f->len;
}

void link_want_read(struct link *l, bool want)
{
	l->want = want;
}
