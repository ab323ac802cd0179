/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of the switch share.
 *
 *	switch.c    who gets a frame
 *	port.c      a cable: batches in, batches and a queue out
 *	service.c   the switch's own address: DHCP, DNS
 *	capture.c   frames written down
 *	status.c    figures
 */
#pragma once

#include "base/loop.h"
#include "net/link.h"
#include "net/switch/bucket.h"
#include "net/switch/guard.h"
#include "net/switch/lease.h"
#include "net/switch/switch.h"
#include "net/switch/table.h"

enum {
	PORT_BATCH = 32,
	PORT_SLOT = LINK_HDR + LINK_FRAME_MAX,
	PORT_QUEUE = 1024,          /* frames; a power of two */
	PORT_QUEUE_BYTES = 4 << 20, /* of them */
	FORWARDS_MAX = 256,         /* questions asked of the uplink */
	FORWARDS_PORT = 64,         /* for one machine */
	SERVICE_REPLY = 2048,       /* bytes of an answer */
};

enum port_kind { PORT_MACHINE, PORT_STACK, PORT_TAP };

struct port_counters {
	/* Of the machine's, or the uplink's, view: what it sent and received.
	 */
	u64 sent_frames, sent_bytes, received_frames, received_bytes;
	u64 dropped;           /* it did not take them in time */
	u64 refused[VERDICTS]; /* the guard's */
};

struct port {
	struct switch_ *sw;
	enum port_kind kind;
	unsigned index;
	int fd;
	struct loop_fd *watch;
	char machine[SWITCH_NAME_MAX];
	unsigned nic;
	char address[16];
	bool trusted;
	struct guard guard;
	struct bucket send_bytes, send_frames, receive_bytes;
	struct loop_timer send_timer, receive_timer;
	struct port_counters counters;
	unsigned forwards; /* of this one that wait */

	/* Frames of the batch under way, not copied: whose slots they are in
	 * sends them before it reads again. */
	struct iovec batch[PORT_BATCH][2];
	unsigned batched;
	struct iovec queue[PORT_QUEUE];
	size_t head, tail, queued_bytes; /* head and tail count on */
	bool gone; /* its end was seen; it goes when the batch is over */
};

/* A question that went on to the uplink's resolver. */
struct forward {
	u64 until_ns; /* 0: free */
	struct port *port;
	u16 id, port_here; /* as the resolver knows it */
	u8 mac[MAC_SIZE];
	u32 ip;
	u16 their_id, their_port;
};

struct service {
	u8 mac[MAC_SIZE];
	u32 ip, router, resolver;
	char domain[SWITCH_NAME_MAX + 16];
	struct forward forwards[FORWARDS_MAX];
	u64 questions, forwarded, dhcp;
	/* Answers to the frames of a batch: one each at most. */
	u8 replies[PORT_BATCH][SERVICE_REPLY];
	unsigned used;
};

struct capture;

struct switch_ {
	struct switch_config config;
	struct table *table;
	struct leases leases;
	struct service service;
	bool has_service;
	struct port *ports[SWITCH_PORTS_MAX];
	unsigned port_count; /* one beyond the last used index */
	struct port *uplink;
	struct capture *captures[SWITCH_CAPTURES_MAX];
	u8 *slots; /* PORT_BATCH of PORT_SLOT: the batch under way */
	u64 now_ns;
	u64 flooded;
};

/* ---- switch.c ---- */

/* A frame with its header in front, from a port. */
void switch_frame(struct switch_ *sw, struct port *from, u8 *data, size_t len);
/* What ports have batched goes out. */
void switch_flush(struct switch_ *sw);
void switch_port_gone(struct switch_ *sw, struct port *port);

/* ---- port.c ---- */

struct port *port_create(struct switch_ *sw, enum port_kind kind, int fd);
void port_destroy(struct port *port);
/* data stays valid until switch_flush(). */
void port_send(struct port *port, const u8 *data, size_t len);
void port_flush(struct port *port);

/* ---- service.c ---- */

void service_init(struct switch_ *sw);
/* True: it was for the switch itself, and is done. */
bool service_frame(struct switch_ *sw, struct port *from,
                   const struct frame *f);
void service_port_gone(struct switch_ *sw, struct port *port);

/* ---- capture.c ---- */

/* From a port, and later to one. */
void capture_frame(struct switch_ *sw, const struct port *port, bool out,
                   const u8 *frame, size_t len);
void capture_end(struct switch_ *sw, struct capture *c);
json_t *capture_json(const struct switch_ *sw);
