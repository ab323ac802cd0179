/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h - one end of a virtual Ethernet cable.
 *
 * Frames are whole (no FCS), at most LINK_FRAME_MAX bytes, preceded by a
 * virtio_net_hdr (12 bytes, little-endian, virtio 1.1 section 5.1.6) that
 * says what checksum and segmentation work is left to do. A peer that takes
 * no offloads gets frames without any: the link does the work in software.
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

struct error;
struct link;
struct loop;

enum { LINK_HDR = 12, LINK_FRAME_MAX = 65536 + 64 };

enum { /* offloads: what an end accepts in frames it is given */
       LINK_CSUM = 1 << 0,
       LINK_TSO4 = 1 << 1,
       LINK_TSO6 = 1 << 2,
       LINK_TSO_ECN = 1 << 3,
       LINK_UFO = 1 << 4,
};

struct link_config {
	/* Called on the loop's thread when receive may give a frame. */
	void (*readable)(void *ctx);
	/* After a send returned -EAGAIN: there is room again. */
	void (*writable)(void *ctx);
	/* The cable was pulled or put in; may be NULL. */
	void (*carrier)(void *ctx, bool up);
	void *ctx;
};

/*
 * fd is taken over. "tap": a TUN/TAP descriptor opened with IFF_VNET_HDR.
 * "socket": a SOCK_SEQPACKET peer (atoll-net) that speaks whole frames with
 * the header above, one a message.
 */
int link_open(struct link **out, const char *type, int fd, struct loop *loop,
              struct error *err) MUST_CHECK;
void link_close(struct link *link); /* NULL is legal */
/* Another cable in place of a socket's, whether that was pulled or not. fd is
 * taken over. On the loop's thread. */
int link_replug(struct link *link, int fd, struct error *err) MUST_CHECK;

/* Who takes frames; NULL detaches. Any thread. */
void link_attach(struct link *link, const struct link_config *config);
/* Offloads that our end (the device, as the guest agreed) accepts. */
void link_set_offloads(struct link *link, unsigned offloads);
/* Offloads that the far end accepts. */
unsigned link_peer_offloads(const struct link *link);
bool link_carrier(const struct link *link);

/* iov holds header and frame. 0, -EAGAIN (wait for writable), or -errno:
 * the frame is dropped. Any thread. */
int link_send(struct link *link, const struct iovec *iov, int count);
/* Header and frame into buf: bytes, or -EAGAIN, or -errno. Any thread. */
ssize_t link_receive(struct link *link, void *buf, size_t room);
/* Stop or go on calling readable (the guest has no buffers). Any thread. */
void link_want_read(struct link *link, bool want);
