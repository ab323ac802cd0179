/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c - a cable over a tap device or a SOCK_SEQPACKET socket.
 *
 * A socket is read in batches, since it costs a system call a frame
 * otherwise; a tap is read straight into the caller's buffer. Work that the
 * taker of a frame does not do itself is done here: checksums (csum.c) and
 * segmentation (segment.c). Headers of both sides are hostile: decoded once
 * into numbers, checked, and only what was checked is passed on.
 */
#include "net/link.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "net/csum.h"
#include "net/segment.h"
#include "net/vnet.h"

enum {
	BATCH = 16, /* frames a recvmmsg */
	SLOT = LINK_HDR + LINK_FRAME_MAX,
	PARTS_MAX = 1024, /* of one frame: IOV_MAX */
	FRAME_MIN = 14,   /* an Ethernet header */
};

struct link {
	int fd, kick;
	bool tap;
	struct loop *loop;     /* borrowed */
	struct loop_fd *watch; /* of fd; NULL when the cable is out */
	struct loop_fd *kick_watch;
	unsigned peer;
	_Atomic unsigned ours;
	_Atomic bool carrier;

	pthread_mutex_t lock; /* all below */
	struct link_config config;
	bool want_read, want_write, kicked;

	pthread_mutex_t rx_lock; /* all below */
	u8 *slots;               /* BATCH of SLOT bytes; sockets only */
	size_t lengths[BATCH];
	unsigned next, filled;
	u8 *large; /* a frame being cut; allocated when first needed */
	struct segmenter cut;
	bool cutting;
};

/* ---- the loop's side ---- */

static bool link_pending(struct link *link)
{
	bool pending;

	pthread_mutex_lock(&link->rx_lock);
	pending = link->cutting || link->next < link->filled;
	pthread_mutex_unlock(&link->rx_lock);
	return pending;
}

static void link_kick(struct link *link)
{
	u64 one = 1;

	/* Full means that the loop is about to look anyway. */
	if (write(link->kick, &one, sizeof(one)) < 0)
		return;
}

/* Locked: have the loop look at the wishes above. */
static void kick_locked(struct link *link)
{
	if (link->kicked)
		return;
	link->kicked = true;
	link_kick(link);
}

static void call_readable(struct link *link)
{
	struct link_config config;
	bool want;

	pthread_mutex_lock(&link->lock);
	config = link->config;
	want = link->want_read;
	pthread_mutex_unlock(&link->lock);
	if (!want || !config.readable)
		return;
	config.readable(config.ctx);
	/* Frames taken from the socket in a batch make no further event. */
	if (!link_pending(link))
		return;
	pthread_mutex_lock(&link->lock);
	if (link->want_read)
		kick_locked(link);
	pthread_mutex_unlock(&link->lock);
}

static void cable_out(struct link *link)
{
	struct link_config config;

	if (!link->watch)
		return;
	loop_fd_remove(link->watch);
	link->watch = NULL;
	link->carrier = false;
	pthread_mutex_lock(&link->lock);
	config = link->config;
	pthread_mutex_unlock(&link->lock);
	if (config.carrier)
		config.carrier(config.ctx, false);
}

static void link_events(void *ctx, unsigned events)
{
	struct link *link = ctx;
	struct link_config config;

	if (events & LOOP_WRITE) {
		pthread_mutex_lock(&link->lock);
		link->want_write = false;
		config = link->config;
		kick_locked(link);
		pthread_mutex_unlock(&link->lock);
		if (config.writable)
			config.writable(config.ctx);
	}
	if (events & LOOP_READ)
		call_readable(link);
	if (events & LOOP_HANGUP || !link->carrier)
		cable_out(link);
}

static void link_kicked(void *ctx, unsigned events)
{
	struct link *link = ctx;
	unsigned wanted = 0;
	bool read_now;
	u64 count;

	(void)events;
	if (read(link->kick, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&link->lock);
	link->kicked = false;
	read_now = link->want_read;
	if (link->want_read)
		wanted |= LOOP_READ;
	if (link->want_write)
		wanted |= LOOP_WRITE;
	pthread_mutex_unlock(&link->lock);
	if (!link->carrier)
		cable_out(link);
	if (link->watch)
		loop_fd_set(link->watch, wanted);
	if (read_now && link_pending(link))
		call_readable(link);
}

/* ---- opening ---- */

static int check_socket(int fd, struct error *err)
{
	socklen_t len = sizeof(int);
	int kind = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len) ||
	    kind != SOCK_SEQPACKET)
		return error_set(err, -EINVAL,
		                 "a network link of type \"socket\" "
		                 "needs a SOCK_SEQPACKET socket");
	return 0;
}

static int check_type(struct link *link, const char *type, struct error *err)
{
	struct ifreq ifr = { 0 };
	int header = LINK_HDR, rc;

	if (strcmp(type, "socket") == 0) {
		rc = check_socket(link->fd, err);
		if (rc < 0)
			return rc;
		/* atoll-net reads large frames whole and does checksums. */
		link->peer = LINK_CSUM | LINK_TSO4 | LINK_TSO6 | LINK_TSO_ECN;
		return 0;
	}
	if (strcmp(type, "tap") != 0)
		return error_set(err, -EINVAL,
		                 "unknown network link type \"%s\"", type);
	link->tap = true;
	if (ioctl(link->fd, TUNGETIFF, &ifr) ||
	    !(ifr.ifr_flags & IFF_VNET_HDR) ||
	    ioctl(link->fd, TUNSETVNETHDRSZ, &header))
		return error_set(err, -EINVAL,
		                 "a network link of type \"tap\" needs a "
		                 "tap device opened with IFF_VNET_HDR");
	link->peer = LINK_CSUM | LINK_TSO4 | LINK_TSO6 | LINK_TSO_ECN;
	return 0;
}

int link_open(struct link **out, const char *type, int fd, struct loop *loop,
              struct error *err)
{
	struct link *link = xalloc(sizeof(*link));
	int flags, rc;

	link->fd = fd;
	link->loop = loop;
	link->carrier = true;
	link->want_read = true;
	pthread_mutex_init(&link->lock, NULL);
	pthread_mutex_init(&link->rx_lock, NULL);
	link->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (link->kick < 0) {
		rc = error_set(err, -errno, "cannot make an eventfd: %s",
		               strerror(errno));
		goto fail;
	}
	rc = check_type(link, type, err);
	if (rc < 0)
		goto fail;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		rc =
		    error_set(err, -errno, "network link: %s", strerror(errno));
		goto fail;
	}
	if (!link->tap) {
		link->slots = try_alloc(BATCH, SLOT);
		if (!link->slots) {
			rc = error_set(err, -ENOMEM,
			               "no memory for a network link");
			goto fail;
		}
	}
	link_set_offloads(link, 0);
	link->watch = loop_fd_add(loop, fd, LOOP_READ, link_events, link);
	link->kick_watch =
	    loop_fd_add(loop, link->kick, LOOP_READ, link_kicked, link);
	/* Until somebody attaches there is nobody to call. */
	link_want_read(link, false);
	*out = link;
	return 0;
fail:
	link_close(link);
	return rc;
}

void link_close(struct link *link)
{
	if (!link)
		return;
	loop_fd_remove(link->watch);
	loop_fd_remove(link->kick_watch);
	if (link->kick >= 0)
		close(link->kick);
	close(link->fd);
	pthread_mutex_destroy(&link->lock);
	pthread_mutex_destroy(&link->rx_lock);
	free(link->slots);
	free(link->large);
	free(link);
}

/*
 * The new cable takes the old one's number, in one step: a sender on another
 * thread finds the one or the other.
 */
int link_replug(struct link *link, int fd, struct error *err)
{
	int rc = link->tap ? error_set(err, -EINVAL,
	                               "a tap device is not plugged anew")
	                   : check_socket(fd, err);
	struct link_config config;

	if (rc == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
		rc = -errno;
	if (rc < 0) {
		close(fd);
		return rc;
	}
	loop_fd_remove(link->watch);
	link->watch = NULL;
	rc = dup3(fd, link->fd, O_CLOEXEC);
	close(fd);
	if (rc < 0)
		return error_set(err, -errno, "network link: %s",
		                 strerror(errno));
	link->carrier = true;
	pthread_mutex_lock(&link->lock);
	config = link->config;
	kick_locked(link);
	pthread_mutex_unlock(&link->lock);
	link->watch =
	    loop_fd_add(link->loop, link->fd, LOOP_READ, link_events, link);
	if (config.carrier)
		config.carrier(config.ctx, true);
	return 0;
}

void link_attach(struct link *link, const struct link_config *config)
{
	pthread_mutex_lock(&link->lock);
	if (config)
		link->config = *config;
	else
		memset(&link->config, 0, sizeof(link->config));
	link->want_read = config != NULL;
	kick_locked(link);
	pthread_mutex_unlock(&link->lock);
}

void link_set_offloads(struct link *link, unsigned offloads)
{
	unsigned tun = 0;

	/* Segmentation leaves the checksum undone: useless without. */
	if (!(offloads & LINK_CSUM))
		offloads = 0;
	link->ours = offloads;
	if (!link->tap)
		return;
	if (offloads & LINK_CSUM)
		tun |= TUN_F_CSUM;
	if (offloads & LINK_TSO4)
		tun |= TUN_F_TSO4;
	if (offloads & LINK_TSO6)
		tun |= TUN_F_TSO6;
	if (offloads & LINK_TSO_ECN && tun & (TUN_F_TSO4 | TUN_F_TSO6))
		tun |= TUN_F_TSO_ECN;
	/* A kernel that refuses may send what we did not ask for: receive
	 * looks at each frame and does the work itself. */
	if (ioctl(link->fd, TUNSETOFFLOAD, (unsigned long)tun) < 0)
		(void)ioctl(link->fd, TUNSETOFFLOAD, 0UL);
}

unsigned link_peer_offloads(const struct link *link)
{
	return link->peer;
}

bool link_carrier(const struct link *link)
{
	return link->carrier;
}

void link_want_read(struct link *link, bool want)
{
	pthread_mutex_lock(&link->lock);
	if (link->want_read != want) {
		link->want_read = want;
		kick_locked(link);
	}
	pthread_mutex_unlock(&link->lock);
}

/* ---- frames ---- */

static unsigned gso_offload(u8 gso_type)
{
	unsigned need;

	switch (gso_type & ~(unsigned)VNET_GSO_ECN) {
	case VNET_GSO_NONE:
		return gso_type ? ~0U : 0;
	case VNET_GSO_TCP4:
		need = LINK_TSO4;
		break;
	case VNET_GSO_TCP6:
		need = LINK_TSO6;
		break;
	default:
		return ~0U; /* nobody takes it */
	}
	return gso_type & VNET_GSO_ECN ? need | LINK_TSO_ECN : need;
}

/* What is left to do on this frame, as offloads; ~0: it makes no sense. */
static unsigned frame_needs(const struct vnet_header *h, size_t len)
{
	unsigned needs = gso_offload(h->gso_type);

	if (needs == ~0U || len < FRAME_MIN || len > LINK_FRAME_MAX)
		return ~0U;
	if (needs && (!(h->flags & VNET_NEEDS_CSUM) || !h->gso_size))
		return ~0U;
	if (!(h->flags & VNET_NEEDS_CSUM))
		return needs;
	if ((size_t)h->csum_start + h->csum_offset + 2 > len)
		return ~0U;
	return needs | LINK_CSUM;
}

/* Fields without meaning go out as zero. */
static void tidy(struct vnet_header *h, size_t len)
{
	if (!(h->flags & VNET_NEEDS_CSUM))
		h->csum_start = h->csum_offset = 0;
	if (!h->gso_type)
		h->gso_size = 0;
	if (!h->gso_type || h->hdr_len > len)
		h->hdr_len = 0;
}

static int send_parts(struct link *link, const struct iovec *iov, int count)
{
	struct msghdr msg = {
		.msg_iov = (struct iovec *)(uintptr_t)iov,
		.msg_iovlen = (size_t)count,
	};
	ssize_t n;
	int e;

	do {
		n = link->tap
		        ? writev(link->fd, iov, count)
		        : sendmsg(link->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	e = errno;
	if (e == EPIPE || e == ECONNRESET || e == ENOTCONN) {
		/* Frames into a cable that is out are lost, as in life. */
		link->carrier = false;
		link_kick(link);
		return -ENETDOWN;
	}
	if (e != EAGAIN && e != ENOBUFS)
		return -e;
	pthread_mutex_lock(&link->lock);
	link->want_write = true;
	kick_locked(link);
	pthread_mutex_unlock(&link->lock);
	return -EAGAIN;
}

static int send_flat(struct link *link, const struct vnet_header *h, u8 *frame,
                     size_t len)
{
	u8 bytes[LINK_HDR];
	struct iovec iov[2] = {
		{ bytes, sizeof(bytes) },
		{ frame, len },
	};

	vnet_encode(bytes, h);
	return send_parts(link, iov, 2);
}

/* The far end lacks an offload: finish the frame here. */
static int send_software(struct link *link, const struct vnet_header *h,
                         const struct iovec *iov, int count, size_t len)
{
	static const struct vnet_header plain;
	u8 *frame = try_alloc(1, len), *out = NULL;
	struct segmenter cut;
	size_t at = 0;
	ssize_t n;
	int rc = -ENOMEM, sent = 0;

	if (!frame)
		return -ENOMEM;
	for (int i = 0; i < count; i++) {
		memcpy(frame + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	if (!h->gso_type) {
		rc = csum_finish(h, frame, len);
		if (rc == 0)
			rc = send_flat(link, &plain, frame, len);
		goto out;
	}
	rc = segment_begin(&cut, h, frame, len);
	out = try_alloc(1, LINK_FRAME_MAX);
	while (rc == 0 && out &&
	       (n = segment_next(&cut, out, LINK_FRAME_MAX)) != 0) {
		rc = n < 0 ? (int)n : send_flat(link, &plain, out, (size_t)n);
		/* The caller would send all again after -EAGAIN: segments
		 * that found no room are lost, and TCP repeats them. */
		if (rc == -EAGAIN && sent)
			rc = 0;
		sent++;
	}
out:
	free(frame);
	free(out);
	return rc;
}

/* Takes the first LINK_HDR bytes off; they are the guest's: read once. */
static int take_header(struct vnet_header *h, const struct iovec *iov,
                       int count, struct iovec *rest, int *rest_count)
{
	u8 bytes[LINK_HDR];
	size_t have = 0, n;
	int out = 1;

	for (int i = 0; i < count; i++) {
		n = MIN(sizeof(bytes) - have, iov[i].iov_len);
		if (n)
			memcpy(bytes + have, iov[i].iov_base, n);
		have += n;
		if (iov[i].iov_len == n)
			continue;
		if (out == PARTS_MAX)
			return -EINVAL;
		rest[out].iov_base = (u8 *)iov[i].iov_base + n;
		rest[out++].iov_len = iov[i].iov_len - n;
	}
	if (have < sizeof(bytes))
		return -EINVAL;
	vnet_decode(h, bytes);
	h->num_buffers = 0;
	h->flags &= VNET_NEEDS_CSUM;
	*rest_count = out;
	return 0;
}

int link_send(struct link *link, const struct iovec *iov, int count)
{
	struct iovec parts[PARTS_MAX];
	struct vnet_header h;
	u8 bytes[LINK_HDR];
	unsigned needs;
	size_t len = 0;
	int n, rc;

	rc = take_header(&h, iov, count, parts, &n);
	if (rc < 0)
		return rc;
	for (int i = 1; i < n; i++) {
		if (parts[i].iov_len > LINK_FRAME_MAX)
			return -EINVAL;
		len += parts[i].iov_len;
	}
	needs = frame_needs(&h, len);
	if (needs == ~0U)
		return -EINVAL;
	if (!link->carrier)
		return -ENETDOWN;
	if (needs & ~link->peer)
		return send_software(link, &h, parts + 1, n - 1, len);
	tidy(&h, len);
	vnet_encode(bytes, &h);
	parts[0].iov_base = bytes;
	parts[0].iov_len = sizeof(bytes);
	return send_parts(link, parts, n);
}

/* ---- receive: all under rx_lock ---- */

/* Fill the slots. 0, -EAGAIN or -errno. */
static int receive_batch(struct link *link)
{
	struct mmsghdr msgs[BATCH];
	struct iovec iov[BATCH];
	int n;

	memset(msgs, 0, sizeof(msgs));
	for (size_t i = 0; i < BATCH; i++) {
		iov[i].iov_base = link->slots + i * SLOT;
		iov[i].iov_len = SLOT;
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
	}
	do {
		n = recvmmsg(link->fd, msgs, BATCH, MSG_DONTWAIT, NULL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	/* An empty message is the end of the stream. */
	if (n <= 0 || msgs[0].msg_len == 0) {
		link->carrier = false;
		link_kick(link);
		return -EAGAIN;
	}
	for (int i = 0; i < n; i++)
		link->lengths[i] =
		    msgs[i].msg_hdr.msg_flags & MSG_TRUNC ? 0 : msgs[i].msg_len;
	link->next = 0;
	link->filled = (unsigned)n;
	return 0;
}

static ssize_t receive_raw(struct link *link, u8 *buf, size_t room)
{
	const u8 *slot;
	size_t len;
	ssize_t n;
	int rc;

	if (link->tap) {
		do {
			n = read(link->fd, buf, room);
		} while (n < 0 && errno == EINTR);
		return n < 0 ? -errno : n;
	}
	if (link->next == link->filled) {
		rc = receive_batch(link);
		if (rc < 0)
			return rc;
	}
	slot = link->slots + link->next * (size_t)SLOT;
	len = link->lengths[link->next++];
	if (len > room)
		return -EMSGSIZE;
	memcpy(buf, slot, len);
	return (ssize_t)len;
}

static ssize_t receive_segment(struct link *link, u8 *buf, size_t room)
{
	static const struct vnet_header done = { .num_buffers = 1 };
	ssize_t n;

	n = segment_next(&link->cut, buf + LINK_HDR, room - LINK_HDR);
	if (n == 0)
		link->cutting = false;
	if (n <= 0)
		return n;
	vnet_encode(buf, &done);
	return n + LINK_HDR;
}

static int begin_cut(struct link *link, const struct vnet_header *h,
                     const u8 *frame, size_t len)
{
	int rc;

	if (!link->large)
		link->large = try_alloc(1, LINK_FRAME_MAX);
	if (!link->large)
		return -ENOMEM;
	memcpy(link->large, frame, len);
	rc = segment_begin(&link->cut, h, link->large, len);
	link->cutting = rc == 0;
	return rc;
}

/* Make the frame in buf one that our end accepts. 1: it is being cut. */
static int receive_finish(struct link *link, u8 *buf, size_t len)
{
	unsigned needs, ours = link->ours;
	struct vnet_header h;
	int rc = 0;

	vnet_decode(&h, buf);
	h.num_buffers = 1;
	h.flags &= VNET_NEEDS_CSUM | VNET_DATA_VALID;
	if (!(ours & LINK_CSUM))
		h.flags &= VNET_NEEDS_CSUM;
	needs = frame_needs(&h, len - LINK_HDR);
	if (needs == ~0U)
		return -EINVAL;
	if (needs & ~ours & ~(unsigned)LINK_CSUM) {
		rc = begin_cut(link, &h, buf + LINK_HDR, len - LINK_HDR);
		return rc < 0 ? rc : 1;
	}
	if (needs & ~ours) {
		rc = csum_finish(&h, buf + LINK_HDR, len - LINK_HDR);
		memset(&h, 0, sizeof(h));
		h.num_buffers = 1;
	}
	tidy(&h, len - LINK_HDR);
	vnet_encode(buf, &h);
	return rc;
}

static ssize_t receive_locked(struct link *link, u8 *buf, size_t room)
{
	ssize_t n;
	int rc;

	if (link->cutting) {
		n = receive_segment(link, buf, room);
		if (n != 0)
			return n;
	}
	n = receive_raw(link, buf, room);
	if (n < 0)
		return n;
	if ((size_t)n < LINK_HDR + FRAME_MIN)
		return -EBADMSG;
	rc = receive_finish(link, buf, (size_t)n);
	if (rc == 1)
		return receive_segment(link, buf, room);
	return rc < 0 ? rc : n;
}

ssize_t link_receive(struct link *link, void *buf, size_t room)
{
	ssize_t n;

	if (room < LINK_HDR + FRAME_MIN)
		return -EMSGSIZE;
	pthread_mutex_lock(&link->rx_lock);
	n = receive_locked(link, buf, room);
	pthread_mutex_unlock(&link->rx_lock);
	return n;
}
